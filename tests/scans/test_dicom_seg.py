"""DICOM segmentation objects: the right voxels at the right place, valid, and with codes of the standard."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import PROJECT
from highdicom.color import CIELabColor
from highdicom.seg import segread
from nibabel.affines import from_matvec
from pydicom import Dataset, FileMetaDataset, config, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from swinunetr.data.organs import ORGAN_COLOURS, ORGANS
from swinunetr.errors import InputError
from swinunetr.scans.dicom import Series
from swinunetr.scans.dicom_seg import Model, organ_code, write_segmentation

CLASSES = ("background", *ORGANS)
KINDS = ("LABELMAP", "BINARY")
MODEL = Model("best_model.pth", "0123456789abcdef" * 4)
COLUMNS, ROWS, SLICES = 16, 12, 8
SPACING = (0.7, 0.9)  # between rows, between columns
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.8, 0.6, 0, -0.48, 0.64, 0.6)  # not along any axis of the patient
KNOWN_ONLY_TO_NEWER = (  # what versions of dciodvfy from before label maps report of every label map
    "SegmentNumber not monotonically increasing",
    "Information Object Not found",
    "Unrecognized enumerated value <LABELMAP>",
    "Value is zero for value 1 of attribute <Segment Number>",
    "Element=<SegmentIdentificationSequence>",
)


@pytest.fixture
def labels():
    """Return labels that no flip and no exchange of axes leaves as they are; most organs have no voxel."""
    array = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    array[1:9, 2:4, 1:3], array[1:3, 2:9, 3], array[10, 5:7, 2:6] = 6, 1, 13
    array[14, 10, 6] = 10
    return array


def positions(orientation=AXIAL) -> list[np.ndarray]:
    """Return the position of each slice, in the order of SimpleITK: along the normal."""
    row, column = np.reshape(orientation, (2, 3))
    return [np.array([-20.0, -30.0, 50.0]) + 2.5 * number * np.cross(row, column) for number in range(SLICES)]


def affine(orientation=AXIAL) -> tuple[tuple[float, ...], ...]:
    """Return the matrix of a series, from voxels (column, row, slice) to mm in RAS."""
    row, column = np.reshape(orientation, (2, 3))
    first, second = positions(orientation)[:2]
    lps = from_matvec(np.stack([row * SPACING[1], column * SPACING[0], second - first], axis=1), first)
    return tuple(map(tuple, np.diag([-1, -1, 1, 1]) @ lps))


def image(sop_class: str) -> Dataset:
    """Return what all images of the tests have in common."""
    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = sop_class
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    source.PatientName, source.PatientID, source.PatientSex, source.PatientBirthDate = "Doe^Jane", "P1", "F", "19500102"
    source.StudyInstanceUID, source.SeriesInstanceUID, source.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    source.StudyID, source.StudyDate, source.StudyTime, source.AccessionNumber = "S1", "20200102", "101112", "A1"
    source.ReferringPhysicianName, source.PositionReferenceIndicator = "", ""
    source.SpecificCharacterSet = "ISO_IR 100"
    source.Modality, source.Manufacturer, source.SeriesNumber, source.InstanceNumber = "CT", "Maker", 7, 1
    source.Rows, source.Columns, source.SamplesPerPixel, source.PhotometricInterpretation = (
        ROWS,
        COLUMNS,
        1,
        "MONOCHROME2",
    )
    source.BitsAllocated = source.BitsStored = 16
    source.HighBit, source.PixelRepresentation, source.ImageType = 15, 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    return source


def write_series(folder: Path, orientation=AXIAL, **changes) -> Series:
    """Write one file per slice, with names in another order than the slices; None takes an attribute away."""
    folder.mkdir(exist_ok=True)
    files = []
    for number, position in enumerate(positions(orientation)):
        source = image(CTImageStorage)
        source.ImagePositionPatient, source.ImageOrientationPatient = [f"{x:.6f}" for x in position], list(orientation)
        source.PixelSpacing, source.SliceThickness, source.SpacingBetweenSlices = list(SPACING), 5, 99
        source.PixelData = np.full((ROWS, COLUMNS), number, np.int16).tobytes()
        for name, value in changes.items():
            if value is None:
                delattr(source, name)
            else:
                setattr(source, name, value)
        files.append(folder / f"{(number * 5) % SLICES}.dcm")
        source.save_as(files[-1], enforce_file_format=True)
    return Series("series", tuple(files), (), "1.2.3.4", "CT", affine(orientation))


def write_enhanced(folder: Path, frames: tuple[int, ...], per_frame: bool) -> Series:
    """Write one multi-frame file in which slice k is frame ``frames[k]``; the frames between are of another volume."""
    source = image(EnhancedCTImageStorage)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(OBLIQUE)
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = list(SPACING), 5, 99
    groups = []
    for number in range(max(frames) + 1):
        place, group = Dataset(), Dataset()
        here = positions(OBLIQUE)[frames.index(number)] if number in frames else positions(OBLIQUE)[number % SLICES]
        place.ImagePositionPatient = [f"{x:.6f}" for x in here]
        group.PlanePositionSequence = [place]
        groups.append(group)
    for group in groups if per_frame else [shared]:
        group.PlaneOrientationSequence, group.PixelMeasuresSequence = [orientation], [measures]
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], groups
    source.NumberOfFrames = len(groups)
    source.PixelData = np.zeros((len(groups), ROWS, COLUMNS), np.int16).tobytes()
    folder.mkdir(exist_ok=True)
    source.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return Series("enhanced", (folder / "enhanced.dcm",), frames, "1.2.3.4", "CT", affine(OBLIQUE))


def points(file: Path) -> list[tuple]:
    """Return (label, x, y, z) of each voxel of a segmentation object, by pydicom and the positions of the frames."""
    segmentation = dcmread(file)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = segmentation.pixel_array.reshape(-1, ROWS, COLUMNS)
    found = []
    for frame, group in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for r, c in np.argwhere(frame):
            binary = segmentation.SegmentationType == "BINARY"
            label = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber if binary else frame[r, c]
            found.append((int(label), *np.round(corner + c * between_columns * row + r * between_rows * column, 3)))
    return sorted(found)


def expected_points(labels: np.ndarray, index_to_point) -> list[tuple]:
    """Return (label, x, y, z) of each labelled voxel."""
    at = np.argwhere(labels).tolist()
    return sorted((int(labels[tuple(index)]), *np.round(index_to_point(index), 3)) for index in at)


def errors(file: Path) -> list[str]:
    """Return the lines of dciodvfy that start with Error, without those that its age explains."""
    ran = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
    lines = [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("Error")]
    labelmap = dcmread(file).SegmentationType == "LABELMAP"
    return [line for line in lines if not (labelmap and any(known in line for known in KNOWN_ONLY_TO_NEWER))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_each_voxel_is_where_simpleitk_has_it(labels, tmp_path, kind, orientation):
    series = write_series(tmp_path / "scan", orientation)
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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


def source_groups(series: Series):
    return dcmread(series.files[0]).PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_labels_back(labels, tmp_path, kind):
    series = write_series(tmp_path / "scan")
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
    uids = [dcmread(file).SOPInstanceUID for file in series.files]
    segmentation = segread(tmp_path / "seg.dcm")
    read = segmentation.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(read.transpose(2, 1, 0), labels)


def test_organs_without_voxels_are_described_but_take_no_frames(labels, tmp_path):
    series = write_series(tmp_path / "scan")
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, "BINARY")
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == list(ORGANS)
    slices = sum(int((labels == label).any((0, 1)).sum()) for label in range(1, len(CLASSES)))
    assert segmentation.NumberOfFrames == slices
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, "LABELMAP")
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["Background", *ORGANS]
    assert segmentation.NumberOfFrames == SLICES and segmentation.DimensionOrganizationType == "3D"


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize(("kind", "frames"), [("LABELMAP", SLICES), ("BINARY", len(ORGANS))])
def test_a_scan_without_organs_gives_an_object_without_voxels(tmp_path, kind, frames, multi_frame):
    folder = tmp_path / "scan"
    series = write_enhanced(folder, tuple(range(SLICES)), False) if multi_frame else write_series(folder)
    write_segmentation(np.zeros((COLUMNS, ROWS, SLICES), np.uint8), series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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
    write_segmentation(labels * np.uint8(found), series, classes, tmp_path / "seg.dcm", MODEL, kind)
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


def test_segments_say_what_they_are_and_what_made_them(labels, tmp_path):
    classes = [*CLASSES[:4], "Left_Adrenal Gland", "portal and splenic veins", "Läsion\\neu " + 60 * "x"]
    write_segmentation(labels % 6, write_series(tmp_path / "scan"), classes, tmp_path / "seg.dcm", MODEL, "BINARY")
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
        write_segmentation(labels, series, CLASSES, tmp_path / name, MODEL)
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
    write_segmentation(labels // 13, series, classes, tmp_path / "seg.dcm", MODEL)
    segmentation = dcmread(tmp_path / "seg.dcm")
    assert str(segmentation.PatientName) == name and segmentation.SegmentSequence[1].SegmentLabel == classes[1]


def test_attributes_that_may_be_empty_may_be_missing(labels, tmp_path):
    names = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime SeriesNumber"
    names += " ReferringPhysicianName SliceThickness PositionReferenceIndicator Manufacturer"
    series = write_series(tmp_path / "scan", **dict.fromkeys(names.split()))
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL)
    assert dcmread(tmp_path / "seg.dcm").PatientID == ""


@pytest.mark.parametrize(("number", "new"), [(2**31 - 1, 147484647), (-2000, 3000), (None, 1000)])
def test_the_series_number_is_one_that_dicom_allows(labels, tmp_path, number, new):
    write_segmentation(labels, write_series(tmp_path / "a", SeriesNumber=number), CLASSES, tmp_path / "s.dcm", MODEL)
    assert dcmread(tmp_path / "s.dcm").SeriesNumber == new


def test_orientations_may_differ_by_rounding(labels, tmp_path):
    series = write_series(tmp_path / "scan")
    source = dcmread(series.files[3])
    source.ImageOrientationPatient = [1, 0, 0, 0, 1, "0.0000001"]
    source.save_as(series.files[3])
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL)
    assert len(points(tmp_path / "seg.dcm")) == np.count_nonzero(labels)


def test_what_cannot_be_written_is_refused_in_plain_words(labels, tmp_path):
    series, file = write_series(tmp_path / "scan"), tmp_path / "out/seg.dcm"
    with pytest.raises(InputError, match=r"\(16, 12, 8\).*found \(12, 16, 8\)"):
        write_segmentation(labels.swapaxes(0, 1), series, CLASSES, file, MODEL)
    with pytest.raises(InputError, match=r"found \(16, 12, 7\)"):
        write_segmentation(labels[..., 1:], series, CLASSES, file, MODEL)
    with pytest.raises(InputError, match="int64"):
        write_segmentation(labels.astype(np.int64), series, CLASSES, file, MODEL)
    with pytest.raises(InputError, match="found label 13, but only 13 classes"):
        write_segmentation(labels, series, CLASSES[:13], file, MODEL)
    with pytest.raises(InputError, match="LABELMAP, BINARY, found 'RTSTRUCT'"):
        write_segmentation(labels, series, CLASSES, file, MODEL, "RTSTRUCT")
    with pytest.raises(InputError, match="do not allow a segmentation object"):
        write_segmentation(labels, write_series(tmp_path / "x", ImagePositionPatient=None), CLASSES, file, MODEL)
    series.files[3].unlink()
    with pytest.raises(InputError, match="could not be read"):
        write_segmentation(labels, series, CLASSES, file, MODEL)
    assert not file.parent.exists()


def test_images_without_uids_get_those_of_their_file_headers_and_a_study_of_their_own(labels, tmp_path):
    blank = dict.fromkeys(("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID"), "")
    series, found = write_series(tmp_path / "scan", **blank), []
    instances = {str(dcmread(file).file_meta.MediaStorageSOPInstanceUID) for file in series.files}
    for number in range(2):
        write_segmentation(labels, series, CLASSES, tmp_path / f"{number}.dcm", MODEL)
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
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
    written = dcmread(tmp_path / "seg.dcm")
    assert (written.StudyDate, written.StudyTime, written.SeriesNumber) == ("20200102", "101112", 1007)
    assert not (written.PatientBirthDate or written.PatientSex or written.StudyID)
    assert "PatientAge" not in written and "ProcedureCodeSequence" not in written
    if shutil.which("dciodvfy"):
        assert errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("sex", ["U", ""])
def test_a_sex_that_the_standard_does_not_list_is_left_empty(labels, tmp_path, sex):
    write_segmentation(labels, write_series(tmp_path, PatientSex=sex), CLASSES, tmp_path / "seg.dcm", MODEL)
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
    write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
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
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_whose_uids_another_one_has_too_gets_no_object(labels, tmp_path):
    series = replace(write_series(tmp_path / "scan"), distinct=False)
    with pytest.raises(InputError, match="another series has images of the same UIDs"):
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_does_not_read_back_is_not_written(labels, tmp_path, kind):
    matrix = np.array(affine())
    matrix[:, 0] *= 1.1  # not the pixel spacing of the images
    series = replace(write_series(tmp_path / "scan"), affine=tuple(map(tuple, matrix)))
    with pytest.raises(InputError, match="does not have the voxels and places of the segmentation"):
        write_segmentation(labels, series, CLASSES, tmp_path / "seg.dcm", MODEL, kind)
    assert [file.name for file in tmp_path.iterdir()] == ["scan"]
