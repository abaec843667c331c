"""Parts of figures: planes through a volume, slices, outlines, letters of the patient's sides, and legends.

Panels are placed in inches, each in the shape of its slice, so that none stands in white space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.ndimage import find_objects

from swinunetr.data.geometry import load_nifti
from swinunetr.data.organs import organ_colours
from swinunetr.data.transforms import PERCENTILES
from swinunetr.results.plots.fonts import organ_name

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))  # name, and the axis perpendicular to the plane
SIDES = {0: ("R", "L"), 1: ("P", "A")}  # by the horizontal axis of a plane: what is on the left and on the right
THIN = 0.3  # of the middle extent of a volume; along a shorter one, planes would be narrow strips
OUTLINED = [withStroke(linewidth=2, foreground="black")]  # a text stays legible on any grey
COVER = 0.55  # opacity of an organ over the scan
GAP, LINE = 0.05, 0.19  # inches between panels, and of a line of text

Window = tuple[float, float] | None
Look = dict[str, Any]  # arguments of matplotlib


class Plane(NamedTuple):
    """A slice of a volume: its name, the axis perpendicular to it, and its position along this axis."""

    name: str
    axis: int
    position: int

    @property
    def title(self) -> str:
        return f"{self.name}, slice {self.position}"


def plane_axes(axis: int) -> tuple[int, int]:
    """Return the horizontal and the vertical axis of the plane that is perpendicular to ``axis``."""
    across, up = (other for other in range(3) if other != axis)
    return across, up


def choose_planes(shape: Sequence[int], spacing, best: Sequence[int], bounds: Any = None) -> list[Plane]:
    """Return an axial, a coronal and a sagittal plane; of a thin volume, up to three slices along its short axis.

    Args:
        shape: (X, Y, Z).
        spacing: Size of a voxel in mm.
        best: Index of the slice that is shown, along each axis.
        bounds: First and last index along each axis, between which the other slices of a thin volume lie. None means
            the whole volume.
    """
    extent = np.multiply(shape, spacing)
    short = int(np.argmin(extent))
    if extent[short] > THIN * np.median(extent):
        return [Plane(name, axis, int(best[axis])) for name, axis in PLANES]
    first, last = (int(bound[short]) for bound in bounds) if bounds else (0, shape[short] - 1)
    sixth = (last - first) / 6
    indices = {round(first + sixth), int(best[short]), round(last - sixth)}
    name = next(name for name, axis in PLANES if axis == short)
    return [Plane(name, short, index) for index in sorted(indices)]


def fullest_planes(label: np.ndarray, spacing) -> list[Plane]:
    """Return planes, as :func:`choose_planes` does, at the slices with the most organs."""
    return choose_planes(label.shape, spacing, fullest_slices(label))


def fullest_slices(label: np.ndarray) -> list[int]:
    """Return the slice along each axis with the most organs and, among equals, the most labelled voxels.

    Where there is no organ at all, it is the middle slice.
    """
    places = np.unravel_index(np.flatnonzero(label), label.shape)
    if not len(places[0]):
        return [size // 2 for size in label.shape]
    labels, slices = label[places].astype(np.int64), []
    for place, size in zip(places, label.shape, strict=True):
        counts = np.bincount(place * 256 + labels, minlength=size * 256).reshape(size, 256)
        slices.append(max(range(size), key=lambda i: (np.count_nonzero(counts[i]), counts[i].sum())))
    return slices


def organs_alone(label: np.ndarray, organs: Sequence[str]) -> np.ndarray:
    """Return a label with background in its ignored voxels, whose label is larger than that of any organ."""
    return np.where(label <= len(organs), label, 0)


def upright(file: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels (X, Y, Z) of a file along x, y, z (right, anterior, superior), and their size in mm."""
    image = nib.as_closest_canonical(load_nifti(file))
    volume = np.asarray(image.dataobj, dtype=np.float32)
    return volume.reshape(volume.shape[:3]), nib.affines.voxel_sizes(image.affine)


def limits(image: np.ndarray, window: Window) -> tuple[float, float]:
    """Return the intensities of black and white: the window, or the percentiles of the image."""
    low, high = window or np.percentile(image, PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def draw_slice(
    ax: Axes, image: np.ndarray, plane: Plane, spacing, grey: tuple[float, float] = (0, 1), letters: bool = True
) -> None:
    """Draw a slice in radiological convention: the patient's right on the left, anterior or superior up.

    ``grey`` are the intensities of black and white. With ``letters``, R and L mark the patient's sides.
    """
    across, up = plane_axes(plane.axis)
    look: Look = {"origin": "lower", "aspect": spacing[up] / spacing[across], "interpolation": "antialiased"}
    flat = image.take(plane.position, plane.axis).T.astype(np.float32)
    ax.imshow(flat, cmap="gray", vmin=grey[0], vmax=grey[1], **look)
    if across == 0:  # x increases to the patient's right
        ax.invert_xaxis()
    if letters:
        mark_sides(ax, *SIDES[across])
    ax.set_axis_off()


def mark_sides(ax: Axes, left: str, right: str, bottom: str = "", top: str = "") -> None:
    """Write the letters of the patient's sides at the edges of a panel."""
    places = ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.04, bottom), (0.5, 0.96, top))
    for x, y, letter in places:
        across = {0.03: "left", 0.97: "right"}.get(x, "center")
        along = {0.04: "bottom", 0.96: "top"}.get(y, "center")
        look: Look = {"color": "white", "fontsize": 8, "path_effects": OUTLINED}
        if letter:
            ax.text(x, y, letter, transform=ax.transAxes, ha=across, va=along, **look)


