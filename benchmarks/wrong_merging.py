"""Measure what MONAI 1.5's patch merging does to weights that were trained with the older order.

Trains the demo's network on phantoms with the older order, then validates the same weights with both:
    .venv/bin/python -m benchmarks.wrong_merging
"""

from __future__ import annotations

from dataclasses import replace

from monai.networks.nets import SwinUNETR
from tqdm import tqdm

from benchmarks.step import CLASSES, Training, make_network
from swinunetr.data.lists import read_dataset
from swinunetr.data.phantoms import write_phantoms
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.hardware import Hardware, find_hardware, versions
from swinunetr.network.checkpoints import encoder_response, response_changes
from swinunetr.recipe import DEMO
from swinunetr.results.evaluation import evaluate
from swinunetr.results.metrics import dice_per_organ, mean_dice
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batches
from swinunetr.training.loss import class_weights

LIST = "json_files/btcv_6.json"
RECIPE = replace(DEMO, deep_supervision=0, adam_beta2=0.999)  # as for docs/explanation/merging.md


def fine_tune(model: SwinUNETR, cases: list[dict], hardware: Hardware) -> None:
    """Train a network with the notebook's steps; nothing is validated or saved."""
    training = Training(model, RECIPE, hardware, class_weights(cases, CLASSES, RECIPE))
    steps = range(1, RECIPE.max_steps + 1)
    batches = training_batches(cases, augmentation(RECIPE), RECIPE.seed, steps, hardware)
    for step, (images, labels, name) in zip(tqdm(steps, unit="step", mininterval=10), batches, strict=True):
        training.step(images, labels, step, name)


def main() -> None:
    """Print the mean Dice of the same weights with the order that they were trained with, and with today's."""
    dataset = read_dataset(LIST, write_phantoms(LIST, "data/phantoms"))
    training, validation = (
        prepare_cases(cases, RECIPE, dataset.modality) for cases in (dataset.training, dataset.validation)
    )
    hardware = find_hardware()
    models = {merging: make_network(RECIPE, hardware, merging) for merging in ("legacy", "current")}
    fine_tune(models["legacy"], training, hardware)
    models["current"].load_state_dict(models["legacy"].state_dict())  # names and shapes agree: no error, no warning
    print(hardware, versions())
    for merging, model in models.items():
        dice = mean_dice(dice_per_organ(evaluate(model, validation, RECIPE, hardware)))
        print(f"trained with the legacy order, validated with the {merging} order: mean Dice {dice:.3f}")
    image = validation[0]["image"].as_tensor()[None, :, :64, :64, :32].float().to(hardware.device)
    changes = response_changes(*(encoder_response(model, image) for model in models.values()))
    print("the outputs of encoder stages 0 to 4 differ by " + ", ".join(f"{change:.0%}" for change in changes))


if __name__ == "__main__":
    main()
