"""Scores of a segmentation: Dice from confusion matrices, and on the scan's own voxels distances and volumes too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch
from monai.networks.utils import one_hot
from nibabel.affines import voxel_sizes
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from hardware import Hardware
from inference import predict, to_source_grid

if TYPE_CHECKING:
    from ssl_helpers import Recipe

SURFACE_TOLERANCE_MM = 2.0  # two surfaces this near count as one; about a voxel of the published training grid
SCORES = ("dice", "dice_own_grid", "surface_dice", "hd95_mm", "volume_true_ml", "volume_predicted_ml")

# -------------------------------------------------------------------------------------------- Dice on the training grid


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, classes: int) -> np.ndarray:
    """Count voxels by true class (row) and predicted class (column), as an int64 array (classes, classes)."""
    pairs = truth.flatten().long() * classes + prediction.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu().numpy()


def dice_per_organ(counts: np.ndarray) -> np.ndarray:
    """Return the Dice (..., organs) of confusion matrices (..., classes, classes).

    NaN stands where the truth has no voxel of the organ; such an organ is left out of every mean.
    """
    true, predicted = counts.sum(-1)[..., 1:], counts.sum(-2)[..., 1:]
    hits = counts.diagonal(axis1=-2, axis2=-1)[..., 1:]
    return np.where(true > 0, 2 * hits / np.maximum(true + predicted, 1), np.nan)


def mean_dice(dice: np.ndarray) -> float:
    """Return the mean over cases of each case's mean over the organs that it has; NaN if no case has any.

    ``dice`` is (cases, organs). This is MONAI's ``DiceMetric(include_background=False)``, aggregated once.
    """
    present = dice[~np.isnan(dice).all(axis=1)]
    return float(np.nanmean(present, axis=1).mean()) if len(present) else math.nan


def organ_means(dice: np.ndarray) -> np.ndarray:
    """Return the mean Dice of each organ over the cases that have it; NaN where none has."""
    counts = (~np.isnan(dice)).sum(axis=0)
    return np.where(counts > 0, np.nansum(dice, axis=0) / np.maximum(counts, 1), np.nan)


def organ_scores(counts: np.ndarray, organs: tuple[str, ...]) -> dict[str, float]:
    """Return ``mean_dice`` and the mean Dice of each organ, from confusion matrices (cases, classes, classes)."""
    dice = dice_per_organ(counts)
    return {"mean_dice": mean_dice(dice), **dict(zip(organs, organ_means(dice).tolist(), strict=True))}


def evaluate(model: torch.nn.Module, cases: list[dict], recipe: Recipe, hardware: Hardware) -> np.ndarray:
    """Return the confusion matrices (cases, classes, classes) of the model on labelled cases, on the training grid.

    Several ranks share the cases, and each gets all matrices.
    """
    own = []
    for number in tqdm(hardware.share(range(len(cases))), desc="Validating", leave=False, disable=hardware.rank > 0):
        logits = predict(model, cases[number]["image"], recipe, hardware)
        truth = cases[number]["label"].as_tensor()[0].to(logits.device)
        own.append((number, confusion_matrix(logits.argmax(0), truth, len(logits))))
    return np.stack([counts for _, counts in sorted(hardware.gather(own), key=lambda pair: pair[0])])


# --------------------------------------------------------------------------------------- scores on the scan's own grid


def score_case(case: dict, prediction: torch.Tensor, labels: np.ndarray, organs: Sequence[str]) -> list[dict]:
    """Return one row an organ of ``evaluation.csv``: ``case``, ``organ`` and the six ``SCORES``.

    ``prediction`` lies on the training grid and gives ``dice``; ``labels`` lie on the scan's own and give the rest.
    Where the truth lacks an organ all but the volumes is NaN; where only the prediction does, the distance is.
    """
    truth = read_labels(case["label_source"])
    affine = np.asarray(case["image"].meta["original_affine"], dtype=float)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    classes = len(organs) + 1
    counts = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(truth), classes)
    on_training_grid = confusion_matrix(prediction, case["label"].as_tensor()[0], classes)
    dice, own_dice = dice_per_organ(on_training_grid), dice_per_organ(counts)
    boxes = [
        _union(pair) for pair in zip(*(find_objects(volume, classes - 1) for volume in (labels, truth)), strict=True)
    ]
    rows = []
    for label, (organ, box) in enumerate(zip(organs, boxes, strict=True), start=1):
        true, predicted = int(counts[label].sum()), int(counts[:, label].sum())
        surface_dice, hd95 = (0.0, np.nan) if true else (np.nan, np.nan)
        if true and predicted:
            surface_dice, hd95 = surface_scores(labels[box] == label, truth[box] == label, voxel_sizes(affine))
        values = (dice[label - 1], own_dice[label - 1], surface_dice, hd95, true * voxel_ml, predicted * voxel_ml)
        rows.append({"case": case["name"], "organ": organ, **dict(zip(SCORES, map(float, values), strict=True))})
    return rows


def _union(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Return the smallest box around those that are not None; an empty one if all are."""
    axes = zip(*(box for box in boxes if box), strict=True)
    return tuple(slice(min(side.start for side in axis), max(side.stop for side in axis)) for axis in axes)


