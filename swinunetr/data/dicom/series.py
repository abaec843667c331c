"""The DICOM series of a folder: the volumes, and why the others are none."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinunetr.data.dicom.geometry import plane_problem, position_problem, slice_axes, volume_affine
from swinunetr.data.dicom.grouping import group_instances
from swinunetr.data.dicom.headers import A_SEGMENTATION, LIST_ONLY, Instance
from swinunetr.data.dicom.reading import read_instances
from swinunetr.data.modality import dicom_modality
from swinunetr.errors import InputError
from swinunetr.files import safe_name, sha256, walk_files
from swinunetr.threads import in_threads

HIGHEST_HU = 3071  # of 12 bits; padding above it would look like metal
PADDED_HU = -2000  # as many scanners write outside the field of view


@dataclass(frozen=True)
class Series:
    """A volume of a DICOM series, whose slices lie at equal distances."""

    name: str  # path-like, of its folder and number, unique in the tree; nothing in it identifies a patient
    files: tuple[Path, ...]  # in the order of their slices; a single one for an enhanced multi-frame object
    frames: tuple[int, ...]  # of multi-frame objects, in the order of the slices; from 0, through all files
    uid: str  # series instance UID
    modality: str  # as in the files, such as CT
    affine: tuple[tuple[float, ...], ...]  # rows of the matrix from voxels (column, row, slice) to mm in RAS
    padding: tuple[float, ...] = field(default=(), repr=False)  # values of the NIfTI file outside the field of view
    calibrated: bool = True  # whether the headers say how stored values become those of the modality
    distinct: bool = True  # whether no other series that was found has images of the same UIDs and other content
    images: frozenset[str] = field(default=frozenset(), repr=False)  # SOP instance UIDs
    notes: tuple[str, ...] = ()  # what a user should know of it


class LeftOut(NamedTuple):
    """A DICOM series that is not used, and why."""

    name: str
    reason: str
    segmentations: tuple[Path, ...] = ()  # files of segmentation objects or structure sets, if it is of these


def find_series(root: Path, modality: str = "CT", without: Path | None = None) -> tuple[list[Series], list[LeftOut]]:
    """Find the volumes among all DICOM files of a folder, and why other series are not volumes.

    Files that are not DICOM are ignored, and so are hidden files and folders; archives with scans are named. Copies of
    an object count once, see :func:`grouping.group_instances`. Both results are in the order of their names.

    Args:
        root: Folder that is searched with its subfolders and links, or a single file.
        modality: Modality of the series, such as ``CT`` or ``MR``.
        without: Subfolder that is not searched, such as that of the results; None means none.

    Raises:
        InputError: There is no such file or folder.
        WriteError: A temporary file cannot be written.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise InputError(f"scans: no file or folder at '{root}'.")
    folder = root if root.is_dir() else root.parent
    files, closed, _ = walk_files(root, without) if root.is_dir() else ([root], [], [])
    instances = read_instances(files, dicom_modality(modality))
    # A DICOMDIR is named only if the files that it lists are not there.
    instances = [instance for instance in instances if instance.other != LIST_ONLY] or instances
    groups = group_instances(instances)

    # Each is a volume, or the reason why it is none.
    shared = Counter(uid for group in groups for uid in {instance.identity[0] for instance in group if instance.planes})
    volumes, left_out = [], []
    for name, group in sorted(zip(_names(groups, folder), groups, strict=True), key=lambda pair: pair[0]):
        volume = _volume(name, group)
        if isinstance(volume, str):
            segmentations = tuple(instance.file for instance in group if instance.other == A_SEGMENTATION)
            left_out.append(LeftOut(name, volume, segmentations))
            continue
        if any(shared[instance.identity[0]] > 1 for instance in group):
            note = "another series here has images of the same UIDs and other content"
            volume = replace(volume, distinct=False, notes=(*volume.notes, note))
        volumes.append(volume)
    left_out += [LeftOut(_safe_path(Path(os.path.relpath(path, folder))), reason) for path, reason in closed]
    return volumes, left_out


def fingerprint(series: Series) -> str:
    """Return a hash (16 hex digits) of the content of the files, whatever their names, folders and order.

    Raises:
        InputError: A file cannot be read.
    """
    try:
        contents = sorted(in_threads(sha256, series.files))
    except OSError as error:
        raise InputError(f"Series '{series.name}' cannot be read ({error}). Copy it again.") from error
    return hashlib.blake2b("".join(contents).encode(), digest_size=8).hexdigest()


