"""Collections that the names of their files tell, and what their ids mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from swinunetr.data.collect.layouts.scan_names import ScanName

BTCV_NUMBER = r"00(?:0[1-9]|10|2[1-9]|3\d|40|6[1-9]|7\d|80)"  # 1 to 10 and 21 to 40, and 61 to 80 for test


def _numbered(*names: str) -> dict[int, str]:
    return dict(enumerate(("background", *names)))


class Known(NamedTuple):
    """A collection that the names of its files tell."""

    layout: str
    image: re.Pattern  # of the stem
    names: Mapping[int, str]
    label: re.Pattern | None = None  # of the stem of a label; None: that of the image
    folder: re.Pattern | None = None  # of the folder of a case, if each has one
    alone: bool = False  # whether other pairs in the folder say that it is not this collection
    first_mr: int | None = None  # number from which cases are MR; None: all are CT
    validation: re.Pattern | None = None  # of the stem of an image that the published split validates on

    def names_pair(self, image: ScanName, label: ScanName) -> bool:
        """Return whether the names of an image and its label are of this collection."""
        of_folder = self.folder is None or (image.folders and self.folder.fullmatch(image.folders[-1]))
        stems = self.image.fullmatch(image.stem) and (self.label or self.image).fullmatch(label.stem)
        return bool(of_folder and stems)

    def part(self, image: ScanName) -> str:
        """Return the part of a case by the published split, else by its folder."""
        return "validation" if self.validation and self.validation.fullmatch(image.stem) else image.part

    def modality(self, stem: str) -> str:
        """Return CT or MR, by the number in the stem of an image where the collection has both."""
        match = self.image.fullmatch(stem)
        return "MR" if self.first_mr and match and int(match[1]) >= self.first_mr else "CT"


KNOWN = (
    Known(
        "BTCV",
        re.compile(f"img{BTCV_NUMBER}", re.IGNORECASE),
        _numbered(
            *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
            *("inferior vena cava", "portal and splenic veins", "pancreas"),
            *("right adrenal gland", "left adrenal gland"),
        ),
        label=re.compile(f"label{BTCV_NUMBER}", re.IGNORECASE),
        validation=re.compile(r"img00(3[5-9]|40)", re.IGNORECASE),
        alone=True,  # since its names are used for other data too
    ),
    Known(
        "AMOS22",
        re.compile(r"amos_(\d{4})(_0000)?", re.IGNORECASE),
        _numbered(
            *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
            *("inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder"),
            "prostate or uterus",
        ),
        first_mr=501,
    ),
    Known(
        "FLARE22",
        re.compile(r"FLARE(22_T[rs]|Ts)_\d{4}(_0000)?", re.IGNORECASE),
        _numbered(
            *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland"),
            *("left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney"),
        ),
    ),
    Known(
        "WORD",
        re.compile(r"word_\d{4}(_0000)?", re.IGNORECASE),
        _numbered(
            *("liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "esophagus", "pancreas"),
            *("duodenum", "colon", "intestine", "adrenal", "rectum", "bladder"),
            *("left head of femur", "right head of femur"),
        ),
    ),
    Known(
        "KiTS23",
        re.compile(r"imaging", re.IGNORECASE),
        _numbered("kidney", "tumour", "cyst"),
        label=re.compile("segmentation", re.IGNORECASE),
        folder=re.compile(r"case_\d{5}"),
    ),
)


def known_by(stems: list[str]) -> Known | None:
    """Return the collection that the file names of all images tell, if they are of that collection only."""
    distinctive = (known for known in KNOWN if known.label is None)
    return next((known for known in distinctive if all(map(known.image.fullmatch, stems))), None)
