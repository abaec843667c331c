"""Device, precision, and training with several processes."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import two_ranks
from conftest import PROJECT, write_small_data
from torch.torch_version import TorchVersion

from swinunetr import hardware
from swinunetr.errors import InputError
from swinunetr.hardware import Hardware, parallel


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return a folder with what two processes under torchrun wrote, and their output."""
    folder = tmp_path_factory.mktemp("two_ranks")
    json_path, _ = write_small_data(folder / "data")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [*launcher, str(PROJECT / "tests/two_ranks.py"), str(json_path), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (folder / "out.json").exists(), done.stderr[-3000:]
    return folder


def test_two_ranks_have_the_same_losses_as_one_process_with_both_volumes(two):
    result = json.loads((two / "out.json").read_text())
    assert result["ranks"] == 2
    assert result["shared"] == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]]
    single = Hardware(torch.device("cpu"), None, "CPU")
    assert result["losses"] == pytest.approx(two_ranks.train(single, samples_per_step=2), rel=1e-4)


def test_two_ranks_check_and_prepare_a_share_each_and_have_all_cases(two):
    first, second = json.loads((two / "out.json").read_text())["prepared"]
    assert len(first["voxels"]) == len(second["voxels"]) == 3  # of six files
    assert set(first["voxels"]).isdisjoint(second["voxels"])
    assert (first["cases"], second["cases"]) == (["img0001"], ["img0002"])
    assert first["total"] == second["total"] != 0 and first["fingerprint"] == second["fingerprint"]
    assert len(first["fingerprint"]) == 3


def test_memory_of_one_rank_that_is_full_stops_both_with_one_reason(two):
    other, full = ((two / f"stopped.{rank}.txt").read_text() for rank in (0, 1))
    assert "The GPU's memory is full" in full and "2 GiB" in full
    assert "Another of the 2 processes stopped in step 3; its own message says why" in other
    assert (two / "run/state.pt").exists()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Return what a process on each of two machines found."""
    folder = tmp_path_factory.mktemp("two_machines")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"PYTHONPATH": str(PROJECT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    command = [sys.executable, str(PROJECT / "tests/two_machines.py"), str(folder)]
    both = [subprocess.Popen(command, env=common | {"RANK": rank}, stderr=subprocess.PIPE, text=True) for rank in "01"]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(error[-3000:] for error in errors)
    return [json.loads((folder / f"found.{rank}.json").read_text()) for rank in (0, 1)]


def test_machines_may_have_their_data_under_different_paths(machines):
    first, second = machines
    assert first["same"] == second["same"] and len(first["same"]) == 3
    assert first["link and copy"] == second["link and copy"] and len(first["link and copy"]) == 3


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("shorter list", "6 files on rank 0 and 4 on rank 1. The first difference: training case img0002, image on"),
        ("missing", "file is missing (rank 1)  check data_root"),
        ("other file", "another file on the machine of rank 1 than on that of rank 0  copy the data set"),
        ("not shared", "is not the same folder on all machines: rank 1 does not see what rank 0 wrote there"),
        ("other settings", "\n  learning_rate: 0.001 on rank 0, 0.0001 on rank 1\n"),
        ("other state", "\n  step: 4 on rank 0, 1 on rank 1\n"),
        ("bad on one", "save_every: expected seconds, 0 or more, found -1"),
        ("refused by rank 0", "holds a run. Choose another folder, or set resume to True"),
        ("other version", "do not compute the same:\n  monai: "),
    ],
)
def test_all_machines_refuse_together(machines, case, said):
    for found in machines:
        assert said in found[case] and len(found[case].splitlines()) <= 12


def test_machines_that_agree_go_on(machines):
    for found in machines:
        assert found["same state"] == "opened at step 4" and found["a cache on one"] == ["img0003"]


def test_a_rank_waits_minutes_in_training_and_a_day_for_shares_of_the_cases(machines):
    assert machines[0]["waits"] == [30 * 60, 24 * 60 * 60]
    assert "Another of the 2 processes did not answer. Look at the output of each process" in machines[0]["late"]


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


@pytest.mark.parametrize(
    ("version", "cudnn", "slow"),
    [("2.8.0", 91002, False), ("2.9.1", 91002, True), ("2.10.0", 91499, True), ("2.11.0", 91900, False)],
)
def test_versions_that_take_convolutions_away_from_cudnn_are_named(monkeypatch, version, cudnn, slow):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    found = hardware._slow_convolutions()
    assert bool(found) is slow
    assert not slow or f"PyTorch {version} does not use its cuDNN {cudnn}" in found[0]


def test_a_gpu_that_pytorch_does_not_see_is_named(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    monkeypatch.setattr(hardware, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware._unused_gpu(["The driver is too old"]) == ()
    driver.touch()
    (found,) = hardware._unused_gpu(["The driver is too old"])
    assert "finds no GPU and uses the CPU" in found and found.endswith("The driver is too old")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert hardware._unused_gpu(["The driver is too old"]) == ()


def test_a_gpu_that_cannot_be_used_is_one_message(monkeypatch):
    def refuse(number):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore lines")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    with pytest.raises(InputError, match="GPU 1 cannot be used .CUDA error: all CUDA-capable.*CUDA_VISIBLE_DEVICES"):
        hardware._open_gpu(1)
    with pytest.raises(InputError, match="process 2 has no GPU of its own: this machine has 2"):
        hardware._open_gpu(2)
