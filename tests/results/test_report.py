"""Tables of the scores of cases, and notes about them."""

import pytest

from swinunetr.results.evaluation import COLUMNS, summarise
from swinunetr.results.report import describe_scores, describe_worst_cases


def test_a_prediction_of_background_only_and_missed_organs_are_noted():
    row = {"case": "c", "organ": "liver", **dict.fromkeys(COLUMNS, 0.0), "volume_true_ml": 5.0}
    assert "predicts only background" in str(describe_scores([row]))
    found = row | {"organ": "spleen", "dice_own_grid": 0.5, "volume_predicted_ml": 4.0}
    assert "Not found in any case: liver." in str(describe_scores([row, found]))


def test_the_volume_bias_of_each_organ_is_in_the_table_and_in_the_summary():
    volumes = {"liver": (150.0, 100.0), "spleen": (7.0, 10.0), "aorta": (9.0, 10.0)}
    rows = [
        {"case": "a", "organ": organ, **dict.fromkeys(COLUMNS, 0.9), "volume_predicted_ml": got, "volume_true_ml": true}
        for organ, (got, true) in volumes.items()
    ]
    table = str(describe_scores(rows))
    assert "Too large on average (ml / true outside 0.8 to 1.25): liver." in table
    assert "Too small on average (ml / true outside 0.8 to 1.25): spleen." in table
    line = next(line for line in table.splitlines() if line.startswith("liver"))
    assert line.split()[-5:] == ["150.0", "100.0", "1.50", "1", "0.90"]
    summary = summarise(rows, tuple(volumes))
    assert summary["volume_ratio_per_organ"] == pytest.approx({"liver": 1.5, "spleen": 0.7, "aorta": 0.9})
    assert summary["volume_ratio"] == pytest.approx((1.5 + 0.7 + 0.9) / 3)


def test_worst_cases_come_first():
    rows = [
        {"case": case, "organ": organ, **dict.fromkeys(COLUMNS, dice), "volume_true_ml": 1.0}
        for case, organ, dice in [("a", "liver", 0.9), ("a", "aorta", 0.8), ("b", "liver", 0.9), ("b", "aorta", 0.1)]
    ]
    lines = str(describe_worst_cases(rows)).splitlines()
    assert lines[1].startswith("b") and "aorta 0.10, liver 0.90" in lines[1] and lines[2].startswith("a")
