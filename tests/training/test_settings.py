"""What identifies a run, and what the notes of trained weights say."""

from dataclasses import asdict, replace

import pytest
from checkpoint_files import noted_weights

from swinunetr.data.lists import Dataset
from swinunetr.errors import CheckpointError, InputError
from swinunetr.network.checkpoints import build_swinunetr, save_weights
from swinunetr.recipe import DEMO, Recipe
from swinunetr.training.settings import identity, run_settings, trained_recipe


def test_evaluation_of_weights_for_other_classes_is_refused_and_training_from_them_is_not(tmp_path):
    file = tmp_path / "best_model.pth"
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), file, note={"classes": ("background", "liver")})
    other, same = (
        Dataset(classes, "CT", [], [], []) for classes in (("background", "spleen"), ("LIVER", "background"))
    )
    with pytest.raises(CheckpointError, match="not trained for spleen, but for liver"):
        run_settings(DEMO, other, file, evaluate_only=True)
    assert run_settings(DEMO, same, file, evaluate_only=True)["classes"] == ("LIVER", "background")
    assert run_settings(DEMO, other, file, evaluate_only=False)["pretrained_checkpoint"] == "best_model.pth"


def test_a_run_of_a_version_without_some_settings_is_still_the_same_run():
    settings = {"recipe": asdict(DEMO), "seed": 0}
    before = {"recipe": {key: value for key, value in asdict(DEMO).items() if key not in NEW}, "seed": 0}
    assert identity(before) == identity(settings | {"recipe": asdict(replace(DEMO, **NEW))})
    assert identity(before) != identity(settings | {"recipe": asdict(replace(DEMO, **NEW | {"deep_supervision": 1}))})


NEW = {name: getattr(Recipe(), name) for name in ("adam_beta2", "deep_supervision", "crop_centres", "window_weights")}


def test_weights_of_unknown_settings_are_refused_by_them(tmp_path):
    save_weights(build_swinunetr(2, feature_size=12), tmp_path / "new.pth", note={"recipe": {"momentum": 1}})
    with pytest.raises(InputError, match="does not know: momentum"):
        trained_recipe(tmp_path / "new.pth")


def test_weights_of_another_modality_are_not_evaluated(tmp_path):
    file = noted_weights(tmp_path / "a.pth", "MR")
    classes = ("background", "liver")
    with pytest.raises(InputError, match="a.pth' was trained on MR, and the data set is of modality CT"):
        run_settings(DEMO, Dataset(classes, "CT", [], [], []), file, evaluate_only=True)
    run_settings(DEMO, Dataset(classes, "MRI", [], [], []), file, evaluate_only=True)
    run_settings(DEMO, Dataset(classes, "CT", [], [], []), file)  # to train from