def surface_scores(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return normalised surface Dice and 95th percentile Hausdorff distance in mm of two masks, neither of them empty.

    Between the outermost voxels of both masks: the share of them that lie within ``SURFACE_TOLERANCE_MM`` of the other
    surface, and the larger of both directions' 95th percentiles. Equal to MONAI's ``SurfaceDiceMetric`` and
    ``HausdorffDistanceMetric``, but each distance is measured once, not twice.
    """
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) * spacing_mm for mask in (prediction, truth)]
    there, back = (KDTree(b).query(a)[0] for a, b in (surfaces, surfaces[::-1]))
    near = np.concatenate([there, back]) <= SURFACE_TOLERANCE_MM
    return float(near.mean()), float(max(np.percentile(there, 95), np.percentile(back, 95)))


def resolution_ceiling(cases: list[dict], organs: Sequence[str], hardware: Hardware) -> dict[str, float]:
    """Return the mean Dice, by organ, of the truth itself taken to the training grid and back to the scan's own.

    No prediction on this training grid can be expected to score higher. NaN for an organ that no case has.
    """
    classes, dice = len(organs) + 1, []
    for case in tqdm(hardware.share(cases), desc="Measuring the ceiling", leave=False, disable=hardware.rank > 0):
        perfect = one_hot(case["label"].as_tensor()[None], classes, dtype=torch.uint8)[0]
        labels = torch.from_numpy(to_source_grid(perfect, case["image"]))
        truth = torch.from_numpy(read_labels(case["label_source"]))
        dice.append(dice_per_organ(confusion_matrix(labels, truth, classes)))
    return dict(zip(organs, organ_means(np.stack(hardware.gather(dice))).tolist(), strict=True))


def read_labels(file: str | Path) -> np.ndarray:
    """Return the label map of a NIfTI file as uint8 (X, Y, Z), in the file's axis order."""
    volume = np.asarray(nib.load(file).dataobj)
    return np.rint(volume).astype(np.uint8).reshape(volume.shape[:3])  # a slope of 0.7 makes 10 * 0.7 almost 7


def case_means(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Return for each case that has any organ its mean Dice on the training grid and on its own."""
    cases: dict[str, list[dict]] = {}
    for row in rows:
        if row["volume_true_ml"] > 0:
            cases.setdefault(row["case"], []).append(row)
    scores = {case: [[row[name] for row in own] for name in ("dice", "dice_own_grid")] for case, own in cases.items()}
    return {case: tuple(mean_dice(np.array([dice])) for dice in both) for case, both in scores.items()}


def summarise(rows: list[dict], organs: Sequence[str]) -> dict[str, object]:
    """Return the means of ``rows`` for ``summary.json``: of each case's mean over its organs, and of each organ."""
    tables = {name: np.array([row[name] for row in rows]).reshape(-1, len(organs)) for name in SCORES}
    return {
        "mean_dice": mean_dice(tables["dice"]),
        "mean_dice_own_grid": mean_dice(tables["dice_own_grid"]),
        "mean_surface_dice": mean_dice(tables["surface_dice"]),
        "mean_hd95_mm": mean_dice(tables["hd95_mm"]),
        "dice_per_organ": dict(zip(organs, organ_means(tables["dice"]).tolist(), strict=True)),
        "dice_own_grid_per_organ": dict(zip(organs, organ_means(tables["dice_own_grid"]).tolist(), strict=True)),
    }


def worst_and_best(rows: list[dict]) -> dict[str, dict]:
    """Return the rows of the lowest and the highest Dice on a scan's own grid, as ``worst`` and ``best``, if any."""
    present = sorted((row for row in rows if row["volume_true_ml"] > 0), key=lambda row: row["dice_own_grid"])
    return {"worst": present[0], "best": present[-1]} if present else {}


def describe_scores(rows: list[dict], ceiling: dict[str, float] | None = None) -> str:
    """Return a table of mean and standard deviation over the cases of each organ's scores, and what stands out in it.

    ``rows`` are those of :func:`score_case`. An organ is averaged over the cases whose truth has it, the distance over
    those whose prediction has it too. ``ceiling`` is the highest Dice that the resolution allows, by organ.
    """
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    width = max(map(len, (*organs, "mean of cases")))
    heads = ("Dice", "own grid", "surface Dice", "HD95, mm", "ml", "true ml", "cases", "ceiling")

    def line(name: str, cells: Sequence[str]) -> str:
        sizes = (14, 14, 14, 14, 9, 9, 7, 9)
        return f"{name:{width}}" + "".join(f"{cell:>{size}}" for cell, size in zip(cells, sizes, strict=False))

    lines = [line("organ", heads)]
    for organ in organs:
        present = [row for row in rows if row["organ"] == organ and row["volume_true_ml"] > 0]
        if not present:
            lines.append(f"{organ:{width}}   absent from the truth of all cases")
            continue
        columns = {name: np.array([row[name] for row in present]) for name in SCORES}
        cells = [_spread(columns[name], 2) for name in SCORES[:3]] + [_spread(columns["hd95_mm"], 1)]
        cells += [f"{columns[name].mean():.1f}" for name in ("volume_predicted_ml", "volume_true_ml")]
        cells += [str(len(present)), f"{ceiling[organ]:.2f}" if ceiling else "-"]
        lines.append(line(organ, cells))
    if means := case_means(rows):
        cells = [_spread(np.array(column), 2) for column in zip(*means.values(), strict=True)]
        lines.append(line("mean of cases", cells))
    if sum(row["volume_predicted_ml"] for row in rows) == 0:
        lines.append(
            "The model predicts only background: train longer, or check labels, learning rate and intensities."
        )
    elif missed := [organ for organ in organs if _never_found([row for row in rows if row["organ"] == organ])]:
        lines.append(f"Not found in any case: {', '.join(missed)}.")
    return "\n".join(lines)


def describe_worst_cases(rows: list[dict], most: int = 6) -> str:
    """Return a table of the cases with the lowest mean Dice on their own grid, worst first, and their worst organs."""
    means = sorted(case_means(rows).items(), key=lambda pair: pair[1][1])[:most]
    width = max(map(len, ("case", *(case for case, _ in means))))
    lines = [f"{'case':{width}}   Dice  own grid  worst organs"]
    for case, (dice, own_dice) in means:
        there = [row for row in rows if row["case"] == case and row["volume_true_ml"] > 0]
        worst = sorted(there, key=lambda row: row["dice_own_grid"])[:3]
        names = ", ".join(f"{row['organ']} {row['dice_own_grid']:.2f}" for row in worst)
        lines.append(f"{case:{width}}  {dice:.3f}     {own_dice:.3f}  {names}")
    return "\n".join(lines)


def _never_found(rows: list[dict]) -> bool:
    present = [row for row in rows if row["volume_true_ml"] > 0]
    return bool(present) and all(row["dice_own_grid"] == 0 for row in present)


def _spread(values: np.ndarray, digits: int) -> str:
    """Return mean and standard deviation of what is not NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "-"
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
