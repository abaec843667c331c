"""The results table from finished runs, and which runs are started."""

import csv
import json
import subprocess
from dataclasses import asdict

import pytest

from benchmarks import results_table, sweep
from swinunetr.files import sha256
from swinunetr.network.checkpoints import build_swinunetr, save_weights, training_note
from swinunetr.training.parameters import read_parameters

DICE = {  # best of the run, by start and seed
    ("random", 0): 0.40,
    ("random", 1): 0.60,
    ("pretrained", 0): 0.50,
    ("pretrained", 1): 0.80,
}


def finish(given, dice):
    """Leave what a finished run of the notebook with these parameters leaves, as far as the table reads it."""
    logdir = results_table.Path(given["logdir"])
    logdir.mkdir(parents=True, exist_ok=True)
    options, recipe = read_parameters(given)
    hashes = [sha256(file) for file in options.ensemble or filter(None, [options.checkpoint])]
    scores = {"mean_dice": dice, "mean_dice_own_grid": dice, "best_step": 20, "seconds": 30}
    scores |= {"recipe": asdict(recipe), "pretrained_sha256": hashes[0] if hashes else ""}
    scores |= {"ensemble_sha256": hashes} if options.ensemble else {}
    (logdir / "summary.json").write_text(json.dumps(scores | {"split": {"validation": ["a", "b"]}}))
    (logdir / "metrics.csv").write_text(f"step,train_loss,mean_dice\n10,1.0,{dice / 2}\n20,0.5,{dice}\n")


@pytest.fixture
def started(monkeypatch):
    """Return the list of log folders whose runs are started, each finishing at once."""
    folders = []

    def instead_of_papermill(command, **_):
        given = dict(zip(command[command.index("-p") + 1 :: 3], command[command.index("-p") + 2 :: 3], strict=True))
        folder = results_table.Path(given["logdir"])
        start = "pretrained" if "pretrained_checkpoint" in given else "random"
        assert folder.name == f"6_{start}_{given['seed']}" and given["json_path"] == "json_files/btcv_6.json"
        folders.append(folder.name)
        finish(given, DICE[start, int(given["seed"])])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sweep.subprocess, "run", instead_of_papermill)
    return folders


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    """Write weights into the working folder."""
    monkeypatch.chdir(tmp_path)
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def fill(folder, *more):
    return results_table.main(["--weights", "w.pth", "--folder", str(folder), "--volumes", "6", *more])


def test_means_spread_and_paired_difference_counted_by_hand(started, tmp_path, capsys):
    assert fill(tmp_path) == 0
    # random 40 and 60, pre-trained 50 and 80: differences 10 and 20, and 65 is 30% more than 50
    row = "| 6 | 2 | 2 | 50.00 ± 14.14 | 65.00 ± 21.21 | 15.00 ± 7.07 | +30.0% |"
    assert (tmp_path / "table.md").read_text().splitlines()[-1] == row
    assert row in (shown := capsys.readouterr().out)
    assert "4 runs, 2 minutes" in shown
    assert "reaches the last random one after 20 steps" in shown
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = {(row["start"], int(row["seed"])): float(row["mean_dice"]) for row in csv.DictReader(file)}
    assert rows == DICE
    assert (tmp_path / "results.png").stat().st_size > 0


def test_finished_runs_are_left_out_and_a_seed_without_its_pair_does_not_count(started, tmp_path):
    finish({"logdir": tmp_path / "folder/6_random_1", "seed": 1}, 0.9)
    (tmp_path / "folder/made_by.json").write_text(json.dumps({"weights": "w.pth", "parameters": {}}))
    fill(tmp_path / "folder", "--seeds", "1")
    assert started == ["6_random_0", "6_pretrained_0"]
    assert "| 6 | 2 | 1 | 40.00 | 50.00 | 10.00 | +25.0% |" in (tmp_path / "folder/table.md").read_text()


def test_shares_split_the_runs_without_overlap(started, tmp_path):
    fill(tmp_path, "--share", "1/3")
    assert started == ["6_random_0", "6_pretrained_1"]
    fill(tmp_path, "--share", "2/3")
    fill(tmp_path, "--share", "3/3")
    assert sorted(started) == ["6_pretrained_0", "6_pretrained_1", "6_random_0", "6_random_1"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "half"])
def test_a_share_that_is_none_is_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fill(tmp_path, "--share", text)
    assert "--share" in capsys.readouterr().err


