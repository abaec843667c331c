"""Figures of what one training step sees: crops, their place in the scan, and their augmentation; views of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import swinunetr.results.plots.drawing as drawing
from swinunetr.data.preprocessing import Case
from swinunetr.results.plots.drawing import GAP, LINE, Look, Plane
from swinunetr.results.plots.fonts import shown_name

MOST_CROPS = 4
CROP_COLOURS = ("#FFD700", "#00E5FF", "#FF4DFF", "#7CFC00")  # of the boxes, on grey
WIDTH, MOST_HEIGHT = 9.8, 4.4  # inches


def plot_augmentation(case: Case, crops: Sequence[dict], changed: Sequence[dict], organs: Sequence[str]) -> Figure:
    """Show where crops lie in a case, and their middle axial slices before and after their random changes.

    The boxes of the crops are projected onto an axial and a coronal slice through as many of them as possible, so a box
    can lie in front of the slice or behind it. At most four crops are shown.

    Args:
        case: Labelled case, whose image has its affine.
        crops: Crops of the case with ``image`` and ``label``, (1, X, Y, Z) with their affines.
        changed: The same crops after the other transforms.
        organs: Names of the labels from 1; ignored voxels are not drawn.
    """
    crops, changed = crops[:MOST_CROPS], changed[:MOST_CROPS]
    image, label, spacing = _volumes(case, organs)
    pairs = [[_middle(part, organs) for part in pair] for pair in zip(crops, changed, strict=True)]
    shapes = [max(shape for _, _, _, shape in pair) for pair in pairs]
    extent = np.multiply(image.shape, spacing)
    tall = float((extent[1] + extent[2]) / extent[0])  # height over width of the two slices of the case
    width = WIDTH - GAP * (len(pairs) + 1)
    height = min(MOST_HEIGHT, width / (1 / tall + sum(shapes) / 2))
    left, half = height / tall, height / 2
    handles = drawing.organ_handles(
        np.concatenate([labels.ravel() for pair in pairs for _, labels, _, _ in pair]), organs
    )
    width = left + half * sum(shapes) + GAP * (len(pairs) + 2)
    below = drawing.legend_height(handles, width)
    figure = drawing.new_figure(width, below + height + GAP + 1.2 * LINE)
    heights = left * extent[1:] / extent[0]
    boxes = [_box(case, crop) for crop in crops]
    for axis, bottom, rise in ((2, below + heights[1] + GAP, heights[0]), (1, below, heights[1])):
        _draw_case(drawing.panel(figure, 0, bottom, left, rise), image, label, spacing, boxes, axis, organs)
    figure.axes[0].set_title(shown_name(case["name"], "case"), fontsize=9)
    start = left + 3 * GAP
    for number, (pair, shape) in enumerate(zip(pairs, shapes, strict=True)):
        for part, bottom, text in zip(pair, (below + half + GAP, below), ("before", "after"), strict=True):
            ax = drawing.panel(figure, start, bottom, half * shape, half)
            _draw_crop(ax, part, organs, CROP_COLOURS[number], text)
        figure.axes[-2].set_title(f"crop {number + 1}", fontsize=9)
        start += half * shape + GAP
    drawing.add_legend(figure, handles, width, below)
    return figure


def _draw_case(ax: Axes, image: np.ndarray, label: np.ndarray, spacing, boxes: list, axis: int, organs) -> None:
    """Draw a slice of the case perpendicular to ``axis``, and the boxes of the crops."""
    plane = Plane("", axis, _busiest(boxes, label, axis))
    drawing.draw_slice(ax, image, plane, spacing)
    drawing.cover_organs(ax, label.take(plane.position, axis).T, organs, 0.35)
    across, up = drawing.plane_axes(axis)
    for box, colour in zip(boxes, CROP_COLOURS, strict=False):
        size = box[1] - box[0]
        look: Look = {"fill": False, "edgecolor": colour, "linewidth": 1.5}
        ax.add_patch(Rectangle((box[0, across], box[0, up]), size[across], size[up], **look))


def _draw_crop(ax: Axes, part: tuple, organs: Sequence[str], colour: str, text: str) -> None:
    """Draw a slice of a crop in a frame, with a text in its corner; ``part`` is what :func:`_middle` returns."""
    image, labels, spacing, _ = part
    drawing.draw_slice(ax, image[..., None], Plane("", 2, 0), spacing, letters=False)
    drawing.cover_organs(ax, labels.T, organs)
    look: Look = {"fill": False, "edgecolor": colour, "linewidth": 2.5, "transform": ax.transAxes}
    ax.add_patch(Rectangle((0, 0), 1, 1, **look))
    style: Look = {"color": "white", "fontsize": 8, "path_effects": drawing.OUTLINED}
    ax.text(0.03, 0.96, text, transform=ax.transAxes, va="top", **style)


def _middle(crop: Mapping[str, Any], organs: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the middle axial slice of a crop and of its label, the size of a voxel in mm, and width over height."""
    image, label, spacing = _volumes(crop, organs)
    middle = image.shape[2] // 2
    return image[..., middle], label[..., middle], spacing, image.shape[0] * spacing[0] / (image.shape[1] * spacing[1])


