"""Damaged DICOM files, full disks, and the hash of a series."""

import os
import shutil
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_enhanced, write_series
from dicom_volumes import damage, only_reason, only_series, written
from pydicom.data import get_testdata_file

from swinunetr.data.dicom import find_series, fingerprint, write_nifti
from swinunetr.errors import InputError, WriteError


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
