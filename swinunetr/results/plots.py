"""Figures of scans, labels, predictions and learning curves; each function returns a matplotlib figure.

``organs`` are the names of the labels from 1. A ``window`` has the intensities of black and white; None takes the 0.5th
and 99.5th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from swinunetr.data.geometry import load_nifti
from swinunetr.data.label_maps import to_classes
from swinunetr.data.organs import organ_colours
from swinunetr.data.preprocessing import Case
from swinunetr.data.transforms import PERCENTILES
from swinunetr.results.viewer import view_scan as view_scan  # reached as plots.view_scan in the notebook

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))  # name, and the axis perpendicular to the plane
NEAR_MM = 30  # from the middle of an organ to the edge of the close view; for a larger organ 0.7 of its extent
OUTLINED = [withStroke(linewidth=1.5, foreground="black")]  # a number stays legible on any grey


def plot_case(case: Case, organs: Sequence[str]) -> Figure:
    """Show a preprocessed case on three planes, without and with its labels, at the slices with the most organs."""
    image, spacing = case["image"].as_tensor()[0].float().numpy(), case["image"].pixdim.numpy()
    label = _organs_alone(case["label"].as_tensor()[0].numpy(), organs)
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.5), layout="constrained")
    for column, (plane, axis) in enumerate(PLANES):
        index = _fullest_slice(label, axis)
        _draw(axes[0, column], image, axis, index, spacing)
        _draw(axes[1, column], image, axis, index, spacing, label, organs)
        axes[0, column].set_title(f"{plane}, slice {index}")
    _add_legend(figure, label, organs)
    return figure


def plot_crops(images: torch.Tensor, labels: torch.Tensor, organs: Sequence[str]) -> Figure:
    """Show the middle axial slice of each crop with its labels.

    Args:
        images: (B, 1, X, Y, Z), 0 to 1.
        labels: (B, 1, X, Y, Z), 0 is background; ignored voxels are not drawn.
    """
    figure, axes = plt.subplots(1, len(images), figsize=(2.6 * len(images), 3.0), squeeze=False, layout="constrained")
    drawn = _organs_alone(labels.numpy(), organs)
    middle = images.shape[-1] // 2
    for number, (ax, image, label) in enumerate(zip(axes[0], images[:, 0].numpy(), drawn[:, 0], strict=True), start=1):
        _draw(ax, image, 2, middle, (1, 1, 1), label, organs)
        ax.set_title(f"crop {number}, middle axial slice", fontsize=8)
    _add_legend(figure, drawn[..., middle], organs)
    return figure


def plot_features(image: torch.Tensor, before: torch.Tensor, after: torch.Tensor, channels: int = 5) -> Figure:
    """Show a crop and the feature maps of the encoder for it, before and after loading weights.

    Args:
        image: (1, 1, X, Y, Z).
        before: (1, C, X/2, Y/2, Z/2) features with random weights.
        after: The same with the loaded weights.
        channels: Number of channels shown.
    """
    figure, axes = plt.subplots(2, channels + 1, figsize=(10, 3.8), layout="constrained")
    for row, (name, features) in enumerate((("before", before), ("after", after))):
        _draw_map(axes[row, 0], image[0, 0].cpu(), "CT")
        for channel in range(channels):
            _draw_map(axes[row, channel + 1], features[0, channel], f"{name} loading, channel {channel}")
    return figure


def plot_contours(
    case: Case, prediction: str | Path, organ: str, organs: Sequence[str], window: tuple[float, float] | None
) -> Figure:
    """Show ground truth and prediction as outlines on three planes through an organ, on the voxels of the scan.

    The upper row shows the whole scan, the lower row the surroundings of the organ, with numbers. The planes go through
    the middle of the organ in the ground truth. Numbers and colours identify the organs. The figure is as wide as a
    page.

    Args:
        case: Labelled case; ignored voxels have no outline in the ground truth.
        prediction: File of the prediction.
        organ: Organ of the planes; the ground truth must contain it.
    """
    image, spacing = _grey(case["source"], window)
    truth = _organs_alone(to_classes(_upright(str(case["label_source"]))[0], case.get("label_map")), organs)
    predicted = _upright(prediction)[0].astype(np.uint8)
    middle, first, last = _close_view(truth == organs.index(organ) + 1, spacing)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.8), layout="constrained")
    for column, (plane, axis) in zip(axes.T, PLANES, strict=True):
        across, up = (a for a in range(3) if a != axis)
        for ax in column:
            _draw(ax, image, axis, middle[axis], spacing)
            _outline(ax, truth.take(middle[axis], axis).T, len(organs), "solid", numbers=ax is column[1])
            _outline(ax, predicted.take(middle[axis], axis).T, len(organs), "dashed")
        column[0].set_title(plane, fontsize=9)
        column[0].set_anchor("S")
        box = (first[across], first[up]), *(last - first)[[across, up]]
        column[0].add_patch(Rectangle(*box, fill=False, color="white", linewidth=0.8))
        column[1].set_anchor("N")
        column[1].set(xlim=(first[across], last[across]), ylim=(first[up], last[up]))
        column[1].xaxis.set_inverted(column[0].xaxis_inverted())
    title = f"{_shown_name(case['name'], 'case')}, planes through the {_organ_name(organs, organs.index(organ) + 1)}"
    figure.suptitle(title, fontsize=10)
    shown = [volume.take(middle[axis], axis).ravel() for volume in (truth, predicted) for _, axis in PLANES]
    lines = (("ground truth", "solid"), ("prediction", "dashed"))
    _add_legend(figure, np.concatenate(shown), organs, numbers=True, lines=lines)
    return figure


def plot_segmentation(
    name: str, scan: str | Path, segmentation: str | Path, organs: Sequence[str], window: tuple[float, float] | None
) -> Figure:
    """Show a scan on three planes with the outlines of its organs, at the slices with the most organs.

    Args:
        name: Title of the figure.
        scan: File of the scan.
        segmentation: File of its segmentation.
    """
    image, spacing = _grey(scan, window)
    labels = _upright(segmentation)[0].astype(np.uint8)
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained")
    slices = [_fullest_slice(labels, axis) for _, axis in PLANES]
    for ax, (plane, axis), index in zip(axes, PLANES, slices, strict=True):
        _draw(ax, image, axis, index, spacing)
        _outline(ax, labels.take(index, axis).T, len(organs), "solid", numbers=True)
        ax.set_title(plane, fontsize=9)
    figure.suptitle(_shown_name(name, "scan"), fontsize=10)
    shown = [labels.take(index, axis).ravel() for index, (_, axis) in zip(slices, PLANES, strict=True)]
    _add_legend(figure, np.concatenate(shown), organs, numbers=True)
    return figure


def plot_views(rows: dict[str, torch.Tensor]) -> Figure:
    """Show the middle axial slice of each view; ``rows`` are batches (B, 1, X, Y, Z) by title."""
    count = len(next(iter(rows.values())))
    size = (2.4 * count, 2.6 * len(rows))
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False, layout="constrained")
    for row, (name, views) in zip(axes, rows.items(), strict=True):
        for ax, view in zip(row, views[:, 0].numpy(), strict=True):
            _draw(ax, view, 2, view.shape[2] // 2, (1, 1, 1))
        row[0].set_title(name, loc="left")
    return figure


def plot_tasks(history: Sequence[dict[str, float]], views: torch.Tensor) -> Figure:
    """Show the scores of the pre-training tasks against the step, and a dashed line at chance level.

    The line of the reconstruction is the loss of a prediction that is the same grey everywhere.

    Args:
        history: One row per evaluation with ``step`` and the scores of the tasks.
        views: (B, 1, X, Y, Z) views without masks; they give the chance levels.
    """
    steps = [row["step"] for row in history]
    panels = {  # score: title and chance level
        "reconstruction": ("Reconstruction, L1 loss", float((views - views.median()).abs().mean())),
        "rotation_accuracy": ("Rotation, accuracy", 0.25),
        "contrast": ("Contrastive learning, NT-Xent loss", float(np.log(len(views) - 1))),
    }
    shown = [(name, *panel) for name, panel in panels.items() if name in history[-1]]
    figure, axes = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 3.2), squeeze=False, layout="constrained")
    for ax, (name, title, chance) in zip(axes[0], shown, strict=True):
        ax.plot(steps, [row[name] for row in history], marker=".")
        ax.axhline(chance, color="0.5", linestyle="--", label="chance level")
        ax.set(xlabel="step", title=title)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    axes[0, 0].legend()
    return figure


def plot_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Show the learning curves: training loss and mean Dice against the step, with the best validation marked.

    Args:
        history: One row per validation with ``step``, ``train_loss`` and ``mean_dice``.
    """
    steps = [row["step"] for row in history]
    scored = [row for row in history if not np.isnan(row["mean_dice"])]  # NaN if no organ is in the validation
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    left.plot(steps, [row["train_loss"] for row in history], marker=".")
    left.set(xlabel="step", ylabel="loss", title="Training loss, mean since the previous validation")
    right.plot(steps, [row["mean_dice"] for row in history], marker=".")
    title = "Validation Dice"
    if scored:
        best = max(scored, key=lambda row: row["mean_dice"])
        right.plot(best["step"], best["mean_dice"], "o", mfc="none", ms=12, color="C3")
        title += f", best {best['mean_dice']:.3f} at step {best['step']}"
    right.set(xlabel="step", ylabel="mean Dice", ylim=(0, 1), title=title)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    return figure