def _names(groups: Sequence[Sequence[Instance]], root: Path) -> list[str]:
    """Return a name for each series, from its folder and its number, and where two agree also from its UID."""
    names = []
    for group in groups:
        folder = Path(os.path.commonpath([instance.file.parent for instance in group]))
        names.append(_safe_path(Path(os.path.relpath(folder, root)) / group[0].series_name))
    count = Counter(name.casefold() for name in names)
    taken: set[str] = set()
    for index, name in enumerate(names):
        ending = re.sub(r"[^0-9A-Za-z]", "", groups[index][0].series_uid.rpartition(".")[2])
        name = f"{name}-{ending}" if ending and count[name.casefold()] > 1 else name
        copies = (f"{name}-{copy}" for copy in itertools.count(2))
        names[index] = next(unique for unique in itertools.chain([name], copies) if unique.casefold() not in taken)
        taken.add(names[index].casefold())
    return names


def _safe_path(path: Path) -> str:
    """Return a path with ``/``, each part as of :func:`files.safe_name`."""
    return "/".join(map(safe_name, path.parts))


def _volume(name: str, group: Sequence[Instance]) -> Series | str:
    """Return the volume of the instances of a series, or why they are none."""
    slices = [instance for instance in group if not instance.other]
    if not slices:
        return Counter(instance.other for instance in group).most_common(1)[0][0]
    if problem := _file_problem(slices):
        return problem
    planes = [plane for instance in slices for plane in instance.planes]
    if problem := plane_problem(planes):
        return problem

    # The order of the slices, or of the frames of all files.
    axes = slice_axes(planes[0])
    places = np.array([plane.position for plane in planes]) @ axes  # (slice, 3): along row, column and normal
    order = np.argsort(places[:, 2], kind="stable")
    files = [instance.file for instance in slices for _ in instance.planes]
    if problem := position_problem(places[order], [files[number] for number in order]):
        return problem
    multiframe = any(instance.multiframe for instance in slices)
    slice_spacing = (places[order[-1], 2] - places[order[0], 2]) / (len(planes) - 1)
    return Series(
        name,
        files=tuple(instance.file for instance in slices) if multiframe else tuple(files[number] for number in order),
        frames=tuple(int(number) for number in order) if multiframe else (),
        uid=slices[0].series_uid,
        modality=slices[0].modality,
        affine=volume_affine(planes[order[0]], axes, slice_spacing),
        padding=_padding(slices),
        calibrated=slices[0].values.calibrated,
        images=frozenset(instance.identity[0] for instance in slices),
        notes=_notes(slices),
    )


def _file_problem(slices: Sequence[Instance]) -> str:
    """Return what is wrong with files of a series, or in which way they are not of one series; else an empty text."""
    if faulty := [instance for instance in slices if instance.fault]:
        fault, number = Counter(instance.fault for instance in faulty).most_common(1)[0]
        first = next(instance.file.name for instance in faulty if instance.fault == fault)
        others = f" (and {number - 1} more of {len(slices)} files)" if number > 1 else ""
        return f"file '{safe_name(first)}'{others} {fault}"
    if len({instance.series[:-1] for instance in slices}) > 1:
        return (
            f"{len(slices)} slices with identifiers of patient, study and series of their own; anonymise the original "
            "again and keep the slices of a series together"
        )
    if unknown := sum(not instance.values.calibrated for instance in slices) % len(slices):
        return (
            f"{unknown} of {len(slices)} files do not say how their values become Hounsfield units (RescaleSlope, "
            "RescaleIntercept, RescaleType); export the original series"
        )
    return ""


def _padding(slices: Sequence[Instance]) -> tuple[float, ...]:
    """Return the values of padding after the rescale, in order."""
    values: set[float] = set()
    headers = {(instance.values.padding, rescale) for instance in slices for rescale in instance.values.rescale}
    for padding, (slope, intercept) in headers:
        if padding:
            first, last = padding
            stored = range(first, last + 1) if last - first < 2**16 else padding
            values |= {value * slope + intercept for value in stored}
    if slices[0].modality == "CT" and any(value > HIGHEST_HU for value in values):
        values.add(PADDED_HU)  # as it is written
    return tuple(sorted(float(value) for value in values))


def _notes(slices: Sequence[Instance]) -> tuple[str, ...]:
    notes = []
    if len({instance.series_uid for instance in slices}) > 1:
        notes.append("each slice has a series instance UID of its own; joined by position")
    if not slices[0].values.calibrated:
        notes.append("the headers do not say that values are Hounsfield units; the voxels decide")
    return tuple(notes)
