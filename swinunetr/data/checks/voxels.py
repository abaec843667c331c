"""What voxels must be: the intensities of a scan for an image, ids of the list's classes for a label.

Voxels keep their stored data type while they are checked, which saves memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from swinunetr.data.checks.headers import dimensions, open_unpacked
from swinunetr.data.checks.hounsfield import STEPS, WHOLE_RANGE, histogram, hounsfield_faults, other_faults
from swinunetr.data.geometry import load_nifti
from swinunetr.data.label_maps import LabelMap, class_counts, whole_ids
from swinunetr.data.modality import is_ct
from swinunetr.errors import Fault
from swinunetr.words import named

MOST_LABEL_VALUES = 1000  # a file with more different values is not a label map
MOST_IMAGE_ID, FEWEST_GREY_VALUES = 255, 8  # an image of whole values up to 255 may be a label map, of few it is one
MOST_EQUAL_NEIGHBOURS = 0.75  # of a scan's voxels along an axis: 0.70 with 16 grey values; label maps have 0.84 or more
MOST_IDS = 4  # in one message


@dataclass(frozen=True)
class Voxels:
    """What the voxels of a file are, and their problems; without a digest, they cannot be read."""

    faults: tuple[Fault, ...] = ()  # at most one error, which is the last of them
    digest: bytes = b""  # hash of the stored voxels
    scaling: tuple[float, float] = (1.0, 0.0)  # slope and intercept from stored to scaled values
    low: float = 0.0  # smallest value of an image
    high: float = 0.0  # largest value of an image
    histogram: bytes = b""  # hash of an image's numbers of voxels, in the order of their intensities
    class_voxels: dict[float, int] = field(default_factory=dict)  # of a label, that count; by id if an id is wrong


def check_intensities(path: str, modality: str, padding: Collection[float] = ()) -> Voxels:
    """Read all voxels of an image with a valid header; ``padding`` are intensities that stand for no measurement.

    A damaged file raises an error of any type, see :func:`headers.unreadable`.
    """
    voxels, scaling, faults = read_stored(path)
    digest = blake2b(voxels.T).digest()
    if not np.isfinite([voxels.min(), voxels.max()]).all():
        faults.append(Fault("voxels are NaN or infinite", "replace them, in CT by -1000 (air)"))
        return Voxels(tuple(faults), digest, scaling)
    counted = histogram(voxels, *scaling)
    low, high = counted.values[[0, -1]]
    if low == high:
        faults.append(Fault(f"all voxels are {low:g}", "convert the scan again"))
    elif _like_label_map(voxels, counted.values):
        what = f"a label map, of {len(counted.values)} different values"
        faults.append(Fault(what, "give the scan, or leave this file out"))
    else:
        faults += hounsfield_faults(counted, padding) if is_ct(modality) else other_faults(counted, modality)
    return Voxels(tuple(faults), digest, scaling, low, high, blake2b(counted.counts.tobytes()).digest())


def check_ids(path: str, label_map: LabelMap | None, classes: int, needed: bool) -> Voxels:
    """Read all voxels of a label with a valid header, which raises errors as :func:`check_intensities` does.

    Without a map its ids are the classes, of which there are ``classes`` with the background. It is an error that all
    voxels are ignored if it is ``needed``.
    """
    voxels, scaling, faults = read_stored(path)
    digest, by_id = blake2b(voxels.T).digest(), count_values(voxels, *scaling)
    if fault := _id_fault(by_id, label_map, classes - 1):
        return Voxels((*faults, fault), digest, scaling, class_voxels=by_id)
    by_class = class_counts(by_id, label_map)
    # Collections of tumours have cases without an organ.
    if not by_class:
        faults.append(Fault("label is empty: all voxels are ignored", "label the case or remove it", stops=needed))
    elif not any(by_class):
        faults.append(Fault("label is empty: no organ", "label the case, unless it has none", stops=False))
    return Voxels(tuple(faults), digest, scaling, class_voxels=by_class)


def read_stored(path: str) -> tuple[np.ndarray, tuple[float, float], list[Fault]]:
    """Return the stored voxels of a file, slope and intercept of its values, and a warning if it holds more data."""
    with open_unpacked(path) as stream:
        proxy: Any = type(load_nifti(path)).from_stream(stream).dataobj  # of a Nifti1Image or Nifti2Image
        voxels = proxy.get_unscaled()
        while stream.read(1 << 20):  # gzip verifies its checksum at the end of the file
            pass
        excess = stream.tell() - proxy.offset - voxels.nbytes
    faults = []
    if excess >= voxels.nbytes / voxels.shape[-1]:  # a slice or more
        what = f"file holds {excess / voxels.nbytes:.1%} more data than a volume of {dimensions(voxels.shape)}"
        faults.append(Fault(what, "look at the scan: its header may be wrong", stops=False))
    return voxels, (float(proxy.slope), float(proxy.inter)), faults


def _like_label_map(voxels: np.ndarray, values: np.ndarray) -> bool:
    """Return whether an image is a label map: few whole ids, its ``values``, without the noise of a scan."""
    broken = np.abs(values - np.rint(values)) > WHOLE_RANGE[0] / STEPS  # the step of a histogram that is not by ones
    if values[0] < 0 or values[-1] > MOST_IMAGE_ID or broken.any():
        return False
    equal = voxels[1:] == voxels[:-1]
    inside = (voxels[1:] != voxels.min()) | ~equal  # not both background
    return len(values) < FEWEST_GREY_VALUES or bool(equal[inside].mean() > MOST_EQUAL_NEIGHBOURS)


def count_values(voxels: np.ndarray, slope: float, inter: float) -> dict[float, int]:
    """Return the number of voxels of each scaled value, up to the plane where there are too many different values.

    Whole numbers that storage has changed are whole again; see :func:`swinunetr.data.label_maps.whole_ids`.
    """
    counts: Counter[float] = Counter()
    for plane in voxels.T:  # as sorting all of a volume at once needs several times its memory
        values, numbers = np.unique(plane, return_counts=True)
        # float32, as in MONAI: there 30 * 0.1 is exactly 3, in float64 it is not.
        scaled = whole_ids((values * slope + inter).astype(np.float32), slope if voxels.dtype.kind in "iu" else 0.0)
        for value, number in zip(scaled.tolist(), numbers.tolist(), strict=True):
            counts[value] += number
        if len(counts) > MOST_LABEL_VALUES:
            break
    return dict(counts)


def _id_fault(ids: Collection[float], label_map: LabelMap | None, last: int) -> Fault | None:
    """Check the ids of a label file against its map, or without one against the classes from 0 to ``last``."""
    if not np.isfinite(list(ids)).all():
        return Fault("label ids are NaN or infinite", "replace them, usually by 0 (background)")
    if broken := [f"{value:.7g}" for value in sorted(ids) if not value.is_integer()]:
        what = f"label ids are not whole numbers: {named(broken, MOST_IDS)}"
        return Fault(what, "resample labels with nearest neighbour")
    if len(ids) > MOST_LABEL_VALUES and label_map:  # counted only in part
        return Fault(f"more than {MOST_LABEL_VALUES} different label ids", "give a label, not a scan")
    unknown = label_map.unknown(ids) if label_map else sorted(value for value in ids if not 0 <= value <= last)
    if not unknown:
        return None
    if label_map and label_map.name:
        what = f"label ids that label_map '{label_map.name}' lacks: {named(unknown, MOST_IDS)}"
        return Fault(what, 'add them to the map, or "other" for all that are not listed')
    known = f"0 to {last}" + (f" and {label_map.classes[-1][0]} (ignore)" if label_map else "")
    what = f"label ids outside the JSON's {known}: {named(unknown, MOST_IDS)}"
    return Fault(what, "relabel these voxels, or name the ids in the JSON")
