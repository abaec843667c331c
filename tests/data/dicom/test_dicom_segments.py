"""Segmentation objects as other programs write them: which can be used, names of segments, and places of frames."""

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from segmentation_objects import CLASSES, COLUMNS, KINDS, ORIGIN, ROWS, SLICES, affine, some_labels, write_series

from swinunetr.data.dicom import Grid, place, read_masks, read_segmentation
from swinunetr.errors import InputError
from swinunetr.scans.dicom_seg import write_segmentation

SHAPE = (COLUMNS, ROWS, SLICES)
GRID = Grid(np.array(affine()), SHAPE, "1.2.3.5")


@pytest.fixture
def segmentation_file(tmp_path):
    return write_object(tmp_path)


def write_object(folder, labels=None, kind="BINARY", classes=CLASSES, change=None):
    """Write a segmentation object, changed by a function of its data set, and return its file."""
    series = write_series(folder / "scan")
    file = folder / "seg.dcm"
    write_segmentation(some_labels() if labels is None else labels, series, classes, file, ORIGIN, kind)
    if change:
        header = dcmread(file)
        change(header)
        header.save_as(file)
    return file


def code(meaning):
    item = Dataset()
    item.CodeMeaning = meaning
    return item


def masks_of(file, grid=GRID):
    segmentation = read_segmentation(file)
    read = read_masks(segmentation, place(segmentation, grid), grid.shape)
    return {name: read(name) for name in segmentation.segments}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SegmentationType": "FRACTIONAL"}, "a segmentation of fractions (FRACTIONAL), such as probabilities; export"),
        ({"SegmentationType": ""}, "a segmentation of the type ''; export"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "an RT structure set, which holds contours; convert it"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.5"}, "a segmentation by surfaces; convert it"),
        ({"NumberOfFrames": 3}, "it has 3 frames and positions of 8"),
        ({"SegmentSequence": None}, "it describes no segment; export it again"),
    ],
)
def test_an_object_that_cannot_be_used_says_why(tmp_path, change, reason):
    def apply(header):
        for name, value in change.items():
            setattr(header, name, value)

    assert read_segmentation(write_object(tmp_path, change=apply)).startswith(reason)


def test_a_damaged_file_says_so(tmp_path, segmentation_file):
    assert read_segmentation(tmp_path / "absent.dcm") == (
        "it cannot be read (No such file or directory); ask for access or copy it again"
    )
    segmentation = read_segmentation(segmentation_file)
    segmentation_file.write_bytes(segmentation_file.read_bytes()[:-50])
    read = read_masks(segmentation, place(segmentation, GRID), SHAPE)
    with pytest.raises(InputError, match=r"seg\.dcm' cannot be used: it is truncated or damaged; copy it again\."):
        [read(name) for name in segmentation.segments]


def test_names_are_labels_or_where_these_say_nothing_the_types_of_the_codes(tmp_path):
    def rename(header):
        labels = ["Segment_1", "Segment 2", "", "mask", "Tumor 1", "Tumor 1", "Segment_7"]
        meanings = ["Kidney", "Liver", "Spleen", "Tissue", "Mass", "Mass", "Tissue"]
        for item, label, meaning in zip(header.SegmentSequence, labels, meanings, strict=True):
            item.SegmentLabel = label
            item.SegmentedPropertyTypeCodeSequence = [code(meaning)]
        modifier = [code("Left")]
        header.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[
            0
        ].SegmentedPropertyTypeModifierCodeSequence = modifier

    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 4, 1:8] = range(1, 8)
    found = read_segmentation(write_object(tmp_path, labels, classes=CLASSES[:8], change=rename))
    assert found.segments == {
        **{"Left Kidney": [1], "Liver": [2], "Spleen": [3], "mask": [4], "Tumor 1": [5, 6], "Segment_7": [7]}
    }
    assert np.argwhere(masks_of(tmp_path / "seg.dcm")["Tumor 1"]).tolist() == [[3, 4, 5], [3, 4, 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_of_other_directions_is_the_same_grid(tmp_path, kind):
    file = write_object(tmp_path, kind=kind)
    flipped = GRID.affine @ [[-1, 0, 0, COLUMNS - 1], [0, 0, -1, ROWS - 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    found = masks_of(file, Grid(flipped, (COLUMNS, SLICES, ROWS), ""))
    expected = some_labels()[::-1, ::-1].transpose(0, 2, 1) == 6
    np.testing.assert_array_equal(found["liver"], expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.diag([1, 1, 1, 1.0]), ""),
        (np.array([[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0.05], [0, 0, 0, 1]]), ""),
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "not those of the images"),
        (np.diag([1.02, 1, 1, 1]), "not those of the images"),
        (np.diag([0.5, 0.5, 1, 1]), "not those of the images"),
        (np.diag([1, 1, 0.5, 1]), "further apart than those of the images"),
        (np.diag([1, 1, 2, 1.0]), "not those of the images"),
    ],
)
def test_voxels_that_are_not_those_of_the_images_are_refused(segmentation_file, change, reason):
    found = place(read_segmentation(segmentation_file), GRID._replace(affine=GRID.affine @ change))
    assert reason in found if reason else not isinstance(found, str)


def test_a_single_slice_and_missing_slices_are_placed(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3, 4] = 1
    np.testing.assert_array_equal(masks_of(write_object(tmp_path, labels))["spleen"], labels == 1)
    labels[2, 3, 6] = 1  # the header has the spacing
    np.testing.assert_array_equal(masks_of(write_object(tmp_path, labels))["spleen"], labels == 1)


def test_voxels_outside_the_images_are_an_error(segmentation_file):
    with pytest.raises(InputError, match="it has voxels outside the images; export it on their grid"):
        masks_of(segmentation_file, GRID._replace(shape=(COLUMNS, ROWS, 5)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_without_a_description_is_an_error(tmp_path, kind):
    def forget(header):
        header.SegmentSequence = [item for item in header.SegmentSequence if item.SegmentNumber != 6]

    with pytest.raises(InputError, match="it does not describe its segments 6; export it again"):
        masks_of(write_object(tmp_path, kind=kind, change=forget))


def test_transfer_syntaxes_of_others_are_read(tmp_path):
    file = write_object(tmp_path, kind="LABELMAP")
    header = dcmread(file)
    header.decompress()
    assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    header.save_as(file)
    np.testing.assert_array_equal(masks_of(file)["liver"], some_labels() == 6)
