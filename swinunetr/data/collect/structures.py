"""Labels of one file per structure, joined into one file on the grid of the scan."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from swinunetr.data.checks.headers import Header, compare_grids, read_header, unreadable
from swinunetr.data.checks.voxels import count_values, read_stored
from swinunetr.data.collect.cases import FoundCase
from swinunetr.data.geometry import load_nifti
from swinunetr.data.label_maps import IGNORED
from swinunetr.errors import Fault, InputError
from swinunetr.files import replacing, sha256
from swinunetr.words import named

VERSION = 1  # of the rules by which structures are joined; another one joins them again
MADE_BY = "swinunetr.data.collect"
COMMENT = 6  # code of a NIfTI extension that holds text
MASKS = ({0.0}, {0.0, 1.0}, {0.0, 255.0})


@dataclass(frozen=True)
class Joined:
    """The label of a case, joined of its structures; with ``faults``, no file was written."""

    path: Path
    voxels: Mapping[str, int] = field(default_factory=dict)  # of each structure, in its own file
    overlaps: Mapping[tuple[str, str], int] = field(default_factory=dict)  # voxels that the second took from the first
    faults: tuple[tuple[Path, Fault], ...] = ()  # problems that stop, by file


@dataclass(frozen=True)
class _Mask:
    """A structure, within the box that encloses it."""

    name: str
    label: int
    box: tuple[slice, ...]
    inside: np.ndarray  # bool
    voxels: int


def join_structures(case: FoundCase, labels: Mapping[str, int], folder: Path) -> Joined:
    """Join structures of a case into ``folder/CASE.nii.gz``, uint8, with shape and affine of the image.

    Where structures overlap, the smaller one wins: a small organ would lose more of itself. What is to be ignored never
    wins over an organ. A whole joined file is used again if image header, structures and labels are those that it was
    made of, by their SHA-256. Files of structures without a label are not read.

    Args:
        case: Case with ``structures``.
        labels: Label of each structure that is wanted, from 1; ``IGNORED`` for voxels that count in no loss.
        folder: Folder of the joined files, which is made.

    Raises:
        InputError: A file of that name is there which was not made here.
        WriteError: The file could not be written.
    """
    path = folder / f"{case.name}.nii.gz"
    wanted = {name: labels[name] for name in sorted(case.structures) if name in labels}
    image, *structures = (read_header(file) for file in (case.image, *(case.structures[name] for name in wanted)))
    faults = [(case.image, fault) for fault in image.faults if fault.stops]
    for name, header in zip(wanted, structures, strict=True):
        faults += [(case.structures[name], fault) for fault in _mask_faults(header, image)]
    if faults:
        return Joined(path, faults=tuple(faults))
    inputs = _digest(case, wanted)
    if earlier := _made_earlier(path, inputs):
        return earlier
    masks = []
    for name, label in wanted.items():
        mask = _read_mask(case.structures[name], name, label)
        if isinstance(mask, Fault):
            faults.append((case.structures[name], mask))
        else:
            masks.append(mask)
    if faults:
        return Joined(path, faults=tuple(faults))
    voxels, overlaps = _paint(masks, image.shape[:3])
    joined = Joined(path, {mask.name: mask.voxels for mask in masks}, overlaps)
    _write(voxels, load_nifti(case.image), joined, inputs)
    return joined


def _mask_faults(header: Header, image: Header) -> list[Fault]:
    """Return the errors of a structure's header, and its difference from the image's grid."""
    faults = [fault for fault in header.faults if fault.stops]
    if not faults and image.shape and (other := compare_grids(header, image)) and other.stops:
        faults.append(other)
    return faults


def _read_mask(file: Path, name: str, label: int) -> _Mask | Fault:
    """Return the structure in a file, which has two values at most, or what is wrong with the file."""
    try:
        stored, (slope, inter), _ = read_stored(str(file))
    except Exception as error:
        return unreadable(str(file), error)
    stored = stored.reshape(stored.shape[:3])
    inside = stored != 0
    voxels, highest = np.count_nonzero(inside), stored.max()
    # Two stored values are found without sorting all voxels.
    if inter or not (not voxels or (highest * slope in (1, 255) and voxels == np.count_nonzero(stored == highest))):
        values = count_values(stored, slope, inter)
        if set(values) not in MASKS:
            what = f"values {named(sorted(values), 4)} in the file of one structure, expected 0 and 1, or 0 and 255"
            return Fault(what, "export the structure as a mask; a probability map needs a threshold")
        inside = (stored * slope + inter).astype(np.float32) > 0.5
        voxels = np.count_nonzero(inside)
    box = _box(inside)
    return _Mask(name, label, box, inside[box].copy(), int(voxels))


def _box(inside: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that encloses a structure; an empty one if there is no voxel."""
    box: list[slice] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(inside.any(axis=others))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0))
    return tuple(box)


