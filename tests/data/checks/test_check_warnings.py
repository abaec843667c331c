"""Unusual data give a warning, unusual but equivalent files none."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import MAP, SPACING, affine, changed, ct, good_dataset, numbered, organs, write, write_both

from swinunetr.data import checks
from swinunetr.data.checks import check_dataset, image_faults
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import Dataset


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    return good_dataset(tmp_path)


UNUSUAL = {
    "no sform or qform": (lambda d: write_both(d, sform_code=0, qform_code=0), "neither sform nor qform"),
    "sform against pixdim": (
        lambda d: write_both(d, pixdim=[1, 2, 2, 2, 1, 1, 1, 1]),
        "the spacing of the sform, 1.5 x 1.5 x 2 mm, is used; pixdim says 2 x 2 x 2 mm",
    ),
    "sform against qform and pixdim": (
        lambda d: write_both(d, pixdim=[1, 1.5, 1.5, 2.5, 1, 1, 1, 1], qform_code=1),
        "the spacing of the sform, 1.5 x 1.5 x 2 mm, is used; pixdim says 1.5 x 1.5 x 2.5 mm",
    ),
    "gantry tilt": (lambda d: write_both(d, affine(y2=0.7)), "axes are 19.3 degrees from right angles (gantry tilt)"),
    "sform turned against qform": (
        lambda d: write_both(d, qform_code=1, quatern_d=0.05),
        "sform and qform differ by 5.7 degrees; the sform is used",
    ),
    "thick slices": (lambda d: write_both(d, matrix=affine(z2=9)), "slices are 9 mm thick"),
    "more voxels than in the header": (
        lambda d: write_both(d, dim=[3, 16, 16, 8, 1, 1, 1, 1]),
        "file holds 100.0% more data than a volume of 16 x 16 x 8",
    ),
    "windowed": (lambda d: write(d.training[0]["image"], changed(ct(1).clip(-175), 250)), "no air"),
    "metal": (lambda d: write(d.training[0]["image"], changed(ct(1), 40_000)), "unusual for HU"),
    "label shifted by 0.01 mm": (
        lambda d: write(d.training[0]["label"], organs(), affine(x3=0.01)),
        "corners up to 0.01 mm apart",
    ),
    "shared label": (lambda d: d.training[1].update(label=d.training[0]["label"]), "same file as training case"),
    "test image used in training": (
        lambda d: d.test.append({k: d.training[0][k] for k in ("name", "image")}),
        "same file as",
    ),
    "one empty label in training": (
        lambda d: write(d.training[0]["label"], organs() * 0),
        "label is empty: no organ; label the case, unless it has none",
    ),
    "one empty label in validation": (
        lambda d: (d.validation.append(d.training.pop()), write(d.validation[0]["label"], organs() * 0)),
        "label is empty",
    ),
    "organ that no case has": (
        lambda d: [write(case["label"], organs() % 2) for case in d.training],
        "no training case has right box",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_data_give_a_warning(good, change, message):
    change(good)
    report = check_dataset(good, SPACING)
    assert any(message in warning for warning in report.warnings)
    assert message in str(report)


def with_map(dataset: Dataset, labels: np.ndarray, label_map: LabelMap, *splits: str) -> None:
    """Let all cases of some lists have one label and one map."""
    for case in (case for split in splits for case in getattr(dataset, split)):
        write(case["label"], labels)
        case["label_map"] = label_map


TRAINED = LabelMap("t", ((0, 0), (5, 2), (7, 255)))


UNUSUAL_MAPPED = {
    "organ that is ignored in training": (
        lambda d: with_map(d, numbered(), TRAINED, "training"),
        ["no training case has left box;", "label_map 't' has no id for left box: background in its 2 cases;"],
    ),
    "organ that is ignored in validation": (
        lambda d: with_map(d, numbered(), TRAINED, "validation"),
        ["no validation case has left box;", "label_map 't' has no id for left box: background in its 1 cases;"],
    ),
    "no background in training": (
        lambda d: with_map(d, numbered(), replace(MAP, classes=((0, 255), (5, 2), (7, 1))), "training"),
        ["no training case has background;"],
    ),
    "no background in validation": (
        lambda d: with_map(d, numbered(), replace(MAP, classes=((0, 255), (5, 2), (7, 1))), "validation"),
        ["no voxel of background counts in the validation cases img0003;"],
    ),
}


@pytest.mark.parametrize(("change", "messages"), UNUSUAL_MAPPED.values(), ids=UNUSUAL_MAPPED)
def test_classes_that_maps_leave_without_a_voxel_give_a_warning(good, change, messages):
    change(good)
    warnings = check_dataset(good, SPACING).warnings
    assert len(warnings) == len(messages)
    assert all(warning.startswith(message) for warning, message in zip(warnings, messages, strict=True)), warnings


ODD_HEADERS = {
    "qform not set, pixdim with three digits": {
        "pixdim": [1, 1.5004, 1.4996, 2, 1, 1, 1, 1],
        "srow_x": [1.5003, 0, 0, 7],
    },
    "qform not set and mirrored": {"pixdim": [-1, *SPACING, 1, 1, 1, 1]},
    "qform alone": {"sform_code": 0, "qform_code": 1, "srow_x": np.zeros(4), "qoffset_x": 7},
    "qform without a direction of its axes": {"qform_code": 1, "pixdim": [0, *SPACING, 1, 1, 1, 1]},
    "qform that is no rotation": {"qform_code": 1, "quatern_b": 3},
    "oblique, rounded to three digits": {"srow_x": [1.495, -0.125, 0, 0], "srow_y": [0.125, 1.495, 0, 0]},
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_odd_but_valid_headers_give_no_warning(good, header):
    write_both(good, **header)
    assert check_dataset(good, SPACING).warnings == []


def test_equivalent_files_give_no_warning(good):
    first, second = good.training
    write(first["image"], ct(1)[..., None])  # a last axis of length 1
    write(first["label"], organs(np.float32)[..., None])  # whole numbers as floats
    write(second["image"], ((ct(2) + 1000) // 2).astype(np.uint16), scl_slope=2, scl_inter=-1000)
    write(second["label"], organs() * 10, scl_slope=0.1, scl_inter=0)
    report = check_dataset(good, SPACING)
    assert report.warnings == []
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)


STORED = {
    "float32 just below": ((organs() * np.float32(0.9999999)).astype(np.float32), {}),
    "float32 off by 3e-5": (organs() * np.float32(0.999969), {}),
    "integers with the slope of a CT": (
        np.rint(organs() / (2 / 65_535)).astype(np.uint16),
        {"scl_slope": 2 / 65_535 * 1.0001, "scl_inter": 0},
    ),
    "bytes with a slope of 13 / 255": (
        np.rint(organs() / (13 / 255)).astype(np.uint8),
        {"scl_slope": 13 / 255, "scl_inter": 0},
    ),
    "-0.0": (np.where(organs() == 0, -0.0, organs()).astype(np.float32), {}),
}


@pytest.mark.parametrize(("voxels", "header"), STORED.values(), ids=STORED)
def test_whole_labels_that_storage_changed_are_whole(good, voxels, header):
    write(good.training[0]["label"], voxels, **header)
    report = check_dataset(good, SPACING)
    assert report.warnings == []
    np.testing.assert_allclose(report.organ_ml["left box"], [0.45] * 3)
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)


def test_nifti2_and_uncompressed_files_are_read(good, tmp_path):
    first, second = good.training
    nib.save(nib.Nifti2Image(ct(1), affine()), first["image"])
    second["image"] = str(tmp_path / "plain.nii")
    write(second["image"], ct(2))
    assert check_dataset(good, SPACING).warnings == []


def test_hu_are_not_checked_in_other_modalities(good):
    for number, case in enumerate([*good.training, *good.validation, *good.test]):
        write(case["image"], ct(number) + 1000)
    assert check_dataset(replace(good, modality="MRI"), SPACING).warnings == []


def test_ct_under_another_name_gives_a_warning(good):
    (fault,) = image_faults(good.training[0]["image"], "abdominal scan")
    assert not fault.stops and "look like HU, and the modality is 'abdominal scan'" in fault.what


def test_too_little_memory_gives_a_warning(good, monkeypatch):
    monkeypatch.setattr(checks.report, "available_memory", lambda: 1000)
    assert "may not fit into memory" in str(check_dataset(good, SPACING))


def test_ids_that_one_map_merges_are_noted_once(good):
    with_map(good, numbered(), LabelMap("m", ((0, 0), (5, 1), (7, 1), (8, 2))), "training")
    report = check_dataset(good, SPACING)
    assert report.notes == ["label_map 'm': the ids 5, 7 count as left box"]
    assert str(report).endswith(report.notes[0]) and len(report.warnings) == 1  # no training case has the right box
