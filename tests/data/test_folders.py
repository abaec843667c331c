"""Files of a list in each layout of folders, and the volumes of any folder."""

import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from conftest import SMALL, write_case

from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import (
    Dataset,
    find_volumes,
    read_dataset,
    read_unlabelled,
)
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError


@pytest.mark.parametrize("given", ["", "RawData", "RawData/Training"])
def test_synapse_layout_is_found_from_each_of_its_folders(small_data, given):
    json_path, root = small_data
    training = root / "RawData/Training"
    training.mkdir(parents=True)
    shutil.move(root / "imagesTr", training / "img")
    shutil.move(root / "labelsTr", training / "label")
    dataset = read_dataset(json_path, root / given)
    assert dataset.training[0]["image"] == str(training / "img/img0001.nii.gz")
    assert dataset.validation[0]["label"] == str(training / "label/label0003.nii.gz")


def test_case_names_include_folders_where_file_names_are_equal(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    for section, patients in (("training", ("a", "b")), ("validation", ("c",))):
        content[section] = [{"image": f"{p}/ct/scan.nii.gz", "label": f"{p}/ct/label.nii.gz"} for p in patients]
    json_path.write_text(json.dumps(content))
    dataset = read_dataset(json_path, root)
    assert [case["name"] for case in dataset.training + dataset.validation] == ["a_ct_scan", "b_ct_scan", "c_ct_scan"]


LONG = "Ä" * 120  # 240 bytes


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a_b/c.nii.gz", "a/b_c.nii.gz", "a_c.nii.gz"], ["c", "b_c", "a_c"]),
        (["x/a_b/c.nii", "x/a/b_c.nii", "y/c.nii", "y/b_c.nii"], ["a_b_c-", "a_b_c-", "y_c", "y_b_c"]),
        (["s.nii", "s.nii.gz", "t.nii"], ["s-", "s-", "t"]),
        (["IMG1.nii.gz", "img1.nii.gz"], ["IMG1-", "img1-"]),
        (["caf\u00e9.nii", "cafe\u0301.nii"], ["caf\u00e9-", "cafe\u0301-"]),
        (["/data/1/ct.nii", "/data/2/ct.nii"], ["1_ct", "2_ct"]),
        (["../1/ct.nii", "1/ct.nii"], ["ct-", "ct-"]),
        (["...nii.gz", "a|b\n.nii", "J\udcfcrgen.nii"], ["_", "a_b_", "J_rgen"]),
        ([f"{LONG}1.nii", f"{LONG}2.nii"], ["Ä" * 95 + "-", "Ä" * 95 + "-"]),
        ([f"{LONG}/1.nii", f"{LONG}/2.nii"], ["1", "2"]),
    ],
)
def test_names_of_cases_are_distinct_names_of_files(images, names, tmp_path):
    """Whatever the order of the list, and on disks that ignore case or Unicode form."""
    file = tmp_path / "list.json"
    for order in (images, images[::-1]):
        file.write_text(json.dumps({"training": order, "validation": ["other/valid.nii"]}))
        cases = read_unlabelled(tmp_path, file).training
        found = {image: case["name"] for image, case in zip(order, cases, strict=True)}
        for image, expected in zip(images, names, strict=True):
            hashed = re.escape(expected) + "[0-9a-f]{8}" * expected.endswith("-")
            assert re.fullmatch(hashed, found[image])
        folded = {unicodedata.normalize("NFD", name).casefold() for name in found.values()}
        assert len(folded) == len(images)
        assert all(len(name.encode()) <= 200 and "/" not in name for name in found.values())


def test_volumes_of_a_folder_are_found_and_labels_are_skipped(scans):
    dataset = read_unlabelled(scans)
    assert [e["name"] for e in dataset.validation + dataset.training] == [f"imagesTr/img{n:04d}" for n in (1, 2, 3)]
    assert all(set(entry) == {"name", "image"} for entry in dataset.training)
    images = check_dataset(dataset, SMALL.spacing_mm).images
    assert [image.split for image in images] == ["training", "training", "validation"]


@pytest.mark.parametrize(
    "hidden",
    [
        "imagesTr/._img0001.nii.gz",
        ".4711.phantom1004.nii.gz",
        ".Trash/a.nii",
        "__MACOSX/imagesTr/b.nii.gz",
        "folder.nii/",
    ],
)
def test_hidden_files_and_folders_are_not_scans(scans, hidden):
    expected = find_volumes(scans)
    (scans / hidden).parent.mkdir(parents=True, exist_ok=True)
    (scans / hidden).mkdir() if hidden.endswith("/") else (scans / hidden).write_bytes(b"\0")
    assert find_volumes(scans) == expected


def test_hidden_folder_above_the_volumes_is_no_reason_to_skip_them(tmp_path):
    write_case(tmp_path / ".data", 1)
    assert [entry["name"] for entry in find_volumes(tmp_path / ".data")] == ["imagesTr/img0001"]


