"""What the path of a scan says: image or label, its part of a split, and what it has in common with its partner."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from swinunetr.data.collect.layouts.contents import without_ending
from swinunetr.files import folded

LABEL = r"(?:labels?|segmentations?|segs?|masks?|ground[-_ ]?truths?|gts?|annotations?)"
IMAGE = r"(?:images?|imaging|imgs?|scans?|volumes?|vols?|cts?|mris?|mrs?)"
PART_WORDS = {
    **dict.fromkeys(("tr", "train", "training"), "training"),
    **dict.fromkeys(("va", "val", "valid", "validation"), "validation"),
    **dict.fromkeys(("ts", "te", "test", "testing"), "test"),
}
PART = f"(?P<part>{'|'.join(PART_WORDS)})"
LABEL_FOLDER = rf"(?:(?:gt|manual)[-_ ])?{LABEL}"
# Words such as ct are beside the point: labels can lie in labels/ct.
FOLDER = re.compile(rf"(?:(?P<label>{LABEL_FOLDER})|(?P<image>images?|imgs?)|{IMAGE}|data|raw)?[-_ ]?{PART}?", re.I)
LABEL_FILE = re.compile(rf"{LABEL}|(?P<head>.+)[-_. ]{LABEL}|{LABEL}(?:[-_. ]|(?=\d))(?P<tail>.+)", re.IGNORECASE)
IMAGE_FILE = re.compile(rf"{IMAGE}|(?P<head>.+)[-_. ]{IMAGE}|{IMAGE}(?:[-_. ]|(?=\d))(?P<tail>.+)", re.IGNORECASE)
CHANNEL = re.compile(r"_0000$")  # of nnU-Net: the first one


class ScanName(NamedTuple):
    """The path of a scan, taken apart."""

    file: str
    is_label: bool
    base: str  # folders above those with a word for images, labels or a part; without one, above the last folder
    folders: tuple[str, ...]  # without the words for images and labels; a word for a part as that part
    part: str
    stem: str  # file name without its ending

    @property
    def core(self) -> str:
        """The stem without a word for labels: ``x`` of ``x_seg``, empty for ``label``."""
        return _without(LABEL_FILE, self.stem)

    @property
    def file_stem(self) -> str:
        """The path without its ending."""
        return without_ending(self.file)

    @property
    def keys(self) -> tuple[str, ...]:
        """What an image and its label have in common, from the strictest to the loosest."""
        channel = CHANNEL.sub("", self.core)
        return self.core, folded(self.core), folded(channel), folded(_without_image_words(channel))

    @property
    def case(self) -> str:
        """Name of an image's case: its stem without ``_0000``, or its folder where the stem is a word for images."""
        stem = CHANNEL.sub("", self.stem)
        return stem if not self.folders or _without_image_words(stem) else self.folders[-1]

    @property
    def path(self) -> str:
        """Folders and stem of an image's case, with ``/``."""
        return "/".join((*self.folders, CHANNEL.sub("", self.stem)))


def read_name(file: str) -> ScanName:
    """Return what the path of a scan, relative and with ``/``, says."""
    folder, _, name = file.rpartition("/")
    of_labels, base, folders, part = _read_folder(folder)
    stem = without_ending(name)
    return ScanName(file, of_labels or bool(LABEL_FILE.fullmatch(stem)), base, folders, part, stem)


@lru_cache(maxsize=10_000)
def _read_folder(folder: str) -> tuple[bool, str, tuple[str, ...], str]:
    """Return whether a folder is of labels, its base, its names without words of images and labels, and its part."""
    of_labels, part, first = False, "", None
    kept: list[str] = []
    names = folder.split("/") if folder else []
    for depth, name in enumerate(names):
        match = FOLDER.fullmatch(name)
        if match is None:
            kept.append(name)
            continue
        first = depth if first is None else first
        of_labels = bool(match["label"]) or (of_labels and not match["image"])  # the last word counts
        if word := match["part"]:
            part = PART_WORDS[word.lower()]
            kept.append(part)
    return of_labels, "/".join(names[: len(names) - 1 if first is None else first]), tuple(kept), part


def is_label_folder(name: str) -> bool:
    """Return whether the name of a folder says labels."""
    match = FOLDER.fullmatch(name)
    return bool(match and match["label"])


def _without_image_words(stem: str) -> str:
    """Return a stem without any words for images at its ends: ``001`` of ``ct_001_image``."""
    while (shorter := _without(IMAGE_FILE, stem)) != stem:
        stem = shorter
    return stem


def _without(pattern: re.Pattern, stem: str) -> str:
    """Return a stem without a word before or after it; empty if it is the word."""
    match = pattern.fullmatch(stem)
    return (match["head"] or match["tail"] or "") if match else stem
