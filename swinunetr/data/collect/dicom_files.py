"""What a DICOM series becomes on disk: its image, a file per structure, and a note of what they were made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from swinunetr.data.dicom import Grid, Segmentation, Series, fingerprint, read_masks, write_nifti
from swinunetr.errors import InputError
from swinunetr.files import distinct_names, replacing, safe_name, sha256, write_json
from swinunetr.machine import most_workers
from swinunetr.threads import in_threads

VERSION = 1  # of the rules by which files are written; another one writes them again
MADE_BY = "swinunetr.data.collect"
NOTE = "made_of.json"
STRUCTURES = "segmentations"  # folder


@dataclass(frozen=True)
class DicomCase:
    """A series with the segmentation objects that fit it, and the folder for its files."""

    series: Series
    grid: Grid
    objects: tuple[tuple[Segmentation, np.ndarray], ...]  # each with the result of `place`
    folder: Path
    image: str  # name of the file of the series in it


def require_own(folder: Path) -> None:
    """Check that a folder is empty, missing, or one that :func:`write_case` wrote and may replace.

    Raises:
        InputError: It holds files that were not written here.
    """
    if folder.exists() and not _read_note(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"to: '{folder}' is there and was not written by this command. Choose another folder.")


def write_case(case: DicomCase) -> dict[str, Path]:
    """Write the files of a case and return those of its structures, by name.

    They are kept if they were made of the same content, also where someone corrected them since.

    Raises:
        InputError: The series or an object cannot be read, or a file would be replaced that was changed since.
        WriteError: A file could not be written.
    """
    note, content = _read_note(case.folder), _content(case)
    structures: dict[str, str] = note.get("structures", {})
    earlier: Mapping[str, str] = note.get("files", {})
    if note.get("content") == content and all((case.folder / file).is_file() for file in earlier):
        return {name: case.folder / file for name, file in structures.items()}
    there = {file: digest for file, digest in earlier.items() if (case.folder / file).is_file()}
    if changed := [file for file, digest in there.items() if sha256(case.folder / file) != digest]:
        raise InputError(
            f"'{case.folder / changed[0]}' was changed since it was written, and what it was made of has changed too. "
            "Move it away, and run again."
        )

    # The first note claims the folder, the last one says that it is complete.
    write_json({"made_by": MADE_BY, "content": "", "files": earlier}, case.folder / NOTE)
    with replacing(case.folder / case.image) as temporary:
        write_nifti(case.series, temporary)
    structures = _write_structures(case)
    files = [case.image, *structures.values()]
    for file in earlier.keys() - set(files):
        (case.folder / file).unlink(missing_ok=True)
    digests = {file: sha256(case.folder / file) for file in files}
    write_json({"made_by": MADE_BY, "content": content, "structures": structures, "files": digests}, case.folder / NOTE)
    return {name: case.folder / file for name, file in structures.items()}


def _read_note(folder: Path) -> dict:
    """Return the note in a folder; empty if there is none, or not one of this command."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return note if note["made_by"] == MADE_BY else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _content(case: DicomCase) -> str:
    """Return a hash of all that the files of a case depend on."""
    try:
        objects = sorted(sha256(segmentation.file) for segmentation, _ in case.objects)
    except OSError as error:
        raise InputError(f"A segmentation object cannot be read ({error}). Copy it again.") from error
    return hashlib.sha256(json.dumps([VERSION, fingerprint(case.series), objects]).encode()).hexdigest()


def _write_structures(case: DicomCase) -> dict[str, str]:
    """Write a file per structure, and return their names relative to the case's folder, by structure."""
    masks: dict[str, Callable[[str], np.ndarray]] = {}
    for segmentation, places in case.objects:
        read = read_masks(segmentation, places, case.grid.shape)
        masks |= dict.fromkeys(segmentation.segments, read)
    files = distinct_names({name: safe_name(name) for name in sorted(masks)})
    structures = {name: f"{STRUCTURES}/{file}.nii.gz" for name, file in files.items()}

    def write(name: str) -> None:
        image = nib.Nifti1Image(masks[name](name).view(np.uint8), case.grid.affine)
        image.set_qform(image.affine, code=1)
        image.set_sform(image.affine, code=1)
        image.header.set_xyzt_units("mm")
        with replacing(case.folder / structures[name]) as temporary:
            nib.save(image, temporary)

    in_threads(write, list(structures), threads=most_workers(4 * np.prod(case.grid.shape)))
    return structures
