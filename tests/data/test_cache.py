"""Cache of preprocessed cases on disk."""

import gzip
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from conftest import SMALL, prepared, write_case

from swinunetr.data import preprocessing
from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import read_dataset
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError


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
    "a hole": lambda content: content[: len(content) // 2] + bytes(4096) + content[len(content) // 2 + 4096 :],
    "a flipped byte": lambda content: content[:100_000] + bytes([content[100_000] ^ 1]) + content[100_001:],
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_cache_file_is_made_again_with_a_message(small_data, tmp_path, damage, in_memory, capsys):
    first = cached(small_data, tmp_path / "cache")
    assert "damaged" not in capsys.readouterr().out
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    again = cached(small_data, tmp_path / "cache", in_memory=in_memory)
    for key in ("image", "label", "organ_voxels"):
        assert torch.equal(torch.as_tensor(again[key]), torch.as_tensor(first[key]))
    assert file.stat().st_size == len(content)
    assert re.search("cache_dir: '.*' is damaged .*preprocessed again", capsys.readouterr().out)


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


@pytest.mark.parametrize("name", ["PREPROCESSING_VERSION", "MOST_CENTRES", "CENTRES_PER_ORGAN"])
def test_a_new_version_or_constant_makes_a_new_cache_file(small_data, tmp_path, monkeypatch, name):
    cached(small_data, tmp_path / "cache")
    monkeypatch.setattr(preprocessing, name, 7)
    cached(small_data, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def keeping_times(file: Path, write: Callable[[], None]) -> None:
    """Change a file without its time of modification, as ``cp -p`` and ``rsync -t`` do."""
    times = file.stat()
    write()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns


@pytest.mark.parametrize("checked", [True, False])
def test_another_label_of_the_same_size_and_time_is_used(small_data, tmp_path, checked):
    dataset, entry = read_dataset(*small_data), read_dataset(*small_data).training[0]
    file = Path(entry["label"])
    label, affine = nib.load(file).get_fdata().astype(np.uint8), nib.load(file).affine

    def prepare() -> dict:
        where = {"content_of": check_dataset(dataset, SMALL.spacing_mm).content_of} if checked else {}
        return prepare_cases([entry], SMALL, "CT", cache_dir=tmp_path / "cache", **where)[0]

    sizes = []
    for swapped in (label, np.choose(label, [0, 2, 1]).astype(np.uint8), label):
        keeping_times(file, lambda voxels=swapped: nib.save(nib.Nifti1Image(voxels, affine), file))
        case = prepare()
        sizes.append([int((case["label"] == organ).sum()) for organ in (1, 2)])
    assert sizes[0] == sizes[1][::-1] == sizes[2] and sizes[0] != sizes[1]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_files_that_moved_or_were_compressed_again_are_found_in_the_cache(small_data, tmp_path, capsys):
    dataset = read_dataset(*small_data)
    for number, level in enumerate((1, 9)):
        folder = tmp_path / str(number)
        entries = []
        for entry in dataset.training:
            moved = {kind: str(folder / Path(entry[kind]).name) for kind in ("image", "label")}
            folder.mkdir(exist_ok=True)
            for kind, file in moved.items():
                content = gzip.decompress(Path(entry[kind]).read_bytes())
                Path(file).write_bytes(gzip.compress(content, level))
            entries.append(entry | moved)
        report = check_dataset(replace(dataset, training=entries), SMALL.spacing_mm)
        cases = prepare_cases(entries, SMALL, "CT", cache_dir=tmp_path / "cache", content_of=report.content_of)
        assert [case["source"] for case in cases] == [entry["image"] for entry in entries]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_case_that_changed_since_it_was_checked_is_refused_and_a_touched_one_is_not(small_data, tmp_path):
    dataset = read_dataset(*small_data)
    report = check_dataset(dataset, SMALL.spacing_mm)
    where = {"cache_dir": tmp_path / "cache", "content_of": report.content_of}
    file = Path(dataset.training[0]["label"])
    os.utime(file)
    assert len(prepare_cases(dataset.training, SMALL, "CT", **where)) == 2
    label = nib.load(file)
    changed = nib.Nifti1Image(np.choose(label.get_fdata().astype(int), [0, 2, 1]).astype(np.uint8), label.affine)
    keeping_times(file, lambda: nib.save(changed, file))
    with pytest.raises(InputError, match="Case 'img0001' has changed since.*Run the cell that checks the files again"):
        prepare_cases(dataset.training, SMALL, "CT", **where)


def test_equal_bytes_of_another_data_type_are_another_case(small_data, tmp_path):
    file = Path(read_dataset(*small_data).training[0]["image"])
    dataset = read_dataset(*small_data)
    for code in (4, 512):  # int16 and uint16
        content = bytearray(gzip.decompress(file.read_bytes()))
        content[70:72] = code.to_bytes(2, "little")
        file.write_bytes(gzip.compress(bytes(content)))
        report = check_dataset(replace(dataset, modality="MR"), SMALL.spacing_mm)
        where = {"cache_dir": tmp_path / "cache", "content_of": report.content_of}
        prepare_cases(dataset.training[:1], SMALL, "MR", **where)
    assert len(list((tmp_path / "cache").iterdir())) == 2


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
