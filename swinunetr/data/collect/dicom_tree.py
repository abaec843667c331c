"""A tree of DICOM as a collection: its series as NIfTI, with labels of segmentation objects or of NIfTI beside them.

A segmentation object belongs to the series whose images it names, and its voxels to the grid of that series. What does
not fit is left out with a reason; nothing is resampled.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

from swinunetr.data.collect.cases import FoundCase, FoundCollection
from swinunetr.data.collect.dicom_files import DicomCase, require_own, write_case
from swinunetr.data.collect.dicom_labels import labels_beside
from swinunetr.data.dicom import Grid, LeftOut, Segmentation, Series, find_series, place, read_segmentation
from swinunetr.data.dicom.headers import A_SEGMENTATION
from swinunetr.data.modality import dicom_modality
from swinunetr.errors import InputError, WriteError
from swinunetr.files import distinct_names, folded, safe_name, sha256
from swinunetr.threads import in_threads
from swinunetr.words import named

LAYOUT = "DICOM"
IDENTIFIERS = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
ABSENT = "its images are not here, or not those of a series that is used"
IDS_ONLY = "a label in NIfTI, whose ids have no names, beside segmentation objects, whose segments have; give it apart"


@dataclass(frozen=True)
class _Scan:
    """A series of the tree."""

    series: Series
    name: str  # of its case
    grid: Grid
    patient: str = field(repr=False)  # identifies a person: must not be written anywhere
    study: str = field(repr=False)


def collect_dicom(folder: Path, to: Path, modality: str = "CT") -> FoundCollection:
    """Write the series below a folder as NIfTI, with a file per segmented structure, and return them as cases.

    A case is ``to/NAME/ct.nii.gz`` with ``to/NAME/segmentations/STRUCTURE.nii.gz``, or with a label in NIfTI that lies
    beside its series. What an earlier run wrote of the same content is kept. The names of cases are of the folder and
    the number of their series, and no file tells who a patient is.

    Args:
        folder: Folder that is searched with its subfolders. Nothing in it is changed.
        to: Folder to write to, apart from ``folder``; the root of the collection.
        modality: Modality of the series.

    Raises:
        InputError: There is no such folder or no series of the modality in it, or ``to`` is not apart from it or holds
            files that were not written here.
        WriteError: A file could not be written.
    """
    folder, to = (Path(os.path.abspath(Path(path).expanduser())) for path in (folder, to))
    _check_apart(folder, to)
    modality = dicom_modality(modality)
    series, left_out = find_series(folder, modality)
    if not series:
        raise _no_series(folder, modality, left_out)
    scans = _scans(series)
    objects, reasons = _read_objects(left_out)
    pairs, apart = _pair(objects, scans)
    scans, structures, failed = _write(scans, pairs, to)
    labels, beside = labels_beside(folder, {_image(scan, to): scan.series for scan in scans})
    if pairs and labels:
        labels, beside = {}, beside | dict.fromkeys(labels.values(), IDS_ONLY)
    reasons |= apart | beside
    unpaired = [f"{other.name}: {other.reason}" for other in left_out if other.reason != A_SEGMENTATION] + failed
    unpaired += [f"{_below(file, folder)}: {reason}" for file, reason in reasons.items()]
    patients, notes = _patients(scans)
    cases = []
    for scan in scans:
        image = _image(scan, to)
        cases.append(FoundCase(scan.name, patients[scan.name], image, labels.get(image), structures[scan.name]))
    used = [segmentation for scan in scans for segmentation, _ in pairs.get(scan.name, ())]
    ground = f"DICOM series of {modality} ({len(series)}) and segmentation objects of them ({len(used)}) in '{folder}'"
    notes += [f"{scan.series.name}: {note}." for scan in scans for note in scan.series.notes]
    if automatic := sum(segmentation.automatic for segmentation in used):
        notes.append(f"{automatic} of {len(used)} segmentation objects say that a program made them: no ground truth.")
    cases.sort(key=lambda case: case.name)
    unpaired.sort()
    return FoundCollection(LAYOUT, ground, to, modality, tuple(cases), unpaired=tuple(unpaired), notes=tuple(notes))


def _check_apart(folder: Path, to: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"folder: no folder at '{folder}'.")
    real, target = Path(os.path.realpath(folder)), Path(os.path.realpath(to))
    if target.is_relative_to(real) or real.is_relative_to(target):
        raise InputError(f"to: expected a folder apart from '{folder}', in which nothing is changed; found '{to}'.")


def _no_series(folder: Path, modality: str, left_out: Sequence[LeftOut]) -> InputError:
    found = "; ".join(f"{unused.name}: {unused.reason}" for unused in left_out[:3]) or "no DICOM"
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return InputError(f"Expected DICOM series of {modality} that are volumes in '{folder}', found {found}{more}.")


def _scans(series: Sequence[Series]) -> list[_Scan]:
    names = distinct_names({each.name: safe_name(each.name.replace("/", "_")) for each in series})
    scans = []
    for each in series:
        with pydicom.config.disable_value_validation():
            header = pydicom.dcmread(
                each.files[0], stop_before_pixels=True, force=True, specific_tags=list(IDENTIFIERS)
            )
        patient, study, frame = (str(header.get(name) or "").strip() for name in IDENTIFIERS[:3])
        shape = int(header.Columns), int(header.Rows), len(each.frames or each.files)
        scans.append(_Scan(each, names[each.name], Grid(np.array(each.affine), shape, frame), patient, study))
    return scans


def _read_objects(left_out: Sequence[LeftOut]) -> tuple[list[Segmentation], dict[Path, str]]:
    """Return the segmentation objects among what is no series, without copies, and why others are not used."""
    files = [file for unused in left_out for file in unused.segmentations]
    objects: dict[str, Segmentation] = {}
    reasons = {}
    for file, found in zip(files, in_threads(read_segmentation, files), strict=True):
        if isinstance(found, str):
            reasons[file] = found
        else:
            objects.setdefault(sha256(file), found)
    return list(objects.values()), reasons


Pairs = dict[str, list[tuple[Segmentation, np.ndarray]]]  # objects by the name of a case, with their places


def _pair(objects: Sequence[Segmentation], scans: Sequence[_Scan]) -> tuple[Pairs, dict[Path, str]]:
    """Return the objects of each series on whose grid they lie, and why others are not used."""
    pairs: Pairs = defaultdict(list)
    reasons = {}
    for each in objects:
        of_images = [scan for scan in scans if scan.series.images & each.images]
        scan_of = of_images or [scan for scan in scans if not each.images and scan.series.uid in each.series]
        if not scan_of:
            reasons[each.file] = ABSENT
        elif len(scan_of) > 1 or not scan_of[0].series.distinct:
            several = named(scan.series.name for scan in scan_of)
            reasons[each.file] = f"its images have the UIDs of several series ({several}); give them apart"
        elif isinstance(places := place(each, scan_of[0].grid), str):
            reasons[each.file] = f"{places} ({scan_of[0].series.name})"
        else:
            pairs[scan_of[0].name].append((each, places))
    for name, members in pairs.items():
        count = Counter(segment for each, _ in members for segment in set(map(folded, each.segments)))
        for each, _ in members:
            if twice := [segment for segment in each.segments if count[folded(segment)] > 1]:
                reasons[each.file] = f"another object of {name} has the segments {named(twice)} too; keep one of them"
    return {
        name: kept
        for name, members in pairs.items()
        if (kept := [(each, places) for each, places in members if each.file not in reasons])
    }, reasons


def _write(
    scans: Sequence[_Scan], pairs: Pairs, to: Path
) -> tuple[list[_Scan], dict[str, Mapping[str, Path]], list[str]]:
    """Write the series; return those that could be written, their structures by name, and why others could not."""
    cases = [
        DicomCase(scan.series, scan.grid, tuple(pairs.get(scan.name, ())), to / scan.name, _image(scan, to).name)
        for scan in scans
    ]
    for case in cases:
        require_own(case.folder)
    written, structures, failed = [], {}, []
    # One after the other, since each is decoded on all cores.
    results = in_threads(_try_to_write, cases, f"Writing {len(cases)} DICOM series", threads=1)
    for scan, result in zip(scans, results, strict=True):
        if isinstance(result, str):
            failed.append(f"{scan.series.name}: {result}")
        else:
            written.append(scan)
            structures[scan.name] = result
    return written, structures, failed


def _try_to_write(case: DicomCase) -> Mapping[str, Path] | str:
    """Return the structures of a case, or why it could not be read."""
    try:
        return write_case(case)
    except WriteError:
        raise
    except InputError as error:
        return str(error)


def _image(scan: _Scan, to: Path) -> Path:
    return to / scan.name / f"{scan.series.modality.lower()}.nii.gz"


def _below(file: Path, folder: Path) -> str:
    """Return a path relative to a folder, as it may be shown."""
    return "/".join(map(safe_name, Path(os.path.relpath(file, folder)).parts))


def _patients(scans: Sequence[_Scan]) -> tuple[dict[str, str], list[str]]:
    """Return the patient of each scan, as the name of the patient's first scan, and a sentence on what decided it.

    That is the patient ID. Where all are equal, as some tools for anonymising leave them, it is the folder, if no study
    lies in several, or the study.
    """
    parents = [scan.series.name.split("/")[:-1] for scan in scans]
    depth = len(os.path.commonprefix(parents))
    folders = {scan.name: "".join(parent[depth : depth + 1]) for scan, parent in zip(scans, parents, strict=True)}
    studies = {scan.name: scan.study for scan in scans}
    kinds = {"ID": {scan.name: scan.patient or folders[scan.name] or scan.study for scan in scans}}
    if len(set(zip(studies.values(), folders.values(), strict=True))) == len(set(studies.values())):
        kinds["folder"] = folders
    kinds["study"] = studies
    kind = next((kind for kind, keys in kinds.items() if len(set(keys.values())) > 1), "ID")
    first: dict[str, str] = {}
    for scan in sorted(scans, key=lambda scan: scan.name):
        first.setdefault(kinds[kind][scan.name], scan.name)
    sentence = f"The patient IDs do not differ: each {kind} is taken as a patient."
    return {name: first[key] for name, key in kinds[kind].items()}, [] if kind == "ID" else [sentence]
