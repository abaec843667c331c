"""The command: from folders to a list in a file, with exit status and short messages."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT
from nifti_files import ct, organs, write

from swinunetr.data.checks import check_dataset
from swinunetr.data.collect.__main__ import main
from swinunetr.data.collect.command import collect
from swinunetr.data.lists import read_dataset
from swinunetr.errors import InputError


@pytest.fixture
def decathlon(tmp_path):
    """Return a folder in the layout of the Decathlon, with five cases of a liver and a tumour."""
    folder = tmp_path / "data" / "Task03_Liver"
    names = [f"liver_{n}.nii.gz" for n in range(5)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for n, name in enumerate(names):
            write(str(folder / part / name), ct(seed=n) if part == "imagesTr" else organs())
    entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    content = {"name": "LIVER", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}}
    (folder / "dataset.json").write_text(json.dumps(content | {"training": entries, "test": []}))
    return folder


def total(folder, count=3):
    """Write a folder in the layout of TotalSegmentator, with a liver and a spleen."""
    for n in range(count):
        below = folder / f"s{n:04d}"
        (below / "segmentations").mkdir(parents=True)
        write(str(below / "ct.nii.gz"), ct(seed=n + 50))
        for i, name in enumerate(("liver", "spleen"), start=1):
            write(str(below / "segmentations" / f"{name}.nii.gz"), (organs() == i).astype(np.uint8))
    return folder


def test_a_list_is_written_that_trains(decathlon, tmp_path, capsys):
    before = {file: file.read_bytes() for file in decathlon.rglob("*") if file.is_file()}
    path = tmp_path / "list.json"
    assert main([str(decathlon), str(path), "--validation", "0.4"]) == 0
    printed = capsys.readouterr().out
    assert "Decathlon" in printed and f"-p data_root {decathlon} -p json_path {path}" in printed
    dataset = read_dataset(path, decathlon)
    assert [len(dataset.training), len(dataset.validation)] == [3, 2]
    check_dataset(dataset, (2, 2, 2), workers=1)
    assert {file: file.read_bytes() for file in decathlon.rglob("*") if file.is_file()} == before


def test_the_same_command_writes_the_same_list(decathlon, tmp_path):
    folders, path = [decathlon, total(tmp_path / "data" / "total")], tmp_path / "list.json"
    collect(folders, path)
    first = path.read_bytes(), path.stat().st_mtime_ns
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "list_labels").rglob("*.nii.gz")}
    collect(folders, path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == first and len(files) == 3
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_several_layouts_make_one_list_of_the_classes_of_another(decathlon, tmp_path):
    path = tmp_path / "list.json"
    folders = [str(decathlon), str(total(tmp_path / "data" / "total"))]
    assert main([folders[0], "--as", str(PROJECT / "json_files/btcv_24.json"), folders[1], str(path)]) == 0
    content = json.loads(path.read_text())
    assert content["labels"] == {"0": "background", "1": "spleen", "2": "liver"}
    dataset = read_dataset(path, tmp_path / "data")
    assert [len(dataset.training), len(dataset.validation)] == [7, 1]
    check_dataset(dataset, (2, 2, 2), workers=1)


def test_folds_need_no_validation_list(decathlon, tmp_path, capsys):
    path = tmp_path / "list.json"
    assert main([str(decathlon), str(path), "--folds", "5"]) == 0
    assert "-p folds 5 -p fold 0" in capsys.readouterr().out
    assert len(read_dataset(path, decathlon, fold=2, folds=5).validation) == 1


def test_names_are_given_as_pairs(decathlon, tmp_path, capsys):
    path = tmp_path / "list.json"
    assert main([str(decathlon), str(path), "--names", "cancer=liver"]) == 0
    assert json.loads(path.read_text())["label_maps"]["decathlon"] == {"0": "background", "1": "liver", "2": "liver"}
    with pytest.raises(SystemExit) as ended:
        main([str(decathlon), str(path), "--names", "cancer"])
    assert ended.value.code == 2 and "expected OLD=NEW" in capsys.readouterr().err


def test_errors_are_one_message_and_status_1(decathlon, tmp_path, capsys):
    assert main([str(decathlon), str(tmp_path / "list")]) == 1
    assert main([str(tmp_path / "none"), str(tmp_path / "list.json")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "End it in .json" in lines[0] and "no folder at" in lines[1]


def test_a_list_of_someone_else_is_not_replaced(decathlon, tmp_path):
    for path in (decathlon / "dataset.json", PROJECT / "json_files/btcv_24.json"):
        before = path.read_bytes()
        with pytest.raises(InputError, match="was not written by this command"):
            collect([decathlon], path)
        assert path.read_bytes() == before
    path = tmp_path / "list.json"
    collect([decathlon], path)
    collect([decathlon], path, validation=0.4)
    assert len(json.loads(path.read_text())["validation"]) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{", None], ids=["empty", "a list", "broken", "edited"])
def test_a_list_that_was_changed_is_not_replaced(decathlon, tmp_path, content):
    path = tmp_path / "list.json"
    collect([decathlon], path)
    path.write_text(path.read_text().replace("liver_0", "liver_1") if content is None else content)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"^list_path: .*list.json' is there and .* or it was changed since"):
        collect([decathlon], path)
    assert path.read_bytes() == before


def test_a_list_in_the_folder_is_not_taken_for_that_of_a_collection(tmp_path):
    for n in range(3):
        for part, voxels in (("images", ct(seed=n)), ("labels", organs())):
            (tmp_path / part).mkdir(exist_ok=True)
            write(str(tmp_path / part / f"p{n}.nii.gz"), voxels)
    path = tmp_path / "dataset.json"
    collect([tmp_path], path)
    before = path.read_bytes()
    assert "pairs of image and label" in str(collect([tmp_path], path)) and path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folders": ["{}/dataset.json"]}, "^folders: .*dataset.json' is a file"),
        ({"folders": ["{}", "{}/imagesTr/.."]}, "^folders: expected each folder once"),
        ({"folders": ["~no_such_user/x"]}, "^folders: '~no_such_user/x' starts with ~"),
        ({"folders": ["x" * 300]}, "^folders: no folder at 'xxx"),
        ({"list_path": "~no_such_user/x.json"}, "^list_path: .* starts with ~"),
        ({"list_path": f"{'x' * 300}.json"}, "could not be written .*Choose a shorter path"),
        ({"labels": "~no_such_user/x"}, "^labels: .* starts with ~"),
        ({"as_list": "none.json"}, "^as_list: no file at 'none.json'"),
    ],
)
def test_paths_that_cannot_be_used_are_named_with_the_parameter(decathlon, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    changes = {
        key: [v.format(decathlon) for v in value] if key == "folders" else value for key, value in changes.items()
    }
    with pytest.raises(InputError, match=message):
        collect(**{"folders": [decathlon], "list_path": "list.json"} | changes)


def test_a_list_that_cannot_be_written_is_named(decathlon, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"/list.json' could not be written \(No space"):
        collect([decathlon], tmp_path / "list.json")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_a_folder_in_another_one_gives_no_scan_twice(tmp_path):
    """Else the same scan would train and validate."""
    for folder in (tmp_path, tmp_path / "inner"):
        for n in range(2):
            for part, voxels in (("images", ct(seed=n)), ("labels", organs())):
                (folder / part).mkdir(parents=True, exist_ok=True)
                write(str(folder / part / f"{folder.name}{n}.nii.gz"), voxels)
    with pytest.raises(InputError, match="expected each scan once, found .*inner0.nii.gz' twice"):
        collect([tmp_path, tmp_path / "inner"], tmp_path / "list.json")


def test_a_list_that_cannot_be_read_is_not_written(decathlon, tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(InputError, match="'all' means every organ") as caught:
        collect([decathlon], path, names={"liver": "all"})
    assert str(path) in str(caught.value) and not path.exists() and not list(tmp_path.glob(".*"))
    assert "json_path" not in str(caught.value)


def test_help_needs_no_packages():
    """It must come at once, and say what is missing where they are not installed."""
    words = ["-S", "-m", "swinunetr.data.collect"]
    ended = subprocess.run([sys.executable, *words, "--help"], cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 0 and "FOLDER [FOLDER ...] LIST.json" in ended.stdout
