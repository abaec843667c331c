"""Dice and distances between surfaces, compared with counts by hand and with MONAI."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_surface_dice
from monai.networks.utils import one_hot

from swinunetr.results.metrics import (
    SURFACE_TOLERANCE_MM,
    confusion_matrix,
    dice_per_organ,
    mean_dice,
    organ_means,
    organ_scores,
    organ_volumes,
    surface_scores,
    volume_ratios,
)


def test_confusion_matrix_and_dice_of_a_case_counted_by_hand():
    truth = torch.tensor([0, 0, 1, 1, 1, 2])
    prediction = torch.tensor([0, 1, 1, 1, 0, 0])
    counts = confusion_matrix(prediction, truth, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(dice_per_organ(counts), [2 * 2 / (3 + 3), 0.0, math.nan])


def test_dice_equals_that_of_monai_with_absent_organs():
    generator = torch.Generator().manual_seed(0)
    metric = DiceMetric(include_background=False)
    counts = []
    for absent in (1, 3, None):
        truth = torch.randint(0, 4, (1, 1, 12, 12, 12), generator=generator)
        truth[truth == absent] = 0
        prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, 2)
        metric(one_hot(prediction, 4), one_hot(truth, 4))
        counts.append(confusion_matrix(prediction, truth, 4))
    dice = dice_per_organ(np.stack(counts))
    assert mean_dice(dice) == pytest.approx(metric.aggregate().item(), abs=1e-6)
    np.testing.assert_allclose(organ_means(dice), metric.aggregate("mean_batch").numpy(), atol=1e-6)


def test_volume_ratios_are_of_the_cases_that_have_the_organ_counted_by_hand():
    true = np.array([[10.0, 0, 0], [30, 5, 0]])
    predicted = np.array([[5.0, 7, 1], [45, 10, 0]])
    np.testing.assert_allclose(volume_ratios(true, predicted), [50 / 40, 2, math.nan])


def test_scores_of_a_validation_hold_the_mean_volume_ratio():
    counts = np.zeros((1, 3, 3), int)
    counts[0] = [[50, 5, 0], [0, 10, 0], [4, 0, 6]]  # organ 1: 15 for 10 voxels; organ 2: 6 for 10
    scores = organ_scores(counts, ("liver", "spleen"))
    assert list(scores) == ["mean_dice", "volume_ratio", "liver", "spleen"]
    assert scores["volume_ratio"] == pytest.approx((1.5 + 0.6) / 2)
    assert math.isnan(organ_scores(np.zeros((1, 3, 3), int), ("liver", "spleen"))["volume_ratio"])


def test_mean_dice_of_cases_without_any_organ_is_nan():
    assert math.isnan(mean_dice(np.full((2, 3), np.nan)))


def ball(radius, centre, shape=(40, 40, 40), spacing=(1, 1, 1)):
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*offsets, indexing="ij")) <= radius**2


def test_surface_scores_of_shifted_cubes_counted_by_hand():
    truth, prediction = np.zeros((2, 12, 12, 12), bool)
    truth[2:6, 2:6, 2:6], prediction[2:6, 2:6, 3:7] = True, True
    spacing = (1, 1, 5)  # the cubes are shifted by 5 mm, so their surfaces are near only where the cubes overlap
    surface_dice, hd95 = surface_scores(prediction, truth, np.diag([*spacing, 1]))
    # The surface of each cube has 56 voxels: 16 in its first slice, 12 in each of the two inner slices, 16 in its last
    # slice. Three of the four slices overlap with the other cube. There, every surface voxel is on the other surface or
    # at most 1 mm from it. The 16 voxels of the remaining slice are 5 mm away.
    assert surface_dice == pytest.approx((56 - 16) / 56)
    assert hd95 == 5


@pytest.mark.parametrize("shift", [0, 2, 7])
def test_surface_scores_equal_those_of_monai(shift):
    spacing = (0.8, 0.8, 2.5)
    truth, prediction = ball(9, (18, 20, 16), spacing=spacing), ball(10, (18 + shift, 20, 17), spacing=spacing)
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    expected = (
        compute_surface_dice(*masks, [SURFACE_TOLERANCE_MM], include_background=True, spacing=spacing),
        compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing),
    )
    found = surface_scores(prediction, truth, np.diag([*spacing, 1]))
    np.testing.assert_allclose(found, [float(value) for value in expected], rtol=1e-5)


def test_distances_in_a_sheared_scan_are_those_in_mm():
    truth, prediction = np.zeros((2, 9, 9, 9), bool)
    truth[1, 1, 1], prediction[1, 1, 4] = True, True
    sheared = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])  # a slice is 1 mm to the side, 2 up
    assert surface_scores(prediction, truth, sheared) == (0, pytest.approx(np.hypot(3, 6)))
    prediction[1, 1, 4], prediction[4, 1, 4] = False, True
    assert surface_scores(prediction, truth, sheared) == (0, pytest.approx(np.hypot(6, 6)))


def test_volumes_of_organs_and_whether_they_touch_the_border_counted_by_hand():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[1:3, 1:3, 1:3], labels[4:, 2, 2] = 1, 2  # 8 voxels inside; 2 voxels up to the last plane
    assert organ_volumes(labels, 0.5, ("liver", "spleen", "aorta")) == [
        {"organ": "liver", "ml": 4.0, "touches_border": False},
        {"organ": "spleen", "ml": 1.0, "touches_border": True},
        {"organ": "aorta", "ml": 0.0, "touches_border": False},
    ]
    for axis in range(3):
        assert [row["touches_border"] for row in organ_volumes(np.roll(labels, -1, axis), 1, ("liver",))] == [True]
