"""The speed benchmark on a tiny network and coarse phantoms; its figures mean nothing here."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import speed


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Return a folder in which the first test that needs them makes the phantoms."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute on one thread: for so little work more only wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def tf32_allowed():
    """Return whether this process lets cuDNN and matrix products use TF32."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(scope="module")
def finished(phantoms):
    """Return the rows of a finished benchmark, and what each of its processes says of TF32, in order of their start."""
    file, tf32 = phantoms / "speed.json", []

    class AskedProcess(speed.SideProcess):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            tf32.append(self.submit(tf32_allowed).result())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SideProcess", AskedProcess)
        assert speed.main(["--tiny", "--data", str(phantoms), "--json", str(file)]) == 0
    return json.loads(file.read_text()), tf32


def test_every_stage_is_in_the_table(finished):
    rows, _ = finished
    assert [row["stage"] for row in rows] == ["prepare_case", "sample_step", "train_step", "validate_case", "whole_run"]
    for row in rows:
        assert " ".join(row) == "stage published_s ours_s ratio published_peak_mb ours_peak_mb device"
        assert row["ratio"] == pytest.approx(row["published_s"] / row["ours_s"])
    seconds = [row["ours_s"] for row in rows]
    assert seconds[-1] == pytest.approx(30_000 * (seconds[1] + seconds[2]) + 1800 * seconds[3], rel=0.01)


def test_tf32_is_off_where_results_are_compared_and_as_by_default_where_time_is_measured(finished):
    _, tf32 = finished
    compared, measured = tf32[:2], tf32[2:]
    assert compared == [(False, False)] * 2
    assert measured == [(True, False)] * 2


def test_sides_that_differ_are_not_measured(phantoms, tmp_path, monkeypatch, capsys):
    class OtherWeights(speed.SideProcess):
        def __init__(self, name, recipe, *arguments, **options):
            super().__init__(name, replace(recipe, seed=int(name == "ours")), *arguments, **options)

    monkeypatch.setattr(speed, "SideProcess", OtherWeights)
    file = tmp_path / "speed.json"
    assert speed.main(["--tiny", "--data", str(phantoms), "--json", str(file)]) == 1
    assert not file.exists()
    faults = [line for line in capsys.readouterr().out.splitlines() if "TOO LARGE" in line]
    assert faults and all("logits" in line or "Dice of these windows" in line for line in faults)
