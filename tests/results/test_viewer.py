"""The viewer in the notebook: when it is shown, and what it gets. What a browser draws is not tested here."""

import importlib.util

import nibabel as nib
import numpy as np
import pytest
from conftest import PROJECT, write_case
from jupyter_client.manager import start_new_kernel

from swinunetr.data.organs import ORGAN_COLOURS
from swinunetr.results import plots, viewer

ORGANS = ("left box", "right box")


@pytest.fixture
def files(tmp_path):
    """Return the files of a case, stored in another axis order, with two axes reversed."""
    names = write_case(tmp_path, 1)
    for name in names.values():
        turned = nib.load(tmp_path / name).as_reoriented([[1, -1], [0, 1], [2, -1]])
        nib.save(turned, tmp_path / name)
    return {key: tmp_path / name for key, name in names.items()}


@pytest.fixture
def opened(monkeypatch):
    """Let the viewer find a front end, as in an open notebook."""
    monkeypatch.setattr(viewer, "has_front_end", lambda: True)


@pytest.fixture(scope="module")
def kernel():
    """Return the client of a kernel in the project's folder."""
    manager, client = start_new_kernel(cwd=PROJECT)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(("user", "expected"), [(True, "True\n"), (False, "False\n")])
def test_a_front_end_is_found_by_a_user_who_can_answer(kernel, user, expected):
    printed = []
    kernel.execute_interactive(
        "from swinunetr.results import viewer; print(viewer.has_front_end())",
        allow_stdin=user,
        stdin_hook=print,
        output_hook=lambda message: printed.append(message["content"].get("text", "")),
        timeout=60,
    )
    assert "".join(printed) == expected


def test_nothing_is_shown_without_a_front_end(files, capsys):
    assert plots.view_scan(files["image"], {"prediction": files["label"]}, ORGANS, None) is None
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("opened")
def test_one_line_says_how_to_install_the_package(files, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plots.view_scan(files["image"], {"prediction": files["label"]}, ORGANS, None) is None
    printed = capsys.readouterr().out
    assert "%pip install ipyniivue" in printed and printed.count("\n") == 1


@pytest.mark.usefixtures("opened")
def test_buttons_choose_whose_organs_are_shown(files):
    pytest.importorskip("ipyniivue")
    labels = {"prediction": files["label"], "ground truth": files["label"]}
    choice, planes, legend = plots.view_scan(files["image"], labels, ORGANS, (-175, 250), "left box").children
    scan, *overlays = planes.volumes
    assert (scan.path, scan.cal_min, scan.cal_max) == (files["image"], -175, 250)
    shown = {}
    for title in choice.options:
        choice.value = title
        shown[title] = [volume.opacity for volume in overlays]
    assert shown == {"prediction": [0.5, 0], "ground truth": [0, 0.5], "scan alone": [0, 0]}
    assert planes.opts.is_radiological_convention and planes.opts.is_nearest_interpolation
    assert all(name in legend.value for name in ORGANS)
    first = [int(ORGAN_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert overlays[0].colormap_label.lut[:8] == [0, 0, 0, 0, *first, 255]
    # The box has x 10 to 29 of 70, y 12 to 39 of 72 and z 10 to 29 of 68; NumPy rounds half to even.
    np.testing.assert_allclose(planes.scene.crosshair_pos, [20.5 / 70, 26.5 / 72, 20.5 / 68])


@pytest.mark.usefixtures("opened")
def test_an_organ_that_no_segmentation_has_leaves_the_viewer_in_the_middle(files):
    pytest.importorskip("ipyniivue")
    organs = (*ORGANS, "absent box <3")
    _, planes, legend = plots.view_scan(
        files["image"], {"prediction": files["label"]}, organs, None, organs[2]
    ).children
    assert planes.scene.crosshair_pos == [0.5, 0.5, 0.5]
    assert "absent box &lt;3" in legend.value
    low, high = np.percentile(nib.load(files["image"]).get_fdata(), (0.5, 99.5))
    assert (planes.volumes[0].cal_min, planes.volumes[0].cal_max) == pytest.approx((low, high))
