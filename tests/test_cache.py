"""Cache of preprocessed cases on disk."""

from dataclasses import replace

import psutil
import torch
from conftest import SMALL, prepared, write_case

from swinunetr.dataset import read_dataset
from swinunetr.preprocessing import prepare_cases


def cached(small_data, folder, recipe=SMALL) -> dict:
    dataset = read_dataset(*small_data)
    return prepare_cases(dataset.training[:1], recipe, "CT", cache_dir=folder)[0]


def test_cached_case_equals_the_preprocessed_case(small_data, tmp_path):
    fresh, again = cached(small_data, tmp_path / "cache"), cached(small_data, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert fresh.keys() == again.keys() and again["name"] == "img0001"
    for key in ("image", "label", "organ_voxels", "other_voxels"):
        assert torch.equal(torch.as_tensor(fresh[key]), torch.as_tensor(again[key]))
    assert torch.equal(fresh["image"].affine, again["image"].affine)
    assert fresh["image"].meta["spatial_shape"] == again["image"].meta["spatial_shape"] == [70, 72, 68]
    assert torch.equal(fresh["image"].meta["original_affine"], again["image"].meta["original_affine"])


def test_changed_file_or_setting_makes_a_new_cache_file(small_data, tmp_path):
    first = cached(small_data, tmp_path / "cache")
    assert cached(small_data, tmp_path / "cache", replace(SMALL, hu_window=(0, 100)))["image"].max() == 1
    names = write_case(small_data[1], 1, shape=(72, 72, 68))  # under the same name
    changed = cached(small_data, tmp_path / "cache")
    assert changed["image"].shape != first["image"].shape and names["image"] in changed["source"]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_case_mapped_from_disk_equals_the_preprocessed_case(small_data, tmp_path):
    dataset, cases = prepared(small_data)
    for _ in range(2):  # first preprocessed and then mapped, then found in the cache
        mapped = prepare_cases(dataset.training, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)
        assert sum(item.path.endswith(".pt") for item in psutil.Process().memory_maps()) == 2
        for case, other in zip(cases, mapped, strict=True):
            assert torch.equal(case["image"], other["image"])


def test_damaged_cache_file_is_made_again(small_data, tmp_path):
    first = cached(small_data, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(cached(small_data, tmp_path / "cache")["label"], first["label"])
