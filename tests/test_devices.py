"""Device, precision, and training with several processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
import two_ranks
from conftest import PROJECT

from swinunetr import devices
from swinunetr.devices import Hardware, parallel


def test_two_ranks_have_the_same_losses_as_one_process_with_both_volumes(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [*launcher, str(PROJECT / "tests/two_ranks.py"), str(tmp_path / "out.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["ranks"] == 2
    assert result["shared"] == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]]
    single = Hardware(torch.device("cpu"), None, "CPU")
    assert result["losses"] == pytest.approx(two_ranks.train(single, samples_per_step=2), rel=1e-4)


def test_one_process_keeps_all_items_and_the_plain_network():
    single = Hardware(torch.device("cpu"), None, "CPU")
    assert single.share([1, 2]) == single.gather([1, 2]) == [1, 2]
    assert single.mean(0.1) == 0.1 and [single.sample_number(step) for step in (1, 2, 3)] == [1, 2, 3]
    model = torch.nn.Linear(1, 1)
    assert parallel(model, single) is model


def test_gradients_are_scaled_only_with_float16():
    dtypes = (None, torch.bfloat16, torch.float16)
    assert [Hardware(torch.device("cuda"), dtype, "").autocast_dtype is torch.float16 for dtype in dtypes] == [
        Hardware(torch.device("cpu"), dtype, "").scaler().is_enabled() for dtype in dtypes
    ]


@pytest.mark.parametrize("version", [0, 1])
def test_a_container_has_what_its_limit_leaves_besides_the_file_cache(version, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    contents = ("3000000\n", "2000000\n", "anon 5\ninactive_file 500000\n")
    for name, text in zip(devices.CONTAINER_MEMORY[version], contents, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices.available_memory() == 1_500_000
    (tmp_path / devices.CONTAINER_MEMORY[version][0]).write_text("max\n")
    assert devices.available_memory() > 1_500_000
