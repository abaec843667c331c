"""Measure this project against the published recipe, stage by stage, in one process on the present device.

Both sides take turns on full-grid CT phantoms with the real network; seconds are medians. First it is checked that both
compute the same; if not, the exit status is 1. Run from the project's root, about an hour on two cores:
    .venv/bin/python -m benchmarks.speed [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
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

from ct_phantoms import write_phantom
from evaluation import confusion_matrix, dice_per_organ, predict
from hardware import Hardware, find_hardware, place_network
from run_folder import versions
from ssl_helpers import Recipe, augmentation, choose_recipe, prepare_cases, training_batch
from swinunetr_weights import build_swinunetr

CLASSES, MODALITY, CROPS = 14, "CT", 4
SAMPLED_STEPS = range(1, 11)  # one alone is too short to time
CASES = {"training": 24, "validation": 6}  # of the whole run
STEP_FLOP = 7.6e12  # forward and backward of four crops of 96^3 at feature size 48, counted with FlopCounterMode
PEAK_FLOP_S, HOPPER = 790e12, re.compile("H100|H200")  # bfloat16
NUMBERS = ("published_s", "ours_s", "ratio", "published_peak_mb", "ours_peak_mb")
QUICK_HELP = "at most 10 minutes on two cores: fewer rounds, one crop a step, two windows of the validation case"
HALF_ROUNDING = 2**-11  # of a prepared image in 0..1, which this project keeps in float16
LOW_PRECISION_TOLERANCE = 0.03  # relative RMS of logits: eight roundings to bfloat16 (2^-8), in tens of layers
FLOAT32_TOLERANCE = 1e-4  # relative RMS of logits; also the largest difference of any organ's Dice


@dataclass(frozen=True)
class Mode:
    """Say how much is measured."""

    rounds: int  # timed ones; one more goes before
    stage_s: float = math.inf  # no further round begins once a stage has taken so long
    train_crops: int = 4  # of the step's crops, those that are trained on; seconds are scaled to all
    whole_case: bool = True  # validated; False: two windows, with seconds scaled to the case
    grid: str = "full"  # of the phantoms
    changes: dict = field(default_factory=dict)  # to the published recipe


TINY = {"feature_size": 12, "window_size": 4, "crop_size": (64, 64, 32), "spacing_mm": 4.0}
MODES = {
    "full": Mode(rounds=5),
    "quick": Mode(rounds=3, stage_s=100, train_crops=1, whole_case=False),
    "tiny": Mode(rounds=1, train_crops=1, whole_case=False, grid="demo", changes=TINY),
}

# ------------------------------------------------------------------------------------------------- the published recipe


class Published:
    """The published recipe in plain MONAI: float32, checkpointing, one-hot Dice, nothing worked out ahead."""

    name = "published"

    def __init__(self, recipe: Recipe, hardware: Hardware) -> None:
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

    def prepare(self, entry: dict, training: bool = True) -> CacheDataset:
        transforms = Compose(self.files_to_grid + self.vary * training).set_random_state(seed=0)
        return CacheDataset([entry], transforms, num_workers=1, progress=False)

    def sample(self, prepared: CacheDataset, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = list_data_collate([prepared[0]])
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

    name = "ours"

    def __init__(self, recipe: Recipe, hardware: Hardware, cache_dir: str) -> None:
        self.recipe, self.hardware, self.cache_dir = recipe, hardware, cache_dir
        size = {"feature_size": recipe.feature_size, "window_size": recipe.window_size}
        self.model = place_network(build_swinunetr(CLASSES, **size), hardware)
        self.loss_function = DiceCELoss(to_onehot_y=True, softmax=True).to(hardware.device)
        options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options, fused=True)
        self.scaler = hardware.scaler()
        self.augment = augmentation(recipe)

    def prepare(self, entry: dict, training: bool = True) -> list[dict]:
        return prepare_cases([entry], self.recipe, MODALITY, cache_dir=self.cache_dir)

    def sample(self, prepared: list[dict], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return training_batch(prepared, self.augment, self.recipe.seed, step)[:2]

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
        truth = torch.as_tensor(label[0]).as_subclass(torch.Tensor).to(logits.device)
        return dice_per_organ(confusion_matrix(logits.argmax(0), truth, CLASSES))


# -------------------------------------------------------------------------------------------- do both compute the same?


def share_weights(published: Published, ours: Ours) -> None:
    """Give both sides the same weights."""
    ours.model.load_state_dict(published.model.state_dict())


def largest(ours: np.ndarray, published: np.ndarray) -> float:
    """Return the largest difference of any organ's Dice; infinite if an organ is absent on one side alone."""
    absent = np.isnan(published)
    return math.inf if (np.isnan(ours) != absent).any() else float(np.abs(ours - published)[~absent].max(initial=0))


