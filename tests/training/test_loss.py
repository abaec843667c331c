"""Weights of the classes in the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from swinunetr.data.label_maps import IGNORED
from swinunetr.recipe import DEMO
from swinunetr.training.loss import class_weights, skip_ignored


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


def test_ignored_voxels_do_not_count_in_the_weights():
    ignoring = case(30, 2, 1)
    ignoring["label"].voxels = torch.cat([ignoring["label"].voxels, torch.full((1, 1, 1, 99), IGNORED)], -1)
    weights = class_weights([ignoring, case(34, 2, 3)], 3, DEMO)
    assert torch.equal(weights, class_weights([case(30, 2, 1), case(34, 2, 3)], 3, DEMO))


def test_without_balance_there_are_no_weights():
    assert class_weights([case(16, 4)], 2, replace(DEMO, class_balance=0.0)) is None


# ---------------------------------------------------------------------------------------------------- ignored voxels

WEIGHTS = [None, torch.tensor([0.2, 0.8, 2.0])]
SHAPE = (2, 3, 4, 5, 6)  # crops, classes, x, y, z


def batch(ignored: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels of two crops of three classes, in which a share of the voxels is ignored."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, *SHAPE[2:]), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < ignored] = IGNORED
    return torch.randn(SHAPE), labels


def plain(weight: torch.Tensor | None) -> DiceCELoss:
    """Return the loss of the notebook."""
    return DiceCELoss(to_onehot_y=True, softmax=True, weight=weight)


def loss_and_gradient(loss_function, logits, labels) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    loss = loss_function(logits, labels)
    loss.backward()
    return loss.detach(), logits.grad


def by_hand(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> float:
    """Return the loss of the voxels that count, computed with NumPy from its definition."""
    weight = np.ones(3) if weight is None else weight.double().numpy()
    dice, entropy, total = [], 0.0, 0.0
    for crop, label in zip(logits.double().numpy(), labels[:, 0].numpy(), strict=True):
        counted = label != IGNORED
        exponents = np.exp(crop[:, counted])  # (classes, voxels)
        shares, truth = exponents / exponents.sum(0), np.eye(3)[label[counted]].T
        overlap, size = (shares * truth).sum(1), (shares + truth).sum(1)
        dice.append(weight * (1 - (2 * overlap + 1e-5) / (size + 1e-5)))
        own = weight[label[counted]]
        entropy -= (own * np.log((shares * truth).sum(0))).sum()
        total += own.sum()
    return float(np.mean(dice) + entropy / total)


@pytest.mark.parametrize("weight", WEIGHTS, ids=["equal", "weighted"])
def test_the_loss_is_that_of_the_voxels_that_count(weight):
    logits, labels = batch(0.4)
    loss, gradient = loss_and_gradient(skip_ignored(plain(weight)), logits, labels)
    assert float(loss) == pytest.approx(by_hand(logits, labels, weight), rel=1e-5)
    there = (labels == IGNORED).expand(SHAPE)
    assert torch.equal(gradient[there], torch.zeros(int(there.sum()))) and (gradient[~there] != 0).all()

    other = torch.where(there, 50 * torch.randn(SHAPE), logits)  # other logits where voxels are ignored
    again, same = loss_and_gradient(skip_ignored(plain(weight)), other, labels)
    assert torch.equal(again, loss) and torch.equal(same, gradient)


@pytest.mark.parametrize("weight", WEIGHTS, ids=["equal", "weighted"])
def test_with_nothing_ignored_the_loss_is_the_plain_one_to_the_last_bit(weight):
    logits, labels = batch(0)
    expected = loss_and_gradient(plain(weight), logits, labels)
    found = loss_and_gradient(skip_ignored(plain(weight)), logits, labels)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("weight", WEIGHTS, ids=["equal", "weighted"])
def test_crops_without_a_voxel_that_counts_have_no_loss_and_no_gradient(weight):
    logits, labels = batch(1)
    loss, gradient = loss_and_gradient(skip_ignored(plain(weight)), logits, labels)
    assert loss == 0 and torch.equal(gradient, torch.zeros(SHAPE))

    _, some = batch(0.4)  # beside such a crop, the other one keeps its loss
    labels[1] = some[1]
    loss, gradient = loss_and_gradient(skip_ignored(plain(weight)), logits, labels)
    assert float(loss) == pytest.approx(by_hand(logits, labels, weight), rel=1e-5)
    assert torch.equal(gradient[0], torch.zeros(SHAPE[1:])) and gradient[1].any()
