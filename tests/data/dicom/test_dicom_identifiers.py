"""Which DICOM files are of one volume, where identifiers are missing or common to several."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import add_pixels, save, slice_positions, stored_voxels, write_series
from dicom_volumes import VOXELS, damage, only_reason, only_series, written

from swinunetr.data.dicom import find_series

ONE_UID = {"SOPInstanceUID": "1.2.3.4.5"}  # of all files


def assert_two_volumes(folder: Path, first: np.ndarray, second: np.ndarray) -> None:
    found, left_out = find_series(folder)
    assert len(found) == 2 and not left_out, (found, left_out)
    assert not any(series.distinct for series in found)
    for series, voxels in zip(found, (first, second), strict=True):
        np.testing.assert_array_equal(np.asarray(written(series, folder).dataobj), voxels.transpose(2, 1, 0) - 1024)


@pytest.mark.parametrize("patients", [("P1", "P2"), ("ANON", "ANON")])
@pytest.mark.parametrize("offset", [0, 8], ids=["overlapping", "continuing"])
def test_two_patients_with_the_same_identifiers_are_two_volumes(tmp_path, patients, offset):
    at, first = slice_positions(20), stored_voxels()
    second = stored_voxels(6)[:, ::-1]
    write_series(tmp_path / "a", voxels=first, positions=at[:8], PatientID=patients[0], **ONE_UID)
    write_series(tmp_path / "b", voxels=second, positions=at[offset : offset + 6], PatientID=patients[1], **ONE_UID)
    assert_two_volumes(tmp_path, first, second)


def test_two_patients_in_one_folder_are_told_apart_by_their_id(tmp_path):
    first, second = stored_voxels(), stored_voxels()[:, ::-1]
    write_series(tmp_path, voxels=first, PatientID="P1", **ONE_UID)
    write_series(tmp_path, voxels=second, PatientID="P2", names=[f"x{n}" for n in range(8)], **ONE_UID)
    assert_two_volumes(tmp_path, first, second)


@pytest.mark.parametrize("part", ["", "1/"])
def test_an_original_and_a_processed_copy_are_two_volumes(tmp_path, part):
    files = write_series(tmp_path / f"original/{part}")
    processed = stored_voxels()
    processed[3] += 1  # one slice is enough
    for file, voxels in zip(files, processed, strict=True):
        dataset = pydicom.dcmread(file)
        save(add_pixels(dataset, voxels), tmp_path / f"processed/{part}" / file.name)
    assert_two_volumes(tmp_path, stored_voxels(), processed)
    shutil.copytree(tmp_path / "original", tmp_path / "processed/again")  # copies of both
    assert [series.name.split("/")[0] for series in find_series(tmp_path)[0]] == ["original", "processed", "processed"]


def test_copies_with_another_rescale_are_another_volume(tmp_path):
    files = write_series(tmp_path / "a")
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.RescaleIntercept = 0
        save(dataset, tmp_path / "b" / file.name)
    assert len(find_series(tmp_path)[0]) == 2


def test_different_slices_at_one_place_in_one_folder_are_named(tmp_path):
    files = write_series(tmp_path)
    dataset = pydicom.dcmread(files[2])
    save(add_pixels(dataset, stored_voxels()[7]), tmp_path / "denoised")
    expected = "9 slices at 8 different positions: different slices at 35.0 mm ('IM0002' and 'denoised'); remove"
    assert only_reason(tmp_path).startswith(expected)


def test_copies_count_once_though_their_compression_and_identifiers_differ(tmp_path):
    for file in write_series(tmp_path / "a"):
        dataset = pydicom.dcmread(file)
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        save(dataset, tmp_path / "b" / file.name, rle=True)
    assert len(only_series(tmp_path).files) == 8


def test_folders_of_other_geometry_are_other_volumes(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", PixelSpacing=[1, 1])
    found, _ = find_series(tmp_path)
    assert [(series.name, series.distinct) for series in found] == [("a/series3", True), ("b/series3", True)]


@pytest.mark.parametrize("rle", [False, True])
def test_an_intact_copy_takes_the_place_of_a_damaged_one(tmp_path, rle):
    file = write_series(tmp_path / "a", rle=rle)[3]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    damage(file) if rle else file.write_bytes(file.read_bytes()[:-60])
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))


def test_a_damaged_slice_with_the_uid_of_all_others_is_not_lost(tmp_path):
    file = write_series(tmp_path, InstanceNumber=None, **ONE_UID)[7]
    file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"\x28\x00\x10\x00")])
    assert only_reason(tmp_path).startswith("file 'IM0007' has a header that cannot be read")


def test_slices_with_a_series_uid_of_their_own_are_joined_by_position(tmp_path):
    for number, file in enumerate(write_series(tmp_path)):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = f"1.2.{number}"
        save(dataset, file)
    series = only_series(tmp_path)
    assert series.notes == ("each slice has a series instance UID of its own; joined by position",)
    np.testing.assert_array_equal(np.asarray(written(series, tmp_path).dataobj), VOXELS.transpose(2, 1, 0))
    (tmp_path / "IM0003").unlink()
    assert only_reason(tmp_path).startswith("1 missing slice")  # one row, not seven
    dataset.PatientID = "another"
    save(dataset, file)
    assert only_reason(tmp_path).startswith("7 slices with identifiers of patient, study and series of their own")


def test_series_of_one_slice_in_several_folders_are_not_joined(tmp_path):
    for number, position in enumerate(slice_positions()):
        write_series(tmp_path / str(number), f"1.2.{number}", positions=[position])
    assert len(find_series(tmp_path)[1]) == 8


def test_a_slice_that_is_there_twice_counts_once(tmp_path):
    files = write_series(tmp_path)
    dataset = pydicom.dcmread(files[5])
    dataset.SOPInstanceUID, dataset.InstanceNumber = pydicom.uid.generate_uid(), 9
    save(dataset, tmp_path / "again")
    assert len(only_series(tmp_path).files) == 8


def test_slices_without_a_place_of_their_own_are_no_phases(tmp_path):
    write_series(tmp_path, ImagePositionPatient=[0, 0, 0])
    assert only_reason(tmp_path) == "all 8 slices have the same position in the header; export the original series"
