"""The feature maps of the encoder before and after loading, which show that weights arrived."""

from __future__ import annotations

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.errors import CheckpointError


def encoder_response(model: SwinUNETR, image: Tensor) -> list[Tensor]:
    """Return the five feature maps of the Swin encoder, float32 on the CPU, each at half the resolution of the last.

    Args:
        model: The network.
        image: (B, C, X, Y, Z), on the device of the network.
    """
    with torch.no_grad():
        return [features.float().cpu() for features in model.swinViT(image, model.normalize)]


def response_changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    """Return the relative change of each encoder stage: the norm of the difference over the norm of ``before``."""
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def compare_responses(before: list[Tensor], after: list[Tensor]) -> str:
    """Describe how much the response of each encoder stage changed when the weights were loaded, one line per stage.

    Args:
        before: Result of ``encoder_response`` before loading.
        after: Result for the same image after loading.

    Raises:
        CheckpointError: The response of a stage did not change, so its weights were not loaded.
    """
    changes = response_changes(before, after)
    if 0 in changes:
        raise CheckpointError(
            f"The response of encoder stage {changes.index(0)} did not change: its weights were not loaded. "
            "Call load_pretrained on this network between the two calls of encoder_response."
        )
    return "\n".join(f"encoder stage {i}: response changed by {change:.0%}" for i, change in enumerate(changes))
