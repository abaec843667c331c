"""Check every file of a data set before training.

All headers come first, then all voxels. The check of one file stops at its first error; those of the other files
continue, so that one table lists the problems of all files. Each step returns the files with what it found.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm.auto import tqdm

from swinunetr.data.checks.files import CheckedFile, check_voxels, list_files
from swinunetr.data.checks.headers import compare_grids, read_header, unreadable
from swinunetr.data.checks.hounsfield import STEPS, WHOLE_RANGE
from swinunetr.data.checks.report import DatasetReport, error_table, make_report
from swinunetr.data.checks.voxels import Voxels
from swinunetr.data.geometry import load_nifti
from swinunetr.data.lists import Dataset
from swinunetr.data.modality import is_ct
from swinunetr.errors import DatasetError, Fault, InputError
from swinunetr.files import sha256
from swinunetr.hardware import Hardware
from swinunetr.machine import most_workers
from swinunetr.threads import in_threads

CHECKED_COPIES = 3  # of the stored voxels of a file in memory while they are checked, at most


def check_dataset(
    dataset: Dataset, spacing_mm: Sequence[float], *, workers: int | None = None, hardware: Hardware | None = None
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
    files = in_threads(_with_header, list_files(dataset), "Checking headers", workers)
    if hardware and hardware.ranks > 1:
        files = _agreed(files, hardware)
    same_list = _validates_on_training_cases(files)

    # A file that several cases share is read once.
    numbers: dict[tuple, int] = {}  # by key, of the first file that has it
    firsts = {number: numbers.setdefault(file.key, number) for number, file in enumerate(files) if file.valid}
    readable = list(numbers.values())
    files = _with_faults(files, _repeats(files, firsts, "file", same_list))
    files = _with_faults(files, _other_grids(files, readable))
    if not all(file.valid for file in files):
        tqdm.write(f"{error_table(files)}\nChecking the voxels of the other files; interrupt to correct these first.")

    files = _with_voxels(files, readable, dataset, workers, hardware)
    originals = _originals({n: files[n] for n in readable if files[n].kind == "image" and files[n].was_read})
    files = _with_faults(files, _repeats(files, originals, "voxels", same_list))
    files = _with_faults(files, _lists_without_organs(files))
    if not all(file.valid for file in files):
        raise DatasetError(error_table(files))
    report = make_report(files, dataset, spacing_mm)
    if same_list:
        report.warnings.insert(0, "validation cases are the training cases: their Dice says nothing about other scans")
    return report


def image_faults(path: str | Path, modality: str, padding: Collection[float] = ()) -> list[Fault]:
    """Return the problems of one image file, by :func:`check_image`."""
    return list(check_image(path, modality, padding).faults)


def check_image(path: str | Path, modality: str, padding: Collection[float] = ()) -> CheckedFile:
    """Return one image file with the problems of its header and, if none of them stops, with those of its voxels.

    ``padding`` are intensities that stand for no measurement, such as DICOM's padding value after rescale.

    Raises:
        InputError: The modality is not clear; see :func:`modality.is_ct`.
    """
    is_ct(modality)
    dataset = Dataset(("background",), modality, [], [], [{"name": Path(path).name, "image": str(path)}])
    image = _with_header(*list_files(dataset))
    if not image.valid:
        return image
    voxels = _voxels(image, dataset, padding)
    return replace(image, voxels=voxels).with_faults(*voxels.faults)


def check_headers(cases: Sequence[dict[str, str]]) -> list[CheckedFile]:
    """Return the image of each case with the problems of its header; no voxels are read."""
    return in_threads(_with_header, list_files(Dataset(("background",), "", [], [], list(cases))), "Checking headers")


def _with_header(file: CheckedFile) -> CheckedFile:
    header = read_header(file.path)
    return replace(file, header=header, faults=header.faults)


def _voxels(file: CheckedFile, dataset: Dataset, padding: Collection[float] = ()) -> Voxels:
    try:
        return check_voxels(file, dataset, padding)
    except Exception as error:
        return Voxels((unreadable(file.path, error),))


def _with_faults(files: Sequence[CheckedFile], faults: Mapping[int, Fault]) -> list[CheckedFile]:
    """Return all files, those of some numbers with another problem."""
    return [file.with_faults(faults[number]) if number in faults else file for number, file in enumerate(files)]


def _with_voxels(
    files: list[CheckedFile], readable: list[int], dataset: Dataset, workers: int | None, hardware: Hardware | None
) -> list[CheckedFile]:
    """Return all files with their voxels; each rank reads its share of the ``readable`` and takes over the others."""
    share = [files[number] for number in (hardware.share(readable) if hardware else readable)]
    largest = max((np.prod(file.header.shape) * file.header.voxel_bytes for file in share), default=0)
    threads = workers or most_workers(CHECKED_COPIES * largest)
    results = in_threads(lambda file: _voxels(file, dataset), share, "Checking voxels", threads)
    by_key = [(file.key, voxels) for file, voxels in zip(share, results, strict=True)]
    voxels = dict(hardware.gather(by_key) if hardware else by_key)
    read = [replace(file, voxels=voxels.get(file.key, Voxels())) for file in files]
    for number in readable:  # so that the problems of a file that several cases share are shown once
        read[number] = read[number].with_faults(*read[number].voxels.faults)
    return read


def _agreed(files: Sequence[CheckedFile], hardware: Hardware) -> list[CheckedFile]:
    """Return the same files and problems on all ranks, whatever the paths and links on their machines are.

    Every rank takes over which files are one file from rank 0, and the problems of a header from the first rank with an
    error, or else with a warning. On several machines, a file whose bytes differ between them gets a problem.
    """
    listed = [(file.split, file.case, file.kind) for file in files]
    if difference := hardware.first_other(listed):
        rank, expected, other = difference
        differing = next(pair for pair in itertools.zip_longest(expected, other) if pair[0] != pair[1])
        first, second = ("{} case {}, {}".format(*file) if file else "nothing" for file in differing)
        raise InputError(
            f"json_path: expected the same cases on all ranks, found {len(expected)} files on rank 0 and {len(other)} "
            f"on rank {rank}. The first difference: {first} on rank 0, {second} on rank {rank}. Give "
            "all machines the same JSON and the same data."
        )
    agreed = []
    ranks = hardware.gather([[(file.real_path, file.faults) for file in files]])
    for file, results in zip(files, zip(*ranks, strict=True), strict=True):
        by_rank = enumerate(faults for _, faults in results)
        rank, faults = max(by_rank, key=lambda pair: (any(fault.stops for fault in pair[1]), len(pair[1]) > 0))
        if rank:
            faults = tuple(replace(fault, what=f"{fault.what} (rank {rank})") for fault in faults)
        agreed.append(replace(file, real_path=results[0][0], faults=faults))
    return _with_faults(agreed, _other_bytes(agreed, hardware)) if hardware.several_machines else agreed


def _other_bytes(files: Sequence[CheckedFile], hardware: Hardware) -> dict[int, Fault]:
    """Return a problem of each file that differs between machines, whose ranks hash a part of the files each."""
    numbers = [number for number, file in enumerate(files) if file.valid]
    share = numbers[hardware.local_rank :: hardware.local_ranks]
    hashes = in_threads(sha256, [files[number].path for number in share], "Comparing the files of the machines")
    first_ranks: defaultdict[int, dict[str, int]] = defaultdict(dict)  # with each hash, by file
    for number, digest, rank in hardware.gather([(*pair, hardware.rank) for pair in zip(share, hashes, strict=True)]):
        first_ranks[number].setdefault(digest, rank)
    faults = {}
    for number, ranks in first_ranks.items():
        if len(ranks) > 1:
            first, other = list(ranks.values())[:2]
            what = f"another file on the machine of rank {other} than on that of rank {first}"
            faults[number] = Fault(what, "copy the data set to all machines again")
    return faults


def _validates_on_training_cases(files: Sequence[CheckedFile]) -> bool:
    """Return whether both lists are the same, as in a trial run; a partial overlap is an error instead."""
    training, validation = (
        [file.real_path for file in files if file.kind == "image" and file.split == split]
        for split in ("training", "validation")
    )
    return bool(training) and training == validation and len(training) == len(set(training))


def _repeats(files: Sequence[CheckedFile], firsts: Mapping[int, int], same: str, same_list: bool) -> dict[int, Fault]:
    """Return a problem of each file that repeats an earlier one, whose number ``firsts`` gives; ``same`` says in what.

    With ``same_list``, training and validation are the same list, and repeats between them are allowed.
    """
    faults = {}
    for number, first in firsts.items():
        file, earlier = files[number], files[first]
        if first == number or (same_list and file.split != earlier.split):
            continue
        remedy = "remove one of the two" if file.split == earlier.split else "keep it in one of the two lists"
        # Two contrast phases can share a label, and a test scan is never used for training: these are warnings.
        stops = file.kind == "image" and "test" not in (file.split, earlier.split)
        faults[number] = Fault(f"same {same} as {earlier.split} case {earlier.case}", remedy, stops)
    return faults


def _other_grids(files: Sequence[CheckedFile], readable: Sequence[int]) -> dict[int, Fault]:
    """Return a problem of each readable label that does not lie on the grid of its image, which comes before it."""
    labels = [n for n in readable if files[n].kind == "label" and files[n - 1].valid]
    headers = [(files[n].header, files[n - 1].header) for n in labels]
    faults = in_threads(lambda pair: compare_grids(*pair), headers, "Comparing images and labels", 1)
    return {number: fault for number, fault in zip(labels, faults, strict=True) if fault}


def _originals(images: Mapping[int, CheckedFile]) -> dict[int, int]:
    """Return for the number of each image that of the first one with the same voxels, however these are stored."""
    alike: defaultdict[tuple, list[int]] = defaultdict(list)  # by what equal voxels share, so that few are read again
    originals = {}
    for number, image in images.items():
        others = alike[tuple(sorted(image.header.shape[:3])), image.voxels.histogram]
        originals[number] = next((other for other in others if _same_voxels(image, images[other])), number)
        if originals[number] == number:
            others.append(number)
    return originals


def _same_voxels(image: CheckedFile, other: CheckedFile) -> bool:
    """Return whether two images have the same intensities along x, y, z, up to the rounding of their storage."""
    stored = [(file.header.shape, file.voxels.digest, file.voxels.scaling) for file in (image, other)]
    if stored[0] == stored[1]:
        return True
    span = image.voxels.high - image.voxels.low
    step = max(span / STEPS, 0.5 if span >= WHOLE_RANGE[0] else 0)
    first, second = (
        np.asarray(nib.as_closest_canonical(load_nifti(file.path)).dataobj).squeeze() for file in (image, other)
    )
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=1.1 * step)


def _lists_without_organs(files: Sequence[CheckedFile]) -> dict[int, Fault]:
    """Return an error if no label of a list has an organ: nothing could be learned, or every Dice would be NaN."""
    faults = {}
    for split, remedy in (
        ("training", "label these cases or train on others; the network would learn background alone"),
        ("validation", "label these cases or validate on others; every Dice would be NaN"),
    ):
        labels = [n for n, file in enumerate(files) if file.split == split and file.kind == "label"]
        if labels and all(files[n].was_read and not any(files[n].voxels.class_voxels) for n in labels):
            faults[labels[0]] = Fault(f"no {split} label contains an organ", remedy)
    return faults
