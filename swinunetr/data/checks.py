"""Check every file of a data set before training, and report what the data set contains.

:func:`check_dataset` checks all headers first, then all voxels. The check of one file stops at its first
:class:`Fault`; the checks of the other files continue, so that one table lists the problems of all files.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm.auto import tqdm

from swinunetr.data.geometry import (
    REVERSED_DEGREES,
    TILT_DEGREES,
    TURNED_DEGREES,
    other_spacing,
    tilt_degrees,
    turned_degrees,
    voxel_volume_mm3,
)
from swinunetr.data.hounsfield import STEPS, WHOLE_RANGE, histogram, hounsfield_faults, other_faults
from swinunetr.data.label_maps import LabelMap, class_counts, merged_ids, unlabelled_organs, whole_ids
from swinunetr.data.lists import Dataset, case_name, is_nifti
from swinunetr.data.modality import is_ct
from swinunetr.errors import DatasetError, Fault, InputError
from swinunetr.files import sha256, stamp, stand_in
from swinunetr.hardware import Hardware
from swinunetr.machine import available_memory, most_workers
from swinunetr.recipe import SPACING_LIMITS_MM
from swinunetr.tables import Shown, Table
from swinunetr.threads import in_threads

THICK_SLICE_MM = 8.0
PERCENTILES = "no CT, so each scan is scaled from its 0.5th to its 99.5th percentile"
MOST_LABEL_VALUES = 1000  # a file with more different values is not a label map
MOST_IMAGE_ID, FEWEST_GREY_VALUES = 255, 8  # an image of whole values up to 255 may be a label map, of few it is one
MOST_EQUAL_NEIGHBOURS = 0.75  # of a scan's voxels along an axis: 0.70 with 16 grey values; label maps have 0.84 or more
CHECKED_COPIES = 3  # of the stored voxels of a file in memory while they are checked, at most
CACHED_BYTES = 3  # per voxel: float16 image and uint8 label
ERROR_ROWS = 9  # of the table of errors; with its heading and its last line, the message has at most 12 lines
WARNING_ROWS = 16  # longest list of warnings that is shown in full


@dataclass
class Scan:
    """One file of one case, with its problems and the properties read from its header and its voxels."""

    split: str  # "training", "validation" or "test"
    case: str
    kind: str  # "image" or "label"
    path: str
    image: Scan | None = None  # the image that this label belongs to
    label_map: LabelMap | None = None  # of a label; None if its values are the classes
    faults: list[Fault] = field(default_factory=list)
    stamp: tuple = ()  # of the file when it was checked; see files.stamp
    header: nib.Nifti1Header | None = None  # as stored; nibabel.load changes a spacing of 0 to 1 mm
    affine: np.ndarray | None = None  # (4, 4), voxel to mm
    low: float = 0.0  # smallest value of an image; NaN if any voxel is NaN
    high: float = 0.0  # largest value of an image; NaN if any voxel is NaN
    digest: bytes = b""  # hash of the stored voxels
    counts: bytes = b""  # hash of an image's numbers of voxels, in the order of their intensities
    scaling: tuple[float, float] = (1.0, 0.0)  # slope and intercept from stored to scaled values
    value_counts: dict[float, int] = field(default_factory=dict)  # voxels that count, by class; by id before mapping
    file: str = ""  # path with links resolved, on the machine of rank 0

    def __post_init__(self) -> None:
        self.file = self.file or os.path.realpath(self.path)

    @property
    def valid(self) -> bool:
        """Whether no error was found so far."""
        return not any(fault.stops for fault in self.faults)

    @property
    def key(self) -> tuple:
        """What the properties of its voxels depend on: a label file may be read with several maps."""
        return self.kind, self.file, self.label_map

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in voxels, along the file's axes."""
        return self.header.get_data_shape()

    @property
    def spacing(self) -> np.ndarray:
        """Voxel spacing in mm, along the file's axes."""
        return nib.affines.voxel_sizes(self.affine)

    @property
    def content(self) -> tuple:
        """Voxels and geometry as plain values, whatever the file's name, folder, time and compression."""
        affine = (np.round(self.affine, 4) + 0.0).tolist()  # + 0.0 makes -0.0 equal to 0.0
        mapped = (self.label_map.content,) if self.label_map else ()
        return self.digest.hex(), self.scaling, [int(n) for n in self.shape[:3]], affine, *mapped


