"""The weight of each class in the loss of fine-tuning. The loss itself, DiceCELoss, is made in the notebook."""

from __future__ import annotations

import torch

from swinunetr.recipe import Recipe


def class_weights(cases: list[dict], classes: int, recipe: Recipe) -> torch.Tensor | None:
    """Return the weight of each class in the loss, computed from the class frequencies.

    A class without voxels gets the weight of the rarest class that has some.

    Args:
        cases: Preprocessed cases with labels.
        classes: Number of classes, including the background.
        recipe: Recipe with ``class_balance``: a weight is the frequency to the power ``-class_balance``.

    Returns:
        Tensor (classes,), float32, with mean 1; None if ``class_balance`` is 0, where all classes have equal weight.
    """
    if not recipe.class_balance:
        return None
    counts = sum(torch.bincount(case["label"].as_tensor().flatten().long(), minlength=classes) for case in cases)
    weights = counts.clamp(min=int(counts[counts > 0].min())).double() ** -recipe.class_balance
    return (weights / weights.mean()).float()
