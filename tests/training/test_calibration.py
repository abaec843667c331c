"""Calibration of the head, with a network whose predictions are known."""

from dataclasses import replace

import pytest
import torch
from conftest import SMALL
from monai.data import MetaTensor
from torch import nn

from swinunetr.data.label_maps import IGNORED, LabelMap
from swinunetr.hardware import find_hardware
from swinunetr.results.metrics import confusion_matrix
from swinunetr.training import calibration
from swinunetr.training.calibration import calibrated, volume_offsets

RECIPE = replace(SMALL, calibration_cases=2, crop_size=(64, 32, 32))
HARDWARE = replace(find_hardware(), autocast_dtype=None)


class Slope(nn.Module):
    """A network whose logit of class k is k times an intensity plus a bias, so that a bias decides the volumes."""

    def __init__(self, bias):
        super().__init__()
        self.out = nn.Module()
        self.out.conv = nn.Module()
        self.out.conv.conv = nn.Conv3d(1, len(bias), 1)
        self.out.conv.conv.weight.data[:, 0, 0, 0, 0] = 8.0 * torch.arange(len(bias))
        self.out.conv.conv.bias.data[:] = torch.tensor(bias)

    def forward(self, x):
        return self.out.conv.conv(x)


def case(thresholds, seed=0, **more):
    """Return a case of uniform intensities; class k begins at its threshold, which is a share of the voxels."""
    image = torch.rand(1, 64, 32, 32, generator=torch.Generator().manual_seed(seed))
    label = sum((image >= threshold).to(torch.uint8) for threshold in thresholds)
    return {"name": str(seed), "image": MetaTensor(image.half()), "label": MetaTensor(label)} | more


def volumes(model, one):
    return confusion_matrix(model(one["image"].float()[None]).argmax(1)[0], one["label"][0], 3).sum(0) / (64 * 32 * 32)


def test_volumes_are_those_of_the_labels_within_the_context_and_the_head_is_as_learned_after_it():
    model, cases = Slope([0.0, -4.0, -9.5]), [case((0.6, 0.9)), case((0.6, 0.9), seed=1)]
    learned = model.out.conv.conv.bias.detach().clone()
    assert volumes(model, cases[0])[1:] == pytest.approx([0.1875, 0.3125], abs=0.01)
    with calibrated(model, cases, RECIPE, HARDWARE):
        assert volumes(model, cases[0]) == pytest.approx([0.6, 0.3, 0.1], abs=0.01)
    assert torch.equal(model.out.conv.conv.bias, learned)


def test_the_head_is_as_learned_after_an_error():
    model = Slope([0.0, -4.0, -9.5])
    learned = model.out.conv.conv.bias.detach().clone()
    with pytest.raises(KeyboardInterrupt), calibrated(model, [case((0.6, 0.9))], RECIPE, HARDWARE):
        assert not torch.equal(model.out.conv.conv.bias, learned)
        raise KeyboardInterrupt
    assert torch.equal(model.out.conv.conv.bias, learned)


def test_nothing_is_predicted_or_changed_without_calibration_cases():
    model = Slope([0.0, -4.0, -9.5])
    with calibrated(model, [], replace(RECIPE, calibration_cases=0), HARDWARE):
        assert model.out.conv.conv.bias.tolist() == [0.0, -4.0, -9.5]


def test_ignored_voxels_do_not_count():
    half = case((0.6, 0.9), label_map=LabelMap("half", ((0, 0), (1, 1), (2, 2))))
    half["label"][:, 32:] = IGNORED
    offsets = volume_offsets(Slope([0.0, -4.0, -9.5]), [half], RECIPE, HARDWARE)
    expected = volume_offsets(Slope([0.0, -4.0, -9.5]), [case((0.6, 0.9))], RECIPE, HARDWARE)
    torch.testing.assert_close(offsets, expected, atol=0.05, rtol=0)


def test_a_case_whose_background_is_ignored_is_not_used():
    whole, partial = case((0.6, 0.9)), case((0.6, 0.9), seed=1, label_map=LabelMap("organ", ((0, IGNORED), (1, 1))))
    partial["label"][partial["label"] != 1] = IGNORED
    offsets = volume_offsets(Slope([0.0, -4.0, -9.5]), [partial, whole], RECIPE, HARDWARE)
    torch.testing.assert_close(offsets, volume_offsets(Slope([0.0, -4.0, -9.5]), [whole], RECIPE, HARDWARE))
    assert not volume_offsets(Slope([0.0, -4.0, -9.5]), [partial], RECIPE, HARDWARE).any()


def test_voxels_are_drawn_from_a_large_case(monkeypatch):
    whole = [case((0.6, 0.9), seed=1)]
    expected = volume_offsets(Slope([0.0, -4.0, -9.5]), whole, RECIPE, HARDWARE)
    total, sizes = calibration._total, []

    def counting(volumes, *rest):
        sizes.append(len(volumes[0]))
        return total(volumes, *rest)

    monkeypatch.setattr(calibration, "_total", counting)
    monkeypatch.setattr(calibration, "MOST_LOGITS", 30_000)
    offsets = volume_offsets(Slope([0.0, -4.0, -9.5]), whole, RECIPE, HARDWARE)
    assert sizes[0] == pytest.approx(10_000, rel=0.05)
    torch.testing.assert_close(offsets, expected, atol=0.2, rtol=0)


def test_a_class_that_the_cases_lack_moves_with_the_other_organs():
    offsets = volume_offsets(Slope([0.0, -2.0, -30.0]), [case((0.6,))], RECIPE, HARDWARE)
    assert offsets[0] == 0 and offsets[2] == offsets[1] != 0


def test_an_organ_that_is_never_found_is_raised_within_bounds():
    offsets = volume_offsets(Slope([0.0, -4.8, -90.0]), [case((0.6, 0.9))], RECIPE, HARDWARE)
    assert offsets[2] == 4 and abs(offsets[1]) < 1


def test_as_many_cases_as_the_recipe_says_are_predicted(monkeypatch):
    used = []
    model = Slope([0.0, -4.0, -9.5])
    model.register_forward_hook(lambda *_: used.append(1))
    volume_offsets(model, [case((0.6, 0.9), seed) for seed in range(5)], RECIPE, HARDWARE)
    assert len(used) == 2  # one window each