def test_volumes_in_linked_folders_and_with_capital_endings_are_found_once(scans, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (scans / "imagesTr/img0001.nii.gz").rename(scans / "imagesTr/img0001.NII.GZ")
    root = tmp_path / "root"
    root.mkdir()
    scans.joinpath("imagesTr").rename(elsewhere)
    for link, target in ((root / "a", elsewhere), (root / "circle", root)):
        link.symlink_to(target)
    assert [entry["name"] for entry in find_volumes(root)] == ["a/img0001", "a/img0002", "a/img0003"]
    assert find_volumes(root, without=elsewhere) == []
    dataset = read_unlabelled(root)
    assert len(prepare_cases(dataset.training + dataset.validation, SMALL, "CT")) == 3


def test_a_folder_that_cannot_be_opened_is_named_and_the_others_searched(scans, monkeypatch, capsys):
    expected = find_volumes(scans)
    (scans / "lost+found").mkdir()
    monkeypatch.setattr(os, "scandir", refuse_to_open(scans / "lost+found"))
    assert find_volumes(scans) == expected
    assert "lost+found', the folder cannot be opened (Permission denied)" in capsys.readouterr().out


def test_only_folders_of_labels_are_left_out_and_they_are_named(scans, capsys):
    for name in ("Labelled", "labels_old", "Label", "LabelsTs", "labels-val", "segmentations", "Ground truth"):
        shutil.copytree(scans / "imagesTr", scans / name)
    names = [entry["name"] for entry in find_volumes(scans)]
    assert [name for name in names if name.endswith("1")] == [
        "Labelled/img0001",
        "imagesTr/img0001",
        "labels_old/img0001",
    ]
    (line,) = capsys.readouterr().out.splitlines()
    assert "labels: 18 files in 'Ground truth', 'Label', 'LabelsTs', 'labels-val', 'labelsTr', 'segmentations'." in line


def test_results_of_this_project_are_left_out_and_named(scans, capsys):
    expected = find_volumes(scans)
    for folder in ("out/deep", "bundle/eval", "eval", "bundle/scans"):
        shutil.copytree(scans / "imagesTr", scans / folder)
    (scans / "out/made_by.json").write_text("{}")
    (scans / "bundle/configs").mkdir()
    (scans / "bundle/configs/metadata.json").write_text("{}")
    names = {entry["name"].rpartition("/")[0] for entry in find_volumes(scans)}
    assert names == {"imagesTr", "eval", "bundle/scans"}
    assert f"results of this project: '{scans}/bundle/eval', '{scans}/out'." in capsys.readouterr().out
    shutil.rmtree(scans / "eval")
    shutil.rmtree(scans / "bundle/scans")
    assert find_volumes(scans) == expected


def test_a_link_to_a_missing_volume_is_found_and_named(scans):
    (scans / "imagesTr/img0004.nii.gz").symlink_to(scans / "not fetched.nii.gz")
    entries = find_volumes(scans)
    assert [entry["name"] for entry in entries][-1] == "imagesTr/img0004"
    with pytest.raises(InputError, match="img0004"):
        check_dataset(Dataset(("background",), "CT", [], [], entries), SMALL.spacing_mm)


def test_volumes_in_formats_that_are_not_read_are_named(scans, capsys):
    (scans / "imagesTr/other.nrrd").touch()
    (scans / "imagesTr/brain.MGZ").touch()
    find_volumes(scans)
    assert "Not read: 2 files of other formats, such as 'imagesTr/brain.MGZ'" in capsys.readouterr().out


def test_a_link_does_not_rename_the_volumes_of_a_folder(scans):
    expected = find_volumes(scans)
    (scans / "a").symlink_to(scans / "imagesTr")
    assert find_volumes(scans) == expected


def refuse_to_open(folder):
    """Return ``os.scandir`` as it is for a user without access to one folder, which the superuser always has."""
    scandir = os.scandir

    def refusing(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    return refusing


def test_a_missing_file_is_not_replaced_by_one_of_the_same_name(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    (root / "imagesTr").rename(root / "corrected")
    content["training"][0]["image"] = "corrected/img0001.nii.gz"
    json_path.write_text(json.dumps(content))
    (root / "corrected/img0001.nii.gz").rename(root / "img0001.nii.gz")
    assert read_dataset(json_path, root).training[0]["image"] == str(root / "corrected/img0001.nii.gz")


def test_unlabelled_cases_of_one_file_name_get_different_names(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"training": ["a/scan.nii.gz", "b/scan.nii.gz", "c/scan.nii.gz"]}))
    dataset = read_unlabelled(tmp_path, tmp_path / "list.json")
    assert [e["name"] for e in dataset.validation + dataset.training] == ["a_scan", "b_scan", "c_scan"]
