"""The diagram of the network, and its feature maps."""

import matplotlib.pyplot as plt
import pytest
import torch
from checkpoint_files import known_network
from monai.networks.nets import SwinUNETR

from swinunetr.network.fast import speed_up
from swinunetr.results import plots
from swinunetr.results.plots.network import PARTS, measure_outputs


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("options", [{}, {"use_v2": True}])
def test_sizes_are_those_of_a_run(options):
    model = known_network(classes=3, **options)
    shapes = measure_outputs(model, (64, 64, 32))
    with torch.no_grad():
        states = model.swinViT(torch.rand(1, 1, 64, 64, 32))
        logits = model(torch.rand(1, 1, 64, 64, 32))
    stages = ["swinViT.patch_embed", *(f"swinViT.layers{i}" for i in range(1, 5))]
    assert [shapes[name] for name in stages] == [tuple(state.shape[1:]) for state in states]
    assert shapes["out"] == tuple(logits.shape[1:]) == (3, 64, 64, 32)
    assert shapes["decoder5"] == shapes["swinViT.layers3"] and shapes["encoder1"] == (12, 64, 64, 32)


def test_the_diagram_leaves_the_network_as_it_is():
    model = speed_up(known_network(classes=3))
    kinds, device = [type(module) for module in model.modules()], next(model.parameters()).device
    crop = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        before = model(crop)
        texts = texts_of(plots.plot_network(model, (64, 32, 32)))
        assert torch.equal(model(crop), before)
    assert [type(module) for module in model.modules()] == kinds
    assert next(model.parameters()).device == device and not model.out._forward_hooks
    assert "1 channel, 64 x 32 x 32" in texts and "3 channels, 64 x 32 x 32" in texts
    assert "192 channels, 2 x 1 x 1" in texts


@pytest.mark.parametrize("use_v2", [False, True])
def test_the_parts_have_all_parameters(use_v2):
    model = SwinUNETR(1, 14, feature_size=12, use_v2=use_v2)
    modules = dict(model.named_modules())
    listed = [p for part in PARTS for name in part.modules if name in modules for p in modules[name].parameters()]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))


def test_each_feature_map_has_a_panel():
    figure = plots.plot_features(torch.rand(1, 1, 8, 8, 4), torch.rand(1, 6, 4, 4, 2), torch.rand(1, 6, 4, 4, 2))
    assert len(figure.axes) == 12
