"""What the labels of several collections mean in one list: its classes, and for each collection the map to them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from swinunetr.data.checks.headers import check_header, unreadable
from swinunetr.data.checks.voxels import count_values, read_stored
from swinunetr.data.collect.cases import FoundCase, FoundCollection
from swinunetr.data.collect.naming import BACKGROUND, class_of, meaning_of, shares_words
from swinunetr.data.label_maps import IGNORE, IGNORED, LAST_ID
from swinunetr.errors import Fault, InputError
from swinunetr.files import distinct_names, safe_name
from swinunetr.threads import in_threads
from swinunetr.words import named

UNNAMED = "label {}"  # name of an id in label files whose names are not known


@dataclass(frozen=True)
class Source:
    """A collection and what its labels are called; a label is an id in a file, as text, or a structure's own file."""

    key: str  # name of the collection in the list, distinct
    collection: FoundCollection
    names: Mapping[str, str]  # of its labels; for structures that are not renamed, the label itself
    renamed: frozenset[str] = frozenset()  # labels that were given a name

    @cached_property  # as it is asked for each case
    def by_structure(self) -> bool:
        """Whether it has a file per structure."""
        return any(case.structures for case in self.collection.cases)

    @property
    def is_plain(self) -> bool:
        """Whether it has label files and does not say what their ids mean."""
        return not self.collection.names and not self.by_structure

    def is_background(self, label: str) -> bool:
        """Return whether a label is no organ: the background, or what its collection ignores."""
        return class_of(self.names[label], (BACKGROUND, IGNORE)) is not None

    def labels_of(self, case: FoundCase) -> list[str]:
        """Return the labels that a case can have."""
        return [name for name in self.names if name in case.structures] if self.by_structure else list(self.names)


def name_labels(collections: Sequence[FoundCollection], names: Mapping[str, str]) -> list[Source]:
    """Return the collections with the names of their labels; label files are read where no names are known.

    Args:
        collections: What was found.
        names: Names to use in place of others, by the name of a label or, where no names are known, by id.

    Raises:
        InputError: A name is for no label, or label files cannot be read.
    """
    keys = _keys(collections)
    known = [_known_names(collection) for collection in collections]
    sources, used = [], set()
    for key, collection, labels in zip(keys, collections, known, strict=True):
        is_plain, renamed = Source(key, collection, labels).is_plain, {}
        for label, name in labels.items():
            given = label if is_plain else class_of(name, list(names))
            if given is not None and given in names:
                renamed[label] = names[given]
                used.add(given)
        if collection.ignore is not None:
            renamed[str(collection.ignore)] = IGNORE
        sources.append(Source(key, collection, labels | renamed, frozenset(renamed)))
    if unused := [name for name in names if name not in used]:
        every = dict.fromkeys(
            label if source.is_plain else name
            for source, labels in zip(sources, known, strict=True)
            for label, name in labels.items()
        )
        raise InputError(
            f"names: expected labels of the collections, found {named(map(repr, unused))}. The labels are "
            f"{named(every, 40)}."
        )
    return sources


def _keys(collections: Sequence[FoundCollection]) -> list[str]:
    """Return a distinct name of each collection, such as ``totalsegmentator``."""
    plain = [re.sub(r"\W+", "_", collection.layout.lower()).strip("_") or "collection" for collection in collections]
    with_folder = [
        key if plain.count(key) == 1 else f"{key}_{safe_name(collection.root.name)}"
        for key, collection in zip(plain, collections, strict=True)
    ]
    roots = [os.path.realpath(collection.root) for collection in collections]
    return list(distinct_names(dict(zip(roots, with_folder, strict=True))).values())


def _known_names(collection: FoundCollection) -> dict[str, str]:
    if structures := sorted({name for case in collection.cases for name in case.structures}):
        return {name: name for name in structures}
    if collection.names:
        return {str(i): name for i, name in sorted(collection.names.items())}
    return {str(i): UNNAMED.format(i) if i else BACKGROUND for i in _ids_in_files(collection)}


def _ids_in_files(collection: FoundCollection) -> list[int]:
    """Return all ids in the label files of a collection, in order."""
    files = [case.label for case in collection.cases if case.label]
    found = in_threads(_ids, files, f"Reading labels of {collection.layout}")
    if faults := [
        f"'{file}': {ids.what}; {ids.remedy}." for file, ids in zip(files, found, strict=True) if isinstance(ids, Fault)
    ]:
        raise InputError("\n".join([f"{len(faults)} of {len(files)} label files cannot be used:", *faults]))
    return sorted({0}.union(*(ids for ids in found if not isinstance(ids, Fault))))


def _ids(file: Path) -> set[int] | Fault:
    """Return the ids in a label file, or why it cannot be used."""
    try:
        header = check_header(str(file))
        if faults := [fault for fault in header.faults if fault.stops]:
            return faults[0]
        stored, scaling, _ = read_stored(str(file))
        values = count_values(stored, *scaling)
    except Exception as error:  # damaged files raise many types of error
        return unreadable(str(file), error)
    if wrong := sorted(value for value in values if not (0 <= value <= LAST_ID and value.is_integer())):
        return Fault(f"label ids {named(wrong, 4)}, expected whole numbers from 0 to {LAST_ID}", "give a label map")
    return set(map(int, values))


