"""The pre-training notebook as a reader runs it, on phantoms without labels."""

import csv
import json

import nbformat
import pytest
import torch
from notebook_runs import PRETRAINING, killed_after, papermill, run_cells_again, two_ranks, weights

from swinunetr.data.phantoms import write_unlabelled_phantoms
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained

ONE_VIEW = {"tasks": "reconstruction", "volumes_per_step": 1}  # in a step
SMALL_CROP = {"crop_size": [32, 32, 64]}
SHORT_PRETRAINING = {"recipe_name": "demo", "max_steps": 3, "eval_every": 2, "save_every": 0, **SMALL_CROP}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a folder of three volumes without labels."""
    folder = tmp_path_factory.mktemp("scans")
    return write_unlabelled_phantoms(folder, 3)


@pytest.fixture(scope="module")
def pretrained(scans, tmp_path_factory):
    """Return the folder of a short pre-training."""
    folder = tmp_path_factory.mktemp("pretrained")
    given = {"data_root": scans, "logdir": folder / "run", **SHORT_PRETRAINING}
    done = papermill(folder / "out.ipynb", PRETRAINING, **given)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_pretraining_leaves_weights_that_fine_tuning_takes(pretrained):
    run = pretrained / "run"
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert list(rows[0])[2:] == ["reconstruction", "rotation", "contrast", "rotation_accuracy"]
    assert {"task_curves.png", "reconstruction.png", "summary.json", "state.pt"} <= {f.name for f in run.iterdir()}
    executed = nbformat.read(pretrained / "out.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert "Warning" not in "".join(output.get("text", "") for output in outputs)

    model = build_swinunetr(14, run / "ssl_pretrained_weights.pth")
    report = load_pretrained(model, run / "ssl_pretrained_weights.pth")
    assert report.family == "swinunetr"
    weights = torch.load(run / "ssl_pretrained_weights.pth", weights_only=True)
    loaded = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, weights[name])]
    assert set(model.state_dict()) - set(loaded) == {"out.conv.conv.weight", "out.conv.conv.bias"}


def test_a_killed_pretraining_continues_to_the_same_weights(pretrained, scans, tmp_path):
    given = {"data_root": scans, "logdir": tmp_path / "run", **SHORT_PRETRAINING}
    killed_after(tmp_path / "run/state.pt", tmp_path / "killed.ipynb", PRETRAINING, **given)
    assert papermill(tmp_path / "again.ipynb", PRETRAINING, **given).returncode == 0
    files = [folder / "run/ssl_pretrained_weights.pth" for folder in (pretrained, tmp_path)]
    whole, killed = (weights(file) for file in files)
    assert whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)


def test_two_ranks_under_torchrun_make_one_run_of_pretraining(scans, tmp_path):
    options = {"data_root": scans, "recipe_name": "demo", "cache_dir": tmp_path / "cache", "max_steps": 2}
    two_ranks(PRETRAINING, tmp_path, options | ONE_VIEW | SMALL_CROP | {"eval_every": 1})
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "run/summary.json").read_text())["ranks"] == 2
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 3
    assert len(torch.load(tmp_path / "run/ssl_pretrained_weights.pth", weights_only=True)) > 100
    assert "2 steps; views per step: 2, devices: 2" in (tmp_path / "out.0.ipynb").read_text()


def test_cells_may_be_run_again(small_data, tmp_path):
    starts = ("recipe", "network", "train")
    run_cells_again(PRETRAINING, "ssl_pretrained_weights.pth", starts, small_data, tmp_path, **ONE_VIEW, **SMALL_CROP)
