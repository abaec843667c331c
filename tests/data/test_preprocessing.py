"""Preprocessing from files to the training grid."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case

from swinunetr import machine
from swinunetr.data import preprocessing
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import read_dataset
from swinunetr.data.preprocessing import (
    CENTRES_PER_ORGAN,
    MOST_CENTRES,
    PREPROCESSING_VERSION,
    crop_centres,
    prepare_cases,
    require_organs,
)
from swinunetr.errors import InputError
from swinunetr.results.evaluation import read_labels
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batch


def test_hu_window_is_mapped_to_0_to_1_and_air_is_removed(small_data):
    _, (case, _) = prepared(small_data)
    assert case["image"].dtype == torch.float16 and case["label"].dtype == torch.uint8
    assert case["image"].shape == case["label"].shape == (1, 66, 68, 64)  # without the margin of two voxels of air
    assert case["image"][0, 10, 12, 10] == pytest.approx((100 + 175) / 425, abs=1e-3)
    assert torch.equal(case["image"].affine[:3, 3], torch.tensor([3.0, 3.0, 4.0], dtype=torch.float64))


def test_as_many_scans_are_preprocessed_at_a_time_as_fit_into_memory(small_data, monkeypatch):
    used = []
    monkeypatch.setattr(machine, "cpu_cores", lambda: 8)
    monkeypatch.setattr(machine, "available_memory", lambda: 50e6)  # a case of 343 000 voxels takes about 21 MB
    monkeypatch.setattr(preprocessing, "in_threads", lambda make, items, title, threads: used.append(threads) or [])
    dataset = read_dataset(*small_data)
    prepare_cases(dataset.training, SMALL, "CT")
    prepare_cases(dataset.training, replace(SMALL, spacing_mm=(1.0, 1.0, 1.0)), "CT")
    assert used == [2, 1]


def test_scan_smaller_than_a_crop_is_padded(tmp_path):
    entry = write_case(tmp_path, 1, shape=(62, 64, 60))
    entry = {"name": "small", **{key: str(tmp_path / file) for key, file in entry.items()}}
    (case,) = prepare_cases([entry], SMALL, "CT")
    assert case["image"].shape == (1, 64, 64, 64)
    images, _, _ = training_batch([case], augmentation(SMALL), seed=0, step=1)
    assert images.shape == (2, 1, 64, 64, 64)


def test_mr_is_scaled_by_percentiles(small_data):
    dataset = read_dataset(*small_data)
    (case,) = prepare_cases(dataset.training[:1], SMALL, "MRI")
    assert case["image"].max() == 1
    assert case["image"][0, 50, 30, 40] > 0.95  # the brighter box; the HU window would map it to 0.84


def test_error_of_a_file_that_is_gone_says_so(small_data):
    (entry, *_) = read_dataset(*small_data).training
    Path(entry["label"]).unlink()
    with pytest.raises(InputError, match="Case 'img0001' .*FileNotFoundError: No such file.*label0001"):
        prepare_cases([entry], SMALL, "CT")


@pytest.mark.filterwarnings("ignore:Divide by zero", "ignore:overflow encountered")  # before the scan is refused
@pytest.mark.parametrize("bright", [1000, 1e300])
def test_a_scan_that_percentiles_cannot_scale_is_refused(small_data, bright):
    dataset = read_dataset(*small_data)
    image = nib.load(dataset.training[0]["image"])
    voxels = np.zeros(image.shape)
    voxels[30:34, 30:34, 30:34] = np.linspace(1, bright, 64).reshape(4, 4, 4)
    nib.save(nib.Nifti1Image(voxels, image.affine), dataset.training[0]["image"])
    with pytest.raises(InputError, match="Case 'img0001': expected intensities .* no contrast"):
        prepare_cases(dataset.training[:1], SMALL, "MR")


def test_error_names_the_case_of_an_unreadable_file(small_data):
    dataset = read_dataset(*small_data)
    with open(dataset.training[1]["image"], "rb+") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="Case 'img0002'"):
        prepare_cases(dataset.training, SMALL, "CT")


def test_crop_centres_are_in_organs_and_in_the_rest_of_the_body(small_data):
    _, (case, _) = prepared(small_data)
    organ, other = (set(case[name].tolist()) for name in ("organ_voxels", "other_voxels"))
    assert organ == set((case["label"].as_tensor().flatten() > 0).nonzero()[:, 0].tolist())  # fewer than the limit
    assert len(other) == MOST_CENTRES and not organ & other
    assert (case["image"].as_tensor().flatten()[case["other_voxels"].long()] > 0).all()


def write_tiny_organ(folder, number: int) -> dict[str, str]:
    """Write a case of 1.5 x 1.5 x 2 mm voxels with one more organ of a single voxel, 3; return its entry."""
    entry = {"name": f"img{number}"} | {key: str(folder / f) for key, f in write_case(folder, number).items()}
    image = nib.load(entry["label"])
    label = np.asarray(image.dataobj).copy()
    label[45, 45, 15] = 3
    nib.save(nib.Nifti1Image(label, image.affine), entry["label"])
    return entry


COARSE = replace(SMALL, spacing_mm=(4.0, 4.0, 4.0))


@pytest.mark.parametrize("cache", ["", "cache"])
def test_organ_that_vanishes_on_the_training_grid_gives_a_warning(tmp_path, capsys, cache):
    entries = [write_tiny_organ(tmp_path, 1), write_tiny_organ(tmp_path, 2)]
    entries[1]["label"] = str(tmp_path / write_case(tmp_path, 2)["label"])  # without it
    for _ in range(2):  # preprocessed, then read from the cache
        cases = prepare_cases(entries, COARSE, "CT", cache_dir=cache and tmp_path / cache)
        assert [case["vanished_ids"] for case in cases] == [[3], []]
        grid = "the training grid of 4 x 4 x 4 mm"
        warning = f"warning: img1: label 3 has no voxel left on {grid}; a finer spacing_mm keeps it\n"
        assert capsys.readouterr().out == warning
    prepare_cases(entries, SMALL, "CT")
    assert capsys.readouterr().out == ""


def test_labels_that_storage_changed_are_rounded(small_data):
    dataset = read_dataset(*small_data)
    (expected,) = prepare_cases(dataset.training[:1], SMALL, "CT")
    label = nib.load(dataset.training[0]["label"])
    below = np.asarray(label.dataobj) * np.float32(0.9999)  # which a cast to uint8 would make 0 and 1
    nib.save(nib.Nifti1Image(below, label.affine), dataset.training[0]["label"])
    (case,) = prepare_cases(dataset.training[:1], SMALL, "CT")
    assert case["label"].equal(expected["label"])
    np.testing.assert_array_equal(read_labels(dataset.training[0]["label"]), np.rint(below))


def test_a_list_without_an_organ_on_the_training_grid_is_refused(tmp_path):
    entry = write_tiny_organ(tmp_path, 1)
    label = nib.load(entry["label"])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) // 3, label.affine), entry["label"])  # the tiny organ alone
    other = {"name": "img2"} | {key: str(tmp_path / file) for key, file in write_case(tmp_path, 2).items()}
    cases = prepare_cases([entry, other], COARSE, "CT")
    require_organs(cases, COARSE.spacing_mm, "validation")
    message = "spacing_mm: no organ of the 1 validation cases has a voxel left on the training grid of 4 x 4 x 4 mm"
    with pytest.raises(InputError, match=message):
        require_organs(cases[:1], COARSE.spacing_mm, "validation")
    require_organs(prepare_cases([entry], SMALL, "CT"), SMALL.spacing_mm, "validation")
    require_organs([{"name": "unlabelled"}], SMALL.spacing_mm, "validation")


@pytest.mark.filterwarnings("ignore:Num foregrounds 0")  # MONAI's, as there is no organ
def test_crops_of_a_case_without_an_organ_are_background(small_data):
    dataset = read_dataset(*small_data)
    label = nib.load(dataset.training[0]["label"])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) * 0, label.affine), dataset.training[0]["label"])
    cases = prepare_cases(dataset.training[:1], SMALL, "CT")
    images, labels, _ = training_batch(cases, augmentation(SMALL), seed=0, step=1)
    assert images.shape == labels.shape == (2, 1, 64, 64, 64) and not labels.any() and images.any()


def test_warning_of_vanished_organs_has_at_most_six_lines(tmp_path, capsys):
    entry = write_tiny_organ(tmp_path, 1)
    prepare_cases([entry | {"name": f"c{number}"} for number in range(8)], COARSE, "CT", cache_dir=tmp_path / "cache")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[4].startswith("warning: c4") and lines[5] == "warning: the same in 3 more cases"


def test_error_of_a_case_is_one_line(small_data):
    dataset = read_dataset(*small_data)
    Path(dataset.training[0]["image"]).write_bytes(b"not a scan")
    with pytest.raises(InputError, match="Case 'img0001'") as caught:
        prepare_cases(dataset.training, SMALL, "CT")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 800


def test_balanced_centres_are_as_many_of_each_organ_and_on_it(small_data):
    _, cases = prepared(small_data)
    label = cases[0]["label"].as_tensor().flatten()
    ids, counts = label[cases[0]["balanced_voxels"].long()].unique(return_counts=True)
    assert ids.tolist() == [1, 2] and counts.tolist() == [CENTRES_PER_ORGAN] * 2
    lost = torch.zeros(1, 64, 64, 64, dtype=torch.uint8)
    assert len(crop_centres(lost.half(), lost, lost == 0)["balanced_voxels"]) == 0


def summary(case: dict) -> dict[str, object]:
    """Return numbers that a change of any part of a case changes."""
    image, label = case["image"].as_tensor().double(), case["label"].as_tensor().double()
    place = torch.linspace(0, 1, image.numel(), dtype=torch.float64).reshape(image.shape)
    return {
        "shape": tuple(image.shape),
        "image": [float(values.mean()) for values in (image, image * place, image**2)],
        "label": [int((label == number).sum()) for number in (1, 2, 255)],
        "places": [float((place[label == number]).mean()) for number in (2, 255)],
        "centres": [int(case[f"{name}_voxels"].sum()) for name in ("organ", "other", "balanced")],
        "origin": case["image"].affine[:3, 3].tolist(),
    }


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_case_becomes_what_this_version_says(modality, tmp_path):
    """If preprocessing changes, raise PREPROCESSING_VERSION, by which caches are known, and write the numbers anew."""
    affine = np.array([[-1.5, 0, 0, 20], [0, 0, 2.0, -7], [0, 3.0, 0, 11], [0, 0, 0, 1]])
    files = {kind: str(tmp_path / file) for kind, file in write_case(tmp_path, 1, affine=affine).items()}
    ignoring = LabelMap("two ids", ((0, 0), (1, 2), (2, 255)))
    recipe = replace(SMALL, crop_size=(32, 64, 64), spacing_mm=(3.0, 4.0, 3.0))
    (case,) = prepare_cases([{"name": "golden", **files, "label_map": ignoring}], recipe, modality)
    found, expected = summary(case), VERSION_1[modality]
    assert PREPROCESSING_VERSION == 1 and found.keys() == expected.keys()
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=2e-5), name


VERSION_1 = {
    "CT": {
        "shape": (1, 33, 64, 68),
        "image": [0.21634, 0.10789, 0.09796],
        "label": [0, 2800, 2000],
        "places": [0.72389, 0.2741],
        "centres": [291092200, 4682203297, 425826304],
        "origin": [-80.5, -67.0, 17.0],
    },
    "MR": {
        "shape": (1, 36, 64, 72),
        "image": [0.3701, 0.17983, 0.31692],
        "label": [0, 2800, 2000],
        "places": [0.69135, 0.27904],
        "centres": [321119400, 5283223100, 469751808],
        "origin": [-83.5, -67.0, 11.0],
    },
}
