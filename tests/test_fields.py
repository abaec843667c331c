"""Every parameter of both notebooks is converted, or refused by its name."""

import re
from ast import literal_eval

import pytest
from conftest import PROJECT
from papermill import inspect_notebook

from swinunetr.errors import InputError
from swinunetr.fields import FilePath, convert_parameters
from swinunetr.recipe import PretrainingRecipe, Recipe, as_text
from swinunetr.training.parameters import PARAMETERS, PRETRAINING_PARAMETERS

ALL = PRETRAINING_PARAMETERS | PARAMETERS

TAKEN = [
    ("resume", "false", False),
    ("resume", " TRUE ", True),
    ("pretrained_decoder", False, False),
    ("max_steps", "360", 360),
    ("max_steps", 4.0, 4),
    ("max_steps", "None", None),
    ("max_steps", None, None),
    ("learning_rate", "1e-4", 1e-4),
    ("seed", 0, 0),
    ("crop_size", "96,96,64", (96, 96, 64)),
    ("crop_size", "96 x 96 x 64", (96, 96, 64)),
    ("crop_size", [64, 64, 32], (64, 64, 32)),
    ("crop_size", 96, 96),
    ("crop_size", "96", 96),
    ("spacing_mm", "[4.5, 4.5, 4.5]", (4.5, 4.5, 4.5)),
    ("spacing_mm", "(1.5, 1.5, 2)", (1.5, 1.5, 2.0)),
    ("spacing_mm", 2, 2.0),
    ("tasks", "reconstruction, rotation", ("reconstruction", "rotation")),
    ("tasks", ["reconstruction"], ("reconstruction",)),
    ("largest_component", "spleen, Left Kidney", ("spleen", "Left Kidney")),
    ("largest_component", "", ()),
    ("other_settings", '{"schedule": "cosine"}', {"schedule": "cosine"}),
    ("other_settings", {"overlap": 0.5}, {"overlap": 0.5}),
    ("other_settings", None, {}),
    ("other_settings", "", {}),
    ("logdir", 2024, "2024"),
    ("logdir", PROJECT, str(PROJECT)),
    ("data_root", "", ""),
    ("recipe_name", "demo", "demo"),
]


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_a_value_is_converted_to_its_type(name, value, expected):
    (converted,) = convert_parameters({name: value}, ALL).values()
    assert converted == expected and type(converted) is type(expected)


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert convert_parameters({"cache_dir": "~/cache"}, ALL) == {"cache_dir": str(tmp_path / "cache")}


WRONG = [True, [1, 2], {"a": 1}, "maybe", "", None, float("nan"), 0.5, [1, "x", 3], object()]


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_type_is_refused_by_name_or_converted(name):
    refused = 0
    for value in WRONG:
        try:
            (converted,) = convert_parameters({name: value}, ALL).values()
        except InputError as error:
            assert re.match(rf"{name}: expected {re.escape(ALL[name].words)}, found .+\.$", str(error))
            refused += 1
        else:
            allowed = str | bool | int | float | tuple | dict
            assert (converted is None and ALL[name].optional) or isinstance(converted, allowed)
    assert refused >= 4


def test_all_wrong_ones_are_named_in_a_short_message():
    with pytest.raises(InputError) as caught:
        convert_parameters(dict.fromkeys(ALL, object()), ALL)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 12 and ": expected" in lines[1] and lines[-1] == f"... and {len(ALL) - 8} more"


def test_a_parameter_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="Expected the parameters data_root, .* found logfir"):
        convert_parameters({"logfir": "runs"}, PARAMETERS)


NOTEBOOKS = {  # with the name of the recipe whose values the defaults are
    "swinunetr_finetune.ipynb": (PARAMETERS, Recipe.baseline),
    "ssl_train.ipynb": (PRETRAINING_PARAMETERS, PretrainingRecipe.baseline),
}
NUMBERS = (int, float, tuple[int, int, int], tuple[float, float, float])
TYPES = {FilePath: "str", tuple[int, int, int]: "list", tuple[float, float, float]: "list", dict[str, object]: "dict"}
TYPES |= {kind: kind.__name__ for kind in (str, int, float, bool)} | {tuple[str, ...]: "str"}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_cell_of_a_notebook_says_of_each_parameter_what_its_field_says(notebook):
    parameters, baseline = NOTEBOOKS[notebook]
    cell = inspect_notebook(str(PROJECT / notebook))
    assert cell.keys() == parameters.keys()
    for name, parameter in parameters.items():
        line, default = cell[name], literal_eval(cell[name]["default"])
        kind, left_to_the_recipe = parameter.kind, default is None and parameter.default is not None
        its_value = f"; {baseline} {as_text(parameter.default)}" if left_to_the_recipe and kind in NUMBERS else ""
        assert line["help"] == parameter.meaning + its_value, name
        assert parameter.convert(default) in (None, parameter.convert(parameter.default)), name
        assert not its_value or parameter.convert(default) is None, name
        assert line["inferred_type_name"] == TYPES[kind], name
