"""Tables of the scores of cases, with notes of what is wrong in them; their rows are those of ``score_case``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swinunetr.results.evaluation import COMPARED, case_means, resolution_ceiling, score_table
from swinunetr.results.metrics import mean_dice
from swinunetr.tables import Table, Tables

RATIO_LIMITS = (0.8, 1.25)  # of predicted to true volume; a note names the organs outside


def describe_scores(rows: list[dict]) -> Tables:
    """Return a table of each organ's scores, and one that compares them with those of the largest component alone.

    Scores of an organ are mean and standard deviation over the cases in which the ground truth has it. Distances also
    need the organ in the prediction. The last column is the ceiling of the resolution. Without rows there is a note in
    place of the tables.
    """
    if not rows:
        return Tables([Table((), (), ["No case was scored."])])
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    heads = ("organ", "Dice", "own grid", "surface Dice", "HD95, mm", "ml", "true ml", "ml / true", "cases", "ceiling")
    ceiling = resolution_ceiling(rows, organs)
    lines, absent, ratios = [], [], {}
    for organ in organs:
        present = [row for row in rows if row["organ"] == organ and row["volume_true_ml"] > 0]
        if not present:
            absent.append(organ)
            lines.append(dict.fromkeys(heads, "-") | {"organ": organ, "cases": 0})
            continue
        scores = {name: [row[name] for row in present] for name in present[0]}
        predicted, true = np.mean(scores["volume_predicted_ml"]), np.mean(scores["volume_true_ml"])
        ratios[organ] = predicted / true
        cells = [_spread(scores[name], 2) for name in ("dice", "dice_own_grid", "surface_dice")]
        cells += [_spread(scores["hd95_mm"], 1), f"{predicted:.1f}", f"{true:.1f}", f"{ratios[organ]:.2f}"]
        lines.append(dict(zip(heads, [organ, *cells, len(present), f"{ceiling[organ]:.2f}"], strict=True)))
    if means := case_means(rows):
        dice, dice_own_grid = (_spread(column, 2) for column in zip(*means.values(), strict=True))
        mean = {"Dice": dice, "own grid": dice_own_grid, "ml / true": f"{np.mean(list(ratios.values())):.2f}"}
        lines.append(dict.fromkeys(heads, "") | {"organ": "mean of cases"} | mean)
    table = Table(heads, [list(line.values()) for line in lines], _notes(rows, organs, absent, ratios))
    return Tables([table, describe_components(rows)])


def describe_worst_cases(rows: list[dict], most: int = 6) -> Table:
    """Return a table of the cases with the lowest mean Dice on the scan's own grid, ``most`` of them, worst first."""
    lines = []
    for case, (dice, dice_own_grid) in sorted(case_means(rows).items(), key=lambda pair: pair[1][1])[:most]:
        there = [row for row in rows if row["case"] == case and row["volume_true_ml"] > 0]
        worst = sorted(there, key=lambda row: row["dice_own_grid"])[:3]
        names = ", ".join(f"{row['organ']} {row['dice_own_grid']:.2f}" for row in worst)
        lines.append((case, f"{dice:.3f}", f"{dice_own_grid:.3f}", names))
    return Table(("case", "Dice", "own grid", "worst organs"), lines)


def describe_components(rows: list[dict]) -> Table:
    """Return a table of scores as predicted and with the largest component alone, of the organs where they differ."""
    if not rows:
        return Table((), ())
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    digits = {"dice_own_grid": 2, "surface_dice": 2, "hd95_mm": 1}
    columns = [(f"{name}_{kind}", digits[name]) for name in COMPARED for kind in ("all", "largest")]
    lines, same = [], []
    for organ in organs:
        present = [row for row in rows if row["organ"] == organ and row["volume_true_ml"] > 0]
        cells = [_spread([row[name] for row in present], n) for name, n in columns]
        if cells[::2] == cells[1::2]:
            same.append(organ)
        else:
            lines.append([organ, *cells])
    means = [mean_dice(score_table(rows, name, organs)) for name, _ in columns]
    lines.append(["mean of cases", *(f"{mean:.{max(n, 1)}f}" for mean, (_, n) in zip(means, columns, strict=True))])
    heads = ("own grid", "with", "surface Dice", "with", "HD95, mm", "with")
    notes = [f"The same with both, or absent: {', '.join(same)}."] if same else []
    title = 'Without and with "largest component", which keeps the largest connected piece of an organ:'
    return Table(["organ", *heads], lines, notes, title)


def _notes(rows: list[dict], organs: list[str], absent: list[str], ratios: dict[str, float]) -> list[str]:
    """Return sentences about organs that are absent from all cases, that were not found, and whose size is wrong."""
    notes = [f"Absent from the ground truth of all cases: {', '.join(absent)}."] if absent else []
    missed = [organ for organ in organs if _never_found([row for row in rows if row["organ"] == organ])]
    if sum(row["volume_predicted_ml"] for row in rows) == 0:
        notes.append("The model predicts only background: train longer, or check labels, learning rate, intensities.")
    elif missed:
        notes.append(f"Not found in any case: {', '.join(missed)}.")
    low, high = RATIO_LIMITS
    for kind, names in (
        ("small", [organ for organ, ratio in ratios.items() if 0 < ratio < low]),
        ("large", [organ for organ, ratio in ratios.items() if ratio > high]),
    ):
        if names:
            notes.append(f"Too {kind} on average (ml / true outside {low:g} to {high:g}): {', '.join(names)}.")
    return notes


def _never_found(rows: list[dict]) -> bool:
    present = [row for row in rows if row["volume_true_ml"] > 0]
    return bool(present) and all(row["dice_own_grid"] == 0 for row in present)


def _spread(values: Sequence[float], digits: int) -> str:
    """Return mean and standard deviation of the values that are not NaN, as text."""
    numbers = np.array(values)[~np.isnan(values)]
    if not len(numbers):
        return "-"
    return f"{numbers.mean():.{digits}f}" + (f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else "")
