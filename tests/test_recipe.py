"""Values and bounds of the recipes."""

from dataclasses import fields, replace

import pytest

from swinunetr.errors import InputError
from swinunetr.recipe import DEMO, PRETRAINING_RECIPES, PretrainingRecipe, Recipe, describe_recipe, learning_rate_at
from swinunetr.training.parameters import choose_recipe


def test_published_recipe_has_the_published_values():
    recipe = choose_recipe("published")
    assert (recipe.max_steps, recipe.eval_every, recipe.learning_rate) == (30_000, 100, 1e-4)
    assert (recipe.crops_per_volume, recipe.crop_size, recipe.spacing_mm) == (4, (96, 96, 96), (1.5, 1.5, 2.0))
    assert (recipe.feature_size, recipe.weight_decay, recipe.hu_window) == (48, 1e-5, (-175, 250))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_size", 32),
        ("crop_size", 80),
        ("crop_size", (64, 96, 64)),
        ("crop_size", "large"),
        ("spacing_mm", [1.5, 1.5]),
        ("spacing_mm", 0),
        ("seed", -1),
        ("seed", "one"),
        ("max_steps", -1),
        ("max_steps", 2.5),
        ("eval_every", 0),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("crops_per_volume", 0),
        ("feature_size", 20),
        ("schedule", "linear"),
        ("clip_norm", 0),
        ("clip_norm", float("inf")),
        ("adam_beta2", 1),
        ("averaged_share", -0.1),
        ("class_balance", "much"),
        ("crop_centres", "organ"),
        ("deep_supervision", 4),
        ("deep_supervision", True),
        ("feature_size", "large"),
        ("flip_axes", ("x", "w")),
        ("hu_window", (250, -175)),
        ("hu_window", (-float("inf"), 250)),
        ("hu_window", (False, 250)),
        ("hu_window", 100),
        ("noise_probability", 2),
        ("organ_crops", None),
        ("overlap", 1),
        ("test_time_flips", "no"),
        ("weight_decay", -1),
        ("window_size", 1),
        ("window_weights", "flat"),
    ],
)
def test_a_value_outside_its_bounds_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        replace(Recipe(), **{name: value})


@pytest.mark.parametrize("recipe", [Recipe(), PretrainingRecipe()], ids=lambda recipe: type(recipe).__name__)
@pytest.mark.parametrize("value", [{}, [None], object(), float("nan")], ids=lambda value: type(value).__name__)
def test_a_value_of_a_wrong_type_is_refused_by_name(recipe, value):
    for field in fields(recipe):
        with pytest.raises(InputError, match=field.name):
            replace(recipe, **{field.name: value})


def test_flips_of_predictions_need_an_axis_that_training_flips():
    with pytest.raises(InputError, match="test_time_flips .*: expected a recipe that flips"):
        replace(Recipe(), test_time_flips=True, flip_axes=())


def test_cosine_schedule_warms_up_and_decays_to_zero():
    recipe = replace(DEMO, max_steps=100, learning_rate=1.0e-2)
    rates = [learning_rate_at(step, recipe) for step in range(1, 101)]
    assert rates[0] == pytest.approx(2e-3) and rates[4] == max(rates) == 1e-2 and rates[-1] == pytest.approx(0)
    assert learning_rate_at(29_999, Recipe()) == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 1}, "mask_ratio: expected"),
        ({"mask_block": 65}, "mask_block: expected 2 voxels up to 32"),
        ({"tasks": "rotation"}, "tasks: expected reconstruction"),
        ({"tasks": "reconstruction, jigsaw"}, "tasks: expected reconstruction"),
        ({"temperature": 0}, "temperature: expected"),
        ({"volumes_per_step": 1}, "at least two crops"),
        ({"volumes_per_step": 0}, "volumes_per_step: expected"),
        ({"crop_size": (64, 96, 64)}, "same size along x and y"),
        ({"crop_size": 33}, "multiples of 32"),
    ],
)
def test_a_pretraining_value_outside_its_bounds_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        choose_recipe("demo", PRETRAINING_RECIPES, **changes)


def test_the_table_of_a_recipe_shows_what_differs_from_the_published_one_and_the_rest_on_demand():
    recipe = replace(DEMO, weight_decay=1e-5)
    table = describe_recipe(recipe)
    rows = {name: values for name, *values in table.rows}
    assert rows["max_steps"] == ["450", "30000", "training steps"]
    assert rows["crop_size"][:2] == ["64 x 32 x 32", "96 x 96 x 96"] and "weight_decay" not in rows
    (note,) = table.notes
    assert note.startswith(f"{len(fields(recipe)) - len(rows)} settings are those of the published recipe")
    every = {name: values for name, *values in describe_recipe(recipe, every=True).rows}
    assert len(every) == len(fields(recipe)) and every["weight_decay"] == ["1e-05", "", "of AdamW"]
    assert every["hu_window"][0] == "-175 to 250"
    assert describe_recipe(Recipe()).rows == []