@dataclass(frozen=True, repr=False)
class DatasetReport(Shown):
    """Contents of a data set without errors; printed, it is a short table."""

    cases: dict[str, int]  # by split
    modality: str
    shapes: np.ndarray  # (images, 3)
    spacings: np.ndarray  # (images, 3), mm
    orientations: dict[str, int]  # number of images by orientation, such as "LAS"
    organ_ml: dict[str, list[float]]  # volume of each organ in each labelled case that contains it
    cache_bytes: int  # training and validation cases on the training grid
    memory_bytes: int  # available now
    warnings: list[str]
    fingerprint: dict[str, str]  # hash of voxels, geometry and map of labels (16 hex digits) by case
    notes: list[str]  # what is as the JSON says, and worth a look
    stamps: dict[str, tuple]  # of each file, by path; see files.stamp

    def content_of(self, entry: dict) -> str:
        """Return the hash of the content of a case, from ``fingerprint``.

        Files that were written since are read again, as their content may be the same.

        Args:
            entry: The case, as in the data set.

        Raises:
            InputError: The content has changed since it was checked.
            OSError: A file is missing.
        """
        name, paths = entry["name"], [entry[kind] for kind in ("image", "label") if kind in entry]
        if name in self.fingerprint and all(self.stamps.get(path) == stamp(path) for path in paths):
            return self.fingerprint[name]
        content = _read_fingerprint(entry)
        if content != self.fingerprint.get(name, content):
            raise InputError(
                f"Case '{name}' has changed since it was checked: {' or '.join(map(repr, paths))} has other voxels or "
                "another geometry. Run the cell that checks the files again, and the cells below it."
            )
        return content

    def tables(self) -> list[Table]:
        """Return a table of the scans and a table of the organ volumes, with warnings and notes below it."""
        found = [
            ("cases", _counts(self.cases)),
            ("shape", f"{_ranges(self.shapes)} voxels"),
            ("spacing", f"{_ranges(self.spacings)} mm"),
            ("orientation", _counts(self.orientations)),
            ("intensities", f"{self.modality}: {'Hounsfield units' if is_ct(self.modality) else PERCENTILES}"),
        ]
        if self.cache_bytes:
            caching, available = self.cache_bytes / 1e9, self.memory_bytes / 1e9
            found.append(("memory", f"{caching:.2f} GB of the {available:.2f} GB that are available"))
        organs = [
            (organ, *(f"{value(ml):.1f}" if ml else "-" for value in (np.median, min, max)), len(ml))
            for organ, ml in self.organ_ml.items()
        ]
        notes = [f"warning: {warning}" for warning in self.warnings[:WARNING_ROWS]]
        if len(self.warnings) > WARNING_ROWS:
            notes.append(f"... and {len(self.warnings) - WARNING_ROWS} more in .warnings")
        volumes = Table(("organ", "median, ml", "min", "max", "cases"), organs, notes + self.notes)
        return [Table(("data set", "found"), found), volumes]


def check_dataset(
    dataset: Dataset,
    spacing_mm: Sequence[float],
    *,
    workers: int | None = None,
    hardware: Hardware | None = None,
) -> DatasetReport:
    """Read every file of ``dataset`` and report its contents.

    Args:
        dataset: Cases to check.
        spacing_mm: Voxel spacing of the training grid in mm along x, y, z (right, anterior, superior), used to
            estimate the memory that preprocessed cases need.
        workers: Number of files that are read at the same time; None means as many as cores and memory allow.
        hardware: Ranks that check the same data set; each reads the voxels of its share. None means one rank.

    Raises:
        DatasetError: Some files have errors that would stop training or make its result wrong, or no label of a
            list contains an organ. The message lists all of them.
        InputError: The modality is not clear, see :func:`modality.is_ct`; or the ranks have other lists.
    """
    is_ct(dataset.modality)  # raises before any file is read
    scans = _list_scans(dataset)
    _run_check(check_header, scans, workers, "Checking headers")
    if hardware and hardware.ranks > 1:
        _agree(scans, hardware)
    same_list = _validates_on_training_cases(scans)
    valid = [scan for scan in scans if scan.valid]
    readable = _flag_repeats(valid, lambda s: s.key, "file", same_list)
    _run_check(check_pair, [s for s in readable if s.image and s.image.valid], 1, "Comparing images and labels")
    if not all(scan.valid for scan in scans):
        tqdm.write(f"{_error_table(scans)}\nChecking the voxels of the other files; interrupt to correct these first.")
    share = hardware.share(readable) if hardware else readable
    largest = max((np.prod(s.shape) * s.header.get_data_dtype().itemsize for s in share), default=0)
    threads = workers or most_workers(CHECKED_COPIES * largest)
    _run_check(lambda scan: check_voxels(scan, dataset), share, threads, "Checking voxels")
    if hardware:
        _exchange(readable, share, hardware)
    images = [scan for scan in readable if scan.kind == "image" and scan.digest]
    originals = _originals(images)
    _flag_repeats(images, lambda s: originals[id(s)], "voxels", same_list)
    _flag_lists_without_organs(scans)
    if not all(scan.valid for scan in scans):
        raise DatasetError(_error_table(scans))
    report = _report(scans, dataset, spacing_mm)
    if same_list:
        report.warnings.insert(0, "validation cases are the training cases: their Dice says nothing about other scans")
    return report


