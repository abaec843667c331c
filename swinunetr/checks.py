"""Find every fault of a data set before training, and say what is in it.

:func:`check_dataset` looks at all headers, then at all voxels. A look at a file ends at its first :class:`Fault`; the
looks at other files go on, so that one table shows what has to be mended.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data.utils import correct_nifti_header_if_necessary
from tqdm.auto import tqdm

from swinunetr.dataset import Dataset
from swinunetr.devices import available_memory
from swinunetr.errors import DatasetError
from swinunetr.files import stand_in
from swinunetr.recipe import SPACING_LIMITS_MM
from swinunetr.tables import Shown, Table

THICK_SLICE_MM = 8.0
USUAL_HU = (-4000, 31_000)  # padding goes down to -3024; metal, on an extended scale, up to some 30 000
MOST_LABEL_VALUES = 1000  # a file with more of them is no label map
CACHED_BYTES = 3  # a voxel: float16 image and uint8 label
TABLE_ROWS = 16  # before a table of faults is cut


@dataclass(frozen=True)
class Fault:
    """Say what is wrong with a file and what to do; one that does not stop is a warning."""

    what: str
    remedy: str
    stops: bool = True


@dataclass
class Scan:
    """Hold one file of one case, its faults, and what its header and then its voxels told."""

    split: str  # "training", "validation" or "test"
    case: str
    kind: str  # "image" or "label"
    path: str
    image: Scan | None = None  # the image that this label belongs to
    faults: list[Fault] = field(default_factory=list)
    header: nib.Nifti1Header | None = None  # as stored; nibabel, as it loads a file, mends a spacing of 0 to 1 mm
    stored_affine: np.ndarray | None = None  # (4, 4), voxel to mm
    affine: np.ndarray | None = None  # the same as training takes it: MONAI drops an sform that contradicts pixdim
    low: float = 0.0  # smallest and largest value of an image; NaN if any voxel is
    high: float = 0.0
    digest: bytes = b""  # hash of an image's voxels
    value_counts: dict[float, int] = field(default_factory=dict)  # voxels of a label by their value

    @property
    def sound(self) -> bool:
        return not any(fault.stops for fault in self.faults)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.get_data_shape()

    @property
    def spacing(self) -> np.ndarray:
        return nib.affines.voxel_sizes(self.affine)  # mm, along the file's axes


@dataclass(frozen=True, repr=False)
class DatasetReport(Shown):
    """Hold what a sound data set contains; printed, it is a short table."""

    cases: dict[str, int]  # by split
    shapes: np.ndarray  # (images, 3)
    spacings: np.ndarray  # (images, 3), mm
    orientations: dict[str, int]  # images by orientation, such as "LAS"
    organ_ml: dict[str, list[float]]  # volume of each organ in each labelled case that has it
    cache_bytes: int  # training and validation cases on the training grid
    memory_bytes: int  # available now
    warnings: list[str]

    def tables(self) -> list[Table]:
        """Return what was found, then the volumes of the organs, where there are labels; warnings come last."""
        found = [
            ("cases", _counts(self.cases)),
            ("shape", f"{_ranges(self.shapes)} voxels"),
            ("spacing", f"{_ranges(self.spacings)} mm"),
            ("orientation", _counts(self.orientations)),
        ]
        if self.cache_bytes:
            caching, available = self.cache_bytes / 1e9, self.memory_bytes / 1e9
            found.append(("memory", f"{caching:.2f} GB of the {available:.2f} GB that are available"))
        organs = [
            (organ, *(f"{value(ml):.1f}" if ml else "-" for value in (np.median, min, max)), len(ml))
            for organ, ml in self.organ_ml.items()
        ]
        notes = [f"warning: {warning}" for warning in self.warnings[:TABLE_ROWS]]
        if len(self.warnings) > TABLE_ROWS:
            notes.append(f"... and {len(self.warnings) - TABLE_ROWS} more in .warnings")
        volumes = Table(("organ", "median, ml", "min", "max", "cases"), organs, notes)
        return [Table(("data set", "found"), found), volumes]


def check_dataset(dataset: Dataset, spacing_mm: Sequence[float], *, workers: int | None = None) -> DatasetReport:
    """Read every file of ``dataset``, ``workers`` at a time (None: one a CPU core), and report what is there.

    ``spacing_mm`` (right, anterior, superior) is the training grid, for which the report estimates the memory.

    Raises:
        DatasetError: some files would stop or spoil the training; the message lists all their faults.
    """
    scans = _list_scans(dataset)
    _look(check_header, scans, workers, "Checking headers")
    on_purpose = _trains_on_what_it_validates(dataset)
    sound = [scan for scan in scans if scan.sound]
    readable = _flag_repeats(sound, lambda s: (s.kind, os.path.realpath(s.path)), "file", on_purpose)
    _look(check_pair, [s for s in readable if s.image and s.image.sound], 1, "Comparing images and labels")
    if not all(scan.sound for scan in scans):
        tqdm.write(f"{_error_table(scans)}\nReading the voxels of the other files for more; interrupt to mend these.")
    _look(lambda scan: check_voxels(scan, dataset), readable, workers, "Checking voxels")
    _flag_repeats([s for s in readable if s.digest], lambda s: (s.shape, s.digest), "voxels", on_purpose)
    if not all(scan.sound for scan in scans):
        raise DatasetError(_error_table(scans))
    report = _report(scans, dataset.classes, spacing_mm)
    if on_purpose:
        report.warnings.insert(0, "validation cases are the training cases: their Dice says nothing about other scans")
    return report


def _list_scans(dataset: Dataset) -> list[Scan]:
    scans = []
    for split in ("training", "validation", "test"):
        for entry in getattr(dataset, split):
            scans.append(image := Scan(split, entry["name"], "image", entry["image"]))
            if "label" in entry:
                scans.append(Scan(split, entry["name"], "label", entry["label"], image))
    return scans


def _look(check: Callable[[Scan], Fault | None], scans: list[Scan], workers: int | None, title: str) -> None:
    """Add what ``check`` finds to each scan, several scans at a time."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            found = list(tqdm(pool.map(check, scans), total=len(scans), desc=title, disable=not scans))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files in hand, not for all
            raise
    for scan, fault in zip(scans, found, strict=True):
        scan.faults += [fault] if fault else []


