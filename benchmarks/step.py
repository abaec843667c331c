"""The training step of `swinunetr_finetune.ipynb` for the benchmarks; `test_step.py` compares both, line by line."""

from __future__ import annotations

import math

import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import SwinUNETR

from swinunetr.hardware import Hardware, parallel
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.network.placement import place_network
from swinunetr.network.supervision import DeepSupervision
from swinunetr.recipe import Recipe, learning_rate_at
from swinunetr.training.averaging import average_weights
from swinunetr.training.stopping import require_finite

CLASSES = 14  # of BTCV, with the background


class Training:
    """Loss, optimizer and step of a fine-tuning, with the names of the notebook's cells.

    Args:
        model: Network on its device.
        recipe: Recipe of the run.
        hardware: Device and precision.
        weight: Weight of each class in the loss (classes,); None means equal weights.
    """

    def __init__(
        self, model: SwinUNETR, recipe: Recipe, hardware: Hardware, weight: torch.Tensor | None = None
    ) -> None:
        self.model, self.recipe, self.hardware = model, recipe, hardware
        self.trained = DeepSupervision(model, recipe.deep_supervision)
        loss_function = DiceCELoss(to_onehot_y=True, softmax=True, weight=weight).to(hardware.device)
        self.loss_function = DeepSupervisionLoss(loss_function)
        adam = {"lr": recipe.learning_rate, "betas": (0.9, recipe.adam_beta2), "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), **adam, fused=True)
        self.scaler = hardware.scaler()
        self.averaged = average_weights(model, recipe)
        self.network = parallel(self.trained, hardware).train()

    def step(self, images: torch.Tensor, labels: torch.Tensor, step: int = 1, name: str = "random") -> float:
        """Train on a batch and return its loss.

        Args:
            images: Images (B, 1, X, Y, Z) on the device.
            labels: Labels of the same shape.
            step: Number of the step, from 1.
            name: Name of the case that the batch is from.
        """
        with self.hardware.autocast():
            logits = self.network(images)
        loss = self.loss_function(logits, labels)

        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        loss_value = require_finite(loss, self.trained, step, name, self.hardware, self.scaler)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.recipe)
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return loss_value


def make_network(recipe: Recipe, hardware: Hardware, merging: str = "current") -> SwinUNETR:
    """Return a network with random weights, the same in every call, placed as for a training with the recipe."""
    torch.manual_seed(recipe.seed)
    size = {"feature_size": recipe.feature_size, "window_size": recipe.window_size}
    model = build_swinunetr(CLASSES, merging=merging, **size)
    return place_network(model, hardware, batch_voxels=math.prod(batch_shape(recipe)))


def batch_shape(recipe: Recipe) -> tuple[int, ...]:
    """Return the shape (B, 1, X, Y, Z) of the images of a step."""
    return (recipe.crops_per_volume, 1, *recipe.crop_size)
