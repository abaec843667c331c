"""Figure of what keeping only the largest connected piece of an organ changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import center_of_mass
from scipy.ndimage import label as connected

import swinunetr.results.plots.drawing as drawing
from swinunetr.data.geometry import load_nifti, voxel_volume_mm3
from swinunetr.data.label_maps import to_classes
from swinunetr.data.organs import organ_colours
from swinunetr.data.preprocessing import Case
from swinunetr.results.inference import largest_components
from swinunetr.results.plots.drawing import LINE, Look, Plane, Window
from swinunetr.results.plots.fonts import organ_name, shown_name

WIDTH = 9.5  # inches
REMOVED = "#FF1493"  # pink, which no organ has
NAMED = 3  # removed pieces whose volume is written beside them, the largest ones
VIEWS = {0: "from the side", 1: "from the front", 2: "from above"}  # by the axis of the projection


def plot_components(case: Case, segmentation: str | Path, organ: str, organs: Sequence[str], window: Window) -> Figure:
    """Show a segmented organ before and after all but its largest connected piece are removed.

    Masks are projected along an axis onto the mean of the scan, so that pieces far from the organ are seen too: from
    the front and from the side, and of a thin volume along its short axis.

    Args:
        case: Case; without a label there is no outline of the ground truth.
        segmentation: File of the segmentation, before pieces are removed.
        organ: Name of the organ.
        organs: Names of the labels from 1.
        window: Intensities of black and white; None takes percentiles.
    """
    number = organs.index(organ) + 1
    image, spacing = drawing.upright(case["source"])
    image = np.clip(image, *drawing.limits(image, window))
    labels = drawing.upright(segmentation)[0]
    found = np.where(labels == number, labels, 0).astype(np.uint8)
    kept = largest_components(found, [number]) > 0
    removed = (found > 0) & ~kept
    truth = _ground_truth(case, number)
    voxel_ml = voxel_volume_mm3(load_nifti(segmentation).affine) / 1000
    pieces = _pieces(removed, voxel_ml)
    colour = organ_colours(len(organs))[number - 1]
    handles = _handles(colour, kept, truth, pieces, voxel_ml)
    planes = [plane._replace(position=0) for plane in drawing.choose_planes(image.shape, spacing, [0, 0, 0])]
    views = [plane for plane in planes if plane.axis != 2] or planes[:1]
    shapes = drawing.shapes_of(views, image.shape, spacing) * 2
    height, below = drawing.row_height(shapes, WIDTH), drawing.legend_height(handles, WIDTH)
    figure = drawing.new_figure(WIDTH, below + height + 2.7 * LINE)
    for i, ax in enumerate(drawing.row_of_panels(figure, below, height, shapes)):
        view, is_before = views[i % len(views)], i < len(views)
        flat = image.mean(axis=view.axis, keepdims=True)
        drawing.draw_slice(ax, flat, view, spacing, drawing.limits(flat, None))
        _cover(ax, kept, view, colour)
        if is_before:
            _cover(ax, removed, view, REMOVED)
            _name_pieces(ax, pieces, view)
        if truth is not None and truth.any():
            drawing.outline(ax, truth.any(axis=view.axis).T, "white")
        ax.set_title(f"{'before' if is_before else 'after'}, {VIEWS[view.axis]}", fontsize=9)
    name = shown_name(case["name"], "case")
    drawing.add_title(figure, f"{name}, largest connected piece of the {organ_name(organs, number)}")
    drawing.add_legend(figure, handles, WIDTH, below)
    return figure


def _ground_truth(case: Case, number: int) -> np.ndarray | None:
    """Return the mask of a label in the ground truth of a case; None if it has none."""
    if not case.get("label_source"):
        return None
    return to_classes(drawing.upright(str(case["label_source"]))[0], case.get("label_map")) == number


def _handles(colour: str, kept: np.ndarray, truth: np.ndarray | None, pieces: list, voxel_ml: float) -> list:
    """Return the entries of the legend, with volumes."""
    count = f"{len(pieces)} {'piece' if len(pieces) == 1 else 'pieces'}"
    entries = {f"kept: {kept.sum() * voxel_ml:.1f} ml": colour}
    entries[f"removed: {count}, {sum(ml for _, ml in pieces):.1f} ml"] = REMOVED
    handles: list[Any] = [Patch(facecolor=fill, edgecolor="gray", label=label) for label, fill in entries.items()]
    if truth is not None:
        label = f"ground truth: {truth.sum() * voxel_ml:.1f} ml"
        handles.append(Line2D([], [], color="white", linewidth=2, label=label, path_effects=drawing.OUTLINED))
    return handles


def _pieces(mask: np.ndarray, voxel_ml: float) -> list[tuple[np.ndarray, float]]:
    """Return the middle (3) in voxels and the volume in ml of each connected piece of a mask, the largest first."""
    numbered, count = connected(mask, np.ones((3, 3, 3)))
    voxels = np.bincount(numbered[mask], minlength=count + 1)[1:]
    middles = center_of_mass(mask, numbered, range(1, count + 1))
    pieces = [(np.array(middle), float(n) * voxel_ml) for middle, n in zip(middles, voxels, strict=True)]
    return sorted(pieces, key=lambda piece: -piece[1])


def _cover(ax: Axes, mask: np.ndarray, view: Plane, colour: str) -> None:
    """Cover the projection of a mask with a colour, and outline it, so that a piece of few voxels is seen."""
    flat = mask.any(axis=view.axis).T
    if flat.any():
        drawing.cover(ax, flat, [colour])
        drawing.outline(ax, flat, colour)


def _name_pieces(ax: Axes, pieces: Sequence[tuple[np.ndarray, float]], view: Plane) -> None:
    """Write the volumes of the largest pieces beside them."""
    across, up = drawing.plane_axes(view.axis)
    for middle, ml in pieces[:NAMED]:
        place: Look = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "clip_on": True}
        look: Look = {"color": "white", "fontsize": 8, "path_effects": drawing.OUTLINED}
        ax.annotate(f"{ml:.2g} ml", (middle[across], middle[up]), **place, **look)