def image_faults(path: str | Path, modality: str, padding: Collection[float] = ()) -> list[Fault]:
    """Return the problems of one image file: of its header and, if none of them stops, of its voxels.

    Args:
        path: NIfTI file.
        modality: Modality of the image.
        padding: Intensities that stand for no measurement, such as DICOM's padding value after rescale.

    Raises:
        InputError: The modality is not clear; see :func:`swinunetr.data.modality.is_ct`.
    """
    return check_image(path, modality, padding).faults


def check_image(path: str | Path, modality: str, padding: Collection[float] = ()) -> Scan:
    """Return one image file with its problems as of :func:`image_faults`, and with what it holds, as far as read."""
    is_ct(modality)
    scan = Scan("test", Path(path).name, "image", str(path))
    dataset = Dataset(("background",), modality, [], [], [])
    for check in (check_header, lambda scan: check_voxels(scan, dataset, padding)):
        if scan.valid and (fault := _found_problem(check, scan)):
            scan.faults.append(fault)
    return scan


def check_headers(cases: Sequence[dict[str, str]]) -> list[Scan]:
    """Return the image of each case with the problem of its header, if any; no voxels are read."""
    scans = _list_scans(Dataset(("background",), "", [], [], list(cases)))
    _run_check(check_header, scans, None, "Checking headers")
    return scans


def _found_problem(check: Callable[[Scan], Fault | None], scan: Scan) -> Fault | None:
    """Return the problem that a check finds, or its error as one."""
    try:
        return check(scan)
    except Exception as error:  # damaged files raise many types of error
        return unreadable(scan.path, error)


def _list_scans(dataset: Dataset) -> list[Scan]:
    scans = []
    for split in ("training", "validation", "test"):
        for entry in getattr(dataset, split):
            scans.append(image := Scan(split, entry["name"], "image", entry["image"]))
            if "label" in entry:
                scans.append(Scan(split, entry["name"], "label", entry["label"], image, entry.get("label_map")))
    return scans


def _run_check(check: Callable[[Scan], Fault | None], scans: list[Scan], workers: int | None, title: str) -> None:
    """Run ``check`` on several scans at a time and add the problem that it finds, or its error, to each scan."""

    def problem(scan: Scan) -> Fault | None:
        return _found_problem(check, scan)

    for scan, fault in zip(scans, in_threads(problem, scans, title, workers), strict=True):
        scan.faults += [fault] if fault else []


def _agree(scans: list[Scan], hardware: Hardware) -> None:
    """Let all ranks go on with the same files and problems, whatever the paths and links on their machines are.

    Every rank takes over which files are one file from rank 0, and the problems of a header from the first rank with an
    error, or else with a warning. On several machines, a file whose bytes differ between them gets a problem.

    Raises:
        InputError: The ranks have different lists of cases.
    """
    listed = [(scan.split, scan.case, scan.kind) for scan in scans]
    if other := hardware.first_other(listed):
        rank, expected, found = other
        first, second = next(pair for pair in itertools.zip_longest(expected, found) if pair[0] != pair[1])
        raise InputError(
            f"json_path: expected the same cases on all ranks, found {len(expected)} files on rank 0 and {len(found)} "
            f"on rank {rank}. The first difference: {_listed(first)} on rank 0, {_listed(second)} on rank {rank}. Give "
            "all machines the same JSON and the same data."
        )
    ranks = hardware.gather([[(scan.file, scan.faults) for scan in scans]])
    for number, scan in enumerate(scans):
        scan.file = ranks[0][number][0]
        found = [(rank, files[number][1]) for rank, files in enumerate(ranks)]
        rank, faults = max(found, key=lambda pair: (any(fault.stops for fault in pair[1]), len(pair[1]) > 0))
        scan.faults = [replace(fault, what=f"{fault.what} (rank {rank})") if rank else fault for fault in faults]
    if hardware.several_machines:
        _flag_other_bytes(scans, hardware)


def _listed(scan: tuple[str, str, str] | None) -> str:
    return "{} case {}, {}".format(*scan) if scan else "nothing"


def _flag_other_bytes(scans: list[Scan], hardware: Hardware) -> None:
    """Add a problem to each file that differs between machines, whose ranks have hashed a part of the files each."""
    numbers = [number for number, scan in enumerate(scans) if scan.valid]
    own = numbers[hardware.local_rank :: hardware.local_ranks]
    hashes = in_threads(sha256, [scans[number].path for number in own], "Comparing the files of the machines")
    seen: dict[int, dict[str, int]] = {}  # first rank with each hash, by scan
    for number, digest, rank in hardware.gather([(*pair, hardware.rank) for pair in zip(own, hashes, strict=True)]):
        seen.setdefault(number, {}).setdefault(digest, rank)
    for number, ranks in seen.items():
        if len(ranks) > 1:
            first, other = list(ranks.values())[:2]
            what = f"another file on the machine of rank {other} than on that of rank {first}"
            scans[number].faults.append(Fault(what, "copy the data set to all machines again"))


