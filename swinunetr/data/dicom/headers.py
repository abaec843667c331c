"""What the header of a DICOM file, an instance of a series, says: its place and values, or why it is no slice."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from swinunetr.data.dicom.geometry import Plane

UNIT_TOLERANCE = 1e-3  # of the length of the orientation vectors, and of their angle in rad

DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED, "1.2.840.10008.1.2.2")
SEGMENTATIONS = "Segmentation Storage", "RT Structure Set"  # in the names of SOP classes
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

# Defined terms of RescaleType: those of Hounsfield units, and those of something else. Others, such as US
# (unspecified), say nothing, and the voxels decide.
HOUNSFIELD = ("", "HU", "HU_MOD")
OTHER_UNITS = {"MGML": "mg/ml", "OD": "optical density", "Z_EFF": "effective atomic number", "PCT": "percent"}
OTHER_UNITS |= dict.fromkeys(("ED", "EDW"), "electron density")
# In ImageType: maps of a material or of blood flow, and images in Hounsfield units from which a material was removed.
MAP = re.compile(
    r"IODINE|Z[ _]?EFF|EFF_ATOMIC|ELECTRON[ _]?DENSITY|MAT_(SPECIFIC|FRACTIONAL|VALUE_BASED)"
    r"|(?<![A-Z])(MD|CBF|CBV|MTT|TTP|TMAX)(?![A-Z])"
)
REMOVED = re.compile(r"REMOVED|SUPPRESS|VNC|VUE|NON[ _-]?CONTRAST")

HEADER = (  # elements that are read of each file
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("SeriesNumber", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *GROUPS),
    *("PatientID", "PatientName", "PatientBirthDate", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
TRUNCATED = "has a header that cannot be read (truncated or damaged); copy it again"
CUT = "ends before its last pixel (truncated); copy it again"
A_SEGMENTATION = "a segmentation or structure set, not a scan"
LIST_ONLY = "a DICOMDIR, which only lists files; give the folder that holds them, or copy them beside it"


class Values(NamedTuple):
    """How the stored values of an instance become those of the modality."""

    image_type: str = ""  # ImageType with the types of the frames, in capitals
    rescale: tuple[tuple[float, float], ...] = ()  # slope and intercept of each frame
    calibrated: bool = True  # whether the header says that the result is in the units of the modality
    padding: tuple[int, int] | None = None  # first and last stored value of it; None if the header names none


@dataclass(frozen=True)
class Instance:
    """What is needed of one DICOM file: it has planes, or it is something ``other``, or it has a ``fault``."""

    file: Path
    series: tuple[str, ...] = ()  # what the instances of a series have in common: patient, study, and last the series
    identity: tuple[str, str] = ("", "")  # SOP instance UID and instance number
    series_uid: str = ""
    series_name: str = "series"  # from the series number, such as series3
    modality: str = ""  # as in the file, such as CT
    planes: tuple[Plane, ...] = ()  # of each frame
    values: Values = Values()
    multiframe: bool = False  # whether it is an enhanced multi-frame object
    other: str = ""  # what it is, if it is no slice of the modality
    fault: str = ""  # what is wrong with it

    @property
    def place(self) -> tuple:
        """Positions of all frames, rounded as much as copies may be; two slices are never so close."""
        return tuple(tuple(round(x, 1) for x in plane.position) for plane in self.planes)


def describe(unread: Instance, header: pydicom.Dataset, pixels: str, marked: bool, modality: str) -> Instance | None:
    """Return an instance as its header describes it; None if the file is not DICOM.

    Args:
        unread: The instance before its header was read.
        header: Elements of ``HEADER``, with the file meta information.
        pixels: "complete", "cut" or "none".
        marked: Whether the file has the mark of DICOM after its preamble.
        modality: DICOM's name of the modality of the slices.
    """
    # Whether it is an instance of a series at all.
    sop_class = text_of(header.file_meta, "MediaStorageSOPClassUID") or text_of(header, "SOPClassUID")
    series_uid = text_of(header, "SeriesInstanceUID")
    if sop_class == DICOMDIR:
        return replace(unread, series_name=unread.file.name, other=LIST_ONLY)
    if not (marked or sop_class or series_uid):
        return None
    kind = pydicom.uid.UID(sop_class).name  # "CT Image Storage"
    needs_pixels = kind.endswith("Image Storage") or "Rows" in header or not (sop_class or series_uid)
    truncated = pixels == "none" and needs_pixels
    instance = unread if truncated and not series_uid else _identified(unread, header)
    if truncated:
        return replace(instance, fault=TRUNCATED)

    # What it shows, and where.
    if other := _other(header, kind, pixels != "none", modality):
        return replace(instance, other=other)
    planes, values = planes_of(header), _values(header, modality)
    if isinstance(planes, str):
        return replace(instance, fault=planes)
    if isinstance(values, str):
        return replace(instance, fault=values)
    fault = CUT if pixels == "cut" else ""
    return replace(instance, planes=planes, values=values, multiframe=GROUPS[1] in header, fault=fault)


def transfer_syntax(header: pydicom.Dataset) -> str:
    """Return how the pixels are stored; without file meta information, how the header was read."""
    if noted := text_of(header.file_meta, "TransferSyntaxUID"):
        return noted
    implicit, little = header.original_encoding
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def functional_group(header: pydicom.Dataset, frame: int, name: str) -> pydicom.Dataset:
    """Return a functional group of a frame, which is stored per frame or for all; empty if it is missing."""
    for groups, number in ((header.get(GROUPS[1]), frame), (header.get(GROUPS[0]), 0)):
        if groups and groups[number].get(name):
            return groups[number][name][0]
    return pydicom.Dataset()


def transformations(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return what holds the rescale of each frame."""
    frames = range(len(header.get(GROUPS[1]) or ()) or 1)
    return [functional_group(header, frame, "PixelValueTransformationSequence") or header for frame in frames]


