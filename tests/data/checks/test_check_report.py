"""The report counts correctly, and its fingerprints change with the content of a case and nothing else."""

import gzip
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from nifti_files import MAP, SPACING, affine, changed, ct, good_dataset, numbered, organs, write, write_both

from swinunetr import machine
from swinunetr.data import checks
from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import Dataset


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    return good_dataset(tmp_path)


def test_a_mapped_case_counts_like_one_with_the_classes_own_ids(good):
    plain = check_dataset(good, SPACING)
    write(good.training[0]["label"], numbered() * 10, scl_slope=0.1, scl_inter=0)
    good.training[0]["label_map"] = MAP
    mapped = check_dataset(good, SPACING)
    assert mapped.organ_ml == plain.organ_ml and mapped.warnings == mapped.notes == []
    assert {case for case in plain.fingerprint if plain.fingerprint[case] != mapped.fingerprint[case]} == {"img0001"}
    good.training[0]["label_map"] = replace(MAP, name="its other name")
    assert check_dataset(good, SPACING).fingerprint == mapped.fingerprint
    good.training[0]["label_map"] = replace(MAP, other=0)
    assert check_dataset(good, SPACING).fingerprint["img0001"] != mapped.fingerprint["img0001"]


def test_a_label_that_two_cases_share_is_read_with_each_of_their_maps(good):
    for case, label_map in zip(good.training, (MAP, replace(MAP, classes=((0, 0), (5, 1), (7, 2)))), strict=True):
        case |= {"label": good.training[0]["label"], "label_map": label_map}
    write(good.training[0]["label"], numbered())
    report = check_dataset(good, SPACING)
    assert report.warnings == [] and sorted(report.organ_ml["right box"]) == pytest.approx([0.09, 0.09, 0.45])


def test_volumes_of_a_sheared_scan_are_by_the_determinant(good):
    write_both(good, affine(y2=0.7))
    np.testing.assert_allclose(check_dataset(good, SPACING).organ_ml["left box"], [0.45] * 3)


def test_report_of_correct_data_has_counts_and_no_warning(good):
    report = check_dataset(good, SPACING, workers=2)
    assert report.warnings == []
    assert Counter(image.split for image in report.images) == {"training": 2, "validation": 1, "test": 1}
    assert [image.header.orientation for image in report.images] == ["RAS"] * 4
    np.testing.assert_allclose(report.organ_ml["left box"], [0.45] * 3)  # 100 voxels of 4.5 mm3
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)
    shown = str(report)
    assert "2 training, 1 validation, 1 test" in shown
    assert "16 x 16 x 16 voxels" in shown and "1.5 x 1.5 x 2 mm" in shown


@pytest.mark.parametrize(
    ("modality", "line"),
    {"Computed Tomography": "Computed Tomography: Hounsfield units", "MR": "MR: no CT, so each scan is scaled"}.items(),
)
def test_report_says_how_intensities_are_scaled(good, modality, line):
    assert f"intensities  {line}" in str(check_dataset(replace(good, modality=modality), SPACING))


def test_memory_estimate_uses_the_axes_of_the_file(good):
    # The file's axes are superior, right, anterior: 2, 1.5 and 1.5 mm; 16 voxels span 30, 22.5 and 22.5 mm.
    rotated = np.array([[0, 1.5, 0, 0], [0, 0, 1.5, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    for case in [*good.training, *good.validation]:
        write(case["image"], ct(int(case["name"][-1])), rotated)
        write(case["label"], organs(), rotated)
    report = check_dataset(good, (4.5, 4.5, 10.0))
    assert [image.header.orientation for image in report.images] == ["SRA"] * 3 + ["RAS"]
    assert report.cache_bytes == 3 * 3 * (6 * 6 * 4)  # cases, bytes per voxel, voxels; the test image is not cached


def test_as_many_files_are_read_at_a_time_as_fit_into_memory(good, monkeypatch):
    largest = 16**3 * 2  # bytes of an int16 image
    monkeypatch.setattr(machine, "cpu_cores", lambda: 8)
    monkeypatch.setattr(machine, "available_memory", lambda: 2.5 * checks.dataset.CHECKED_COPIES * largest)
    in_threads = Mock(side_effect=checks.dataset.in_threads)
    monkeypatch.setattr(checks.dataset, "in_threads", in_threads)
    check_dataset(good, SPACING)
    assert {title: threads for _, _, title, threads in (call.args for call in in_threads.call_args_list)} == {
        "Checking headers": None,
        "Comparing images and labels": 1,
        "Checking voxels": 2,
    }


def fingerprint(dataset: Dataset) -> dict[str, str]:
    return check_dataset(dataset, SPACING).fingerprint


def test_fingerprint_has_16_hex_digits_per_case(good):
    found = fingerprint(good)
    assert list(found) == ["img0001", "img0002", "img0003", "img0004"]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in found.values()) and len(set(found.values())) == 4


def test_fingerprint_does_not_depend_on_folder_name_time_and_compression(good, tmp_path):
    before = fingerprint(good)
    for case in good.training:
        for kind in ("image", "label"):
            content = gzip.decompress(Path(case[kind]).read_bytes())
            case[kind] = str(tmp_path / "other" / f"{kind}_{case['name']}.nii")
            Path(case[kind]).parent.mkdir(exist_ok=True)
            Path(case[kind]).write_bytes(content)
            os.utime(case[kind], (1, 1))
    assert fingerprint(good) == before


FINGERPRINTED = {
    "a voxel of the image": lambda d: write(d["image"], changed(ct(1), 41, np.int16)),
    "a voxel of the label": lambda d: write(d["label"], changed(organs(), 2, np.uint8)),
    "slope": lambda d: write(d["image"], ct(1), scl_slope=1.001, scl_inter=0),
    "intercept": lambda d: write(d["image"], ct(1), scl_slope=1, scl_inter=1),
    "origin": lambda d: [write(d[k], v, affine(x3=1)) for k, v in (("image", ct(1)), ("label", organs()))],
    "shape": lambda d: [
        write(d[k], v.reshape(16, 32, 8)) for k, v in (("image", ct(1)), ("label", organs()))
    ],  # of the same voxels in another order
    "no label": lambda d: d.pop("label"),
}


@pytest.mark.parametrize("change", FINGERPRINTED.values(), ids=FINGERPRINTED)
def test_fingerprint_changes_with_the_case(good, change):
    before = fingerprint(good)
    change(good.training[0])
    after = fingerprint(good)
    assert after["img0001"] != before["img0001"]
    assert after["img0002"] == before["img0002"] and after["img0003"] == before["img0003"]


def test_fingerprint_ignores_rounding_of_the_affine(good):
    before = fingerprint(good)
    for kind, voxels in (("image", ct(1)), ("label", organs())):
        write(good.training[0][kind], voxels, affine(x3=-1e-6))
    assert fingerprint(good) == before


def test_fingerprint_includes_a_shared_label_and_names_a_shared_case_once(good):
    before = fingerprint(good)
    good.training[1]["label"] = good.training[0]["label"]  # the same voxels as before
    assert fingerprint(good) == before
    same = Dataset(good.classes, good.modality, good.training, list(good.training), [])
    assert fingerprint(same) == {name: before[name] for name in ("img0001", "img0002")}
