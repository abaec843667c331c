"""Options and recipe from the parameters of a notebook."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import noted_weights
from conftest import write_case
from monai.networks.nets import SwinUNETR

from swinunetr.data.lists import Dataset, read_dataset
from swinunetr.errors import CheckpointError, InputError
from swinunetr.network.checkpoints import build_swinunetr, save_weights
from swinunetr.recipe import DEMO, PRETRAINING_RECIPES, Recipe
from swinunetr.training.parameters import choose_recipe, read_parameters
from swinunetr.training.settings import run_settings


def test_a_parameter_replaces_the_value_of_the_recipe_unless_it_is_none():
    recipe = read_parameters(NOTEBOOK | {"max_steps": 7, "learning_rate": None, "crop_size": 96})[1]
    assert (recipe.max_steps, recipe.learning_rate, recipe.crop_size) == (7, DEMO.learning_rate, (96, 96, 96))


def test_the_network_of_a_checkpoint_decides_the_size(tmp_path):
    save_weights(build_swinunetr(2, feature_size=24, window_size=4), tmp_path / "weights.pth")
    recipe = choose_recipe("published", checkpoint=tmp_path / "weights.pth")
    assert (recipe.feature_size, recipe.window_size) == (24, 4)
    assert choose_recipe("published").feature_size == 48


NOTEBOOK = {
    "data_root": "",
    "json_path": "json_files/btcv_6.json",
    "pretrained_checkpoint": "",
    "pretrained_decoder": True,
    "logdir": "runs/finetune",
    "recipe_name": "",
    "evaluate_only": False,
    "max_steps": None,
    "test_time_flips": False,
    "resume": True,
    "cache_dir": "",
    "save_every": 15,
    "seed": 0,
}


def test_data_decide_between_the_recipes_and_a_name_overrides_them():
    assert read_parameters(NOTEBOOK)[1] == DEMO
    assert read_parameters(NOTEBOOK | {"data_root": "/data"})[1] == Recipe()
    assert read_parameters(NOTEBOOK | {"data_root": "/data", "recipe_name": "demo"})[1] == DEMO
    with pytest.raises(InputError, match="recipe_name: expected one of .*'demo', 'published'.*found 'best'"):
        read_parameters(NOTEBOOK | {"recipe_name": "best"})


def spaced(folder, *spacings) -> dict:
    """Write scans, of each spacing one, the last to validate on; return the parameters that name them."""
    entries = [write_case(folder, number, affine=np.diag([*mm, 1.0])) for number, mm in enumerate(spacings)]
    content = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries[:-1], "validation": entries[-1:]}
    (folder / "own.json").write_text(json.dumps(content))
    return NOTEBOOK | {"data_root": str(folder), "json_path": str(folder / "own.json"), "spacing_mm": " Data "}


def test_the_spacing_of_the_data_is_that_of_the_training_scans(tmp_path):
    values = spaced(tmp_path, (0.7, 0.7, 3), (0.8, 0.8, 5), (0.9, 0.9, 1), (4, 4, 4))
    options, recipe = read_parameters(values)
    assert recipe == replace(Recipe(), spacing_mm=(0.8, 0.8, 3.0))
    settings = run_settings(recipe, read_dataset(options.json_path, options.data_root), None)
    assert settings["recipe"]["spacing_mm"] == (0.8, 0.8, 3.0)  # what identifies the run
    assert {read_parameters(values | {"fold": fold, "folds": 3})[1].spacing_mm for fold in range(3)} == {(0.8, 0.8, 3)}


def test_pretraining_takes_the_spacing_of_its_volumes(tmp_path):
    spaced(tmp_path, (0.7, 0.7, 3), (0.8, 0.8, 5), (0.9, 0.9, 1))
    values = {"data_root": str(tmp_path), "spacing_mm": "data"}
    assert read_parameters(values, PRETRAINING_RECIPES)[1].spacing_mm == (0.85, 0.85, 3)  # one is held out


def test_the_spacing_of_the_data_needs_data_and_training(tmp_path):
    with pytest.raises(InputError, match='spacing_mm: expected numbers without data_root, found "data"'):
        read_parameters(NOTEBOOK | {"spacing_mm": "data"})
    save_weights(build_swinunetr(3, feature_size=24, window_size=4), tmp_path / "weights.pth")
    values = spaced(tmp_path, (1, 1, 1), (1, 1, 1)) | {"pretrained_checkpoint": str(tmp_path / "weights.pth")}
    for change in ({"max_steps": 0}, {"evaluate_only": True}):
        with pytest.raises(InputError, match="spacing_mm: expected numbers with evaluate_only"):
            read_parameters(values | change)
    with pytest.raises(
        InputError, match="spacing_mm: expected one or three numbers from 0.1 to 20 mm, or data, found 'date'"
    ):
        read_parameters(values | {"spacing_mm": "date"})


def test_folds_are_options():
    options, _ = read_parameters(NOTEBOOK | {"fold": "0", "folds": 5})
    assert (options.fold, options.folds) == (0, 5)
    assert read_parameters(NOTEBOOK | {"fold": None, "folds": "None"})[0].folds is None


def test_texts_from_papermill_are_converted():
    options, recipe = read_parameters(NOTEBOOK | {"resume": "false", "seed": "3", "pretrained_decoder": "False"})
    assert (options.resume, options.pretrained_decoder, recipe.seed) == (False, False, 3)


@pytest.mark.parametrize("given", [{"evaluate_only": "true"}, {"max_steps": 0}])
def test_weights_are_evaluated_in_the_recipe_of_their_training(given, tmp_path):
    noted = {"recipe": asdict(replace(DEMO, overlap=0.5, feature_size=24))}
    save_weights(build_swinunetr(2, feature_size=24, window_size=4), tmp_path / "best_model.pth", note=noted)
    chosen = NOTEBOOK | {"pretrained_checkpoint": tmp_path / "best_model.pth", "data_root": "/data"} | given
    options, recipe = read_parameters(chosen)
    assert options.evaluate_only and options.checkpoint == tmp_path / "best_model.pth"
    assert (recipe.overlap, recipe.feature_size, recipe.max_steps) == (0.5, 24, 0)
    with pytest.raises(InputError, match="evaluate_only: expected weights.*pretrained_checkpoint"):
        read_parameters(NOTEBOOK | given)


def test_other_settings_are_those_of_the_recipe_that_have_no_parameter():
    given = NOTEBOOK | {"other_settings": {"deep_supervision": 2, "flip_axes": ["y"]}}
    recipe = read_parameters(given)[1]
    assert recipe == replace(DEMO, deep_supervision=2, flip_axes=("y",))
    assert read_parameters(given | {"other_settings": '{"clip_norm": null}'})[1].clip_norm is None
    with pytest.raises(InputError, match="other_settings: expected settings of the recipe, found momentum"):
        read_parameters(given | {"other_settings": {"momentum": 0.9}})
    with pytest.raises(InputError, match="other_settings: max_steps are parameters of their own"):
        read_parameters(given | {"other_settings": {"max_steps": 9}})
    with pytest.raises(InputError, match="overlap: expected a number from 0 to 0.9, found 'half'"):
        read_parameters(given | {"other_settings": {"overlap": "half"}})


def test_pretraining_needs_a_step():
    names = ("data_root", "pretrained_checkpoint", "logdir", "recipe_name", "resume", "cache_dir", "save_every", "seed")
    given = {name: NOTEBOOK[name] for name in names} | {"json_path": "", "modality": "CT"}
    with pytest.raises(InputError, match="max_steps: expected a whole number of at least 1, found 0"):
        read_parameters(given | {"max_steps": 0}, PRETRAINING_RECIPES)


def test_a_larger_network_than_the_demo_s_gets_the_published_learning_rate(tmp_path):
    save_weights(build_swinunetr(2, feature_size=24, window_size=4), tmp_path / "weights.pth")
    assert choose_recipe("demo", checkpoint=tmp_path / "weights.pth").learning_rate == 1e-4
    assert choose_recipe("demo", checkpoint=tmp_path / "weights.pth", learning_rate=1e-3).learning_rate == 1e-3


def test_several_checkpoints_are_averaged_to_evaluate_and_refused_to_train(tmp_path):
    files = [tmp_path / name for name in ("a.pth", "b.pth")]
    classes = ("background", "liver")
    for file in files:
        note = {"recipe": asdict(DEMO), "classes": classes, "modality": "CT"}
        save_weights(build_swinunetr(2, feature_size=12, window_size=4), file, note=note)
    given = NOTEBOOK | {"pretrained_checkpoint": f"{files[0]}, {files[1]}"}
    with pytest.raises(InputError, match="pretrained_checkpoint: expected one file to train from, found 2"):
        read_parameters(given)
    options, recipe = read_parameters(given | {"evaluate_only": True})
    assert options.checkpoint == files[0] and options.ensemble == tuple(files)
    data = Dataset(classes, "CT", [], [], [])
    choices = {"evaluate_only": True}
    both = run_settings(recipe, data, options.checkpoint, None, options.ensemble, **choices)
    assert len(set(both["ensemble_sha256"])) == 2 and "ensemble_sha256" not in run_settings(recipe, data, files[0])
    with pytest.raises(CheckpointError, match="b.pth"):
        save_weights(build_swinunetr(3, feature_size=12, window_size=4), files[1])
        run_settings(recipe, data, options.checkpoint, None, options.ensemble, **choices)
    one, _ = read_parameters(NOTEBOOK | {"pretrained_checkpoint": str(files[0])})
    assert one.ensemble == () and one.checkpoint == files[0]


def test_a_copy_without_a_note_is_averaged_with_others_once_its_merging_is_given(tmp_path):
    noted = noted_weights(tmp_path / "a.pth")
    torch.save(dict(torch.load(noted)), tmp_path / "b.pth")
    given = NOTEBOOK | {"pretrained_checkpoint": f"{noted}, {tmp_path / 'b.pth'}", "evaluate_only": True}
    with pytest.raises(InputError, match="one order of patch merging, found current in 'a.pth', legacy in 'b.pth'"):
        read_parameters(given)
    assert len(read_parameters(given | {"merging": "current"})[0].ensemble) == 2


@pytest.mark.parametrize("names", [",", " , "])
def test_commas_without_a_name_are_no_weights_to_evaluate(names):
    with pytest.raises(InputError, match="pretrained_checkpoint: expected the name of a file"):
        read_parameters(NOTEBOOK | {"pretrained_checkpoint": names, "evaluate_only": True})


def test_weights_of_other_setups_are_not_averaged_in_the_notebook_either(tmp_path):
    first, other = noted_weights(tmp_path / "a.pth"), tmp_path / "b.pth"
    given = NOTEBOOK | {"pretrained_checkpoint": f"{first},{other}", "evaluate_only": True}
    for modality, changes, named in (
        ("MR", {}, "modality"),
        ("CT", {"spacing_mm": 2.0, "hu_window": (-1000, 1000)}, "spacing_mm, hu_window"),
        ("CT", {"crop_size": (64, 64, 32)}, "crop_size"),
    ):
        noted_weights(other, modality, **changes)
        with pytest.raises(InputError, match=rf"b.pth' was trained with other settings than .*a.pth' \({named}\)"):
            read_parameters(given)
    noted_weights(other, "ct (portal)", seed=1, learning_rate=1e-3, classes=("Liver", "background"))
    assert read_parameters(given)[1].spacing_mm == DEMO.spacing_mm
    with pytest.raises(InputError, match="recipe_name: expected one of"):
        read_parameters(given | {"recipe_name": "tunde"})
    noted_weights(other, classes=("background", "spleen"))
    with pytest.raises(InputError, match=r"\(classes\)"):
        read_parameters(given)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_flips_need_weights_that_were_all_trained_with_them(order, tmp_path):
    noted_weights(tmp_path / "a.pth", flip_probability=0.1)
    noted_weights(tmp_path / "b.pth")
    given = NOTEBOOK | {"evaluate_only": True, "test_time_flips": True}
    with pytest.raises(InputError, match="b.pth': test_time_flips.*found flip_probability 0 and flip_axes"):
        read_parameters(given | {"pretrained_checkpoint": ",".join(str(tmp_path / f"{name}.pth") for name in order)})
    # A recipe that flips is evaluated with flips, although the demo's, which would be chosen to train, does not flip.
    assert read_parameters(given | {"pretrained_checkpoint": tmp_path / "a.pth"})[1].test_time_flips


def test_the_largest_component_is_of_organs_that_the_data_set_has():
    data = Dataset(("background", "liver"), "CT", [], [], [])
    _, recipe = read_parameters(NOTEBOOK | {"largest_component": "Liver"})
    assert recipe.largest_component == ("Liver",) and run_settings(recipe, data, None)
    _, recipe = read_parameters(NOTEBOOK | {"largest_component": "spleen"})
    with pytest.raises(InputError, match="largest_component: expected organs.*unknown: spleen. The organs are liver"):
        run_settings(recipe, data, None)


def test_a_random_decoder_is_not_evaluated(tmp_path):
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), tmp_path / "weights.pth")
    given = NOTEBOOK | {"pretrained_checkpoint": str(tmp_path / "weights.pth"), "pretrained_decoder": False}
    assert read_parameters(given)
    for evaluated in ({"evaluate_only": True}, {"max_steps": 0}):
        with pytest.raises(InputError, match="pretrained_decoder: expected True with evaluate_only"):
            read_parameters(given | evaluated)


OTHER_NETWORKS = {  # arguments of SwinUNETR, and what the message says
    "2D": ({"spatial_dims": 2}, "another design: 2D. Expected .* a 3D one"),
    "deeper": ({"depths": (2, 2, 6, 2)}, "depths 2, 2, 6, 2. Expected .* depths 2, 2, 2, 2"),
    "channels": ({"in_channels": 4}, "with 4 input channels. Expected weights for images of one channel"),
    "norms": ({"norm_name": ("batch", {"affine": True})}, "norm1.weight is .*, but missing in the network"),
}


@pytest.mark.parametrize("options, match", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
@pytest.mark.parametrize("evaluate_only", [False, True])
def test_weights_of_another_network_are_refused_with_the_parameters(options, match, evaluate_only, tmp_path):
    network = SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12} | options)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    given = {"pretrained_checkpoint": tmp_path / "weights.pth", "evaluate_only": evaluate_only}
    with pytest.raises(CheckpointError, match=f"{match}.*Choose other weights, or leave pretrained_checkpoint empty"):
        read_parameters(NOTEBOOK | given)


def test_a_size_that_is_not_that_of_the_weights_is_refused_with_the_parameters(tmp_path):
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), tmp_path / "weights.pth")
    given = {"pretrained_checkpoint": tmp_path / "weights.pth", "other_settings": {"feature_size": 24}}
    with pytest.raises(InputError, match="other_settings: expected .* feature_size 12 .* found feature_size 24. Leave"):
        read_parameters(NOTEBOOK | given)


def test_merging_is_a_choice_for_weights_that_note_none_and_part_of_the_run(tmp_path):
    network, data = (
        build_swinunetr(2, feature_size=12, window_size=4, merging="current"),
        Dataset(CLASSES, "CT", [], [], []),
    )
    noted, plain = tmp_path / "noted.pth", tmp_path / "plain.pth"
    save_weights(network, noted)
    torch.save(network.state_dict(), plain)

    def merging(file: Path | str, given: object) -> tuple[str | None, str | None]:
        options, recipe = read_parameters(NOTEBOOK | {"pretrained_checkpoint": file, "merging": given})
        settings = run_settings(recipe, data, options.checkpoint, merging=options.merging)
        return options.merging, settings.get("merging")

    assert merging(plain, "current") == ("current", "current")
    assert merging(plain, "legacy") == ("legacy", None)  # what is assumed anyway: the same run
    assert merging(plain, "") == merging(plain, "none") == merging(noted, "") == (None, None)
    assert merging(noted, "current") == ("current", None)
    assert merging("", "legacy") == ("legacy", "legacy") and merging("", "current") == ("current", None)
    with pytest.raises(CheckpointError, match="note current patch merging. Expected legacy.*Leave merging empty"):
        merging(noted, "legacy")
    with pytest.raises(InputError, match="merging: expected legacy, current or nothing, found 'new'"):
        merging(plain, "new")


CLASSES = ("background", "liver")
