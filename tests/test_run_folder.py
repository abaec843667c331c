"""What a run writes, and what it must not overwrite."""

import json

import numpy as np
import pytest
from conftest import SMALL

from hardware import find_hardware
from run_folder import RunFolder
from ssl_helpers import read_dataset
from user_errors import InputError


def counts_with_dice(first: int, second: int) -> np.ndarray:
    """Return the counts of one case whose organs have 10 voxels each, of which so many are found."""
    return np.array([[[80, 0, 0], [10 - first, first, 0], [10 - second, 0, second]]])


def test_run_folder_writes_metrics_and_knows_the_best(tmp_path):
    run = RunFolder(tmp_path / "run", ("left box", "right box"))
    assert run.record(10, 2.0, counts_with_dice(5, 10))
    assert not run.record(20, 1.0, counts_with_dice(5, 5))
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert lines[0] == "step,train_loss,mean_dice,left box,right box"
    assert [float(v) for v in lines[1].split(",")] == pytest.approx([10, 2.0, (2 / 3 + 1) / 2, 2 / 3, 1])
    assert run.best["step"] == 10 and run.best_dice == pytest.approx(5 / 6)
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_summary_is_plain_json_with_null_for_an_absent_organ(small_data, tmp_path):
    dataset = read_dataset(*small_data)
    run = RunFolder(tmp_path / "run", dataset.organs)
    counts = np.array([[[90, 0, 0], [0, 10, 0], [0, 0, 0]]])
    run.record(1, 1.0, counts)
    run.write_summary(SMALL, dataset, find_hardware(), counts, seed=0)
    text = (tmp_path / "run/summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["dice_per_organ"] == {"left box": 1.0, "right box": None}
    assert summary["split"] == {"training": ["img0001", "img0002"], "validation": ["img0003"]}
    assert {"recipe", "seed", "versions", "hardware", "best_step", "best_mean_dice", "seconds"} <= set(summary)


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(InputError, match="logdir"):
        RunFolder(tmp_path, ("a",))
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.csv"] and (tmp_path / "metrics.csv").read_text() == "mine"


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="logdir.*can't be written"):
        RunFolder(tmp_path / "file", ("a",))
