"""What is found in a folder of scans with labels: its cases, and what their labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PARTS = ("training", "validation", "test")  # of a collection's own split


@dataclass(frozen=True)
class FoundCase:
    """A scan, and its label if it has one: one file with an id per organ, or one file per structure."""

    name: str  # distinct within its collection, and such as a file may have
    patient: str  # cases of one patient stay in one part of a split; the name of the case where files show none
    image: Path
    label: Path | None = None
    structures: Mapping[str, Path] = field(default_factory=dict)  # file of each structure by the name of the structure
    part: str = ""  # one of PARTS by the collection's own split; empty: it has none


@dataclass(frozen=True)
class FoundCollection:
    """The cases of a folder, recognised as those of one layout."""

    layout: str  # such as "TotalSegmentator"
    ground: str  # by what it was recognised, a clause such as "s0011/ct.nii.gz beside s0011/segmentations/"
    root: Path
    modality: str  # as a JSON has it: CT, MR or another; empty: the folder does not say
    cases: tuple[FoundCase, ...]  # in order of their names
    names: Mapping[int, str] = field(default_factory=dict)  # of the ids in label files, 0 included; empty: unknown
    ignore: int | None = None  # id of voxels in label files that count in no loss
    unpaired: tuple[str, ...] = ()  # files below the root that belong to no case, each with the reason
    notes: tuple[str, ...] = ()  # sentences on what a reader should know, such as channels that were left out
