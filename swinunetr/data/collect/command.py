"""From folders of collections to a list: recognise, make the list, write it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swinunetr.data.collect.cases import FoundCollection
from swinunetr.data.collect.dicom_tree import collect_dicom
from swinunetr.data.collect.layouts import is_dicom_tree, recognise
from swinunetr.data.collect.listing import common_root, make_list
from swinunetr.data.collect.structures import MADE_BY
from swinunetr.data.lists import read_datalist, read_json
from swinunetr.data.modality import dicom_modality
from swinunetr.errors import InputError
from swinunetr.files import replacing, safe_name, what_is_there, write_json
from swinunetr.tables import Table, Tables


def collect(
    folders: Sequence[str | Path],
    list_path: str | Path,
    as_list: str | Path = "",
    labels: str | Path = "",
    validation: float | None = None,
    folds: int | None = None,
    names: Mapping[str, str] | None = None,
    modality: str = "",
) -> Tables:
    """Write a list of the cases in folders of collections, and return a report on it. No folder is changed.

    Args:
        folders: Folders, each of one collection.
        list_path: JSON to write; one that this command wrote earlier is replaced.
        as_list: JSON whose classes the labels are to mean, by their names; empty: classes are the labels' own names.
        labels: Folder for labels that are joined of one file per structure; empty: beside the list.
        validation: Fraction of the patients to validate on; see :func:`swinunetr.data.collect.splits.split`.
        folds: Number of folds that the list is for.
        names: Names to use in place of those of the collections, or for ids without names.
        modality: Modality where the folders do not say it, or hold several; empty: CT.

    Raises:
        InputError: A folder is not recognised, labels do not fit together, or the list would replace another file.
        WriteError: The list or a joined label could not be written.
    """
    path = Path(list_path).expanduser()
    _check_replaceable(path)
    classes = read_datalist(as_list, needed=())[1] if as_list else None
    for folder in folders:
        if not str(folder).strip() or not Path(folder).expanduser().is_dir():
            raise InputError(f"folders: no folder at '{folder}'. {what_is_there(folder)}")
    joined = Path(labels or path.with_name(f"{path.stem}_labels")).expanduser()
    found = [_find(Path(folder).expanduser(), path, joined, modality) for folder in folders]
    # Of one folder, names are relative to it; what was made of it lies elsewhere.
    root = Path(os.path.abspath(Path(folders[0]).expanduser())) if len(folders) == 1 else common_root(found)
    content, report = make_list(found, classes, joined, validation, folds, names, modality, root)
    _write(content, path, folds)
    return Tables([*report.tables(), Table((), (), [f"Written: {path}", f"Train: {_command(path, folds, root)}"])])


def _find(folder: Path, path: Path, joined: Path, modality: str) -> FoundCollection:
    """Return the cases of a folder; of DICOM, as NIfTI in a folder beside the list."""
    if is_dicom_tree(folder):
        scans = path.with_name(f"{path.stem}_scans") / safe_name(folder.resolve().name)
        return collect_dicom(folder, scans, modality or "CT")
    return recognise(folder, dicom_modality(modality) if modality else "", joined)


def _check_replaceable(path: Path) -> None:
    """Check before the work that a list may be written: never over a file of someone else."""
    if path.suffix != ".json":
        raise InputError(
            f"list_path: expected the name of a JSON as the last argument, found '{path}'. End it in .json."
        )
    if path.exists() and (path.is_dir() or read_json(path).get("made_by") != MADE_BY):
        raise InputError(f"list_path: '{path}' is there and was not written by this command. Choose another name.")


def _write(content: Mapping[str, Any], path: Path, folds: int | None) -> None:
    """Write a list if it can be read as one; it is not written again if it is the same."""
    if path.exists() and read_json(path) == content:
        return
    with replacing(path) as temporary:
        write_json(content, temporary)
        try:
            read_datalist(temporary, ("training",) if folds else ("training", "validation"))
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), str(path))) from None


def _command(path: Path, folds: int | None, root: Path) -> str:
    options = {"data_root": root, "json_path": os.path.abspath(path), "logdir": f"runs/{path.stem}"}
    options |= {"folds": folds, "fold": 0} if folds else {}
    words = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in options.items())
    return f".venv/bin/papermill swinunetr_finetune.ipynb runs/{path.stem}.ipynb {words}"
