"""A file or scan that is there twice is named, and lists that nothing can be learned from or scored on."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nifti_files import SPACING, ct, good_dataset, organs, write

from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import Dataset
from swinunetr.errors import DatasetError


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    return good_dataset(tmp_path)


OTHER_AXES = np.array([[0, 1.5, 0, 0], [0, 0, 1.5, 0], [-2.0, 0, 0, 30], [0, 0, 0, 1]])  # inferior, right, anterior


REPEATS = {
    "twice in a list": (lambda d: d.training.append(d.training[0]), "same file as training case img0001"),
    "validation case used in training": (
        lambda d: d.validation.append(d.training[0]),
        "same file as training case img0001",
    ),
    "through a link": (
        lambda d: (os.remove(d.training[1]["image"]), os.symlink(d.training[0]["image"], d.training[1]["image"])),
        "same file as training case img0001",
    ),
    "copied": (lambda d: write(d.training[1]["image"], ct(1)), "same voxels as training case img0001"),
    "saved again as float32": (
        lambda d: write(d.validation[0]["image"], ct(2).astype(np.float32)),
        "same voxels as training case img0002",
    ),
    "saved again with a slope": (
        lambda d: write(
            d.validation[0]["image"], ((ct(2) + 1000) * 4).astype(np.uint16), scl_slope=0.25, scl_inter=-1000
        ),
        "same voxels as training case img0002",
    ),
    "saved again along other axes": (
        lambda d: [
            write(d.validation[0][kind], volume.transpose(2, 0, 1)[::-1], OTHER_AXES)
            for kind, volume in (("image", ct(2)), ("label", organs()))
        ],
        "same voxels as training case img0002",
    ),
    "copied to validation": (lambda d: write(d.validation[0]["image"], ct(2)), "same voxels as training case img0002"),
}


@pytest.mark.parametrize(("repeat", "message"), REPEATS.values(), ids=REPEATS)
def test_repeated_case_is_refused(good, repeat, message):
    repeat(good)
    with pytest.raises(DatasetError, match=message):
        check_dataset(good, SPACING)


def test_scans_with_the_same_numbers_of_voxels_by_intensity_are_compared_in_place(good):
    write(good.validation[0]["image"], ct(2)[::-1])
    assert check_dataset(good, SPACING).warnings == []


def test_copies_of_small_intensities_are_recognised_too(good):
    mr = replace(good, modality="MR")
    write(mr.training[1]["image"], (ct(2) / 7000).astype(np.float32))
    write(mr.validation[0]["image"], ct(2), scl_slope=1 / 7000, scl_inter=0)
    with pytest.raises(DatasetError, match="same voxels as training case img0002"):
        check_dataset(mr, SPACING)


def test_training_labels_without_any_organ_are_refused(good):
    for case in good.training:
        write(case["label"], organs() * 0)
    with pytest.raises(DatasetError, match="img0001 .* no training label contains an organ .* background alone"):
        check_dataset(good, SPACING)


def test_validation_labels_without_any_organ_are_refused(good):
    good.validation.append(good.training.pop())
    for case in good.validation:
        write(case["label"], organs() * 0)
    with pytest.raises(DatasetError, match="img0003 .* no validation label contains an organ .* Dice would be NaN"):
        check_dataset(good, SPACING)
    good.validation[1]["label"] = good.validation[0]["label"]  # read for one of them only
    with pytest.raises(DatasetError, match="no validation label contains an organ"):
        check_dataset(good, SPACING)
    good.validation[0]["label"] = good.training[0]["label"]
    good.validation[1]["label"] = good.training[0]["label"]
    assert "same file" in str(check_dataset(good, SPACING))


def test_unlabelled_validation_cases_are_no_error(good):
    for case in [*good.training, *good.validation]:
        del case["label"]
    assert check_dataset(replace(good, classes=("background",)), SPACING).warnings == []


def test_same_list_for_training_and_validation_gives_a_warning(good):
    same = Dataset(good.classes, good.modality, good.training, list(good.training), [])
    report = check_dataset(same, (1.5, 1.5, 2.0))
    assert report.warnings == ["validation cases are the training cases: their Dice says nothing about other scans"]
    assert [image.split for image in report.images] == ["training"] * 2 + ["validation"] * 2