def planes_of(header: pydicom.Dataset) -> tuple[Plane, ...] | str:
    """Return the plane of each frame, or what is wrong with one."""
    frames = header.get(GROUPS[1])
    count = int(text_of(header, "NumberOfFrames") or 1)
    if count != (described := len(frames) if frames else 1):
        return f"has {count} frames and positions of {described}; export the series as single slices"
    groups = [header] * 3
    planes = []
    for frame in range(count):
        if frames:
            names = "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"
            groups = [functional_group(header, frame, name) for name in names]
        position = _numbers(groups[0], "ImagePositionPatient", 3)
        orientation = _numbers(groups[1], "ImageOrientationPatient", 6)
        spacing = _numbers(groups[2], "PixelSpacing", 2)
        if position is None or orientation is None:
            return "has no position or orientation in the patient; export the original series"
        if spacing is None or min(spacing) <= 0:
            return "has no valid pixel spacing; export the original series"
        row, column = np.reshape(orientation, (2, 3))
        lengths = np.linalg.norm([row, column], axis=1)
        if max(abs(lengths - 1)) > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
            return "has an orientation that is not two perpendicular unit vectors; export the original series"
        planes.append(Plane(position, orientation, spacing, (int(header.Rows), int(header.Columns))))
    return tuple(planes)


