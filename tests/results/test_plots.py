"""Figures of cases, views, scores and learning curves, with names of organs in fonts that can show them."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case
from matplotlib import font_manager
from matplotlib.colors import to_hex

from swinunetr.data.label_maps import IGNORED, LabelMap
from swinunetr.data.organs import organ_colours
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.results import plots

ORGANS = ("left box", "right box")


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


def legend(figure) -> list[str]:
    """Return the entries of the legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_case_is_shown_on_three_planes_in_radiological_convention(small_data):
    _, (case, _) = prepared(small_data)
    figure = plots.plot_case(case, ORGANS)
    titles = [ax.get_title() for ax in figure.axes[:3]]
    assert [title.split(",")[0] for title in titles] == ["axial", "coronal", "sagittal"]
    assert [ax.xaxis_inverted() for ax in figure.axes] == [True, True, False] * 2
    assert legend(figure) == list(ORGANS)


def test_outlines_are_solid_for_the_ground_truth_and_dashed_for_the_prediction(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    (case,) = prepare_cases([{"name": "img0001", **files}], SMALL, "CT")
    figure = plots.plot_contours(case, files["label"], "left box", ORGANS, (-175, 250))
    assert legend(figure)[:2] == ["1 left box", "2 right box"] and len(legend(figure)) == 4
    styles = [line.get_linestyle() for line in figure.legends[0].get_lines()]
    assert styles == ["-", "--"] and legend(figure)[2:] == ["ground truth", "prediction"]
    colours = {to_hex(c.get_edgecolor()[0]) for ax in figure.axes for c in ax.collections if len(c.get_edgecolor())}
    assert {colour.lower() for colour in organ_colours(1)} <= colours


def test_ignored_voxels_are_not_drawn_as_an_organ(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    label_map = LabelMap("a", ((0, IGNORED), (1, 2), (2, IGNORED)))
    (case,) = prepare_cases([{"name": "img0001", **files, "label_map": label_map}], SMALL, "CT")
    crops = case["label"].as_tensor()[None, ..., :40]  # the box is in the middle slice
    for figure in (plots.plot_case(case, ORGANS), plots.plot_crops(crops, crops, ORGANS)):
        assert legend(figure) == ["right box"]
        drawn = np.ma.concatenate([image.get_array() for image in figure.axes[-1].images[1:]])
        assert set(np.unique(drawn.compressed())) <= {2}
    figure = plots.plot_contours(case, files["label"], "right box", ORGANS, (-175, 250))
    assert not figure.axes[0].texts
    (number,) = figure.axes[3].texts  # of the ground truth: the box with id 1 in the file
    assert number.get_text() == "2" and number.get_position()[0] == pytest.approx(19.5)


def test_a_segmentation_is_shown_on_three_planes_with_its_organs_alone(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    figure = plots.plot_segmentation("folder/scan", files["image"], files["label"], ORGANS, (-175, 250))
    assert figure.get_suptitle() == "folder/scan" and len(figure.axes) == 3
    assert legend(figure) == ["1 left box", "2 right box"]
    assert all(ax.collections for ax in figure.axes)


def test_learning_curves_mark_the_best_validation():
    history = [{"step": s, "train_loss": 1 / s, "mean_dice": d} for s, d in ((1, 0.2), (2, 0.6), (3, 0.4))]
    figure = plots.plot_curves(history)
    _, mark = figure.axes[1].lines
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (2, 0.6)
    assert "best 0.600 at step 2" in figure.axes[1].get_title()


def test_dice_of_nan_has_no_dot():
    rows = [{"organ": organ, "dice_own_grid": dice} for organ, dice in (("a", 0.5), ("a", 0.7), ("b", np.nan))]
    figure = plots.plot_organ_dice(rows, ("a", "b"))
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 0]


@pytest.mark.parametrize("tasks", [("reconstruction",), ("reconstruction", "rotation_accuracy", "contrast")])
def test_each_pretraining_task_has_a_panel(tasks):
    history = [{"step": step, **dict.fromkeys(tasks, 0.5)} for step in (1, 2)]
    figure = plots.plot_tasks(history, torch.rand(4, 1, 2, 2, 2))
    assert len(figure.axes) == len(tasks)


def test_each_view_crop_and_feature_map_has_a_panel():
    volumes = torch.rand(3, 1, 8, 8, 4)
    assert len(plots.plot_views({"input": volumes, "target": volumes}).axes) == 6
    assert len(plots.plot_crops(volumes, (volumes > 0.5).byte(), ORGANS).axes) == 3
    assert len(plots.plot_features(volumes[:1], torch.rand(1, 6, 4, 4, 2), torch.rand(1, 6, 4, 4, 2)).axes) == 12


def test_curves_mark_the_best_validation_that_has_a_score():
    rows = [{"step": step, "train_loss": 1.0, "mean_dice": dice} for step, dice in ((1, np.nan), (2, 0.5), (3, 0.4))]
    assert plots.plot_curves(rows).axes[1].get_title() == "Validation Dice, best 0.500 at step 2"
    assert plots.plot_curves(rows[:1]).axes[1].get_title() == "Validation Dice"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$\\alpha$ cost $5", "$\\alpha$ cost $5"),
        ('_hidden, 100% & "quoted" | <b>', '_hidden, 100% & "quoted" | <b>'),
        ("\u809d\u81d3", "label 1"),  # no font that is known here has it
        ("liver \ufb01", "liver \ufb01"),
    ],
)
def test_names_of_organs_are_shown_as_they_are_or_by_their_number(name, shown, monkeypatch):
    fonts = [font for font in font_manager.fontManager.ttflist if "matplotlib" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    plots._family_with.cache_clear()
    figure = plots.plot_organ_dice([{"organ": name, "dice_own_grid": 0.5}], [name])
    figure.savefig(io.BytesIO())
    (tick,) = figure.axes[0].get_xticklabels()
    text, is_formula = tick._preprocess_math(tick.get_text())
    assert text == shown and not is_formula
    figure = plots.plot_crops(torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2).byte(), [name])
    figure.savefig(io.BytesIO())
    (legend,) = figure.legends
    assert [legend.get_texts()[0].get_text().strip().replace("\\$", "$")] == [shown]
    plots._family_with.cache_clear()


def test_a_font_that_has_the_characters_of_a_name_is_used(monkeypatch):
    monkeypatch.setitem(plt.rcParams, "font.family", ["sans-serif"])
    present = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    stix = next(font for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")
    has = font_manager.get_font(stix.fname).get_charmap()
    character = chr(next(code for code in sorted(has) if code > 0x2100 and code not in present.get_charmap()))
    figure = plots.plot_organ_dice([{"organ": character, "dice_own_grid": 0.5}], [character])
    assert figure.axes[0].get_xticklabels()[0].get_text() == character and len(plt.rcParams["font.family"]) == 2
