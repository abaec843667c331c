"""Measure this project against the published recipe, stage by stage, on the present device.

Each side runs in a process of its own, set up as its users would have it; they take turns on full-grid CT phantoms with
the real network, and seconds are medians. First it is checked that both compute the same; if not, the exit status is 1.
Run from the project's root, about an hour on two cores:
    .venv/bin/python -m benchmarks.speed [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from monai.data import CacheDataset, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SwinUNETR
from monai.transforms import (
    AsDiscrete,
    CenterSpatialCrop,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    Spacingd,
)

from swinunetr.batches import augmentation, training_batch
from swinunetr.checkpoints import build_swinunetr
from swinunetr.devices import Hardware, find_hardware, versions
from swinunetr.evaluation import score_case
from swinunetr.inference import predict, save_prediction, to_source_grid
from swinunetr.metrics import confusion_matrix, dice_per_organ
from swinunetr.network import place_network
from swinunetr.phantoms import write_phantom
from swinunetr.preprocessing import prepare_cases
from swinunetr.recipe import Recipe
from swinunetr.settings import choose_recipe

CLASSES, MODALITY, CROPS = 14, "CT", 4
SAMPLED_STEPS = 10  # one alone is too short to time
CASES = {"training": 24, "validation": 6}  # of the whole run
STEP_FLOP = 7.6e12  # forward and backward of four crops of 96^3 at feature size 48, counted with FlopCounterMode
PEAK_FLOP_S, HOPPER = 790e12, re.compile("H100|H200")  # bfloat16
NUMBERS = ("published_s", "ours_s", "ratio", "published_peak_mb", "ours_peak_mb")
QUICK_HELP = "at most 10 minutes on two cores: fewer rounds, one crop a step, two windows of the validation case"
HALF_ROUNDING = 2**-11  # of a preprocessed image in 0..1, which this project keeps in float16
LOW_PRECISION_TOLERANCE = 0.03  # relative RMS of logits: eight roundings to bfloat16 (2^-8), in tens of layers
FLOAT32_TOLERANCE = 1e-4  # relative RMS of logits; also the largest difference of any organ's Dice


@dataclass(frozen=True)
class Mode:
    """Say how much is measured."""

    rounds: int  # timed ones; one more goes before
    stage_s: float = math.inf  # no further round begins once a stage has taken so long
    train_crops: int = CROPS  # of the step's crops, those that are trained on; seconds are scaled to all
    whole_case: bool = True  # validated; False: two windows, with seconds scaled to the case
    grid: str = "full"  # of the phantoms
    changes: dict = field(default_factory=dict)  # to the published recipe


TINY = {"feature_size": 12, "window_size": 4, "crop_size": (64, 64, 32), "spacing_mm": 4.0}
MODES = {
    "full": Mode(rounds=5),
    "quick": Mode(rounds=3, stage_s=120, train_crops=1, whole_case=False),
    "tiny": Mode(rounds=1, train_crops=1, whole_case=False, grid="demo", changes=TINY),
}

# ------------------------------------------------------------------------------------------------- the published recipe


class Published:
    """The published recipe in plain MONAI: float32, checkpointing, one-hot Dice, nothing computed ahead."""

    def __init__(self, recipe: Recipe, hardware: Hardware, cache_dir: Path) -> None:
        self.device, self.crop = hardware.device, recipe.crop_size
        self.model = SwinUNETR(
            in_channels=1,
            out_channels=CLASSES,
            feature_size=recipe.feature_size,
            window_size=recipe.window_size,
            use_checkpoint=True,
        ).to(self.device)
        self.loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=1e-5)
        keys = ("image", "label")
        self.files_to_grid = [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys, pixdim=recipe.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", -175, 250, 0.0, 1.0, clip=True),
            CropForegroundd(keys, source_key="image"),
        ]
        self.vary = [
            RandCropByPosNegLabeld(keys, "label", self.crop, 1, 1, num_samples=4, image_key="image", image_threshold=0),
            *(RandFlipd(keys, prob=0.1, spatial_axis=axis) for axis in range(3)),
            RandRotate90d(keys, prob=0.1, max_k=3),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]

    def prepare(self, entry: dict) -> None:
        transforms = Compose(self.files_to_grid + self.vary).set_random_state(seed=0)
        self.training = CacheDataset([entry], transforms, num_workers=1, progress=False)

    def prepare_validation(self, entry: dict) -> dict:
        return CacheDataset([entry], Compose(self.files_to_grid), num_workers=1, progress=False)[0]

    def sample(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = list_data_collate([self.training[0]])
        return batch["image"], batch["label"]

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss_function(self.model(images.to(self.device)), labels.to(self.device))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        self.model.eval()
        with torch.no_grad():
            return sliding_window_inference(image[None].to(self.device), self.crop, 4, self.model, overlap=0.25)[0]

    def dice(self, logits: torch.Tensor, label: torch.Tensor) -> np.ndarray:
        prediction = AsDiscrete(argmax=True, to_onehot=CLASSES)(logits)
        truth = AsDiscrete(to_onehot=CLASSES)(label.to(logits.device))
        return DiceMetric(include_background=False)(y_pred=[prediction], y=[truth])[0].cpu().numpy()


# --------------------------------------------------------------------------------------------------------- this project


class Ours:
    """This project: what the notebook calls, in the notebook's order."""

    def __init__(self, recipe: Recipe, hardware: Hardware, cache_dir: Path) -> None:
        self.recipe, self.hardware, self.cache_dir = recipe, hardware, cache_dir
        size = {"feature_size": recipe.feature_size, "window_size": recipe.window_size}
        voxels = recipe.crops_per_volume * math.prod(recipe.crop_size)
        self.model = place_network(build_swinunetr(CLASSES, **size), hardware, voxels)
        self.loss_function = DiceCELoss(to_onehot_y=True, softmax=True).to(hardware.device)
        options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options, fused=True)
        self.scaler = hardware.scaler()
        self.augment = augmentation(recipe)

    def prepare(self, entry: dict) -> None:
        self.training = prepare_cases([entry], self.recipe, MODALITY, cache_dir=self.cache_dir)

    def prepare_validation(self, entry: dict) -> dict:
        return prepare_cases([entry], self.recipe, MODALITY, cache_dir=self.cache_dir)[0]

    def sample(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return training_batch(self.training, self.augment, self.recipe.seed, step)[:2]

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.model.train()
        with self.hardware.autocast():
            logits = self.model(images.to(self.hardware.device))
        loss = self.loss_function(logits.float(), labels.to(self.hardware.device))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def logits(self, image: torch.Tensor, float32: bool = False) -> torch.Tensor:
        hardware = replace(self.hardware, autocast_dtype=None) if float32 else self.hardware
        return predict(self.model, image, self.recipe, hardware)

    def dice(self, logits: torch.Tensor, label: torch.Tensor) -> np.ndarray:
        return dice_per_organ(confusion_matrix(logits.argmax(0), label[0].to(logits.device), CLASSES))

    def evaluate(self, case: dict, logits: torch.Tensor) -> None:
        """Do what the final evaluation does after the network."""
        probabilities = logits.softmax(0)
        labels = to_source_grid(probabilities, case["image"])
        save_prediction(labels, case["source"], self.cache_dir / "prediction.nii.gz")
        score_case(case, probabilities.argmax(0), labels, [f"organ {label}" for label in range(1, CLASSES)])


# ------------------------------------------------------------------------------------------------- a process for a side


class Stages:
    """What is asked of a side, in its process; arrays come and go as numpy's."""

    def __init__(self, name: str, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.side = {"published": Published, "ours": Ours}[name](recipe, find_hardware(), folder)

    def save_weights(self) -> None:
        torch.save(self.side.model.state_dict(), self.folder / "weights.pth")

    def load_weights(self) -> None:
        self.side.model.load_state_dict(torch.load(self.folder / "weights.pth", weights_only=True))

    def load_validation(self, entry: dict) -> tuple[int, np.ndarray, np.ndarray]:
        """Prepare the validation case; return how many windows cover it, and its middle."""
        self.case = case = self.side.prepare_validation(entry)
        self.image, self.label = (case[key].as_tensor().float() for key in ("image", "label"))
        window = self.recipe.crop_size
        middle = CenterSpatialCrop((*window[:2], window[2] * 7 // 4))  # which two windows with overlap 0.25 cover
        self.middle = [middle(volume).as_tensor() for volume in (self.image, self.label)]
        counts = (
            1 + math.ceil(max(0, n - w) / (w * 3 // 4)) for n, w in zip(self.image.shape[1:], window, strict=True)
        )
        return math.prod(counts), *(volume.numpy() for volume in self.middle)

    def prepare_case(self, entry: dict) -> None:
        self.side.prepare(entry)

    def sample_step(self) -> None:
        for step in range(1, SAMPLED_STEPS + 1):
            self.side.sample(step)

    def batch(self) -> list[np.ndarray]:
        return [np.asarray(tensor) for tensor in self.side.sample(1)]

    def train_step(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.side.train(torch.from_numpy(images), torch.from_numpy(labels))

    def validate_case(self, whole: bool) -> None:
        image, label = (self.image, self.label) if whole else self.middle
        self.side.dice(self.side.logits(image), label)

    def make_logits(self) -> None:
        """Make logits as a trained network would give: the ground truth of the validation case, shifted, with noise."""
        moved = torch.roll(self.label[0].long(), (2, 1, 1), (0, 1, 2))
        self.answer = torch.randn(CLASSES, *moved.shape, generator=torch.Generator().manual_seed(0))
        self.answer.scatter_add_(0, moved[None], torch.full((1, *moved.shape), 8.0))

    def evaluate_case(self) -> None:
        self.side.evaluate(self.case, self.answer)

    def logits(self, image: np.ndarray, **options: bool) -> np.ndarray:
        return self.side.logits(torch.from_numpy(image), **options).cpu().numpy()

    def dice(self, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
        return self.side.dice(torch.from_numpy(logits), torch.from_numpy(label))


def begin(*arguments: object) -> None:
    """Make this process's side."""
    global stages
    stages = Stages(*arguments)


def perform(action: str, arguments: tuple, options: dict) -> tuple[object, float, float]:
    """Return what an action of this process's side returns, its seconds, and the peak of the memory in MB.

    On a GPU the memory is what its tensors take there, else the whole process.
    """
    process, done, seen = psutil.Process(), threading.Event(), []

    def watch() -> None:
        seen.append(process.memory_info().rss)
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    result = getattr(stages, action)(*arguments, **options)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return result, seconds, (torch.cuda.max_memory_allocated() if on_gpu else max(seen)) / 1e6


class Side:
    """One side as the measuring process sees it."""

    def __init__(self, name: str, recipe: Recipe, folder: Path) -> None:
        self.name = name
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), begin, (name, recipe, folder))

    def measure(self, action: str, *arguments: object, **options: object) -> tuple[object, float, float]:
        return self.pool.submit(perform, action, arguments, options).result()

    def ask(self, action: str, *arguments: object, **options: object) -> object:
        return self.measure(action, *arguments, **options)[0]


def start_sides(recipe: Recipe, folder: Path) -> tuple[Side, Side]:
    """Return the published recipe and this project, each in a new process; those that nobody asks any more end."""
    return Side("published", recipe, folder), Side("ours", recipe, folder)


# -------------------------------------------------------------------------------------------- do both compute the same?


def share_weights(published: Side, ours: Side) -> None:
    """Give both sides the same weights."""
    published.ask("save_weights")
    ours.ask("load_weights")


def largest(ours: np.ndarray, published: np.ndarray) -> float:
    """Return the largest difference of any organ's Dice; infinite if an organ is absent on one side alone."""
    absent = np.isnan(published)
    return math.inf if (np.isnan(ours) != absent).any() else float(np.abs(ours - published)[~absent].max(initial=0))


def agree(recipe: Recipe, folder: Path, entry: dict) -> bool:
    """Print how far apart both sides are on the middle of a case; return whether each difference is small enough."""
    published, ours = start_sides(recipe, folder)
    share_weights(published, ours)
    (_, image, label), (_, own_image, own_label) = (side.ask("load_validation", entry) for side in (published, ours))
    reference, exact = published.ask("logits", image), ours.ask("logits", image, float32=True)
    fast = ours.ask("logits", image)
    # The ground truth, shifted, with noise: random weights hardly hit an organ, so their Dice alone would prove little.
    guess = np.moveaxis(np.eye(CLASSES, dtype=np.float32)[np.roll(label[0].astype(int), (2, 1, 1), (0, 1, 2))], -1, 0)
    guess = guess + 0.25 * np.random.default_rng(0).standard_normal(guess.shape, np.float32)
    dice, own_dice = published.ask("dice", reference, label), ours.ask("dice", exact, label)
    guess_dice, own_guess = published.ask("dice", guess, label), ours.ask("dice", guess, label)
    differences = [
        ("preprocessed images, largest", np.abs(image - own_image).max(), HALF_ROUNDING),
        ("preprocessed labels, share of voxels", (label != own_label).mean(), 0),
        (
            "logits, ours as it runs",
            np.linalg.norm(fast - reference) / np.linalg.norm(reference),
            LOW_PRECISION_TOLERANCE,
        ),
        ("logits, both float32", np.linalg.norm(exact - reference) / np.linalg.norm(reference), FLOAT32_TOLERANCE),
        ("Dice of these windows, both float32", largest(own_dice, dice), FLOAT32_TOLERANCE),
        (
            f"Dice of equal logits (mean {np.nanmean(guess_dice):.2f})",
            largest(own_guess, guess_dice),
            FLOAT32_TOLERANCE,
        ),
    ]
    print("Do both sides compute the same, from the same weights? (logits: relative root mean square)")
    for name, found, allowed in differences:
        print(f"  {'ok   ' if found <= allowed else 'FAULT'} {name:45} {found:.1e}, allowed {allowed:.1e}", flush=True)
    return all(found <= allowed for _, found, allowed in differences)


# ------------------------------------------------------------------------------------------------------------ measuring


class Table:
    """Measure stages of both sides alternately and keep a row for each."""

    def __init__(self, mode: Mode, device: str, sides: tuple[Side, Side]) -> None:
        self.mode, self.device, self.sides = mode, device, sides
        self.rows: list[dict] = []

    def add(self, stage: str, *arguments: object, scale: float = 1) -> list[float]:
        """Measure a stage, whose seconds are ``scale`` times the action's; return the first seconds, by side.

        The first round warms up and only its memory counts, unless it alone takes longer than a stage may.
        """
        seconds, peaks = ({side: [] for side in self.sides} for _ in range(2))
        end = time.monotonic() + self.mode.stage_s
        while not (done := len(seconds[self.sides[-1]])) or (done <= self.mode.rounds and time.monotonic() < end):
            for side in self.sides:
                _, taken, peak = side.measure(stage, *arguments)
                seconds[side].append(taken * scale)
                peaks[side].append(peak)
            latest = ", ".join(f"{seconds[side][-1]:9.3f} s {side.name}" for side in self.sides)
            print(f"  {stage:14}{done or 'warm-up':>8}: {latest}", flush=True)
        if done == 1:
            print(f"  {stage} took over {self.mode.stage_s:g} s to warm up, so that this round is all there is.")
        medians = [median(seconds[side][1:] or seconds[side]) for side in self.sides]
        self.put(stage, medians, [max(peaks[side]) for side in self.sides])
        return [seconds[side][0] for side in self.sides]

    def put(self, stage: str, seconds: list[float], peaks_mb: list[float]) -> None:
        """Keep a row; both lists are published, ours."""
        numbers = [*seconds, seconds[0] / seconds[1], *peaks_mb]
        self.rows.append({"stage": stage} | dict(zip(NUMBERS, numbers, strict=True)) | {"device": self.device})

    def add_whole_run(self, recipe: Recipe, first_s: list[float]) -> None:
        """Work out the run of 30,000 steps, in which nothing overlaps and our cache is still empty."""
        validations, totals = recipe.max_steps // recipe.eval_every, []
        for side, first in zip(self.sides, first_s, strict=True):
            _, sample, train, validate = (row[f"{side.name}_s"] for row in self.rows)
            steps = recipe.max_steps * (sample + train)
            totals.append(sum(CASES.values()) * first + steps + validations * CASES["validation"] * validate)
        peaks = [max(row[f"{side.name}_peak_mb"] for row in self.rows) for side in self.sides]
        self.put("whole_run", totals, peaks)
        print(
            f"  whole_run is extrapolated: {sum(CASES.values())} cases preprocessed one after another without a cache, "
            f"{recipe.max_steps} x (sample + train), {validations} validations of {CASES['validation']} cases. "
            "Sampling counts in full on both sides, though it can be hidden behind a GPU's training step."
        )

    def describe_evaluation(self) -> None:
        """Measure what this project's final evaluation of the validation case takes besides the network."""
        ours = self.sides[-1]
        ours.ask("make_logits")
        _, seconds, peak = ours.measure("evaluate_case")
        share = seconds / (seconds + self.rows[3]["ours_s"])
        print(
            f"  evaluate_case, ours alone: {seconds:.1f} s on the scan's own grid after the network, {share:.0%} of "
            f"both; at most {peak:.0f} MB"
        )

    def show(self) -> None:
        """Print the table and, for a GPU, the arithmetic that the network's steps do a second."""
        print(f"\n{'stage':14}{'published s':>14}{'ours s':>14}{'ratio':>8}{'published MB':>14}{'ours MB':>10}  (peak)")
        for row in self.rows:
            stage, published_s, ours_s, ratio, *peaks, _ = row.values()
            print(f"{stage:14}{published_s:14.3f}{ours_s:14.3f}{ratio:8.2f}{peaks[0]:14.0f}{peaks[1]:10.0f}")
        for side in self.sides if torch.cuda.is_available() else ():
            flop_s = STEP_FLOP / self.rows[2][f"{side.name}_s"]
            share = f", {flop_s / PEAK_FLOP_S:.0%} of {PEAK_FLOP_S / 1e12:.0f}" if HOPPER.search(self.device) else ""
            print(f"train_step, {side.name}: {flop_s / 1e12:.1f} TFLOP/s of the model's own arithmetic{share}")


def find_phantoms(folder: Path, grid: str) -> list[dict[str, str]]:
    """Return two cases, made where the folder lacks them."""
    entries = []
    for case in (1, 35):
        image, label = folder / f"imagesTr/img{case:04d}.nii.gz", folder / f"labelsTr/label{case:04d}.nii.gz"
        if not (image.is_file() and label.is_file()):
            print(f"Making {grid} phantom {case} in {folder}", flush=True)
            write_phantom(case, image, label, grid)
        entries.append({"name": f"img{case:04d}", "image": str(image), "label": str(label)})
    return entries


def compare(mode: Mode, data: Path, folder: Path) -> Table | None:
    """Return the table; None if the two sides do not compute the same."""
    recipe, device = choose_recipe("published", **mode.changes), find_hardware().name
    print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {device}, {platform.machine()}, {versions()}")
    training, validation = find_phantoms(data, mode.grid)
    if not agree(recipe, folder, validation):
        return None

    sides = start_sides(recipe, folder)  # anew: what the comparison left in memory is no stage's
    windows, *_ = [side.ask("load_validation", validation) for side in sides][0]
    table = Table(mode, device, sides)
    first_s = table.add("prepare_case", training)
    table.add("sample_step", scale=1 / SAMPLED_STEPS)
    crops = mode.train_crops
    if crops < CROPS:
        print(f"  train_step runs on {crops} of {CROPS} crops; its seconds are multiplied by {CROPS / crops:g}.")
    table.add("train_step", *(array[:crops] for array in sides[-1].ask("batch")), scale=CROPS / crops)
    if not mode.whole_case:
        print(f"  validate_case runs on 2 of {windows} windows; its seconds are multiplied by {windows / 2:g}.")
    table.add("validate_case", mode.whole_case, scale=1 if mode.whole_case else windows / 2)
    table.add_whole_run(recipe, first_s)
    table.describe_evaluation()
    return table


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return 0, or return 1 if the two sides do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", dest="mode", action="store_const", const="quick", default="full", help=QUICK_HELP)
    parser.add_argument("--tiny", dest="mode", action="store_const", const="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, default=Path("data/phantoms_full"), help="folder of the phantoms")
    parser.add_argument("--json", type=Path, help="file for the table")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        table = compare(MODES[args.mode], args.data, Path(folder))
    if table is None:
        print("The two sides do not compute the same, so nothing was measured.")
        return 1
    table.show()
    if args.json:
        args.json.write_text(json.dumps(table.rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
