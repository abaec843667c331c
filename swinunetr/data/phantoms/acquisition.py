"""A patient as a scanner shows it: voxel grid, texture, blur and noise, orientation, affine.

A case is a pure function of its id and a seed. The patient (sizes, positions, one smooth deformation), the scan and its
noise each use a separate random stream, so that the demo grid and the full grid show the same anatomy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from nibabel.orientations import axcodes2ornt
from scipy import ndimage

from swinunetr.data.phantoms.anatomy import make_tissue_map, smooth_field
from swinunetr.data.phantoms.patient import TISSUES, draw_patient


class Grid(NamedTuple):
    """Ranges from which the voxel grid of a scan is drawn."""

    in_plane: tuple[int, int]  # voxels along x and y
    slices: tuple[int, int]  # minimum and maximum
    spacing_mm: tuple[float, float]  # minimum and maximum in plane


GRIDS = {"demo": Grid((96, 80), (62, 66), (3.9, 4.2)), "full": Grid((512, 512), (140, 160), (0.74, 0.85))}
ORIENTATIONS = {"LAS": 0.5, "RAS": 0.2, "LPS": 0.2, "PIR": 0.1}  # probabilities; BTCV is mostly LAS
FIELD_MIDDLE_MM = (0, 8, 134)  # middle of the scan in the anatomical frame


class Phantom(NamedTuple):
    """A synthetic scan with its label."""

    image: np.ndarray  # int16 HU, (X, Y, Z)
    label: np.ndarray  # uint8 BTCV ids, (X, Y, Z)
    affine: np.ndarray  # float64 (4, 4), voxel index to mm in RAS+


class Position(NamedTuple):
    """How a patient lies in the scanner, and how the axes of the file are stored."""

    orientation: str  # of the axes of the file, such as "LAS"
    origin: np.ndarray  # (3,) mm, of the anatomical frame in the scanner's


def make_phantom(case_id: int, grid: str = "demo", seed: int = 0) -> Phantom:
    """Return one case; the same arguments give the same case (on another machine up to rounding).

    Args:
        case_id: 0 or more; decides the patient, the orientation and the noise.
        grid: ``"demo"``, about 96 x 80 x 64 voxels of 4 x 4 x 4.5 mm, or ``"full"``, 512 x 512 x 140-160 voxels of
            0.8 x 0.8 x 2 mm.
        seed: 0 or more; another seed gives other patients.

    Raises:
        ValueError: The grid is unknown, or ``case_id`` is negative.
    """
    patient_rng, scan_rng, noise_rng = random_streams(case_id, grid, seed, range(3))
    patient, position = draw_patient(patient_rng), draw_position(scan_rng)
    axes = draw_axes(GRIDS[grid], scan_rng)
    spacing = [axis[1] - axis[0] for axis in axes]
    tissue = make_tissue_map(patient, axes)
    image = acquire(textured_hu(tissue, patient.hu, spacing, noise_rng), spacing, noise_rng)
    return in_scanner(image, labels_of(tissue), axes, position)


def random_streams(case_id: int, grid: str, seed: int, numbers: Iterable[int]) -> list[np.random.Generator]:
    """Return random streams of a case, by their numbers; arguments and errors are those of :func:`make_phantom`."""
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {sorted(GRIDS)}, found {grid!r}")
    if case_id < 0:
        raise ValueError(f"case_id must be 0 or more, found {case_id}")
    return [np.random.default_rng([seed, case_id, number]) for number in numbers]


def draw_position(rng: np.random.Generator) -> Position:
    """Draw how a patient lies in the scanner, and the axes of the file."""
    orientation = rng.choice(list(ORIENTATIONS), p=list(ORIENTATIONS.values()))
    return Position(orientation, rng.uniform((-12, -180, -350), (12, -120, 300)))


def draw_axes(grid: Grid, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the coordinates in mm of the voxels along x, y and z; the scanned length does not depend on the grid."""
    length = rng.uniform(278, 292)  # mm along z
    slices = int(rng.integers(grid.slices[0], grid.slices[1], endpoint=True))
    in_plane = rng.uniform(*grid.spacing_mm)
    sizes = [(grid.in_plane[0], in_plane), (grid.in_plane[1], in_plane), (slices, length / slices)]
    return [(np.arange(n) - (n - 1) / 2) * step + mid for (n, step), mid in zip(sizes, FIELD_MIDDLE_MM, strict=True)]


def textured_hu(tissue: np.ndarray, hu: np.ndarray, spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Return the float32 HU of a tissue map (X, Y, Z) with the texture of its tissues, whose means are ``hu``."""
    image = hu.astype(np.float32)[tissue]
    nodes = (np.array(tissue.shape) * np.asarray(spacing) / 9).astype(int)  # one every 9 mm
    grain = rng.normal(0, 1.7, (1, *nodes))  # the weighted mean of several nodes has a standard deviation of 1
    voxels = [np.arange(n) for n in tissue.shape]
    texture = smooth_field(grain, voxels, (0, 0, 0), tissue.shape)[0]
    texture *= np.array([t.texture for t in TISSUES.values()], np.float32)[tissue]
    image += texture
    return image


def acquire(
    image: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.Generator,
    psf_mm: float = 0.8,
    noise_hu: tuple[float, float] = (10, 15),
    grain: float = 0.6,
) -> np.ndarray:
    """Return the int16 image of a scanner; ``image``, (X, Y, Z) in float32 HU, is changed.

    Blur and noise are standard deviations: ``psf_mm`` of the point spread function, ``noise_hu`` the range of that of
    the noise, ``grain`` in voxels of the blur of the noise.
    """
    step = np.asarray(spacing)
    ndimage.gaussian_filter(image, np.maximum(psf_mm, 0.35 * step) / step, output=image, truncate=3)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), grain, truncate=3)
    image += noise * np.float32(rng.uniform(*noise_hu) / noise.std())
    return np.rint(image.clip(-1024, 3071)).astype(np.int16)


def labels_of(tissue: np.ndarray) -> np.ndarray:
    """Return the uint8 BTCV ids of a tissue map."""
    return np.array([t.label for t in TISSUES.values()], np.uint8)[tissue]


def in_scanner(image: np.ndarray, label: np.ndarray, axes: list[np.ndarray], position: Position) -> Phantom:
    """Return a scan and its label (X, Y, Z) in RAS+ with the axes and the affine of a file."""
    affine = make_affine(axes, position.origin, position.orientation)
    return Phantom(orient(image, position.orientation), orient(label, position.orientation), affine)


def make_affine(axes: list[np.ndarray], origin: np.ndarray, orientation: str) -> np.ndarray:
    """Return the (4, 4) affine of an array from :func:`orient`; ``axes`` and ``origin`` are RAS+ coordinates in mm."""
    affine = np.diag([0.0, 0, 0, 1])
    for column, (row, step) in enumerate(axcodes2ornt(orientation).astype(int)):
        axis = axes[row][::step]
        affine[row, column], affine[row, 3] = axis[1] - axis[0], axis[0] + origin[row]
    return affine


def orient(array: np.ndarray, orientation: str) -> np.ndarray:
    """Return a RAS+ array with its axes in the order and direction of a code such as ``"LPS"``."""
    order, steps = axcodes2ornt(orientation).astype(int).T
    return np.ascontiguousarray(array.transpose(order)[tuple(slice(None, None, step) for step in steps)])
