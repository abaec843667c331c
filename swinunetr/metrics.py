"""Dice from confusion matrices, and distances between surfaces; pure counting, without network or files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

SURFACE_TOLERANCE_MM = 2.0  # two surfaces this near count as one; about a voxel of the published training grid


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
