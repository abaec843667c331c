"""The notebook's training loop without its trimmings, for benchmarks that train many networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SwinUNETR
from tqdm import tqdm

from hardware import Hardware
from ssl_helpers import Recipe, augmentation, class_weights, learning_rate_at, training_batch


def fine_tune(
    model: SwinUNETR,
    cases: list[dict],
    classes: int,
    recipe: Recipe,
    hardware: Hardware,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a network that is on its device for all steps of the recipe; ``after_step`` is called with each number."""
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, weight=class_weights(cases, classes, recipe))
    loss_function.to(hardware.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, fused=True)
    scaler, augment = hardware.scaler(), augmentation(recipe)
    model.train()
    for step in tqdm(range(1, recipe.max_steps + 1), unit="step", mininterval=10):
        images, labels, _ = training_batch(cases, augment, recipe.seed, step)
        with hardware.autocast():
            logits = model(images.to(hardware.device))
        optimizer.zero_grad()
        scaler.scale(loss_function(logits.float(), labels.to(hardware.device))).backward()
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, recipe)
        scaler.step(optimizer)
        scaler.update()
        after_step(step)
