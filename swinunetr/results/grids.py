"""Which training grid? What each would cost, and what it would lose before any network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import find_objects

from swinunetr.data.checks.report import CACHED_BYTES, DatasetReport
from swinunetr.data.geometry import in_body_order, load_nifti
from swinunetr.data.label_maps import IGNORED
from swinunetr.data.lists import Dataset
from swinunetr.data.spacing import median_spacing
from swinunetr.recipe import Recipe
from swinunetr.results.evaluation import read_labels
from swinunetr.results.metrics import organ_means
from swinunetr.tables import Table, Tables
from swinunetr.threads import in_threads
from swinunetr.words import named

Spacing = Sequence[float]  # in mm along x, y, z

MOST_CASES = 4  # whose labels are read
COARSER = 1.5  # times the spacing of the recipe, along each axis
LEAST_CEILING = 0.8  # below it, a grid is said to be too coarse for an organ


def compare_grids(dataset: Dataset, recipe: Recipe, report: DatasetReport) -> Tables:
    """Return tables of three training grids: that of the recipe, the median spacing of the scans, and a coarser one.

    The first table has what a grid costs. The second has the extent of each organ and its ceiling on each grid, the
    Dice of the ground truth itself, resampled to the grid and back. Notes advise on the grid of the recipe.

    Args:
        dataset: Data set. The labels of ``MOST_CASES`` training cases are read, evenly spaced in the list.
        recipe: Recipe with ``spacing_mm`` and ``crop_size``.
        report: Report of the check of the same data set, which has the headers.
    """
    grids = _grids(recipe, report)
    places = np.linspace(0, len(dataset.training) - 1, min(MOST_CASES, len(dataset.training)))
    cases = [dataset.training[place] for place in places.round().astype(int)]
    organs, spacings = dataset.organs, list(grids.values())
    measured = in_threads(lambda case: organs_on_grids(case, len(organs), spacings), cases)
    extents, ceilings = (organ_means(np.stack(values)) for values in zip(*measured, strict=True))

    rows: list[tuple[str, ...]] = []
    for organ, extent, by_grid in zip(organs, extents, ceilings, strict=True):
        absent = np.isnan(by_grid).all()  # in all of these cases
        rows.append((organ, "-" if absent else _in_mm(extent), *("-" if absent else f"{dice:.2f}" for dice in by_grid)))
    what = "the ceiling is the Dice of the ground truth, resampled to the grid and back"
    notes = [f"Means of {len(cases)} training cases; {what}.", *_advice(organs, recipe, extents, ceilings[:, 0])]
    columns = ("organ", "extent, mm", *(f"ceiling, {name}" for name in grids))
    return Tables((_costs(grids, recipe, report), Table(columns, rows, notes)))


def _grids(recipe: Recipe, report: DatasetReport) -> dict[str, Spacing]:
    """Return the spacings to compare by name, each once."""
    coarser = tuple(round(COARSER * mm, 2) for mm in recipe.spacing_mm)
    data = median_spacing([image.header for image in report.images if image.split == "training"])
    named_spacings = {"recipe": recipe.spacing_mm, "data": data, "coarser": coarser}
    return {name: mm for name, mm in named_spacings.items() if name == "recipe" or mm != recipe.spacing_mm}


def _costs(grids: Mapping[str, Spacing], recipe: Recipe, report: DatasetReport) -> Table:
    """Return a table of what each grid costs, from the headers of the training and validation cases."""
    headers = [image.header for image in report.images if image.split != "test"]
    rows = []
    for name, spacing_mm in grids.items():
        voxels = [header.voxels_on_grid(spacing_mm) for header in headers]
        memory = f"{CACHED_BYTES * sum(voxels) / 1e9:.2f}"
        crop_mm = np.multiply(recipe.crop_size, spacing_mm)
        spacing = " x ".join(f"{mm:g}" for mm in spacing_mm)
        rows.append((name, spacing, f"{np.median(voxels) / 1e6:.2f}", memory, _in_mm(crop_mm)))
    columns = ("training grid", "spacing, mm", "million voxels, median case", "all cases, GB", "crop, mm")
    note = (
        "A training step takes as long on each grid, since a crop has as many voxels. The sliding window takes time in "
        "proportion to the voxels of a case."
    )
    return Table(columns, rows, (note,))


def _advice(organs: Sequence[str], recipe: Recipe, extents: np.ndarray, ceilings: np.ndarray) -> list[str]:
    """Return sentences on organs that are too small or too large for the grid of the recipe."""
    notes = []
    if low := [f"{organ} ({dice:.2f})" for organ, dice in zip(organs, ceilings, strict=True) if dice < LEAST_CEILING]:
        what = f"On the grid of the recipe, the ceiling is below {LEAST_CEILING} for {named(low)}"
        notes.append(f"{what}. A finer spacing_mm raises it.")
    crop_mm = np.multiply(recipe.crop_size, recipe.spacing_mm)
    if large := [organ for organ, extent in zip(organs, extents, strict=True) if (extent > crop_mm).any()]:
        what = f"A crop of {_in_mm(crop_mm)} mm is smaller than {named(large)}, so the network sees a part at a time"
        notes.append(f"{what}. A larger crop_size or a coarser spacing_mm shows more.")
    return notes


def _in_mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{mm:.0f}" for mm in lengths)


# ------------------------------------------------------------------------------------------------------ one case


def organs_on_grids(case: Mapping[str, Any], organs: int, grids: Sequence[Spacing]) -> tuple[np.ndarray, np.ndarray]:
    """Return the extents (organs, 3) in mm and the ceilings (organs, grids) of the organs of a labelled case.

    They are NaN where the case lacks an organ. A ceiling is nearly that of :func:`evaluation.score_case`, in a
    twentieth of its time: each organ is resampled alone, within its box, and has the voxels where its interpolated mask
    is above 0.5. Axes count as being at right angles. Ignored voxels belong to no organ.
    """
    affine = load_nifti(case["label"]).affine
    spacing = in_body_order(nib.affines.voxel_sizes(affine), affine)
    labels = nib.apply_orientation(read_labels(case["label"], case.get("label_map")), nib.io_orientation(affine))
    counted = labels != IGNORED
    labels = labels * counted
    coarse = [_resampled(labels, spacing, grid) for grid in grids]
    extents, ceilings = np.full((organs, 3), np.nan), np.full((organs, len(grids)), np.nan)
    for number, box in enumerate(find_objects(labels, organs)):
        if box is None:
            continue
        extents[number] = [(side.stop - side.start) * mm for side, mm in zip(box, spacing, strict=True)]
        for column, grid in enumerate(grids):
            near = _near(box, grid / spacing, labels.shape)
            truth = labels[near] == number + 1
            back = _interpolated(coarse[column], number + 1, near, spacing / grid) & counted[near]
            ceilings[number, column] = 2 * (back & truth).sum() / (back.sum() + truth.sum())
    return extents, ceilings


def _near(box: Sequence[slice], margin: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """Return a box with a margin in voxels, within which an organ stays when it is resampled."""
    more = np.ceil(margin).astype(int) + 1
    return tuple(slice(max(0, b.start - m), min(n, b.stop + m)) for b, m, n in zip(box, more, shape, strict=True))


def _resampled(labels: np.ndarray, spacing: np.ndarray, grid: Spacing) -> np.ndarray:
    """Return labels (X, Y, Z) on a grid that starts at their first voxel: the nearest ones, as in preprocessing."""
    nearest = []
    for n, step in zip(labels.shape, grid / spacing, strict=True):
        positions = np.arange(int(np.round((n - 1) / step + 1))) * step  # rounded as MONAI does
        nearest.append(np.rint(positions).astype(int).clip(0, n - 1))
    return labels[np.ix_(*nearest)]


def _interpolated(labels: np.ndarray, label: int, box: Sequence[slice], steps: np.ndarray) -> np.ndarray:
    """Return where the mask of a label on a grid, interpolated linearly, is above 0.5, in a box of the scan's voxels.

    ``labels`` are those on the grid, and ``steps`` the own spacings in voxels of the grid. Beyond the last of these the
    mask falls to 0 within one.
    """
    needed, weights = [], []
    for side, step, n in zip(box, steps, labels.shape, strict=True):
        positions = np.arange(side.start, side.stop) * step
        voxels = np.arange(int(positions[0]), min(int(positions[-1]) + 2, n))
        needed.append(voxels)
        weights.append(np.maximum(0, 1 - np.abs(positions[:, None] - voxels)).astype(np.float32))
    mask = (labels[np.ix_(*needed)] == label).astype(np.float32)
    return np.einsum("xi,yj,zk,ijk->xyz", *weights, mask, optimize=True) > 0.5
