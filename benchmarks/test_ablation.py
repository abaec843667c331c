"""Which runs the ablation makes, and its differences counted by hand."""

import json
import shutil
import subprocess
from dataclasses import asdict, fields

import pytest

from benchmarks import ablation, sweep
from swinunetr.files import sha256
from swinunetr.network.checkpoints import build_swinunetr, save_weights
from swinunetr.recipe import DEMO_SCALE, TUNED, Recipe
from swinunetr.training.parameters import read_parameters

DICE = {"published": 0.5, "tuned": 0.8, "tuned with flips": 0.7}


def test_the_choices_are_all_that_the_tuned_recipe_changes_but_the_number_of_validations():
    differing = {f.name for f in fields(Recipe) if getattr(TUNED, f.name) != getattr(Recipe(), f.name)}
    assert sorted(n for _, names in ablation.CHOICES.values() for n in names) == sorted(differing - {"eval_every"})
    assert not any(names.keys() & differing for names in ablation.CANDIDATES.values())


@pytest.mark.parametrize("name", ablation.variants())
def test_a_variant_differs_from_its_recipe_by_its_choice_alone(name):
    recipe_name, settings = ablation.variants()[name]
    for given in ({}, {"other_settings": {"feature_size": 24}, "max_steps": "9"}):
        options, recipe = read_parameters(ablation.parameters(name, 3, given))
        _, base = read_parameters(ablation.parameters(recipe_name, 3, given))
        differing = {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(base, f.name)}
        assert differing == settings.keys() and (options.fold, options.folds, recipe.seed) == (1, 2, 3)
        scale = DEMO_SCALE | ({"feature_size": 24, "max_steps": 9} if given else {})
        assert all(getattr(base, key) == value for key, value in scale.items())
    if recipe_name == "tuned" and not settings:
        assert base.adam_beta2 == TUNED.adam_beta2


@pytest.fixture
def without_papermill(monkeypatch, tmp_path):
    """Replace every run by scores that its name decides: of one organ in two cases, the second not found with flips."""

    def instead_of_papermill(command, **_):
        given = dict(zip(command[command.index("-p") + 1 :: 3], command[command.index("-p") + 2 :: 3], strict=True))
        logdir = sweep.Path(given.pop("logdir"))
        logdir.mkdir(parents=True)
        _, recipe = read_parameters(given)
        found = {"recipe": asdict(recipe), "pretrained_sha256": "", "seconds": 1}
        if "evaluate_only" in given:  # a test; the model is in its name
            model = tmp_path / logdir.name / "best_model.pth"
            assert given["pretrained_checkpoint"] == str(model)
            dice = json.loads(model.with_name("summary.json").read_text())["mean_dice"]
            found |= {"mean_dice": 0, "mean_dice_own_grid": 1 - dice, "pretrained_sha256": sha256(model)}
        else:
            seed = int(given["seed"])
            variant = logdir.name.removesuffix(f" seed {seed}")
            dice = DICE[variant] + 0.1 * seed * ("with" in variant)
            hd95 = 100 * dice if "with" in variant else (100 * dice + 200) / 2
            found |= {"mean_dice": dice, "mean_hd95_mm_all": hd95, "dice_per_organ": {"liver": dice}}
            found |= {"volume_ratio": 1 + dice} if recipe.class_balance else {}  # an earlier version noted none
            rows = ["case,organ,volume_true_ml,hd95_mm_all", f"a,liver,9,{100 * dice}"]
            rows.append("b,liver,9," + ("" if "with" in variant else "200"))
            (logdir / "evaluation.csv").write_text("\n".join([*rows, "c,liver,0,"]))
            note = {"recipe": asdict(recipe), "classes": ("background", "liver"), "modality": "CT", "run": logdir.name}
            save_weights(build_swinunetr(2, feature_size=12, window_size=4), logdir / "best_model.pth", note=note)
        (logdir / "summary.json").write_text(json.dumps(found))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sweep.subprocess, "run", instead_of_papermill)


