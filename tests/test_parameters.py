"""Every parameter of both notebooks is converted, or refused by its name."""

import re

import pytest
from conftest import PROJECT
from papermill import inspect_notebook

from swinunetr.errors import InputError
from swinunetr.parameters import KINDS, OPTIONAL, convert_parameters

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
    (found,) = convert_parameters({name: value}).values()
    assert found == expected and type(found) is type(expected)


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert convert_parameters({"cache_dir": "~/cache"}) == {"cache_dir": str(tmp_path / "cache")}


WRONG = [True, [1, 2], {"a": 1}, "maybe", "", None, float("nan"), 0.5, [1, "x", 3], object()]


@pytest.mark.parametrize("name", KINDS)
def test_a_wrong_type_is_refused_by_name_or_converted(name):
    _, expected = KINDS[name]
    refused = 0
    for value in WRONG:
        try:
            (found,) = convert_parameters({name: value}).values()
        except InputError as error:
            assert re.match(rf"{name}: expected {expected}, found .+\.$", str(error))
            refused += 1
        else:
            assert (found is None and name in OPTIONAL) or isinstance(found, str | bool | int | float | tuple | dict)
    assert refused >= 4


def test_all_wrong_ones_are_named_in_a_short_message():
    with pytest.raises(InputError) as caught:
        convert_parameters(dict.fromkeys(KINDS, object()))
    lines = str(caught.value).splitlines()
    assert len(lines) <= 12 and "data_root: expected" in lines[1] and lines[-1] == f"... and {len(KINDS) - 8} more"


@pytest.mark.parametrize("notebook", ["swinunetr_finetune.ipynb", "ssl_train.ipynb"])
def test_every_parameter_of_a_notebook_has_a_type(notebook):
    assert set(inspect_notebook(str(PROJECT / notebook))) <= set(KINDS)
