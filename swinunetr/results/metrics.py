"""Dice from confusion matrices, and distances between surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

SURFACE_TOLERANCE_MM = 2.0  # within it, surfaces count as equal; about one voxel of the published training grid
ROUNDING_MM = 1e-4  # of a distance of exactly the tolerance, along axes that a float32 affine turns


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, classes: int) -> np.ndarray:
    """Return the number of voxels by class in the ground truth (row) and in the prediction (column).

    Args:
        prediction: Class of each voxel, integers of any shape.
        truth: Ground truth, integers of the same shape, on the same device.
        classes: Number of classes, including the background.

    Returns:
        Array (classes, classes), int64.
    """
    pairs = truth.flatten().long() * classes + prediction.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu().numpy()


def dice_per_organ(counts: np.ndarray) -> np.ndarray:
    """Return the Dice (..., organs) of confusion matrices (..., classes, classes), without the background.

    It is NaN where the ground truth has no voxel of the organ; all means leave such an organ out.
    """
    true, predicted = counts.sum(-1)[..., 1:], counts.sum(-2)[..., 1:]
    hits = counts.diagonal(axis1=-2, axis2=-1)[..., 1:]
    return np.where(true > 0, 2 * hits / np.maximum(true + predicted, 1), np.nan)


def mean_dice(dice: np.ndarray) -> float:
    """Return the mean over the cases of each case's mean over its organs; NaN if no case has an organ.

    It equals MONAI's ``DiceMetric(include_background=False)``, aggregated once. ``dice`` (cases, organs) is NaN where a
    case lacks an organ.
    """
    present = dice[~np.isnan(dice).all(axis=1)]
    return float(np.nanmean(present, axis=1).mean()) if len(present) else math.nan


def organ_means(dice: np.ndarray) -> np.ndarray:
    """Return the mean of each organ over the cases that have it, from (cases, organs); NaN if no case has it."""
    counts = (~np.isnan(dice)).sum(axis=0)
    return np.where(counts > 0, np.nansum(dice, axis=0) / np.maximum(counts, 1), np.nan)


def volume_ratios(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return predicted over true volume of each organ, in all cases together that have it; NaN if no case has it.

    Both are volumes (cases, organs), in any unit.
    """
    sums = np.where(true > 0, true, 0).sum(axis=0)
    return np.where(sums > 0, np.where(true > 0, predicted, 0).sum(axis=0) / np.where(sums > 0, sums, 1), np.nan)


def organ_scores(counts: np.ndarray, organs: tuple[str, ...]) -> dict[str, float]:
    """Return ``mean_dice``, ``volume_ratio`` and the mean Dice of each organ, from (cases, classes, classes).

    ``volume_ratio`` is the mean over the organs of predicted over true volume.
    """
    dice = dice_per_organ(counts)
    ratio = mean_ratio(volume_ratios(counts.sum(-1)[:, 1:], counts.sum(-2)[:, 1:]))
    means = dict(zip(organs, organ_means(dice).tolist(), strict=True))
    return {"mean_dice": mean_dice(dice), "volume_ratio": ratio, **means}


def mean_ratio(ratios: np.ndarray) -> float:
    """Return the mean of the volume ratios that are not NaN; NaN if all are."""
    return math.nan if np.isnan(ratios).all() else float(np.nanmean(ratios))


def organ_volumes(labels: np.ndarray, voxel_ml: float, organs: Sequence[str]) -> list[dict[str, object]]:
    """Return ``organ``, ``ml`` and ``touches_border`` of each organ, by label from 1, of a segmentation (X, Y, Z).

    An organ that touches the border of the scan is probably cut off there, so that its volume is too small.
    """
    counts = np.bincount(labels.ravel(), minlength=len(organs) + 1)
    faces = [labels.take(index, axis) for axis in range(3) for index in (0, -1)]
    at_border = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    return [
        {"organ": organ, "ml": round(float(counts[label]) * voxel_ml, 3), "touches_border": label in at_border}
        for label, organ in enumerate(organs, start=1)
    ]


def surface_scores(prediction: np.ndarray, truth: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """Return the normalised surface Dice and the 95th percentile Hausdorff distance in mm of two masks.

    The surface of a mask is its outermost voxels. Surface Dice is the share of the voxels of both surfaces that lie
    within ``SURFACE_TOLERANCE_MM`` of the other surface. The Hausdorff distance is the larger of the 95th percentiles
    of both directions. The results equal MONAI's ``SurfaceDiceMetric`` and ``HausdorffDistanceMetric``, but each
    distance is computed once instead of twice.

    Args:
        prediction: Mask (X, Y, Z), bool, not empty.
        truth: Ground truth, a mask of the same shape, not empty.
        affine: Matrix (4, 4) from voxels to mm. Its axes need not be at right angles.
    """
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) @ affine[:3, :3].T for mask in (prediction, truth)]
    there, back = (KDTree(b).query(a)[0] for a, b in (surfaces, surfaces[::-1]))
    near = np.concatenate([there, back]) <= SURFACE_TOLERANCE_MM + ROUNDING_MM
    return float(near.mean()), float(max(np.percentile(there, 95), np.percentile(back, 95)))
