"""From the parameters of a notebook to a recipe, and to the settings that identify a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

from swinunetr.checkpoints import find_checkpoint, training_note
from swinunetr.dataset import Dataset
from swinunetr.errors import InputError
from swinunetr.recipe import RECIPES, CommonRecipe, Recipe

R = TypeVar("R", bound=CommonRecipe)


def choose_recipe(name: str, recipes: Mapping[str, R] = RECIPES, checkpoint: str = "", **changes) -> R:
    """Return the recipe called ``name`` with ``changes`` applied; a change to None is none.

    Without training (``max_steps`` 0) it is the recipe that ``checkpoint`` was trained with, if the file notes that.

    Raises:
        InputError: no such recipe, a value that it can't take, or no checkpoint where nothing is trained.
    """
    if name not in recipes:
        raise InputError(f"recipe: expected one of {sorted(recipes)}, found {name!r}.")
    recipe = recipes[name]
    if changes.get("max_steps") == 0:
        if not checkpoint:
            raise InputError("max_steps: 0 evaluates given weights; set pretrained_checkpoint to a best_model.pth.")
        recipe = trained_recipe(checkpoint) or recipe
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def trained_recipe(weights: str | Path) -> Recipe | None:
    """Return the recipe of the fine-tuning that made a ``best_model.pth``; None for weights from elsewhere."""
    noted = training_note(find_checkpoint(weights)).get("recipe", {})
    known = {field.name for field in fields(Recipe)}
    return Recipe(**noted) if noted and noted.keys() <= known else None


def run_settings(recipe: CommonRecipe, dataset: Dataset, checkpoint: str, **choices: object) -> dict:
    """Return what decides the result of a run, as plain values, for :class:`run.RunFolder` to compare.

    ``choices`` are those of a notebook that are no part of its recipe.
    """
    split = {name: [case["name"] for case in getattr(dataset, name)] for name in ("training", "validation")}
    return {
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "split": split,
        "classes": dataset.classes,
        "modality": dataset.modality,
        "pretrained_checkpoint": Path(checkpoint).name,
        **choices,
    }