def _exchange(scans: list[Scan], share: list[Scan], hardware: Hardware) -> None:
    """Take over what the other ranks found in the voxels of their shares."""
    names = ("faults", "digest", "scaling", "value_counts", "low", "high", "counts")
    found = dict(hardware.gather([(scan.key, {name: getattr(scan, name) for name in names}) for scan in share]))
    for scan in scans:
        vars(scan).update(found[scan.key])


def _validates_on_training_cases(scans: list[Scan]) -> bool:
    """Return whether both lists are the same, as in a trial run; a partial overlap is an error instead."""
    images = [[s.file for s in scans if s.kind == "image" and s.split == part] for part in ("training", "validation")]
    return bool(images[0]) and images[0] == images[1] and len(images[0]) == len(set(images[0]))


def _flag_repeats(scans: list[Scan], key: Callable[[Scan], tuple], same: str, same_list: bool) -> list[Scan]:
    """Add a problem to each scan with the key of an earlier one, and return the other scans.

    With ``same_list``, training and validation are the same list, and repeats between them are allowed.
    """
    first: dict[tuple, Scan] = {}
    for scan in scans:
        earlier = first.setdefault(key(scan), scan)
        if earlier is not scan and not (same_list and scan.split != earlier.split):
            remedy = "remove one of the two" if scan.split == earlier.split else "keep it in one of the two lists"
            # Two contrast phases can share a label, and a test scan is never used for training: these are warnings.
            stops = scan.kind == "image" and "test" not in (scan.split, earlier.split)
            scan.faults.append(Fault(f"same {same} as {earlier.split} case {earlier.case}", remedy, stops))
    return list(first.values())


def _originals(images: list[Scan]) -> dict[int, int]:
    """Return for the ``id`` of each image that of the first one with the same voxels, however these are stored.

    Only images with the same numbers of voxels by intensity are compared, so that few are read again.
    """
    alike: dict[tuple, list[Scan]] = {}
    originals = {}
    for image in images:
        others = alike.setdefault((*sorted(image.shape[:3]), image.counts), [])
        original = next((other for other in others if _same_voxels(image, other)), image)
        if original is image:
            others.append(image)
        originals[id(image)] = id(original)
    return originals


def _same_voxels(image: Scan, other: Scan) -> bool:
    """Return whether two images have the same intensities along x, y, z, up to the rounding of their storage."""
    if (image.shape, image.digest, image.scaling) == (other.shape, other.digest, other.scaling):
        return True
    step = max((image.high - image.low) / STEPS, 0.5 if image.high - image.low >= WHOLE_RANGE[0] else 0)
    first, second = (
        np.asarray(nib.as_closest_canonical(nib.load(scan.path)).dataobj).squeeze() for scan in (image, other)
    )
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=1.1 * step)


def _flag_lists_without_organs(scans: list[Scan]) -> None:
    """Make it an error if no label of a list has an organ: nothing could be learned, or every Dice would be NaN."""
    read = _read_scans(scans)
    for split, remedy in (
        ("training", "label these cases or train on others; the network would learn background alone"),
        ("validation", "label these cases or validate on others; every Dice would be NaN"),
    ):
        labels = [scan for scan in scans if scan.split == split and scan.kind == "label"]
        if labels and all(s.key in read and not any(read[s.key].value_counts) for s in labels):
            labels[0].faults.append(Fault(f"no {split} label contains an organ", remedy))


def _read_scans(scans: list[Scan]) -> dict[tuple, Scan]:
    """Return the scan by key for each file that was read: a label that several cases share is read for one of them."""
    return {scan.key: scan for scan in scans if scan.digest}


# ---------------------------------------------------------------------------------------------------------- headers


def check_header(scan: Scan) -> Fault | None:
    """Read the header and the affine of a file into ``scan``; return the problem found, if any."""
    if not Path(scan.path).is_file():
        return _missing(Path(scan.path))
    scan.stamp = stamp(scan.path)
    with _open(scan.path) as stream:
        stream.read(348)  # raises on damaged data, which nibabel would report as an unknown file type
        image = nib.load(scan.path)
        if not isinstance(image, nib.Nifti1Image):
            pair = isinstance(image, nib.AnalyzeImage)  # of which NIfTI pairs are subclasses
            found = "a pair of .hdr and .img" if pair else type(image).__name__
            return Fault(f"not one NIfTI file but {found}", "convert it to .nii.gz")
        if not is_nifti(scan.path):  # nibabel reads other compressions too, from which the header is not read here
            return Fault("the name does not end in .nii or .nii.gz", "convert it to .nii.gz")
        stream.seek(0)
        scan.header = type(image.header).from_fileobj(stream, check=False)
    scan.affine = image.affine
    if fault := _volume_fault(scan) or _geometry_fault(scan) or _direction_fault(image.header):
        return fault
    scan.faults += _geometry_warnings(scan, image.header)
    return None


