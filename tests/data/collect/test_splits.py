"""Splits: by patient, always the same for the same cases, and a collection's own one first."""

import random
from pathlib import Path

import pytest

from swinunetr.data.collect.cases import FoundCase
from swinunetr.data.collect.splits import split
from swinunetr.errors import InputError


def cases(count: int, scans: int = 1, part: str = "") -> list[FoundCase]:
    """Return cases of some patients, each with some scans."""
    numbers = [(patient, scan) for patient in range(count) for scan in range(scans)]
    return [FoundCase(f"p{p}_{s}", f"p{p}", Path(f"p{p}_{s}.nii.gz"), part=part) for p, s in numbers]


def names(part: list[FoundCase]) -> list[str]:
    return [case.name for case in part]


def test_a_fifth_of_the_patients_validates_whatever_the_order():
    found = cases(20, scans=2)
    parts = split({"a": found})["a"]
    assert len(parts["validation"]) == 8 and len(parts["training"]) == 32 and parts["test"] == []
    assert not {case.patient for case in parts["validation"]} & {case.patient for case in parts["training"]}
    mixed = random.Random(0).sample(found, len(found))
    assert sorted(names(split({"a": mixed})["a"]["validation"])) == sorted(names(parts["validation"]))
    assert names(split({"a": found}, 0.5)["a"]["validation"]) != names(parts["validation"])


def test_these_patients_validate():
    """Another version of the rule would change the lists of others."""
    assert names(split({"plain": cases(10)})["plain"]["validation"]) == ["p1_0", "p8_0"]


def test_at_least_one_patient_validates_and_one_trains():
    assert (
        len(split({"a": cases(2)}, 0.01)["a"]["validation"]) == len(split({"a": cases(2)}, 0.99)["a"]["training"]) == 1
    )
    with pytest.raises(InputError, match="at least 2 patients, found 1"):
        split({"a": cases(1, scans=3)})


def test_a_split_of_the_collection_comes_first():
    own = cases(3, part="training") + cases(2, part="validation") + cases(4, part="test")
    parts = split({"own": own, "plain": cases(10)}, 0.2)
    assert [len(parts["own"][part]) for part in ("training", "validation", "test")] == [3, 2, 4]
    assert [len(parts["plain"][part]) for part in ("training", "validation", "test")] == [8, 2, 0]
    assert len(split({"own": own, "plain": cases(10)})["plain"]["training"]) == 10  # the own cases are enough


def test_a_training_part_alone_is_no_split():
    parts = split({"own": cases(10, part="training") + cases(2, part="test")})["own"]
    assert [len(parts[part]) for part in ("training", "validation", "test")] == [8, 2, 2]


def test_validation_cases_are_of_collections_that_label_all_classes():
    parts = split({"all": cases(10), "some": cases(30)}, complete=["all"])
    assert len(parts["all"]["validation"]) == 2 and parts["some"]["validation"] == []


def test_folds_leave_all_in_training():
    assert len(split({"a": cases(5)}, folds=5)["a"]["training"]) == 5


@pytest.mark.parametrize(
    ("validation", "folds", "message"),
    [
        (0.0, None, "validation: expected a fraction between 0 and 1"),
        (1.0, None, "validation: expected a fraction"),
        (float("nan"), None, "validation: expected a fraction"),
        (0.2, 5, "validation, folds: expected one of them"),
        (None, 0, "folds: expected a number of parts from 2 to 3, the patients"),
        (None, 1, "folds: expected a number of parts from 2 to 3, the patients"),
        (None, 4, "folds: .*found 4"),
    ],
)
def test_what_cannot_be_split_is_refused(validation, folds, message):
    with pytest.raises(InputError, match=message):
        split({"a": cases(3, scans=2)}, validation, folds)
