"""Figures of segmentations: beside the ground truth, alone, at each validation, and what removing pieces changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import swinunetr.results.plots.drawing as drawing
from swinunetr.data.label_maps import to_classes
from swinunetr.data.preprocessing import Case
from swinunetr.results.plots.drawing import GAP, LINE, Window
from swinunetr.results.plots.fonts import organ_name, shown_name

NEAR_MM = 30  # from the middle of an organ to the edge of the close view; for a larger organ 0.7 of its extent
PAGE = 7.2  # inches
SMALL = (4.5, 3.4)  # inches, at most
MOST_ROWS = 2  # of pictures side by side


def plot_contours(case: Case, prediction: str | Path, organ: str, organs: Sequence[str], window: Window) -> Figure:
    """Show ground truth and prediction as outlines on three planes through an organ, on the voxels of the scan.

    The upper row shows the whole scan, the lower row the surroundings of the organ, with numbers. The planes go through
    the middle of the organ in the ground truth. Numbers and colours identify the organs. The figure is as wide as a
    page.

    Args:
        case: Labelled case; ignored voxels have no outline in the ground truth.
        prediction: File of the prediction.
        organ: Organ of the planes; the ground truth must contain it.
        organs: Names of the labels from 1.
        window: Intensities of black and white; None takes percentiles.
    """
    image, spacing = drawing.upright(case["source"])
    grey = drawing.limits(image, window)
    truth = _ground_truth(case, organs)
    predicted = drawing.upright(prediction)[0].astype(np.uint8)
    voxels = np.argwhere(truth == organs.index(organ) + 1)
    bounds = _close_view(voxels, spacing, truth.shape)
    middle = voxels.mean(axis=0).round().astype(int)
    planes = drawing.choose_planes(truth.shape, spacing, middle, (voxels.min(axis=0), voxels.max(axis=0)))
    shown = [volume.take(p.position, p.axis).ravel() for volume in (truth, predicted) for p in planes]
    lines = (("ground truth", "solid"), ("prediction", "dashed"))
    handles = drawing.organ_handles(np.concatenate(shown), organs, numbers=True, lines=lines)
    rows = [drawing.shapes_of(planes, shape, spacing) for shape in (truth.shape, bounds[1] - bounds[0])]
    heights = [drawing.row_height(shapes, PAGE) for shapes in rows]
    below = drawing.legend_height(handles, PAGE)
    figure = drawing.new_figure(PAGE, below + sum(heights) + GAP + 2.5 * LINE)
    upper = drawing.row_of_panels(figure, below + heights[1] + GAP, heights[0], rows[0])
    lower = drawing.row_of_panels(figure, below, heights[1], rows[1])
    for whole, close, plane in zip(upper, lower, planes, strict=True):
        for ax in (whole, close):
            drawing.draw_slice(ax, image, plane, spacing, grey)
            drawing.outline_organs(ax, truth.take(plane.position, plane.axis).T, len(organs), numbers=ax is close)
            drawing.outline_organs(ax, predicted.take(plane.position, plane.axis).T, len(organs), "dashed")
        whole.set_title(plane.title, fontsize=9)
        _zoom(whole, close, *(bound[list(drawing.plane_axes(plane.axis))] for bound in bounds))
    title = f"{shown_name(case['name'], 'case')}, planes through the {organ_name(organs, organs.index(organ) + 1)}"
    drawing.add_title(figure, title)
    drawing.add_legend(figure, handles, PAGE, below)
    return figure


def _zoom(whole: Axes, close: Axes, first: np.ndarray, last: np.ndarray) -> None:
    """Limit the close view of a slice to a box (across, up), and mark this box in the whole slice."""
    whole.add_patch(Rectangle(tuple(first), *(last - first), fill=False, color="white", linewidth=0.8))
    close.set(xlim=(first[0], last[0]), ylim=(first[1], last[1]))
    close.xaxis.set_inverted(whole.xaxis_inverted())


def _ground_truth(case: Case, organs: Sequence[str]) -> np.ndarray:
    """Return the classes (X, Y, Z) of the label file of a case, with background in ignored voxels."""
    return drawing.organs_alone(
        to_classes(drawing.upright(str(case["label_source"]))[0], case.get("label_map")), organs
    )


def _close_view(voxels: np.ndarray, spacing: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper bound in voxels of the surroundings of an organ, whose voxels are (N, 3)."""
    middle = voxels.mean(axis=0).round()
    near = max(NEAR_MM, *(0.7 * np.ptp(voxels, axis=0) * spacing)) / spacing  # voxels to each side of the middle
    return np.maximum(middle - near, -0.5), np.minimum(middle + near, np.array(shape) - 0.5)


