"""What the checks of a data set found: its contents with warnings, or a table of its errors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from swinunetr.data.checks.files import CheckedFile, fingerprints, read_fingerprint
from swinunetr.data.geometry import voxel_volume_mm3
from swinunetr.data.label_maps import LabelMap, merged_ids, unlabelled_organs
from swinunetr.data.lists import Dataset
from swinunetr.data.modality import is_ct
from swinunetr.data.transforms import PERCENTILES
from swinunetr.errors import InputError
from swinunetr.files import stamp
from swinunetr.machine import available_memory
from swinunetr.tables import Shown, Table
from swinunetr.words import named

CACHED_BYTES = 3  # per voxel: float16 image and uint8 label
ERROR_ROWS = 9  # of the table of errors; with its heading and its last line, the message has at most 12 lines
WARNING_ROWS = 16  # longest list of warnings that is shown in full
MOST_CASES = 4  # in one warning


@dataclass(frozen=True, repr=False)
class DatasetReport(Shown):
    """Contents of a data set without errors; printed, it is a short table."""

    images: list[CheckedFile]
    modality: str
    organ_ml: dict[str, list[float]]  # volume of each organ in each labelled case that contains it
    cache_bytes: int  # training and validation cases on the training grid
    memory_bytes: int  # available now
    warnings: list[str]
    notes: list[str]  # what is as the JSON says, and worth a look
    fingerprint: dict[str, str]  # hash of voxels, geometry and map of labels (16 hex digits) by case
    stamps: dict[str, tuple]  # of each file, by path; see files.stamp

    def content_of(self, entry: dict) -> str:
        """Return the hash of the content of a case of the data set; files that were written since are read again.

        Raises:
            InputError: The content has changed since it was checked.
            OSError: A file is missing.
        """
        name, paths = entry["name"], [entry[kind] for kind in ("image", "label") if kind in entry]
        if name in self.fingerprint and all(self.stamps.get(path) == stamp(path) for path in paths):
            return self.fingerprint[name]
        content = read_fingerprint(entry)
        if content != self.fingerprint.get(name, content):
            raise InputError(
                f"Case '{name}' has changed since it was checked: {' or '.join(map(repr, paths))} has other voxels or "
                "another geometry. Run the cell that checks the files again, and the cells below it."
            )
        return content

    def tables(self) -> list[Table]:
        """Return a table of the scans and a table of the organ volumes, with warnings and notes below it."""
        scans = describe_images(self.images, self.modality)
        if self.cache_bytes:
            caching, available = self.cache_bytes / 1e9, self.memory_bytes / 1e9
            memory = f"{caching:.2f} GB of the {available:.2f} GB that are available"
            scans = replace(scans, rows=[*scans.rows, ("memory", memory)])
        organs = [
            (organ, *(f"{value(ml):.1f}" if ml else "-" for value in (np.median, min, max)), len(ml))
            for organ, ml in self.organ_ml.items()
        ]
        notes = [f"warning: {warning}" for warning in self.warnings[:WARNING_ROWS]]
        if len(self.warnings) > WARNING_ROWS:
            notes.append(f"... and {len(self.warnings) - WARNING_ROWS} more in .warnings")
        return [scans, Table(("organ", "median, ml", "min", "max", "cases"), organs, notes + self.notes)]


def make_report(files: Sequence[CheckedFile], dataset: Dataset, spacing_mm: Sequence[float]) -> DatasetReport:
    """Return the contents of a data set, from its files without errors; ``spacing_mm`` is of the training grid."""
    images = [file for file in files if file.kind == "image"]
    cache_bytes = CACHED_BYTES * sum(i.header.voxels_on_grid(spacing_mm) for i in images if i.split != "test")
    memory_bytes = available_memory()

    warnings = [f"{case} {file}: {what}; {remedy}" for case, file, what, remedy in _rows(files, stops=False)]
    maps = Counter(file.label_map for file in files if file.label_map and file.label_map.name)
    warnings += _class_warnings(files, dataset.classes) + _map_warnings(maps, dataset.classes)
    if cache_bytes > 0.8 * memory_bytes:  # the rest is needed for training itself
        warnings.append(
            "all cases may not fit into memory, where fine-tuning keeps them; use fewer cases or a larger spacing_mm"
        )
    notes = [note for label_map in maps for note in merged_ids(label_map, dataset.classes)]
    volumes, stamps = _organ_volumes(files, dataset.classes), {file.path: file.header.stamp for file in files}
    return DatasetReport(
        images, dataset.modality, volumes, cache_bytes, memory_bytes, warnings, notes, fingerprints(files), stamps
    )


def describe_images(images: Sequence[CheckedFile], modality: str) -> Table:
    """Return a table of images with valid headers: number, shapes, spacings, orientations and how they are scaled."""
    headers = [image.header for image in images]
    percentiles = "no CT, so each scan is scaled from its {}th to its {}th percentile".format(*PERCENTILES)
    rows = [
        ("cases", _counts(image.split for image in images)),
        ("shape", f"{_ranges([header.shape[:3] for header in headers])} voxels"),
        ("spacing", f"{_ranges([header.spacing for header in headers])} mm"),
        ("orientation", _counts(header.orientation for header in headers)),
        ("intensities", f"{modality}: {'Hounsfield units' if is_ct(modality) else percentiles}"),
    ]
    return Table(("data set", "found"), rows)


def error_table(files: Sequence[CheckedFile]) -> str:
    """Return a message with the first errors of files, one per line, and the number of the others by remedy."""
    rows = _rows(files, stops=True)
    table = [("case", "file", "problem", "what to do"), *rows[:ERROR_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table]
    if rest := Counter(remedy for *_, remedy in rows[ERROR_ROWS:]):
        lines.append(f"... and {len(rows) - ERROR_ROWS} more: " + "; ".join(f"{n} x {r}" for r, n in rest.items()))
    problems = f"{len(rows)} problem{'s' * (len(rows) > 1)} in the {len({file.path for file in files})} files"
    return "\n".join([f"{problems} under '{_common_folder(files)}':", *lines])


def _rows(files: Sequence[CheckedFile], stops: bool) -> list[tuple[str, str, str, str]]:
    """Return case, file relative to the common folder, problem and remedy of all errors or of all warnings."""
    root = _common_folder(files)
    return [
        (file.case, os.path.relpath(file.path, root), fault.what, fault.remedy)
        for file in files
        for fault in file.faults
        if fault.stops == stops
    ]


def _common_folder(files: Sequence[CheckedFile]) -> str:
    return os.path.commonpath([os.path.dirname(os.path.abspath(file.path)) for file in files])


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in Counter(names).items())


def _ranges(rows: Sequence[Sequence[float] | np.ndarray]) -> str:
    """Return the range of each column, such as ``512 x 512 x 85..198``."""
    columns = np.array(rows).T
    return " x ".join("..".join(f"{n:.4g}" for n in sorted({column.min(), column.max()})) for column in columns)


def _class_warnings(files: Sequence[CheckedFile], classes: tuple[str, ...]) -> list[str]:
    """Return warnings of classes that have no voxel that counts in a list of cases."""
    training, validation = (
        {file.case: file.voxels.class_voxels for file in files if file.kind == "label" and file.split == split}
        for split in ("training", "validation")
    )
    warnings = []
    if absent := _absent(training, classes):
        warnings.append(f"no training case has {', '.join(absent)}; the network cannot learn it")
    if absent := [organ for organ in _absent(validation, classes) if organ != classes[0]]:
        what = "its Dice is not known and does not count in the choice of the best step"
        warnings.append(f"no validation case has {', '.join(absent)}; {what}")
    if bare := [case for case, voxels in validation.items() if voxels and 0 not in voxels]:
        cases, what = named(bare, MOST_CASES), "what the network finds outside the organs costs no Dice there"
        warnings.append(f"no voxel of {classes[0]} counts in the validation cases {cases}; {what}")
    return warnings


def _absent(class_voxels: Mapping[str, dict[float, int]], classes: tuple[str, ...]) -> list[str]:
    """Return the classes that none of the labelled cases has, from their voxels by class; none without such cases."""
    present = {number for voxels in class_voxels.values() for number in voxels}
    return [name for number, name in enumerate(classes) if number not in present] if class_voxels else []


def _map_warnings(maps: dict[LabelMap, int], classes: tuple[str, ...]) -> list[str]:
    """Return a warning of each map that lets organs count as background; ``maps`` are numbers of cases."""
    remedy = f'if these are in the scans, map the ids of {classes[0]} to "ignore"'
    return [
        f"label_map '{label_map.name}' has no id for {', '.join(absent)}: background in its {cases} cases; {remedy}"
        for label_map, cases in maps.items()
        if (absent := unlabelled_organs(label_map, classes))
    ]


def _organ_volumes(files: Sequence[CheckedFile], classes: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the volumes in ml of each organ; a label that several cases share counts once."""
    labels = {file.key: file for file in files if file.kind == "label"}.values()
    sizes = [(label.voxels.class_voxels, voxel_volume_mm3(label.header.affine)) for label in labels]
    return {
        organ: [float(voxels[number] * mm3 / 1000) for voxels, mm3 in sizes if number in voxels]
        for number, organ in enumerate(classes)
        if number
    }
