"""Dice on the training grid, and the scores on the scan's own voxels."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case
from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_surface_dice
from monai.networks.utils import one_hot

import evaluation
from evaluation import read_labels
from hardware import find_hardware
from ssl_helpers import choose_recipe, prepare_cases


def test_confusion_matrix_and_dice_of_a_case_counted_by_hand():
    truth = torch.tensor([0, 0, 1, 1, 1, 2])
    prediction = torch.tensor([0, 1, 1, 1, 0, 0])
    counts = evaluation.confusion_matrix(prediction, truth, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(evaluation.dice_per_organ(counts), [2 * 2 / (3 + 3), 0.0, math.nan])


def test_dice_equals_monai_s_with_absent_organs():
    generator = torch.Generator().manual_seed(0)
    metric = DiceMetric(include_background=False)
    counts = []
    for absent in (1, 3, None):
        truth = torch.randint(0, 4, (1, 1, 12, 12, 12), generator=generator)
        truth[truth == absent] = 0
        prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, 2)
        metric(one_hot(prediction, 4), one_hot(truth, 4))
        counts.append(evaluation.confusion_matrix(prediction, truth, 4))
    dice = evaluation.dice_per_organ(np.stack(counts))
    assert evaluation.mean_dice(dice) == pytest.approx(metric.aggregate().item(), abs=1e-6)
    np.testing.assert_allclose(evaluation.organ_means(dice), metric.aggregate("mean_batch").numpy(), atol=1e-6)


def test_mean_dice_of_cases_without_any_organ_is_nan():
    assert math.isnan(evaluation.mean_dice(np.full((2, 3), np.nan)))


class CopiesLabels(torch.nn.Module):
    """A network that reads the class off the intensity, so that predictions are known."""

    def forward(self, x):
        thresholds = torch.tensor([-1.0, 0.5, 0.75], device=x.device).reshape(1, 3, 1, 1, 1)
        return -(x - thresholds - 0.1).abs() * 1000


def test_evaluate_scores_a_perfect_network_one_and_leaves_its_mode(small_data):
    _, cases = prepared(small_data)
    for case in cases:
        case["image"] = (case["label"] == 1) * 0.6 + (case["label"] == 2) * 0.85 - 0.9 * (case["label"] == 0)
    model = CopiesLabels().train()
    counts = evaluation.evaluate(model, cases, SMALL, find_hardware())
    assert evaluation.mean_dice(evaluation.dice_per_organ(counts)) == 1
    assert model.training


def ball(radius, centre, shape=(40, 40, 40), spacing=(1, 1, 1)):
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*offsets, indexing="ij")) <= radius**2


def test_surface_scores_of_shifted_cubes_counted_by_hand():
    truth, prediction = np.zeros((2, 12, 12, 12), bool)
    truth[2:6, 2:6, 2:6], prediction[2:6, 2:6, 3:7] = True, True
    spacing = (1, 1, 5)  # the shift is 5 mm: only the faces along it are near, where the cubes overlap
    surface_dice, hd95 = evaluation.surface_scores(prediction, truth, spacing)
    # Of the 56 surface voxels of each cube 3 of 4 slices lie in the other cube; there, its inner slices lie on its
    # surface but for a 2 x 2 core that faces the other's, at most 1 mm away; the slice outside is 5 mm off.
    assert surface_dice == pytest.approx((56 - 16) / 56)
    assert hd95 == 5


@pytest.mark.parametrize("shift", [0, 2, 7])
def test_surface_scores_equal_monai_s(shift):
    spacing = (0.8, 0.8, 2.5)
    truth, prediction = ball(9, (18, 20, 16), spacing=spacing), ball(10, (18 + shift, 20, 17), spacing=spacing)
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    expected = (
        compute_surface_dice(*masks, [evaluation.SURFACE_TOLERANCE_MM], include_background=True, spacing=spacing),
        compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing),
    )
    found = evaluation.surface_scores(prediction, truth, spacing)
    np.testing.assert_allclose(found, [float(value) for value in expected], rtol=1e-5)


def scored(folder, change, **details):
    """Return the rows of one case whose prediction is the truth with a change."""
    files = {key: str(folder / file) for key, file in write_case(folder, 1, **details).items()}
    (case,) = prepare_cases([{"name": "c", **files}], SMALL, "CT")
    labels = read_labels(files["label"])
    change(labels)
    return evaluation.score_case(case, case["label"].as_tensor()[0].long(), labels, ("left box", "right box"))


def test_scores_of_a_case_with_half_an_organ_counted_by_hand(tmp_path):
    def halve(labels):  # the left box is 20 x 28 x 20 voxels
        labels[10:20, 12:40, 10:30] = 0

    left, right = scored(tmp_path, halve, affine=np.diag([-1.0, 2.0, 3.0, 1.0]))
    assert list(left) == ["case", "organ", *evaluation.SCORES]
    assert (left["volume_true_ml"], left["volume_predicted_ml"]) == (pytest.approx(67.2), pytest.approx(33.6))
    assert left["dice_own_grid"] == pytest.approx(2 / 3) and left["dice"] == 1
    assert left["hd95_mm"] == pytest.approx(10, abs=1) and 0 < left["surface_dice"] < 1
    assert (right["dice_own_grid"], right["surface_dice"], right["hd95_mm"]) == (1, 1, 0)


def test_an_organ_that_was_missed_has_no_distance_and_one_that_is_not_there_no_score(tmp_path):
    def confuse(labels):
        labels[labels == 1] = 2

    left, right = scored(tmp_path, confuse)
    assert (left["dice_own_grid"], left["surface_dice"], left["volume_predicted_ml"]) == (0, 0, 0)
    assert math.isnan(left["hd95_mm"]) and right["hd95_mm"] > 0

    rows = [left | {"volume_true_ml": 0.0, "dice": math.nan, "dice_own_grid": math.nan}, right]
    table = evaluation.describe_scores(rows)
    assert "left box       " in table and "absent from the truth of all cases" in table
    assert evaluation.case_means(rows)["c"] == pytest.approx((right["dice"], right["dice_own_grid"]))
    assert set(evaluation.worst_and_best(rows)) == {"worst", "best"}


def test_labels_stored_with_a_slope_are_read_as_whole_numbers(tmp_path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 10, np.uint8), np.eye(4))
    image.header.set_slope_inter(0.7, 0)  # which the header keeps in float32: 10 of them are 6.9999999
    nib.save(image, tmp_path / "label.nii.gz")
    assert np.unique(np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj))[0] < 7
    assert np.unique(read_labels(tmp_path / "label.nii.gz")).tolist() == [7]


def test_a_scan_without_any_organ_is_scored_without_a_mean(tmp_path):
    row = {"case": "c", "organ": "liver", **dict.fromkeys(evaluation.SCORES, math.nan)}
    rows = [row | {"volume_true_ml": 0.0, "volume_predicted_ml": 2.0}]
    assert evaluation.case_means(rows) == {} and evaluation.worst_and_best(rows) == {}
    assert "absent from the truth" in evaluation.describe_scores(rows)
    assert math.isnan(evaluation.summarise(rows, ("liver",))["mean_dice"])


def test_a_model_that_predicts_only_background_is_called_out():
    row = {"case": "c", "organ": "liver", **dict.fromkeys(evaluation.SCORES, 0.0), "volume_true_ml": 5.0}
    assert "predicts only background" in evaluation.describe_scores([row])
    found = row | {"organ": "spleen", "dice_own_grid": 0.5, "volume_predicted_ml": 4.0}
    assert "Not found in any case: liver." in evaluation.describe_scores([row, found])


def test_worst_cases_come_first():
    rows = [
        {"case": case, "organ": organ, **dict.fromkeys(evaluation.SCORES, dice), "volume_true_ml": 1.0}
        for case, organ, dice in [("a", "liver", 0.9), ("a", "aorta", 0.8), ("b", "liver", 0.9), ("b", "aorta", 0.1)]
    ]
    lines = evaluation.describe_worst_cases(rows).splitlines()
    assert lines[1].startswith("b") and "aorta 0.10, liver 0.90" in lines[1] and lines[2].startswith("a")


def test_the_ceiling_is_lower_for_thin_organs_on_a_coarse_grid(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    label = nib.load(files["label"])
    voxels = np.asarray(label.dataobj).copy()
    voxels[40:60, 20:40, 30:50] = 0
    voxels[40:60, 20:40, 30:32] = 2
    nib.save(nib.Nifti1Image(voxels, label.affine), files["label"])
    cases = prepare_cases([{"name": "c", **files}], choose_recipe("demo", spacing_mm=5), "CT")
    ceiling = evaluation.resolution_ceiling(cases, ("left box", "right box"), find_hardware())
    assert 0.3 < ceiling["right box"] < ceiling["left box"] - 0.05 < 0.95
