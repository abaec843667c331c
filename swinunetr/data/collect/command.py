"""From folders of collections to a list: recognise, make the list, write it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swinunetr.data.collect.cases import FoundCollection
from swinunetr.data.collect.dicom_tree import LAYOUT as DICOM
from swinunetr.data.collect.dicom_tree import collect_dicom
from swinunetr.data.collect.layouts import is_dicom_tree, recognise
from swinunetr.data.collect.listing import common_root, make_list
from swinunetr.data.collect.structures import MADE_BY
from swinunetr.data.lists import NOT_A_LIST, read_datalist, read_json
from swinunetr.data.modality import dicom_modality
from swinunetr.errors import InputError
from swinunetr.files import replacing, safe_name, what_is_there
from swinunetr.tables import Table, Tables

DIGEST = "sha256"  # key of a list: hash of all else in it, by which a change by hand is seen


def collect(
    folders: Sequence[str | Path],
    list_path: str | Path,
    as_list: str | Path = "",
    labels: str | Path = "",
    validation: float | None = None,
    folds: int | None = None,
    names: Mapping[str, str] | None = None,
    modality: str = "",
    structures_as: str | Path = "",
) -> Tables:
    """Write a list of the cases in folders of collections, and return a report on it. No folder is changed.

    The last part of the report says where the list is, and the command that trains.

    Args:
        folders: Folders, each of one collection.
        list_path: JSON to write; one that this command wrote earlier is replaced if it was not changed since.
        as_list: JSON whose classes the labels are to mean, by their names; empty: classes are the labels' own names.
        labels: Folder for labels that are joined of one file per structure; empty: beside the list.
        validation: Fraction of the patients to validate on; see :func:`swinunetr.data.collect.splits.split`.
        folds: Number of folds that the list is for.
        names: Names to use in place of those of the collections, or for ids without names.
        modality: Modality where the folders do not say it, or hold several; empty: CT.
        structures_as: As ``as_list``, but only where NIfTI folders have one file per structure.

    Raises:
        InputError: A folder is not recognised, labels do not fit together, or the list would replace another file.
        WriteError: The list or a joined label could not be written.
    """
    path = _expanded(list_path, "list_path")
    _check_replaceable(path)
    joined = _expanded(labels, "labels") if labels else path.with_name(f"{path.stem}_labels")
    classes = _classes(as_list) if as_list else None
    roots = [_folder(folder) for folder in folders]
    found = [_find(root, path, joined, modality) for root in roots]
    if structures_as and not classes and any(map(_by_structure, found)):
        classes = _classes(structures_as)
    # Of one folder, names are relative to it; what was made of it lies elsewhere.
    root = Path(os.path.abspath(roots[0])) if len(roots) == 1 else common_root(found)
    content, report = make_list(found, classes, joined, validation, folds, names, modality, root)
    _write(content, path, folds)
    return Tables([*report.tables(), Table((), (), [f"Written: {path}", f"Train: {_command(path, folds, root)}"])])


def _find(folder: Path, path: Path, joined: Path, modality: str) -> FoundCollection:
    """Return the cases of a folder; of DICOM, as NIfTI in a folder beside the list."""
    if is_dicom_tree(folder):
        scans = path.with_name(f"{path.stem}_scans") / safe_name(folder.resolve().name)
        return collect_dicom(folder, scans, modality or "CT")
    return recognise(folder, dicom_modality(modality) if modality else "", joined)


def _by_structure(collection: FoundCollection) -> bool:
    return collection.layout != DICOM and any(case.structures for case in collection.cases)


def _expanded(path: str | Path, parameter: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{parameter}: '{path}' starts with ~, but there is no such user. Write it out.") from None


def _folder(folder: str | Path) -> Path:
    root = _expanded(folder, "folders")
    if not str(folder).strip() or not os.path.isdir(root):  # unlike Path.is_dir, without an error in a closed folder
        found = f"'{folder}' is a file. Unpack it if it is an archive; else give the folder above it."
        raise InputError(
            f"folders: expected folders, and the list last; {found}"
            if os.path.isfile(root)
            else f"folders: no folder at '{folder}'. {what_is_there(folder)}"
        )
    return root


def _classes(as_list: str | Path) -> tuple[str, ...]:
    try:
        return read_datalist(_expanded(as_list, "as_list"), needed=())[1]
    except InputError as error:
        raise InputError(str(error).replace("json_path:", "as_list:", 1)) from None


def _check_replaceable(path: Path) -> None:
    """Check before the work that a list may be written: never over a file of someone else."""
    if path.suffix != ".json":
        raise InputError(
            f"list_path: expected the name of a JSON as the last argument, found '{path}'. End it in .json."
        )
    if os.path.lexists(path) and not _is_own(path):
        raise InputError(
            f"list_path: '{path}' is there and was not written by this command, or it was changed since. Move it away, "
            "or choose another name."
        )


def _is_own(path: Path) -> bool:
    """Return whether a file is a list as this command wrote it."""
    try:
        content = read_json(path)
    except InputError:
        return False
    noted = content.pop(DIGEST, None)
    return content.get("made_by") == MADE_BY and noted == _digest(content)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(content: Mapping[str, Any], path: Path, folds: int | None) -> None:
    """Write a list if it can be read as one; it is not written again if it is the same."""
    content = {**content, DIGEST: _digest(content)}
    if os.path.exists(path) and read_json(path) == content:
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        try:
            read_datalist(temporary, ("training",) if folds else ("training", "validation"))
        except InputError as error:
            problem = str(error).removeprefix(NOT_A_LIST.format(temporary)).replace(str(temporary), str(path))
            what = f"'{path}' was not written, as it could not be read again: {problem}"
            raise InputError(f"{what} A class is renamed by --names 'OLD=NEW'.") from None


def _command(path: Path, folds: int | None, root: Path) -> str:
    options = {"data_root": root, "json_path": os.path.abspath(path), "logdir": f"runs/{path.stem}"}
    options |= {"folds": folds, "fold": 0} if folds else {}
    words = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in options.items())
    return f".venv/bin/papermill swinunetr_finetune.ipynb runs/{path.stem}.ipynb {words}"
