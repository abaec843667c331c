"""From parameters to a recipe, and what identifies a run."""

from swinunetr.recipe import DEMO
from swinunetr.settings import choose_recipe


def test_a_given_parameter_wins_and_none_does_not():
    recipe = choose_recipe("demo", max_steps=7, learning_rate=None, crop_size=96)
    assert (recipe.max_steps, recipe.learning_rate, recipe.crop_size) == (7, DEMO.learning_rate, (96, 96, 96))
