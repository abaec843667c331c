"""Report on a list of collections: what was recognised, where each class comes from, and what to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinunetr.data.collect.cases import PARTS, FoundCase
from swinunetr.data.collect.meanings import Source
from swinunetr.data.collect.naming import BACKGROUND, is_finding, shares_words
from swinunetr.data.collect.structures import Joined
from swinunetr.data.label_maps import IGNORE
from swinunetr.tables import Table, Tables
from swinunetr.words import named

MOST_ROWS = 100  # of unpaired files
MOST_NAMES = 40  # of labels in one line

Drawn = Mapping[str, Mapping[str, Sequence[FoundCase]]]  # cases by collection and list


@dataclass(frozen=True)
class Listed:
    """A collection in a list."""

    source: Source
    known: Mapping[str, str]  # meaning of each label; see meanings.meanings
    labelled: Sequence[FoundCase]  # that label a class
    without_label: Sequence[FoundCase]
    complete: Mapping[str, bool]  # whether a labelled case labels all classes, by the name of the case
    out_of_view: Sequence[FoundCase] = ()  # that label classes, and have no voxel of any: they are in no list

    @property
    def key(self) -> str:
        """Name of the collection in the list."""
        return self.source.key

    def classes(self, case: FoundCase, joined: Mapping[Path, Joined]) -> set[str]:
        """Return what the labels of a case mean, background and ignored labels included.

        Of structures that were joined, these are the ones that have voxels.
        """
        voxels = joined[case.image].voxels if case.image in joined else None
        labels = self.source.labels_of(case) if voxels is None else [name for name, n in voxels.items() if n]
        return {self.known[label] for label in labels}


def report(
    listed: Sequence[Listed],
    drawn: Drawn,
    joined: Mapping[Path, Joined],
    content: Mapping[str, Any],
    wanted: Sequence[str],
    root: Path,
) -> Tables:
    """Return the tables on a list.

    Args:
        listed: The collections.
        drawn: Their cases in the lists.
        joined: Labels that were joined of structures, by image.
        content: Content of the JSON.
        wanted: Classes of the list whose classes were asked for; empty: none was.
        root: Folder that file names are relative to.
    """
    tables = [_recognised(listed), _classes(listed, joined, content, wanted), _lists(listed, drawn, content, root)]
    tables += [_unpaired(listed), _overlaps(joined)]
    warnings = [f"warning: {warning}." for warning in _warnings(listed, drawn, joined, content)]
    return Tables([table for table in (*tables, Table((), (), warnings)) if table.rows or table.notes])


def _recognised(listed: Sequence[Listed]) -> Table:
    rows = [
        (each.key, each.source.collection.layout, len(each.labelled), str(each.source.collection.root))
        for each in listed
    ]
    notes = [f"{each.key} was recognised by {each.source.collection.ground}." for each in listed]
    notes += [f"{each.key}: {note}" for each in listed for note in each.source.collection.notes]
    return Table(("collection", "layout", "labelled cases", "folder"), rows, notes, "Recognised:")


def _classes(
    listed: Sequence[Listed], joined: Mapping[Path, Joined], content: Mapping[str, Any], wanted: Sequence[str]
) -> Table:
    """Return where each class comes from and in how many cases, and what happens to other labels."""
    rows = []
    for number, organ in content["labels"].items():
        if number == "0":
            continue
        cases = sum(organ in each.classes(case, joined) for each in listed for case in each.labelled)
        origins = [f"{each.key}: {' + '.join(found)}" for each in listed if (found := _labels(each, organ))]
        rows.append((number, organ, cases, "; ".join(origins)))
    notes = []
    if dropped := [organ for organ in wanted[1:] if organ not in content["labels"].values()]:
        notes.append(f"No collection labels {named(dropped, MOST_NAMES)}: the list has no such class.")
    for each in listed:
        notes += _other_voxels(each, content["labels"].values())
    return Table(("id", "class", "cases", "label in the collection"), rows, notes, "Classes:")


def _labels(listed: Listed, organ: str) -> list[str]:
    """Return the labels that mean a class, with their names where these are others."""
    names, labels = listed.source.names, [label for label, meaning in listed.known.items() if meaning == organ]
    return [label if names[label] in (label, organ) else f"{label} ({names[label]})" for label in labels]


def _other_voxels(listed: Listed, classes: Iterable[str]) -> list[str]:
    """Return sentences on what a collection labels besides the classes, and on its background."""
    names, sentences = listed.source.names, []
    others = {label: meaning for label, meaning in listed.known.items() if not listed.source.is_background(label)}
    fates = {BACKGROUND: "background" if any(listed.complete.values()) else "ignored", IGNORE: "ignored"}
    for fate in dict.fromkeys(fates.values()):
        if found := [names[label] for label, meaning in others.items() if fates.get(meaning) == fate]:
            what = f"no class of the list, {fate}: {named(found, MOST_NAMES, counted=True)}"
            sentences.append(f"{listed.key}: {what}.")
    if partial := sum(not complete for complete in listed.complete.values()):
        missing = [organ for organ in classes if organ not in (BACKGROUND, *listed.known.values())]
        lacking = f"it does not label {named(missing, MOST_NAMES)}" if missing else "files of structures are missing"
        sentences.append(f"{listed.key}: background of {partial} cases ignored, as {lacking}.")
    return sentences


def _lists(listed: Sequence[Listed], drawn: Drawn, content: Mapping[str, Any], root: Path) -> Table:
    rows = [(each.key, *(len(drawn[each.key][part]) for part in PARTS)) for each in listed]
    unlabelled = sum("label" not in entry for entry in content["test"])
    notes = [f"{unlabelled} test images without a label are in the list."] if unlabelled else []
    notes += [f"File names are relative to {root}, the data_root."]
    return Table(("collection", *PARTS), rows, notes, "Lists, in cases:")


def _unpaired(listed: Sequence[Listed]) -> Table:
    """Return what is in no list, with the reason."""
    rows = [(each.key, file) for each in listed for file in each.source.collection.unpaired]
    for each in listed:
        alone = [case for case in each.without_label if case.part != "test"]
        rows += [(each.key, f"{case.image}: it has no label of the list's classes") for case in alone]
        rows += [(each.key, f"{case.image}: none of the classes has a voxel in it") for case in each.out_of_view]
    more = [f"... and {len(rows) - MOST_ROWS} more."] if len(rows) > MOST_ROWS else []
    return Table(("collection", "file"), rows[:MOST_ROWS], more, f"In no list, {len(rows)} files:")


def _overlaps(joined: Mapping[Path, Joined]) -> Table:
    """Return how many voxels of structures were in two of them; the smaller structure has them."""
    voxels: Counter[tuple[str, str]] = Counter()
    cases: Counter[tuple[str, str]] = Counter()
    for result in joined.values():
        voxels.update(result.overlaps)
        cases.update(result.overlaps.keys())
    rows = [(larger, smaller, cases[larger, smaller], count) for (larger, smaller), count in voxels.most_common()]
    return Table(("from", "to the smaller one", "cases", "voxels"), rows, (), "Structures that overlap:")


def _warnings(
    listed: Sequence[Listed], drawn: Drawn, joined: Mapping[Path, Joined], content: Mapping[str, Any]
) -> list[str]:
    """Return what may spoil a training; voxels are known of joined labels only, and are checked before training."""
    organs = [organ for number, organ in content["labels"].items() if number != "0"]
    warnings = []
    for part in PARTS[:2]:
        there: set[str] = set()
        for each in listed:
            for case in drawn[each.key][part]:
                there |= each.classes(case, joined)
        if content[part] and (absent := [organ for organ in organs if organ not in there]):
            warnings.append(f"no {part} case has {named(absent, MOST_NAMES)}")
    if partial := sum(not each.complete[case.name] for each in listed for case in drawn[each.key][PARTS[1]]):
        what = "validation cases label only a part of the classes: what is found in ignored background costs no Dice"
        warnings.append(f"{partial} of {len(content['validation'])} {what}")
    for organ in organs:
        sources = [each.key for each in listed if organ in each.known.values()]
        others = [other for other in organs if other != organ and shares_words(organ, [other])]
        if apart := [
            other for other in others if not any({organ, other} <= set(each.known.values()) for each in listed)
        ]:
            warnings.append(f"'{organ}' of {named(sources)} may share voxels with {named(map(repr, apart))} of others")
        if is_finding(organ) and len(sources) > 1:
            warnings.append(f"'{organ}' is one class in {named(sources)}, whatever organ it lies in there")
    if not any(each.source.collection.modality for each in listed):
        warnings.append(f"no folder says the modality; the list says {content['modality']['0']}")
    return warnings
