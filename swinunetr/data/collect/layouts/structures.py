"""Layouts with one label file per structure: TotalSegmentator, AbdomenAtlas, and others of this form."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator

from swinunetr.data.collect.layouts.contents import Contents, Entry, Match, two_files, without_ending
from swinunetr.data.collect.layouts.scan_names import is_label_folder, read_name
from swinunetr.errors import InputError
from swinunetr.files import folded

LAYOUTS = {  # pattern of a case's folder by layout
    "TotalSegmentator": re.compile(r"s\d{4}", re.IGNORECASE),
    "AbdomenAtlas": re.compile(r"BDMAP_\w+", re.IGNORECASE),
}
USUAL = "segmentations"  # folder of structures
OTHER = "one file per structure"
MODALITIES = {"ct": "CT", "mri": "MR", "mr": "MR"}  # by the file name of the image
META = "meta.csv"  # of TotalSegmentator
SPLITS = {"train": "training", "val": "validation", "test": "test"}
KITS = re.compile(r"case_\d{5}")  # KiTS21 has files of annotators in a folder of this form


def known_structures(contents: Contents) -> Iterator[Match]:
    """Find TotalSegmentator and AbdomenAtlas, each in one folder."""
    for layout, pattern in LAYOUTS.items():
        yield from _matches(contents, layout, pattern)


def any_structures(contents: Contents) -> Iterator[Match]:
    """Find folders of cases, each with one image beside a folder of structures."""
    yield from _matches(contents, OTHER, re.compile(rf"(?!{KITS.pattern}).*"))


def _matches(contents: Contents, layout: str, pattern: re.Pattern) -> Iterator[Match]:
    by_base = defaultdict(list)
    for folder, image, structures in _cases(contents, pattern):
        by_base[os.path.dirname(folder) if layout in LAYOUTS else ""].append((folder, image, structures))
    for base, cases in by_base.items():
        parts, notes = _own_split(contents, base, {os.path.basename(folder) for folder, _, _ in cases})
        entries = []
        for folder, image, structures in cases:
            name = os.path.basename(folder)
            modality = MODALITIES.get(without_ending(os.path.basename(image)).lower(), "")
            entries.append(Entry(name, image, None, structures, parts.get(name, ""), modality, folder))
        structure = next(iter(entries[0].structures.values()))
        ground = f"'{entries[0].image}' beside '{os.path.dirname(structure)}/'"
        yield Match(layout, ground, entries, folder_per_case=True, notes=notes)


def _cases(contents: Contents, pattern: re.Pattern) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield folder, image and structures of each case whose folder has a name of a pattern."""
    by_folder = defaultdict(list)
    for file in contents.scans:
        by_folder[os.path.dirname(file)].append(file)
    inner = defaultdict(list)  # folders of structures by the case's folder
    for folder in by_folder:
        case, name = os.path.split(folder)
        if case and is_label_folder(name) and pattern.fullmatch(os.path.basename(case)):
            inner[case].append(folder)
    for case, folders in inner.items():
        images = [file for file in by_folder.get(case, []) if not read_name(file).is_label]
        folders = [folder for folder in folders if folder.endswith(f"/{USUAL}")] or folders
        if len(images) == len(folders) == 1 and (structures := _by_name(by_folder[folders[0]], (images[0], case))):
            yield case, images[0], structures


def _by_name(files: list[str], others: tuple[str, ...]) -> dict[str, str]:
    """Return the file of each structure; a file with the name of its image or case, or no other, is none.

    Raises:
        InputError: Two files are of one structure.
    """
    taken = {folded(without_ending(os.path.basename(other))) for other in others} | {""}
    structures: dict[str, str] = {}
    first: dict[str, str] = {}
    for file in files:
        name = without_ending(os.path.basename(file))
        if folded(read_name(os.path.basename(file)).core) in taken:
            continue
        if (other := first.setdefault(folded(name), file)) != file:
            raise two_files(other, file)
        structures[name] = file
    return structures


def _own_split(contents: Contents, base: str, names: set[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the part of each case by meta.csv, if it is there, and sentences on what it does not fit.

    Raises:
        InputError: The file cannot be read, or gives another part.
    """
    file = f"{base}/{META}" if base else META
    if file not in contents.others:
        return {}, ()
    try:
        text = (contents.root / file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"'{file}' cannot be read ({error}). Download it again, or move it away.") from None
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    if not rows or not {"image_id", "split"} <= rows[0].keys():
        return {}, (f"'{file}' has no columns image_id and split, so no split was taken from it.",)
    given = {row["image_id"]: (row["split"] or "").strip().lower() for row in rows}
    if unknown := sorted(set(given.values()) - SPLITS.keys()):
        raise InputError(f"'{file}': expected train, val or test as split, found '{unknown[0]}'. Correct it there.")
    notes = []
    if missing := sorted(given.keys() - names):
        notes.append(f"'{file}' lists {len(given)} cases; {len(missing)} are not there, such as {missing[0]}.")
    if extra := sorted(names - given.keys()):
        notes.append(f"'{file}' does not list {len(extra)} of the cases, such as {extra[0]}: they have no part.")
    return {name: SPLITS[split] for name, split in given.items()}, tuple(notes)
