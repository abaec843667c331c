"""Scans of a file or folder: names, places, contents, and what is refused."""

import nibabel as nib
import numpy as np
import pytest
from dicom_files import slice_positions, write_series

from swinunetr.errors import InputError
from swinunetr.scans.finding import find_scans, read_content


def write_scan(file, value=40):
    file.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.full((24, 24, 24), -1000, np.int16)
    voxels[4:20, 4:20, 4:20] = value
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1])), file)
    return file


def test_nifti_files_and_series_of_one_folder_have_names_of_their_own(tmp_path, capsys):
    write_scan(tmp_path / "in/a/ct.nii.gz")
    write_scan(tmp_path / "in/a/ct.nii")
    write_series(tmp_path / "in/b")
    write_series(tmp_path / "in/short", "1.2.9", positions=slice_positions(3))
    scans, problems = find_scans(tmp_path / "in", tmp_path / "out", "CT")
    assert [scan.name.partition("-")[0] for scan in scans] == ["a/ct", "a/ct", "b/series3"]
    assert len({scan.name for scan in scans}) == 3
    assert [scan.series is None for scan in scans] == [True, True, False]
    assert len(problems) == 1 and problems[0].startswith("short/series3: 3 slices, expected at least 5")
    assert "8 slices of CT" in capsys.readouterr().out


def test_a_single_file_is_one_scan(tmp_path):
    write_scan(tmp_path / "b.nii")
    scans, problems = find_scans(write_scan(tmp_path / "a.nii"), tmp_path / "out", "CT")
    assert [(scan.name, scan.file) for scan in scans] == [("a", tmp_path / "a.nii")] and not problems


def test_results_and_empty_or_missing_folders_are_no_scans(tmp_path):
    write_scan(tmp_path / "results/a.nii")
    (tmp_path / "results/made_by.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for place, message in (("results", "holds results"), ("empty", "found none"), ("none", "no file or folder")):
        with pytest.raises(InputError, match=message):
            find_scans(tmp_path / place, tmp_path / "out", "CT")
    with pytest.raises(InputError, match="holds the scans"):
        find_scans(tmp_path / "results/a.nii", tmp_path, "CT")


def test_content_and_place_tell_scans_apart(tmp_path):
    files = [write_scan(tmp_path / f"{folder}/ct.nii", value) for folder, value in (("a", 40), ("b", 40), ("c", 41))]
    scans = [find_scans(file, tmp_path / "out", "CT")[0][0] for file in files]
    contents = [read_content(scan, "CT")[0] for scan in scans]
    assert contents[0] == contents[1] != contents[2]
    assert len({scan.place for scan in scans}) == 3
