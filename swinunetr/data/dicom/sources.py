"""Headers of the images of a series, to which a segmentation object refers: checked, corrected and completed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VM, keyword_for_tag
from pydicom.uid import generate_uid
from pydicom.valuerep import validate_regex, validate_value

from swinunetr.data.dicom.series import Series
from swinunetr.errors import InputError

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (  # the standard allows these to be empty, and some files lack them
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
ONE_OF_A_SERIES = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
IDENTITY = ("PatientID", "PatientName")  # never taken away, since an archive files by them
TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UR")  # VRs to validate
GRID_TOLERANCE_MM = 1e-3  # positions that differ by more are replaced by those of the regular grid


def read_sources(series: Series) -> list[Dataset]:
    """Return the images of a series without pixels, completed so that highdicom accepts them.

    Raises:
        InputError: They lack what a segmentation refers to.
        OSError: A file cannot be read.
    """
    # Read and identified. Without force, pydicom refuses files that lack the preamble.
    sources: list[Dataset] = [dcmread(file, stop_before_pixels=True, force=True) for file in series.files]
    _complete_uids(sources)
    _check_uids(sources, series)

    # Corrected, since highdicom copies the first header, and the geometry of all.
    _correct(sources[0], series)
    for source in sources:
        if series.frames:
            _keep_frames(source, series.frames)
        elif "ImageOrientationPatient" in source:  # highdicom takes no difference, not even of rounding
            source.ImageOrientationPatient = sources[0].ImageOrientationPatient
        # highdicom copies this where it is given, but scanners write other things in it; else it measures the distance.
        source.pop("SpacingBetweenSlices", None)
    _complete_grid(sources, series)
    return sources


def _complete_uids(sources: list[Dataset]) -> None:
    """Give images without UIDs those of their file headers; others, such as the study's, follow from those."""
    for source in sources:
        for name in ("SOPClassUID", "SOPInstanceUID"):
            if not source.get(name) and (stored := source.file_meta.get(f"MediaStorage{name}")):
                setattr(source, name, stored)
    instances = sorted(str(source.get("SOPInstanceUID", "")) for source in sources)
    for name in ONE_OF_A_SERIES:
        made = generate_uid(entropy_srcs=[name, *instances])
        for source in sources:
            if not source.get(name):
                setattr(source, name, made)


def _check_uids(sources: list[Dataset], series: Series) -> None:
    """Raise an error if UIDs are missing or invalid, or do not tell which images are of one series."""
    remedy = "Export the series again, with new UIDs where it is anonymised, or use the NIfTI file."
    for file, source in zip(series.files, sources, strict=True):
        if empty := [name for name in UIDS if not source.get(name)]:
            raise InputError(f"'{file}' has no {', '.join(empty)}, which a DICOM segmentation refers to. {remedy}")
        if invalid := [name for name in UIDS if not _is_valid(source, name)]:
            raise InputError(f"'{file}' has a {invalid[0]} that is no valid UID. {remedy}")
    for name in ONE_OF_A_SERIES:
        if (count := len({source[name].value for source in sources})) > 1:
            raise InputError(f"{series.name}: its {len(sources)} files have {count} {name}s, expected one. {remedy}")
    if (count := len({source.SOPInstanceUID for source in sources})) < len(sources):
        raise InputError(
            f"{series.name}: expected a SOPInstanceUID for each of its {len(sources)} files, found {count}, so that a "
            f"segmentation would point at the wrong images. {remedy}"
        )
    if not series.distinct:
        raise InputError(
            f"{series.name}: another series has images of the same UIDs and other content, so that an archive could "
            f"show the segmentation on those. {remedy}"
        )


def _correct(source: Dataset, series: Series) -> None:
    """Correct values that the standard forbids, or leave them out: dates with dashes, ages without a unit.

    Raises:
        InputError: It is the name or the ID of the patient, which the message does not tell.
    """
    for tag in list(source.keys()):
        if _is_valid(source, tag):
            continue
        name = keyword_for_tag(tag)
        if name in IDENTITY:
            raise InputError(
                f"{series.name}: the {name} of its files is longer than DICOM allows, has several values or forbidden "
                "characters. Correct it, or use the NIfTI file."
            )
        raw = source.get_item(tag)
        value = raw.value.decode("ascii", "ignore") if isinstance(raw.value, bytes) else str(raw.value)
        del source[tag]
        plain = re.sub("[-.]" if raw.VR == "DA" else ":", "", value.strip())
        if raw.VR in ("DA", "TM") and validate_regex(raw.VR, plain)[0]:
            source.add_new(tag, raw.VR, plain)
    for name in MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, None)
    if source.PatientSex not in (None, "", "M", "F", "O"):
        source.PatientSex = None


def _is_valid(dataset: Dataset, tag: str | int) -> bool:
    """Return whether the value of an attribute, and of all in its items, is one that the standard allows."""
    try:
        element = dataset[tag]
        if element.VR == "SQ":
            return all(_is_valid(item, inner.tag) for item in element.value for inner in item)
        if element.VM > 1 and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) == "1":
            return False
        for value in (element.value if element.VM > 1 else [element.value]) if element.VR in TEXTS else []:
            validate_value(element.VR, "" if value is None else str(value), config.RAISE)
    except Exception:  # values that pydicom cannot convert raise many types of error
        return False
    return True


def _keep_frames(source: Dataset, frames: Sequence[int]) -> None:
    """Reduce a multi-frame object to some frames, in their order, with orientation and spacing in the shared groups."""
    groups = [source.PerFrameFunctionalGroupsSequence[frame] for frame in frames]
    shared = source.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared and name in groups[0]:
            setattr(shared, name, groups[0][name].value)
    for measures in shared.PixelMeasuresSequence:
        measures.pop("SpacingBetweenSlices", None)
    source.PerFrameFunctionalGroupsSequence = groups
    source.NumberOfFrames = len(groups)


def _complete_grid(sources: list[Dataset], series: Series) -> None:
    """Give the slices the equal distances of the series, where they are rounded, and a thickness where they lack it."""
    affine = np.diag([-1, -1, 1, 1]) @ series.affine  # LPS, as in DICOM
    count = len(series.frames or series.files)
    grid = (affine @ [[0] * count, [0] * count, range(count), [1] * count])[:3].T
    groups = sources[0].PerFrameFunctionalGroupsSequence if series.frames else []
    planes = [group.PlanePositionSequence[0] for group in groups] or sources
    positions = np.array([plane.ImagePositionPatient for plane in planes], float)
    if np.abs(positions - grid).max() > GRID_TOLERANCE_MM:
        for plane, position in zip(planes, grid, strict=True):
            plane.ImagePositionPatient = [f"{value:.6f}" for value in position]
    holders = sources[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence if series.frames else sources
    for holder in holders:
        if not (holder.get("SliceThickness") or 0) > 0:
            holder.SliceThickness = f"{np.linalg.norm(affine[:3, 2]):.6f}"
