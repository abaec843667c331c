"""DICOM segmentation objects (SEG), which viewers and archives show on the images of a series."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence, SpecificCharacterSetValues
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription, segread
from highdicom.sr import CodedConcept
from highdicom.utils import get_plane_positions_of_image, get_plane_positions_of_series
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import Code, codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from swinunetr.data.dicom import Series, read_sources
from swinunetr.data.organs import ORGANS, Concept, organ_colours
from swinunetr.errors import InputError
from swinunetr.files import replacing

# What most viewers open. LABELMAP: the common toolkits read RLE, and OHIF writes its own label maps with it; a scan of
# 300 slices takes 2 MB instead of 79. BINARY: viewers read no RLE or JPEG of one bit per pixel, and several viewers and
# archives do not read deflated objects, so it is not compressed (26 MB).
TRANSFER_SYNTAX = {"LABELMAP": RLELossless, "BINARY": ExplicitVRLittleEndian}
KINDS = tuple(TRANSFER_SYNTAX)

PRIVATE_SCHEME = "99SWINUNETR"
PROJECT = "SwinUNETR fine-tuning"
LEAST_SERIES_NUMBER = 1000  # added to the number of the source, so that viewers list the segmentation after the images
READ_TOLERANCE = 0.1  # voxels; orientations have rounded digits


class Origin(NamedTuple):
    """The weights that made a segmentation, as DICOM names them."""

    file: str  # its name, without folders
    sha256: str  # of its content, in hexadecimal

    @property
    def version(self) -> str:
        """Name of the file and the first characters of its SHA-256."""
        return f"{_text(self.file, 48)} {self.sha256[:12]}"


def write_segmentation(
    labels: np.ndarray, series: Series, classes: Sequence[str], path: str | Path, origin: Origin, kind: str = "LABELMAP"
) -> None:
    """Write the segmentation of a series as one DICOM segmentation object.

    The object describes every class, also those without a voxel, so that segment numbers are label values. A LABELMAP
    has one frame per slice. A BINARY has one frame per organ and slice where the organ is; if no organ was found, one
    empty frame per organ, since the standard requires a frame.

    It copies from its source: all patient and study data (such as name, ID, birth date, sex, age, weight, accession
    number, physicians, study description and clinical trial), the frame of reference, the grid, the UIDs of the images,
    and maker, model, serial number, institution and station of the scanner. Images without UIDs, as some tools for
    anonymising leave them, get new ones for study, series and frame of reference, the same in every run. Values that
    the standard forbids are corrected (dates with dashes) or left out. Slices are at the equal distances of
    ``series.affine``, also where the images have rounded positions. What was written is read back and compared.

    Args:
        labels: Labels (columns, rows, slices), uint8, the axis order of the NIfTI file that SimpleITK writes of the
            series; slices in the order of ``series.files``, for a multi-frame object of ``series.frames``.
        classes: Names of the labels from 0, which is background. The organs of BTCV get codes of SNOMED CT; other names
            get codes of a private scheme.
        path: File to write; an existing file is replaced only if writing succeeds.
        kind: ``LABELMAP`` for newer viewers, ``BINARY`` for others.

    Raises:
        InputError: The labels do not have the shape of the series or have values without a class, the series lacks
            what a segmentation refers to, ``kind`` is unknown, the file could not be written, or it does not hold the
            labels at the places of the series.
    """
    if kind not in TRANSFER_SYNTAX:
        raise InputError(f"kind: expected one of {', '.join(TRANSFER_SYNTAX)}, found {kind!r}.")
    if series.frames and len(series.files) > 1:
        raise InputError(f"{series.name}: a segmentation object of several multi-frame files is not supported.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's name values of the header, which may identify the patient
        segmentation = _segmentation(labels, series, classes, origin, kind)
        with replacing(path) as temporary:
            segmentation.save_as(temporary)
            _compare(temporary, labels, series)


def kind_of(path: str | Path) -> str:
    """Return the kind of a DICOM segmentation object; empty if there is no such file or it is not one."""
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SegmentationType"])
        return str(header.get("SegmentationType", ""))
    except (OSError, InvalidDicomError):
        return ""


def _segmentation(
    labels: np.ndarray, series: Series, classes: Sequence[str], origin: Origin, kind: str
) -> Segmentation:
    try:
        sources = read_sources(series)
        expected = (sources[0].get("Columns"), sources[0].get("Rows"), len(series.frames or series.files))
        if labels.shape != expected or labels.dtype != np.uint8:
            raise InputError(
                f"{series.name}: expected labels of shape {expected} (columns, rows, slices), uint8, found "
                f"{labels.shape}, {labels.dtype}."
            )
        if labels.max() >= len(classes):
            raise InputError(f"{series.name}: found label {labels.max()}, but only {len(classes)} classes.")
        return _build(labels, series, classes, sources, origin, kind)
    except OSError as error:
        raise InputError(f"{series.name}: a file of the series could not be read ({error}). Copy it again.") from error
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # Without the error's text, which may have values of the header.
        raise InputError(
            f"{series.name}: the headers of its files do not allow a segmentation object ({type(error).__name__}). Use "
            "the NIfTI file instead."
        ) from error


def _compare(file: Path, labels: np.ndarray, series: Series) -> None:
    """Raise an error if an object, read as a volume, does not have the labels at the places of the series."""
    expected = (np.diag([-1, -1, 1, 1]) @ series.affine)[:, [2, 1, 0, 3]]  # from (slice, row, column) to LPS
    try:
        volume = segread(file).get_volume(combine_segments=True, skip_overlap_checks=True, dtype=np.uint8)
        to_series = np.linalg.inv(expected) @ volume.affine  # from voxels of the object to those of the series
        whole = np.round(to_series).astype(int)
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*np.subtract(volume.shape, 1), 1]
        same = np.abs(corners @ (to_series - whole).T).max() < READ_TOLERANCE
        slices = whole[0, 0] * np.arange(len(volume.array)) + whole[0, 3]
        read = np.zeros_like(labels)
        read[..., slices] = volume.array.transpose(2, 1, 0)
        same &= np.array_equal(whole[1:], np.eye(4, dtype=int)[1:]) and np.array_equal(read, labels)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError):
        same = False
    if not same:
        raise InputError(
            f"{series.name}: the segmentation object does not have the voxels and places of the segmentation when it "
            "is read. Use the NIfTI file instead."
        )


def _build(
    labels: np.ndarray, series: Series, classes: Sequence[str], sources: list[Dataset], origin: Origin, kind: str
) -> Segmentation:
    first = sources[0]
    planes, positions = labels.transpose(2, 1, 0), None  # (slices, rows, columns)
    if kind == "BINARY" and not labels.any():
        everywhere = get_plane_positions_of_image(first) if series.frames else get_plane_positions_of_series(sources)
        planes, positions = planes[:1], everywhere[:1]
    # The character set of the source, which its archive can read, if it does for all; else UTF-8.
    encoding = first.get("SpecificCharacterSet")
    readable = encoding is None or encoding in [term.value for term in SpecificCharacterSetValues]
    software = [origin.version, *(f"{package} {version(package)}" for package in ("monai", "torch"))]
    segmentation = Segmentation(
        source_images=sources,
        pixel_array=planes,
        plane_positions=positions,
        segmentation_type=kind,
        segment_descriptions=_describe(classes, origin),
        series_instance_uid=UID(),
        series_number=LEAST_SERIES_NUMBER + abs(first.get("SeriesNumber") or 0) % 10**9,  # DICOM ends at 2**31 - 1
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=PROJECT,
        manufacturer_model_name="SwinUNETR",
        software_versions=software,  # type: ignore[arg-type]  # highdicom takes any sequence
        device_serial_number=origin.sha256[:12],  # required; of a program, this is what tells one from another
        series_description="Segmentation by SwinUNETR",
        transfer_syntax_uid=TRANSFER_SYNTAX[kind],
        # A label map with all slices has the grid of its source in every program; a frame without organs takes 1 kB.
        omit_empty_frames=kind == "BINARY" and bool(labels.any()),
        specific_character_set=encoding if readable and "".join(classes).isascii() else "ISO_IR 192",
    )
    if series.frames:  # highdicom counted those that are kept; one item can belong to several frames
        groups = segmentation.PerFrameFunctionalGroupsSequence
        references = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
        for reference in {id(reference): reference for reference in references}.values():
            reference.ReferencedFrameNumber = series.frames[reference.ReferencedFrameNumber - 1] + 1
    return segmentation


def _describe(classes: Sequence[str], origin: Origin) -> list[SegmentDescription]:
    algorithm = AlgorithmIdentificationSequence(
        name="SwinUNETR", family=codes.cid7162.ArtificialIntelligence, version=origin.version, source=PROJECT
    )
    described = []
    for number, (name, colour) in enumerate(zip(classes[1:], organ_colours(len(classes) - 1), strict=True), start=1):
        organ = ORGANS.get(" ".join(name.lower().replace("_", " ").split()))
        category = codes.cid7150.AnatomicalStructure
        if not organ:  # it can be a lesion or a device; this category is true of every region
            category = codes.cid7150.SpatialAndRelationalConcept
        # Of the name, since a label number means other things in other lists.
        private = Code(hashlib.sha256(name.encode()).hexdigest()[:16], PRIVATE_SCHEME, _text(name))
        segment = SegmentDescription(
            segment_number=number,
            segment_label=_text(name),
            segmented_property_category=category,
            segmented_property_type=organ_code(organ.code) if organ else private,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=[organ_code(region) for region in organ.regions] if organ and organ.regions else None,
            display_color=CIELabColor.from_string(colour),
        )
        if organ and organ.side:
            modifier = CodedConcept.from_code(organ_code(organ.side))
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
        described.append(segment)
    return described


def organ_code(concept: Concept) -> Code:
    """Return a concept as pydicom's code."""
    return Code(concept.value, concept.scheme, concept.meaning)


def _text(name: str, length: int = 64) -> str:
    """Return a name as a DICOM text of at most ``length`` characters; a backslash would divide it into two."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable.replace("\\", "/")[:length].strip()
