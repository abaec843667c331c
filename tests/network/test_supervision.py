"""Deep supervision."""

import copy

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.network.placement import place_network
from swinunetr.network.supervision import DeepSupervision


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return place_network(build_swinunetr(3, feature_size=12, window_size=4), find_hardware())


@pytest.fixture(scope="module")
def images():
    return torch.rand(1, 1, 64, 64, 32, generator=torch.Generator().manual_seed(0))


def test_levels_halve_the_resolution_and_the_first_is_the_network_s(network, images):
    trained = DeepSupervision(network, 3)
    with torch.no_grad():
        levels = trained(images)
        assert torch.equal(levels[0], network(images))
    assert [tuple(level.shape) for level in levels] == [(1, 3, 64 // n, 64 // n, 32 // n) for n in (1, 2, 4, 8)]


@pytest.mark.parametrize("levels", [0, 2])
def test_the_logits_are_float32_under_autocast_so_that_the_loss_is(network, images, levels):
    trained = DeepSupervision(network, levels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = trained(images)
    assert {level.dtype for level in (logits if levels else [logits])} == {torch.float32}


def test_no_level_is_the_plain_loss_to_the_last_bit(network, images):
    labels = torch.randint(0, 3, images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    plain = DiceCELoss(to_onehot_y=True, softmax=True)
    expected = plain(network(images), labels)
    assert torch.equal(DeepSupervisionLoss(plain)(DeepSupervision(network, 0)(images), labels), expected)


def test_the_head_of_a_level_and_the_network_below_it_learn_from_that_level(network, images):
    trained = DeepSupervision(network, 2)
    trained.zero_grad()
    trained(images)[2].sum().backward()  # of a quarter of the resolution, the output of decoder3
    assert trained.heads[1].weight.grad.abs().sum() > 0 and trained.heads[0].weight.grad is None
    assert network.decoder4.conv_block.conv1.conv.weight.grad.abs().sum() > 0
    assert network.decoder2.conv_block.conv1.conv.weight.grad is None


def test_nothing_is_left_in_the_network(network, images):
    before = set(network.state_dict())
    DeepSupervision(network, 2)(images)
    assert set(copy.deepcopy(network).state_dict()) == before
    assert not any(module._forward_hooks for module in network.modules())
