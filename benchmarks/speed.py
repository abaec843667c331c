"""Compare the speed of this project with that of the published recipe on the present device.

Each side runs in a process of its own, set up as its users would have it. Both are measured alternately, stage by
stage, with the real network on full-size phantoms; seconds are medians. Before that, the command checks that both
compute the same from the same weights; if not, the exit status is 1.
Run from the project's root; takes about an hour on two cores:
    .venv/bin/python -m benchmarks.speed [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from monai.data.utils import dense_patch_slices
from monai.networks.utils import one_hot
from monai.transforms import CenterSpatialCrop

from benchmarks.published_recipe import KEYS, PublishedRecipe
from benchmarks.step import CLASSES, Training, batch_shape, make_network
from swinunetr.data.phantoms import write_phantom
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.files import write_json
from swinunetr.hardware import find_hardware, versions
from swinunetr.recipe import Recipe
from swinunetr.results.evaluation import score_case
from swinunetr.results.inference import predict, save_prediction
from swinunetr.results.metrics import confusion_matrix, dice_per_organ
from swinunetr.results.resampling import resample_labels
from swinunetr.tables import Table
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import place_cases, training_batch
from swinunetr.training.parameters import choose_recipe

SIDES = ("published", "ours")
TRAINING_CASES, VALIDATION_CASES = 24, 6  # of the whole run
SHORTEST_S = 0.05  # calls that take less are repeated, as one alone is too short to time
STEP_FLOP = 7.6e12  # forward and backward of four crops of 96^3 at feature size 48, counted with FlopCounterMode
FIGURES = {"published_s": ".3f", "ours_s": ".3f", "ratio": ".2f", "published_peak_mb": ".0f", "ours_peak_mb": ".0f"}
IMAGE_TOLERANCE = 2**-11  # of a preprocessed image in 0..1, which this project stores in float16
LOW_PRECISION_TOLERANCE = 0.03  # relative RMS of logits: eight roundings to bfloat16 (2^-8), in tens of layers
FLOAT32_TOLERANCE = 1e-4  # relative RMS of logits; also the largest difference of any organ's Dice


@dataclass(frozen=True)
class Mode:
    """How much is measured."""

    rounds: int  # timed ones of each stage, after a round of warm-up
    longest_s: float = math.inf  # after which no further round of a stage starts
    part: bool = False  # one crop of a step and two windows of a case are used, and their seconds multiplied
    grid: str = "full"  # of the phantoms
    changes: dict = field(default_factory=dict)  # to the published recipe, for both sides


FULL = Mode(rounds=5)
QUICK = Mode(rounds=3, longest_s=120, part=True)
QUICK_HELP = "at most 10 minutes on two cores: fewer rounds, one crop per step, two windows of the validation case"
SMALL_NETWORK = {"feature_size": 12, "window_size": 4, "crop_size": (32, 32, 64), "spacing_mm": 4.0}
TINY = Mode(rounds=1, part=True, grid="demo", changes=SMALL_NETWORK)


class Ours:
    """This project, with the notebook's calls; the methods are those of ``PublishedRecipe``."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.hardware, self.number = recipe, folder, find_hardware(), 0
        self.model = make_network(recipe, self.hardware)
        self.training = Training(self.model, recipe, self.hardware)
        self.augment = augmentation(recipe)

    def prepare_case(self, entry: dict[str, str]) -> None:
        cases = prepare_cases([entry], self.recipe, "CT", description="", cache_dir=self.folder)
        self.cases = place_cases(cases, self.model, self.hardware, math.prod(batch_shape(self.recipe)))

    def prepare_validation(self, entry: dict[str, str]) -> list[np.ndarray]:
        (self.validation,) = prepare_cases([entry], self.recipe, "CT", description="", cache_dir=self.folder)
        return [self.validation[key].as_tensor().float().numpy() for key in KEYS]

    def sample_step(self) -> None:
        self.number += 1
        self.batch = training_batch(self.cases, self.augment, self.recipe.seed, self.number, self.hardware.device)

    def train_step(self, crops: int) -> None:
        images, labels, name = self.batch
        self.training.step(images[:crops], labels[:crops], self.number, name)

    def logits(self, image: np.ndarray, float32: bool = False) -> torch.Tensor:
        hardware = replace(self.hardware, autocast_dtype=None) if float32 else self.hardware
        return predict(self.model, torch.as_tensor(image), self.recipe, hardware)

    def dice(self, logits: torch.Tensor | np.ndarray, label: np.ndarray) -> np.ndarray:
        prediction = torch.as_tensor(logits).argmax(0)
        ground_truth = torch.as_tensor(label, device=prediction.device)[0]
        return dice_per_organ(confusion_matrix(prediction, ground_truth, CLASSES))

    def validate_case(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return self.dice(self.logits(image), label)

    def evaluate_case(self) -> None:
        """Do what ``segment_cases`` and ``score_case`` do in the final evaluation, without the network."""
        label = self.validation["label"].as_tensor().to(self.hardware.device)
        probabilities = trained_logits(label).softmax(0)
        on_own_grid = resample_labels(probabilities, self.validation["image"])[0]
        save_prediction(on_own_grid, self.validation["source"], self.folder / "prediction.nii.gz")
        organs = [str(label) for label in range(1, CLASSES)]
        score_case(self.validation, probabilities.argmax(0).cpu(), on_own_grid, organs)


def trained_logits(label: torch.Tensor) -> torch.Tensor:
    """Return logits (classes, X, Y, Z) like those of a trained network: of a label (1, X, Y, Z), slightly shifted."""
    return 8 * one_hot(label.roll((2, 1, 1), (1, 2, 3)), CLASSES, dim=0)


class SideProcess(ProcessPoolExecutor):
    """A process that makes one side, ``"published"`` or ``"ours"``, and calls its methods.

    With ``tf32=False``, float32 is not computed in TF32, which PyTorch by default lets cuDNN do.
    """

    def __init__(self, name: str, recipe: Recipe, folder: Path, tf32: bool = True) -> None:
        super().__init__(1, get_context("spawn"), _start, (name, recipe, folder, tf32))
        self._pid = self.submit(os.getpid)  # starts the process; nobody waits, so that both sides start together

    def call(self, method: str, *arguments: object) -> object:
        """Return the result of a method; a tensor as a NumPy array."""
        return self.submit(_call, method, arguments).result()

    def measure(self, method: str, *arguments: object) -> tuple[float, float]:
        """Return the seconds of a method, and the peak memory in MB: of the tensors on a GPU, else of the process."""
        process = psutil.Process(self._pid.result())
        future, peak = self.submit(_time, method, arguments), 0
        while not future.done():
            peak = max(peak, process.memory_info().rss)
            wait([future], timeout=0.005)
        seconds, gpu_peak = future.result()
        return seconds, (gpu_peak or peak) / 1e6


def _start(name: str, recipe: Recipe, folder: Path, tf32: bool) -> None:
    global _side
    if not tf32:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(recipe.seed)  # so that both networks have the same weights
    _side = PublishedRecipe(recipe) if name == "published" else Ours(recipe, folder)


def _call(method: str, arguments: tuple) -> object:
    result = getattr(_side, method)(*arguments)
    # A tensor would be sent through shared memory, of which containers have little.
    return result.numpy(force=True) if isinstance(result, torch.Tensor) else result


def _time(method: str, arguments: tuple) -> tuple[float, int]:
    """Return the seconds of one call, and the peak bytes of tensors on the GPU; 0 without one."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SHORTEST_S:
        getattr(_side, method)(*arguments)
        calls += 1
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls, torch.cuda.max_memory_allocated()


def same_results(recipe: Recipe, folder: Path, entry: dict[str, str]) -> bool:
    """Print how far both sides differ on the middle of a case; return whether all differences are allowed."""
    sides = [SideProcess(name, recipe, folder, tf32=False) for name in SIDES]
    with sides[0] as published, sides[1] as ours:
        image, label = middle(published.call("prepare_validation", entry), recipe)
        own_image, own_label = middle(ours.call("prepare_validation", entry), recipe)
        logits, own_logits = (side.call("logits", image) for side in sides)
        float32_logits = ours.call("logits", image, True)
        dice, own_dice = published.call("dice", logits, label), ours.call("dice", float32_logits, label)
        # Random weights find hardly any organ, so the Dice of better logits is compared too.
        better = trained_logits(torch.as_tensor(label)).numpy()
        better_dice, own_better_dice = (side.call("dice", better, label) for side in sides)
    better_name = f"Dice of equal logits, mean {np.nanmean(better_dice):.2f}"
    norm = np.linalg.norm
    differences = [
        ("preprocessed images, largest", np.abs(image - own_image).max(), IMAGE_TOLERANCE),
        ("preprocessed labels, share of voxels", (label != own_label).mean(), 0),
        ("logits, ours as it runs, relative RMS", norm(own_logits - logits) / norm(logits), LOW_PRECISION_TOLERANCE),
        ("logits, both float32, relative RMS", norm(float32_logits - logits) / norm(logits), FLOAT32_TOLERANCE),
        ("Dice of these windows, both float32", largest_difference(own_dice, dice), FLOAT32_TOLERANCE),
        (better_name, largest_difference(own_better_dice, better_dice), FLOAT32_TOLERANCE),
    ]
    rows = [
        (name, f"{difference:.1e}", f"{allowed:.1e}", "ok" if difference <= allowed else "TOO LARGE")
        for name, difference, allowed in differences
    ]
    print(Table(("difference", "found", "allowed", ""), rows, title="Do both compute the same from the same weights?"))
    return all(verdict == "ok" for *_, verdict in rows)


def middle(volumes: list[np.ndarray], recipe: Recipe) -> list[np.ndarray]:
    """Return the middle of volumes (1, X, Y, Z), which two positions of the sliding window cover."""
    x, y, z = recipe.crop_size
    return [CenterSpatialCrop((x, y, z * 7 // 4))(volume).numpy() for volume in volumes]


def largest_difference(dice: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of any organ's Dice; at least 1 if one of both lacks an organ."""
    return np.abs(np.nan_to_num(dice, nan=-1) - np.nan_to_num(expected, nan=-1)).max()


class Stage(NamedTuple):
    """What a stage takes; each array holds the figure of the published recipe and that of this project."""

    name: str
    seconds: np.ndarray  # medians
    peaks_mb: np.ndarray
    first_s: np.ndarray | None = None  # seconds of the warm-up round

    def row(self, device: str) -> dict[str, object]:
        """Return the figures for the table and the JSON file."""
        figures = (*self.seconds, self.seconds[0] / self.seconds[1], *self.peaks_mb)
        return {"stage": self.name, **dict(zip(FIGURES, map(float, figures), strict=True)), "device": device}


def measure_stage(mode: Mode, sides: list[SideProcess], name: str, *arguments: object, scale: float = 1) -> Stage:
    """Measure a method of both sides alternately; ``scale`` multiplies the seconds.

    The seconds of the warm-up count only if no other round follows; its memory always counts.
    """
    rounds = []  # seconds and peak memory of both sides
    end = time.monotonic() + mode.longest_s
    while not rounds or (len(rounds) <= mode.rounds and time.monotonic() < end):
        number = len(rounds) or "warm-up"
        rounds.append([side.measure(name, *arguments) for side in sides])
        published_s, ours_s = (scale * seconds for seconds, _ in rounds[-1])
        print(f"  {name:14}{number:>8}: {published_s:9.3f} s published, {ours_s:9.3f} s ours", flush=True)
    if len(rounds) == 1:
        print(f"  The warm-up of {name} took over {mode.longest_s:g} s, so it is the only round.", flush=True)
    seconds, peaks_mb = np.moveaxis(rounds, -1, 0)  # each (rounds, sides)
    seconds *= scale
    return Stage(name, np.median(seconds[1:] if len(seconds) > 1 else seconds, axis=0), peaks_mb.max(0), seconds[0])


def measure_stages(mode: Mode, recipe: Recipe, folder: Path, cases: list[dict]) -> tuple[list[Stage], list[str]]:
    """Return the figures of all stages on a training and a validation case, and notes on them."""
    training, validation = cases
    sides = [SideProcess(name, recipe, folder) for name in SIDES]
    with sides[0], sides[1] as ours:
        # Both prepare it, so that the first file that a side reads is in no timed stage.
        _, volumes = [side.call("prepare_validation", validation) for side in sides]
        interval = [int(voxels * (1 - recipe.overlap)) for voxels in recipe.crop_size]
        windows = all_windows = len(dense_patch_slices(volumes[0].shape[1:], recipe.crop_size, interval))
        crops = all_crops = recipe.crops_per_volume
        if mode.part:
            crops, windows, volumes = 1, 2, middle(volumes, recipe)
        prepare = measure_stage(mode, sides, "prepare_case", training)
        sample = measure_stage(mode, sides, "sample_step")
        train = measure_stage(mode, sides, "train_step", crops, scale=all_crops / crops)
        validate = measure_stage(mode, sides, "validate_case", *volumes, scale=all_windows / windows)
        evaluate_s, evaluate_mb = ours.measure("evaluate_case")
    share = evaluate_s / (evaluate_s + validate.seconds[1])
    notes = [
        f"train_step: {crops} of {all_crops} crops, validate_case: {windows} of {all_windows} windows, scaled to all.",
        f"whole_run: extrapolated to {TRAINING_CASES + VALIDATION_CASES} cases without a cache, {recipe.max_steps} "
        f"steps and {recipe.max_steps // recipe.eval_every} validations of {VALIDATION_CASES} cases, in sequence.",
        f"The final evaluation of a case, ours, takes {evaluate_s:.1f} s on the scan's own grid after the network, "
        f"{share:.0%} of both, and at most {evaluate_mb:.0f} MB.",
    ]
    if torch.cuda.is_available():
        tflop_s = " and ".join(f"{figure / 1e12:.1f}" for figure in STEP_FLOP / train.seconds)
        notes.append(f"train_step: {tflop_s} TFLOP/s of the network; the bfloat16 peak of an H100 or H200 is 790.")
    stages = [prepare, sample, train, validate]
    return [*stages, whole_run(recipe, *stages)], notes


def whole_run(recipe: Recipe, prepare: Stage, sample: Stage, train: Stage, validate: Stage) -> Stage:
    """Return the extrapolated figures of a run in which nothing overlaps and our cache is empty at the start."""
    preprocessing_s = (TRAINING_CASES + VALIDATION_CASES) * prepare.first_s
    training_s = recipe.max_steps * (sample.seconds + train.seconds)
    validation_s = recipe.max_steps // recipe.eval_every * VALIDATION_CASES * validate.seconds
    peaks_mb = np.max([stage.peaks_mb for stage in (prepare, sample, train, validate)], axis=0)
    return Stage("whole_run", preprocessing_s + training_s + validation_s, peaks_mb)


def find_phantoms(folder: Path, grid: str) -> list[dict[str, str]]:
    """Return two cases; those that the folder lacks are made."""
    entries = []
    for case in (1, 35):
        image, label = folder / f"imagesTr/img{case:04d}.nii.gz", folder / f"labelsTr/label{case:04d}.nii.gz"
        if not (image.is_file() and label.is_file()):
            print(f"Making {grid} phantom {case} in {folder}", flush=True)
            write_phantom(case, image, label, grid)
        entries.append({"name": f"img{case:04d}", "image": str(image), "label": str(label)})
    return entries


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return 0, or return 1 if both sides do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", dest="mode", action="store_const", const=QUICK, default=FULL, help=QUICK_HELP)
    parser.add_argument("--tiny", dest="mode", action="store_const", const=TINY, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, default=Path("data/phantoms_full"), help="folder of the phantoms")
    parser.add_argument("--json", type=Path, help="file for the table")
    args = parser.parse_args(arguments)
    recipe, device = choose_recipe("published", **args.mode.changes), find_hardware().name
    print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {device}, {platform.machine()}, {versions()}")
    cases = find_phantoms(args.data, args.mode.grid)
    with tempfile.TemporaryDirectory() as folder:
        if not same_results(recipe, Path(folder), cases[1]):
            print("Both sides do not compute the same, so nothing was measured.")
            return 1
        stages, notes = measure_stages(args.mode, recipe, Path(folder), cases)
    rows = [stage.row(device) for stage in stages]
    cells = [(row["stage"], *(f"{row[key]:{digits}}" for key, digits in FIGURES.items())) for row in rows]
    print(Table(("stage", *FIGURES), cells, notes))
    if args.json:
        write_json(rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
