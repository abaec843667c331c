"""Figures of one scan: as it lies in its file, and on its way through the transforms of preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.data import MetaTensor

import swinunetr.results.plots.drawing as drawing
from swinunetr.data.label_maps import to_classes
from swinunetr.data.preprocessing import Case
from swinunetr.results.plots.drawing import GAP, LINE, Look, Plane, Window
from swinunetr.results.plots.fonts import shown_name

WIDTH = 9.5  # inches
MOST = 3.2  # inches of height of a row
IN_ROW, MOST_CASES, MOST_SMALL = 6, 24, 1.6  # cases of a row and of a figure, inches of height of each
BAR, HISTOGRAM = 0.75, 1.7  # inches of width of the colour bar with its numbers, and of height
AIR, MOST_HU = -1100, 700  # bounds of a histogram of CT; what is outside is padding, or dense bone and metal
TISSUES = {"air": (-1000, 0), "fat": (-100, 0), "water": (0, 1), "soft tissue": (50, 0)}  # HU, and line of the text
LETTERS = 0.5  # inches of height in which two letters fit above each other
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def plot_scan(entry: Mapping[str, Any], organs: Sequence[str], window: Window) -> Figure:
    """Show a scan as it lies in its file: three planes, the same with its organs, and how often each intensity is.

    The planes are those with the most organs. Ignored voxels are not drawn. A volume of few slices is shown on three
    of them.

    Args:
        entry: Case of a :class:`lists.Dataset` with ``name``, ``image`` and perhaps ``label`` and ``label_map``.
        organs: Names of the labels from 1.
        window: Intensities in HU of black and white. None: the scan is no CT, and they are its percentiles.
    """
    image, spacing = drawing.upright(entry["image"])
    label = np.zeros(image.shape, np.uint8)
    if entry.get("label"):
        classes = to_classes(drawing.upright(entry["label"])[0], entry.get("label_map"))
        label = drawing.organs_alone(classes, organs)
    grey, unit = drawing.limits(image, window), "HU" if window else "intensity"
    planes = drawing.fullest_planes(label, spacing)
    shapes = drawing.shapes_of(planes, image.shape, spacing)
    height = drawing.row_height(shapes, WIDTH - BAR, MOST)
    handles = drawing.organ_handles(label, organs)
    rows = 2 if handles else 1
    below = drawing.legend_height(handles, WIDTH) + HISTOGRAM + 0.75
    figure = drawing.new_figure(WIDTH, below + rows * (height + GAP) + 2.5 * LINE)
    bottoms = [below + (height + GAP) * row for row in reversed(range(rows))]
    panels = [drawing.row_of_panels(figure, bottom, height, shapes, WIDTH - BAR) for bottom in bottoms]
    _draw_rows(panels, image, label, planes, spacing, grey, organs)
    right = panels[0][-1].get_position(original=True).x1 * WIDTH
    bar = drawing.panel(figure, right + 0.1, bottoms[0], 0.12, height)
    figure.colorbar(panels[0][0].images[0], cax=bar)
    bar.set_title(unit, fontsize=8)
    bar.tick_params(labelsize=8)
    drawing.add_legend(figure, handles, WIDTH, below)
    _draw_histogram(drawing.panel(figure, 0.75, 0.45, WIDTH - 0.95, HISTOGRAM), image, grey, unit)
    size = f"{_by_axis(image.shape)} voxels of {_by_axis(spacing)} mm"
    drawing.add_title(figure, f"{shown_name(entry['name'], 'scan')}: {size}")
    return figure


def _by_axis(numbers: Sequence[float] | np.ndarray) -> str:
    """Return three numbers as text, with two decimals at most."""
    return " x ".join(f"{number:.2f}".rstrip("0").rstrip(".") for number in numbers)


def _draw_rows(panels: Sequence, image: np.ndarray, label: np.ndarray, planes, spacing, grey, organs) -> None:
    """Draw planes of a scan into a row of panels, and with their organs into a second one if there is one."""
    for row, axes in enumerate(panels):
        for ax, plane in zip(axes, planes, strict=True):
            drawing.draw_slice(ax, image, plane, spacing, grey)
            if row:
                drawing.cover_organs(ax, plane.cut(label), organs)
            else:
                ax.set_title(plane.title, fontsize=9)


def _draw_histogram(ax: Axes, image: np.ndarray, grey: tuple[float, float], unit: str) -> None:
    """Draw how many voxels have each intensity, with the window as a band, and tissues at their HU if this is CT."""
    low, high = float(image.min()), float(image.max())
    if unit == "HU":
        low, high = max(low, AIR), max(MOST_HU, grey[1])
    else:
        high = min(high, grey[1] + 0.5 * (grey[1] - grey[0]))
    counts, edges = np.histogram(image, 180, (low, max(high, low + 1e-6)))
    ax.stairs(counts, edges, fill=True, color="0.45")
    ax.set_yscale("log")
    ax.set_xlim(edges[0], edges[-1])
    ax.axvspan(*grey, color="C0", alpha=0.2, linewidth=0)
    # Beside the band, where it lies within the panel; the percentiles of another modality are close to its edges.
    height, va, sides = (0.97, "top", ("right", "left")) if unit == "HU" else (1.02, "bottom", ("left", "right"))
    for name, value, side in zip(("black", "white"), grey, sides, strict=True):
        look: Look = {"transform": ax.get_xaxis_transform(), "fontsize": 8, "color": "C0", "ha": side, "va": va}
        ax.text(value, height, f" {name}: {value:.4g} ", **look)
    if unit == "HU":
        for name, (hu, line) in TISSUES.items():
            side = {"fat": "right", "soft tissue": "left"}.get(name, "center")
            ax.axvline(hu, color="0.2", linewidth=0.7, linestyle=":")
            place: Look = {"transform": ax.get_xaxis_transform(), "fontsize": 8, "ha": side}
            ax.text(hu, 1.02 + 0.1 * line, name, va="bottom", **place)
    ax.set_xlabel(unit, fontsize=8)
    ax.set_ylabel("voxels", fontsize=8)
    ax.tick_params(labelsize=8)


def plot_cases(cases: Sequence[Case], organs: Sequence[str]) -> Figure:
    """Show the coronal slice with the most organs of each preprocessed case, with its organs; of many cases, some.

    Args:
        cases: Preprocessed cases with labels; ignored voxels are not drawn.
        organs: Names of the labels from 1.
    """
    chosen = np.linspace(0, len(cases) - 1, min(len(cases), MOST_CASES)).round().astype(int)
    slices = [_coronal(cases[i], organs) for i in chosen]
    rows = [slices[first : first + IN_ROW] for first in range(0, len(slices), IN_ROW)]
    heights = [drawing.row_height([each.shape for each in row], WIDTH, MOST_SMALL) for row in rows]
    handles = drawing.organ_handles(np.concatenate([np.unique(each.label) for each in slices]), organs)
    below = drawing.legend_height(handles, WIDTH)
    figure = drawing.new_figure(WIDTH, below + sum(heights) + LINE * len(rows))
    bottom = figure.get_figheight()
    for row, height in zip(rows, heights, strict=True):
        bottom -= height + LINE
        panels = drawing.row_of_panels(figure, bottom, height, [each.shape for each in row])
        for ax, each in zip(panels, row, strict=True):
            drawing.draw_slice(ax, each.image, Plane("", 1, 0), each.spacing)
            drawing.cover_organs(ax, each.label[:, 0].T, organs)
            ax.set_title(each.name, fontsize=7, pad=2)
    drawing.add_legend(figure, handles, WIDTH, below)
    return figure


class _Slice(NamedTuple):
    """A coronal slice of a case."""

    name: str
    image: np.ndarray  # (X, 1, Z)
    label: np.ndarray  # (X, 1, Z), organs alone
    spacing: np.ndarray  # size of a voxel in mm
    shape: float  # its width over its height in mm


def _coronal(case: Case, organs: Sequence[str]) -> _Slice:
    """Return the coronal slice of a case with the most organs."""
    label = drawing.organs_alone(case["label"].as_tensor()[0].cpu().numpy(), organs)
    image, spacing = case["image"].as_tensor()[0].cpu().numpy(), case["image"].pixdim.numpy()
    at = drawing.fullest_slices(label)[1]
    (shape,) = drawing.shapes_of([Plane("", 1, at)], label.shape, spacing)
    return _Slice(shown_name(case["name"], "case"), image[:, at, None], label[:, at, None], spacing, shape)


def plot_stages(stages: Mapping[str, MetaTensor], window: Window = None) -> Figure:
    """Show a scan after several transforms: the middle slices along the third and the second axis of each array.

    All panels have one scale in mm, so that it can be seen what a crop removes. Each array is drawn as it is stored:
    its first axis runs to the left, its other one up, and the letters tell where that is in the patient. So the
    patient's right is on the left only if the axes are RAS.

    Args:
        stages: Volumes (1, X, Y, Z) or (X, Y, Z) with their affine, by the name of the transform.
        window: Intensities of black and white before they are scaled to 0..1. None takes the percentiles of each.
    """
    volumes = {name: _stored(stage) for name, stage in stages.items()}
    extents = np.array([np.multiply(volume.shape, spacing) for volume, spacing, _ in volumes.values()])
    across, above = extents[:, 0], extents.max(axis=0)  # in mm
    text = 2.3 * LINE
    inches = min((10 - GAP * len(across)) / across.sum(), 5.2 / (above[1] + above[2]))
    cells = np.maximum(across * inches, 1.45)  # a narrow panel leaves room for its title
    figure = drawing.new_figure(cells.sum() + GAP * len(cells), (above[1] + above[2]) * inches + text + GAP)
    left = 0.0
    for (name, (volume, spacing, codes)), width, extent in zip(volumes.items(), cells, extents * inches, strict=True):
        grey = (0.0, 1.0) if volume.min() >= 0 and volume.max() <= 1 else drawing.limits(volume, window)
        for axis, bottom, cell in ((2, above[2] * inches + GAP, above[1] * inches), (1, 0, above[2] * inches)):
            size = extent[0], extent[3 - axis]
            place = left + (width - size[0]) / 2, bottom + (cell - size[1]) / 2
            ax = drawing.panel(figure, *place, *size)
            plane = Plane("", axis, volume.shape[axis] // 2)
            drawing.draw_slice(ax, volume, plane, spacing, grey, letters=False)
            up = codes[3 - axis] if size[1] > LETTERS else ""
            drawing.mark_sides(ax, codes[0], OPPOSITE[codes[0]], OPPOSITE.get(up, ""), up)
        shape, mm = _by_axis(volume.shape), _by_axis(spacing)
        title = f"{name}\naxes {''.join(codes)}, {shape}\n{mm} mm"
        place = (left + width / 2) / figure.get_figwidth(), 1 - 0.03 / figure.get_figheight()
        figure.text(*place, title, fontsize=7, ha="center", va="top")
        left += width + GAP
    return figure


def _stored(stage: MetaTensor) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return a volume (X, Y, Z) as it is stored, the size of its voxels in mm, and the directions of its axes."""
    affine = np.asarray(stage.affine, dtype=float)
    volume = stage.as_tensor().cpu().float().numpy()
    return volume.reshape(volume.shape[-3:]), nib.affines.voxel_sizes(affine), nib.aff2axcodes(affine)
