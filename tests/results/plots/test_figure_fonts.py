"""Names of organs in fonts that can show them."""

import io

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib import font_manager

from swinunetr.results import plots
from swinunetr.results.plots.fonts import family_with


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


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
    family_with.cache_clear()
    figure = plots.plot_organ_dice([{"organ": name, "dice_own_grid": 0.5}], [name])
    figure.savefig(io.BytesIO())
    (tick,) = figure.axes[0].get_xticklabels()
    text, is_formula = tick._preprocess_math(tick.get_text())
    assert text == shown and not is_formula
    figure = plots.plot_crops(torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2).byte(), [name])
    figure.savefig(io.BytesIO())
    (legend,) = figure.legends
    assert [legend.get_texts()[0].get_text().strip().replace("\\$", "$")] == [shown]
    family_with.cache_clear()


def test_a_font_that_has_the_characters_of_a_name_is_used(monkeypatch):
    monkeypatch.setitem(plt.rcParams, "font.family", ["sans-serif"])
    present = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    stix = next(font for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")
    has = font_manager.get_font(stix.fname).get_charmap()
    character = chr(next(code for code in sorted(has) if code > 0x2100 and code not in present.get_charmap()))
    figure = plots.plot_organ_dice([{"organ": character, "dice_own_grid": 0.5}], [character])
    assert figure.axes[0].get_xticklabels()[0].get_text() == character and len(plt.rcParams["font.family"]) == 2
