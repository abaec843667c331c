"""DICOM folders with volumes, other objects and other files: what is found and what is left out."""

import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import add_pixels, base, item, save, slice_positions, stored_voxels, write_enhanced, write_series
from dicom_volumes import VOXELS, only_reason, only_series, written

from swinunetr.data.dicom import find_series
from swinunetr.errors import InputError


def test_a_tree_of_five_series_and_many_other_things(tmp_path):
    study = tmp_path / "study"
    write_series(study / "good", "1.1", 1)
    write_series(study / "mixed", "1.2", 2, names=[f"x{n}" for n in range(8)])
    write_series(study / "mixed", "1.3", 3, names=[f"y{n}" for n in range(8)], rle=True)
    split = write_series(study / "split/a", "1.4", 4)
    (study / "split/b").mkdir()
    for file in split[4:]:
        shutil.move(file, study / "split/b" / file.name)
    write_enhanced(study / "enhanced/IM", "1.5", 5)
    shutil.copytree(study / "good", study / "copy")

    at = slice_positions()
    bad = study / "bad"
    write_series(bad / "missing", "2.1", positions=[*at[:3], *at[5:]])
    write_series(bad / "uneven", "2.2", positions=[[0, 0, z] for z in (0, 2, 4, 5, 6, 9, 10.3)])
    write_series(bad / "tilt", "2.3", positions=[[0, n * 2.5 * np.tan(np.radians(12)), n * 2.5] for n in range(8)])
    write_series(bad / "phases", "2.4", positions=[*at, *at])
    write_series(bad / "orientation", "2.5")
    write_series(bad / "orientation", "2.5", orientation=(0, 1, 0, 0, 0, -1), names=[f"o{n}" for n in range(8)])
    write_series(bad / "short", "2.6", positions=at[:3])
    write_series(bad / "localiser", "2.7", positions=at[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(base("2.8", "1.2.840.10008.5.1.4.1.1.88.67", "SR"), bad / "report/IM")
    screen = add_pixels(base("2.9", "1.2.840.10008.5.1.4.1.1.7"), stored_voxels(1)[0])
    save(screen, bad / "screenshot/IM")
    mask = add_pixels(base("2.10", "1.2.840.10008.5.1.4.1.1.66.4", "SEG"), stored_voxels(2))
    save(mask, bad / "mask/IM")
    save(base("2.11", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"), bad / "structures/IM")
    write_series(bad / "mr", "2.12", Modality="MR")
    write_series(bad / "nowhere", "2.13", ImagePositionPatient=None)
    write_series(bad / "shape", "2.14", positions=at[:5])
    write_series(bad / "shape", "2.14", positions=at[5:], voxels=stored_voxels()[5:, :6], names=list("abc"))
    write_series(bad / "pixel_spacing", "2.15", positions=at[:4])
    write_series(bad / "pixel_spacing", "2.15", positions=at[4:], PixelSpacing=[1, 1], names=list("abcd"))
    truncated = write_series(bad / "truncated", "2.16", positions=at[:1])[0]
    truncated.write_bytes(truncated.read_bytes()[:250])
    write_series(bad / "sideways", "2.17", positions=[[n == 4, 0, 2 * n] for n in range(8)])

    directory = base("", "1.2.840.10008.1.3.10")
    save(directory, study / "DICOMDIR")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), study / "good/scan.nii.gz")
    for name, content in (("notes.txt", b"no scan"), ("empty", b""), ("eight", b"\x08\x00\x05\x00" * 9)):
        (study / "good" / name).write_bytes(content)
    os.mkfifo(study / "good/pipe")
    (study / "loop").symlink_to(study)

    found, left_out = find_series(tmp_path)
    assert [series.name for series in found] == [
        "study/copy/series1",
        "study/enhanced/series5",
        "study/mixed/series2",
        "study/mixed/series3",
        "study/split/series4",
    ]
    assert all(len(series.files) == (1 if series.frames else 8) for series in found)
    reasons = {each.name.split("/")[2]: each.reason for each in left_out}
    assert len(left_out) == 17
    expected = {
        "missing": "2 missing slices, between 35.0 and 42.5 mm; copy or export the series again",
        "uneven": "slices at uneven distances (1.00 to 3.00 mm)",
        "tilt": "gantry tilt of 12.0 degrees; convert it with dcm2niix and give its file with _Tilt in the name",
        "phases": "16 slices at 8 different positions, for example phases or time points in one series; export each",
        "orientation": "slices of different orientation; export",
        "short": "3 slices, expected at least 5",
        "localiser": "a localiser",
        "report": "a report or another object without pixels",
        "screenshot": "a screenshot, secondary capture or colour image",
        "mask": "a segmentation or structure set, not a scan",
        "structures": "a segmentation or structure set, not a scan",
        "mr": "modality MR, expected CT",
        "nowhere": "file 'IM0000' (and 7 more of 8 files) has no position or orientation in the patient",
        "shape": "slices of different size (5 of 12 x 16, 3 of 6 x 16 rows x columns); export",
        "pixel_spacing": "slices of different pixel spacing (0.7 to 1 mm); export",
        "truncated": "file 'IM0000' has a header that cannot be read",
        "sideways": "slices shifted sideways by up to 1.0 mm",
    }
    assert {name: reasons[name][: len(text)] for name, text in expected.items()} == expected
    texts = " ".join([*(each.name + each.reason for each in left_out), *(str(series) for series in found)])
    assert "secret" not in texts.lower().replace(str(tmp_path).lower(), "")


def test_another_modality_is_found_by_its_usual_name(tmp_path):
    write_series(tmp_path, Modality="MR")
    assert only_series(tmp_path, "MRI").modality == "MR"


def test_a_series_with_a_localiser_and_a_report_in_it_is_a_volume(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, positions=[[0, 0, 0]], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], names=["scout"])
    save(base("1.2.3.4", "1.2.840.10008.5.1.4.1.1.88.11", "SR"), tmp_path / "report")
    assert len(only_series(tmp_path).files) == 8


def test_a_damaged_slice_of_a_series_is_named(tmp_path):
    files = write_series(tmp_path)
    content = files[3].read_bytes()
    files[3].write_bytes(content[: content.index(b"\x28\x00\x10\x00")])  # before Rows
    assert only_reason(tmp_path).startswith("file 'IM0003' has a header that cannot be read (truncated or damaged)")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/intact").write_bytes(content)
    assert only_series(tmp_path).files[3] == tmp_path / "copy/intact"


def test_invalid_header_values_are_named(tmp_path):
    for name, tags in (
        ("1", {"PixelSpacing": [0, 0.8]}),
        ("2", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        ("3", {"ImagePositionPatient": [0, 0]}),
    ):
        write_series(tmp_path / name, f"1.{name}", **tags)
    found, left_out = find_series(tmp_path)
    assert not found
    parts = ("no valid pixel spacing", "not two perpendicular unit vectors", "no position or orientation")
    assert all(part in each.reason for part, each in zip(parts, left_out, strict=True))


def test_multiframe_without_positions_is_named(tmp_path):
    dataset = base("1.2", SeriesNumber=1)
    save(add_pixels(dataset, stored_voxels()), tmp_path / "IM")
    assert "has 8 frames and positions of 1" in only_reason(tmp_path)
    file = write_enhanced(tmp_path / "IM")
    dataset = pydicom.dcmread(file)
    dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence = item()
    dataset.save_as(file)
    assert "has no position or orientation in the patient" in only_reason(tmp_path)


def test_names_are_unique_and_can_be_file_names(tmp_path):
    write_series(tmp_path / "a:b", "1.2.31", 3, names=[f"x{n}" for n in range(8)])
    write_series(tmp_path / "a:b", "1.2.32", 3, names=[f"y{n}" for n in range(8)])
    write_series(tmp_path / "a?b", "1.2.33", None)
    write_series(tmp_path / "a_b", "1.9.33", None)
    write_series(tmp_path, "1.2.34", 7)
    names = [series.name for series in find_series(tmp_path)[0]]
    assert names == ["a_b/series-33", "a_b/series-33-2", "a_b/series3-31", "a_b/series3-32", "series7"]


def test_files_without_preamble_and_without_uids(tmp_path):
    for file in write_series(tmp_path / "old", "", None):
        dataset = pydicom.dcmread(file)
        dataset.SOPInstanceUID = dataset.StudyInstanceUID = ""
        content = Path(file).read_bytes()
        dataset.save_as(file, enforce_file_format=False)
        meta = content.index(b"\x08\x00\x16\x00")
        file.write_bytes(content[meta:])  # explicit VR little endian, without preamble and file meta information
    series = only_series(tmp_path)
    assert series.name == "old/series" and len(series.files) == 8
    np.testing.assert_array_equal(np.asarray(written(series, tmp_path).dataobj), VOXELS.transpose(2, 1, 0))


def test_a_single_file(tmp_path):
    file = write_enhanced(tmp_path / "IM")
    write_series(tmp_path)
    assert [series.name for series in find_series(file)[0]] == ["series4"]
    assert find_series(tmp_path / "IM0002")[1][0].reason.startswith("1 slice, expected at least 5; give the folder")


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        find_series(tmp_path / "none")


def test_big_endian_files_without_preamble_are_read(tmp_path):
    for file in write_series(tmp_path / "old"):
        dataset = pydicom.dcmread(file)
        dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        pydicom.dcmwrite(file, pydicom.Dataset(dict(dataset.items())), little_endian=False, implicit_vr=False)
    assert (tmp_path / "old/IM0000").read_bytes().startswith(b"\x00\x08\x00")
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))


def test_a_dicomdir_alone_is_named(tmp_path):
    save(base("", "1.2.840.10008.1.3.10"), tmp_path / "DICOMDIR")
    assert only_reason(tmp_path).startswith("a DICOMDIR, which only lists files; give the folder that holds them")
    write_series(tmp_path / "images")
    assert only_series(tmp_path).name == "images/series3"


def test_archives_with_scans_are_named_and_other_zip_files_are_not(tmp_path):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/scan.zip", "w") as archive:
        archive.write(write_series(tmp_path / "out")[0], "a/IM0000")
    with zipfile.ZipFile(tmp_path / "in/papers.zip", "w") as archive:
        archive.writestr("a/notes.txt", "no scan")
    assert only_reason(tmp_path / "in") == "an archive of several files or a compressed file; unpack it"
    assert find_series(tmp_path / "in")[1][0].name == "scan.zip"
    assert find_series(tmp_path / "in/papers.zip") == ([], [])