def shown(folder, capsys, *more):
    """Run the command, and return its exit status, the rows of its table by name, and what it printed."""
    status = ablation.main(["--folder", str(folder), "--seeds", "2", "--only", *DICE, *more])
    data = list(more[more.index("--test") + 1 :][:2]) if "--test" in more else None
    text = capsys.readouterr().out
    return status, {row[0]: row[1:] for row in ablation.describe(ablation.collect(folder, {}, data)).rows}, text


def test_differences_are_paired_by_seed_and_by_what_both_found(without_papermill, tmp_path, capsys):
    for _ in range(2):  # the second time nothing is run
        status, rows, text = shown(tmp_path, capsys)
        assert status == 0 and "tuned with flips" in text
    assert rows["published"][:5] == (2, "50.0 ± 0.0", "", "", "0.0")
    # Dice 70 and 80 against 80; HD95 of the case that both found 70 and 80 mm against 80, of the other 200 mm
    assert rows["tuned with flips"] == (2, "75.0 ± 7.1", "-5.0 ± 7.1", "1.75", "1.0", "75.0", "-5.0", "")
    assert rows["tuned"][3:6] == ("1.80", "0.0", "140.0")
    with pytest.raises(SystemExit):
        ablation.main(["--folder", str(tmp_path), "-p", "data_root", "/data"])
    assert "holds results of other settings (parameters" in capsys.readouterr().err


def test_a_test_on_other_data_is_in_the_table(without_papermill, tmp_path, capsys):
    assert "Rank" not in shown(tmp_path, capsys)[2]
    given = ("--test", str(tmp_path), "a.json")
    status, rows, text = shown(tmp_path, capsys, *given)  # finished runs are tested, not run again
    assert status == 0 and [rows[name][-1] for name in DICE] == ["50.0 ± 0.0", "20.0 ± 0.0", "25.0 ± 7.1"]
    assert "over 6 models: -1.00" in text
    with pytest.raises(SystemExit):
        ablation.main(["--folder", str(tmp_path), "--test", str(tmp_path), "b.json"])
    assert "holds results of other settings (data" in capsys.readouterr().err

    shutil.copy(tmp_path / "published seed 0/best_model.pth", tmp_path / "tuned seed 0/best_model.pth")
    status, rows, text = shown(tmp_path, capsys, *given)  # the model was trained again after its test
    assert status == 1 and "tuned seed 0: it is of another run" in text and rows["tuned"][-1] == ""


def test_runs_of_other_settings_are_named_and_left_out(without_papermill, tmp_path, capsys):
    shown(tmp_path, capsys)
    file = tmp_path / "tuned seed 0/summary.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"recipe": found["recipe"] | {"learning_rate": 0.123}}))
    status, rows, text = shown(tmp_path, capsys)
    assert status == 1 and "learning_rate: 0.123 in the folder, 0.008 now" in text and rows["tuned"][0] == 1
    file.parent.rename(tmp_path / "tuned without no flips seed 0")
    assert "left out, as there is no variant of this name" in shown(tmp_path, capsys)[2]


def test_runs_of_an_earlier_version_and_of_deleted_weights_count(without_papermill, tmp_path, capsys):
    given = ("--test", str(tmp_path), "a.json")
    shown(tmp_path, capsys, *given)
    file = tmp_path / "tuned seed 0/summary.json"
    found = json.loads(file.read_text())
    del found["pretrained_sha256"], found["recipe"]["test_time_flips"]
    file.write_text(json.dumps(found))
    (tmp_path / "tuned seed 1/best_model.pth").unlink()
    status, rows, text = shown(tmp_path, capsys, *given)
    assert status == 0 and rows["tuned"][0] == 2 and rows["tuned"][-1] == "20.0 ± 0.0"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "1", "leaves alone, found seed"),
        ("other_settings", '{"flip_probability": 0.5}', "none that a variant changes, found flip_probability"),
        ("other_settings", "{'feature_size': 24}", "other_settings: expected settings by name"),
        ("colour", "red", "parameters of the notebook, found colour"),
    ],
)
def test_parameters_that_would_make_variants_alike_are_refused(tmp_path, capsys, name, value, message):
    with pytest.raises(SystemExit):
        ablation.main(["--folder", str(tmp_path), "-p", name, value])
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
