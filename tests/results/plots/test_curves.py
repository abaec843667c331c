"""Learning curves, scores of pre-training, and Dice by organ."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from swinunetr.data.organs import organ_colours
from swinunetr.results import plots


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


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


def test_curves_mark_the_best_validation_that_has_a_score():
    rows = [{"step": step, "train_loss": 1.0, "mean_dice": dice} for step, dice in ((1, np.nan), (2, 0.5), (3, 0.4))]
    assert plots.plot_curves(rows).axes[1].get_title() == "Validation Dice, best 0.500 at step 2"
    assert plots.plot_curves(rows[:1]).axes[1].get_title() == "Validation Dice"


@pytest.mark.parametrize("steps", [(1,), (1, 2, 3)])
def test_steps_are_whole_numbers(steps):
    history = [{"step": step, "train_loss": 1.0, "mean_dice": 0.5, "a": 0.5} for step in steps]
    for ax in (*plots.plot_curves(history, ("a",)).axes, *plots.plot_curves(history).axes):
        assert all(tick == int(tick) for tick in ax.get_xticks()), ax.get_title()


def test_each_organ_has_a_line_with_its_name_at_the_end():
    organs = [f"organ {number}" for number in range(20)]
    history = [
        {"step": step, "train_loss": 1.0, "mean_dice": 0.5, **{organ: 0.5 for organ in organs}, "organ 3": np.nan}
        for step in (1, 2)
    ]
    (ax,) = (ax for ax in plots.plot_curves(history, organs).axes if "each organ" in ax.get_title())
    assert len(ax.lines) == 19  # organ 3 was never scored
    assert {text.get_text() for text in ax.texts} == {f"0.50 {organ}" for organ in organs if organ != "organ 3"}
    heights = sorted(text.xyann[1] for text in ax.texts)
    assert min(np.diff(heights)) > 0.03 and heights[-1] <= 1
    first, fourteenth = ax.lines[0], ax.lines[12]  # of the same colour
    assert first.get_color() == fourteenth.get_color() == organ_colours(1)[0]
    assert first.get_linestyle() != fourteenth.get_linestyle()


def test_without_a_validation_the_figure_says_so():
    for figure in (plots.plot_curves([], ("a",)), plots.plot_tasks([], torch.rand(4, 1, 2, 2, 2))):
        assert "no validation" in figure.texts[0].get_text() and not figure.axes
