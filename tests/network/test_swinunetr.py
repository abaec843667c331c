"""Both orders of patch merging, and preparation of the network for a device."""

import copy
import math
import re

import pytest
import torch
from checkpoint_files import response
from monai.networks.nets import SwinUNETR
from torch import nn

from swinunetr.errors import InputError
from swinunetr.hardware import Hardware
from swinunetr.network import swinunetr as network
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained
from swinunetr.network.swinunetr import (
    LegacyPatchMerging,
    describe_speed,
    place_network,
    training_bytes,
    unusual_design,
)


def test_current_merging_equals_monai_exactly_and_legacy_merging_differs(originals, tmp_path):
    file = tmp_path / "elsewhere.pt"
    torch.save(originals["current"].state_dict(), file)
    outputs = {}
    for merging in ("current", "legacy"):
        model = build_swinunetr(14, file, merging=merging)
        assert load_pretrained(model, file, merging=merging).merging == merging
        outputs[merging] = response(model, "head")[0]
    monai = response(originals["current"], "head")[0]
    assert torch.equal(outputs["current"], monai)
    assert (outputs["legacy"] - monai).abs().max() > 0.1 * monai.std()


def test_legacy_merging_concatenates_the_eight_sub_volumes_in_the_documented_order():
    merging = LegacyPatchMerging(dim=1)
    merging.norm = merging.reduction = nn.Identity()
    volume = torch.tensor([[[[100 * d + 10 * h + w] for w in (0, 1)] for h in (0, 1)] for d in (0, 1, 2)])[None]
    merged = merging(volume)  # d has three slices, so the fourth is padding
    assert merged.reshape(2, 8).tolist() == [[0, 100, 10, 1, 101, 10, 1, 111], [200, 0, 210, 201, 0, 210, 201, 0]]


LOWEST = {  # the block, its input for a crop of 64 x 32 x 32 or 64 x 64 x 64, and a weight of it
    "encoder10": ([(192, 2, 2, 2)], "layer.conv1.conv.weight"),
    "decoder5": ([(192, 2, 1, 1), (96, 4, 2, 2)], "conv_block.conv1.conv.weight"),
}


@pytest.mark.parametrize("name", LOWEST)
def test_gradients_of_few_voxels_on_a_cpu_in_bfloat16_equal_float32(name):
    shapes, weight = LOWEST[name]
    hardware = Hardware(torch.device("cpu"), torch.bfloat16, "CPU")
    torch.manual_seed(0)
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=4)
    place_network(model, hardware)
    names = set(model.state_dict())
    inputs = [torch.randn(1, *shape) for shape in shapes]
    gradients = []
    for context in (torch.autocast("cpu", enabled=False), hardware.autocast()):
        model.zero_grad()
        freed = [torch.full((192 * 192 * 54,), math.nan) for _ in range(3)]
        del freed  # uninitialised memory now contains NaN
        with context:
            getattr(model, name)(*inputs).square().sum().backward()
        gradients.append(getattr(model, name).get_parameter(weight).grad.clone())
    assert torch.equal(*gradients)
    assert names == set(SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=4).state_dict())


@pytest.mark.parametrize(("free_gb", "kept"), [(100, True), (16, False)])
def test_activations_are_kept_only_where_they_fit(monkeypatch, free_gb, kept):
    monkeypatch.setattr(network, "memory_bytes", lambda hardware: free_gb * 10**9)
    cpu = Hardware(torch.device("cpu"), torch.bfloat16, "CPU")
    model = SwinUNETR(in_channels=1, out_channels=14, feature_size=12)
    voxels = 16 * 96**3
    assert 16e9 < training_bytes(model, voxels, cpu) < 32e9 < training_bytes(model, 2 * voxels, cpu)
    place_network(model, cpu, voxels)
    assert model.swinViT.layers1[0].blocks[0].use_checkpoint is not kept
    shown = str(describe_speed(model, cpu))
    assert ("kept, as they fit" in shown) is kept
    assert "bfloat16" in shown and "channels-last" in shown


def test_a_copy_of_a_placed_network_uses_its_own_weights():
    cpu = Hardware(torch.device("cpu"), torch.bfloat16, "CPU")
    torch.manual_seed(0)
    model = place_network(SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=4), cpu).eval()
    other = copy.deepcopy(model)
    x = torch.randn(1, 192, 2, 2, 2)
    with torch.no_grad(), cpu.autocast():
        assert torch.equal(model.encoder10(x), other.encoder10(x)) and model.encoder10(x).dtype is torch.float32
        other.encoder10.layer.conv1.conv.weight.mul_(-1)
        assert not torch.equal(model.encoder10(x), other.encoder10(x))


def test_training_on_a_gpu_needs_less_memory_than_on_a_cpu():
    model = SwinUNETR(in_channels=1, out_channels=14, feature_size=48)
    cpu, gpu = (Hardware(torch.device(name), torch.bfloat16, name) for name in ("cpu", "cuda"))
    voxels = 4 * 96**3
    assert training_bytes(model, voxels, gpu) == pytest.approx(9.2e9, rel=0.01)  # counted_step.py counts 9.05 GB
    assert training_bytes(model, voxels, cpu) > 2 * training_bytes(model, voxels, gpu)


@pytest.mark.parametrize(("features", "shown"), [(48, "fused, with masks"), (12, "not fused.*4")])
def test_attention_on_a_gpu_is_fused_for_multiples_of_eight_channels_per_head(features, shown):
    gpu = Hardware(torch.device("cuda", 0), torch.float16, "GPU", warnings=("warning: an old driver",))
    table = str(describe_speed(SwinUNETR(in_channels=1, out_channels=2, feature_size=features), gpu))
    assert re.search(f"attention +{shown}", table) and table.endswith("warning: an old driver")


def test_a_network_that_does_not_fit_into_the_gpu_is_one_message(monkeypatch):
    def full(self, *args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(SwinUNETR, "to", full)
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    with pytest.raises(InputError, match="The GPU's memory is full.*20 MiB"):
        place_network(model, Hardware(torch.device("cpu"), None, "CPU"))


@pytest.mark.parametrize(
    "options, found",
    [
        ({"spatial_dims": 2}, ["2D"]),
        ({"depths": (2, 2, 6, 2)}, ["depths 2, 2, 6, 2"]),
        ({"num_heads": (2, 4, 8, 16), "feature_size": 24}, ["heads 2, 4, 8, 16"]),
        ({"window_size": (4, 4, 2)}, ["a window that is not cubic"]),
        ({"window_size": 5, "use_v2": True, "in_channels": 3}, []),
    ],
)
def test_another_design_is_seen_in_the_tensors(options, found):
    network = SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12} | options)
    assert unusual_design(network.state_dict()) == found