def _missing(path: Path) -> Fault:
    """Return that a file is missing, with the name of one that is meant: of nnU-Net, in other letters or endings."""
    if path.is_dir():
        return Fault("a folder, not a file", "give the NIfTI file in it; convert DICOM first")
    if "\\" in path.name:
        return Fault("file is missing", "write / between the folders in the JSON, not \\")
    if path.is_symlink():
        target = os.readlink(path)
        return Fault(f"a link to '{target}', which is missing", "bring that file back, or correct the link")
    wanted = _plain_name(path.name)
    names = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    alike = next((name for name in names if is_nifti(name) and _plain_name(name) == wanted), None)
    remedy = "check data_root and the name in the JSON"
    if alike and unicodedata.normalize("NFC", alike) == unicodedata.normalize("NFC", path.name):
        remedy = "its folder has this name in another Unicode form (NFC or NFD): copy the name from there"
    elif alike:
        remedy = f"its folder has '{alike}': write that name in the JSON"
    return Fault("file is missing", remedy)


def _plain_name(file: str) -> str:
    """Return a file name without endings, the number of nnU-Net's first channel, case and Unicode form."""
    return unicodedata.normalize("NFC", case_name(file)).casefold().removesuffix("_0000")


def _open(path: str):
    """Open a file for reading bytes, decompressed if its name ends in ``.gz``."""
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")


def unreadable(path: str, error: Exception) -> Fault:
    """Return why a file cannot be read, given the error that reading it raised."""
    again = "copy or download it again"
    try:
        found = stand_in(path)
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as refused:
        error, found, start = refused, None, b""
    if isinstance(error, PermissionError):
        return Fault("no permission to read the file", "ask for access or copy it")
    if found:
        what, remedy = found
        return Fault(f"{what}, not a scan", remedy)
    if isinstance(error, OSError) and (error.errno or not start):  # of the operating system, not of nibabel or gzip
        return Fault(f"cannot be read ({error.strerror or _first_line(error)})", again)
    if isinstance(error, MemoryError):
        return Fault(f"too large for the memory ({_first_line(error)})", "crop it, or correct its header")
    if path.lower().endswith(".gz") != start.startswith(b"\x1f\x8b"):
        return Fault("the name says gzip and the content is not gzip, or the reverse", "rename it to .nii.gz or .nii")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return Fault("gzip data are damaged", again)
    if isinstance(error, EOFError) or "Expected" in str(error):  # nibabel: "Expected ... bytes, got ..."
        return Fault("file is truncated: it ends before its last voxel", again)
    return Fault(f"not readable as NIfTI ({_first_line(error)})", "convert it to .nii.gz again")


