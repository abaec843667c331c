"""Weights of the classes, and ignored voxels, in the loss. The loss itself, DiceCELoss, is made in the notebook."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss

from swinunetr.data.label_maps import IGNORED
from swinunetr.data.preprocessing import Case
from swinunetr.recipe import Recipe


def class_weights(cases: list[Case], classes: int, recipe: Recipe) -> torch.Tensor | None:
    """Return the weight of each class in the loss, computed from the class frequencies.

    Ignored voxels are not counted. A class without voxels gets the weight of the rarest class that has some.

    Args:
        cases: Preprocessed cases with labels.
        classes: Number of classes, including the background.
        recipe: Recipe with ``class_balance``: a weight is the frequency to the power ``-class_balance``.

    Returns:
        Tensor (classes,), float32, with mean 1; None if ``class_balance`` is 0, where all classes have equal weight.
    """
    if not recipe.class_balance:
        return None
    labels = (case["label"].as_tensor().flatten().long() for case in cases)
    counts = torch.stack([torch.bincount(label, minlength=classes)[:classes] for label in labels]).sum(0)
    weights = counts.clamp(min=int(counts[counts > 0].min())).double() ** -recipe.class_balance
    return (weights / weights.mean()).float()


def skip_ignored(loss_function: DiceCELoss) -> DiceCELoss:
    """Leave ignored voxels out of both parts of the loss, and return the loss, which is changed.

    The loss is then that of the other voxels alone: Dice over them, and the mean of their cross-entropy. In crops
    without any of them it is 0. It needs MONAI 1.6.1, whose DiceLoss has ``ignore_index``.

    Args:
        loss_function: Loss of integer labels (``to_onehot_y=True``); an ignored voxel has the label ``IGNORED``.
    """
    loss_function.dice.ignore_index = IGNORED
    loss_function.cross_entropy = _CrossEntropy(weight=loss_function.cross_entropy.weight, ignore_index=IGNORED)
    return loss_function


class _CrossEntropy(torch.nn.CrossEntropyLoss):
    """Cross-entropy that is 0 where all voxels are ignored; PyTorch's is NaN there, the mean of no voxel."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = super().forward(logits, labels)
        return torch.where((labels != self.ignore_index).any(), loss, 0.0)
