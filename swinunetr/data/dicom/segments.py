"""DICOM segmentation objects: what they say of a series, and the voxels of their segments on its grid."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels

from swinunetr.data.dicom.geometry import Plane
from swinunetr.data.dicom.headers import functional_group, planes_of, text_of
from swinunetr.errors import InputError
from swinunetr.words import named

BINARY, LABEL_MAP = "BINARY", "LABELMAP"
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # the second for label maps
OTHER_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.5": "a segmentation by surfaces",
    "1.2.840.10008.5.1.4.1.1.481.3": "an RT structure set, which holds contours",
}
GENERIC = re.compile(r"((segment(ation)?|label|region|roi|mask)?[ _-]*\d*)", re.IGNORECASE)  # names that say nothing
FIT_TOLERANCE = 0.2  # voxels; positions have rounded digits, and slices may lie 0.1 off the grid of their series
UNREADABLE = "it is truncated or damaged; copy it again"


class Grid(NamedTuple):
    """Voxels of a series, as in its NIfTI file."""

    affine: np.ndarray  # from voxels (column, row, slice) to mm in RAS
    shape: tuple[int, int, int]
    frame_of_reference: str  # UID; empty: the images have none


@dataclass(frozen=True)
class Segmentation:
    """A segmentation object, without its voxels."""

    file: Path
    kind: str  # BINARY, with a frame per segment and slice, or LABELMAP, with segment numbers as values
    series: frozenset[str]  # UIDs of the series that it names
    images: frozenset[str]  # SOP instance UIDs of the images that it names
    frame_of_reference: str
    segments: dict[str, list[int]]  # numbers by name, without the background of a label map
    planes: tuple[Plane, ...] = field(repr=False)  # of each frame
    frames: tuple[int, ...] = field(repr=False)  # number of the segment of each frame; empty for a label map
    slice_spacing: float | None  # mm, as the header has it
    automatic: bool  # whether a program made all segments, without a person


def read_segmentation(file: Path) -> Segmentation | str:
    """Return the description of a segmentation object, or why it cannot be used."""
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _describe(file, pydicom.dcmread(file, stop_before_pixels=True, force=True))
    except OSError as error:
        return (
            f"it cannot be read ({error.strerror}); ask for access or copy it again" if error.strerror else UNREADABLE
        )
    except Exception:  # damaged files raise many types of error
        return UNREADABLE


def _describe(file: Path, header: pydicom.Dataset) -> Segmentation | str:
    sop_class = text_of(header, "SOPClassUID") or text_of(header.file_meta, "MediaStorageSOPClassUID")
    if sop_class not in SEGMENTATION_CLASSES:
        what = OTHER_CLASSES.get(sop_class, "no segmentation object of voxels")
        return f"{what}; convert it to a BINARY segmentation object, for example with 3D Slicer"
    kind = text_of(header, "SegmentationType").upper()
    if kind not in (BINARY, LABEL_MAP):
        what = "of fractions (FRACTIONAL), such as probabilities" if kind == "FRACTIONAL" else f"of the type '{kind}'"
        return f"a segmentation {what}; export it as BINARY, with a threshold that you choose"
    planes = planes_of(header)
    if isinstance(planes, str):
        return f"it {planes}"
    if not (segments := _segments(header.get("SegmentSequence") or (), kind)):
        return "it describes no segment; export it again"
    numbers = []
    if kind == BINARY:
        groups = (functional_group(header, k, "SegmentIdentificationSequence") for k in range(len(planes)))
        numbers = [int(group.ReferencedSegmentNumber) for group in groups]
    spacing = functional_group(header, 0, "PixelMeasuresSequence").get("SpacingBetweenSlices")
    kinds = {text_of(item, "SegmentAlgorithmType").upper() for item in header.SegmentSequence}
    return Segmentation(
        file,
        kind,
        series=frozenset(_values(header, "SeriesInstanceUID")),
        images=frozenset(_values(header, "ReferencedSOPInstanceUID")),
        frame_of_reference=text_of(header, "FrameOfReferenceUID"),
        segments=segments,
        planes=planes,
        frames=tuple(numbers),
        slice_spacing=abs(float(spacing)) if spacing else None,
        automatic=kinds == {"AUTOMATIC"},
    )


def _values(header: pydicom.Dataset, name: str) -> set[str]:
    """Return what the items of all sequences of a header have as the value of an element."""
    sequences = [element.value for element in header if element.VR == "SQ"]
    items = [item for sequence in sequences for item in sequence]
    return {text_of(item, name) for item in items if name in item}.union(*(_values(item, name) for item in items))


def _segments(sequence: Iterable[pydicom.Dataset], kind: str) -> dict[str, list[int]]:
    """Return the numbers of the segments by name: the label, or where it says nothing, the type that the code means."""
    items = [item for item in sequence if not (kind == LABEL_MAP and int(item.SegmentNumber) == 0)]
    meanings = [_meaning(item) for item in items]
    count = Counter(meanings)
    segments: dict[str, list[int]] = {}
    for item, meaning in zip(items, meanings, strict=True):
        label = " ".join(text_of(item, "SegmentLabel").split())
        if GENERIC.fullmatch(label) and meaning and count[meaning] == 1:
            label = meaning
        segments.setdefault(label or f"segment {item.SegmentNumber}", []).append(int(item.SegmentNumber))
    return segments


def _meaning(item: pydicom.Dataset) -> str:
    """Return the meaning of a segment's property type, with its modifiers first, such as "Left Kidney"."""
    codes = list(item.get("SegmentedPropertyTypeCodeSequence") or ())[:1]
    codes = [*(codes[0].get("SegmentedPropertyTypeModifierCodeSequence") or () if codes else ()), *codes]
    return " ".join(text_of(code, "CodeMeaning") for code in codes).strip()


