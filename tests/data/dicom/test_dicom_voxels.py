"""Voxels and geometry of DICOM series, compared with SimpleITK's."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, slice_positions, stored_voxels, write_enhanced, write_series
from dicom_volumes import AFFINE, COS, SHUFFLED, SIN, VOXELS, assert_as_simpleitk, only_series, written


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
