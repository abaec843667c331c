"""What tests of DICOM segmentation objects share: series of images, labels, and where an object has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from swinunetr.data.dicom import Series
from swinunetr.data.organs import ORGANS
from swinunetr.scans.dicom_seg import Origin

CLASSES = ("background", *ORGANS)
KINDS = ("LABELMAP", "BINARY")
ORIGIN = Origin("best_model.pth", "0123456789abcdef" * 4)
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


def some_labels() -> np.ndarray:
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


def source_groups(series: Series):
    return dcmread(series.files[0]).PerFrameFunctionalGroupsSequence