def place(segmentation: Segmentation, grid: Grid) -> np.ndarray | str:
    """Return where the frames lie among the voxels of a series, or why they do not fit. Nothing is resampled.

    The result (frame, 3, 3) has the voxel (column, row, slice) of the first pixel, and the steps along the columns and
    along the rows of the frame.
    """
    frames = grid.frame_of_reference, segmentation.frame_of_reference
    if all(frames) and len(set(frames)) > 1:
        return "it is in another frame of reference than the images"
    to_voxels = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ grid.affine)  # from mm in LPS
    exact = np.stack([_frame_affine(plane) for plane in segmentation.planes])
    exact = np.swapaxes(to_voxels[:3, :3] @ exact, 1, 2)
    exact[:, 0] += to_voxels[:3, 3]
    whole = np.round(exact)
    rows, columns = segmentation.planes[0].shape
    off = np.abs(exact - whole) * np.reshape([1, columns - 1, rows - 1], (1, 3, 1))
    steps = np.abs(whole[:, 1:])
    is_grid = (steps == steps[0]).all() and (steps[0].sum(axis=1) == 1).all() and (steps[0].sum(axis=0) <= 1).all()
    if not is_grid or off.sum(axis=1).max() > FIT_TOLERANCE:
        return "its voxels are not those of the images; export it on the grid of the images"
    across = int(np.argmin(steps[0].sum(axis=0)))  # axis of the series that the frames are stacked along
    if not _is_dense(segmentation, whole[:, 0, across], float(np.linalg.norm(grid.affine[:3, across]))):
        return "its slices are further apart than those of the images; export it on the grid of the images"
    return whole.astype(int)


def _frame_affine(plane: Plane) -> np.ndarray:
    """Return position, step along the columns and step along the rows of a frame, as columns in mm."""
    row, column = np.reshape(plane.orientation, (2, 3))
    return np.stack([plane.position, row * plane.spacing[1], column * plane.spacing[0]], axis=1)


def _is_dense(segmentation: Segmentation, slices: np.ndarray, spacing: float) -> bool:
    """Return whether the slices of an object are as close as those of a series; empty ones may be left out of it."""
    gaps = np.diff(np.unique(slices))
    if not len(gaps) or gaps.min() == 1:
        return True
    return segmentation.slice_spacing is not None and abs(segmentation.slice_spacing / spacing - 1) < FIT_TOLERANCE


def read_masks(segmentation: Segmentation, places: np.ndarray, shape: Sequence[int]) -> Callable[[str], np.ndarray]:
    """Return a function that returns the mask of a segment, bool, by its name; several threads may call it.

    Args:
        segmentation: The object.
        places: Result of :func:`place`.
        shape: Voxels of the series (columns, rows, slices).

    Raises:
        InputError: The file cannot be read, or has voxels of a segment that it does not describe. The function: pixels
            cannot be decoded, or lie outside the images.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(segmentation.file, force=True)
    except Exception as error:  # damaged files raise many types of error
        raise _unusable(segmentation, UNREADABLE) from error
    frames, segments = np.array(segmentation.frames), segmentation.segments
    if segmentation.kind == BINARY:
        found = set(segmentation.frames)
    else:
        labels = _paint(segmentation, header, places, range(len(places)), np.zeros(shape, np.uint16, order="F"))
        found = set(np.unique(labels).tolist()) - {0}
    if unknown := sorted(found.difference(*segments.values())):
        raise _unusable(segmentation, f"it does not describe its segments {named(unknown)}; export it again")
    if segmentation.kind == LABEL_MAP:
        # np.isin would change the order in memory, which makes writing slow.
        return lambda name: reduce(np.logical_or, (labels == number for number in segments[name]))
    return lambda name: _paint(
        segmentation,
        header,
        places,
        np.flatnonzero(np.isin(frames, segments[name])).tolist(),
        np.zeros(shape, bool, order="F"),
    )


def _paint(
    segmentation: Segmentation, header: pydicom.Dataset, places: np.ndarray, frames: Sequence[int], volume: np.ndarray
) -> np.ndarray:
    """Return a volume with the pixels of some frames that are not 0 at their places."""
    try:
        for frame, pixels in zip(frames, iter_pixels(header, indices=list(frames)) if frames else (), strict=True):
            row, column = np.nonzero(pixels)
            first, along_columns, along_rows = places[frame]
            voxels = first + np.outer(column, along_columns) + np.outer(row, along_rows)
            if len(voxels) and (voxels.min() < 0 or (voxels >= volume.shape).any()):
                raise _unusable(segmentation, "it has voxels outside the images; export it on their grid")
            volume[tuple(voxels.T)] = pixels[row, column]
    except InputError:
        raise
    except Exception as error:  # decoders raise many types of error
        raise _unusable(segmentation, UNREADABLE) from error
    return volume


def _unusable(segmentation: Segmentation, reason: str) -> InputError:
    return InputError(f"'{segmentation.file}' cannot be used: {reason}.")
