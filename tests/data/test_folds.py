"""Folds: parts of the training list to validate on."""

import json

import pytest

from swinunetr.data.lists import (
    Dataset,
    read_dataset,
    split_folds,
)
from swinunetr.errors import InputError


def listed(cases: int) -> Dataset:
    return Dataset(("background", "liver"), "CT", [{"name": str(n)} for n in range(cases)], [{"name": "v"}], [])


def test_folds_share_out_the_training_list_and_leave_the_validation_list_alone():
    parts = [split_folds(listed(7), fold, 3) for fold in range(3)]
    held_out = [[case["name"] for case in part.validation] for part in parts]
    assert sorted(sum(held_out, [])) == [str(n) for n in range(7)] and sorted(map(len, held_out)) == [2, 2, 3]
    for part in parts:
        names = [case["name"] for case in part.training]
        assert sorted(names + [case["name"] for case in part.validation]) == [str(n) for n in range(7)]
        assert names == sorted(names)
    assert split_folds(listed(7), 1, 3) == parts[1]


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (0, None, "folds: expected a number of parts from 2 to 7.*found None"),
        (None, 3, "fold: expected the part to validate on, from 0 to 2, found None"),
        (3, 3, "fold: .*from 0 to 2, found 3"),
        (-1, 3, "fold: .*found -1"),
        (0, 1, "folds: .*found 1"),
        (0, 8, "folds: .*found 8"),
    ],
)
def test_a_fold_that_is_none_is_refused(fold, folds, message):
    with pytest.raises(InputError, match=message):
        split_folds(listed(7), fold, folds)


def test_with_folds_a_json_needs_no_validation_list(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    content["training"] += content.pop("validation")
    json_path.write_text(json.dumps(content))
    dataset = read_dataset(json_path, root, fold=1, folds=3)
    assert (len(dataset.training), len(dataset.validation)) == (2, 1)
    with pytest.raises(InputError, match='"validation".*or set fold and folds'):
        read_dataset(json_path, root)


def test_cases_of_one_patient_stay_in_one_fold():
    cases = [{"name": str(n), "patient": f"p{n // 2}"} if n < 6 else {"name": str(n)} for n in range(9)]
    dataset = Dataset(("background", "liver"), "CT", cases, [], [])
    parts = [split_folds(dataset, fold, 3) for fold in range(3)]
    assert sorted(case["name"] for part in parts for case in part.validation) == [str(n) for n in range(9)]
    for part in parts:
        groups = [{case.get("patient", case["name"]) for case in cases} for cases in (part.training, part.validation)]
        assert not groups[0] & groups[1] and len(groups[1]) == 2
    with pytest.raises(InputError, match="from 2 to 6, the patients in training, found 7"):
        split_folds(dataset, 0, 7)


def test_the_json_names_patients(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    content["training"] += content.pop("validation")
    for entry, patient in zip(content["training"], (7, 7, "b"), strict=True):
        entry["patient"] = patient
    json_path.write_text(json.dumps(content))
    parts = [read_dataset(json_path, root, fold, 2) for fold in (0, 1)]
    assert sorted(len(part.validation) for part in parts) == [1, 2]
