"""DICOM folders with volumes, other objects and damaged files; voxels and geometry compared with SimpleITK's."""

import os
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import (
    AXIAL,
    add_pixels,
    base,
    item,
    save,
    slice_positions,
    stored_voxels,
    write_enhanced,
    write_series,
)
from pydicom.data import get_testdata_file

from swinunetr.errors import InputError, WriteError
from swinunetr.scans.dicom import find_series, fingerprint, write_nifti

VOXELS = stored_voxels().astype(np.int16) - 1024  # (slice, row, column), with the rescale of the files
AFFINE = [[-0.8, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
COS, SIN = np.cos(0.3), np.sin(0.3)
SHUFFLED = [5, 2, 7, 0, 3, 6, 1, 4]


def only_series(folder: Path, modality: str = "CT"):
    found, left_out = find_series(folder, modality)
    assert len(found) == 1 and not left_out, (found, left_out)
    return found[0]


def only_reason(folder: Path) -> str:
    found, left_out = find_series(folder)
    assert len(left_out) == 1 and not found, (found, left_out)
    return left_out[0].reason


def written(series, folder: Path) -> nib.Nifti1Image:
    write_nifti(series, folder / "volume.nii")
    return nib.load(folder / "volume.nii")


def assert_as_simpleitk(image: nib.Nifti1Image, folder: Path) -> None:
    """Compare with SimpleITK's own reading of the DICOM files and of the NIfTI file."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    expected, found = reader.Execute(), sitk.ReadImage(image.get_filename())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for corner in np.ndindex(2, 2, 2):
        voxel = [int(n) for n in np.multiply(corner, np.subtract(expected.GetSize(), 1))]
        ours, theirs = (each.TransformIndexToPhysicalPoint(voxel) for each in (found, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


# -------------------------------------------------------------------------------------------------- voxels, geometry


def test_voxels_and_affine_of_a_series_with_random_file_names(tmp_path):
    write_series(tmp_path / "scan", names=[f"f{number}" for number in SHUFFLED])
    series = only_series(tmp_path)
    assert [file.name for file in series.files] == [f"f{number}" for number in SHUFFLED]
    assert (series.name, series.frames, series.uid, series.modality) == ("scan/series3", (), "1.2.3.4", "CT")
    image = written(series, tmp_path)
    assert image.get_data_dtype() == np.int16 and image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-6)
    assert_as_simpleitk(image, tmp_path / "scan")


@pytest.mark.parametrize(
    "orientation",
    [
        (-1, 0, 0, 0, 1, 0),  # feet first, supine
        (-1, 0, 0, 0, -1, 0),  # head first, prone
        (0, 1, 0, 0, 0, -1),  # sagittal
        (1, 0, 0, 0, 0, -1),  # coronal
        (COS, SIN, 0, -SIN * COS, COS * COS, SIN),  # oblique
        (0.9553, 0.2955, 0, -0.2823, 0.9127, 0.2955),  # oblique and rounded
    ],
)
def test_other_orientations_as_in_simpleitk(tmp_path, orientation):
    write_series(tmp_path / "scan", orientation=orientation)
    series = only_series(tmp_path)
    image = written(series, tmp_path)
    assert_as_simpleitk(image, tmp_path / "scan")
    position = np.array([10, 20, 30]) - 2.5 * np.cross(orientation[:3], orientation[3:]) * [1, 1, -1]
    np.testing.assert_allclose(image.affine @ [0, 0, 1, 1], [*position, 1], atol=1e-3)
    np.testing.assert_allclose(series.affine, image.affine, atol=1e-5)


def test_slices_stored_from_head_to_feet_are_sorted_to_the_head(tmp_path):
    files = write_series(tmp_path / "scan", positions=slice_positions()[::-1])
    series = only_series(tmp_path)
    assert series.files == tuple(files[::-1])
    np.testing.assert_allclose(series.affine, AFFINE)
    assert_as_simpleitk(written(series, tmp_path), tmp_path / "scan")


def test_rle_compression(tmp_path):
    write_series(tmp_path / "scan", rle=True)
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))
    assert_as_simpleitk(image, tmp_path / "scan")


def test_fractional_slope_gives_float32(tmp_path):
    write_series(tmp_path / "scan", RescaleSlope=0.25, RescaleIntercept=-100.5)
    image = written(only_series(tmp_path), tmp_path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj), (stored_voxels() * 0.25 - 100.5).transpose(2, 1, 0))
    assert_as_simpleitk(image, tmp_path / "scan")


def test_values_above_int16_give_float32(tmp_path):
    write_series(tmp_path / "scan", voxels=stored_voxels(dtype="uint16") + np.uint16(60_000))
    image = written(only_series(tmp_path), tmp_path)
    assert image.get_data_dtype() == np.float32
    assert np.asarray(image.dataobj)[0, 0, 0] == 60_000 - 1024


def test_each_slice_has_its_own_rescale(tmp_path):
    for file, slope in zip(write_series(tmp_path / "scan"), (1, 1, 1, 1, 1, 1, 1, 0.5), strict=True):
        dataset = pydicom.dcmread(file)
        dataset.RescaleSlope = slope
        dataset.save_as(file)
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., :7], VOXELS.transpose(2, 1, 0)[..., :7])
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 7], (stored_voxels()[7] * 0.5 - 1024).T)


def test_monochrome1_is_not_inverted(tmp_path):
    """SimpleITK inverts the stored values before the rescale, so that air would be denser than bone."""
    write_series(tmp_path / "scan")
    for file in (tmp_path / "scan").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(file)
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("rle", [False, True])
def test_enhanced_multiframe_with_shuffled_frames(tmp_path, per_frame, rle):
    positions = [slice_positions()[number] for number in SHUFFLED]
    write_enhanced(
        tmp_path / "ct/IM", voxels=stored_voxels()[SHUFFLED], positions=positions, per_frame=per_frame, rle=rle
    )
    series = only_series(tmp_path)
    assert series.name == "ct/series4" and series.files == (tmp_path / "ct/IM",)
    assert series.frames == (3, 6, 1, 4, 7, 0, 5, 2)
    image = written(series, tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (COS, SIN, 0, -SIN * COS, COS * COS, SIN)])
def test_enhanced_multiframe_in_order_as_in_simpleitk(tmp_path, orientation):
    file = write_enhanced(tmp_path / "IM", orientation=orientation)
    image, expected = written(only_series(tmp_path), tmp_path), sitk.ReadImage(str(file))
    found = sitk.ReadImage(image.get_filename())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(expected, name)(), atol=1e-5)


def test_enhanced_multiframe_with_a_rescale_of_each_frame(tmp_path):
    write_enhanced(tmp_path / "IM", rescale=[(1 + number / 2, -number) for number in range(8)])
    image = written(only_series(tmp_path), tmp_path)
    expected = [frame * (1 + number / 2) - number for number, frame in enumerate(stored_voxels())]
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.transpose(expected, (2, 1, 0)))


def test_a_volume_in_two_multiframe_objects(tmp_path):
    positions = slice_positions()
    write_enhanced(tmp_path / "a", voxels=stored_voxels()[4:], positions=positions[4:])
    write_enhanced(tmp_path / "b", voxels=stored_voxels()[:4], positions=positions[:4])
    image = written(only_series(tmp_path), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)


def test_a_small_rounding_of_positions_is_accepted(tmp_path):
    positions = slice_positions(step_mm=0.625)
    write_series(tmp_path, positions=[[x, y, round(z, 1)] for x, y, z in positions])
    assert only_series(tmp_path).affine[2][2] == pytest.approx(4.4 / 7)


# ------------------------------------------------------------------------------------------------------------- trees


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


# ------------------------------------------------------------------------------------------------------- identifiers

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


# ------------------------------------------------------------------------------------------------------------- units


def abdomen() -> np.ndarray:
    """Return Hounsfield units of air, soft tissue and some bone (slices, rows, columns)."""
    values = np.random.default_rng(0).normal(40, 30, (8, 12, 16))
    values[:, :4], values[:, -1] = -1000, 400
    return values.astype(np.int16)


@pytest.mark.parametrize("removed", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",)])
def test_a_ct_without_rescale_is_judged_by_its_values(tmp_path, removed):
    tags = dict.fromkeys(removed)
    write_series(tmp_path / "hu", voxels=abdomen(), **tags)
    series = only_series(tmp_path / "hu")
    assert not series.calibrated and "the voxels decide" in series.notes[0]
    np.testing.assert_array_equal(np.asarray(written(series, tmp_path).dataobj), abdomen().transpose(2, 1, 0))
    write_series(tmp_path / "stored", voxels=abdomen() + np.int16(1024), **tags)
    with pytest.raises(InputError, match="0% are like air, 33% like soft tissue, 0% like bone, 58% like metal"):
        written(only_series(tmp_path / "stored"), tmp_path)
    padded = abdomen() + np.int16(1024)
    padded[:, :2] = -1000
    write_series(tmp_path / "padded", voxels=padded, PixelPaddingValue=-1000, **tags)
    with pytest.raises(InputError, match="not these: 0% are like air"):
        written(only_series(tmp_path / "padded"), tmp_path)
    write_series(tmp_path / "mixed", voxels=abdomen()[:3], positions=slice_positions()[:3], **tags)
    write_series(tmp_path / "mixed", positions=slice_positions()[3:], names=list("abcde"))
    assert only_reason(tmp_path / "mixed").startswith("3 of 8 files do not say how their values become Hounsfield")


def test_an_mr_needs_no_rescale(tmp_path):
    write_series(tmp_path, Modality="MR", RescaleSlope=None, RescaleIntercept=None)
    series = only_series(tmp_path, "MR")
    assert series.calibrated and not series.notes
    assert np.asarray(written(series, tmp_path).dataobj).max() == stored_voxels().max()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"RescaleType": "MGML"}, "a map of mg/ml (RescaleType), expected Hounsfield units; export"),
        ({"RescaleType": "Z_EFF"}, "a map of effective atomic number (RescaleType)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "GSI MD IODINE"]}, "a map of a material or of blood flow"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "CBF"]}, "a map of a material or of blood flow"),
        ({"RescaleSlope": 0}, "file 'IM0000' (and 7 more of 8 files) has no valid rescale slope"),
        ({"RescaleType": "US"}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MONO_70KEV"]}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "IODINE_REMOVED"], "RescaleType": "HU_MOD"}, ""),
    ],
)
def test_maps_in_other_units_are_no_ct(tmp_path, tags, reason):
    write_series(tmp_path / "scan", voxels=abdomen() + np.int16(1024), **tags)
    if reason:
        assert only_reason(tmp_path).startswith(reason)
    else:
        image = written(only_series(tmp_path), tmp_path)
        np.testing.assert_array_equal(np.asarray(image.dataobj), abdomen().transpose(2, 1, 0))


def test_a_multiframe_map_is_no_ct(tmp_path):
    file = write_enhanced(tmp_path / "IM", per_frame=True)
    dataset = pydicom.dcmread(file)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.CTImageFrameTypeSequence = item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"])
    save(dataset, file)
    assert only_reason(tmp_path).startswith("a map of a material")


@pytest.mark.parametrize(
    ("tags", "padding"),
    [
        ({}, ()),
        ({"PixelPaddingValue": -2000}, (-3024.0,)),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 3}, (-1024.0, -1023.0, -1022.0, -1021.0)),
        ({"PixelPaddingValue": 10, "RescaleSlope": 0.5}, (-1019.0,)),
    ],
)
def test_padding_is_known_after_the_rescale(tmp_path, tags, padding):
    write_series(tmp_path, **tags)
    assert only_series(tmp_path).padding == padding


def test_signed_padding_may_be_written_as_unsigned(tmp_path):
    for file in write_series(tmp_path):
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelPaddingValue", "US", -2000 % 2**16)
        save(dataset, file)
    assert only_series(tmp_path).padding == (-3024.0,)


def test_padding_that_would_look_like_metal_is_written_as_air(tmp_path):
    voxels = stored_voxels(dtype="uint16")
    voxels[:, 0] = 63536
    write_series(tmp_path / "scan", voxels=voxels, PixelPaddingValue=63536)
    series = only_series(tmp_path)
    assert series.padding == (-2000.0, 62512.0)
    image = written(series, tmp_path)
    assert image.get_data_dtype() == np.int16
    expected = VOXELS.copy()
    expected[:, 0] = -2000
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected.transpose(2, 1, 0))


# ------------------------------------------------------------------------------------------------------- other files


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


# --------------------------------------------------------------------------------------------------- errors and hash


@pytest.mark.parametrize("rle", [False, True])
def test_truncated_pixels_are_named_before_any_are_decoded(tmp_path, rle):
    file = write_series(tmp_path / "scan", rle=rle)[4]
    file.write_bytes(file.read_bytes()[:-60])
    assert only_reason(tmp_path) == "file 'IM0004' ends before its last pixel (truncated); copy it again"


@pytest.mark.parametrize("rle", [False, True])
def test_a_truncated_multiframe_is_named(tmp_path, rle):
    file = write_enhanced(tmp_path / "IM", rle=rle)
    file.write_bytes(file.read_bytes()[:-60])
    assert only_reason(tmp_path) == "file 'IM' ends before its last pixel (truncated); copy it again"


def damage(file: Path) -> None:
    """Overwrite the start of the compressed pixels, so that nothing is missing but they cannot be decoded."""
    content = bytearray(file.read_bytes())
    start = content.rindex(b"\xfe\xff\x00\xe0") + 8
    content[start : start + 64] = b"\xff" * 64
    file.write_bytes(content)


def test_damaged_pixels_name_series_and_file(tmp_path):
    damage(write_series(tmp_path / "scan", rle=True)[4])
    with pytest.raises(InputError, match=r"Series 'scan/series3'.*IM0004.*truncated or damaged"):
        write_nifti(only_series(tmp_path), tmp_path / "volume.nii")
    assert not (tmp_path / "volume.nii").exists()


def test_pixels_whose_place_in_their_bytes_is_unclear_are_refused(tmp_path):
    write_series(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        dataset = pydicom.dcmread(file)
        dataset.BitsStored = 12
        dataset.save_as(file)
    (series,) = find_series(tmp_path)[1]
    assert "has BitsStored 12 with HighBit 15, expected 11; export the original series" in series.reason


def test_12_bit_jpeg_is_decoded_without_output_of_its_library(tmp_path, capfd):
    jpeg = pydicom.dcmread(get_testdata_file("JPEG-lossy.dcm", download=False))
    for file in write_series(tmp_path, RescaleIntercept=0):
        dataset = pydicom.dcmread(file)
        for name in ("Rows", "Columns", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
            dataset[name] = jpeg[name]
        dataset.file_meta.TransferSyntaxUID = jpeg.file_meta.TransferSyntaxUID
        dataset.save_as(file)
    image = written(only_series(tmp_path), tmp_path)
    assert np.asarray(image.dataobj).max() > 255
    assert capfd.readouterr().err == ""


def test_unknown_compression_is_named_without_output_of_gdcm(tmp_path, capfd):
    for file in write_series(tmp_path, rle=True):
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
        dataset.save_as(file)
    with pytest.raises(InputError, match=r"'series3'.*IM000.*compressed as High-Throughput JPEG 2000"):
        write_nifti(only_series(tmp_path), tmp_path / "volume.nii")
    assert capfd.readouterr().err == ""


def test_the_display_of_warnings_is_restored(tmp_path):
    write_series(tmp_path)
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    write_nifti(only_series(tmp_path), tmp_path / "volume.nii")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before


def test_fingerprint_depends_on_content_only(tmp_path):
    write_series(tmp_path / "a")
    for number, file in enumerate(sorted((tmp_path / "a").iterdir(), reverse=True)):
        (tmp_path / f"b/{number % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / f"b/{number % 2}/{number}.dcm")
    one, other = only_series(tmp_path / "a"), only_series(tmp_path / "b")
    assert fingerprint(one) == fingerprint(other) and len(fingerprint(one)) == 16
    changed = bytearray(one.files[2].read_bytes())
    changed[-1] ^= 1
    one.files[2].write_bytes(changed)
    assert fingerprint(one) != fingerprint(other)
    one.files[2].unlink()
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint(one)


def test_an_unwritable_output_is_named_with_what_to_do(tmp_path):
    write_series(tmp_path)
    with pytest.raises(WriteError, match="none/volume.nii' could not be written .*Bring the folder back"):
        write_nifti(only_series(tmp_path), tmp_path / "none/volume.nii")


@pytest.mark.parametrize("owner, name", [(pydicom.Dataset, "save_as"), (os, "mkdir")])
def test_a_full_temporary_disk_is_no_damaged_scan(tmp_path, monkeypatch, owner, name):
    write_enhanced(tmp_path / "scan/ct.dcm")
    series = only_series(tmp_path / "scan")
    write_enhanced(tmp_path / "scan/copy.dcm", rle=True)
    monkeypatch.setattr(owner, name, Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(WriteError, match="could not be written .No space left.*Free disk space"):
        write_nifti(series, tmp_path / "volume.nii")
    with pytest.raises(WriteError, match="could not be written .No space left"):
        find_series(tmp_path / "scan")


def test_a_series_in_a_folder_whose_name_is_not_utf8_is_read(tmp_path):
    expected = written(only_series(write_series(tmp_path / "plain", "1.2.3")[0].parent), tmp_path).get_fdata()
    os.rename(tmp_path / "plain", os.fsencode(tmp_path) + b"/J\xfcrgen")
    series = only_series(tmp_path)
    assert series.name == "J_rgen/series3"
    np.testing.assert_array_equal(written(series, tmp_path).dataobj, expected)
