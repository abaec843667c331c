"""The files of the cases of a data set, each with what its checks found, and the hash of what a case holds."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from swinunetr.data.checks.headers import Header, check_header
from swinunetr.data.checks.voxels import Voxels, check_ids, check_intensities
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import SECTIONS, Dataset
from swinunetr.errors import Fault


@dataclass(frozen=True)
class CheckedFile:
    """One file of one case, with the results of its checks."""

    split: str  # "training", "validation" or "test"
    case: str
    kind: str  # "image" or "label"
    path: str
    real_path: str  # with links resolved, on the machine of rank 0
    label_map: LabelMap | None = None  # of a label; None if its values are the classes
    header: Header = Header()
    voxels: Voxels = Voxels()
    faults: tuple[Fault, ...] = ()  # of header and voxels, and from the comparison with other files

    @property
    def valid(self) -> bool:
        """Whether no error was found so far."""
        return not any(fault.stops for fault in self.faults)

    @property
    def key(self) -> tuple:
        """What the check of its voxels depends on: a label file may be read with several maps."""
        return self.kind, self.real_path, self.label_map

    @property
    def was_read(self) -> bool:
        """Whether its voxels could be read."""
        return bool(self.voxels.digest)

    def with_faults(self, *faults: Fault) -> CheckedFile:
        """Return the file with more problems."""
        return replace(self, faults=(*self.faults, *faults))

    @property
    def content(self) -> tuple:
        """Voxels and geometry as plain values, whatever the file's name, folder, time and compression."""
        affine = (np.round(self.header.affine, 4) + 0.0).tolist()  # + 0.0 makes -0.0 equal to 0.0
        shape = [int(n) for n in self.header.shape[:3]]
        mapped = (self.label_map.content,) if self.label_map else ()
        return self.voxels.digest.hex(), self.voxels.scaling, shape, affine, *mapped


def list_files(dataset: Dataset) -> list[CheckedFile]:
    """Return the files of all cases, not checked yet; the label of an image comes next to it."""
    return [
        CheckedFile(split, case["name"], kind, case[kind], os.path.realpath(case[kind]), label_map)
        for split in SECTIONS
        for case in getattr(dataset, split)
        for kind, label_map in (("image", None), ("label", case.get("label_map")))
        if kind in case
    ]


def check_voxels(file: CheckedFile, dataset: Dataset, padding: Collection[float] = ()) -> Voxels:
    """Read all voxels of a file; ``padding`` and errors are those of :func:`voxels.check_intensities`."""
    if file.kind == "image":
        return check_intensities(file.path, dataset.modality, padding)
    return check_ids(file.path, file.label_map, len(dataset.classes), needed=file.split == "training")


def fingerprints(files: Iterable[CheckedFile]) -> dict[str, str]:
    """Return a hash of image and label by case; files whose voxels were not read are left out."""
    contents: defaultdict[str, dict[str, tuple]] = defaultdict(dict)
    for file in files:
        if file.was_read:
            contents[file.case][file.kind] = file.content
    return {case: blake2b(json.dumps(kinds).encode(), digest_size=8).hexdigest() for case, kinds in contents.items()}


def read_fingerprint(case: dict) -> str:
    """Return the hash of the present content of one case of a data set; a missing file raises an OSError."""
    dataset = Dataset(("background",), "", [], [], [case])
    files = list_files(dataset)
    files = [replace(file, header=check_header(file.path), voxels=check_voxels(file, dataset)) for file in files]
    return fingerprints(files)[case["name"]]
