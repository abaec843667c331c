"""The list of the cases of several collections, as a JSON that trains, and a report on what is in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swinunetr.data.checks.headers import unreadable
from swinunetr.data.collect.cases import PARTS, FoundCase, FoundCollection
from swinunetr.data.collect.meanings import Source, classes_of, joined_labels, label_map, meanings, name_labels
from swinunetr.data.collect.report import Listed, report
from swinunetr.data.collect.splits import check_options, split
from swinunetr.data.collect.structures import MADE_BY, Joined, join_structures
from swinunetr.data.modality import dicom_modality
from swinunetr.errors import DatasetError, Fault, InputError
from swinunetr.files import claim_folder, stand_in
from swinunetr.machine import most_workers
from swinunetr.tables import Table, Tables
from swinunetr.threads import in_threads
from swinunetr.words import named

JOINING_BYTES = 2e9  # of memory for one case: a structure of 512 x 512 x 600 voxels as read, and labels
MOST_FAULTS = 40  # in one message


def make_list(
    collections: Sequence[FoundCollection],
    classes: Sequence[str] | None = None,
    labels: Path | None = None,
    validation: float | None = None,
    folds: int | None = None,
    names: Mapping[str, str] | None = None,
    modality: str = "",
    root: Path | None = None,
) -> tuple[dict[str, Any], Tables]:
    """Return the content of a JSON as :func:`swinunetr.data.lists.read_dataset` reads it, and a report on it.

    Args:
        collections: What was found in the folders.
        classes: Classes of a list, the background first: labels mean the class of the same name. None: the labels' own
            names.
        labels: Folder for labels that are joined of one file per structure; needed only for these.
        validation: Fraction of the patients to validate on; see :func:`swinunetr.data.collect.splits.split`.
        folds: Number of folds that the list is for; it has no validation cases then but those of own splits.
        names: Names to use in place of others; see :func:`swinunetr.data.collect.meanings.name_labels`.
        modality: Modality of collections that do not say theirs; empty: CT.
        root: Folder that file names are relative to. None: the one that holds all collections.

    Raises:
        InputError: The labels do not fit together, or to the classes; see the rooms of each step.
        DatasetError: Files cannot be opened or joined; the message is a table of all of them.
        WriteError: A joined label could not be written.
    """
    check_options(validation, folds)
    _check_once(collections)
    paired = [case for collection in collections for case in collection.cases if case.label]
    _check_files([(case, file) for case in paired for file in (case.image, case.label) if file])
    sources = name_labels(collections, names or {})
    organs = classes_of(sources, classes)
    listed = [_listed(source, organs) for source in sources]
    content: dict[str, Any] = {
        "description": ", ".join(dict.fromkeys(collection.layout for collection in collections)),
        "made_by": MADE_BY,
        "modality": {"0": _one_modality(collections, modality)},
        "labels": {str(number): organ for number, organ in enumerate(organs)},
    }
    complete = [each.key for each in listed if all(each.complete.values())]
    _split(listed, validation, folds, complete)  # raises before the long work
    joined = _join(listed, organs, labels)
    listed = [_in_view(each, joined) for each in listed]
    drawn = _split(listed, validation, folds, complete)
    root = Path(os.path.abspath(root)) if root else common_root(collections)
    maps: dict[str, dict[str, str]] = {}
    sections: dict[str, list[dict]] = {section: [] for section in PARTS}
    for each in listed:
        for section, cases in drawn[each.key].items():
            sections[section] += _entries(cases, each, joined, organs, maps, root, alone=len(listed) == 1)
        sections["test"] += [{"image": _name(case.image, root)} for case in each.without_label if case.part == "test"]
    content |= ({"label_maps": maps} if maps else {}) | sections
    return content, report(listed, drawn, joined, content, classes or (), root)


def common_root(collections: Sequence[FoundCollection]) -> Path:
    """Return the folder that holds all collections; on several disks, that of the first."""
    roots = [os.path.abspath(collection.root) for collection in collections]
    try:
        common = Path(os.path.commonpath(roots))
    except ValueError:  # drives of Windows
        return Path(roots[0])
    return common if common.parent != common else Path(roots[0])


def _name(file: Path, root: Path) -> str:
    """Return the name of a file in a list: relative to the root, or absolute where it lies elsewhere."""
    path = Path(os.path.abspath(file))
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _one_modality(collections: Sequence[FoundCollection], given: str) -> str:
    """Return the modality of all collections; CT if nothing says it."""
    said = {f"'{collection.root}'": collection.modality for collection in collections if collection.modality}
    said |= {"modality": given} if given else {}
    if len({dicom_modality(modality) for modality in said.values()}) > 1:
        what = ", ".join(f"{modality} of {where}" for where, modality in said.items())
        raise InputError(f"modality: expected one for all scans, found {what}. Make a list per modality.")
    return next(iter(said.values()), "CT")


def _listed(source: Source, organs: Sequence[str]) -> Listed:
    """Return a collection with its cases that label a class, and whether they label all."""
    known = meanings(source, organs)
    labelled, without_label, complete = [], [], {}
    for case in source.collection.cases:
        covered = {known[label] for label in source.labels_of(case)} & set(organs[1:])
        if (case.label or case.structures) and covered:
            labelled.append(case)
            complete[case.name] = len(covered) == len(organs) - 1
        else:
            without_label.append(case)
    if not labelled:
        raise InputError(
            f"'{source.collection.root}' ({source.collection.layout}): expected labelled cases, found "
            f"{len(without_label)} without a label. Add their labels, or leave the folder out."
        )
    return Listed(source, known, labelled, without_label, complete)


def _split(
    listed: Sequence[Listed], validation: float | None, folds: int | None, complete: Sequence[str]
) -> dict[str, dict[str, list[FoundCase]]]:
    """Return the cases of each part by collection; if they are too few, the error names the files of no case."""
    try:
        return split({each.key: each.labelled for each in listed}, validation, folds, complete)
    except InputError as error:
        lost = [f"'{case.image}': no label of the classes" for each in listed for case in each.without_label]
        lost += [file for each in listed for file in each.source.collection.unpaired]
        raise InputError(f"{error} In no list: {named(lost, 4, counted=True)}." if lost else str(error)) from None


def _check_once(collections: Sequence[FoundCollection]) -> None:
    """Check that no scan is in two labelled cases, as it would be if one folder lies in another."""
    roots = [os.path.realpath(collection.root) for collection in collections]
    if repeated := [root for root in roots if roots.count(root) > 1]:
        raise InputError(f"folders: expected each folder once, found '{repeated[0]}' twice. Leave one out.")
    first: dict[str, Path] = {}
    cases = [case for collection in collections for case in collection.cases if case.label or case.structures]
    for image in (case.image for case in cases):
        if (other := first.setdefault(os.path.realpath(image), image)) is not image:
            both = f"'{image}' twice" if image == other else f"'{other}' and '{image}', which are one file"
            raise InputError(
                f"folders: expected each scan once, found {both}. Give folders that do not lie in each other, and "
                "without links to each other's files."
            )


def _check_files(pairs: Sequence[tuple[FoundCase, Path]]) -> None:
    """Check that files of cases can be opened and are not what a broken download leaves; no header is read."""
    faults = in_threads(lambda pair: _opening_fault(pair[1]), pairs)
    _stop_at_faults([(*pair, fault) for pair, fault in zip(pairs, faults, strict=True) if fault])


def _opening_fault(file: Path) -> Fault | None:
    try:
        other = stand_in(file)
    except OSError as error:
        return unreadable(str(file), error)
    return Fault(f"{other[0]}, not a scan", other[1]) if other else None


def _stop_at_faults(faults: Sequence[tuple[FoundCase, Path, Fault]]) -> None:
    """Raise one error for all faulty files, if there are some."""
    rows = [(case.name, str(file), fault.what, fault.remedy) for case, file, fault in faults]
    if rows:
        more = [f"... and {len(rows) - MOST_FAULTS} more."] if len(rows) > MOST_FAULTS else []
        title = f"{len(rows)} file{'s' * (len(rows) > 1)} cannot be used:"
        raise DatasetError(repr(Table(("case", "file", "problem", "what to do"), rows[:MOST_FAULTS], more, title)))


def _in_view(listed: Listed, joined: Mapping[Path, Joined]) -> Listed:
    """Return a collection without the cases whose structures have no voxel of any class: their organs are not in view.

    Raises:
        InputError: No case is left.
    """
    empty = [case for case in listed.labelled if case.image in joined and not any(joined[case.image].voxels.values())]
    if len(empty) == len(listed.labelled):
        raise InputError(
            f"'{listed.source.collection.root}' ({listed.source.collection.layout}): expected voxels of the classes in "
            f"some cases, found none in {len(empty)}. Choose other classes, or look at the files of the structures."
        )
    return replace(listed, labelled=[case for case in listed.labelled if case not in empty], out_of_view=empty)


def _join(listed: Sequence[Listed], organs: Sequence[str], labels: Path | None) -> dict[Path, Joined]:
    """Join the structures of all cases that have some, and return what was joined by the image."""
    cases = [(each, case) for each in listed for case in each.labelled if case.structures]
    if not cases:
        return {}
    _check_files(
        [
            (case, file)
            for each, case in cases
            for file in (case.image, *(case.structures[name] for name in each.source.labels_of(case)))
        ]
    )
    if labels is None:
        raise InputError("labels: expected a folder for the labels that are joined of a file per structure; give one.")
    for each in listed:  # where the joined labels would be found as labels the next time
        if Path(os.path.realpath(labels)).is_relative_to(os.path.realpath(each.source.collection.root)):
            raise InputError(
                f"labels: expected a folder outside '{each.source.collection.root}' for the labels that are joined of "
                f"a file per structure, found '{labels}'. Give another one."
            )
    folder = claim_folder(labels, {"labels": list(organs), "made_by": MADE_BY})
    wanted = {each.key: joined_labels(each.known, organs) for each in listed}
    results = in_threads(
        lambda pair: join_structures(pair[1], wanted[pair[0].key], folder / pair[0].key),
        cases,
        "Joining structures",
        most_workers(JOINING_BYTES),
    )
    joined = {case.image: result for (_, case), result in zip(cases, results, strict=True)}
    _stop_at_faults([(case, *fault) for _, case in cases for fault in joined[case.image].faults])
    return joined


def _entries(
    cases: Sequence[FoundCase],
    listed: Listed,
    joined: Mapping[Path, Joined],
    organs: Sequence[str],
    maps: dict[str, dict[str, str]],
    root: Path,
    alone: bool,
) -> list[dict[str, str]]:
    """Return the entries of labelled cases, and add the maps that they name to ``maps``."""
    by_patient = Counter(case.patient for case in listed.labelled)
    entries = []
    for case in cases:
        label = joined[case.image].path if case.image in joined else case.label
        entry = {"image": _name(case.image, root), "label": _name(Path(str(label)), root)}
        complete = listed.complete[case.name]
        if ids := label_map(listed.source, listed.known, organs, complete):
            # In a collection, some cases may lack files of structures that others have.
            alike = complete or not any(listed.complete.values())
            entry["label_map"] = listed.key if alike else f"{listed.key}_partial"
            maps[entry["label_map"]] = ids
        if by_patient[case.patient] > 1:
            entry["patient"] = case.patient if alone else f"{listed.key}/{case.patient}"
        entries.append(entry)
    return entries
