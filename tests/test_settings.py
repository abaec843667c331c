"""Choice of a recipe from parameters."""

from swinunetr.checkpoints import build_swinunetr, save_weights
from swinunetr.recipe import DEMO
from swinunetr.settings import choose_recipe


def test_a_parameter_replaces_the_value_of_the_recipe_unless_it_is_none():
    recipe = choose_recipe("demo", max_steps=7, learning_rate=None, crop_size=96)
    assert (recipe.max_steps, recipe.learning_rate, recipe.crop_size) == (7, DEMO.learning_rate, (96, 96, 96))


def test_the_network_of_a_checkpoint_decides_the_size(tmp_path):
    save_weights(build_swinunetr(2, feature_size=24, window_size=4), tmp_path / "weights.pth")
    recipe = choose_recipe("published", checkpoint=tmp_path / "weights.pth")
    assert (recipe.feature_size, recipe.window_size) == (24, 4)
    assert choose_recipe("published").feature_size == 48