def agree(published: Published, ours: Ours, case: dict, own_case: dict) -> bool:
    """Print how far apart both sides are on one validation case, and return whether each difference is small enough."""
    image, label, own_image, own_label = (
        centre(side[key].as_tensor(), ours.recipe.crop_size) for side in (case, own_case) for key in ("image", "label")
    )
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else a GPU's float32 is no float32
        reference, exact, fast = published.logits(image), ours.logits(image, float32=True), ours.logits(image)
    # The truth, moved and in noise: random weights hardly hit an organ, so that their Dice alone would prove little.
    guess = torch.nn.functional.one_hot(label[0].long().roll((2, 1, 1), (0, 1, 2)), CLASSES).movedim(-1, 0).float()
    guess += 0.25 * torch.randn(guess.shape, generator=torch.Generator().manual_seed(0))
    dice, own_dice = published.dice(reference, label), ours.dice(exact, label)
    guess_dice, own_guess = published.dice(guess, label), ours.dice(guess, label)
    size = reference.norm()
    dtype = str(ours.hardware.autocast_dtype or torch.float32).removeprefix("torch.")
    differences = [
        ("prepared images, largest", float((image - own_image.float()).abs().max()), HALF_ROUNDING),
        ("prepared labels, share of voxels", float((label != own_label).float().mean()), 0),
        (f"logits, published float32, ours {dtype}", float((fast - reference).norm() / size), LOW_PRECISION_TOLERANCE),
        ("logits, both float32", float((exact - reference).norm() / size), FLOAT32_TOLERANCE),
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


def centre(volume: torch.Tensor, window: tuple[int, int, int]) -> torch.Tensor:
    """Return the middle of (1, X, Y, Z) that two windows with overlap 0.25 cover, one above the other."""
    return CenterSpatialCrop((*window[:2], window[2] * 7 // 4))(volume).as_tensor()


def count_windows(volume: torch.Tensor, window: tuple[int, ...]) -> int:
    """Return how many windows with overlap 0.25 cover (1, X, Y, Z)."""
    return math.prod(1 + math.ceil(max(0, n - w) / (w * 3 // 4)) for n, w in zip(volume.shape[1:], window, strict=True))


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(action: Callable[[], object], device: torch.device) -> tuple[object, float, list[int]]:
    """Return an action's result, its seconds, and bytes before, at the peak and after: of the GPU, else the process."""
    on_gpu, process, done = device.type == "cuda", psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else seen[0]
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    result = action()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    seen.append(process.memory_info().rss)
    peak, after = (
        (torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()) if on_gpu else (max(seen), seen[-1])
    )
    return result, seconds, [before, peak, after]


def give_memory_back() -> None:
    """Return freed memory to the system, so that the size of the process says what is in use."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Stages:
    """Measure stages of both sides by turns and keep a row of the table for each.

    A side's peak is what it keeps from earlier stages (network, optimizer, cases) and what the stage adds to that.
    """

    def __init__(self, mode: Mode, hardware: Hardware, sides: tuple[Published, Ours]) -> None:
        self.mode, self.hardware, self.sides = mode, hardware, sides
        self.rows: list[dict] = []
        network = [sum(p.nbytes for p in side.model.parameters()) for side in sides]
        self.kept = dict(zip(sides, network, strict=True))

    def add(self, stage: str, action: Callable[[Published | Ours], object], scale: float = 1) -> tuple[dict, dict]:
        """Measure a stage, whose seconds are ``scale`` times the action's; return results and warm-up seconds by side.

        The first round warms up and only its memory counts, unless it alone takes longer than a stage may.
        """
        seconds, peaks, results = ({side: [] for side in self.sides} for _ in range(3))
        end = time.monotonic() + self.mode.stage_s
        while not (done := len(seconds[self.sides[-1]])) or (done <= self.mode.rounds and time.monotonic() < end):
            for side in self.sides:
                if not done:  # in timed rounds the memory would have to be asked for anew
                    give_memory_back()
                results[side], taken, (before, peak, after) = measure(partial(action, side), self.hardware.device)
                seconds[side].append(taken * scale)
                peaks[side].append((self.kept[side] + peak - before) / 1e6)
                self.kept[side] += after - before
            latest = ", ".join(f"{seconds[side][-1]:9.3f} s {side.name}" for side in self.sides)
            print(f"  {stage:14}{done or 'warm-up':>8}: {latest}", flush=True)
        if done == 1:
            print(f"  {stage} took over {self.mode.stage_s:g} s to warm up, so that this round is all there is.")
        medians = [median(seconds[side][1:] or seconds[side]) for side in self.sides]
        self.put(stage, medians, [max(peaks[side]) for side in self.sides])
        return results, {side: seconds[side][0] for side in self.sides}

    def put(self, stage: str, seconds: list[float], peaks_mb: list[float]) -> None:
        """Keep a row; both lists are published, ours."""
        numbers = [*seconds, seconds[0] / seconds[1], *peaks_mb]
        row = {"stage": stage} | dict(zip(NUMBERS, numbers, strict=True))
        self.rows.append(row | {"device": self.hardware.name})


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


def compare(mode: Mode, data: Path, cache_dir: str) -> list[dict]:
    """Return the rows of the table; none if the two sides don't compute the same."""
    recipe, hardware = choose_recipe("published", **mode.changes), find_hardware()
    print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {hardware.name}, {platform.machine()}, {versions()}")
    training, validation = find_phantoms(data, mode.grid)
    torch.manual_seed(recipe.seed)
    sides = published, ours = Published(recipe, hardware), Ours(recipe, hardware, cache_dir)
    share_weights(published, ours)
    cases = {side: side.prepare(validation, training=False)[0] for side in sides}
    if not agree(published, ours, cases[published], cases[ours]):
        return []
    stages = Stages(mode, hardware, sides)
    first_s = measure_training(stages, training)
    measure_validation(stages, cases)
    add_whole_run(stages, recipe, first_s)
    return stages.rows


def measure_training(stages: Stages, entry: dict[str, str]) -> dict:
    """Measure a case and a step; return the seconds of the first preparation by side, which fills our cache."""
    prepared, first_s = stages.add("prepare_case", lambda side: side.prepare(entry))

    def sample(side: Published | Ours) -> None:
        for step in SAMPLED_STEPS:
            side.sample(prepared[side], step)

    stages.add("sample_step", sample, scale=1 / len(SAMPLED_STEPS))
    crops = stages.mode.train_crops
    images, labels = (tensor[:crops] for tensor in stages.sides[-1].sample(prepared[stages.sides[-1]], 1))
    if crops < CROPS:
        print(f"  train_step runs on {crops} of {CROPS} crops; its seconds are multiplied by {CROPS / crops:g}.")
    stages.add("train_step", lambda side: side.train(images, labels), scale=CROPS / crops)
    return first_s


def measure_validation(stages: Stages, cases: dict) -> None:
    """Measure window inference and Dice of a case, or of its middle."""
    window = stages.sides[-1].recipe.crop_size
    volumes = {side: [case[key].as_tensor() for key in ("image", "label")] for side, case in cases.items()}
    windows = count_windows(volumes[stages.sides[0]][0], window)
    scale = 1 if stages.mode.whole_case else windows / 2
    if not stages.mode.whole_case:
        volumes = {side: [centre(volume, window) for volume in pair] for side, pair in volumes.items()}
        print(f"  validate_case runs on 2 of {windows} windows; its seconds are multiplied by {scale:g}.")

    def validate(side: Published | Ours) -> np.ndarray:
        image, label = volumes[side]
        return side.dice(side.logits(image), label)

    stages.add("validate_case", validate, scale)


def add_whole_run(stages: Stages, recipe: Recipe, first_s: dict) -> None:
    """Work out the run of 30,000 steps, in which nothing overlaps and our cache is still empty."""
    validations, totals, peaks = recipe.max_steps // recipe.eval_every, [], []
    for side in stages.sides:
        _, sample, train, validate = (row[f"{side.name}_s"] for row in stages.rows)
        steps = recipe.max_steps * (sample + train)
        totals.append(sum(CASES.values()) * first_s[side] + steps + validations * CASES["validation"] * validate)
        peaks.append(max(row[f"{side.name}_peak_mb"] for row in stages.rows))
    stages.put("whole_run", totals, peaks)
    print(
        f"  whole_run is worked out: {sum(CASES.values())} cases prepared one after another without a cache, "
        f"{recipe.max_steps} x (sample + train), {validations} validations of {CASES['validation']} cases. "
        "Sampling counts in full on both sides, though workers can hide it behind a GPU's training step."
    )


def show(rows: list[dict], on_gpu: bool) -> None:
    """Print the table and, for a GPU, the arithmetic that the network's steps do a second."""
    print(f"\n{'stage':14}{'published s':>14}{'ours s':>14}{'ratio':>8}{'published MB':>14}{'ours MB':>10}  (peak)")
    for row in rows:
        stage, published_s, ours_s, ratio, *peaks, _ = row.values()
        print(f"{stage:14}{published_s:14.3f}{ours_s:14.3f}{ratio:8.2f}{peaks[0]:14.0f}{peaks[1]:10.0f}")
    step = rows[2]
    for side in ("published", "ours") if on_gpu else ():
        flop_s = STEP_FLOP / step[f"{side}_s"]
        share = f", {flop_s / PEAK_FLOP_S:.0%} of {PEAK_FLOP_S / 1e12:.0f}" if HOPPER.search(step["device"]) else ""
        print(f"train_step, {side}: {flop_s / 1e12:.1f} TFLOP/s of the model's own arithmetic{share}")


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return 0, or return 1 if the two sides don't compute the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", dest="mode", action="store_const", const="quick", default="full", help=QUICK_HELP)
    parser.add_argument("--tiny", dest="mode", action="store_const", const="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, default=Path("data/phantoms_full"), help="folder of the phantoms")
    parser.add_argument("--json", type=Path, help="file for the table")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as cache_dir:
        rows = compare(MODES[args.mode], args.data, cache_dir)
    if not rows:
        print("The two sides don't compute the same, so nothing was measured.")
        return 1
    show(rows, torch.cuda.is_available())
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
