"""Parameters and settings as fields of dataclasses: type, allowed values and meaning of each stand in its field.

papermill and forms pass many values as text, so a value is converted by the annotation of its field.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, NewType, get_args, get_type_hints

from swinunetr.errors import InputError
from swinunetr.words import short

FilePath = NewType("FilePath", str)  # of a file or folder; empty means none
MOST_FAULTS = 8  # lines of an error message

# ----------------------------------------------------------------------------------------------------------- fields


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have."""

    words: str  # in an error message, after "expected"
    test: Callable[[Any], bool]
    least: int | None = None  # the smallest one of whole numbers


def setting(
    default: object,
    meaning: str,
    allowed: Allowed | None = None,
    parameter: bool = False,
    optional: bool = False,
    word: str = "",
) -> Any:
    """Return the field of a setting of a recipe, or of another parameter of a notebook.

    Args:
        default: Its default.
        meaning: What it is, with its unit.
        allowed: The values that it may have; None if they are checked elsewhere or all of the type may be.
        parameter: Whether a setting of a recipe is a parameter of the notebook too.
        optional: Whether that parameter may be None, which leaves the value to the recipe.
        word: Word that the parameter may be in place of a value, from which the notebook finds one; empty: none.
    """
    metadata = {"meaning": meaning, "allowed": allowed, "parameter": parameter, "optional": optional, "word": word}
    return field(default=default, metadata=metadata)


def another(base: Any, name: str, default: object, meaning: str = "") -> Any:
    """Return the field of a setting of ``base`` with another default and, if given, another meaning."""
    metadata = base.__dataclass_fields__[name].metadata
    return setting(default, **metadata | ({"meaning": meaning} if meaning else {}))


def check_settings(settings: Any) -> None:
    """Check the values of a dataclass whose fields are settings.

    Raises:
        InputError: A value is not allowed; the message names its setting.
    """
    for each in fields(settings):
        allowed, value = each.metadata.get("allowed"), getattr(settings, each.name)
        if allowed and not allowed.test(value):
            raise InputError(f"{each.name}: expected {allowed.words}, found {value!r}.")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def at_least(least: int) -> Allowed:
    """Return whole numbers of at least ``least``."""
    return Allowed(f"a whole number of at least {least}", lambda value: is_whole(value) and value >= least, least)


def within(low: float, high: float) -> Allowed:
    """Return numbers from ``low`` to ``high``, both included."""
    return Allowed(f"a number from {low:g} to {high:g}", lambda value: is_number(value) and low <= value <= high)


def between(low: float, high: float) -> Allowed:
    """Return numbers between ``low`` and ``high``, both excluded."""
    return Allowed(f"a number between {low:g} and {high:g}", lambda value: is_number(value) and low < value < high)


def one_of(*choices: object) -> Allowed:
    """Return these values, of their types."""
    words = " or ".join(map(repr, choices))
    return Allowed(words, lambda value: any(value == choice and type(value) is type(choice) for choice in choices))


# ------------------------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook."""

    name: str
    kind: Any  # its type, a key of CONVERSIONS
    optional: bool  # whether it may be None
    default: object  # of a setting, that of the baseline
    meaning: str
    words: str  # what is expected
    word: str = ""  # what it may be in place of a value

    def convert(self, value: object) -> Any:
        """Return a value in the parameter's type; None, or its text, stays None where that is allowed, and so its word.

        Raises:
            ValueError: The value cannot be converted; so do TypeError and OverflowError say.
        """
        if self.optional and (value is None or str(value).strip().lower() in ("none", "null", "")):
            return None
        if self.word and str(value).strip().lower() == self.word:
            return self.word
        return CONVERSIONS[self.kind][0](value)


def parameters_of(options: Any, recipe: Any) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name: all options, and the settings of the recipe that are parameters.

    Args:
        options: Dataclass of the options; fields without a meaning are none of the parameters.
        recipe: Dataclass of the recipe.
    """
    chosen = [_parameter(options, each) for each in fields(options) if each.metadata]
    chosen += [_parameter(recipe, each) for each in fields(recipe) if each.metadata["parameter"]]
    return {parameter.name: parameter for parameter in chosen}


def _parameter(owner: Any, each: Field) -> Parameter:
    """Return a field of a dataclass as a parameter."""
    hint = get_type_hints(owner)[each.name]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    allowed, meaning, optional, word = (each.metadata[key] for key in ("allowed", "meaning", "optional", "word"))
    words = allowed.words if allowed else CONVERSIONS[kinds[0]][1]
    words += f", or {word}" if word else ""
    return Parameter(each.name, kinds[0], optional or kinds != [hint], each.default, meaning, words, word)


def convert_parameters(values: Mapping[str, object], parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the values of parameters in their types.

    Raises:
        InputError: There are no such parameters, or values cannot be converted; the message names each of them.
    """
    if unknown := values.keys() - parameters.keys():
        raise InputError(f"Expected the parameters {', '.join(parameters)}, found {', '.join(sorted(unknown))}.")
    converted, faults = {}, []
    for name, value in values.items():
        try:
            converted[name] = parameters[name].convert(value)
        except (ValueError, TypeError, OverflowError):
            faults.append(f"{name}: expected {parameters[name].words}, found {short(value, 60)}.")
    if len(faults) > 1:
        lines = ["Some parameters are of the wrong type:", *faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            lines.append(f"... and {len(faults) - MOST_FAULTS} more")
        raise InputError("\n".join(lines))
    if faults:
        raise InputError(faults[0])
    return converted


# ------------------------------------------------------------------------------------------------------ conversions


def _text(value: object) -> str:
    """Return a name as text; a number, as papermill makes of ``-p logdir 2024``, is one too."""
    if isinstance(value, bool) or not isinstance(value, str | os.PathLike | int | float):
        raise ValueError
    return str(value).strip()


def _path(value: object) -> str:
    """Return the name of a file or folder, with ``~`` expanded; empty stays empty."""
    name = _text(value)
    return str(Path(name).expanduser()) if name else ""


def _flag(value: object) -> bool:
    """Return a truth value, also of ``"true"`` and ``"false"`` in any case."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError


def _number(value: object) -> float:
    """Return a finite number, also of its text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _whole(value: object) -> int:
    """Return a whole number, also of ``4.0`` and of its text."""
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


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
        return tuple(convert(part) for part in value)

    return converted


def names(value: object) -> tuple[str, ...]:
    """Return names, also of a text with commas between them.

    Raises:
        ValueError: It is neither a list of names nor such a text.
    """
    parts = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError
    return tuple(name for part in parts if (name := part.strip().strip("'\"")))


def _by_name(value: object) -> dict[str, object]:
    """Return settings by name, also of a JSON text such as {"schedule": "cosine"}; nothing is none."""
    settings = json.loads(value) if isinstance(value, str) and value.strip() else value or {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ValueError
    return dict(settings)


CONVERSIONS: dict[Any, tuple[Callable[[object], object], str]] = {  # by type, with what is expected in words
    str: (_text, "a name"),
    FilePath: (_path, "the name of a file or folder"),
    bool: (_flag, "True or False"),
    float: (_number, "a number"),
    int: (_whole, "a whole number"),
    tuple[int, int, int]: (_one_or_three(_whole), "one or three whole numbers"),
    tuple[float, float, float]: (_one_or_three(_number), "one or three numbers"),
    tuple[str, ...]: (names, "names with commas between them"),
    dict[str, object]: (_by_name, 'settings by name, such as {"schedule": "cosine"}, or nothing'),
}
