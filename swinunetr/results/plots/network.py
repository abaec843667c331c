"""Figures of the network: its parts with their sizes, and the feature maps of its encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from monai.networks.nets import SwinUNETR
from torch import nn

import swinunetr.results.plots.drawing as drawing
from swinunetr.network.fast import FASTER
from swinunetr.results.plots.drawing import Look

WIDTH, HEIGHT, STEP = 2.12, 0.66, 0.9  # inches of a box, and from one row to the next
COLUMNS = (0.05, 2.62, 5.19, 7.76)  # inches to the left edge of the boxes: encoder, skip, decoder, head
FIGURE = (9.93, 5.3)  # inches
COLOURS = {"Swin transformer": "#CFE3F7", "convolutions": "#D9EFD3", "decoder": "#FBE3C6", "head": "#F5CFE0"}

PLAIN = {fast: plain for plain, fast in FASTER.items()}  # fast layers ask for a device that autocast knows


class Part(NamedTuple):
    """A part of the network as a box: its title, kind, column and row, and the names of its modules.

    The first module is the one whose output is measured.
    """

    title: str
    kind: str
    column: int
    row: int
    modules: tuple[str, ...]


PARTS = (
    Part("patch embedding", "Swin transformer", 0, 1, ("swinViT.patch_embed",)),
    *(
        Part(f"Swin stage {i}", "Swin transformer", 0, 1 + i, (f"swinViT.layers{i}", f"swinViT.layers{i}c"))
        for i in range(1, 5)
    ),
    *(Part("residual block", "convolutions", 1, i - 1, (f"encoder{i}",)) for i in range(1, 5)),
    Part("bottleneck", "convolutions", 1, 5, ("encoder10",)),
    *(Part("upsampling, residual block", "decoder", 2, i - 1, (f"decoder{i}",)) for i in range(1, 6)),
    Part("head: one channel per class", "head", 3, 0, ("out",)),
)


def plot_network(model: SwinUNETR, crop_size: Sequence[int]) -> Figure:
    """Show the parts of a SwinUNETR as a U: what each one outputs for a crop, its modules and its parameters.

    The sizes are measured: the network runs once on PyTorch's ``meta`` device, which has shapes without values.

    Args:
        model: Segmentation network on any device; it is not changed.
        crop_size: Voxels of the input along x, y, z.
    """
    shapes = measure_outputs(model, crop_size)
    modules = dict(model.named_modules())
    figure = drawing.new_figure(*FIGURE)
    ax = drawing.panel(figure, 0, 0, *FIGURE)
    ax.set(xlim=(0, FIGURE[0]), ylim=(0, FIGURE[1]))
    ax.set_axis_off()
    _draw_box(ax, "input", "white", 0, 0, _size((model.swinViT.patch_embed.proj.in_channels, *crop_size)), "")
    for part in PARTS:
        present = [modules[name] for name in part.modules if name in modules]
        parameters = sum(parameter.numel() for module in present for parameter in module.parameters())
        millions = f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters:,}"
        detail = f"{part.modules[0]}, {millions} parameters"
        title = part.title + _depth(present[0])
        _draw_box(ax, title, COLOURS[part.kind], part.column, part.row, _size(shapes[part.modules[0]]), detail)
    _draw_arrows(ax)
    total = sum(parameter.numel() for parameter in model.parameters())
    _add_key(figure, f"{total / 1e6:.1f} million parameters" if total >= 1e6 else f"{total:,} parameters")
    return figure


def measure_outputs(model: SwinUNETR, crop_size: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shape (channels, x, y, z) of what each part of the network outputs for a crop, by its first module."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    # deepcopy takes the tensors of this table for those of the copy, so that no weights are copied.
    shadows: dict[int, Any] = {id(tensor): nn.Parameter(tensor.detach().to("meta"), False) for tensor in tensors}
    shadow = copy.deepcopy(model, shadows).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    modules = dict(shadow.named_modules())
    for module in modules.values():
        module.__class__ = PLAIN.get(type(module), type(module))
        if hasattr(module, "use_checkpoint"):
            module.use_checkpoint = False
    for part in PARTS:
        name = part.modules[0]
        module = modules[name]
        module = module[0] if isinstance(module, nn.ModuleList) else module  # a stage is a list of one layer

        def note(_module: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape[1:])

        module.register_forward_hook(note)
    with torch.no_grad():
        shadow(torch.empty(1, model.swinViT.patch_embed.proj.in_channels, *crop_size, device="meta"))
    return shapes


def _size(shape: Sequence[int]) -> str:
    """Return channels and voxels as text."""
    channels, *voxels = shape
    return f"{channels} channel{'s' if channels > 1 else ''}, {' x '.join(map(str, voxels))}"


def _depth(module: nn.Module) -> str:
    """Return the number of blocks and heads of a stage as text; empty for other modules."""
    layers = list(module) if isinstance(module, nn.ModuleList) else []
    blocks = getattr(layers[0], "blocks", None) if layers else None
    if not blocks:
        return ""
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    return f": {len(blocks)} blocks" + (f", {heads} heads" if heads else "")


def _corner(column: int, row: int) -> tuple[float, float]:
    """Return the lower left corner of a box in inches."""
    return COLUMNS[column], FIGURE[1] - 0.08 - HEIGHT - STEP * row


def _draw_box(ax: Axes, title: str, colour: str, column: int, row: int, size: str, detail: str) -> None:
    """Draw a part of the network as a box with three lines of text."""
    left, bottom = _corner(column, row)
    shape: Look = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": colour, "edgecolor": "0.35"}
    ax.add_patch(FancyBboxPatch((left, bottom), WIDTH, HEIGHT, linewidth=0.8, **shape))
    middle = left + WIDTH / 2
    lines: list[tuple[str, float, Look]] = [
        (title, 0.8, {"fontsize": 8.5, "weight": "bold"}),
        (size, 0.5, {"fontsize": 8.5}),
        (detail, 0.2, {"fontsize": 7, "color": "0.3"}),
    ]
    for text, height, look in lines:
        ax.text(middle, bottom + height * HEIGHT, text, ha="center", va="center", **look)


def _draw_arrows(ax: Axes) -> None:
    """Draw what flows from box to box: down the encoder, across the skip connections, and up the decoder."""
    for row in range(5):
        _arrow(ax, (0, row, "bottom"), (0, row + 1, "top"), "C0")
    for row in range(4):
        _arrow(ax, (0, row, "right"), (1, row, "left"), "0.35")
        _arrow(ax, (1, row, "right"), (2, row, "left"), "0.35")
        _arrow(ax, (2, row + 1, "top"), (2, row, "bottom"), "C1")
    _arrow(ax, (0, 4, "right"), (2, 4, "left"), "0.35")
    _arrow(ax, (0, 5, "right"), (1, 5, "left"), "0.35")
    _arrow(ax, (1, 5, "right"), (2, 4, "bottom"), "C1", "angle,angleA=0,angleB=90,rad=5")
    _arrow(ax, (2, 0, "right"), (3, 0, "left"), "0.35")


def _arrow(ax: Axes, start: tuple, end: tuple, colour: str, path: str = "arc3") -> None:
    """Draw an arrow between the edges of two boxes, each given by column, row and side."""
    places = []
    for column, row, side in (start, end):
        left, bottom = _corner(column, row)
        across, up = {"left": (0, 0.5), "right": (1, 0.5), "bottom": (0.5, 0), "top": (0.5, 1)}[side]
        places.append((left + across * WIDTH, bottom + up * HEIGHT))
    look: Look = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": 1.6,
        "shrinkA": 0,
        "shrinkB": 0,
        "connectionstyle": path,
    }
    ax.annotate("", places[1], places[0], arrowprops=look)


def _add_key(figure: Figure, total: str) -> None:
    """Add what boxes and arrows stand for, and the number of all parameters, where the U leaves room."""
    handles: list[Any] = [Patch(facecolor=colour, edgecolor="0.35", label=kind) for kind, colour in COLOURS.items()]
    arrows = {"half as many voxels per axis": "C0", "the same number; skip connection": "0.35"}
    arrows["twice as many voxels per axis"] = "C1"
    handles += [Line2D([], [], color=colour, linewidth=1.6, label=text) for text, colour in arrows.items()]
    place = ((COLUMNS[3] - 0.1) / FIGURE[0], 0.5)
    title = (
        "Box: its output (channels, voxels\nalong x, y, z), its name in the\nnetwork, and its parameters;\n"
        + f"{total} in all"
    )
    legend = figure.legend(handles=handles, loc="center left", bbox_to_anchor=place, fontsize=7.5, frameon=False)
    legend.set_title(title)
    legend.get_title().set(fontsize=8, multialignment="left")


def plot_features(image: torch.Tensor, before: torch.Tensor, after: torch.Tensor, channels: int = 5) -> Figure:
    """Show a crop and the feature maps of the encoder for it, before and after loading weights.

    Args:
        image: (1, 1, X, Y, Z).
        before: (1, C, X/2, Y/2, Z/2) features with random weights.
        after: The same with the loaded weights.
        channels: Number of channels shown.
    """
    figure, axes = plt.subplots(2, channels + 1, figsize=(9.8, 3.8), layout="compressed")
    for row, (name, features) in enumerate((("before", before), ("after", after))):
        _draw_map(axes[row, 0], image[0, 0].cpu(), "CT")
        for channel in range(channels):
            _draw_map(axes[row, channel + 1], features[0, channel], f"{name} loading, channel {channel}")
    return figure


def _draw_map(ax: Axes, volume: torch.Tensor, title: str) -> None:
    """Draw the middle axial slice of a volume, scaled to its own range."""
    ax.imshow(volume[:, :, volume.shape[2] // 2].T.numpy(), cmap="gray", origin="lower")
    ax.invert_xaxis()
    ax.set_title(title, fontsize=7)
    ax.set_axis_off()
