"""Measure what MONAI 1.5's patch merging does to weights that were trained with the older order.

Trains the demo's network on phantoms with the older order, then validates the same weights with both:
    .venv/bin/python -m benchmarks.wrong_merging
"""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SwinUNETR
from tqdm import tqdm

from swinunetr.data.lists import read_dataset
from swinunetr.data.phantoms import write_phantoms
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.hardware import Hardware, find_hardware, versions
from swinunetr.network.checkpoints import build_swinunetr, encoder_response, response_changes
from swinunetr.network.placement import place_network
from swinunetr.recipe import DEMO, Recipe, learning_rate_at
from swinunetr.results.evaluation import evaluate
from swinunetr.results.metrics import dice_per_organ, mean_dice
from swinunetr.training.batches import augmentation, training_batch
from swinunetr.training.loss import class_weights

LIST = "json_files/btcv_6.json"


def fine_tune(
    model: SwinUNETR,
    cases: list[dict],
    classes: int,
    recipe: Recipe,
    hardware: Hardware,
) -> None:
    """Train a network that is on its device with the notebook's steps; nothing is validated or saved."""
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
        if recipe.clip_norm:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, recipe)
        scaler.step(optimizer)
        scaler.update()


def main() -> None:
    """Print the mean Dice of the same weights with the order that they were trained with, and with today's."""
    dataset = read_dataset(LIST, write_phantoms(LIST, "data/phantoms"))
    training, validation = (
        prepare_cases(cases, DEMO, dataset.modality) for cases in (dataset.training, dataset.validation)
    )
    hardware, classes = find_hardware(), len(dataset.classes)
    build = {"feature_size": DEMO.feature_size, "window_size": DEMO.window_size}
    torch.manual_seed(0)
    models = {m: place_network(build_swinunetr(classes, merging=m, **build), hardware) for m in ("legacy", "current")}
    fine_tune(models["legacy"], training, classes, DEMO, hardware)
    models["current"].load_state_dict(models["legacy"].state_dict())  # names and shapes agree: no error, no warning
    print(hardware, versions())
    for merging, model in models.items():
        dice = mean_dice(dice_per_organ(evaluate(model, validation, DEMO, hardware)))
        print(f"trained with the legacy order, validated with the {merging} order: mean Dice {dice:.3f}")
    image = validation[0]["image"].as_tensor()[None, :, :64, :64, :32].float().to(hardware.device)
    changes = response_changes(*(encoder_response(model, image) for model in models.values()))
    print("the outputs of encoder stages 0 to 4 differ by " + ", ".join(f"{change:.0%}" for change in changes))


if __name__ == "__main__":
    main()
