"""The network in use: windows over a volume, Dice from confusion matrices, and predictions on the scan's own voxels."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from tqdm.auto import tqdm

from atomic_files import replacing
from hardware import Hardware
from user_errors import InputError

if TYPE_CHECKING:
    from ssl_helpers import Recipe


@contextmanager
def evaluating(model: torch.nn.Module):
    """Put the model in evaluation mode, without gradients, and back into the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def predict(model: torch.nn.Module, image: torch.Tensor, recipe: Recipe, hardware: Hardware) -> torch.Tensor:
    """Return the logits (classes, X, Y, Z), float32, of one image (1, X, Y, Z) on the training grid.

    Where the volume's logits don't fit on the GPU beside the network, they are put together in the CPU's memory.
    """
    batch = torch.as_tensor(image).as_subclass(torch.Tensor)[None].float()
    try:
        return _slide(model, batch.to(hardware.device), recipe, hardware, stitch_on=hardware.device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _slide(model, batch, replace(recipe, windows_per_batch=1), hardware, stitch_on=torch.device("cpu"))


def _slide(
    model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware, stitch_on: torch.device
) -> torch.Tensor:
    inferer = SlidingWindowInferer(
        recipe.crop_size,
        recipe.windows_per_batch,
        recipe.overlap,
        sw_device=hardware.device,
        device=stitch_on,
    )
    with evaluating(model), hardware.autocast():
        return inferer(batch, model)[0].float()


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


def describe_dice(counts: np.ndarray, organs: tuple[str, ...]) -> str:
    """Return a table of Dice per organ from confusion matrices (cases, classes, classes), and what stands out in it."""
    dice = dice_per_organ(counts)
    width = max(map(len, organs))
    lines = [f"{'organ':{width}}   mean    min    max  cases"]
    for organ, mean, values in zip(organs, organ_means(dice), dice.T, strict=True):
        values = values[~np.isnan(values)]
        spread = f"{mean:7.3f}{values.min():7.3f}{values.max():7.3f}" if len(values) else "    absent from the truth"
        lines.append(f"{organ:{width}}{spread}{len(values):7d}")
    lines.append(f"{'mean':{width}}{mean_dice(dice):7.3f}")
    if counts[..., 1:].sum() == 0:
        lines.append(
            "The model predicts only background: train longer, or check labels, learning rate and intensities."
        )
    elif missed := [organ for organ, mean in zip(organs, organ_means(dice), strict=True) if mean == 0]:
        lines.append(f"Not found in any case: {', '.join(missed)}.")
    return "\n".join(lines)


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


def to_source_grid(logits: torch.Tensor, image: torch.Tensor) -> np.ndarray:
    """Return the segmentation of a case on the grid of its source file, uint8, in the file's axis order.

    Probabilities are interpolated before the largest is taken, one class at a time to save memory; interpolated labels
    would invent classes at borders. Voxels outside the training grid are background. ``image`` is the case's prepared
    image, whose affines say where both grids lie.
    """
    shape = [int(n) for n in image.meta["spatial_shape"]]
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    best, labels = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
    for label, probability in enumerate(logits.softmax(0).cpu()):
        channel = MetaTensor(probability[None], affine=image.affine)
        resampled = resample(channel, dst_affine=image.meta["original_affine"], spatial_size=shape).as_tensor()[0]
        better = resampled > best
        best[better], labels[better] = resampled[better], label
    return labels.numpy()


def save_prediction(labels: np.ndarray, source: str | Path, path: str | Path) -> None:
    """Write a segmentation as uint8 NIfTI with the geometry, sform and qform of the scan ``source``.

    Raises:
        InputError: the segmentation is not of the scan's shape.
    """
    scan = nib.load(source)
    if labels.shape != scan.shape[:3]:
        raise InputError(f"Expected a segmentation of shape {scan.shape[:3]} for '{source}', found {labels.shape}.")
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    with replacing(path) as temporary:
        nib.save(nib.Nifti1Image(labels, scan.affine, header), temporary)
