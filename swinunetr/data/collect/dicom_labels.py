"""Labels in NIfTI files beside DICOM series: in the folder of a series, or above it, and on its grid."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from swinunetr.data.checks.headers import Header, check_header, compare_grids, read_header
from swinunetr.data.collect.layouts.scan_names import read_name
from swinunetr.data.dicom import Series
from swinunetr.data.folders import is_nifti
from swinunetr.files import walk_files
from swinunetr.words import named

NOT_BESIDE = "neither in the folder of a series with a name such as label or seg, nor above it with the folder's name"


def labels_beside(folder: Path, images: Mapping[Path, Series]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Return the label of each image that has one, and why other NIfTI files are not used.

    A label lies in the folder of the series, or in the one above. Its name says that it is a label, or is that of the
    folder. It has the grid of the image, and no other series has it.

    Args:
        folder: Folder that is searched.
        images: Written images, with their series.
    """
    headers = {image: check_header(str(image)) for image in images}
    fitting: dict[Path, list[Path]] = defaultdict(list)  # files by image
    reasons = {}
    for file in filter(is_nifti, walk_files(folder).files):
        beside = [image for image, series in images.items() if _is_beside(file, series)]
        if not beside:
            reasons[file] = NOT_BESIDE
            continue
        label = read_header(file)
        faults = {image: _fault(label, headers[image]) for image in beside}
        fits = [image for image in beside if not faults[image]]
        if len(fits) == 1:
            fitting[fits[0]].append(file)
        else:
            several = f"on the grid of {len(fits)} series; keep it in the folder of one of them"
            reasons[file] = several if fits else faults[beside[0]]
    for files in fitting.values():
        if len(files) > 1:
            names = named(f"'{file.name}'" for file in files)
            reasons |= dict.fromkeys(files, f"a series has several labels ({names}); keep one of them")
    return {image: files[0] for image, files in fitting.items() if len(files) == 1}, reasons


def _is_beside(file: Path, series: Series) -> bool:
    """Return whether the place and the name of a file are those of a label of a series."""
    folder = Path(os.path.commonpath([each.parent for each in series.files]))
    name = read_name(file.name)
    if file.parent == folder:
        return name.is_label or name.stem == folder.name
    return file.parent == folder.parent and (name.core if name.is_label else name.stem or ".") in ("", folder.name)


def _fault(label: Header, image: Header) -> str:
    """Return what stops the use of a label for an image; else an empty text."""
    faults = [fault for fault in label.faults if fault.stops]
    if not faults and (other := compare_grids(label, image)) and other.stops:
        faults = [other]
    return f"{faults[0].what}; {faults[0].remedy}" if faults else ""
