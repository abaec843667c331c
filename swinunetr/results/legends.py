"""Names and colours of organs in figures, and legends of them in fonts that can show the names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from swinunetr.data.organs import organ_colours


def add_legend(
    figure: Figure,
    label: np.ndarray,
    organs: Sequence[str],
    numbers: bool = False,
    lines: Sequence[tuple[str, str]] = (),
) -> None:
    """Add a legend of the organs in ``label`` under the figure; ``lines`` are the names of styles of outlines."""
    colours = colour_map(organs)
    present = [i for i in np.unique(label).tolist() if i > 0]
    names = [f"{i} {organ_name(organs, i)}" if numbers else organ_name(organs, i) for i in present]
    handles = [
        Patch(facecolor=colours.colors[i - 1], edgecolor="gray", label=f" {name}" if name.startswith("_") else name)
        for i, name in zip(present, names, strict=True)
    ]
    handles += [Line2D([], [], color="black", linestyle=style, label=name) for name, style in lines]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=5,
            fontsize=8,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.2,
        )


def organ_name(organs: Sequence[str], label: int) -> str:
    """Return the name of a label as the text of a figure."""
    return shown_name(organs[label - 1], f"label {label}")


def shown_name(name: str, otherwise: str) -> str:
    """Return a name as the text of a figure, where ``$`` starts no formula; ``otherwise`` if no font can show it.

    An installed font that has the characters which the present one lacks becomes its fallback.
    """
    present = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    missing = frozenset(character for character in name if not present.get_char_index(ord(character)))
    if missing:
        family = _family_with(missing)
        if not family:
            return otherwise
        plt.rcParams["font.family"] = list(dict.fromkeys([*plt.rcParams["font.family"], family]))
    return name.replace("$", r"\$")


def colour_map(organs: Sequence[str]) -> ListedColormap:
    """Return the colours of the labels from 1; there are at least two, so that one organ has its own."""
    return ListedColormap(organ_colours(max(len(organs), 2)))


@cache
def _family_with(characters: frozenset[str]) -> str:
    """Return the family of an installed font that has all characters; empty if there is none."""
    for font in font_manager.fontManager.ttflist:
        if not font.name.startswith("Last Resort"):  # which shows a box for each character
            has = font_manager.get_font(font.fname).get_char_index
            if all(has(ord(character)) for character in characters):
                return font.name
    return ""
