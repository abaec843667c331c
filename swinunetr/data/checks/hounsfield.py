"""Whether the intensities of a scan are Hounsfield units, judged by their distribution.

Air is near -1000 HU, fat -100, water 0, soft tissue 0 to 150, bone up to about 2000. Minimum and maximum alone say
little: padding, and a single voxel of metal, can have any value.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from swinunetr.errors import Fault

CHUNK_VOXELS = 2**22  # counted at a time, to save memory
WHOLE_RANGE = 256, 2**17  # of intensities that are counted by whole numbers; others in STEPS equal steps
STEPS = 65_535

USUAL_HU = (-4000, 31_000)  # padding can be as low as -3024; metal on an extended scale reaches about 30 000
LEAST_PADDING = 1e-3  # of all voxels that have one value below air, with no other value near it
PADDING_GAP = 50  # HU to the next value

# Shares of the voxels that are not padding. What they were chosen on stands in tests/data/checks/test_hounsfield.py.
WRAPPED, MOST_WRAPPED = 40_000, 1e-3  # of negative values that became large ones in unsigned pixels
METAL, MOST_METAL = 3000, 0.05
DENSE_BONE, MOST_DENSE_BONE = (850, 1300), 0.15  # where soft tissue is without the rescale intercept
SOFT, LEAST_SOFT, LITTLE_SOFT = (-150, 150), 0.01, 0.05
BELOW_AIR, MOST_BELOW_AIR, SOFT_BELOW_AIR = -1200, 0.2, 0.1  # padding that was interpolated is there, and soft tissue
AIR, LEAST_AIR = (-1100, -900), 0.01
BELOW_FAT, LEAST_BELOW_FAT = -300, 0.05  # where air is, and lung
LEAST_IN_CT = 0.05  # air and soft tissue, each, of a scan that is called something else
FAT, LEAST_FAT = (-200, -50), 0.005
BONE, MOST_BONE = 300, 0.25  # without air
LEAST_RANGE, LEAST_USUAL_RANGE = 300, 250  # HU, of all voxels, and of all but one in a thousand at each end
MOST_ZERO = 0.1  # voxels that are exactly 0

CONVERT = "convert from DICOM again, without normalising; if the scan is not CT, correct the modality"


@dataclass(frozen=True)
class Histogram:
    """Numbers of voxels by intensity; intensities are rounded to whole numbers if they span a few hundred or more."""

    values: np.ndarray  # (N,), intensities that occur, increasing
    counts: np.ndarray  # (N,), int64

    def share(self, low: float, high: float) -> float:
        """Return the share of the voxels from ``low`` to ``high``."""
        inside = (self.values >= low) & (self.values <= high)
        return float(self.counts[inside].sum() / max(1, self.counts.sum()))

    def without(self, values: Collection[float]) -> Histogram:
        """Return the histogram of the voxels that have none of some intensities."""
        kept = ~np.isin(self.values, np.rint(list(values)))
        return Histogram(self.values[kept], self.counts[kept])

    def percentiles(self, *percents: float) -> np.ndarray:
        """Return the intensities below which so many percent of the voxels are."""
        places = np.searchsorted(np.cumsum(self.counts), np.array(percents) / 100 * self.counts.sum())
        return self.values[np.minimum(places, len(self.values) - 1)]


def histogram(voxels: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> Histogram:
    """Count the voxels of a scan by intensity, which is their stored (finite) value x ``slope`` + ``inter``.

    The same scan has the same histogram as integers and as floating-point numbers, with its axes in any order.
    """
    flat = voxels.ravel(order="K")  # in the order of the memory, which copies nothing
    chunks = [flat[start : start + CHUNK_VOXELS] for start in range(0, len(flat), CHUNK_VOXELS)]
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2:
        stored, counts = _count_short(chunks, voxels.dtype)
        low, high = sorted(stored[[0, -1]] * slope + inter)
        pairs: list[tuple[np.ndarray, np.ndarray | None]] = [(stored, counts)]
    else:
        low, high = sorted(float(value) * slope + inter for value in (flat.min(), flat.max()))
        pairs = [(chunk, None) for chunk in chunks]
    whole = WHOLE_RANGE[0] <= high - low <= WHOLE_RANGE[1]
    first, step = (np.rint(low).item(), 1.0) if whole else (low, (high - low) / STEPS or 1.0)
    total = np.zeros(int(np.rint((high - first) / step)) + 1)
    for values, numbers in pairs:
        scaled = values if (slope, inter) == (1, 0) else values * np.float64(slope) + inter
        steps = np.rint(scaled) - first if whole else np.rint((scaled - first) / step)
        total += np.bincount(steps.astype(np.int64), numbers, minlength=len(total))
    (present,) = total.nonzero()
    return Histogram(first + step * present, total[present].astype(np.int64))


def _count_short(chunks: list[np.ndarray], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored values of at most 16 bits that occur, increasing, and how often they do."""
    unsigned = np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder)
    size = 2 ** (8 * dtype.itemsize)
    counts = sum((np.bincount(chunk.view(unsigned), minlength=size) for chunk in chunks), np.zeros(size, np.int64))
    stored = np.arange(size)
    if dtype.kind == "i":
        counts, stored = np.roll(counts, size // 2), stored - size // 2
    (present,) = counts.nonzero()
    return stored[present], counts[present]


def hounsfield_faults(intensities: Histogram, padding: Collection[float] = ()) -> list[Fault]:
    """Return why intensities cannot be Hounsfield units, as one error; else what is unusual, as warnings.

    ``padding`` are values that the file says stand for no measurement. Values far below air that many voxels have are
    taken for padding in any case.
    """
    tissue = _without_padding(intensities.without(padding))
    if not len(tissue.values):
        return [Fault("all voxels are padding", "convert the scan again")]
    if problem := _contradiction(intensities, tissue):
        what, remedy = problem
        return [Fault(f"intensities {_span(tissue)} cannot be HU: {what}", remedy)]
    return [Fault(what, remedy, stops=False) for what, remedy in _unusual(intensities, tissue)]


def other_faults(intensities: Histogram, modality: str) -> list[Fault]:
    """Return a warning if the intensities of a scan of another modality than CT are Hounsfield units."""
    tissue = _without_padding(intensities)
    if min(tissue.share(*AIR), tissue.share(*SOFT)) < LEAST_IN_CT or hounsfield_faults(intensities):
        return []
    what = f"intensities {_span(tissue)} look like HU, and the modality is '{modality}', so percentiles scale them"
    return [Fault(what, "if the scan is CT, write CT", stops=False)]


def _without_padding(intensities: Histogram) -> Histogram:
    """Return the histogram without values below air that many voxels have and that stand alone."""
    while len(intensities.values):
        lowest, number = intensities.values[0], intensities.counts[0]
        alone = intensities.share(lowest + 1, lowest + PADDING_GAP) * intensities.counts.sum() < 0.05 * number
        if not (lowest < AIR[0] and number >= LEAST_PADDING * intensities.counts.sum() and alone):
            break
        intensities = Histogram(intensities.values[1:], intensities.counts[1:])
    return intensities


def _span(intensities: Histogram) -> str:
    return f"{intensities.values[0]:g} to {intensities.values[-1]:g}"


def _contradiction(intensities: Histogram, tissue: Histogram) -> tuple[str, str] | None:
    """Return what no CT in Hounsfield units has, and a remedy."""
    low, high = tissue.values[[0, -1]]
    if intensities.share(WRAPPED, np.inf) > MOST_WRAPPED:
        return f"{intensities.share(WRAPPED, np.inf):.1%} of the voxels are above {WRAPPED}", (
            "convert again as signed numbers: negative values, or padding, were stored as large ones"
        )
    if intensities.share(METAL, np.inf) > MOST_METAL:
        return f"{intensities.share(METAL, np.inf):.1%} of the voxels are above {METAL}", CONVERT
    if (low >= 0 and high > 1000) or tissue.share(*DENSE_BONE) > MOST_DENSE_BONE:
        return "no air below 0, or soft tissue near 1000", (
            "apply the rescale intercept (often: subtract 1024); if the scan is not CT, correct the modality"
        )
    if low >= 0 or high <= 0 or high - low < LEAST_RANGE:
        return "they do not span air or fat to bone", CONVERT
    if np.diff(tissue.percentiles(0.1, 99.9)) < LEAST_USUAL_RANGE:
        return "nearly all of them are within 200", CONVERT
    soft, below = tissue.share(*SOFT), tissue.share(-np.inf, BELOW_AIR)
    if soft < LEAST_SOFT or (below > MOST_BELOW_AIR and soft < SOFT_BELOW_AIR):
        return "too few voxels of soft tissue, -150 to 150", "apply the rescale intercept, but not twice"
    if tissue.share(*AIR) < LEAST_AIR and (
        tissue.share(*FAT) < LEAST_FAT or tissue.share(BONE, np.inf) > MOST_BONE or _zero_filled(tissue)
    ):
        return "neither air near -1000 nor fat near -100", CONVERT
    return None


def _zero_filled(tissue: Histogram) -> bool:
    """Return whether many voxels are exactly 0, and few are 1 or -1."""
    zero = tissue.share(-0.5, 0.5)
    return zero > MOST_ZERO and zero > 10 * max(tissue.share(-1.5, -0.5), tissue.share(0.5, 1.5))


def _unusual(intensities: Histogram, tissue: Histogram) -> list[tuple[str, str]]:
    """Return what few CT scans have, and what to do about it."""
    unusual = []
    if tissue.values[0] > -200:
        unusual.append((f"intensities {_span(tissue)}: no air", "expected if it was cropped or clipped on purpose"))
    elif tissue.share(-np.inf, BELOW_FAT) > LEAST_BELOW_FAT and tissue.share(*AIR) < LEAST_AIR:
        unusual.append((f"intensities {_span(tissue)}: no air near -1000", "check the rescale slope and intercept"))
    elif tissue.share(*SOFT) < LITTLE_SOFT:
        unusual.append((f"{tissue.share(*SOFT):.0%} of the voxels are soft tissue, -150 to 150 HU", "look at the scan"))
    if intensities.values[0] < USUAL_HU[0] or intensities.values[-1] > USUAL_HU[1]:
        unusual.append((f"intensities {_span(intensities)} are unusual for HU", "look at the scan"))
    if _zero_filled(tissue):
        what = f"{tissue.share(-0.5, 0.5):.0%} of the voxels are exactly 0 HU, which is water"
        unusual.append((what, "if they are padding, replace them by -1000 (air)"))
    return unusual
