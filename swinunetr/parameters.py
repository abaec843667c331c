"""Parameters of the notebooks, converted by type: papermill and forms pass many of them as text."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from swinunetr.errors import InputError

MOST_FAULTS = 8  # lines of an error message


def text(value: object) -> str:
    """Return a name as text; a number, as papermill makes of ``-p logdir 2024``, is one too."""
    if isinstance(value, bool) or not isinstance(value, str | os.PathLike | int | float):
        raise ValueError
    return str(value).strip()


def path(value: object) -> str:
    """Return the name of a file or folder, with ``~`` expanded; empty stays empty."""
    name = text(value)
    return str(Path(name).expanduser()) if name else ""


def flag(value: object) -> bool:
    """Return a truth value, also of ``"true"`` and ``"false"`` in any case."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError


def number(value: object) -> float:
    """Return a finite number, also of its text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return found


def whole(value: object) -> int:
    """Return a whole number, also of ``4.0`` and of its text."""
    found = number(value)
    if found != int(found):
        raise ValueError
    return int(found)


def _one_or_three(convert: Callable[[object], float]) -> Callable[[object], object]:
    """Return the conversion of one value, which stands for all axes, or of three, also of a text such as [1, 1, 2]."""

    def converted(value: object) -> object:
        if isinstance(value, str):
            value = [part for part in re.split(r"[\s,;x]+", value.strip().strip("[]()")) if part]
            value = value[0] if len(value) == 1 else value
        if not isinstance(value, list | tuple):
            return convert(value)
        if len(value) != 3:
            raise ValueError
        return tuple(convert(one) for one in value)

    return converted


def names(value: object) -> tuple[str, ...]:
    """Return names, also of a text with commas between them."""
    parts = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError
    return tuple(name for part in parts if (name := part.strip().strip("'\"")))


def settings(value: object) -> dict[str, object]:
    """Return settings by name, also of a JSON text such as {"schedule": "cosine"}; nothing is none."""
    found = json.loads(value) if isinstance(value, str) and value.strip() else value or {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError
    return dict(found)


A_PATH = (path, "the name of a file or folder")
A_FLAG = (flag, "True or False")
A_NUMBER = (number, "a number")
A_WHOLE = (whole, "a whole number")

KINDS = {  # conversion, and what is expected in words
    "data_root": A_PATH,
    "json_path": A_PATH,
    "pretrained_checkpoint": A_PATH,
    "logdir": A_PATH,
    "cache_dir": A_PATH,
    "recipe_name": (text, "a name"),
    "merging": (text, "legacy, current or nothing"),
    "modality": (text, "a name"),
    "pretrained_decoder": A_FLAG,
    "evaluate_only": A_FLAG,
    "test_time_flips": A_FLAG,
    "resume": A_FLAG,
    "save_every": A_NUMBER,
    "learning_rate": A_NUMBER,
    "mask_ratio": A_NUMBER,
    "max_steps": A_WHOLE,
    "eval_every": A_WHOLE,
    "crops_per_volume": A_WHOLE,
    "volumes_per_step": A_WHOLE,
    "mask_block": A_WHOLE,
    "seed": A_WHOLE,
    "fold": A_WHOLE,
    "folds": A_WHOLE,
    "crop_size": (_one_or_three(whole), "one or three whole numbers"),
    "spacing_mm": (_one_or_three(number), "one or three numbers"),
    "tasks": (names, "names with commas between them"),
    "other_settings": (settings, 'settings by name, such as {"schedule": "cosine"}, or nothing'),
    "largest_component": (names, "names of organs with commas between them, all, or nothing"),
}
# Those that None, or its text, leaves to the recipe.
OPTIONAL = {"max_steps", "eval_every", "learning_rate", "crops_per_volume", "volumes_per_step", "crop_size"}
OPTIONAL |= {"merging", "fold", "folds", "spacing_mm", "tasks", "mask_ratio", "mask_block"}


def convert_parameters(given: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of a notebook with the types that they are used with; None leaves a value to the recipe.

    Raises:
        InputError: some cannot be converted; the message names each of them.
    """
    converted, faults = {}, []
    for name, value in given.items():
        convert, expected = KINDS[name]
        if name in OPTIONAL and (value is None or str(value).strip().lower() in ("none", "null", "")):
            converted[name] = None
            continue
        try:
            converted[name] = convert(value)
        except (ValueError, TypeError, OverflowError):
            faults.append(f"{name}: expected {expected}, found {_short(value)}.")
    if len(faults) > 1:
        more = [f"... and {len(faults) - MOST_FAULTS} more"] * (len(faults) > MOST_FAULTS)
        raise InputError("\n".join(["Some parameters are of the wrong type:", *faults[:MOST_FAULTS], *more]))
    if faults:
        raise InputError(faults[0])
    return converted


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
