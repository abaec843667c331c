"""Headers of the images to which a segmentation object refers: what is completed, corrected or refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from highdicom.seg import segread
from pydicom import Dataset, config, dcmread
from segmentation_objects import (
    AXIAL,
    CLASSES,
    KINDS,
    ORIGIN,
    SLICES,
    affine,
    errors,
    expected_points,
    points,
    some_labels,
    source_groups,
    write_enhanced,
    write_series,
)

from swinunetr.errors import InputError
from swinunetr.scans.dicom_seg import write_segmentation


@pytest.fixture
def labels():
    return some_labels()


def test_attributes_that_may_be_empty_may_be_missing(labels, tmp_path):
    names = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime SeriesNumber"
    names += " ReferringPhysicianName SliceThickness PositionReferenceIndicator Manufacturer"
    series = write_series(tmp_path / "scan", **dict.fromkeys(names.split()))
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN)
    assert dcmread(tmp_path / "seg.dcm").PatientID == ""


def test_orientations_may_differ_by_rounding(labels, tmp_path):
    series = write_series(tmp_path / "scan")
    source = dcmread(series.files[3])
    source.ImageOrientationPatient = [1, 0, 0, 0, 1, "0.0000001"]
    source.save_as(series.files[3])
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN)
    assert len(points(tmp_path / "seg.dcm")) == np.count_nonzero(labels)


def test_images_without_uids_get_those_of_their_file_headers_and_a_study_of_their_own(labels, tmp_path):
    blank = dict.fromkeys(("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID"), "")
    series, found = write_series(tmp_path / "scan", **blank), []
    instances = {str(dcmread(file).file_meta.MediaStorageSOPInstanceUID) for file in series.files}
    for number in range(2):
        write_segmentation(labels, series, CLASSES, tmp_path / f"{number}.dcm", ORIGIN)
        found.append(dcmread(tmp_path / f"{number}.dcm"))
    (listed,) = found[0].ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence} == instances
    assert found[0].StudyInstanceUID == found[1].StudyInstanceUID and found[0].StudyInstanceUID.is_valid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multi_frame", [False, True])
def test_rounded_positions_give_the_regular_grid_of_the_nifti_file(labels, tmp_path, kind, multi_frame):
    folder, matrix = tmp_path / "scan", np.array(affine())
    series = write_enhanced(folder, tuple(range(SLICES)), False) if multi_frame else write_series(folder)
    sources = [dcmread(file) for file in series.files]
    planes = [group.PlanePositionSequence[0] for group in source_groups(series)] if multi_frame else sources
    for number, plane in enumerate(planes):
        plane.ImagePositionPatient = [-20, -30, round(50 + 1.25 * number, 1)]
    if multi_frame:
        groups = sources[0].PerFrameFunctionalGroupsSequence
        for group, plane in zip(groups, planes, strict=True):
            group.PlanePositionSequence = [plane]
        sources[0].SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    for file, source in zip(series.files, sources, strict=True):
        source.save_as(file)
    matrix[2, 2] = 1.25
    series = replace(series, affine=tuple(map(tuple, matrix)))
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    volume = segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, rtol=1e-6)
    assert volume.spacing[0] == pytest.approx(1.25) and np.count_nonzero(volume.array) == np.count_nonzero(labels)
    lps = np.diag([-1, -1, 1, 1]) @ matrix

    def point(index):
        return (lps @ [*index, 1])[:3]

    np.testing.assert_allclose(points(tmp_path / "seg.dcm"), expected_points(labels, point), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_the_standard_forbids_are_corrected_or_left_out(labels, tmp_path, kind):
    code = Dataset()
    with config.disable_value_validation():
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = 20 * "x", "99LOCAL", "CT"
        wrong = {"StudyDate": "2020-01-02", "StudyTime": "10:11:12", "PatientBirthDate": "unknown", "StudyID": 20 * "x"}
        wrong |= {"PatientSex": "female", "PatientAge": "60", "ProcedureCodeSequence": [code], "SeriesNumber": 7}
        series = write_series(tmp_path / "scan", **wrong)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    written = dcmread(tmp_path / "seg.dcm")
    assert (written.StudyDate, written.StudyTime, written.SeriesNumber) == ("20200102", "101112", 1007)
    assert not (written.PatientBirthDate or written.PatientSex or written.StudyID)
    assert "PatientAge" not in written and "ProcedureCodeSequence" not in written
    if shutil.which("dciodvfy"):
        assert errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("sex", ["U", ""])
def test_a_sex_that_the_standard_does_not_list_is_left_empty(labels, tmp_path, sex):
    write_segmentation(labels, write_series(tmp_path, PatientSex=sex), CLASSES, tmp_path / "seg.dcm", ORIGIN)
    assert not dcmread(tmp_path / "seg.dcm").PatientSex


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("thickness", ["", None, 0])
def test_a_missing_slice_thickness_is_the_distance(labels, tmp_path, kind, multi_frame, thickness):
    if multi_frame:
        series = write_enhanced(tmp_path / "scan", tuple(range(SLICES)), False)
        source = dcmread(series.files[0])
        source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = thickness
        source.save_as(series.files[0])
    else:
        series = write_series(tmp_path / "scan", SliceThickness=thickness)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    measures = dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SOPInstanceUID", lambda number: "1.2.3.9", "SOPInstanceUID for each of its 8 files, found 1"),
        ("SeriesInstanceUID", lambda number: f"1.2.{number}", "8 files have 8 SeriesInstanceUIDs, expected one"),
        ("FrameOfReferenceUID", lambda number: f"1.2.{number}", "8 files have 8 FrameOfReferenceUIDs, expected one"),
        ("StudyInstanceUID", lambda number: "1.02.anonymous", "has a StudyInstanceUID that is no valid UID"),
        ("PatientID", lambda number: 70 * "x", "the PatientID of its files is longer than DICOM allows"),
        ("PatientID", lambda number: ["A", "B"], "the PatientID of its files .* has several values"),
    ],
)
def test_identifiers_that_would_mislead_an_archive_are_named(labels, tmp_path, name, value, message):
    series = write_series(tmp_path / "scan")
    with config.disable_value_validation():
        for number, file in enumerate(series.files):
            source = dcmread(file)
            setattr(source, name, value(number))
            source.save_as(file)
    with pytest.raises(InputError, match=message):
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_whose_uids_another_one_has_too_gets_no_object(labels, tmp_path):
    series = replace(write_series(tmp_path / "scan"), distinct=False)
    with pytest.raises(InputError, match="another series has images of the same UIDs"):
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN)
