"""The scans that a file or folder holds: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from swinunetr.data.checks import check_headers, check_image, describe_images, fingerprints
from swinunetr.data.dicom import LeftOut, Series, find_series, fingerprint
from swinunetr.data.folders import case_name, is_nifti, list_volumes
from swinunetr.errors import Fault, InputError
from swinunetr.files import distinct_names, holds_results
from swinunetr.tables import Table


class Scan(NamedTuple):
    """A scan to segment."""

    name: str  # path-like, of its results, without an ending
    file: Path  # NIfTI file, or the first file of a DICOM series
    series: Series | None  # None for a NIfTI file

    @property
    def place(self) -> str:
        """Hash of the path of the scan's folder, which may name the patient; the scan itself may be a link."""
        return hashlib.sha256(os.fsencode(self.file.parent.resolve())).hexdigest()


def find_scans(root: Path, output: Path, modality: str) -> tuple[list[Scan], list[str]]:
    """Return the scans in a file or folder, without earlier results, and a line for each scan that is left out.

    Only headers are read; tables show what was found. The folder ``output`` of the results is not searched.

    Raises:
        InputError: There is no such file or folder, it holds no scans or results of this project, or ``output`` holds
            the scans.
    """
    # All that is there, with names of which no two meet on any disk.
    _check_root(root, output)
    if not root.is_file():
        entries, notes = list_volumes(root, without=output)
    else:
        entries, notes = [{"name": case_name(root), "image": str(root)}] if is_nifti(root) else [], []
    single = root.is_file() and is_nifti(root)
    series, left_out = ([], []) if single else find_series(root, modality, without=output)
    if not entries and not series and not left_out:
        expected = f"scans: expected NIfTI files (.nii, .nii.gz) or DICOM series in '{root}', found none."
        raise InputError("\n".join([expected, *notes]))
    entries, series = _with_distinct_names(entries, series)

    # What can be used, by the headers.
    images = check_headers(entries)
    valid = [image for image in images if image.valid]
    problems = [
        f"{image.case}: {fault.what}; {fault.remedy}" for image in images for fault in image.faults if fault.stops
    ]
    if valid:
        print(describe_images(valid, modality))
    if series or left_out:
        print(_describe_series(series, left_out))
    for line in (*notes, *(f"left out: {problem}" for problem in problems)):
        print(line)
    problems += [f"{unused.name}: {unused.reason}" for unused in left_out]
    scans = [Scan(image.case, Path(image.path), None) for image in valid]
    scans += [Scan(volume.name, volume.files[0], volume) for volume in series]
    return scans, problems


def read_content(scan: Scan, modality: str) -> tuple[str, list[Fault]]:
    """Return a hash of what a scan holds, wherever and however it is stored, and the problems of a NIfTI file.

    Raises:
        InputError: A DICOM file cannot be read.
    """
    if scan.series:
        return fingerprint(scan.series), []
    image = check_image(scan.file, modality)
    return "".join(fingerprints([image]).values()), list(image.faults)


def _check_root(root: Path, output: Path) -> None:
    if not root.exists():
        raise InputError(f"scans: no file or folder at '{root}'.")
    if output in (root, *root.parents):
        raise InputError(f"output: '{output}' holds the scans. Choose a separate folder, so that no scan is replaced.")
    if folder := next((folder for folder in (root, *root.parents) if holds_results(folder)), None):
        raise InputError(f"scans: '{folder}' holds results of this project, not scans. Give the folder of the scans.")


def _with_distinct_names(
    entries: Sequence[Mapping[str, str]], series: Sequence[Series]
) -> tuple[list[dict[str, str]], list[Series]]:
    """Return NIfTI files and series with names of which no two meet on any disk."""
    sources = {entry["image"]: entry["name"] for entry in entries}
    names = distinct_names(sources | {f"series {volume.name}": volume.name for volume in series})
    return (
        [{"name": names[entry["image"]], "image": entry["image"]} for entry in entries],
        [replace(volume, name=names[f"series {volume.name}"]) for volume in series],
    )


def _describe_series(series: Sequence[Series], left_out: Sequence[LeftOut]) -> Table:
    rows = [
        (volume.name, "; ".join((f"{len(volume.frames or volume.files)} slices of {volume.modality}", *volume.notes)))
        for volume in series
    ]
    rows += [(unused.name, f"left out: {unused.reason}") for unused in left_out]
    return Table(("DICOM series", "found"), rows)
