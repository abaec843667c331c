"""Geometry of the slices of a series: whether they make a volume, and its affine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import from_matvec

from swinunetr.files import safe_name

LEAST_SLICES = 5
SPACING_TOLERANCE = 0.1  # of the spacing; headers have rounded positions
SAME_PLACE_MM = 0.05  # slices closer than this are at the same position
SHIFT_TOLERANCE_MM = 0.5  # in the plane of the slices, over the whole series
SAME_TOLERANCE = 1e-4  # orientation and pixel spacing (mm) of slices of one volume


class Plane(NamedTuple):
    """Geometry of one slice, as in its header: LPS coordinates in mm."""

    position: tuple[float, ...]  # center of the first voxel (x, y, z)
    orientation: tuple[float, ...]  # unit vectors along a row and along a column, one after the other
    spacing: tuple[float, ...]  # distance between rows, and between columns
    shape: tuple[int, int]  # number of rows and of columns


def plane_problem(planes: Sequence[Plane]) -> str:
    """Return in what the slices differ, so that they are not of one volume; else an empty text."""
    remedy = "export each kind of slice as a series of its own"
    if len(shapes := Counter(plane.shape for plane in planes)) > 1:
        sizes = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in shapes.most_common(3))
        return f"slices of different size ({sizes} rows x columns); {remedy}"
    if np.ptp([plane.orientation for plane in planes], axis=0).max() > SAME_TOLERANCE:
        return f"slices of different orientation; {remedy}"
    spacings = np.array([plane.spacing for plane in planes])
    if np.ptp(spacings, axis=0).max() > SAME_TOLERANCE:
        return f"slices of different pixel spacing ({spacings.min():g} to {spacings.max():g} mm); {remedy}"
    return ""


def slice_axes(plane: Plane) -> np.ndarray:
    """Return the unit vectors along a row, along a column and normal to the slice, as columns; LPS.

    Where rounding made the orientation oblique, the vectors are made orthogonal in the way of ITK.
    """
    row, column = np.reshape(plane.orientation, (2, 3))
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    row = np.cross(column, normal)
    row /= np.linalg.norm(row)
    return np.stack([row, np.cross(normal, row), normal], axis=1)


def position_problem(places: np.ndarray, files: Sequence[Path]) -> str:
    """Return why slices are not one at each of equal distances along a line; else an empty text.

    ``places`` are the positions along row, column and normal (slice, 3) in mm, in the order along the normal.
    """
    if problem := _repeated(places[:, 2], files):
        return problem
    if len(places) < LEAST_SLICES:
        return f"{_slices(len(places))}, expected at least {LEAST_SLICES}; give the folder that holds all of them"
    return _shift(places) or _uneven(places[:, 2])


def volume_affine(first: Plane, axes: np.ndarray, slice_spacing: float) -> tuple[tuple[float, ...], ...]:
    """Return the matrix from voxels (column, row, slice) to mm in RAS; ``axes`` is that of :func:`slice_axes`."""
    between_rows, between_columns = first.spacing
    lps = from_matvec(axes * [between_columns, between_rows, slice_spacing], first.position)
    return tuple(tuple(float(value) + 0.0 for value in row) for row in np.diag([-1, -1, 1, 1]) @ lps)


def _repeated(along: np.ndarray, files: Sequence[Path]) -> str:
    """Return what it means that slices are at one position along the normal; else an empty text."""
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) >= SAME_PLACE_MM)
    counts = np.diff(starts, append=len(along))
    if len(along) == len(starts):
        return ""
    if len(starts) == 1:
        return f"all {len(along)} slices have the same position in the header; export the original series"
    slices = f"{len(along)} slices at {len(starts)} different positions"
    if len(set(counts)) == 1:
        return f"{slices}, for example phases or time points in one series; export each of them as a series of its own"
    first = starts[np.argmax(counts > 1)]
    names = " and ".join(f"'{safe_name(file.name)}'" for file in files[first : first + 2])
    return f"{slices}: different slices at {along[first]:.1f} mm ({names}); remove the wrong ones or export it again"


def _shift(places: np.ndarray) -> str:
    """Return how slices are shifted in their plane: at random, or evenly by a gantry tilt; else an empty text."""
    along = places[:, 2]
    shifts = places[:, :2] - places[0, :2]
    if np.abs(shifts).max() <= SHIFT_TOLERANCE_MM:
        return ""
    slope = shifts[-1] / (along[-1] - along[0])
    if np.abs(shifts - np.outer(along - along[0], slope)).max() > SHIFT_TOLERANCE_MM:
        return f"slices shifted sideways by up to {np.abs(shifts).max():.1f} mm; export the original series"
    degrees = math.degrees(math.atan(np.linalg.norm(slope)))
    return f"gantry tilt of {degrees:.1f} degrees; convert it with dcm2niix and give its file with _Tilt in the name"


def _uneven(along: np.ndarray) -> str:
    """Return where slices are missing, or that they are at uneven distances along the normal; else an empty text."""
    gaps = np.diff(along)
    spacing = (along[-1] - along[0]) / len(gaps)
    if np.abs(along - np.linspace(along[0], along[-1], len(along))).max() <= SPACING_TOLERANCE * spacing:
        return ""
    usual = np.sort(gaps)[len(gaps) // 2]
    steps = np.maximum(np.round(gaps / usual), 1)
    if np.abs(gaps / usual - steps).max() > 2 * SPACING_TOLERANCE or steps.max() == 1:
        convert = "resample it, for example with dcm2niix, and give the NIfTI file"
        return f"slices at uneven distances ({gaps.min():.2f} to {gaps.max():.2f} mm); {convert}"
    holes = np.flatnonzero(steps > 1)
    where = ", ".join(f"{along[hole]:.1f} and {along[hole + 1]:.1f} mm" for hole in holes[:3])
    where += " and in other places" if len(holes) > 3 else ""
    missing = _slices(int(steps.sum()) - len(steps), "missing ")
    return f"{missing}, between {where}; copy or export the series again"


def _slices(count: int, kind: str = "") -> str:
    return f"{count} {kind}slice" if count == 1 else f"{count} {kind}slices"