def _volumes(case: Mapping[str, Any], organs: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image and label (X, Y, Z) of a case or crop, and the size of a voxel in mm."""
    image, label = (case[key].as_tensor()[0].cpu() for key in ("image", "label"))
    return image.float().numpy(), drawing.organs_alone(label.numpy(), organs), case["image"].pixdim.numpy()


def _box(case: Mapping[str, Any], crop: Mapping[str, Any]) -> np.ndarray:
    """Return the lower and the upper corner (2, 3) of a crop in voxels of its case, from their affines."""
    to_case = np.linalg.inv(np.asarray(case["image"].affine)) @ np.asarray(crop["image"].affine)
    corners = np.array([[-0.5] * 3, np.subtract(crop["image"].shape[1:], 0.5)])
    return corners @ to_case[:3, :3].T + to_case[:3, 3]


def _busiest(boxes: Sequence[np.ndarray], label: np.ndarray, axis: int) -> int:
    """Return the slice that passes through the most boxes and, among equals, has the most labelled voxels."""
    others = tuple(a for a in range(3) if a != axis)
    organs = (label > 0).sum(axis=others)
    through = [sum(box[0, axis] < i < box[1, axis] for box in boxes) for i in range(label.shape[axis])]
    return max(range(label.shape[axis]), key=lambda i: (through[i], organs[i]))


def plot_crops(images: torch.Tensor, labels: torch.Tensor, organs: Sequence[str]) -> Figure:
    """Show the middle axial slice of each crop with its labels.

    Args:
        images: (B, 1, X, Y, Z), 0 to 1.
        labels: (B, 1, X, Y, Z), 0 is background; ignored voxels are not drawn.
    """
    figure, axes = plt.subplots(1, len(images), figsize=(2.6 * len(images), 3.0), squeeze=False)
    drawn = drawing.organs_alone(labels.numpy(), organs)
    plane = Plane("axial", 2, images.shape[-1] // 2)
    for number, (ax, image, label) in enumerate(zip(axes[0], images[:, 0].numpy(), drawn[:, 0], strict=True), start=1):
        drawing.draw_slice(ax, image, plane, (1, 1, 1), letters=False)
        drawing.cover_organs(ax, label.take(plane.position, 2).T, organs)
        ax.set_title(f"crop {number}, middle axial slice", fontsize=8)
    drawing.add_legend(figure, drawing.organ_handles(drawn[..., plane.position], organs), 2.6 * len(images), 0.5)
    return figure


def plot_views(rows: dict[str, torch.Tensor]) -> Figure:
    """Show the middle axial slice of each view; ``rows`` are batches (B, 1, X, Y, Z) by title."""
    count, shape = next(iter(rows.values()))[:, 0, ..., 0].shape[0], next(iter(rows.values())).shape[2:]
    shapes = [shape[0] / shape[1]] * count
    width = min(9.5, 2.4 * count)
    height = drawing.row_height(shapes, width)
    each = height + 1.3 * LINE
    figure = drawing.new_figure(width, each * len(rows))
    for row, (name, views) in enumerate(rows.items()):
        panels = drawing.row_of_panels(figure, each * (len(rows) - 1 - row), height, shapes)
        for ax, view in zip(panels, views[:, 0].numpy(), strict=True):
            drawing.draw_slice(ax, view, Plane("axial", 2, view.shape[2] // 2), (1, 1, 1), letters=False)
        panels[0].set_title(name, loc="left", fontsize=9)
    return figure
