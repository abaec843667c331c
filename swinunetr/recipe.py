"""Recipes, which are the settings of fine-tuning and pre-training: published values, values of the demo, and bounds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from swinunetr.errors import InputError
from swinunetr.tables import Table

# Allowed values: the smallest of settings that are a whole number, all of those that are a choice, and the range of
# those that are a number.
LEAST = {
    "max_steps": 0,  # no training: the given weights are evaluated
    "eval_every": 1,
    "crops_per_volume": 1,
    "windows_per_batch": 1,
    "volumes_per_step": 1,
    "window_size": 2,
    "calibration_cases": 0,
    "seed": 0,
}
CHOICES = {
    "schedule": ("constant", "cosine"),
    "deep_supervision": (0, 1, 2, 3),
    "crop_centres": ("voxels", "organs"),
    "window_weights": ("constant", "gaussian"),
    "test_time_flips": (False, True),
}
RANGES = {
    "weight_decay": (0, 1),
    "adam_beta2": (0.5, 0.9999),
    "class_balance": (0, 1),
    "averaged_share": (0, 1),
    "organ_crops": (0, 1),
    "flip_probability": (0, 1),
    "rotate_probability": (0, 1),
    "deform_probability": (0, 1),
    "shift_probability": (0, 1),
    "gamma_probability": (0, 1),
    "noise_probability": (0, 1),
    "overlap": (0, 0.9),
}
AXES = ("x", "y", "z")

SPACING_LIMITS_MM = (0.1, 20.0)  # no scan of a body is outside this range; a spacing outside it has the wrong unit
TASKS = ("reconstruction", "rotation", "contrast")


@dataclass(frozen=True)
class CommonRecipe:
    """Settings that fine-tuning and pre-training share; the defaults are those of fine-tuning.

    ``crop_size`` and ``spacing_mm`` also accept one number, which then applies to all three axes.

    Raises:
        InputError: A value is outside its bounds; the message names the setting.
    """

    max_steps: int = 30_000
    eval_every: int = 100  # steps between two validations
    learning_rate: float = 1e-4
    schedule: str = "constant"  # or "cosine": linear warm-up in the first 5% of the steps, then decay to 0 at max_steps
    weight_decay: float = 1e-5
    crops_per_volume: int = 4  # batch size of fine-tuning, where one step takes its crops from one volume
    crop_size: tuple[int, int, int] = (96, 96, 96)  # voxels of the training grid; also the sliding window of inference
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)  # training grid: x, y, z (right, anterior, superior)
    hu_window: tuple[float, float] = (-175.0, 250.0)  # mapped to 0..1 and clipped; includes fat and enhanced vessels
    feature_size: int = 48  # channels after the patch embedding; a checkpoint overrides it
    window_size: int = 7  # tokens along each edge of an attention window; a checkpoint overrides it
    seed: int = 0  # decides initial weights, order of volumes, crops and augmentation

    def __post_init__(self) -> None:
        for name in ("crop_size", "spacing_mm"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else (value,) * 3)
        for name, least in LEAST.items():
            value = getattr(self, name, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}: expected a whole number of at least {least}, found {value!r}.")
        for name, allowed in CHOICES.items():
            value = getattr(self, name, allowed[0])
            if not any(value == one and type(value) is type(one) for one in allowed):
                raise InputError(f"{name}: expected {' or '.join(map(repr, allowed))}, found {value!r}.")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name, low)
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"{name}: expected a number from {low:g} to {high:g}, found {value!r}.")
        window = self.hu_window
        numbers = isinstance(window, list | tuple) and all(map(_is_finite, window))
        if not numbers or len(window) != 2 or not window[0] < window[1]:
            raise InputError(f"hu_window: expected two numbers in HU, the lower one first, found {window!r}.")
        object.__setattr__(self, "hu_window", tuple(window))
        if not isinstance(self.learning_rate, int | float) or not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate: expected a number between 0 and 1, found {self.learning_rate!r}.")
        if not isinstance(self.feature_size, int) or self.feature_size < 12 or self.feature_size % 12:
            raise InputError(
                f"feature_size: expected a multiple of 12 (heads: 3, 6, 12, 24), found {self.feature_size}."
            )
        low, high = SPACING_LIMITS_MM
        spacing = self.spacing_mm
        if len(spacing) != 3 or not all(isinstance(mm, int | float) and low <= mm <= high for mm in spacing):
            raise InputError(f"spacing_mm: expected one or three numbers from {low:g} to {high:g} mm, found {spacing}.")
        crop = self.crop_size
        if len(crop) != 3 or any(not isinstance(c, int) or c < 32 or c % 32 for c in crop) or math.prod(crop) <= 32**3:
            raise InputError(
                "crop_size: expected one or three multiples of 32 (the network halves each axis five times), larger "
                f"than 32 x 32 x 32 (a bottleneck of one voxel cannot be normalised), found {crop}. Try 64 or 96."
            )

    def _require_square(self, rotated: str) -> None:
        """Check that the crop is square in the axial plane."""
        if self.crop_size[0] != self.crop_size[1]:
            raise InputError(
                f"crop_size: expected the same size along x and y, because {rotated} are rotated in that plane, found "
                f"{self.crop_size}."
            )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(setting: str, value: object) -> tuple[str, ...]:
    """Return the names that a setting lists, after checking that it is a list of names."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{setting}: expected a list of names, found {value!r}.")
    return tuple(value)


