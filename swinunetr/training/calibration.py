"""Calibration of a network's head on training cases, so that the volumes of organs are right on average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.data.label_maps import IGNORED
from swinunetr.data.preprocessing import Case
from swinunetr.hardware import Hardware
from swinunetr.recipe import Recipe
from swinunetr.results.inference import predict

MOST_OFFSET = 4.0  # logits, which is a factor of 55 in the odds
ROUNDS = 30
STEP = 3.0  # logits per unit of log volume; where raising a logit changes a volume more than by a third, it is halved
MOST_STEP = 1.5  # logits in one round
TOLERANCE = 0.02  # of the log volume
MOST_LOGITS = 2**26  # of a case, 134 MB in half precision; of a larger case this many are drawn at random


@contextmanager
def calibrated(model: SwinUNETR, cases: Sequence[Case], recipe: Recipe, hardware: Hardware) -> Iterator[None]:
    """Add :func:`volume_offsets` to the biases of the head within the context, and restore them afterwards.

    So the training goes on as if nothing had been changed, while what is scored and saved within is calibrated.

    Args:
        model: Segmentation network.
        cases: Preprocessed training cases.
        recipe: Recipe with ``calibration_cases``; 0 leaves the head as it is.
        hardware: Device, precision and rank; every rank must enter the context.
    """
    if not recipe.calibration_cases:
        yield
        return
    bias = model.out.conv.conv.bias.data
    learned = bias.clone()
    bias += volume_offsets(model, cases, recipe, hardware).to(bias)
    try:
        yield
    finally:
        bias.copy_(learned)


def volume_offsets(model: SwinUNETR, cases: Sequence[Case], recipe: Recipe, hardware: Hardware) -> Tensor:
    """Return the offsets (classes,), float64, of the logits with which each class is found as large as it is.

    A loss that weights rare classes makes their logits too large, and so the organs. The offsets are those with which
    the volume of each class, in some of the training cases together, is that of the labels. A class that these cases
    lack gets the mean offset of the other organs. A case whose background is ignored is not used: what is found beside
    its organs does not count, so that their volumes would never seem too large.

    Source: prior correction, as in Menon et al., "Long-tail learning via logit adjustment", ICLR 2021; the offsets are
    found from volumes instead of from the weights, as the Dice loss needs others than the cross-entropy.

    Args:
        model: Segmentation network.
        cases: Preprocessed training cases, of which ``calibration_cases`` are used, evenly spaced in the list. The
            offsets are 0 if none can be used.
        recipe: Recipe with ``calibration_cases`` and the settings of the sliding window.
        hardware: Device, precision and rank; each rank predicts a share of the cases.
    """
    usable = [case for case in cases if not (label_map := case.get("label_map")) or 0 in label_map.targets]
    chosen = usable[:: math.ceil(len(usable) / recipe.calibration_cases) or 1]
    volumes = [_voxels(model, case, recipe, hardware) for case in hardware.share(chosen)]
    classes = model.out.conv.conv.out_channels
    true = _total([labels for _, labels in volumes], classes, hardware)
    absent, organs = true == 0, (true > 0) & (torch.arange(classes) > 0)
    offsets, change = torch.zeros(2, classes, dtype=torch.float64)
    step = torch.full_like(offsets, STEP)
    for _ in range(ROUNDS):
        # In half precision, as the sums are as large as the logits; max is several times faster than argmax on a CPU.
        predicted = [(logits + offsets.to(logits)[:, None]).max(0).indices for logits, _ in volumes]
        before, change = change, ((true + 1) / (_total(predicted, classes, hardware) + 1)).log()
        if change.masked_fill(absent | (offsets.abs() == MOST_OFFSET), 0).abs().max() < TOLERANCE:
            break
        step[before * change < 0] /= 2  # it went too far
        offsets += (step * change).clamp(-MOST_STEP, MOST_STEP)
        offsets = (offsets - offsets[0]).clamp(-MOST_OFFSET, MOST_OFFSET)
    offsets[absent] = offsets[organs].mean() if organs.any() else 0.0
    return offsets


def _voxels(model: SwinUNETR, case: Case, recipe: Recipe, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """Return the logits (classes, voxels), float16, and the labels (voxels,) of the voxels of a case that count."""
    logits = predict(model, case["image"], recipe, hardware)
    labels = case["label"].as_tensor()[0].to(logits.device)
    counts = labels != IGNORED if case.get("label_map") else torch.ones_like(labels, dtype=torch.bool)
    if logits.numel() > MOST_LOGITS:  # drawn, as evenly spaced voxels could all lie in a few planes
        drawn = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < MOST_LOGITS / logits.numel()
        counts &= drawn.to(counts.device)
    return logits[:, counts].half(), labels[counts]


def _total(volumes: Sequence[Tensor], classes: int, hardware: Hardware) -> Tensor:
    """Return the voxels of each class (classes,), float64 on the CPU, in the volumes of all ranks together."""
    counts = [torch.bincount(volume.flatten().int(), minlength=classes).double().cpu() for volume in volumes]
    return sum(hardware.gather(counts, training=True), torch.zeros(classes, dtype=torch.float64))
