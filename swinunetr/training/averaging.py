"""Averaged weights: a copy of the network whose weights are the exponential average of those of the last steps."""

from __future__ import annotations

from monai.networks.nets import SwinUNETR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from swinunetr.recipe import Recipe


def average_weights(network: SwinUNETR, recipe: Recipe) -> AveragedModel | None:
    """Return a copy of the network to be averaged, as its ``module``; None if the recipe does not average.

    Call ``update_parameters(network)`` after each step. The first call copies the weights; each further call moves the
    average by 1 / n towards them, where n is ``averaged_share`` of ``max_steps``, at least one step.

    Source: Polyak and Juditsky, 1992; with exponential weights, Tarvainen and Valpola, "Mean teachers", NeurIPS 2017.
    """
    if not recipe.averaged_share:
        return None
    steps = max(1.0, recipe.averaged_share * recipe.max_steps)
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps))