def classes_of(sources: Sequence[Source], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes of a list that joins collections, the background first.

    Args:
        sources: The collections.
        wanted: Classes of another list, of which those remain that a collection labels. None: all organs of all
            collections, those with one name as one class.

    Raises:
        InputError: A collection labels none of the wanted classes, or two labels of it mean one class.
    """
    organs: list[str] = list(wanted[1:]) if wanted else []
    labelled = set()
    for source in sources:
        hits = {
            label: class_of(source.names[label], organs) for label in source.names if not source.is_background(label)
        }
        if wanted is None:
            for label in (label for label, hit in hits.items() if hit is None):
                hits[label] = class_of(source.names[label], organs)
                if hits[label] is None:
                    organs.append(source.names[label])
                    hits[label] = source.names[label]
        elif missed := [
            label for label in hits if hits[label] is None and (source.is_plain or label in source.renamed)
        ]:
            what = f"expected a class of the list for each of the labels {named(missed)} in '{source.collection.root}'"
            example = f"--names '{missed[0]}=CLASS'"
            raise InputError(
                f"names: {what}, as in {example}. The classes are {named(organs, 40)}, background and ignore."
            )
        if not any(hits.values()):
            raise InputError(_no_class(source, list(hits), organs))
        _check_one_each(source, hits)
        labelled |= set(hits.values())
    if len(organs) >= IGNORED:
        raise InputError(
            f"labels: expected at most {IGNORED - 1} organs, found {len(organs)}. Give a list of those to train on."
        )
    return (BACKGROUND, *(organ for organ in organs if organ in labelled))


def _no_class(source: Source, labels: Sequence[str], organs: Sequence[str]) -> str:
    """Return the error that a collection labels none of the organs of a list."""
    root, own = source.collection.root, [source.names[label] for label in labels]
    if not own:
        return f"'{root}': no label file holds an organ. Give labelled cases."
    what = (
        f"'{root}' ({source.collection.layout}) labels no class of the list ({named(organs, 40)}), but {named(own, 40)}"
    )
    alike = {name: [organ for organ in organs if shares_words(name, [organ])] for name in own}
    others = "".join(f" '{name}' is not one of {named(found)}." for name, found in alike.items() if found)
    return f"{what}.{others} Leave it out, or say what its names mean, as in --names '{own[0]}=CLASS'."


def _check_one_each(source: Source, hits: Mapping[str, str | None]) -> None:
    """Check that no two labels of a case mean one class, except where names were given for all others of them."""
    several = {hit: [label for label in hits if hits[label] == hit] for hit in hits.values() if hit}
    for organ, labels in several.items():
        own = [label for label in labels if label not in source.renamed]
        if len(own) < 2:
            continue
        for case in source.collection.cases if source.by_structure else source.collection.cases[:1]:
            there = [label for label in source.labels_of(case) if label in own]
            if len(there) > 1:
                both = named([repr(label) for label in there])
                where = f"case '{case.name}' of " if source.by_structure else ""
                raise InputError(
                    f"names: {where}'{source.collection.root}' has several labels for '{organ}': {both}. Remove one, "
                    f"or join them with --names '{source.names[there[1]]}={organ}'."
                )


def meanings(source: Source, classes: Sequence[str]) -> dict[str, str]:
    """Return for each label its class, or ``background`` or ``ignore`` for what no class stands for."""
    return {label: meaning_of(name, classes) for label, name in source.names.items()}


def label_map(source: Source, known: Mapping[str, str], classes: Sequence[str], complete: bool) -> dict[str, str]:
    """Return the entry of ``label_maps`` for cases of a collection; empty if the ids in the files are the classes.

    Args:
        source: The collection.
        known: Its :func:`meanings`.
        classes: Classes of the list, the background first.
        complete: Whether the cases label all classes. If not, unlabelled organs may lie in the background, and in other
            organs than the classes: both are ignored.
    """
    ids = {"0": BACKGROUND}
    if source.by_structure:  # joined files have the ids of the list
        ids |= {str(number): organ for number, organ in enumerate(classes) if number and organ in known.values()}
        ids |= {str(IGNORED): IGNORE} if IGNORE in known.values() else {}
    else:
        ids |= known
    if not complete:
        ids = {i: IGNORE if meaning == BACKGROUND else meaning for i, meaning in ids.items()}
    same = all(int(i) < len(classes) and classes[int(i)] == meaning for i, meaning in ids.items())
    return {} if same else ids


def joined_labels(known: Mapping[str, str], classes: Sequence[str]) -> dict[str, int]:
    """Return the label, in joined files, of each structure that is not background."""
    labels = {organ: number for number, organ in enumerate(classes)} | {IGNORE: IGNORED}
    return {name: labels[meaning] for name, meaning in known.items() if meaning != BACKGROUND}