def test_runs_of_other_weights_are_not_mixed_in(started, tmp_path, capsys):
    fill(tmp_path, "--seeds", "1")
    with pytest.raises(SystemExit):
        results_table.main(["--weights", "other.pth", "--folder", str(tmp_path), "--volumes", "6"])
    assert "holds results of other settings (weights" in capsys.readouterr().err
    assert len(started) == 2


def test_finished_runs_of_other_weights_under_the_same_name_do_not_count(started, weights, tmp_path, capsys):
    fill(tmp_path / "folder", "--seeds", "1")
    assert fill(tmp_path / "folder", "--seeds", "1") == 0
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), weights)
    assert fill(tmp_path / "folder", "--seeds", "1") == 1 and len(started) == 2
    text = capsys.readouterr().out
    assert "6_pretrained_0: it is of another run" in text and "pretrained_sha256: " in text
    assert "No run from random weights has a pre-trained one" in text


@pytest.mark.parametrize("name", ["pretrained_checkpoint", "seed", "json_path", "evaluate_only"])
def test_parameters_that_the_table_sets_are_refused(started, tmp_path, capsys, name):
    with pytest.raises(SystemExit):
        fill(tmp_path / "folder", "-p", name, "1")
    assert f"leaves alone, found {name}" in capsys.readouterr().err and not started


def test_a_run_that_fails_is_named_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "InputError: data_root: no such folder")
    monkeypatch.setattr(sweep.subprocess, "run", lambda *_, **__: failed)
    assert fill(tmp_path, "--seeds", "1") == 1
    shown = capsys.readouterr().out
    assert "6_random_0: InputError: data_root" in shown and "6_pretrained_0: InputError" in shown
    assert "No run from random weights has a pre-trained one" in shown


def test_folds_are_trained_and_tested_alone_and_together_on_the_validation_list(monkeypatch, tmp_path, capsys):
    alone, started = {0: 0.6, 1: 0.7}, {}

    def instead_of_papermill(command, **_):
        given = dict(zip(command[command.index("-p") + 1 :: 3], command[command.index("-p") + 2 :: 3], strict=True))
        logdir = results_table.Path(given["logdir"])
        started[logdir.name] = given
        weights = given.get("pretrained_checkpoint", "")
        dice = 0.9 if "," in weights else alone[int(logdir.name.split("fold")[1][0])]
        finish(given, dice)
        note = {"recipe": asdict(read_parameters(given)[1]), "classes": ("background", "liver"), "modality": "CT"}
        save_weights(build_swinunetr(2, feature_size=12, window_size=4), logdir / "best_model.pth", note=note)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sweep.subprocess, "run", instead_of_papermill)
    given = ("--folds", "2", "--seeds", "1", "-p", "max_steps", "9", "-p", "data_root", "/data")
    assert fill(tmp_path / "out", *given) == 0
    assert started["6_random_0_fold1"]["fold"] == "1" and started["6_random_0_fold1"]["folds"] == "2"
    tested = started["6_random_0_ensemble"]
    assert tested["evaluate_only"] == "True" and "max_steps" not in tested and "fold" not in tested
    assert tested["pretrained_checkpoint"].count("best_model.pth") == 2 and tested["data_root"] == "/data"
    assert len(started) == 2 * (2 + 2 + 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "6_random_0 2 65.00 ± 7.07 90.00 +25.00 65.00" in shown
    started.clear()
    assert fill(tmp_path / "out", *given) == 0 and not started
    weights = build_swinunetr(2, feature_size=12, window_size=4)
    file = tmp_path / "out/6_random_0_fold1/best_model.pth"
    save_weights(weights, file, note=training_note(file))
    assert fill(tmp_path / "out", *given) == 1 and not started  # a model was trained again after its test
    shown = capsys.readouterr().out
    assert "6_random_0_fold1_tested: it is of another run" in shown and "6_random_0_ensemble: it is of" in shown


def test_a_run_that_has_not_ended_is_continued_and_not_counted(tmp_path, started):
    entry = {"json_path": "json_files/btcv_6.json", "seed": 0}
    logdir = tmp_path / "6_random_0"
    finish(entry | {"logdir": str(logdir)}, 0.1)
    content = json.loads((logdir / "summary.json").read_text())
    (logdir / "summary.json").write_text(json.dumps(content | {"finished": True}))
    assert sweep.is_done(logdir, entry) and sweep.run_notebook(logdir, entry) and started == []
    (logdir / "summary.json").write_text(json.dumps(content | {"finished": False}))
    assert not sweep.is_done(logdir, entry) and results_table.collect({logdir: entry}) == []
    assert sweep.run_notebook(logdir, entry) and started == ["6_random_0"]