def plot_organ_dice(rows: Sequence[dict], organs: Sequence[str]) -> Figure:
    """Show the Dice on the scan's own grid: one dot per case, and a bar at the median.

    Args:
        rows: Rows of ``evaluation.csv``. A Dice of NaN, for an organ that the ground truth lacks, has no dot.
    """
    figure, ax = plt.subplots(figsize=(10, 4), layout="constrained")
    for x, organ in enumerate(organs):
        values = np.array([row["dice_own_grid"] for row in rows if row["organ"] == organ])
        values = values[~np.isnan(values)]
        ax.plot(np.full(len(values), x), values, "o", alpha=0.6, color="C0")
        if len(values):
            ax.hlines(np.median(values), x - 0.3, x + 0.3, color="C3")
    names = [_organ_name(organs, label) for label in range(1, len(organs) + 1)]
    ax.set_xticks(range(len(organs)), names, rotation=35, ha="right")
    ax.set(ylim=(0, 1), ylabel="Dice", title="Dice on the scan's own grid: each case (dots) and median (bars)")
    ax.grid(axis="y", alpha=0.3)
    return figure


def _close_view(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the middle voxel of an organ, and the lower and upper bound of its close view in voxels."""
    voxels = np.argwhere(mask)
    middle = voxels.mean(axis=0).round().astype(int)
    near = max(NEAR_MM, *(0.7 * np.ptp(voxels, axis=0) * spacing)) / spacing  # voxels to each side of the middle
    return middle, np.maximum(middle - near, -0.5), np.minimum(middle + near, np.array(mask.shape) - 0.5)


def _upright(file: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels (X, Y, Z) of a file along x, y, z (right, anterior, superior), and their size in mm."""
    image = nib.as_closest_canonical(load_nifti(file))
    volume = np.asarray(image.dataobj, dtype=np.float32)
    return volume.reshape(volume.shape[:3]), nib.affines.voxel_sizes(image.affine)


def _grey(file: str | Path, window: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan as :func:`_upright` does, from 0 at the lower end of the window to 1 at the upper."""
    image, spacing = _upright(file)
    low, high = window or np.percentile(image, PERCENTILES)
    return (np.clip(image, low, high) - low) / max(high - low, 1e-6), spacing


def _outline(ax: Axes, labels: np.ndarray, organs: int, style: str, numbers: bool = False) -> None:
    """Draw the outline of each organ in a slice (rows up, columns across); with ``numbers``, also its label."""
    for label, colour in enumerate(organ_colours(organs), start=1):
        mask = labels == label
        if not mask.any():
            continue
        padded = np.pad(mask, 1).astype(float)  # an organ at the border needs a closed outline
        across, up = (np.arange(-1, size + 1) for size in (mask.shape[1], mask.shape[0]))
        ax.contour(across, up, padded, [0.5], colors=[colour], linestyles=style, linewidths=1.2)
        if numbers:
            y, x = np.argwhere(mask).mean(axis=0)
            centred: Any = {"ha": "center", "va": "center"}
            ax.text(x, y, str(label), color=colour, fontsize=7, path_effects=OUTLINED, clip_on=True, **centred)


def _organs_alone(label: np.ndarray, organs: Sequence[str]) -> np.ndarray:
    """Return a label with background in its ignored voxels, whose label is larger than that of any organ."""
    return np.where(label <= len(organs), label, 0)


def _fullest_slice(label: np.ndarray, axis: int) -> int:
    """Return the slice perpendicular to ``axis`` with the most organs and, among equals, the most labelled voxels."""
    slices = np.moveaxis(label, axis, 0).reshape(label.shape[axis], -1)
    counts = [np.bincount(labels) for labels in slices.astype(np.uint8)]
    return max(range(len(slices)), key=lambda i: (np.count_nonzero(counts[i]), counts[i][1:].sum()))


def _draw(ax: Axes, image, axis: int, index: int, spacing, label=None, organs: Sequence[str] = ()) -> None:
    """Draw one slice in radiological convention: the patient's right on the left, anterior or superior up."""
    across, up = (a for a in range(3) if a != axis)
    look = dict(origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest")
    ax.imshow(image.take(index, axis).T, cmap="gray", vmin=0, vmax=1, **look)
    if label is not None:
        flat = np.ma.masked_equal(label.take(index, axis).T, 0)
        colours = ListedColormap(organ_colours(max(len(organs), 2)))  # at least two, so that one organ has its own
        ax.imshow(flat, cmap=colours, vmin=1, vmax=colours.N, alpha=0.55, **look)
    if across == 0:  # x increases to the patient's right
        ax.invert_xaxis()
    ax.set_axis_off()


def _draw_map(ax: Axes, volume: torch.Tensor, title: str) -> None:
    """Draw the middle axial slice of a volume, scaled to its own range."""
    ax.imshow(volume[:, :, volume.shape[2] // 2].T.numpy(), cmap="gray", origin="lower")
    ax.invert_xaxis()
    ax.set_title(title, fontsize=7)
    ax.set_axis_off()


def _add_legend(
    figure: Figure, label: np.ndarray, organs: Sequence[str], numbers: bool = False, lines: Sequence = ()
) -> None:
    """Add a legend of the organs in ``label`` under the figure; ``lines`` are pairs of name and style of an outline."""
    handles: list[Any] = []
    for i in np.unique(label[label > 0]).tolist():
        name = f"{i} {_organ_name(organs, i)}" if numbers else _organ_name(organs, i)
        shown = f" {name}" if name.startswith("_") else name  # matplotlib leaves out labels that begin so
        handles.append(Patch(facecolor=organ_colours(len(organs))[i - 1], edgecolor="gray", label=shown))
    handles += [Line2D([], [], color="black", linestyle=style, label=name) for name, style in lines]
    if handles:
        size = {"fontsize": 8, "handlelength": 1.2, "columnspacing": 1.2}
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, **size)


def _organ_name(organs: Sequence[str], label: int) -> str:
    """Return the name of a label as the text of a figure."""
    return _shown_name(organs[label - 1], f"label {label}")


def _shown_name(name: str, otherwise: str) -> str:
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


@cache
def _family_with(characters: frozenset[str]) -> str:
    """Return the family of an installed font that has all characters; empty if there is none."""
    for font in font_manager.fontManager.ttflist:
        if not font.name.startswith("Last Resort"):  # which shows a box for each character
            has = font_manager.get_font(font.fname).get_char_index
            if all(has(ord(character)) for character in characters):
                return font.name
    return ""