def _paint(masks: list[_Mask], shape: tuple[int, ...]) -> tuple[np.ndarray, dict[tuple[str, str], int]]:
    """Return the labels of all voxels, and the number of voxels by structures that overlap, the larger one first."""
    # Number of the structure from 1, as several may have one label.
    owner = np.zeros(shape, np.min_scalar_type(len(masks)), order="F")
    overlaps: Counter[tuple[str, str]] = Counter()
    order = sorted(masks, key=lambda mask: (mask.label != IGNORED, -mask.voxels, mask.name))
    for number, mask in enumerate(order, start=1):
        part = owner[mask.box]
        for earlier, count in zip(order, np.bincount(part[mask.inside])[1:].tolist(), strict=False):
            if count and mask.label != earlier.label != IGNORED:
                overlaps[earlier.name, mask.name] += count
        part[mask.inside] = number
    table = np.array([0, *(mask.label for mask in order)], np.uint8)
    return table[owner], dict(overlaps)


def _digest(case: FoundCase, wanted: Mapping[str, int]) -> str:
    """Return a hash of all that a joined label depends on."""
    header = load_nifti(case.image).header.binaryblock.hex()
    parts = [(name, label, sha256(case.structures[name])) for name, label in wanted.items()]
    return hashlib.sha256(json.dumps([VERSION, header, parts]).encode()).hexdigest()


def _made_earlier(path: Path, inputs: str) -> Joined | None:
    """Return what an earlier run joined of the same inputs; None without a whole file, or if it is of other inputs.

    Raises:
        InputError: The file was not made here, or its voxels were changed since.
    """
    if not path.exists():
        return None
    note, voxels = _note(path), None
    with suppress(Exception):  # a damaged file raises many types of error
        voxels, *_ = read_stored(str(path))
    if note is None or (voxels is not None and note["content"] != _content(voxels)):
        raise InputError(
            f"labels: expected in '{path.parent}' only labels that this command joined; '{path.name}' was not, or it "
            "was changed since. Move it away, or give another folder."
        )
    if voxels is None or note["inputs"] != inputs:
        return None
    return Joined(path, note["voxels"], {(larger, smaller): count for larger, smaller, count in note["overlaps"]})


def _note(path: Path) -> dict | None:
    """Return what :func:`_write` noted in a file; None if it did not write it."""
    try:
        note = json.loads(load_nifti(path).header.extensions[0].get_content().rstrip(b"\0 "))
    except Exception:  # a file of someone else may hold anything
        return None
    return note if isinstance(note, dict) and note.get("made_by") == MADE_BY else None


def _content(voxels: np.ndarray) -> str:
    return hashlib.blake2b(voxels.tobytes("F"), digest_size=16).hexdigest()


def _write(voxels: np.ndarray, image: nib.Nifti1Image, joined: Joined, inputs: str) -> None:
    """Write a label with the geometry of an image, and with a note of what it was made of."""
    header: Any = image.header.copy()
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # intensities that a viewer shows as black and white
    overlaps = [[*names, count] for names, count in joined.overlaps.items()]
    note: dict[str, Any] = {"made_by": MADE_BY, "inputs": inputs, "content": _content(voxels)}
    note |= {"voxels": dict(joined.voxels), "overlaps": overlaps}
    header.extensions.append(nib.nifti1.Nifti1Extension(COMMENT, json.dumps(note).encode()))
    label = type(image)(voxels, image.affine, header)
    with replacing(joined.path) as temporary:
        nib.save(label, temporary)
