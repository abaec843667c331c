"""Dice, windows over a volume, and predictions on the scan's own voxels."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

import evaluation
from hardware import find_hardware
from ssl_helpers import prepare_cases
from user_errors import InputError


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


def test_a_model_that_predicts_only_background_is_called_out():
    counts = np.zeros((1, 3, 3), int)
    counts[0, :, 0] = [90, 5, 5]
    assert "predicts only background" in evaluation.describe_dice(counts, ("spleen", "liver"))
    counts[0, 1] = [0, 5, 0]
    assert "Not found in any case: liver" in evaluation.describe_dice(counts, ("spleen", "liver"))


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


OBLIQUE = np.array([[-1.4, 0.1, 0.2, 30], [0.1, 1.5, -0.3, -20], [0.2, 0.3, 1.9, 5], [0, 0, 0, 1.0]])
AFFINES = {
    "flipped": np.diag([-1.2, -1.3, 2.1, 1.0]),
    "permuted": np.array([[0, 0, 2.0, 4], [1.5, 0, 0, 5], [0, -1.5, 0, 6], [0, 0, 0, 1.0]]),
    "oblique": OBLIQUE,
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_truth_taken_to_the_training_grid_and_back_lands_where_it_was(tmp_path, affine):
    names = write_case(tmp_path, 1, affine=affine)
    files = {key: str(tmp_path / file) for key, file in names.items()}
    (case,) = prepare_cases([{"name": "c", **files}], SMALL, "CT")
    logits = one_hot(case["label"].as_tensor()[None].long(), 3)[0] * 20
    labels = evaluation.to_source_grid(logits, case["image"])
    evaluation.save_prediction(labels, files["image"], tmp_path / "out/c.nii.gz")

    saved, source = nib.load(tmp_path / "out/c.nii.gz"), nib.load(files["image"])
    truth = np.asarray(nib.load(files["label"]).dataobj)
    assert saved.shape == source.shape and saved.get_data_dtype() == np.uint8
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-6)
    assert (saved.header["sform_code"], saved.header["qform_code"]) == (
        source.header["sform_code"],
        source.header["qform_code"],
    )
    counts = evaluation.confusion_matrix(torch.tensor(np.asarray(saved.dataobj)), torch.tensor(truth), 3)
    assert evaluation.dice_per_organ(counts).min() > 0.93
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["c.nii.gz"]


def test_a_prediction_of_another_shape_is_not_saved(tmp_path):
    names = write_case(tmp_path, 1)
    with pytest.raises(InputError, match="shape"):
        evaluation.save_prediction(np.zeros((2, 2, 2), np.uint8), tmp_path / names["image"], tmp_path / "p.nii.gz")
    assert not (tmp_path / "p.nii.gz").exists()
