"""Segmentation of DICOM series, and the objects and pictures beside it."""

import gzip
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import write_case
from scan_files import CLASSES, as_nifti, write_body, write_scans, write_weights

from swinunetr.errors import InputError
from swinunetr.results import inference
from swinunetr.results.evaluation import read_labels
from swinunetr.scans import writers
from swinunetr.scans.dicom_seg import kind_of
from swinunetr.scans.segmentation import SomeLeftOut, segment


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "best_model.pth")


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path / "scans")


def test_a_series_gets_the_voxels_of_the_same_series_as_nifti(weights, tmp_path):
    files = write_body(tmp_path / "scans/ct")
    as_nifti(files, tmp_path / "nifti/ct.nii.gz")
    (found,) = segment(weights, tmp_path / "scans", tmp_path / "out")
    (expected,) = segment(weights, tmp_path / "nifti", tmp_path / "expected")
    assert found == tmp_path / "out/ct/series3.nii.gz"
    np.testing.assert_array_equal(read_labels(found), read_labels(expected))
    np.testing.assert_allclose(nib.load(found).affine, nib.load(expected).affine, atol=1e-4)
    assert len(np.unique(read_labels(found))) > 1
    kept = found.stat().st_mtime_ns
    for file in files:
        file.rename(file.with_name(f"again_{file.name}"))
    assert segment(weights, tmp_path / "scans", tmp_path / "out") == [found] and found.stat().st_mtime_ns == kept


def test_series_that_cannot_be_used_are_named_and_the_others_segmented(weights, tmp_path):
    write_body(tmp_path / "scans/good")
    write_body(tmp_path / "scans/mixed", "1.2.3.5", number=1)
    write_body(tmp_path / "scans/mixed", "1.2.3.6", number=2, names=[f"x{n}" for n in range(12)])
    write_body(tmp_path / "scans/gap", "1.2.3.7")[4].unlink()
    write_body(tmp_path / "scans/bright", "1.2.3.8", RescaleIntercept=0)  # no HU
    write_case(tmp_path / "scans", 1)
    with pytest.raises(SomeLeftOut, match="2 of 6 scans were left out") as error:
        segment(weights, tmp_path / "scans", tmp_path / "scans/out")
    lines = str(error.value).splitlines()
    assert any(line.startswith("gap/series3: ") and "missing" in line for line in lines)
    assert any(line.startswith("bright/series3: ") and "HU" in line for line in lines)
    names = {str(file.relative_to(tmp_path / "scans/out")) for file in tmp_path.glob("scans/out/**/*.nii.gz")}
    assert names == {"good/series3.nii.gz", "mixed/series1.nii.gz", "mixed/series2.nii.gz", "imagesTr/img0001.nii.gz"}
    with pytest.raises(SomeLeftOut, match="2 of 6"):  # what it wrote in a subfolder of the scans is no scan
        segment(weights, tmp_path / "scans", tmp_path / "scans/out")
    with pytest.raises(InputError, match="none can be segmented") as error:
        segment(weights, tmp_path / "scans/gap", tmp_path / "none")
    assert not isinstance(error.value, SomeLeftOut)


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
def test_a_segmentation_object_holds_the_labels_of_the_nifti_file(weights, tmp_path, kind):
    write_body(tmp_path / "scans")
    (file,) = segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg=kind)
    labels = read_labels(file)
    content = pydicom.dcmread(tmp_path / "out/series3.dcm")
    assert content.Modality == "SEG" and [s.SegmentLabel for s in content.SegmentSequence][-2:] == list(CLASSES[1:])
    volume = np.zeros(labels.shape, np.uint8)
    frames = content.pixel_array.reshape(-1, *labels.shape[1::-1])
    for frame, group in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        z = round((group.PlanePositionSequence[0].ImagePositionPatient[2] - 30) / 3)
        label = 1 if kind == "LABELMAP" else group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volume[:, :, z] += (label * frame.T).astype(np.uint8)
    np.testing.assert_array_equal(volume, labels)
    with pytest.raises(InputError, match="dicom_seg: expected DICOM series"):
        write_case(tmp_path / "nifti", 1)
        segment(weights, tmp_path / "nifti", tmp_path / "out2", dicom_seg=kind)


def test_objects_and_pictures_follow_the_options_and_the_scan(weights, tmp_path):
    write_body(tmp_path / "scans")
    results = [tmp_path / f"out/series3{ending}" for ending in (".nii.gz", ".dcm", ".png", "_uncertainty.nii.gz")]
    for kind in ("LABELMAP", "BINARY"):
        segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg=kind, pictures=True, uncertainty=True)
        assert kind_of(results[1]) == kind and all(file.is_file() for file in results)
    times = [file.stat().st_mtime_ns for file in results]
    segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg="BINARY")
    assert [file.stat().st_mtime_ns for file in results] == times
    write_body(tmp_path / "scans", RescaleIntercept=-1020)  # another scan of the same name
    segment(weights, tmp_path / "scans", tmp_path / "out")
    assert [file.is_file() for file in results] == [True, False, False, False]


def test_notes_on_a_series_are_in_the_table(weights, tmp_path, capsys):
    for number, file in enumerate(write_body(tmp_path / "scans")):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = f"1.2.{number}"
        dataset.save_as(file)
    segment(weights, tmp_path / "scans", tmp_path / "out")
    assert "12 slices of CT; each slice has a series instance UID of its own; joined" in capsys.readouterr().out


def test_a_series_that_allows_no_segmentation_object_has_a_nifti_file(weights, tmp_path, recwarn):
    write_body(tmp_path / "scans/good")
    write_body(tmp_path / "scans/invalid", "1.2.3.5", FrameOfReferenceUID="1.2.a")
    with pytest.raises(SomeLeftOut) as error:
        segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg="LABELMAP")
    headline, line = str(error.value).splitlines()
    assert headline == "1 of 2 scans have no DICOM segmentation object:" and line.startswith("invalid/series3")
    assert (tmp_path / "out/invalid/series3.nii.gz").is_file() and (tmp_path / "out/good/series3.dcm").is_file()
    assert "invalid/series3,left box" in (tmp_path / "out/volumes.csv").read_text()


def test_a_scan_without_another_file_is_named_by_what_it_lacks(weights, tmp_path, monkeypatch):
    write_body(tmp_path / "scans")
    monkeypatch.setattr(writers.Picture, "write", Mock(side_effect=InputError("no slice to show")))
    with pytest.raises(SomeLeftOut) as error:
        segment(weights, tmp_path / "scans", tmp_path / "out", pictures=True)
    assert str(error.value).splitlines() == ["1 of 1 scans have no picture:", "series3: no slice to show"]


def test_nothing_that_names_the_patient_is_written_without_a_segmentation_object(weights, tmp_path, capsys):
    write_body(tmp_path / "scans")
    segment(weights, tmp_path / "scans", tmp_path / "out", pictures=True)
    printed = capsys.readouterr()
    contents = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    contents += [gzip.decompress(file.read_bytes()) for file in tmp_path.glob("out/**/*.nii.gz")]
    assert not [content for content in contents if b"Secret" in content or b"SECRET" in content]
    assert "Secret" not in printed.out + printed.err
    assert (tmp_path / "out/series3.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_temporary_disk_stops_the_command_and_no_series_is_called_bad(weights, tmp_path, monkeypatch):
    write_body(tmp_path / "scans/a")
    monkeypatch.setattr(inference.nib, "save", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"\.nii' could not be written .*No space left.*Free disk space") as error:
        segment(weights, tmp_path / "scans", tmp_path / "out")
    assert not str(error.value).startswith("scans: none can be segmented")
