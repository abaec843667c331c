"""Whether the values of a DICOM series are those of its modality, and which are padding."""

import numpy as np
import pydicom
import pytest
from dicom_files import item, save, slice_positions, stored_voxels, write_enhanced, write_series
from dicom_volumes import VOXELS, only_reason, only_series, written

from swinunetr.errors import InputError


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
