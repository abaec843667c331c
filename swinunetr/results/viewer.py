"""A viewer inside the notebook: a scan and its organs to scroll through, by the optional package ipyniivue."""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from swinunetr.data.geometry import load_nifti
from swinunetr.data.organs import organ_colours
from swinunetr.data.transforms import PERCENTILES

HEIGHT = 400  # pixels
OPACITY = 0.5  # of the organs over the scan
NO_ORGANS = "scan alone"  # the button that hides the organs


def view_scan(
    scan: str | Path,
    labels: Mapping[str, str | Path],
    organs: Sequence[str],
    window: tuple[float, float] | None,
    organ: str | None = None,
) -> object | None:
    """Return a widget that shows a scan and its organs on three planes, oriented and coloured as in the figures.

    The mouse wheel scrolls through the plane under the pointer, and a click moves the other two planes. Buttons choose
    which of ``labels`` is shown. The browser gets a copy of the files, which have to be NIfTI.

    Args:
        scan: File of the scan.
        labels: Files of segmentations by title, such as ``prediction``; the first one is shown at the start.
        organs: Names of the labels from 1.
        window: As in the figures; see ``plots``.
        organ: The viewer opens at the middle of this organ in the last of ``labels`` that contains it; None opens in
            the middle of the scan.

    Returns:
        The widget. None if no front end can show it, and, after one printed line, if ipyniivue is not installed.
    """
    if not has_front_end():
        return None
    if importlib.util.find_spec("ipyniivue") is None:
        print("To scroll through this scan, run `%pip install ipyniivue` in a cell, and then this cell again.")
        return None
    from ipyniivue import NiiVue, Volume
    from ipywidgets import HTML, ToggleButtons, VBox  # type: ignore[import-untyped]

    low, high = window or np.percentile(np.asarray(load_nifti(scan).dataobj), PERCENTILES)
    volumes = [Volume(path=Path(scan), colormap="gray", cal_min=float(low), cal_max=float(high))]
    for file in labels.values():
        volumes.append(Volume(path=Path(file), opacity=0.0))
        volumes[-1].set_colormap_label(_colour_table(len(organs)))
    # As in the figures, the patient's right is on the left, and voxels are not smoothed.
    planes = NiiVue(height=HEIGHT, is_radiological_convention=True, is_nearest_interpolation=True)
    planes.load_volumes(volumes)
    if organ:
        planes.scene.crosshair_pos = _middle(labels.values(), organs.index(organ) + 1)
    choice = ToggleButtons(options=[*labels, NO_ORGANS])

    def show(_: object = None) -> None:
        for title, volume in zip(labels, volumes[1:], strict=True):
            volume.opacity = OPACITY if title == choice.value else 0.0

    show()
    choice.observe(show, "value")
    return VBox([choice, planes, HTML(_legend(organs))])


def has_front_end() -> bool:
    """Return whether this code runs in a notebook that someone has open, rather than under papermill or as a script."""
    from IPython import get_ipython  # here, since the command line does without it

    kernel: Any = getattr(get_ipython(), "kernel", None)
    if not hasattr(kernel, "get_parent"):
        return False
    # By Jupyter's messaging protocol, a front end says with every cell whether its user can answer `input()`. Those of
    # JupyterLab and VS Code can; nbclient, on which papermill is built, says no. Environment variables are less
    # reliable: papermill inherits JPY_SESSION_NAME of Jupyter's server when it is started from a cell.
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin"))


def _middle(files: Iterable[str | Path], label: int) -> list[float]:
    """Return the middle of a label along x, y, z as fractions of the volume, from the last file that has the label."""
    middle = [0.5, 0.5, 0.5]
    for file in files:
        volume = np.asarray(nib.as_closest_canonical(load_nifti(file)).dataobj)
        voxels = np.argwhere(volume.reshape(volume.shape[:3]) == label)
        if len(voxels):
            middle = ((voxels.mean(axis=0).round() + 0.5) / volume.shape[:3]).tolist()
    return middle


def _colour_table(organs: int) -> dict[str, list[int]]:
    """Return the colours of the labels from 0, background, which is transparent, as ipyniivue takes them."""
    colours = [(0, 0, 0, 0), *((*bytes.fromhex(code[1:]), 255) for code in organ_colours(organs))]
    return dict(zip("RGBAI", [*map(list, zip(*colours, strict=True)), list(range(organs + 1))], strict=True))


def _legend(organs: Sequence[str]) -> str:
    """Return the colour and name of each organ as HTML."""
    entries = zip(organ_colours(len(organs)), map(html.escape, organs), strict=True)
    spans = [
        f'<span style="white-space: nowrap"><span style="color: {code}">■</span> {name}</span>'
        for code, name in entries
    ]
    return " &nbsp; ".join(spans)
