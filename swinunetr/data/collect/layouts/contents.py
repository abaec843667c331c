"""What a folder holds by the names of its files, and what a recogniser makes of it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from swinunetr.data.folders import OTHER_FORMATS, is_nifti
from swinunetr.errors import InputError
from swinunetr.files import folded, walk_files, what_is_there
from swinunetr.words import named

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".rar", ".7z")
INCOMPLETE = (".part", ".partial", ".crdownload", ".download", ".aria2")
DICOM = (".dcm", ".dicom", ".ima")
DICOM_TRIES = 20  # files without a known ending that are opened in search of DICOM


@dataclass(frozen=True)
class Contents:
    """The files below a folder, as paths relative to it with ``/``, in order."""

    root: Path
    scans: tuple[str, ...]  # NIfTI files: images and labels
    others: tuple[str, ...]
    unpaired: tuple[str, ...] = ()  # what cannot be read, each with the reason
    notes: tuple[str, ...] = ()

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.scans)

    @cached_property
    def _by_stem(self) -> Mapping[str, list[str]]:
        by_stem = defaultdict(list)
        for file in self.scans:
            by_stem[folded(without_ending(file))].append(file)
        return by_stem

    def find(self, path: str) -> str | None:
        """Return the scan of a path, which may differ in case and in ``.nii`` or ``.nii.gz``; None without one."""
        if path in self._exact:
            return path
        alike = self._by_stem.get(folded(without_ending(path)), [])
        if len(alike) > 1:
            raise two_files(alike[0], alike[1])
        return alike[0] if alike else None

    def without(self, folders: set[str]) -> Contents:
        """Return the contents without the scans in some folders and below them; of the root, only its own files."""
        return replace(self, scans=tuple(file for file in self.scans if not is_in(file, folders)))


class Entry(NamedTuple):
    """A case by the relative paths of its files."""

    name: str
    image: str
    label: str | None = None
    structures: Mapping[str, str] = {}
    part: str = ""
    modality: str = ""
    path: str = ""  # from the base of the collection to the scan, for names and patients; empty: the name

    @property
    def files(self) -> list[str]:
        """All files of the case."""
        return [self.image, *([self.label] if self.label else []), *self.structures.values()]


@dataclass(frozen=True)
class Match:
    """A collection that a recogniser found: its cases, and the folders that are its own."""

    layout: str
    ground: str
    entries: list[Entry]
    names: Mapping[int, str] = field(default_factory=dict)
    ignore: int | None = None
    modality: str = ""  # where the entries do not say
    listed_in: str = ""  # the file that lists the cases
    unpaired: Mapping[str, str] = field(default_factory=dict)  # reason by path
    folder_per_case: bool = False
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> set[str]:
        """Folders of the files of the cases."""
        return {os.path.dirname(file) for entry in self.entries for file in entry.files}


def is_in(file: str, folders: set[str]) -> bool:
    """Return whether a file is in some folders or below them; of the root, only its own files are."""
    folder = os.path.dirname(file)
    while folder and folder not in folders:
        folder = os.path.dirname(folder)
    return folder in folders if folder else "" in folders and "/" not in file


def without_ending(file: str) -> str:
    """Return a path without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", file, flags=re.IGNORECASE)


def two_files(first: str, second: str) -> InputError:
    """Return the error for two files of one name."""
    return InputError(
        f"Expected one file of this name, found '{first}' and '{second}', which differ in the ending, in case or in "
        "_0000 only. Move one of them away."
    )


def read_contents(folder: str | Path, without: Path | None = None) -> Contents:
    """Return what a folder holds; hidden files and results of this project are left out.

    Raises:
        InputError: The folder is missing or empty, cannot be opened, or holds no NIfTI file.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        found = "is a file; if it is an archive, unpack it first" if root.is_file() else "is not there"
        raise InputError(f"Expected a folder of scans with labels; '{root}' {found}. {what_is_there(root)}")
    tree = walk_files(root, without)
    if tree.closed:
        path, reason = tree.closed[0]
        raise InputError(f"'{path}': {reason}, or move it away. Its scans would be missing in the list.")
    start = len(str(root).rstrip("/")) + 1
    paths = sorted(str(file)[start:] for file in tree.files)
    niftis = {path: os.path.exists(f"{root}/{path}") for path in paths if is_nifti(path)}
    scans = [path for path, is_there in niftis.items() if is_there]
    broken = [path for path, is_there in niftis.items() if not is_there]  # links
    others = [path for path in paths if path not in niftis]
    if not scans:
        raise _no_scans(root, others, broken)
    notes = [f"Left out, as made_by.json marks it as results of this project: '{path}'." for path in tree.results]
    unpaired = [
        f"{path}: {'a link to a missing file' if os.path.islink(root / path) else 'no permission to open it'}"
        for path in broken
    ]
    return Contents(root, tuple(scans), tuple(others), (*unpaired, *_unread(others)), tuple(notes))


def _unread(others: Iterable[str]) -> list[str]:
    """Return files that may hold scans, and for DICOM its folders, each with the reason why they are not read."""
    kinds = (
        (OTHER_FORMATS, "another format; convert it to .nii.gz"),
        (ARCHIVES, "an archive; unpack it if it holds scans or labels"),
        (INCOMPLETE, "an incomplete download; finish it"),
    )
    lines = [f"{path}: {reason}" for endings, reason in kinds for path in others if path.lower().endswith(endings)]
    series = dict.fromkeys(os.path.dirname(path) for path in others if path.lower().endswith(DICOM))
    return lines + [f"{folder or '.'}: DICOM files; convert them to .nii.gz" for folder in series]


def _no_scans(root: Path, others: list[str], broken: list[str]) -> InputError:
    """Return the error for a folder without a NIfTI file that can be opened."""
    expected = "Expected a folder of scans with labels in NIfTI files (.nii.gz or .nii)"
    if broken:
        what = f"'{root}' holds {len(broken)} links to missing files, such as '{broken[0]}'"
        return InputError(f"{expected}; {what}. Fetch the files, as with git annex get, or correct the links.")
    if dicom := first_dicom(root, others):
        return InputError(f"{expected}; '{root}' holds DICOM, such as '{dicom}'. Convert it first.")
    kinds = ((ARCHIVES, "archives", "Unpack them"), (OTHER_FORMATS, "volumes of other formats", "Convert them"))
    for endings, kind, remedy in kinds:
        if files := [path for path in others if path.lower().endswith(endings)]:
            return InputError(f"{expected}; '{root}' holds {kind}, such as '{files[0]}'. {remedy} first.")
    found = f"holds no such file, only {named(others, 4, counted=True)}" if others else "is empty"
    return InputError(f"{expected}; '{root}' {found}. Was the download complete?")


def first_dicom(root: Path, files: Iterable[str]) -> str | None:
    """Return the first file that is DICOM by its ending or, without a known ending, by its first bytes."""
    unknown = []
    for path in files:
        if path.lower().endswith(DICOM):
            return path
        if not re.search(r"\.[a-z]\w{1,4}$", path, re.IGNORECASE):
            unknown.append(path)
    return next((path for path in unknown[:DICOM_TRIES] if _is_dicom(root / path)), None)


def _is_dicom(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False
