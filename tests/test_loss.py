"""Weights of the classes in the loss."""

from dataclasses import replace

import pytest
import torch

from swinunetr.loss import class_weights
from swinunetr.recipe import DEMO


def case(*counts: int) -> dict:
    """Return a case whose label holds class 0, 1, ... as often as ``counts`` say."""
    label = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
    return {"label": Label(label.reshape(1, 1, 1, -1).to(torch.uint8))}


class Label:
    """A label as preprocessing gives it."""

    def __init__(self, voxels: torch.Tensor) -> None:
        self.voxels = voxels

    def as_tensor(self) -> torch.Tensor:
        return self.voxels


def test_rare_classes_weigh_more_by_the_root_of_their_frequency():
    weights = class_weights([case(30, 2, 1), case(34, 2, 3)], 3, replace(DEMO, class_balance=0.5))
    expected = torch.tensor([64.0, 4.0, 4.0]) ** -0.5
    torch.testing.assert_close(weights, expected / expected.mean())
    assert weights.dtype is torch.float32


def test_an_absent_class_weighs_as_much_as_the_rarest():
    weights = class_weights([case(16, 4)], 3, replace(DEMO, class_balance=1.0))
    assert weights[2] == weights[1] == pytest.approx(4 * weights[0])


def test_without_balance_there_are_no_weights():
    assert class_weights([case(16, 4)], 2, replace(DEMO, class_balance=0.0)) is None
