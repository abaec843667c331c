"""DICOM segmentation objects: the right voxels at the right place, valid, and with codes of the standard."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import PROJECT
from highdicom.color import CIELabColor
from highdicom.seg import segread
from pydicom import dcmread
from pydicom.sr.codedict import codes
from segmentation_objects import (
    AXIAL,
    CLASSES,
    COLUMNS,
    KINDS,
    OBLIQUE,
    ORIGIN,
    ROWS,
    SLICES,
    SPACING,
    affine,
    errors,
    expected_points,
    points,
    positions,
    some_labels,
    source_groups,
    write_enhanced,
    write_series,
)

from swinunetr.data.organs import ORGAN_COLOURS, ORGANS
from swinunetr.errors import InputError
from swinunetr.scans.dicom_seg import organ_code, write_segmentation


@pytest.fixture
def labels():
    return some_labels()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_each_voxel_is_where_simpleitk_has_it(labels, tmp_path, kind, orientation):
    series = write_series(tmp_path / "scan", orientation)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    scan = reader.Execute()
    assert scan.GetSize() == labels.shape
    assert [scan[0, 0, k] for k in range(SLICES)] == list(range(SLICES))  # the order of series.files
    found = points(tmp_path / "seg.dcm")
    np.testing.assert_allclose(found, expected_points(labels, scan.TransformIndexToPhysicalPoint), atol=2e-3)
    measures = dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)  # not the 99 that the scanner wrote


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_refers_to_the_image_at_its_place(labels, tmp_path, kind):
    series = write_series(tmp_path / "scan", OBLIQUE)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    place = {str(dcmread(file).SOPInstanceUID): list(dcmread(file).ImagePositionPatient) for file in series.files}
    segmentation = dcmread(tmp_path / "seg.dcm")
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(group.PlanePositionSequence[0].ImagePositionPatient) == place[reference]
    listed = segmentation.ReferencedSeriesSequence[0]
    assert listed.SeriesInstanceUID == "1.2.3.4"
    assert {item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence} == set(place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_frame", [False, True])
def test_frames_of_a_multi_frame_object_are_found_by_their_numbers(labels, tmp_path, kind, per_frame):
    frames = (9, 0, 2, 11, 4, 1, 6, 5)
    series = write_enhanced(tmp_path / "scan", frames, per_frame)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    row, column = np.reshape(OBLIQUE, (2, 3))

    def point(index):
        return positions(OBLIQUE)[index[2]] + index[0] * SPACING[1] * row + index[1] * SPACING[0] * column

    np.testing.assert_allclose(points(tmp_path / "seg.dcm"), expected_points(labels, point), atol=2e-3)
    place = [group.PlanePositionSequence[0].ImagePositionPatient for group in source_groups(series)]
    segmentation = dcmread(tmp_path / "seg.dcm")
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        number = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert number - 1 in frames and group.PlanePositionSequence[0].ImagePositionPatient == place[number - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_labels_back(labels, tmp_path, kind):
    series = write_series(tmp_path / "scan")
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    uids = [dcmread(file).SOPInstanceUID for file in series.files]
    segmentation = segread(tmp_path / "seg.dcm")
    read = segmentation.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(read.transpose(2, 1, 0), labels)


def test_organs_without_voxels_are_described_but_take_no_frames(labels, tmp_path):
    series = write_series(tmp_path / "scan")
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, "BINARY")
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == list(ORGANS)
    slices = sum(int((labels == label).any((0, 1)).sum()) for label in range(1, len(CLASSES)))
    assert segmentation.NumberOfFrames == slices
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, "LABELMAP")
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["Background", *ORGANS]
    assert segmentation.NumberOfFrames == SLICES and segmentation.DimensionOrganizationType == "3D"


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize(("kind", "frames"), [("LABELMAP", SLICES), ("BINARY", len(ORGANS))])
def test_a_scan_without_organs_gives_an_object_without_voxels(tmp_path, kind, frames, multi_frame):
    folder = tmp_path / "scan"
    series = write_enhanced(folder, tuple(range(SLICES)), False) if multi_frame else write_series(folder)
    write_segmentation(np.zeros((COLUMNS, ROWS, SLICES), np.uint8), series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert segmentation.NumberOfFrames == frames and not segmentation.pixel_array.any()
    assert len(segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(series.files)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("multi_frame", [False, True])
def test_dciodvfy_finds_no_error(labels, tmp_path, kind, found, multi_frame):
    folder = tmp_path / "scan"
    series = write_enhanced(folder, tuple(range(SLICES)), True) if multi_frame else write_series(folder)
    classes = [*CLASSES, "a lesion"]
    write_segmentation(labels * np.uint8(found), series, classes, tmp_path / "seg.dcm", ORIGIN, kind)
    assert errors(tmp_path / "seg.dcm") == []
    copy = dcmread(tmp_path / "seg.dcm")  # older versions check the contents only of the class that they know
    copy.SOPClassUID = copy.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    copy.save_as(tmp_path / "copy.dcm")
    assert errors(tmp_path / "copy.dcm") == []
    del copy.SegmentSequence[-1].SegmentLabel
    copy.save_as(tmp_path / "copy.dcm")
    assert len(errors(tmp_path / "copy.dcm")) == 1  # it does look inside


def test_the_13_organs_of_btcv_have_codes_of_the_standard():
    labels = json.loads((PROJECT / "json_files/btcv_6.json").read_text())["labels"]
    assert list(labels.values())[1:] == list(ORGANS)
    for organ in ORGANS.values():
        assert organ_code(organ.code) in codes.cid7151.concepts.values()
        assert not organ.side or organ_code(organ.side) in (codes.cid244.Left, codes.cid244.Right)
        assert all(organ_code(region) in codes.cid4.concepts.values() for region in organ.regions)
    assert len({(organ.code, organ.side) for organ in ORGANS.values()}) == len(ORGANS)
    assert len(set(ORGAN_COLOURS)) == len(ORGANS)


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")  # pydicom counts the bytes of 64 characters
def test_segments_say_what_they_are_and_what_made_them(labels, tmp_path):
    classes = [*CLASSES[:4], "Left_Adrenal Gland", "portal and splenic veins", "Läsion\\neu " + 60 * "x"]
    write_segmentation(labels % 6, write_series(tmp_path / "scan"), classes, tmp_path / "seg.dcm", ORIGIN, "BINARY")
    spleen, right, left, adrenal, veins, own = dcmread(tmp_path / "seg.dcm").SegmentSequence

    def code(item):
        return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning

    def type_and_side(segment):
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        return code(kind), [item.CodeMeaning for item in kind.get("SegmentedPropertyTypeModifierCodeSequence", [])]

    assert type_and_side(spleen) == (("78961009", "SCT", "Spleen"), [])
    assert type_and_side(right) == (("64033007", "SCT", "Kidney"), ["Right"])
    assert type_and_side(left) == (("64033007", "SCT", "Kidney"), ["Left"])
    assert type_and_side(adrenal) == (("23451007", "SCT", "Adrenal gland"), ["Left"])
    assert adrenal.SegmentLabel == "Left_Adrenal Gland"
    assert type_and_side(veins) == (("29092000", "SCT", "Vein"), [])
    assert [item.CodeMeaning for item in veins.AnatomicRegionSequence] == ["Portal vein", "Splenic vein"]
    (value, scheme, meaning), side = type_and_side(own)
    assert scheme.startswith("99") and len(value) <= 16 and meaning == own.SegmentLabel and side == []
    assert re.fullmatch("Läsion/neu x+", meaning) and len(meaning) == 64

    for segment, colour in zip((spleen, right, left), ORGAN_COLOURS, strict=False):
        shown = CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(shown, [int(colour[i : i + 2], 16) for i in (1, 3, 5)], atol=2)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmVersion == "best_model.pth 0123456789ab" and algorithm.AlgorithmName == "SwinUNETR"


def test_patient_and_study_are_those_of_the_scan_and_the_series_is_new(labels, tmp_path):
    series = write_series(tmp_path / "scan", PatientWeight=70, StudyDescription="CT abdomen")
    for name in ("1.dcm", "2.dcm"):
        write_segmentation(labels, series, CLASSES, tmp_path / name, ORIGIN)
    first, second, source = (dcmread(file) for file in (tmp_path / "1.dcm", tmp_path / "2.dcm", series.files[0]))
    for name in (
        "PatientName",
        "PatientID",
        "PatientWeight",
        "StudyInstanceUID",
        "StudyDescription",
        "AccessionNumber",
    ):
        assert first[name].value == source[name].value
    assert first.FrameOfReferenceUID == source.FrameOfReferenceUID and first.Modality == "SEG"
    assert len({item.SeriesInstanceUID for item in (first, second, source)}) == 3
    assert first.SOPInstanceUID != second.SOPInstanceUID and first.SeriesNumber == 1007


@pytest.mark.parametrize("classes", [("background", "liver"), ("background", "肝臓")])
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
        (None, "Buc^Jerome"),
    ],
)
def test_names_in_other_scripts_are_kept(labels, tmp_path, classes, encoding, name):
    series = write_series(tmp_path / "scan", PatientName=name, SpecificCharacterSet=encoding)
    write_segmentation(labels // 13, series, classes, tmp_path / "seg.dcm", ORIGIN)
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert str(segmentation.PatientName) == name and segmentation.SegmentSequence[1].SegmentLabel == classes[1]


@pytest.mark.parametrize(("number", "new"), [(2**31 - 1, 147484647), (-2000, 3000), (None, 1000)])
def test_the_series_number_is_one_that_dicom_allows(labels, tmp_path, number, new):
    write_segmentation(labels, write_series(tmp_path / "a", SeriesNumber=number), CLASSES, tmp_path / "s.dcm", ORIGIN)
    assert dcmread(tmp_path / "s.dcm").SeriesNumber == new


def test_what_cannot_be_written_is_refused_in_plain_words(labels, tmp_path):
    series, file = write_series(tmp_path / "scan"), tmp_path / "out/seg.dcm"
    with pytest.raises(InputError, match=r"\(16, 12, 8\).*found \(12, 16, 8\)"):
        write_segmentation(labels.swapaxes(0, 1), series, CLASSES, file, ORIGIN)
    with pytest.raises(InputError, match=r"found \(16, 12, 7\)"):
        write_segmentation(labels[..., 1:], series, CLASSES, file, ORIGIN)
    with pytest.raises(InputError, match="int64"):
        write_segmentation(labels.astype(np.int64), series, CLASSES, file, ORIGIN)
    with pytest.raises(InputError, match="found label 13, but only 13 classes"):
        write_segmentation(labels, series, CLASSES[:13], file, ORIGIN)
    with pytest.raises(InputError, match="LABELMAP, BINARY, found 'RTSTRUCT'"):
        write_segmentation(labels, series, CLASSES, file, ORIGIN, "RTSTRUCT")
    with pytest.raises(InputError, match="do not allow a segmentation object"):
        write_segmentation(labels, write_series(tmp_path / "x", ImagePositionPatient=None), CLASSES, file, ORIGIN)
    series.files[3].unlink()
    with pytest.raises(InputError, match="could not be read"):
        write_segmentation(labels, series, CLASSES, file, ORIGIN)
    assert not file.parent.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_does_not_read_back_is_not_written(labels, tmp_path, kind):
    matrix = np.array(affine())
    matrix[:, 0] *= 1.1  # not the pixel spacing of the images
    series = replace(write_series(tmp_path / "scan"), affine=tuple(map(tuple, matrix)))
    with pytest.raises(InputError, match="does not have the voxels and places of the segmentation"):
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", ORIGIN, kind)
    assert [file.name for file in tmp_path.iterdir()] == ["scan"]
