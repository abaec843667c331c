"""Precision where the hardware needs help."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import two_ranks
from conftest import PROJECT
from monai.networks.nets import SwinUNETR

import hardware as hardware_module
from hardware import Hardware, describe_speed, parallel, place_network, training_bytes


def test_bottleneck_gradient_is_right_where_onednn_s_bfloat16_one_is_not():
    hardware = Hardware(torch.device("cpu"), torch.bfloat16, "CPU")
    torch.manual_seed(0)
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=4)
    place_network(model, hardware)
    names = set(model.state_dict())
    x = torch.randn(1, 192, 2, 2, 2)
    gradients = []
    for context in (torch.autocast("cpu", enabled=False), hardware.autocast()):
        model.zero_grad()
        poison = [torch.full((192 * 192 * 54,), math.nan) for _ in range(3)]
        del poison  # memory that is read before it is written then holds NaN
        with context:
            model.encoder10(x).square().sum().backward()
        gradients.append(model.encoder10.layer.conv1.conv.weight.grad.clone())
    assert torch.equal(*gradients)
    assert names == set(SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=4).state_dict())


def test_two_ranks_train_as_one_process_that_sees_both_volumes(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [*launcher, str(PROJECT / "tests/two_ranks.py"), str(tmp_path / "out.json")]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["ranks"] == 2
    assert result["shared"] == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]]
    alone = Hardware(torch.device("cpu"), None, "CPU")
    assert result["losses"] == pytest.approx(two_ranks.train(alone, samples_per_step=2), rel=1e-4)


def test_alone_nothing_is_shared():
    alone = Hardware(torch.device("cpu"), None, "CPU")
    assert alone.share([1, 2]) == alone.gather([1, 2]) == [1, 2]
    assert alone.mean(0.1) == 0.1 and [alone.sample_number(step) for step in (1, 2, 3)] == [1, 2, 3]
    model = torch.nn.Linear(1, 1)
    assert parallel(model, alone) is model


def test_float16_alone_scales_its_gradients():
    dtypes = (None, torch.bfloat16, torch.float16)
    assert [Hardware(torch.device("cuda"), dtype, "").autocast_dtype is torch.float16 for dtype in dtypes] == [
        Hardware(torch.device("cpu"), dtype, "").scaler().is_enabled() for dtype in dtypes
    ]


@pytest.mark.parametrize(("free_gb", "kept"), [(100, True), (16, False)])
def test_activations_are_kept_only_where_they_fit(monkeypatch, free_gb, kept):
    monkeypatch.setattr(hardware_module, "memory_bytes", lambda hardware: free_gb * 10**9)
    cpu = Hardware(torch.device("cpu"), torch.bfloat16, "CPU")
    model = SwinUNETR(in_channels=1, out_channels=14, feature_size=12)
    voxels = 16 * 96**3
    assert 16e9 < training_bytes(model, voxels, cpu) < 32e9 < training_bytes(model, 2 * voxels, cpu)
    place_network(model, cpu, voxels)
    assert model.swinViT.layers1[0].blocks[0].use_checkpoint is not kept
    assert ("kept, as they fit" in describe_speed(model, cpu)) is kept
    assert "bfloat16" in describe_speed(model, cpu) and "channels-last" in describe_speed(model, cpu)
