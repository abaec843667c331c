"""Preprocessing from files to the training grid."""

import pytest
import torch
from conftest import SMALL, prepared, write_case

from swinunetr.batches import augmentation, training_batch
from swinunetr.dataset import read_dataset
from swinunetr.errors import InputError
from swinunetr.preprocessing import MOST_CENTRES, prepare_cases


def test_hu_window_is_mapped_to_0_to_1_and_air_is_removed(small_data):
    _, (case, _) = prepared(small_data)
    assert case["image"].dtype == torch.float16 and case["label"].dtype == torch.uint8
    assert case["image"].shape == case["label"].shape == (1, 66, 68, 64)  # without the margin of two voxels of air
    assert case["image"][0, 10, 12, 10] == pytest.approx((100 + 175) / 425, abs=1e-3)
    assert torch.equal(case["image"].affine[:3, 3], torch.tensor([3.0, 3.0, 4.0], dtype=torch.float64))


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