def plot_segmentation(
    name: str, scan: str | Path, segmentation: str | Path, organs: Sequence[str], window: Window
) -> Figure:
    """Show a scan on three planes with the outlines of its organs, at the slices with the most organs.

    Args:
        name: Title of the figure.
        scan: File of the scan.
        segmentation: File of its segmentation.
        organs: Names of the labels from 1.
        window: Intensities of black and white; None takes percentiles.
    """
    image, spacing = drawing.upright(scan)
    grey = drawing.limits(image, window)
    labels = drawing.upright(segmentation)[0].astype(np.uint8)
    planes = drawing.fullest_planes(labels, spacing)
    shown = np.concatenate([labels.take(plane.position, plane.axis).ravel() for plane in planes])
    handles = drawing.organ_handles(shown, organs, numbers=True)
    width = 10.0
    shapes = drawing.shapes_of(planes, labels.shape, spacing)
    height, below = drawing.row_height(shapes, width), drawing.legend_height(handles, width)
    figure = drawing.new_figure(width, below + height + 2.5 * LINE)
    for ax, plane in zip(drawing.row_of_panels(figure, below, height, shapes), planes, strict=True):
        drawing.draw_slice(ax, image, plane, spacing, grey)
        drawing.outline_organs(ax, labels.take(plane.position, plane.axis).T, len(organs), numbers=True)
        ax.set_title(plane.title, fontsize=9)
    drawing.add_title(figure, shown_name(name, "scan"))
    drawing.add_legend(figure, handles, width, below)
    return figure


def plot_validation(case: Case, labels: torch.Tensor, organs: Sequence[str], title: str) -> Figure:
    """Show a prediction on the training grid, filled, and the ground truth as outlines, in a small figure.

    An axial and a coronal slice are shown, those with the most organs in the ground truth; of a thin volume, slices
    along its short axis. Ignored voxels have no outline.

    Args:
        case: Labelled case.
        labels: Predicted labels (X, Y, Z) on the training grid.
        organs: Names of the labels from 1.
        title: Title of the figure, such as the step.
    """
    image, spacing = case["image"].as_tensor()[0].cpu().numpy(), case["image"].pixdim.numpy()
    truth = drawing.organs_alone(case["label"].as_tensor()[0].cpu().numpy(), organs)
    predicted = labels.cpu().numpy()
    planes = drawing.fullest_planes(truth, spacing)[:2]
    shapes = drawing.shapes_of(planes, truth.shape, spacing)
    height = drawing.row_height(shapes, *SMALL)
    figure = drawing.new_figure(sum(shapes) * height + GAP, height + 1.5 * LINE)
    for ax, plane in zip(drawing.row_of_panels(figure, 0, height, shapes), planes, strict=True):
        drawing.draw_slice(ax, image, plane, spacing)
        drawing.cover_organs(ax, predicted.take(plane.position, plane.axis).T, organs)
        drawing.outline_organs(ax, truth.take(plane.position, plane.axis).T, len(organs))
    drawing.add_title(figure, shown_name(title, ""))
    return figure


def plot_side_by_side(files: Sequence[str | Path], columns: int = 3) -> Figure:
    """Show pictures side by side, from the first to the last; without files, a line that says so.

    Of more pictures than fit one row, as many are shown, evenly spaced, as fill one row or two.

    Args:
        files: PNG files in the order of their steps.
        columns: Number of pictures in a row.
    """
    if not files:
        return drawing.empty_figure("There are no pictures of validations.")
    rows = min(len(files) // columns, MOST_ROWS)
    chosen = np.linspace(0, len(files) - 1, rows * columns or len(files)).round().astype(int)
    pictures = [plt.imread(files[i]) for i in chosen]
    shapes = [picture.shape[1] / picture.shape[0] for picture in pictures]
    in_rows = [shapes[start : start + columns] for start in range(0, len(shapes), columns)]
    width = 10.0 * min(1, len(shapes) / columns)
    heights = [drawing.row_height(row, width) for row in in_rows]
    figure = drawing.new_figure(width, sum(heights) + GAP * (len(heights) - 1))
    bottom, axes = figure.get_figheight(), []
    for row, height in zip(in_rows, heights, strict=True):
        bottom -= height
        axes += drawing.row_of_panels(figure, bottom, height, row)
        bottom -= GAP
    for ax, picture in zip(axes, pictures, strict=True):
        ax.imshow(picture, aspect="auto", interpolation="antialiased")
        ax.set_axis_off()
    return figure
