"""Which DICOM files are of one series: by their identifiers, where these can be trusted, else by content and place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swinunetr.data.dicom.decoding import decode, quiet_decoding
from swinunetr.data.dicom.geometry import LEAST_SLICES, plane_problem
from swinunetr.data.dicom.headers import Instance
from swinunetr.errors import WriteError
from swinunetr.files import sha256


def group_instances(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Return the instances of each series, without copies.

    Instances are copies if their content is equal, whatever their identifiers. Where folders hold different content
    under the same identifiers, each folder is a series.
    """
    by_identifiers: dict[tuple[str, ...], list[Instance]] = {}
    for instance in instances:
        by_identifiers.setdefault(instance.series, []).append(instance)
    return _join_slices([series for group in by_identifiers.values() for series in _separate(group)])


def _separate(group: list[Instance]) -> list[list[Instance]]:
    """Return the instances of a series without copies; those of each folder, if folders hold different series."""
    folders: dict[str, list[Instance]] = {}
    common = os.path.commonpath([instance.file.parent for instance in group])
    for instance in group:
        inner = instance.file.parent.relative_to(common).parts
        folders.setdefault(inner[0] if inner else "", []).append(instance)
    folder_of = {id(instance): name for name, members in folders.items() for instance in members}
    kept, differing = _without_copies(group)
    if len({folder_of[id(instance)] for instance in differing}) > 1 or _share_identifiers(folders):
        return [series for members in folders.values() for series in _separate(members)]
    return [kept]


def _share_identifiers(folders: dict[str, list[Instance]]) -> bool:
    """Return whether folders cannot be of one volume: other sizes or spacings, or one UID of slices at two places."""
    slices = [[instance for instance in members if instance.planes] for members in folders.values()]
    slices = [members for members in slices if members]
    if len(slices) < 2:
        return False
    if plane_problem([plane for members in slices for instance in members for plane in instance.planes]):
        return True
    places: dict[str, set] = {}
    for instance in (instance for members in slices for instance in members):
        places.setdefault(instance.identity[0], set()).add(instance.place)
    in_folders = Counter(uid for members in slices for uid in {instance.identity[0] for instance in members})
    return any(in_folders[uid] > 1 and len(places[uid]) > 1 for uid in places)


def _without_copies(group: list[Instance]) -> tuple[list[Instance], list[Instance]]:
    """Return an instance of each content, an intact one if there is one, and the first that differ at one place.

    Files are compared only where two are at one place, and up to the first that differ.
    """
    damaged = Counter(instance.file.parent for instance in group if instance.fault)
    places: dict[tuple, list[Instance]] = {}
    for instance in sorted(group, key=lambda instance: damaged[instance.file.parent]):  # rather all of one folder
        if instance.planes and not instance.fault:
            places.setdefault(instance.place, []).append(instance)
    differing: list[Instance] = []
    for place, copies in places.items():
        if len(copies) > 1 and not differing:
            places[place] = _distinct(copies)
            differing = places[place] if len(places[place]) > 1 else []
    intact = [instance for copies in places.values() for instance in copies]
    count = Counter(instance.identity for instance in intact)
    faulty = [instance for instance in group if instance.fault and instance.place not in places]
    faulty = [instance for instance in faulty if instance.planes or count[instance.identity] != 1]
    return [*intact, *faulty, *(instance for instance in group if instance.other)], differing


def _distinct(copies: list[Instance]) -> list[Instance]:
    """Return the instances at one place whose content differs, without those that cannot be decoded if others can."""

    def hash_of(file: Path) -> str:
        try:
            return sha256(file)
        except OSError:  # as on a damaged disc; it cannot be decoded either
            return str(file)

    files = {hash_of(instance.file): instance for instance in reversed(copies)}
    if len(files) == 1:
        return copies[:1]
    contents: dict[tuple | None, Instance] = {}
    for instance in reversed(files.values()):  # compressed in different ways, or with other identifiers
        voxels = _voxels(instance)
        spacings = tuple((plane.spacing, plane.shape) for plane in instance.planes)
        content = None if voxels is None else (voxels.tobytes(), instance.values, instance.modality, spacings)
        contents.setdefault(content, instance)
    decoded = [instance for content, instance in contents.items() if content]
    return decoded or list(contents.values())


def _voxels(instance: Instance) -> np.ndarray | None:
    """Return the voxels of an instance; None if they cannot be decoded."""
    try:
        with quiet_decoding(instance.file):
            return decode(instance.file, instance.multiframe)
    except WriteError:
        raise
    except Exception:  # GDCM and pydicom raise many types of error
        return None


def _join_slices(groups: list[list[Instance]]) -> list[list[Instance]]:
    """Return the series, with those of one slice joined that some tools for anonymising make of each slice of a volume.

    They are of one folder, number, type and geometry. Whether they are a volume is decided by their positions.
    """
    joined: dict[tuple, list[Instance]] = {}
    for index, group in enumerate(groups):
        first = group[0]
        key: tuple = (index,)
        if len(group) == 1 and len(first.planes) == 1 and not first.fault:
            plane = first.planes[0]
            orientation = tuple(round(x, 3) for x in plane.orientation)
            image_type = first.values.image_type
            key = (first.file.parent, first.series_name, image_type, orientation, plane.spacing, plane.shape)
        joined.setdefault(key, []).extend(group)
    series = []
    for group in joined.values():
        whole = len(group) >= LEAST_SLICES or len({instance.series for instance in group}) == 1
        series += [group] if whole else [[instance] for instance in group]
    return series