def _first_line(error: Exception) -> str:
    """Return at most 60 characters of an error's first line, or its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:60]


def _volume_fault(scan: Scan) -> Fault | None:
    dtype, axes = scan.header.get_data_dtype(), scan.shape
    if dtype.kind not in "iuf":
        return Fault("voxels are colours or complex numbers", "convert it to one grey value per voxel")
    if axes[3:] == (1,):  # MONAI uses one such axis as the channel
        axes = axes[:3]
    if len(axes) != 3 or min(axes) < 2:
        return Fault(f"shape {_dimensions(axes)} is not a 3D volume", "give one volume of several slices per file")
    start, header_bytes = scan.header["vox_offset"], scan.header.single_vox_offset
    if scan.header["magic"] == scan.header.single_magic and start < header_bytes:  # nibabel takes the header for voxels
        return Fault(f"voxels begin at byte {start:g}, in the header", f"set vox_offset to {header_bytes}")
    return None


def _geometry_fault(scan: Scan) -> Fault | None:
    least, most = SPACING_LIMITS_MM
    remedy = "correct the header or convert the scan again"
    lengths, pixdim = scan.spacing, scan.header["pixdim"][1:4]
    if not np.isfinite(scan.affine).all():
        return Fault("affine contains NaN or infinity", remedy)
    for mm in (lengths, np.abs(pixdim)):
        if not ((mm >= least) & (mm <= most)).all():  # written so that NaN is an error too
            return Fault(f"spacing {_dimensions(mm)} mm, expected {least:g} to {most:g}", remedy)
    if voxel_volume_mm3(scan.affine) < 0.01 * lengths.prod():
        return Fault("affine is singular: its axes lie in one plane", remedy)
    return None


def _direction_fault(header: nib.Nifti1Header) -> Fault | None:
    if (angle := turned_degrees(header)) <= REVERSED_DEGREES:
        return None
    what = f"sform and qform contradict each other by {angle:.0f} degrees: left and right are in doubt"
    return Fault(what, "compare both with the original in a viewer, then store the right one as both")


def _geometry_warnings(scan: Scan, header: nib.Nifti1Header) -> list[Fault]:
    """Return what is unusual in the geometry of a scan; ``header`` is its header as nibabel corrected it."""
    found = []
    if not (header["sform_code"] or header["qform_code"]):
        found.append(("neither sform nor qform is set", "check left and right in a viewer"))
    if (pixdim := other_spacing(header, scan.affine)) is not None:
        what = (
            f"the spacing of the sform, {_dimensions(scan.spacing)} mm, is used; pixdim says {_dimensions(pixdim)} mm"
        )
        found.append((what, "correct the sform if pixdim is right: volumes and distances depend on it"))
    tilt, turned = tilt_degrees(scan.affine), turned_degrees(header)
    if tilt > TILT_DEGREES:
        what = f"axes are {tilt:.1f} degrees from right angles (gantry tilt); volumes and distances allow for it"
        remedy = "viewers that build on ITK do not open it; dcm2niix names a resampled file for them with _Tilt"
        found.append((what, remedy))
    elif turned > TURNED_DEGREES:
        what = f"sform and qform differ by {turned:.1f} degrees; the sform is used"
        found.append((what, "check left and right in a viewer"))
    if scan.spacing.max() > THICK_SLICE_MM:
        found.append((f"slices are {scan.spacing.max():g} mm thick", "small organs may be missed"))
    return [Fault(what, remedy, stops=False) for what, remedy in found]


def check_pair(label: Scan) -> Fault | None:
    """Compare the grid of a label with the grid of its image; return the problem found, if any.

    The corners of the two volumes may be 0.001 mm apart. Up to a tenth of a voxel is a warning: a qform is stored as
    a float32 quaternion, and can differ by that much from an sform with the same geometry.
    """
    if label.shape[:3] != label.image.shape[:3]:
        what = f"shape {_dimensions(label.shape)}, its image has {_dimensions(label.image.shape)}"
        return Fault(what, "export the label on the image's grid")
    corners = np.array(list(itertools.product(*((0, n - 1) for n in label.shape[:3]), [1])))
    apart = np.linalg.norm(corners @ (label.affine - label.image.affine).T, axis=1).max()  # mm
    if apart <= 1e-3:
        return None
    what = f"affine differs from its image's: corners up to {apart:.3g} mm apart"
    return Fault(what, "export the label with the image's affine", stops=bool(apart > 0.1 * label.spacing.min()))


# ----------------------------------------------------------------------------------------------------------- voxels


def check_voxels(scan: Scan, dataset: Dataset, padding: Collection[float] = ()) -> Fault | None:
    """Read all voxels of a file and check their values; return the problem found, if any.

    Voxels keep their stored data type, which saves memory. ``padding`` is that of :func:`image_faults`.
    """
    with _open(scan.path) as stream:
        proxy = type(nib.load(scan.path)).from_stream(stream).dataobj  # Nifti1Image or Nifti2Image
        voxels, slope, inter = proxy.get_unscaled(), proxy.slope, proxy.inter
        while stream.read(1 << 20):  # gzip verifies its checksum at the end of the file
            pass
        excess = stream.tell() - proxy.offset - voxels.nbytes
    if excess >= voxels.nbytes / voxels.shape[-1]:  # a slice or more
        what = f"file holds {excess / voxels.nbytes:.1%} more data than a volume of {_dimensions(voxels.shape)}"
        scan.faults.append(Fault(what, "look at the scan: its header may be wrong", stops=False))
    scan.digest, scan.scaling = hashlib.blake2b(voxels.T).digest(), (float(slope), float(inter))
    if scan.kind == "label":
        scan.value_counts = count_values(voxels, slope, inter)
        fault = _id_fault(scan.value_counts, scan.label_map, len(dataset.classes) - 1)
        if fault:
            return fault
        scan.value_counts = class_counts(scan.value_counts, scan.label_map)
        return _empty_fault(scan)
    return _check_intensities(scan, voxels, dataset.modality, padding)


def _check_intensities(scan: Scan, voxels: np.ndarray, modality: str, padding: Collection[float]) -> Fault | None:
    """Judge the intensities of an image; return the error, if any, and add warnings to the scan."""
    slope, inter = scan.scaling
    if not np.isfinite([voxels.min(), voxels.max()]).all():
        return Fault("voxels are NaN or infinite", "replace them, in CT by -1000 (air)")
    found = histogram(voxels, slope, inter)
    scan.low, scan.high = found.values[[0, -1]]
    scan.counts = hashlib.blake2b(found.counts.tobytes()).digest()
    if scan.low == scan.high:
        return Fault(f"all voxels are {scan.low:g}", "convert the scan again")
    if _like_label_map(voxels, found.values):
        return Fault(f"a label map, of {len(found.values)} different values", "give the scan, or leave this file out")
    faults = hounsfield_faults(found, padding) if is_ct(modality) else other_faults(found, modality)
    scan.faults += [fault for fault in faults if not fault.stops]
    return next((fault for fault in faults if fault.stops), None)


def _like_label_map(voxels: np.ndarray, values: np.ndarray) -> bool:
    """Return whether an image is a label map, as lies beside the scans of many collections; ``values`` are different.

    A label map has a few whole ids, and its voxels have mostly the id of their neighbours. Voxels of a scan, even of
    few grey values, have noise.
    """
    broken = np.abs(values - np.rint(values)) > WHOLE_RANGE[0] / STEPS  # the step of a histogram that is not by ones
    if values[0] < 0 or values[-1] > MOST_IMAGE_ID or broken.any():
        return False
    equal = voxels[1:] == voxels[:-1]
    inside = (voxels[1:] != voxels.min()) | ~equal  # not both background
    return len(values) < FEWEST_GREY_VALUES or bool(equal[inside].mean() > MOST_EQUAL_NEIGHBOURS)


def count_values(voxels: np.ndarray, slope: float, inter: float) -> dict[float, int]:
    """Return the number of voxels of each scaled value, up to the plane where there are too many different values.

    Whole numbers that storage has changed are whole again; see :func:`swinunetr.data.label_maps.whole_ids`.

    Args:
        voxels: Stored values of a volume. It is counted plane by plane, since sorting all of it at once needs several
            times its memory.
        slope: Factor from stored to scaled values.
        inter: Offset that is added after ``slope``.
    """
    counts: Counter[float] = Counter()
    for plane in voxels.T:
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
    if broken := [value for value in ids if not value.is_integer()]:
        shown = _first([f"{value:.7g}" for value in sorted(broken)])
        return Fault(f"label ids are not whole numbers: {shown}", "resample labels with nearest neighbour")
    if len(ids) > MOST_LABEL_VALUES and label_map:  # counted only in part
        return Fault(f"more than {MOST_LABEL_VALUES} different label ids", "give a label, not a scan")
    unknown = label_map.unknown(ids) if label_map else [value for value in ids if not 0 <= value <= last]
    if not unknown:
        return None
    if label_map and label_map.name:
        what = f"label ids that label_map '{label_map.name}' lacks: {_smallest(unknown)}"
        return Fault(what, 'add them to the map, or "other" for all that are not listed')
    known = f"0 to {last}" + (f" and {label_map.classes[-1][0]} (ignore)" if label_map else "")
    what = f"label ids outside the JSON's {known}: {_smallest(unknown)}"
    return Fault(what, "relabel these voxels, or name the ids in the JSON")


def _empty_fault(scan: Scan) -> Fault | None:
    """Check that a label has an organ among the voxels that count; collections of tumours have cases without one."""
    if any(scan.value_counts):
        return None
    if scan.value_counts:
        return Fault("label is empty: no organ", "label the case, unless it has none", stops=False)
    what = "label is empty: all voxels are ignored"
    return Fault(what, "label the case or remove it", stops=scan.split == "training")


# ----------------------------------------------------------------------------------------------------------- report


def _dimensions(numbers: Iterable[float]) -> str:
    """Return numbers as in ``1.5 x 1.5 x 2``."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def _first(names: list[str]) -> str:
    """Return the first four names, with dots if there are more."""
    return ", ".join(names[:4]) + ", ..." * (len(names) > 4)