def cover_organs(ax: Axes, labels: np.ndarray, organs: Sequence[str], opacity: float = COVER) -> None:
    """Cover the organs of a slice (rows up, columns across) with their colours."""
    cover(ax, labels, organ_colours(len(organs)), opacity)


def cover(ax: Axes, labels: np.ndarray, colours: Sequence[str], opacity: float = COVER) -> None:
    """Cover the labels from 1 in a slice (rows up, columns across) with colours."""
    shown = np.ma.masked_equal(labels, 0)
    look: Look = {"origin": "lower", "aspect": ax.get_aspect(), "interpolation": "nearest", "alpha": opacity}
    inverted = ax.xaxis_inverted()  # which imshow would reset
    ax.imshow(shown, cmap=ListedColormap(list(colours)), vmin=0.5, vmax=len(colours) + 0.5, **look)
    ax.xaxis.set_inverted(inverted)


def outline_organs(ax: Axes, labels: np.ndarray, organs: int, style: str = "solid", numbers: bool = False) -> None:
    """Draw the outline of each organ in a slice (rows up, columns across); with ``numbers``, also its label."""
    colours = organ_colours(organs)
    for label, box in enumerate(find_objects(labels.astype(np.uint8), organs), start=1):
        if box is None:
            continue
        mask = labels[box] == label
        outline(ax, mask, colours[label - 1], style, (box[1].start, box[0].start))
        if numbers:
            y, x = np.argwhere(mask).mean(axis=0) + (box[0].start, box[1].start)
            centred: Look = {"ha": "center", "va": "center"}
            look: Look = {"color": colours[label - 1], "fontsize": 8, "path_effects": OUTLINED}
            ax.text(x, y, str(label), clip_on=True, **look, **centred)


def outline(ax: Axes, mask: np.ndarray, colour: str, style: str = "solid", corner=(0, 0), width: float = 1.2) -> None:
    """Draw the outline of a mask (rows up, columns across), whose first voxel is at ``corner`` (across, up)."""
    padded = np.pad(mask, 1).astype(float)  # an organ at the border needs a closed outline
    across, up = (start + np.arange(-1, n + 1) for start, n in zip(corner, mask.shape[::-1], strict=True))
    ax.contour(across, up, padded, [0.5], colors=[colour], linestyles=style, linewidths=width)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return plt.figure(figsize=(width, height))


def empty_figure(text: str) -> Figure:
    """Return a small figure with a text, for what there is no picture of."""
    figure = new_figure(5, 0.6)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def add_title(figure: Figure, title: str) -> None:
    """Add a title at the upper edge of a figure."""
    figure.suptitle(title, fontsize=10, y=1 - 0.05 / figure.get_figheight(), va="top")


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return a new panel at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def shapes_of(planes: Sequence[Plane], shape: Sequence[int], spacing) -> list[float]:
    """Return the width of each plane over its height."""
    extent = np.multiply(shape, spacing)
    return [float(np.divide(*extent[list(plane_axes(plane.axis))])) for plane in planes]


def row_height(shapes: Sequence[float], width: float, most: float = 4.2) -> float:
    """Return the height in inches, ``most`` at most, with which panels side by side fill a width."""
    return min(most, (width - GAP * (len(shapes) - 1)) / sum(shapes))


def row_of_panels(
    figure: Figure, bottom: float, height: float, shapes: Sequence[float], width: float = 0
) -> list[Axes]:
    """Return panels side by side, in the middle of a width from the left edge; 0 is that of the figure."""
    widths = [height * shape for shape in shapes]
    width = width or figure.get_figwidth()
    left = (width - sum(widths) - GAP * (len(widths) - 1)) / 2
    panels = []
    for across in widths:
        panels.append(panel(figure, left, bottom, across, height))
        left += across + GAP
    return panels


def organ_handles(labels: np.ndarray, organs: Sequence[str], numbers: bool = False, lines: Sequence = ()) -> list:
    """Return the entries of a legend: the organs in ``labels``, and ``lines``, pairs of name and style of a line."""
    handles: list[Any] = []
    colours = organ_colours(len(organs))
    for i in np.unique(labels[labels > 0]).astype(int).tolist():
        name = f"{i} {organ_name(organs, i)}" if numbers else organ_name(organs, i)
        shown = f" {name}" if name.startswith("_") else name  # matplotlib leaves out labels that begin so
        handles.append(Patch(facecolor=colours[i - 1], edgecolor="gray", label=shown))
    return handles + [Line2D([], [], color="black", linestyle=style, label=name) for name, style in lines]


def legend_height(handles: Sequence, width: float) -> float:
    """Return the height in inches of a legend of a width."""
    return LINE * -(-len(handles) // _columns(handles, width)) + 0.1 if handles else 0.05


def add_legend(figure: Figure, handles: Sequence, width: float, top: float) -> None:
    """Add a legend, centred, whose upper edge is ``top`` inches above the lower edge of the figure."""
    if handles:
        place: Look = {"loc": "upper center", "bbox_to_anchor": (0.5, top / figure.get_size_inches()[1])}
        size: Look = {
            "fontsize": 8,
            "handlelength": 1.2,
            "columnspacing": 1.2,
            "labelspacing": 0.35,
            "borderaxespad": 0.3,
        }
        figure.legend(handles=handles, ncols=_columns(handles, width), frameon=False, **place, **size)


def _columns(handles: Sequence, width: float) -> int:
    """Return how many columns of a legend fit a width in inches."""
    wide = {"W", "F"}  # characters of double width, as in Chinese
    names = [handle.get_label() for handle in handles]
    longest = max(sum(1 + (unicodedata.east_asian_width(c) in wide) for c in name) for name in names)
    return max(1, min(7, int(width / (0.062 * longest + 0.4))))
