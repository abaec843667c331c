"""DICOM folders with volumes, other objects and damaged files; voxels and geometry compared with SimpleITK's."""

import os
import shutil
from pathlib import Path

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

from swinunetr.dicom import find_series, fingerprint, write_nifti
from swinunetr.errors import InputError

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
        "tilt": "gantry tilt of 12.0 degrees; resample it",
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


# --------------------------------------------------------------------------------------------------- errors and hash


@pytest.mark.parametrize("rle", [False, True])
def test_truncated_pixels_name_series_and_file(tmp_path, rle):
    file = write_series(tmp_path / "scan", rle=rle)[4]
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"Series 'scan/series3'.*IM0004.*truncated or damaged"):
        write_nifti(only_series(tmp_path), tmp_path / "volume.nii")
    assert not (tmp_path / "volume.nii").exists()


@pytest.mark.filterwarnings("ignore:End of file")
@pytest.mark.parametrize("rle", [False, True])
def test_truncated_multiframe_names_series_and_file(tmp_path, rle):
    file = write_enhanced(tmp_path / "IM", rle=rle)
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"Series 'series4'.*IM.*truncated or damaged"):
        write_nifti(only_series(tmp_path), tmp_path / "volume.nii")


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


def test_an_unwritable_output_is_an_input_error(tmp_path):
    write_series(tmp_path)
    with pytest.raises(InputError, match="could not be written"):
        write_nifti(only_series(tmp_path), tmp_path / "none/volume.nii")


def test_a_series_in_a_folder_whose_name_is_not_utf8_is_read(tmp_path):
    expected = written(only_series(write_series(tmp_path / "plain", "1.2.3")[0].parent), tmp_path).get_fdata()
    os.rename(tmp_path / "plain", os.fsencode(tmp_path) + b"/J\xfcrgen")
    series = only_series(tmp_path)
    assert series.name == "J_rgen/series3"
    np.testing.assert_array_equal(written(series, tmp_path).dataobj, expected)