def _smallest(values: list[float]) -> str:
    """Return the four smallest values, with dots if there are more."""
    return _first([f"{value:g}" for value in sorted(values)])


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def _ranges(rows: np.ndarray) -> str:
    """Return the range of each column, such as ``512 x 512 x 85..198``."""
    return " x ".join("..".join(f"{n:.4g}" for n in sorted({column.min(), column.max()})) for column in rows.T)


def _rows(scans: list[Scan], stops: bool) -> list[tuple[str, str, str, str]]:
    """Return case, file relative to the common folder, problem and remedy of all errors or of all warnings."""
    found = [(scan, fault) for scan in scans for fault in scan.faults if fault.stops == stops]
    root = _common_folder(scans)
    return [(scan.case, os.path.relpath(scan.path, root), fault.what, fault.remedy) for scan, fault in found]


def _common_folder(scans: list[Scan]) -> str:
    return os.path.commonpath([os.path.dirname(os.path.abspath(scan.path)) for scan in scans])


def _error_table(scans: list[Scan]) -> str:
    rows = _rows(scans, stops=True)
    table = [("case", "file", "problem", "what to do"), *rows[:ERROR_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table]
    if rest := Counter(remedy for *_, remedy in rows[ERROR_ROWS:]):
        lines.append(f"... and {len(rows) - ERROR_ROWS} more: " + "; ".join(f"{n} x {r}" for r, n in rest.items()))
    files = len({scan.path for scan in scans})
    return "\n".join(
        [f"{len(rows)} problem{'s' * (len(rows) > 1)} in the {files} files under '{_common_folder(scans)}':", *lines]
    )


def _report(scans: list[Scan], dataset: Dataset, spacing_mm: Sequence[float]) -> DatasetReport:
    classes = dataset.classes
    images = [scan for scan in scans if scan.kind == "image"]
    labels = [scan for scan in scans if scan.kind == "label" and scan.value_counts]
    organ_ml = {
        organ: [_volume_ml(s, i) for s in labels if i in s.value_counts] for i, organ in enumerate(classes) if i
    }
    cache_bytes = CACHED_BYTES * sum(_training_voxels(s, spacing_mm) for s in images if s.split != "test")
    memory_bytes = available_memory()
    warnings = [f"{case} {file}: {what}; {remedy}" for case, file, what, remedy in _rows(scans, stops=False)]
    maps = Counter(scan.label_map for scan in scans if scan.label_map and scan.label_map.name)
    warnings += _class_warnings(scans, classes) + _map_warnings(maps, classes)
    if cache_bytes > 0.8 * memory_bytes:  # the rest is needed for training itself
        warnings.append(
            "all cases may not fit into memory, where fine-tuning keeps them; use fewer cases or a larger spacing_mm"
        )
    return DatasetReport(
        cases=dict(Counter(scan.split for scan in images)),
        modality=dataset.modality,
        shapes=np.array([scan.shape[:3] for scan in images]),
        spacings=np.array([scan.spacing for scan in images]),
        orientations=dict(Counter("".join(nib.aff2axcodes(scan.affine)) for scan in images)),
        organ_ml=organ_ml,
        cache_bytes=cache_bytes,
        memory_bytes=memory_bytes,
        warnings=warnings,
        fingerprint=fingerprints(scans),
        notes=[note for label_map in maps for note in merged_ids(label_map, classes)],
        stamps={scan.path: scan.stamp for scan in scans},
    )


def describe_images(scans: list[Scan], modality: str) -> Table:
    """Return a table of images with valid headers: number, shapes, spacings, orientations and how they are scaled."""
    return _report(scans, Dataset(("background",), modality, [], [], []), (1, 1, 1)).tables()[0]


def _class_warnings(scans: list[Scan], classes: tuple[str, ...]) -> list[str]:
    """Return warnings of classes that have no voxel that counts in a list of cases."""
    read = _read_scans(scans)
    labels = [(scan.split, scan.case, read[scan.key].value_counts) for scan in scans if scan.kind == "label"]
    training, validation = (
        {case: counts for split, case, counts in labels if split == section} for section in ("training", "validation")
    )
    warnings = []
    if absent := _absent(training, classes):
        warnings.append(f"no training case has {', '.join(absent)}; the network cannot learn it")
    if absent := [organ for organ in _absent(validation, classes) if organ != classes[0]]:
        what = "its Dice is not known and does not count in the choice of the best step"
        warnings.append(f"no validation case has {', '.join(absent)}; {what}")
    if bare := [case for case, counts in validation.items() if counts and 0 not in counts]:
        what = "what the network finds outside the organs costs no Dice there"
        warnings.append(f"no voxel of {classes[0]} counts in the validation cases {_first(bare)}; {what}")
    return warnings


def _absent(counts: dict[str, dict[float, int]], classes: tuple[str, ...]) -> list[str]:
    """Return the classes that none of the labelled cases has, from their voxels by class; none without such cases."""
    present = set().union(*counts.values())
    return [name for number, name in enumerate(classes) if number not in present] if counts else []


def _map_warnings(maps: dict[LabelMap, int], classes: tuple[str, ...]) -> list[str]:
    """Return a warning of each map that lets organs count as background; ``maps`` are numbers of cases."""
    warnings = []
    for label_map, cases in maps.items():
        if missing := unlabelled_organs(label_map, classes):
            what = f"label_map '{label_map.name}' has no id for {', '.join(missing)}: background in its {cases} cases"
            remedy = f'if these are in the scans, map the ids of {classes[0]} to "ignore"'
            warnings.append(f"{what}; {remedy}")
    return warnings


def fingerprints(scans: list[Scan]) -> dict[str, str]:
    """Return a hash of image and label by case; files whose voxels were not read are left out."""
    read = _read_scans(scans)
    contents: dict[str, dict[str, tuple]] = {}
    for scan in filter(lambda scan: scan.key in read, scans):
        contents.setdefault(scan.case, {})[scan.kind] = read[scan.key].content
    return {
        case: hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
        for case, content in contents.items()
    }


def _read_fingerprint(entry: dict) -> str:
    """Return the hash of the present content of one case."""
    dataset = Dataset(("background",), "", [], [], [entry])
    scans = _list_scans(dataset)
    for scan in scans:
        check_header(scan)
        check_voxels(scan, dataset)
    return fingerprints(scans)[entry["name"]]


def _volume_ml(label: Scan, value: int) -> float:
    """Return the volume of one class in ml."""
    return float(label.value_counts[value] * voxel_volume_mm3(label.affine) / 1000)


def _training_voxels(scan: Scan, spacing_mm: Sequence[float]) -> int:
    """Return the number of voxels of a scan on the training grid, before it is cropped to the body."""
    axes = nib.io_orientation(scan.affine)[:, 0].astype(int)  # for each file axis: 0, 1 or 2 for x, y or z
    steps = (np.array(scan.shape[:3]) - 1) * scan.spacing / np.array(spacing_mm)[axes]
    return int(np.prod(np.round(steps) + 1))
