"""The speed benchmark on a tiny network and coarse phantoms; its figures mean nothing here."""

import json

import pytest

from benchmarks import speed


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Return a folder in which the first test that needs them makes the phantoms."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Compute on one thread: for so little work more only wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_every_stage_is_in_the_table(phantoms, tmp_path):
    file = tmp_path / "speed.json"
    assert speed.main(["--tiny", "--data", str(phantoms), "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row["stage"] for row in rows] == ["prepare_case", "sample_step", "train_step", "validate_case", "whole_run"]
    for row in rows:
        assert " ".join(row) == "stage published_s ours_s ratio published_peak_mb ours_peak_mb device"
        assert row["ratio"] == pytest.approx(row["published_s"] / row["ours_s"])
    seconds = [row["ours_s"] for row in rows]
    assert seconds[-1] == pytest.approx(30_000 * (seconds[1] + seconds[2]) + 1800 * seconds[3], rel=0.01)


def test_sides_that_differ_are_not_measured(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "share_weights", lambda published, ours: None)  # each keeps its own random ones
    file = tmp_path / "speed.json"
    assert speed.main(["--tiny", "--data", str(phantoms), "--json", str(file)]) == 1
    assert not file.exists()
    faults = [line for line in capsys.readouterr().out.splitlines() if "FAULT" in line]
    assert faults and all("logits" in line or "Dice of these windows" in line for line in faults)