@dataclass(frozen=True)
class Recipe(CommonRecipe):
    """Settings of a fine-tuning run; the defaults are the published ones.

    Source: the BTCV notebook for these weights in https://github.com/Project-MONAI/tutorials; later revisions have a
    learning rate of 4e-4.

    Raises:
        InputError: A value is outside its bounds; the message names the setting.
    """

    adam_beta2: float = 0.999  # AdamW scales a step by the squared gradients of the last 1 / (1 - adam_beta2) steps
    clip_norm: float | None = None  # largest norm of the gradient of all weights; None: no clipping
    class_balance: float = 0.0  # a class has the weight frequency ** -class_balance in the loss; 0: equal weights
    calibration_cases: int = 0  # training cases on which the head is set so that organs have the right volume; 0: none
    deep_supervision: int = 0  # levels of the decoder below the output that have a loss of their own
    averaged_share: float = 0.0  # of max_steps, over which the weights are averaged exponentially; 0: no average
    organ_crops: float = 0.5  # share of the crops with their centre on an organ
    crop_centres: str = "voxels"  # of organs, all alike; or "organs": the organ is drawn first, all alike
    flip_probability: float = 0.1  # for each axis of flip_axes
    flip_axes: tuple[str, ...] = AXES  # of x, y, z; along x, left and right organs change places
    rotate_probability: float = 0.1  # by 90, 180 or 270 degrees in the axial plane
    deform_probability: float = 0.0  # of a rotation by up to 10 degrees about each axis with a scaling by up to 15%
    shift_probability: float = 0.5  # of adding a random number from -0.1 to 0.1 to all intensities
    gamma_probability: float = 0.0  # of raising the intensities to a power from 0.7 to 1.5
    noise_probability: float = 0.0  # of adding Gaussian noise with a standard deviation of up to 0.05
    overlap: float = 0.25  # of neighbouring positions of the sliding window
    window_weights: str = "constant"  # of the voxels of a window where windows overlap; or "gaussian"
    windows_per_batch: int = 4  # positions of the sliding window that the network computes at a time
    test_time_flips: bool = False  # average the final predictions over all eight combinations of axis flips
    largest_component: tuple[str, ...] = ()  # organs of which only the largest connected piece is kept, or "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("flip_axes", "largest_component"):
            value = getattr(self, name)
            object.__setattr__(self, name, _names(name, (value,) if isinstance(value, str) else value))
        if not set(self.flip_axes) <= set(AXES):
            raise InputError(f"flip_axes: expected some of x, y and z, found {', '.join(map(str, self.flip_axes))}.")
        if self.clip_norm is not None and not (_is_finite(self.clip_norm) and self.clip_norm > 0):
            raise InputError(f"clip_norm: expected a number above 0, or None, found {self.clip_norm!r}.")
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
        InputError: A value is outside its bounds; the message names the setting.
    """

    learning_rate: float = 4e-4
    schedule: str = "cosine"
    tasks: tuple[str, ...] = TASKS
    crops_per_volume: int = 2  # each gives two views with the contrastive task, otherwise one
    volumes_per_step: int = 1
    mask_ratio: float = 0.3  # approximate share of the voxels of a view
    mask_block: int = 24  # edge of a masked block, in voxels
    temperature: float = 0.5  # of the contrastive loss; a lower one gives the most similar other crops more weight

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise InputError("max_steps: expected at least one step, found 0.")
        names = self.tasks.split(",") if isinstance(self.tasks, str) else self.tasks
        object.__setattr__(self, "tasks", tuple(name.strip() for name in _names("tasks", names)))
        if "reconstruction" not in self.tasks or not set(self.tasks) <= set(TASKS):
            raise InputError(
                "tasks: expected reconstruction, which trains the decoder, alone or with rotation and contrast, "
                f"found {', '.join(self.tasks)!r}."
            )
        if not isinstance(self.mask_block, int) or not 2 <= self.mask_block <= min(self.crop_size):
            raise InputError(f"mask_block: expected 2 voxels up to {min(self.crop_size)}, found {self.mask_block!r}.")
        if not isinstance(self.mask_ratio, int | float) or not 0 < self.mask_ratio < 0.95:
            raise InputError(f"mask_ratio: expected a number above 0 and below 0.95, found {self.mask_ratio!r}.")
        if not isinstance(self.temperature, int | float) or not self.temperature > 0:
            raise InputError(f"temperature: expected a number above 0, found {self.temperature!r}.")
        if "contrast" in self.tasks and self.volumes_per_step * self.crops_per_volume < 2:
            raise InputError(
                "volumes_per_step and crops_per_volume: expected at least two crops per step, which the contrastive "
                f"task distinguishes, found {self.volumes_per_step} x {self.crops_per_volume}."
            )
        if "rotation" in self.tasks:
            self._require_square("views")


# What differs from the published recipe. The number is what is lost without the choice, in points of mean Dice at the
# demo's scale: mean of three seeds by ``benchmarks.ablation`` with 480 steps (docs/results.md). The learning rate is
# the published one, as the best one depends on the scale.
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
DEMO_SCALE = {
    "max_steps": 450,
    "eval_every": 150,
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

RECIPES = {"published": Recipe(), "tuned": TUNED, "demo": DEMO}
PRETRAINING_RECIPES = {"published": PretrainingRecipe(), "demo": PRETRAINING_DEMO}


def learning_rate_at(step: int, recipe: CommonRecipe) -> float:
    """Return the learning rate of a step from 1 to ``max_steps``, which depends only on the step and the recipe."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = max(1, recipe.max_steps // 20)
    if step <= warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (recipe.max_steps - warmup)))


def describe_recipe(recipe: CommonRecipe) -> Table:
    """Return a table of all settings, with the published value beside each one that differs from it."""
    published = asdict(type(recipe)())
    rows = [
        (name, _as_text(value), "" if value == published[name] else _as_text(published[name]))
        for name, value in asdict(recipe).items()
    ]
    return Table(("setting", "this run", "published, where it differs"), rows)


def _as_text(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    names = all(isinstance(part, str) for part in value)  # of tasks or organs
    return (", ".join(value) or "none") if names else " x ".join(map(str, value))