def text_of(dataset: pydicom.Dataset, name: str) -> str:
    """Return a value as text, empty if it is missing."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def _identified(unread: Instance, header: pydicom.Dataset) -> Instance:
    """Return an instance with what tells it and its series from others."""
    series_uid = text_of(header, "SeriesInstanceUID")
    series_name = "series" + re.sub(r"[^0-9-]", "", text_of(header, "SeriesNumber"))[:12]
    uid = text_of(header, "SOPInstanceUID") or text_of(header.file_meta, "MediaStorageSOPInstanceUID")
    patient = tuple(text_of(header, name) for name in ("PatientID", "PatientName", "PatientBirthDate"))
    series = (text_of(header, "StudyInstanceUID"), series_uid) if series_uid else ("", unread.series[1], series_name)
    return replace(
        unread,
        series=(*patient, *series),  # with the patient, since some tools for anonymising give the same UIDs to several
        identity=(uid or str(unread.file), text_of(header, "InstanceNumber")),
        series_uid=series_uid,
        series_name=series_name,
        modality=text_of(header, "Modality"),
    )


def _other(header: pydicom.Dataset, kind: str, pixels: bool, modality: str) -> str:
    """Return what an instance is if it is no slice of the modality, else an empty text."""
    noted = text_of(header, "Modality").upper()
    if any(part in kind for part in SEGMENTATIONS) or noted in ("SEG", "RTSTRUCT"):
        return A_SEGMENTATION
    if not pixels:
        return "a report or another object without pixels"
    grey = text_of(header, "SamplesPerPixel") in ("", "1")
    grey &= text_of(header, "PhotometricInterpretation") in ("", "MONOCHROME1", "MONOCHROME2")
    if "Secondary Capture" in kind or not grey:
        return "a screenshot, secondary capture or colour image, without reliable intensities; export the original"
    if noted != modality:
        return f"modality {noted if re.fullmatch('[A-Z0-9_ ]{1,16}', noted) else 'not given'}, expected {modality}"
    if any(part in text_of(header, "ImageType").upper() for part in ("LOCALIZER", "SCOUT", "TOPOGRAM")):
        return "a localiser"
    if modality != "CT":
        return ""

    # What a CT image shows if it is not Hounsfield units.
    for transformation in transformations(header):
        if unit := OTHER_UNITS.get(text_of(transformation, "RescaleType").upper()):
            return f"a map of {unit} (RescaleType), expected Hounsfield units; export the images of the series in HU"
    image_type = _image_type(header)
    if MAP.search(image_type) and not REMOVED.search(image_type):
        return "a map of a material or of blood flow (ImageType), expected Hounsfield units; export the images in HU"
    return ""


def _image_type(header: pydicom.Dataset) -> str:
    """Return the image type of an instance, with those of its frames."""
    frames = range(len(header.get(GROUPS[1]) or ()))
    groups = [functional_group(header, frame, "CTImageFrameTypeSequence") for frame in frames]
    texts = [text_of(header, "ImageType"), *(text_of(group, "FrameType") for group in groups)]
    return " ".join(dict.fromkeys(texts)).upper()


def _values(header: pydicom.Dataset, modality: str) -> Values | str:
    """Return how stored values become those of the modality, or what is wrong with it."""
    bits, highest = (text_of(header, name) for name in ("BitsStored", "HighBit"))
    if bits and highest and int(highest) != int(bits) - 1:  # GDCM reads the low bits in any case
        return f"has BitsStored {bits} with HighBit {highest}, expected {int(bits) - 1}; export the original series"
    rescale, calibrated = [], True
    for transformation in transformations(header):
        texts = text_of(transformation, "RescaleSlope"), text_of(transformation, "RescaleIntercept")
        calibrated &= all(texts) and text_of(transformation, "RescaleType").upper() in HOUNSFIELD
        try:
            slope, intercept = float(texts[0] or 1), float(texts[1] or 0)
        except ValueError:
            slope, intercept = 0.0, 0.0
        if not (slope and math.isfinite(slope) and math.isfinite(intercept)):
            return "has no valid rescale slope and intercept; export the original series"
        rescale.append((slope, intercept))
    return Values(_image_type(header), tuple(rescale), calibrated or modality != "CT", _padding(header))


def _padding(header: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the first and last stored value of padding. Some files write a signed one as unsigned, or the reverse."""
    bits = int(text_of(header, "BitsAllocated") or 16)
    lowest = -(2 ** (bits - 1)) if text_of(header, "PixelRepresentation") == "1" else 0
    try:
        first = int(text_of(header, "PixelPaddingValue"))
        last = int(text_of(header, "PixelPaddingRangeLimit") or first)
    except ValueError:
        return None
    first, last = sorted((value - lowest) % 2**bits + lowest for value in (first, last))
    return first, last


def _numbers(dataset: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return a value of ``count`` finite numbers; None if it is something else."""
    try:
        values = tuple(float(value) for value in dataset.get(name) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None
