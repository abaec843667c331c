"""The cases of a run: phantoms, a list, a folder as it was downloaded, or a public data set by name."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import PROJECT, write_case

from swinunetr.data import source
from swinunetr.data.lists import read_dataset
from swinunetr.data.source import find_data
from swinunetr.errors import InputError
from swinunetr.hardware import find_hardware


@pytest.fixture
def folder(tmp_path):
    """Return a folder of four labelled scans without a list."""
    for number in range(1, 5):
        write_case(tmp_path / "data", number)
    return tmp_path / "data"


def test_a_list_that_is_given_is_taken_as_it_is(folder, tmp_path, capsys):
    found = find_data(str(folder), "own.json", tmp_path / "run", find_hardware())
    assert (found.root, str(found.json_path)) == (folder, "own.json") and not capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_without_a_list_one_is_made_and_kept_beside_the_results(folder, tmp_path, capsys):
    found = find_data(str(folder), "", tmp_path / "run", find_hardware())
    assert found.json_path == tmp_path / "run/cases.json" and "Recognised" in capsys.readouterr().out
    dataset = read_dataset(found.json_path, found.root)
    assert len(dataset.training) == 3 and len(dataset.validation) == 1
    before = found.json_path.read_bytes()
    write_case(folder, 5)
    again = find_data(str(folder), "", tmp_path / "run", find_hardware())
    assert again.json_path.read_bytes() == before
    said = capsys.readouterr().out
    assert "Delete it to make the list" in said and "Recognised" not in said


def test_structures_become_the_classes_of_btcv(tmp_path):
    for number in (1, 2):
        files = write_case(tmp_path / "written", number)
        case = tmp_path / f"data/s{number:04}"
        (case / "segmentations").mkdir(parents=True)
        shutil.copy(tmp_path / "written" / files["image"], case / "ct.nii.gz")
        label = nib.load(tmp_path / "written" / files["label"])
        for i, name in enumerate(("liver", "kidney_left", "femur_left"), start=1):
            mask = nib.Nifti1Image((np.asarray(label.dataobj) == i).astype(np.uint8), label.affine)
            nib.save(mask, case / f"segmentations/{name}.nii.gz")
    found = find_data(str(tmp_path / "data"), "", tmp_path / "run", find_hardware())
    assert read_dataset(found.json_path, found.root).classes == ("background", "left kidney", "liver")


def test_the_list_of_another_folder_is_not_taken(folder, tmp_path):
    find_data(str(folder), "", tmp_path / "run", find_hardware())
    folder.rename(tmp_path / "moved")
    write_case(tmp_path / "moved", 5)
    found = find_data(str(tmp_path / "moved"), "", tmp_path / "run", find_hardware())
    listed = json.loads(found.json_path.read_text())
    assert len(listed["training"]) + len(listed["validation"]) == 5


def test_the_list_of_a_run_is_not_replaced_by_that_of_another_folder(folder, tmp_path):
    found = find_data(str(folder), "", tmp_path / "run", find_hardware())
    before = found.json_path.read_bytes()
    (tmp_path / "run/settings.json").write_text("{}")
    write_case(tmp_path / "other", 7)
    with pytest.raises(InputError, match=r"logdir: .*run' holds a run on the cases of '.*data', not of '.*other'"):
        find_data(str(tmp_path / "other"), "", tmp_path / "run", find_hardware())
    assert found.json_path.read_bytes() == before


def test_a_public_data_set_is_downloaded_unless_a_folder_has_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "fetch", lambda name: folder)
    monkeypatch.chdir(tmp_path)
    assert find_data("msd_spleen", "own.json", "run", find_hardware()).root == folder
    (tmp_path / "msd_spleen").mkdir()
    assert str(find_data("msd_spleen", "own.json", "run", find_hardware()).root) == "msd_spleen"


def test_phantoms_are_the_cases_without_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(source, "write_phantoms", lambda cases, root: tmp_path)
    found = find_data("", "", tmp_path / "run", find_hardware())
    assert found.json_path == PROJECT / "json_files/btcv_6.json" and found.root == tmp_path
    assert "synthetic CT phantoms" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="data_root: no folder at '.*none', and no public data set of this name"):
        find_data(str(tmp_path / "none"), "", tmp_path / "run", find_hardware())
