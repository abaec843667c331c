"""Choice of the recipe from the parameters of a notebook, and the settings that identify a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

from swinunetr.checkpoints import find_checkpoint, network_size, training_note
from swinunetr.dataset import Dataset
from swinunetr.errors import InputError
from swinunetr.recipe import RECIPES, CommonRecipe, Recipe

R = TypeVar("R", bound=CommonRecipe)


def choose_recipe(name: str, recipes: Mapping[str, R] = RECIPES, checkpoint: str | Path | None = None, **changes) -> R:
    """Return the recipe called ``name`` with ``changes`` applied, and the size of the network in ``checkpoint``.

    Args:
        name: One of ``recipes``.
        recipes: The recipes to choose from.
        checkpoint: Weights that the run starts from; None or empty for random ones. Without training (``max_steps`` 0)
            the recipe is the one that they were trained with, if the file notes it.
        changes: Fields of the recipe by name; None leaves the recipe's value.

    Raises:
        InputError: No such recipe, a value that it cannot take, or no checkpoint where nothing is trained.
        CheckpointError: The checkpoint is missing or is not a SwinUNETR's.
    """
    if name not in recipes:
        raise InputError(f"recipe: expected one of {sorted(recipes)}, found {name!r}.")
    recipe = recipes[name]
    if changes.get("max_steps") == 0:
        if not checkpoint:
            raise InputError("max_steps: 0 evaluates given weights; set pretrained_checkpoint to a best_model.pth.")
        recipe = trained_recipe(checkpoint) or recipe
    if checkpoint:
        recipe = replace(recipe, **network_size(checkpoint))
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def trained_recipe(weights: str | Path) -> Recipe | None:
    """Return the recipe that a ``best_model.pth`` was trained with; None if the file does not note one."""
    noted = training_note(find_checkpoint(weights)).get("recipe", {})
    known = {field.name for field in fields(Recipe)}
    return Recipe(**noted) if noted and noted.keys() <= known else None


def run_settings(recipe: CommonRecipe, dataset: Dataset, checkpoint: str, **choices: object) -> dict:
    """Return the settings that decide the result of a run, for :class:`run.RunFolder`.

    Args:
        recipe: Recipe of the run.
        dataset: Data set, of which classes, modality and the names of the cases are included.
        checkpoint: Weights that the run starts from, of which the file name is included; empty for random weights.
        choices: Other parameters of a notebook that decide the result.
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