def _trains_on_what_it_validates(dataset: Dataset) -> bool:
    """Tell a trial of the tools, whose two lists are the same, from a leak, where one slipped into the other."""
    images = [[os.path.realpath(entry["image"]) for entry in cases] for cases in (dataset.training, dataset.validation)]
    return bool(images[0]) and images[0] == images[1] and len(images[0]) == len(set(images[0]))


def _flag_repeats(scans: list[Scan], key: Callable[[Scan], tuple], same: str, on_purpose: bool) -> list[Scan]:
    """Add a fault to each scan whose key an earlier one has, and return the others.

    ``on_purpose``: training and validation are one list, so a repeat from one to the other is none.
    """
    first: dict[tuple, Scan] = {}
    for scan in scans:
        earlier = first.setdefault(key(scan), scan)
        if earlier is not scan and not (on_purpose and scan.split != earlier.split):
            remedy = "take one of the two out" if scan.split == earlier.split else "keep it in one of the two lists"
            # Two phases of contrast can share a label, and a test scan is only looked at: these warn.
            stops = scan.kind == "image" and "test" not in (scan.split, earlier.split)
            scan.faults.append(Fault(f"same {same} as {earlier.split} case {earlier.case}", remedy, stops))
    return list(first.values())


# ---------------------------------------------------------------------------------------------------------- headers


