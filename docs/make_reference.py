"""Make `docs/reference/parameters.md` from the fields of the parameters and the recipes.

Run from the project's root, after every change of a field:
    .venv/bin/python docs/make_reference.py
A test compares the page with the fields.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs/reference/parameters.md"
sys.path.insert(0, str(PROJECT))  # the project is not installed

from swinunetr.fields import FilePath, Parameter  # noqa: E402
from swinunetr.recipe import (  # noqa: E402
    PRETRAINING_RECIPES,
    RECIPES,
    CommonRecipe,
    PretrainingRecipe,
    Recipe,
    as_text,
)
from swinunetr.training.parameters import PARAMETERS, PRETRAINING_PARAMETERS  # noqa: E402

TYPES: dict[Any, str] = {
    str: "text",
    FilePath: "path",
    bool: "True or False",
    int: "whole number",
    float: "number",
    tuple[int, int, int]: "1 or 3 whole numbers",
    tuple[float, float, float]: "1 or 3 numbers",
    tuple[float, float]: "2 numbers",
    tuple[str, ...]: "names",
    dict[str, object]: "JSON object",
}

TOP = """# Parameters and settings

At the end you know every parameter of both notebooks and every setting of the recipes: its type, its default, the
values that it may have, and what it means.

This page is made by `.venv/bin/python docs/make_reference.py` from the fields of the code.

- A **parameter** stands in the first cells of a notebook. On the command line it is `papermill -p name value`.
- A **setting** is a value of a recipe. Some settings are parameters too; the others are set with `other_settings`, in
  fine-tuning only: `-p other_settings '{"averaged_share": 0.05}'`.
- *recipe* as a default means `None`: the value of the chosen recipe.
- A list is written as `-p crop_size "[64, 64, 32]"`. One number stands for all three axes, x, y and z.
"""
FINE_TUNING = """
## Parameters of `swinunetr_finetune.ipynb`
"""
FINE_TUNING_RECIPES = """
## Recipes of fine-tuning

`published` is the recipe of the original MONAI tutorial, `tuned` is for few labels, and `demo` is the tuned one with a
small network on a coarse grid. [Results](../explanation/results.md#the-tuned-recipe) has the gain of each choice.
"""
PRETRAINING = """
## Parameters of `ssl_train.ipynb`
"""
PRETRAINING_SETTINGS = """
## Recipes of pre-training

These are this project's recipes. [Pre-training](../explanation/pretraining.md#this-recipe-and-the-public-code) lists
where they differ from the public code.
"""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(value: object) -> str:
    """Return a value as code; words for what stands for nothing."""
    if value is None or value == "" or value == ():
        return "none"
    return f"`{as_text(value)}`"


def allowed_words(allowed: Any) -> str:
    """Return the values that a field may have; nothing where all of its type may be."""
    return allowed.words if allowed else ""


def parameter_table(parameters: Mapping[str, Parameter], recipe: type[CommonRecipe]) -> str:
    """Return the table of a notebook's parameters."""
    settings = {field.name: field for field in fields(recipe)}
    rows = []
    for name, parameter in parameters.items():
        of_recipe = name in settings and parameter.optional
        default = "*recipe*" if of_recipe else code(parameter.default)
        allowed = settings[name].metadata["allowed"] if name in settings else None
        rows.append((f"`{name}`", TYPES[parameter.kind], default, allowed_words(allowed), parameter.meaning))
    return table(("parameter", "type", "default", "allowed", "meaning"), rows)


def setting_type(recipe: type[CommonRecipe], field: Field) -> str:
    """Return the type of a setting in words."""
    hint = get_type_hints(recipe)[field.name]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    return TYPES[kinds[0]]


def recipe_table(recipe: type[CommonRecipe], recipes: Mapping[str, CommonRecipe]) -> str:
    """Return the table of a recipe's settings, with a column of values for each recipe."""
    rows = []
    for field in fields(recipe):
        values = [code(getattr(each, field.name)) for each in recipes.values()]
        allowed, meaning = allowed_words(field.metadata["allowed"]), field.metadata["meaning"]
        rows.append((f"`{field.name}`", setting_type(recipe, field), *values, allowed, meaning))
    return table(("setting", "type", *recipes, "allowed", "meaning"), rows)


def page() -> str:
    """Return the page."""
    parts = [
        (TOP, ""),
        (FINE_TUNING, parameter_table(PARAMETERS, Recipe)),
        (FINE_TUNING_RECIPES, recipe_table(Recipe, RECIPES)),
        (PRETRAINING, parameter_table(PRETRAINING_PARAMETERS, PretrainingRecipe)),
        (PRETRAINING_SETTINGS, recipe_table(PretrainingRecipe, PRETRAINING_RECIPES)),
    ]
    return "".join(f"{text}\n{rows}" if rows else text for text, rows in parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
