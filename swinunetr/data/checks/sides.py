"""Whether organs that are named right and left lie on these sides, in preprocessed cases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from swinunetr.data.preprocessing import Case

MOST_LINES = 6


def check_sides(cases: Sequence[Case], organs: Sequence[str]) -> None:
    """Print a warning for each case in which the right one of a pair of organs lies left of the left one.

    It is a warning, as there are patients whose organs are mirrored.

    Args:
        cases: Preprocessed cases with labels.
        organs: Names of the labels from 1. Two that differ in right and left are a pair: right kidney, left kidney.
    """
    lines = []
    for case in cases:
        for right, left in pairs_of_sides(organs):
            label = case["label"].as_tensor()[0]
            if _place(label, organs.index(right) + 1) < _place(label, organs.index(left) + 1):  # never with NaN
                lines.append(
                    f"warning: {case['name']}: {right} lies left of {left}. Were the two labels exchanged, or is the "
                    "scan mirrored? Compare them with the original in a viewer."
                )
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"warning: the same {len(lines) - MOST_LINES + 1} more times"]
    if lines:
        print("\n".join(lines))


def pairs_of_sides(organs: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that differ in right and left alone, the right one first."""
    by_words = {tuple(re.findall(r"[^\W_]+", organ.casefold())): organ for organ in organs}
    pairs = []
    for words, organ in by_words.items():
        other = by_words.get(tuple("left" if word == "right" else word for word in words), organ)
        if other != organ:
            pairs.append((organ, other))
    return pairs


def _place(label: torch.Tensor, number: int) -> float:
    """Return the mean position of a label (X, Y, Z) along x, to the patient's right; NaN if it is absent."""
    counts = (label == number).sum(dim=(1, 2)).double()
    return float((counts * torch.arange(len(counts))).sum() / counts.sum())
