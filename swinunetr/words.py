"""Values within messages: a list cut short, and one value cut short."""

from __future__ import annotations

from collections.abc import Iterable


def named(values: Iterable[object], most: int = 8, counted: bool = False) -> str:
    """Return at most ``most`` values separated by commas, with dots if there are more, or ``counted`` with how many."""
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    more = len(texts) - most
    if more <= 0:
        return ", ".join(texts)
    return ", ".join(texts[:most]) + (f" and {more} more" if counted else ", ...")


def short(value: object, most: int = 200) -> str:
    """Return a value as Python writes it, in at most ``most`` characters, with dots at the end if it is longer."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
