"""Scores of cases, and the tables and notes about them."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case

from swinunetr.data.preprocessing import prepare_cases
from swinunetr.hardware import find_hardware
from swinunetr.results.evaluation import (
    COLUMNS,
    case_means,
    evaluate,
    most_changed,
    read_labels,
    resolution_ceiling,
    score_case,
    summarise,
    validate,
    worst_and_best,
)
from swinunetr.results.metrics import dice_per_organ, mean_dice
from swinunetr.results.report import describe_scores, describe_worst_cases
from swinunetr.training.parameters import choose_recipe


class CopiesLabels(torch.nn.Module):
    """A network that finds the class from the intensity, so that predictions are known."""

    def forward(self, x):
        thresholds = torch.tensor([-1.0, 0.5, 0.75], device=x.device).reshape(1, 3, 1, 1, 1)
        return -(x - thresholds - 0.1).abs() * 1000


def test_a_perfect_network_scores_one_and_stays_in_training_mode(small_data):
    _, cases = prepared(small_data)
    for case in cases:
        case["image"] = (case["label"] == 1) * 0.6 + (case["label"] == 2) * 0.85 - 0.9 * (case["label"] == 0)
    model = CopiesLabels().train()
    counts, labels = validate(model, cases, SMALL, find_hardware())
    assert mean_dice(dice_per_organ(counts)) == 1 and (counts == evaluate(model, cases, SMALL, find_hardware())).all()
    assert labels.dtype == torch.uint8 and (labels == cases[0]["label"].as_tensor()[0]).all()
    assert model.training


def scored(folder, change, largest_component=(), **details):
    """Return the rows of one case, with a prediction that is the ground truth after ``change``."""
    files = {key: str(folder / file) for key, file in write_case(folder, 1, **details).items()}
    (case,) = prepare_cases([{"name": "c", **files}], SMALL, "CT")
    labels = read_labels(files["label"])
    change(labels)
    return score_case(case, case["label"].as_tensor()[0].long(), labels, ("left box", "right box"), largest_component)


def test_scores_of_a_case_with_half_an_organ_counted_by_hand(tmp_path):
    def halve(labels):  # the left box is 20 x 28 x 20 voxels
        labels[10:20, 12:40, 10:30] = 0

    left, right = scored(tmp_path, halve, affine=np.diag([-1.0, 2.0, 3.0, 1.0]))
    assert list(left) == ["case", "organ", *COLUMNS]
    assert (left["volume_true_ml"], left["volume_predicted_ml"]) == (pytest.approx(67.2), pytest.approx(33.6))
    assert left["dice_own_grid"] == pytest.approx(2 / 3) and left["dice"] == 1
    assert left["hd95_mm"] == pytest.approx(10, abs=1) and 0 < left["surface_dice"] < 1
    assert (right["dice_own_grid"], right["surface_dice"], right["hd95_mm"]) == (1, 1, 0)


def test_a_missed_organ_has_no_distance_and_an_absent_organ_has_no_score(tmp_path):
    def confuse(labels):
        labels[labels == 1] = 2

    left, right = scored(tmp_path, confuse)
    assert (left["dice_own_grid"], left["surface_dice"], left["volume_predicted_ml"]) == (0, 0, 0)
    assert math.isnan(left["hd95_mm"]) and right["hd95_mm"] > 0

    rows = [left | {"volume_true_ml": 0.0, "dice": math.nan, "dice_own_grid": math.nan}, right]
    table = str(describe_scores(rows))
    assert "left box       " in table and "Absent from the ground truth of all cases: left box." in table
    assert case_means(rows)["c"] == pytest.approx((right["dice"], right["dice_own_grid"]))
    assert set(worst_and_best(rows)) == {"worst", "best"}


def add_islands(labels):
    labels[60:63, 60:63, 60:63] = 1  # far from the left box, which is at 10:30, 12:40, 10:30
    labels[5, 5, 5] = 2


@pytest.mark.parametrize("chosen", [(), ("right box",), ("Left Box",), ("all",)])
def test_scores_with_the_largest_component_stand_beside_those_as_predicted(tmp_path, chosen):
    left, right = scored(tmp_path, add_islands, chosen)
    volume = 20 * 28 * 20
    assert left["dice_own_grid_all"] == pytest.approx(2 * volume / (2 * volume + 27))
    assert left["dice_own_grid_largest"] == left["surface_dice_largest"] == 1 and left["hd95_mm_largest"] == 0
    assert right["hd95_mm_largest"] == 0 and right["dice_own_grid_all"] < 1
    for row, written in ((left, chosen in [("Left Box",), ("all",)]), (right, chosen in [("right box",), ("all",)])):
        kind = "largest" if written else "all"
        assert all(row[name] == row[f"{name}_{kind}"] for name in ("dice_own_grid", "surface_dice", "hd95_mm"))
    assert left["volume_predicted_ml"] > left["volume_true_ml"] or chosen in [("Left Box",), ("all",)]
    table = str(describe_scores([left, right]))
    assert 'Without and with "largest component"' in table and "1.00" in table


def test_the_organ_is_found_whose_distance_falls_most_with_its_largest_component(tmp_path):
    def add_large_island(labels):
        labels[52:64, 52:64, 52:64] = 1

    rows = scored(tmp_path, add_large_island)
    assert most_changed(rows, ("left box", "right box"))["organ"] == "left box"
    assert most_changed(rows, ("left box", "right box"), ["all"]) is None  # nothing is left to take away
    assert most_changed(scored(tmp_path, lambda labels: None), ("left box", "right box")) is None


def test_organs_of_one_piece_are_not_in_the_table_of_components(tmp_path):
    rows = scored(tmp_path, lambda labels: None)
    assert "The same with both, or absent: left box, right box." in str(describe_scores(rows))


def test_labels_stored_with_a_slope_are_read_as_whole_numbers(tmp_path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 10, np.uint8), np.eye(4))
    image.header.set_slope_inter(0.7, 0)  # stored in the header as float32: 10 is read as 6.9999999
    nib.save(image, tmp_path / "label.nii.gz")
    assert np.unique(np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj))[0] < 7
    assert np.unique(read_labels(tmp_path / "label.nii.gz")).tolist() == [7]


def test_a_scan_without_any_organ_is_scored_without_a_mean(tmp_path):
    row = {"case": "c", "organ": "liver", **dict.fromkeys(COLUMNS, math.nan)}
    rows = [row | {"volume_true_ml": 0.0, "volume_predicted_ml": 2.0}]
    assert case_means(rows) == {} and worst_and_best(rows) == {}
    assert "Absent from the ground truth" in str(describe_scores(rows))
    assert math.isnan(summarise(rows, ("liver",))["mean_dice"])


def test_the_upper_bound_of_the_resolution_is_lower_for_thin_organs(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    label = nib.load(files["label"])
    voxels = np.asarray(label.dataobj).copy()
    voxels[40:60, 20:40, 30:50] = 0
    voxels[40:60, 20:40, 30:32] = 2
    nib.save(nib.Nifti1Image(voxels, label.affine), files["label"])
    (case,) = prepare_cases([{"name": "c", **files}], choose_recipe("demo", spacing_mm=5), "CT")
    rows = score_case(case, case["label"].as_tensor()[0].long(), voxels, ("left box", "right box"))
    ceiling = resolution_ceiling(rows, ("left box", "right box"))
    assert ceiling == {row["organ"]: row["dice_ceiling"] for row in rows}
    assert 0.3 < ceiling["right box"] < ceiling["left box"] - 0.05 < 0.95


def test_without_cases_the_tables_say_so_and_means_are_nan(recwarn):
    assert "No case was scored." in repr(describe_scores([])) and repr(describe_worst_cases([])) == ""
    assert np.isnan(summarise([], ["liver"])["mean_dice"]) and worst_and_best([]) == {}
    assert np.isnan(resolution_ceiling([], ["liver"])["liver"])
    assert not recwarn.list
