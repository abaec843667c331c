"""Precision where the hardware needs help."""

import math

import torch
from monai.networks.nets import SwinUNETR

from hardware import Hardware, place_network


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
