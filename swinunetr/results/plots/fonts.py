"""Names as texts of a figure, in fonts that can show them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import matplotlib.pyplot as plt
from matplotlib import font_manager


def organ_name(organs: Sequence[str], label: int) -> str:
    """Return the name of a label, from 1, as the text of a figure."""
    return shown_name(organs[label - 1], f"label {label}")


def shown_name(name: str, otherwise: str) -> str:
    """Return a name as the text of a figure, where ``$`` starts no formula; ``otherwise`` if no font can show it.

    An installed font that has the characters which the present one lacks becomes its fallback.
    """
    present = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    missing = frozenset(character for character in name if not present.get_char_index(ord(character)))
    if missing:
        family = family_with(missing)
        if not family:
            return otherwise
        plt.rcParams["font.family"] = list(dict.fromkeys([*plt.rcParams["font.family"], family]))
    return name.replace("$", r"\$")


@cache
def family_with(characters: frozenset[str]) -> str:
    """Return the family of an installed font that has all characters; empty if there is none."""
    for font in font_manager.fontManager.ttflist:
        if not font.name.startswith("Last Resort"):  # which shows a box for each character
            has = font_manager.get_font(font.fname).get_char_index
            if all(has(ord(character)) for character in characters):
                return font.name
    return ""
