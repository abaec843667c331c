"""Which runs the ablation makes, and its differences counted by hand."""

import json
import subprocess
from dataclasses import fields

import pytest

from benchmarks import ablation, runs
from swinunetr.recipe import DEMO_SCALE, TUNED, Recipe
from swinunetr.settings import read_parameters

DICE = {"published": 0.5, "tuned": 0.8, "tuned without no flips": 0.7}


def test_the_choices_are_all_that_the_tuned_recipe_changes_but_the_number_of_validations():
    differing = {f.name for f in fields(Recipe) if getattr(TUNED, f.name) != getattr(Recipe(), f.name)}
    assert sorted(name for names in ablation.CHOICES.values() for name in names) == sorted(differing - {"eval_every"})
    assert not any(names.keys() & differing for names in ablation.CANDIDATES.values())


@pytest.mark.parametrize("name", ablation.variants())
def test_a_variant_differs_from_its_recipe_by_its_choice_alone(name, tmp_path):
    recipe_name, settings = ablation.variants()[name]
    given = {"data_root": "", "pretrained_checkpoint": "", "logdir": "x", "resume": True, "cache_dir": ""}
    given |= {"save_every": 15, **ablation.parameters(recipe_name, settings, seed=3)}
    options, recipe = read_parameters(**given)
    base = read_parameters(**given | ablation.parameters(recipe_name, {}, seed=3))[1]
    differing = {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(base, f.name)}
    assert differing == settings.keys() and (options.fold, options.folds, recipe.seed) == (1, 2, 3)
    assert all(getattr(base, key) == value for key, value in DEMO_SCALE.items())
    if recipe_name == "tuned" and not settings:
        assert base.adam_beta2 == TUNED.adam_beta2


@pytest.fixture
def without_papermill(monkeypatch, tmp_path):
    """Replace every run by scores that its name decides."""

    def instead_of_papermill(command, **_):
        given = dict(zip(command[command.index("-p") + 1 :: 3], command[command.index("-p") + 2 :: 3], strict=True))
        logdir = runs.Path(given["logdir"])
        if "evaluate_only" in given:  # a test; the model is in its name
            assert given["pretrained_checkpoint"] == str(tmp_path / logdir.name / "best_model.pth")
            logdir.mkdir(parents=True)
            trained = json.loads((tmp_path / logdir.name / "summary.json").read_text())
            (logdir / "summary.json").write_text(
                json.dumps({"mean_dice": 0, "mean_dice_own_grid": 1 - trained["mean_dice"]})
            )
            return subprocess.CompletedProcess(command, 0, "", "")
        seed = int(given["seed"])
        dice = DICE[logdir.name.removesuffix(f" seed {seed}")] + 0.1 * seed * ("without" in logdir.name)
        logdir.mkdir(parents=True)
        found = {"mean_dice": dice, "mean_hd95_mm_all": 100 * dice, "seconds": 1, "dice_per_organ": {"liver": dice}}
        (logdir / "summary.json").write_text(json.dumps(found))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(runs.subprocess, "run", instead_of_papermill)


def test_differences_are_paired_by_seed(without_papermill, tmp_path, capsys):
    given = ["--folder", str(tmp_path), "--seeds", "2", "--only", *DICE]
    assert ablation.main(given) == 0 and ablation.main(given) == 0  # the second time nothing is run
    rows = {row[0]: row[1:] for row in ablation.describe(ablation.collect(tmp_path)).rows}
    assert rows["published"][:3] == (2, "50.0 ± 0.0", "")
    assert rows["tuned without no flips"] == (2, "75.0 ± 7.1", "-5.0 ± 7.1", "75.0", "-5.0", "")  # 70, 80 against 80
    assert "tuned without no flips" in capsys.readouterr().out and len(ablation.collect(tmp_path)) == 6
    with pytest.raises(SystemExit):
        ablation.main(["--folder", str(tmp_path), "-p", "data_root", "/data"])
    assert "holds results of other settings (parameters" in capsys.readouterr().err


def test_a_test_on_other_data_is_in_the_table(without_papermill, tmp_path, capsys):
    given = ["--folder", str(tmp_path), "--seeds", "2", "--only", "tuned", "tuned without no flips"]
    assert ablation.main(given) == 0 and "Rank" not in capsys.readouterr().out
    assert ablation.main([*given, "--test", "/data", "a.json"]) == 0  # finished runs are tested, not run again
    table = ablation.describe(ablation.collect(tmp_path))
    assert [row[-1] for row in table.rows] == ["20.0 ± 0.0", "25.0 ± 7.1"]
    assert "over 4 models: -1.00" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        ablation.main([*given, "--test", "/data", "b.json"])
    assert "holds results of other settings (data" in capsys.readouterr().err
