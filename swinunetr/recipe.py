"""Recipes, the settings of fine-tuning and pre-training: baselines, what differs from them in others, and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from swinunetr.errors import InputError
from swinunetr.fields import (
    Allowed,
    another,
    at_least,
    between,
    check_settings,
    is_number,
    is_whole,
    names,
    one_of,
    setting,
    within,
)
from swinunetr.tables import Table

AXES = ("x", "y", "z")
TASKS = ("reconstruction", "rotation", "contrast")
SPACING_LIMITS_MM = (0.1, 20.0)  # no scan of a body is outside this range; a spacing outside it has the wrong unit
DATA_SPACING = "data"  # as a parameter in place of numbers: the median of the training scans

A_PROBABILITY = within(0, 1)
A_CROP = Allowed(
    "one or three multiples of 32 (the network halves each axis five times), larger than 32 x 32 x 32 (a bottleneck of "
    "one voxel cannot be normalised), such as 64 or 96",
    lambda crop: _three(crop, lambda c: is_whole(c) and c >= 32 and c % 32 == 0) and math.prod(crop) > 32**3,
)
A_SPACING = Allowed(
    "one or three numbers from {:g} to {:g} mm".format(*SPACING_LIMITS_MM),
    lambda spacing: _three(spacing, within(*SPACING_LIMITS_MM).test),
)
A_WINDOW = Allowed(
    "two numbers in HU, the lower one first",
    lambda window: (
        isinstance(window, tuple) and len(window) == 2 and all(map(is_number, window)) and window[0] < window[1]
    ),
)
HEADS = Allowed(  # of the attention
    "a multiple of 12 (heads: 3, 6, 12, 24)", lambda size: is_whole(size) and size >= 12 and size % 12 == 0
)
A_NORM = Allowed("a number above 0, or None", lambda norm: norm is None or (is_number(norm) and norm > 0))
SOME_AXES = Allowed("some of x, y and z", lambda axes: _is_names(axes) and set(axes) <= set(AXES))
SOME_ORGANS = Allowed("names of organs with commas between them, all, or nothing", lambda organs: _is_names(organs))
SOME_TASKS = Allowed(
    "reconstruction, which trains the decoder, alone or with rotation and contrast",
    lambda tasks: _is_names(tasks) and "reconstruction" in tasks and set(tasks) <= set(TASKS),
)


def _three(values: object, test: Callable[[Any], bool]) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(map(test, values))


def _is_names(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(name, str) for name in values)


@dataclass(frozen=True)
class CommonRecipe:
    """Settings that fine-tuning and pre-training share; the defaults are those of fine-tuning.

    ``crop_size`` and ``spacing_mm`` also accept one number, which then applies to all three axes.

    Raises:
        InputError: A value is not allowed; the message names the setting.
    """

    kind: ClassVar[str]  # of the run
    baseline: ClassVar[str]  # the recipe of the defaults

    max_steps: int = setting(30_000, "training steps", at_least(0), parameter=True, optional=True)
    eval_every: int = setting(100, "steps between two validations", at_least(1), parameter=True, optional=True)
    learning_rate: float = setting(1e-4, "of AdamW", between(0, 1), parameter=True, optional=True)
    schedule: str = setting(
        "constant",
        "of the learning rate; cosine: linear warm-up in the first 5% of the steps, then decay to 0 at max_steps",
        one_of("constant", "cosine"),
    )
    weight_decay: float = setting(1e-5, "of AdamW", within(0, 1))
    crops_per_volume: int = setting(
        4, "crops cut from the one volume of a step, the batch size", at_least(1), parameter=True, optional=True
    )
    crop_size: tuple[int, int, int] = setting(
        (96, 96, 96), "voxels of a crop, one number or x, y, z, multiples of 32", A_CROP, parameter=True, optional=True
    )
    spacing_mm: tuple[float, float, float] = setting(
        (1.5, 1.5, 2.0),
        "voxel of the training grid in mm; data: median of the scans",
        A_SPACING,
        parameter=True,
        optional=True,
        word=DATA_SPACING,
    )
    hu_window: tuple[float, float] = setting(
        (-175.0, 250.0), "intensities of CT that become 0 and 1; includes fat and enhanced vessels", A_WINDOW
    )
    feature_size: int = setting(48, "channels after the patch embedding; a checkpoint overrides it", HEADS)
    window_size: int = setting(
        7, "tokens along each edge of an attention window; a checkpoint overrides it", at_least(2)
    )
    seed: int = setting(
        0, "decides initial weights, order of volumes, crops and augmentation", at_least(0), parameter=True
    )

    def __post_init__(self) -> None:
        for name in ("crop_size", "spacing_mm"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else (value,) * 3)
        for name, value in vars(self).items():
            if isinstance(value, list):  # as JSON has them
                object.__setattr__(self, name, tuple(value))
        check_settings(self)

    def _require_square(self, rotated: str) -> None:
        """Check that the crop is square in the axial plane."""
        if self.crop_size[0] != self.crop_size[1]:
            raise InputError(
                f"crop_size: expected the same size along x and y, because {rotated} are rotated in that plane, found "
                f"{self.crop_size}."
            )


@dataclass(frozen=True)
class Recipe(CommonRecipe):
    """Settings of a fine-tuning run; the defaults are the published ones.

    Source: the BTCV notebook for these weights in https://github.com/Project-MONAI/tutorials; later revisions have a
    learning rate of 4e-4.

    Raises:
        InputError: A value is not allowed; the message names the setting.
    """

    kind = "fine-tuning"
    baseline = "published"

    adam_beta2: float = setting(
        0.999,
        "AdamW scales a step by the squared gradients of the last 1 / (1 - adam_beta2) steps",
        within(0.5, 0.9999),
    )
    clip_norm: float | None = setting(None, "largest norm of the gradient of all weights; None: no clipping", A_NORM)
    class_balance: float = setting(
        0.0, "a class has the weight frequency ** -class_balance in the loss; 0: equal weights", within(0, 1)
    )
    calibration_cases: int = setting(
        0, "training cases on which the head is set so that organs have the right volume; 0: none", at_least(0)
    )
    deep_supervision: int = setting(
        0, "levels of the decoder below the output that have a loss of their own", one_of(0, 1, 2, 3)
    )
    averaged_share: float = setting(
        0.0, "of max_steps, over which the weights are averaged exponentially; 0: no average", within(0, 1)
    )
    organ_crops: float = setting(0.5, "share of the crops with their centre on an organ", A_PROBABILITY)
    crop_centres: str = setting(
        "voxels", "of organs, all alike; or organs: the organ is drawn first, all alike", one_of("voxels", "organs")
    )
    flip_probability: float = setting(0.1, "for each axis of flip_axes", A_PROBABILITY)
    flip_axes: tuple[str, ...] = setting(AXES, "of x, y, z; along x, left and right organs change places", SOME_AXES)
    rotate_probability: float = setting(0.1, "by 90, 180 or 270 degrees in the axial plane", A_PROBABILITY)
    deform_probability: float = setting(
        0.0, "of a rotation by up to 10 degrees about each axis with a scaling by up to 15%", A_PROBABILITY
    )
    shift_probability: float = setting(
        0.5, "of adding a random number from -0.1 to 0.1 to all intensities", A_PROBABILITY
    )
    gamma_probability: float = setting(0.0, "of raising the intensities to a power from 0.7 to 1.5", A_PROBABILITY)
    noise_probability: float = setting(
        0.0, "of adding Gaussian noise with a standard deviation of up to 0.05", A_PROBABILITY
    )
    overlap: float = setting(0.25, "of neighbouring positions of the sliding window", within(0, 0.9))
    window_weights: str = setting(
        "constant", "of the voxels of a window where windows overlap", one_of("constant", "gaussian")
    )
    windows_per_batch: int = setting(
        4, "positions of the sliding window that the network computes at a time", at_least(1)
    )
    test_time_flips: bool = setting(
        False,
        "average the final predictions over eight mirrored scans; takes eight times as long",
        one_of(True, False),
        parameter=True,
    )
    largest_component: tuple[str, ...] = setting(
        (),
        "organs of which only the largest connected piece is kept, with commas, or all",
        SOME_ORGANS,
        parameter=True,
    )

    def __post_init__(self) -> None:
        for name in ("flip_axes", "largest_component"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))
        super().__post_init__()
        if self.rotate_probability:
            self._require_square("crops")
        if self.test_time_flips and not (self.flip_probability and self.flip_axes):
            raise InputError(
                "test_time_flips (--flips of segment.py): expected a recipe that flips in training, found "
                f"flip_probability {self.flip_probability:g} and flip_axes {list(self.flip_axes)}. Its network would "
                "confuse the right kidney of a mirrored scan with the left one. Leave it out."
            )


@dataclass(frozen=True)
class PretrainingRecipe(CommonRecipe):
    """Settings of a pre-training run; the losses of all ``tasks`` have equal weight, as in the paper (see ``Recipe``).

    ``tasks`` may also be a string of names separated by commas.

    Raises:
        InputError: A value is not allowed; the message names the setting.
    """

    kind = "pre-training"
    baseline = "standard"

    max_steps: int = setting(30_000, "training steps", at_least(1), parameter=True, optional=True)
    eval_every: int = another(CommonRecipe, "eval_every", 100, "steps between two evaluations on the held-out volumes")
    learning_rate: float = another(CommonRecipe, "learning_rate", 4e-4)
    schedule: str = another(CommonRecipe, "schedule", "cosine")
    volumes_per_step: int = setting(1, "volumes per step on each GPU", at_least(1), parameter=True, optional=True)
    crops_per_volume: int = another(
        CommonRecipe,
        "crops_per_volume",
        2,
        "crops from each volume, with two views per crop if contrast is a task",
    )
    tasks: tuple[str, ...] = setting(
        TASKS,
        "reconstruction, optionally also rotation and contrast, with commas; standard all three",
        SOME_TASKS,
        parameter=True,
        optional=True,
    )
    mask_ratio: float = setting(
        0.3, "approximate share of a view that is masked", between(0, 0.95), parameter=True, optional=True
    )
    mask_block: int = setting(24, "edge of a masked block in voxels", at_least(2), parameter=True, optional=True)
    temperature: float = setting(
        0.5,
        "of the contrastive loss; a lower one gives the most similar other crops more weight",
        Allowed("a number above 0", lambda value: is_number(value) and value > 0),
    )
    seed: int = another(
        CommonRecipe, "seed", 0, "decides initial weights, order of volumes, crops, rotations and masks"
    )

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str):
            object.__setattr__(self, "tasks", names(self.tasks))
        super().__post_init__()
        if self.mask_block > min(self.crop_size):
            raise InputError(f"mask_block: expected 2 voxels up to {min(self.crop_size)}, found {self.mask_block!r}.")
        if "contrast" in self.tasks and self.volumes_per_step * self.crops_per_volume < 2:
            raise InputError(
                "volumes_per_step and crops_per_volume: expected at least two crops per step, which the contrastive "
                f"task distinguishes, found {self.volumes_per_step} x {self.crops_per_volume}."
            )
        if "rotation" in self.tasks:
            self._require_square("views")


# What differs from the published recipe. The number is what is lost without the choice, in points of mean Dice at the
# demo's scale: mean of three seeds by ``benchmarks.ablation`` with 480 steps (docs/explanation/results.md). The
# learning rate is the published one, as the best one depends on the scale.
TUNED = Recipe(
    schedule="cosine",  # 2.2, together with clip_norm
    clip_norm=1.0,
    adam_beta2=0.95,  # 1.9
    class_balance=0.5,  # 17.1
    calibration_cases=6,  # 2.6; without it organs are 1.17 times as large on average, with it 0.92 times
    deep_supervision=2,  # 4.0
    crop_centres="organs",  # -0.3; 14.8 (two seeds) on a grid of 3 mm, where a crop holds fewer organs
    organ_crops=0.7,
    flip_probability=0.0,  # 9.7
    window_weights="gaussian",  # 1.9, together with overlap
    overlap=0.5,
    eval_every=500,  # a falling rate ends at its best; fewer validations pay for the windows
)

# For two CPU cores and a few minutes: a coarse grid, a small network and a high learning rate.
DEMO_SCALE: dict[str, Any] = {
    "max_steps": 450,
    "eval_every": 75,
    "learning_rate": 8e-3,
    "crops_per_volume": 1,
    "crop_size": (64, 32, 32),  # the width of a body, half of its depth and half of the scan's height
    "spacing_mm": (4.5, 4.5, 4.5),
    "feature_size": 12,
    "window_size": 4,
    "rotate_probability": 0.0,  # needs a crop that is square in the axial plane
}
DEMO = replace(TUNED, **DEMO_SCALE)

PRETRAINING_DEMO = PretrainingRecipe(
    max_steps=180,
    eval_every=45,
    learning_rate=2e-3,
    crops_per_volume=1,
    volumes_per_step=2,
    mask_ratio=0.6,
    mask_block=8,
    crop_size=(64, 64, 32),
    spacing_mm=DEMO.spacing_mm,
    feature_size=DEMO.feature_size,
    window_size=DEMO.window_size,
)

RECIPES = {Recipe.baseline: Recipe(), "tuned": TUNED, "demo": DEMO}
PRETRAINING_RECIPES = {PretrainingRecipe.baseline: PretrainingRecipe(), "demo": PRETRAINING_DEMO}

# The smallest allowed value of each setting that is a whole number; other projects import this.
LEAST = {
    field.name: allowed.least
    for field in (*fields(PretrainingRecipe), *fields(Recipe))
    if (allowed := field.metadata["allowed"]) and allowed.least is not None
}


def learning_rate_at(step: int, recipe: CommonRecipe) -> float:
    """Return the learning rate of a step from 1 to ``max_steps``, which depends only on the step and the recipe."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = max(1, recipe.max_steps // 20)
    if step <= warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (recipe.max_steps - warmup)))


def describe_recipe(recipe: CommonRecipe, every: bool = False) -> Table:
    """Return a table of the settings that differ from the defaults, the values of ``recipe.baseline``.

    ``every`` lists the others too.
    """
    rows, same = [], 0
    for field in fields(recipe):
        value, default = as_text(getattr(recipe, field.name)), as_text(field.default)
        same += value == default
        if every or value != default:
            rows.append((field.name, value, "" if value == default else default, field.metadata["meaning"]))
    columns = ("setting", "this run", f"{recipe.baseline}{', where it differs' * every}", "what it is")
    others = (
        f"{same} settings are those of the {recipe.baseline} recipe. See them: describe_recipe(recipe, every=True)."
    )
    return Table(columns, rows, () if every else (others,))


def as_text(value: object) -> str:
    """Return the value of a setting as a reader writes it: ``96 x 96 x 96``, ``-175 to 250``, or names with commas."""
    if not isinstance(value, tuple):
        return str(value)
    if all(isinstance(part, str) for part in value):  # tasks or organs
        return ", ".join(value) or "none"
    if len(value) == 2:  # a window
        return " to ".join(f"{bound:g}" for bound in value)
    return " x ".join(map(str, value))
