"""Cache of preprocessed cases on disk."""

import os
from dataclasses import replace
from types import CodeType, FunctionType

import psutil
import pytest
import torch
from conftest import SMALL, prepared, write_case

from swinunetr import preprocessing
from swinunetr.dataset import read_dataset
from swinunetr.errors import InputError
from swinunetr.preprocessing import prepare_cases


def cached(small_data, folder, recipe=SMALL, in_memory=True) -> dict:
    dataset = read_dataset(*small_data)
    return prepare_cases(dataset.training[:1], recipe, "CT", cache_dir=folder, in_memory=in_memory)[0]


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


DAMAGED = {
    "truncated": lambda content: content[:1000],
    "without its end": lambda content: content[:-1000],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "zeros after its start": lambda content: content[:1000] + bytes(len(content) - 1000),
    "zeros before its end": lambda content: bytes(1000) + content[1000:],
    "text": lambda content: b"No space left on device",
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_cache_file_is_made_again(small_data, tmp_path, damage, in_memory):
    first = cached(small_data, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    again = cached(small_data, tmp_path / "cache", in_memory=in_memory)
    for key in ("image", "label", "organ_voxels"):
        assert torch.equal(torch.as_tensor(again[key]), torch.as_tensor(first[key]))
    assert file.stat().st_size == len(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: [1, 2],
        lambda parts: {},
        lambda parts: {"image": parts["image"]},
        lambda parts: {key: value for key, value in parts.items() if key != "vanished_ids"},
    ],
    ids=["a list", "nothing", "no label", "a part is missing"],
)
def test_cache_file_without_all_parts_is_made_again(small_data, tmp_path, change):
    first = cached(small_data, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    torch.save(change(torch.load(file)), file)
    assert torch.equal(cached(small_data, tmp_path / "cache")["label"], first["label"])
    assert "vanished_ids" in torch.load(file)


def half_window(recipe, modality):
    return (0.0, 125.0)


@pytest.mark.parametrize(("name", "value"), [("intensity_window", half_window), ("MOST_CENTRES", 7)])
def test_changed_code_or_constant_makes_a_new_cache_file(small_data, tmp_path, monkeypatch, name, value):
    first = cached(small_data, tmp_path / "cache")
    monkeypatch.setattr(preprocessing, name, value)
    second = cached(small_data, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert len(second["organ_voxels"]) == 7 or not torch.equal(second["image"], first["image"])


def names_in(code: CodeType) -> set[str]:
    """Return the names that a function uses, including those in its inner functions."""
    return set(code.co_names).union(*(names_in(const) for const in code.co_consts if isinstance(const, CodeType)))


def test_cache_key_includes_each_function_and_constant_that_preprocessing_uses(small_data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(preprocessing, "cache_file", lambda *args: calls.append(args) or tmp_path / "a.pt")
    cached(small_data, tmp_path / "cache")
    _, _, settings, code = calls[0]
    inner = [function for function in code if function.__module__ == preprocessing.__name__]
    used = {name: vars(preprocessing).get(name) for function in inner for name in names_in(function.__code__)}
    own = [f for f in used.values() if isinstance(f, FunctionType) and f.__module__ == preprocessing.__name__]
    constants = [value for name, value in used.items() if name.isupper()]
    assert len(own) >= 4 and {f.__name__ for f in own} <= {f.__name__ for f in code}
    assert {preprocessing.MOST_CENTRES, preprocessing.CENTRES_PER_ORGAN} == set(constants) and all(
        value in settings for value in constants
    )
    assert settings[-1] == preprocessing.CENTRES_PER_ORGAN  # only a case with a map of labels has it there


def test_home_folder_of_the_cache_is_expanded(small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cached(small_data, "~/cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1 and not os.path.exists("~")


def test_missing_image_is_named_with_a_cache_too(small_data, tmp_path):
    os.remove(small_data[1] / "imagesTr/img0001.nii.gz")
    with pytest.raises(InputError, match="Case 'img0001' could not be preprocessed"):
        cached(small_data, tmp_path / "cache")


def test_more_volumes_than_the_system_can_map_are_refused(small_data, tmp_path, monkeypatch):
    limit = tmp_path / "max_map_count"
    monkeypatch.setattr(preprocessing, "MAPPING_LIMIT", limit)
    entries = read_dataset(*small_data).training
    limit.write_text("65530\n")
    with pytest.raises(InputError, match="60000 volumes .* at least 70000; found 65530. Raise it .* or take fewer"):
        prepare_cases(entries[:1] * 60_000, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)
    limit.write_text("10001\n")
    with pytest.raises(InputError, match="2 volumes"):
        prepare_cases(entries, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)
    assert len(prepare_cases(entries, SMALL, "CT", cache_dir=tmp_path / "cache")) == 2  # none is mapped
    for enough in ("10002", "unknown"):
        limit.write_text(enough)
        assert len(prepare_cases(entries, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)) == 2
    limit.unlink()
    assert len(prepare_cases(entries, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)) == 2
