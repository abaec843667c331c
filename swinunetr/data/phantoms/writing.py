"""Phantoms as NIfTI files: those of a list or without labels, made once, and a command for any cases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from tqdm.auto import tqdm

from swinunetr.data.folders import case_name
from swinunetr.data.lists import read_datalist
from swinunetr.data.organs import ORGANS
from swinunetr.data.phantoms.acquisition import GRIDS, Phantom, make_phantom
from swinunetr.errors import InputError
from swinunetr.files import replacing, write_json

PHANTOM_VERSION = 1  # raised with each change of the phantoms, so that folders of other versions are made again
FIRST_UNLABELLED = 1001  # the ids of BTCV, which fine-tuning uses, end at 80
Make = Callable[[int, str, int], Phantom]  # from case id, grid and seed


def write_phantoms(json_path: str | Path, root: str | Path) -> Path:
    """Write a synthetic CT for each labelled case of the JSON that is not yet in ``root``, and return ``root``.

    A CT that another version of this module wrote there is made again.

    Raises:
        InputError: The JSON does not list the 13 organs of BTCV, which are the organs of the phantoms, it has
            ``label_maps``, or ``root`` cannot be written to.
    """
    content, classes = read_datalist(json_path, ("training",))
    if len(classes) != len(ORGANS) + 1:
        raise InputError(
            f"json_path: expected the 13 organs of BTCV, which the phantoms have, found {len(classes) - 1} organs in "
            f"'{json_path}'. Set data_root to the folder of your own data, or choose a list from json_files/."
        )
    entries = [entry for name in ("training", "validation") for entry in content[name]]
    if any(entry["label_map"].name for entry in entries if "label_map" in entry):
        what = 'the ids in the label files of phantoms are those of "labels"'
        raise InputError(f"json_path: '{json_path}' has label_maps, but {what}. Set data_root, or remove the maps.")
    digits = ("".join(filter(str.isdigit, case_name(entry["image"]))) for entry in entries)
    cases = [(int(number or 0), (e["image"], e["label"])) for number, e in zip(digits, entries, strict=True)]
    return _write_due(Path(root).expanduser(), cases)


def write_unlabelled_phantoms(root: str | Path, count: int = 40) -> Path:
    """Write ``count`` synthetic CTs without labels, as :func:`write_phantoms` does, and return ``root``.

    Raises:
        InputError: ``root`` cannot be written to.
    """
    numbers = range(FIRST_UNLABELLED, FIRST_UNLABELLED + count)
    return _write_due(Path(root).expanduser(), [(number, (f"phantom{number}.nii.gz",)) for number in numbers])


def _write_due(root: Path, cases: Sequence[tuple[int, tuple[str, ...]]]) -> Path:
    """Write the phantoms, given by id and files, that ``root`` lacks or has of another version; return ``root``.

    ``phantoms.json`` lists the files that were written, with their version. All other files stay as they are.
    """
    try:
        versions = _read_versions(root)
        there = {file for _, files in cases for file in files if (root / file).is_file()}
        due = [
            (number, files)
            for number, files in cases
            if there.intersection(files) <= versions.keys()
            and any(file not in there or versions[file] != PHANTOM_VERSION for file in files)
        ]
        if due:
            _note_version(root, [file for _, files in due for file in files], "not complete")
        for number, files in tqdm(due, desc="Making CT phantoms", disable=not due):
            write_phantom(number, *(root / file for file in files))
            _note_version(root, files, PHANTOM_VERSION)
    except OSError as error:
        raise InputError(
            f"data_root: phantoms cannot be written to '{root}' ({error.strerror or error}). Make room or ask for "
            "permission to write there, or set data_root to a folder of scans."
        ) from None
    return root


def _read_versions(root: Path) -> dict[str, object]:
    """Return the versions of the files of phantoms in ``root``; empty if none are noted."""
    try:
        content = json.loads((root / "phantoms.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _note_version(root: Path, files: Iterable[str], version: int | str) -> None:
    write_json(_read_versions(root) | dict.fromkeys(files, version), root / "phantoms.json")


def write_phantom(
    case_id: int,
    image_path: str | Path,
    label_path: str | Path | None = None,
    grid: str = "demo",
    seed: int = 0,
    make: Make = make_phantom,
) -> None:
    """Write one case that ``make`` makes as NIfTI: the image as int16 HU and, with a path, the label as uint8."""
    phantom = make(case_id, grid, seed)
    write_nifti(phantom.image, phantom.affine, Path(image_path))
    if label_path is not None:
        write_nifti(phantom.label, phantom.affine, Path(label_path))


def write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write an array as NIfTI; a write that fails leaves an existing file unchanged."""
    nifti = nibabel.Nifti1Image(array, affine)
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nifti.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nibabel.save(nifti, temporary)


def main(arguments: list[str] | None = None, make: Make = make_phantom) -> None:
    """Write synthetic cases to a folder in the layout of BTCV."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="output: imagesTr/img0001.nii.gz, labelsTr/label0001.nii.gz")
    parser.add_argument("--cases", type=int, nargs="+", required=True, help="case ids, such as 1 2 35")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    for case in args.cases:
        image, label = f"imagesTr/img{case:04d}.nii.gz", f"labelsTr/label{case:04d}.nii.gz"
        write_phantom(case, args.folder / image, args.folder / label, args.grid, args.seed, make)
