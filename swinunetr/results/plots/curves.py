"""Figures of numbers: learning curves, scores of pre-training, and Dice by organ."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swinunetr.data.organs import ORGAN_COLOURS, organ_colours
from swinunetr.results.plots.drawing import empty_figure
from swinunetr.results.plots.fonts import organ_name

STYLES = ("-", "--", ":", "-.")  # of lines whose colours repeat
NO_VALIDATION = "There was no validation, so there are no curves."
NAME_HEIGHT = 0.15  # inches between the names of two lines


def plot_curves(history: Sequence[dict[str, float]], organs: Sequence[str] = ()) -> Figure:
    """Show training loss and mean Dice against the step, with the best validation marked, and the Dice of each organ.

    Args:
        history: One row per validation with ``step``, ``train_loss``, ``mean_dice`` and the Dice of each organ by its
            name. A Dice of NaN has no point. Without rows, the figure says that there was no validation.
        organs: Names of the labels from 1. Without any, the Dice of each organ is not shown.
    """
    if not history:
        return empty_figure(NO_VALIDATION)
    if organs:
        height = max(4.4, NAME_HEIGHT * (len(organs) + 7))
        figure = plt.figure(figsize=(9.8, height), layout="constrained")
        panels = figure.subplot_mosaic([["loss", "organs"], ["dice", "organs"]], width_ratios=(1, 1.15))
        loss, dice = panels["loss"], panels["dice"]
        _draw_organ_curves(panels["organs"], history, organs)
    else:
        figure, (loss, dice) = plt.subplots(1, 2, figsize=(9.8, 3.5), layout="constrained")
    steps = [row["step"] for row in history]
    scored = [row for row in history if not np.isnan(row["mean_dice"])]  # NaN if no organ is in the validation
    loss.plot(steps, [row["train_loss"] for row in history], marker=".")
    loss.set(ylabel="loss", title="Training loss, mean since the previous validation")
    dice.plot(steps, [row["mean_dice"] for row in history], marker=".")
    title = "Validation Dice"
    if scored:
        best = max(scored, key=lambda row: row["mean_dice"])
        dice.plot(best["step"], best["mean_dice"], "o", mfc="none", ms=12, color="C3")
        title += f", best {best['mean_dice']:.3f} at step {best['step']}"
    dice.set(ylabel="mean Dice", ylim=(0, 1), title=title)
    for ax in (loss, dice):
        _set_steps(ax)
    return figure


def _set_steps(ax: Axes) -> None:
    """Show whole steps on the horizontal axis of a panel, and a grid."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlabel("step")
    ax.title.set_fontsize(10)
    ax.grid(alpha=0.3)


def _draw_organ_curves(ax: Axes, history: Sequence[dict[str, float]], organs: Sequence[str]) -> None:
    """Draw the Dice of each organ against the step, with its name and last Dice beside the end of its line."""
    steps = np.array([row["step"] for row in history])
    ends = {}
    for number, (organ, colour) in enumerate(zip(organs, organ_colours(len(organs)), strict=True)):
        values = np.array([row.get(organ, np.nan) for row in history], dtype=float)
        scored = ~np.isnan(values)
        if scored.any():
            style = STYLES[number // len(ORGAN_COLOURS) % len(STYLES)]
            ax.plot(steps[scored], values[scored], style, marker=".", color=colour)
            ends[number] = steps[scored][-1], values[scored][-1], colour
    ax.set(ylabel="Dice", ylim=(0, 1), title="Validation Dice of each organ")
    _set_steps(ax)
    order = sorted(ends, key=lambda number: ends[number][1])
    heights = _apart([ends[number][1] for number in order], 1 / max(len(order), 22))
    for number, height in zip(order, heights, strict=True):
        step, value, colour = ends[number]
        ax.annotate(
            f"{value:.2f} {organ_name(organs, number + 1)}",
            (step, value),
            (1.06, height),
            textcoords=ax.get_yaxis_transform(),
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.2, "relpos": (0, 0.5), "shrinkA": 1},
        )


def _apart(values: Sequence[float], distance: float) -> np.ndarray:
    """Return rising values moved apart to at least a distance, within 0 to 1 as far as they fit."""
    places = np.array(values, dtype=float)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + distance)
    top = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - distance
    return places


def plot_tasks(history: Sequence[dict[str, float]], views: torch.Tensor) -> Figure:
    """Show the scores of the pre-training tasks against the step, and a dashed line at chance level.

    The line of the reconstruction is the loss of a prediction that is the same grey everywhere.

    Args:
        history: One row per evaluation with ``step`` and the scores of the tasks. Without rows, the figure says so.
        views: (B, 1, X, Y, Z) views without masks; they give the chance levels.
    """
    if not history:
        return empty_figure(NO_VALIDATION)
    steps = [row["step"] for row in history]
    panels = {  # score: title and chance level
        "reconstruction": ("Reconstruction, L1 loss", float((views - views.median()).abs().mean())),
        "rotation_accuracy": ("Rotation, accuracy", 0.25),
        "contrast": ("Contrastive learning, NT-Xent loss", float(np.log(len(views) - 1))),
    }
    shown = [(name, *panel) for name, panel in panels.items() if name in history[-1]]
    size = (3.4 * len(shown), 3.2)
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, title, chance) in zip(axes[0], shown, strict=True):
        ax.plot(steps, [row[name] for row in history], marker=".")
        ax.axhline(chance, color="0.5", linestyle="--", label="chance level")
        ax.set_title(title)
        ax.set_ylim(bottom=0)
        _set_steps(ax)
    axes[0, 0].legend()
    return figure


def plot_organ_dice(rows: Sequence[dict], organs: Sequence[str]) -> Figure:
    """Show the Dice on the scan's own grid: one dot per case, and a bar at the median.

    Args:
        rows: Rows of ``evaluation.csv``. A Dice of NaN, for an organ that the ground truth lacks, has no dot.
        organs: Names of the labels from 1.
    """
    figure, ax = plt.subplots(figsize=(10, 4), layout="constrained")
    for x, organ in enumerate(organs):
        values = np.array([row["dice_own_grid"] for row in rows if row["organ"] == organ])
        values = values[~np.isnan(values)]
        ax.plot(np.full(len(values), x), values, "o", alpha=0.6, color="C0")
        if len(values):
            ax.hlines(np.median(values), x - 0.3, x + 0.3, color="C3")
    names = [organ_name(organs, label) for label in range(1, len(organs) + 1)]
    ax.set_xticks(range(len(organs)), names, rotation=35, ha="right")
    ax.set(ylim=(0, 1), ylabel="Dice", title="Dice on the scan's own grid: each case (dots) and median (bars)")
    ax.grid(axis="y", alpha=0.3)
    return figure