def check_header(scan: Scan) -> Fault | None:
    """Read where a file's voxels lie; refuse what is not a volume in a plausible place."""
    if not Path(scan.path).is_file():
        return Fault("file is missing", "check data_root and the name in the JSON")
    try:
        with _open(scan.path) as stream:
            stream.read(348)  # meets damage that nibabel would call an unknown file type
            image = nib.load(scan.path)
            if not isinstance(image, nib.Nifti1Image):
                return Fault(f"not NIfTI but {type(image).__name__}", "convert it to .nii.gz")
            stream.seek(0)
            scan.header = type(image.header).from_fileobj(stream, check=False)
        scan.stored_affine = image.affine.copy()
        scan.affine = correct_nifti_header_if_necessary(image).affine
    except Exception as error:  # broken files fail in many ways
        return unreadable(scan.path, error)
    return _volume_fault(scan) or _geometry_fault(scan) or _geometry_warning(scan)


def _open(path: str):
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")


def unreadable(path: str, error: Exception) -> Fault:
    """Say in plain words why a file can't be read."""
    if found := stand_in(path):
        what, remedy = found
        return Fault(f"{what}, not a scan", remedy)
    with open(path, "rb") as file:
        start = file.read(2)
    again = "copy or download it again"
    if path.lower().endswith(".gz") != start.startswith(b"\x1f\x8b"):
        return Fault("the name says gzip and the content does not, or the reverse", "rename it to .nii.gz or .nii")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return Fault("gzip data are damaged", again)
    if isinstance(error, EOFError) or "Expected" in str(error):  # the latter is nibabel's count of bytes
        return Fault("file is truncated: it ends before its last voxel", again)
    return Fault(f"not readable as NIfTI ({str(error).splitlines()[0][:60]})", "convert it to .nii.gz again")


def _volume_fault(scan: Scan) -> Fault | None:
    dtype, axes = scan.header.get_data_dtype(), scan.shape
    if dtype.kind not in "iuf":
        return Fault("voxels are colours or complex numbers", "convert it to one grey value a voxel")
    if axes[3:] == (1,):  # MONAI takes one such axis as the channel
        axes = axes[:3]
    if len(axes) != 3 or min(axes) < 2:
        return Fault(f"shape {_times(axes)} is not a 3D volume", "give one volume of several slices a file")
    return None


def _geometry_fault(scan: Scan) -> Fault | None:
    least, most = SPACING_LIMITS_MM
    remedy = "mend the header or convert the scan again"
    matrix, pixdim = scan.stored_affine[:3, :3], scan.header["pixdim"][1:4]
    lengths = np.linalg.norm(matrix, axis=0)  # mm
    if not np.isfinite(scan.stored_affine).all():
        return Fault("affine holds NaN or infinity", remedy)
    for mm in (lengths, np.abs(pixdim)):
        if not ((mm >= least) & (mm <= most)).all():  # so NaN is refused too
            return Fault(f"spacing {_times(mm)} mm, expected {least:g} to {most:g}", remedy)
    if abs(np.linalg.det(matrix)) < 0.01 * lengths.prod():
        return Fault("affine is singular: its axes lie in one plane", remedy)
    return None


def _geometry_warning(scan: Scan) -> Fault | None:
    if not (scan.header["sform_code"] or scan.header["qform_code"]):
        return Fault("neither sform nor qform is set", "check left and right in a viewer", stops=False)
    if not np.allclose(scan.affine, scan.stored_affine, atol=1e-3):
        what = f"sform contradicts pixdim; training takes {_times(scan.spacing)} mm"
        return Fault(what, "correct the header if that is wrong", stops=False)
    if scan.spacing.max() > THICK_SLICE_MM:
        return Fault(f"slices are {scan.spacing.max():g} mm thick", "small organs may get lost", stops=False)
    return None


