"""Labels that are partial or numbered otherwise: maps from the ids in label files to the classes of a JSON.

A voxel that counts in no loss and no score has the label ``IGNORED`` in memory, where labels are uint8. Only cases with
a :class:`LabelMap` have such voxels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from swinunetr.errors import InputError
from swinunetr.words import named, short

IGNORED = 255  # label of a voxel that does not count
LAST_ID = 65_535  # largest id in a label file with a map
IGNORE, OTHER = "ignore", "other"  # words of the JSON: in place of a class, and in place of an id
STORAGE_ERROR, MOST_STORAGE_ERROR = 1e-3, 0.05  # of a whole number; the larger one in integers with a slope

Volume = TypeVar("Volume", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class LabelMap:
    """The class of each id in a label file."""

    name: str  # in the JSON; empty for the cases without a map of a JSON with "ignore"
    classes: tuple[tuple[int, int], ...]  # pairs of id and class, or IGNORED, in order of the ids
    other: int | None = None  # class of all other ids, or IGNORED; None: a label file must not have them

    @property
    def targets(self) -> set[int]:
        """All classes that a label can get, with ``IGNORED`` if there are voxels that do not count."""
        labels = {label for _, label in self.classes}
        return labels if self.other is None else labels | {self.other}

    @property
    def content(self) -> list:
        """What a result depends on, as values that JSON can store."""
        return [self.classes, self.other]

    def unknown(self, ids: Iterable[float]) -> list[float]:
        """Return the ids that the map has no class for, in order."""
        known = dict(self.classes)
        return sorted(i for i in ids if not 0 <= i <= LAST_ID or (self.other is None and i not in known))


def whole_ids(values: np.ndarray, slope: float = 0.0) -> np.ndarray:
    """Return the values of a label file, whole where they differ from a whole number by no more than storage does.

    ``slope`` is the step between stored integers, which can be off by half of it; 0 for floating-point numbers.
    """
    tolerance = max(STORAGE_ERROR, min(abs(slope) / 2, MOST_STORAGE_ERROR))
    whole = np.rint(values) + 0.0  # which makes -0.0 equal to 0.0
    return np.where(np.abs(values - whole) <= tolerance, whole, values)


def to_classes(volume: np.ndarray, label_map: LabelMap | None) -> np.ndarray:
    """Return the classes of the values of a label file, uint8, with ``IGNORED`` where a voxel does not count.

    Fractions are rounded, because a header slope is float32: with a slope of 0.7, a stored 10 is read as 6.9999999.
    The check of a data set refuses label files with other fractions. Without a map the values are the classes.

    Raises:
        InputError: A value has no class in the map.
    """
    ids = volume if volume.dtype.kind in "iu" else np.rint(volume)
    if label_map is None:
        return ids.astype(np.uint8)
    # A table, since MONAI's MapLabelValue compares the volume with each id, and leaves ids that are not listed.
    table = np.full(LAST_ID + 1, -1 if label_map.other is None else label_map.other, np.int16)
    for i, label in label_map.classes:
        table[i] = label
    inside = ids.min() >= 0 and ids.max() <= LAST_ID  # False with NaN
    classes = table[ids.astype(np.uint16)] if inside else None
    if classes is None or classes.min() < 0:
        unknown = label_map.unknown(np.unique(ids).tolist())
        what = f"label_map '{label_map.name}'" if label_map.name else '"labels" and "ignore"'
        raise InputError(f'{what}: no class for the ids {named(unknown)} of a label file. Add them, or "{OTHER}".')
    return classes.astype(np.uint8)


def class_counts(counts: Mapping[float, int], label_map: LabelMap | None) -> dict[float, int]:
    """Return the number of voxels by class, without the ignored ones, from the numbers by id of a label file."""
    if label_map is None:
        return dict(counts)
    known: dict[float, int] = dict(label_map.classes)
    by_class: Counter[Any] = Counter()
    for i, number in counts.items():
        by_class[known.get(i, label_map.other)] += number
    return {label: number for label, number in by_class.items() if label != IGNORED}


def clear_ignored(label_map: LabelMap | None, *volumes: Volume) -> tuple[Volume, ...]:
    """Return ground truth and predictions of one shape with background in the voxels that the ground truth ignores.

    Without a map all voxels count, and the volumes are returned as they are.
    """
    if label_map is None:
        return volumes
    counted = volumes[0] != IGNORED
    return tuple(volume * counted for volume in volumes)


def read_label_maps(content: Mapping, classes: Sequence[str], form: str) -> dict[str, LabelMap]:
    """Return the maps of a Decathlon-style JSON by name; under "" that of cases without one, if there is ``ignore``.

    ``form`` is the start of an error message, which names the file.

    Raises:
        InputError: ``ignore`` or a map is malformed, or there are too many classes.
    """
    ignore, listed = content.get("ignore"), content.get("label_maps")
    if called := [name for name in classes if name.strip().lower() == IGNORE]:
        what = f'\'{called[0]}\' is not a class. Remove it, and give its id beside "labels", as "ignore": 255'
        raise InputError(f"{form}labels: {what}.")
    maps = {}
    if ignore is not None:
        if not isinstance(ignore, int) or isinstance(ignore, bool) or not 0 <= ignore <= LAST_ID:
            raise InputError(f"{form}ignore: expected a whole number from 0 to {LAST_ID}, found {short(ignore)}.")
        if ignore < len(classes):
            what = f"expected an id that is no class, found {ignore}, which is '{classes[ignore]}'"
            raise InputError(f"{form}ignore: {what}. To ignore a class of some label files, use label_maps.")
        maps[""] = LabelMap("", (*((i, i) for i in range(len(classes))), (ignore, IGNORED)))
    if listed is not None:
        example = 'as in {"msd_spleen": {"0": "ignore", "1": "spleen"}}'
        if not isinstance(listed, dict) or not listed or "" in listed:
            raise InputError(f"{form}label_maps: expected maps by name, {example}, found {short(listed)}.")
        maps |= {name: _read_map(name, ids, classes, f"{form}label_maps: '{name}': ") for name, ids in listed.items()}
    if maps and len(classes) > IGNORED:
        what = f"with ignore or label_maps at most {IGNORED} classes, since labels are stored as uint8"
        raise InputError(f"{form}labels: {what} and {IGNORED} marks ignored voxels; found {len(classes)}. Join some.")
    return maps


def _read_map(name: str, ids: object, classes: Sequence[str], form: str) -> LabelMap:
    """Return one map of the JSON; ``form`` is the start of an error message."""
    if not isinstance(ids, dict) or not ids:
        what = 'expected a class for each id of the label files, such as {"0": "background", "5": "liver"}'
        raise InputError(f"{form}{what}, found {short(ids)}.")
    labels = {**{name: label for label, name in enumerate(classes)}, IGNORE: IGNORED}
    classes_by_id: dict[str, int] = {}
    for i, target in ids.items():
        whole = i.isascii() and i.isdecimal() and str(int(i)) == i and int(i) <= LAST_ID
        if not (whole or i == OTHER):
            what = f'expected ids of the label files before the colon, whole numbers from 0 to {LAST_ID} or "{OTHER}"'
            raise InputError(f"{form}{what}, found {short(i)}.")
        if not isinstance(target, str) or target not in labels:
            what = f'expected for id {i} a class of "labels" ({named(classes)}) or "{IGNORE}"'
            raise InputError(f"{form}{what}, found {short(target)}.")
        classes_by_id[i] = labels[target]
    other = classes_by_id.pop(OTHER, None)
    return LabelMap(name, tuple(sorted((int(i), label) for i, label in classes_by_id.items())), other)


def merged_ids(label_map: LabelMap, classes: Sequence[str]) -> list[str]:
    """Return a sentence for each organ that several ids of a map count as, which is right for parts of an organ."""
    pairs = [*((str(i), label) for i, label in label_map.classes), (OTHER, label_map.other)]
    by_class = {organ: [i for i, label in pairs if label == number] for number, organ in enumerate(classes) if number}
    start = f"label_map '{label_map.name}'"
    return [f"{start}: the ids {named(ids)} count as {organ}" for organ, ids in by_class.items() if len(ids) > 1]


def unlabelled_organs(label_map: LabelMap, classes: Sequence[str]) -> list[str]:
    """Return the organs that a map has no id for and that count as background, if that is not ignored itself."""
    targets = label_map.targets
    return [organ for label, organ in enumerate(classes) if label not in targets] if 0 in targets else []
