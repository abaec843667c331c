"""Averaged weights."""

import copy
from dataclasses import replace

import torch
from conftest import SMALL

from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.network.placement import place_network
from swinunetr.training.averaging import average_weights


def test_the_average_moves_by_one_nth_towards_the_weights_of_each_step():
    network = torch.nn.Linear(3, 2)
    averaged = average_weights(network, replace(SMALL, max_steps=40, averaged_share=0.1))
    expected = None
    for step in range(4):
        with torch.no_grad():
            network.weight.fill_(step)
        averaged.update_parameters(network)
        expected = step if expected is None else expected + (step - expected) / 4  # a tenth of 40 steps
    assert torch.allclose(averaged.module.weight, torch.full((2, 3), float(expected)))
    assert network.weight[0, 0] == 3  # the network itself is left alone


def test_without_a_share_there_is_no_average():
    assert average_weights(torch.nn.Linear(3, 2), SMALL) is None


def test_a_placed_network_can_be_averaged_and_restored_exactly():
    torch.manual_seed(0)
    network = place_network(build_swinunetr(3, feature_size=12, window_size=4), find_hardware())
    averaged = average_weights(network, replace(SMALL, averaged_share=0.05))
    for _ in range(2):
        averaged.update_parameters(network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)
    state = copy.deepcopy(averaged.state_dict())
    again = average_weights(network, replace(SMALL, averaged_share=0.05))
    again.load_state_dict(state)
    for one in (averaged, again):
        one.update_parameters(network)
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), again.parameters(), strict=True))
    assert averaged.module.state_dict().keys() == network.state_dict().keys()