def check_pair(label: Scan) -> Fault | None:
    """Compare the grid of a label with its image's.

    Corners of the volume may lie 0.001 mm apart; up to a tenth of a voxel is a warning, as a qform, kept as a
    quaternion in float32, strays by that much from the sform that it repeats.
    """
    if label.shape[:3] != label.image.shape[:3]:
        what = f"shape {_times(label.shape)}, its image has {_times(label.image.shape)}"
        return Fault(what, "export the label on the image's grid")
    corners = np.array(list(itertools.product(*((0, n - 1) for n in label.shape[:3]), [1])))
    apart = np.linalg.norm(corners @ (label.affine - label.image.affine).T, axis=1).max()  # mm
    if apart <= 1e-3:
        return None
    what = f"affine differs from its image's: corners up to {apart:.3g} mm apart"
    return Fault(what, "export the label with the image's affine", stops=bool(apart > 0.1 * label.spacing.min()))


# ----------------------------------------------------------------------------------------------------------- voxels


def check_voxels(scan: Scan, dataset: Dataset) -> Fault | None:
    """Read a whole file, in its stored type to save memory; refuse values that no image or label map has."""
    try:
        with _open(scan.path) as stream:
            proxy = type(nib.load(scan.path)).from_stream(stream).dataobj  # Nifti1Image or Nifti2Image
            voxels, slope, inter = proxy.get_unscaled(), proxy.slope, proxy.inter
            while stream.read(1 << 20):  # to the end, where gzip keeps its checksum
                pass
    except Exception as error:
        return unreadable(scan.path, error)
    if scan.kind == "label":
        scan.value_counts = count_values(voxels, slope, inter)
        return _label_fault(scan, dataset.classes)
    scan.low, scan.high = sorted(float(value) * slope + inter for value in (voxels.min(), voxels.max()))
    scan.digest = hashlib.blake2b(voxels.T).digest()
    return _image_fault(scan, dataset.modality)


def count_values(voxels: np.ndarray, slope: float, inter: float) -> dict[float, int]:
    """Count voxels by their scaled value, a plane at a time, as the whole volume would take several times its size."""
    counts: Counter[float] = Counter()
    for plane in voxels.T:
        values, numbers = np.unique(plane, return_counts=True)
        # In float32, as MONAI loads it: there a slope of 0.1 makes 30 * 0.1 a whole number, in float64 not quite.
        scaled = (values * slope + inter).astype(np.float32)
        counts.update(dict(zip(scaled.tolist(), numbers.tolist(), strict=True)))
        if len(counts) > MOST_LABEL_VALUES:
            break
    return dict(counts)


def _image_fault(scan: Scan, modality: str) -> Fault | None:
    if not np.isfinite([scan.low, scan.high]).all():
        return Fault("voxels are NaN or infinite", "replace them, in CT by -1000 (air)")
    if scan.low == scan.high:
        return Fault(f"all voxels are {scan.low:g}", "convert the scan again")
    return _hounsfield_fault(scan.low, scan.high) if modality.upper().startswith("CT") else None


def _hounsfield_fault(low: float, high: float) -> Fault | None:
    """Judge a range in HU, where air is -1000, fat -100, water 0 and bone several hundred."""
    found = f"intensities {low:g} to {high:g}"
    if low >= 0 and high > 1000:
        return Fault(f"{found} can't be HU: no air below 0", "apply the rescale intercept (often: subtract 1024)")
    if low >= 0 or high <= 0 or high - low < 300:
        return Fault(f"{found} can't be HU", "convert from DICOM again, without normalising")
    if low > -200:
        return Fault(f"{found}: no air", "fine if the scan was cropped or clipped on purpose", stops=False)
    if low < USUAL_HU[0] or high > USUAL_HU[1]:
        return Fault(f"{found} are unusual for HU", "look at the scan", stops=False)
    return None


def _label_fault(scan: Scan, classes: tuple[str, ...]) -> Fault | None:
    last = len(classes) - 1
    if broken := [value for value in scan.value_counts if not value.is_integer()]:  # NaN and infinity are none either
        return Fault(f"label ids are not whole numbers: {_some(broken)}", "resample labels with nearest neighbour")
    if unknown := [value for value in scan.value_counts if not 0 <= value <= last]:
        what = f"label ids outside the JSON's 0 to {last}: {_some(unknown)}"
        return Fault(what, "relabel these voxels, or name the ids in the JSON")
    if not any(scan.value_counts):
        return Fault("label is empty: no organ", "label the case or take it out", stops=scan.split == "training")
    return None


# ---------------------------------------------------------------------------------------------------------- in words


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _some(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values)[:4]) + ", ..." * (len(values) > 4)


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def _ranges(rows: np.ndarray) -> str:
    """Return the range of each column, such as ``512 x 512 x 85..198``."""
    return " x ".join("..".join(f"{n:.4g}" for n in sorted({column.min(), column.max()})) for column in rows.T)


def _rows(scans: list[Scan], stops: bool) -> list[tuple[str, str, str, str]]:
    """Return case, file under the common folder, what is wrong and what to do, of all errors or all warnings."""
    found = [(scan, fault) for scan in scans for fault in scan.faults if fault.stops == stops]
    root = _common_folder(scans)
    return [(scan.case, os.path.relpath(scan.path, root), fault.what, fault.remedy) for scan, fault in found]


def _common_folder(scans: list[Scan]) -> str:
    return os.path.commonpath([os.path.dirname(scan.path) for scan in scans])


def _error_table(scans: list[Scan]) -> str:
    rows = _rows(scans, stops=True)
    table = [("case", "file", "what is wrong", "what to do"), *rows[:TABLE_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table]
    if rest := Counter(remedy for *_, remedy in rows[TABLE_ROWS:]):
        lines.append(f"... and {len(rows) - TABLE_ROWS} more: " + "; ".join(f"{n} x {r}" for r, n in rest.items()))
    files = len({scan.path for scan in scans})
    return "\n".join(
        [f"{len(rows)} fault{'s' * (len(rows) > 1)} in the {files} files under '{_common_folder(scans)}':", *lines]
    )


def _report(scans: list[Scan], classes: tuple[str, ...], spacing_mm: Sequence[float]) -> DatasetReport:
    images = [scan for scan in scans if scan.kind == "image"]
    labels = [scan for scan in scans if scan.kind == "label" and scan.value_counts]
    organ_ml = {organ: [_ml(s, i) for s in labels if i in s.value_counts] for i, organ in enumerate(classes) if i}
    cache_bytes = CACHED_BYTES * sum(_training_voxels(s, spacing_mm) for s in images if s.split != "test")
    memory_bytes = available_memory()
    warnings = [f"{case} {file}: {what}; {remedy}" for case, file, what, remedy in _rows(scans, stops=False)]
    learnt = set().union(*(scan.value_counts for scan in labels if scan.split == "training"))
    if absent := [organ for i, organ in enumerate(classes) if i and i not in learnt]:
        warnings.append(f"no training case has {', '.join(absent)}; it can't be learnt")
    if cache_bytes > 0.8 * memory_bytes:  # the rest is for the work itself
        warnings.append(
            "all cases may not fit into memory, where fine-tuning keeps them; take fewer or a coarser spacing"
        )
    return DatasetReport(
        cases=dict(Counter(scan.split for scan in images)),
        shapes=np.array([scan.shape[:3] for scan in images]),
        spacings=np.array([scan.spacing for scan in images]),
        orientations=dict(Counter("".join(nib.aff2axcodes(scan.affine)) for scan in images)),
        organ_ml=organ_ml,
        cache_bytes=cache_bytes,
        memory_bytes=memory_bytes,
        warnings=warnings,
    )


def _ml(label: Scan, value: int) -> float:
    return float(label.value_counts[value] * abs(np.linalg.det(label.affine[:3, :3])) / 1000)


def _training_voxels(scan: Scan, spacing_mm: Sequence[float]) -> int:
    """Return the number of voxels of a scan on the training grid, before the air around the body is cut off."""
    axes = nib.io_orientation(scan.affine)[:, 0].astype(int)  # which of right, anterior, superior each file axis is
    steps = (np.array(scan.shape[:3]) - 1) * scan.spacing / np.array(spacing_mm)[axes]
    return int(np.prod(np.round(steps) + 1))
