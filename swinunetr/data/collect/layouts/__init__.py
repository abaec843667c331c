"""The layout of a folder of scans with labels, recognised by the names of its files, dataset.json and meta.csv.

`contents` has the files of a folder. `dataset_json`, `structures` and `pairs` hold the recognisers, `scan_names` what a
path says, and `patients` which cases are of one patient.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter, defaultdict
from pathlib import Path

from swinunetr.data.collect.cases import FoundCase, FoundCollection
from swinunetr.data.collect.layouts.contents import Contents, Entry, Match, first_dicom, is_in, read_contents
from swinunetr.data.collect.layouts.dataset_json import decathlon, descriptions, nnunet_2
from swinunetr.data.collect.layouts.pairs import known_pairs, pair, plain_pairs
from swinunetr.data.collect.layouts.patients import patients_of
from swinunetr.data.collect.layouts.scan_names import read_name
from swinunetr.data.collect.layouts.structures import any_structures, known_structures
from swinunetr.data.folders import is_nifti
from swinunetr.errors import InputError
from swinunetr.files import distinct_names, folded, safe_name, walk_files
from swinunetr.words import named

__all__ = ["is_dicom_tree", "recognise"]

# The most specific first: each sees what the ones before it left.
RECOGNISERS = (nnunet_2, known_structures, decathlon, known_pairs, any_structures, plain_pairs)
MOST_NAMED = 20  # files of one folder and reason that are named one by one
PREFERRED = "CT"  # where a folder holds several modalities


def recognise(folder: str | Path, modality: str = "", without: Path | None = None) -> FoundCollection:
    """Return the cases of a folder by its layout. No voxel is read, and nothing is changed.

    Args:
        folder: Folder of one collection, or the one above it, or one within it that holds images and labels.
        modality: CT or MR, if the folder holds both; empty: CT.
        without: Folder to leave out, such as that of joined labels; None leaves none out.

    Raises:
        InputError: The folder is missing, cannot be opened, holds no case with a label, or several collections; or a
            file that describes it is malformed or says that the images have several channels.
    """
    contents = read_contents(folder, without)
    try:
        match = _only_match(contents)
        entries, modality, notes = _of_one_modality(match, modality)
        cases = _cases(contents.root, entries)
    except InputError as error:
        raise InputError(f"{contents.root}: {error}") from None
    unpaired = (*contents.unpaired, *_unpaired(contents, match))
    notes = (*contents.notes, *match.notes, *notes)
    return FoundCollection(
        match.layout, match.ground, contents.root, modality, cases, match.names, match.ignore, unpaired, notes
    )


def _only_match(contents: Contents) -> Match:
    """Return what the recognisers find.

    Raises:
        InputError: They find nothing, or several collections.
    """
    matches: list[Match] = []
    left = contents
    for recogniser in RECOGNISERS:
        for match in list(recogniser(left)):
            matches.append(match)
            left = left.without(match.folders)
    if not matches:
        raise _no_pair(contents)
    if len(matches) > 1:
        raise _mixture(contents.root, matches)
    return matches[0]


def is_dicom_tree(folder: str | Path) -> bool:
    """Return whether a folder holds DICOM and no image in NIfTI; `recognise` does not take it."""
    root = Path(folder).expanduser().absolute()
    files = [os.path.relpath(file, root) for file in walk_files(root).files]
    images = [file for file in files if is_nifti(file) and not read_name(file).is_label]
    return not images and first_dicom(root, files) is not None


def _of_one_modality(match: Match, wanted: str) -> tuple[list[Entry], str, tuple[str, ...]]:
    """Return the cases of one modality, its name, and a sentence on those that are left out.

    Raises:
        InputError: No case is of the wanted modality.
    """
    count = Counter(entry.modality or match.modality for entry in match.entries)
    if len(count) == 1 and not wanted:
        return match.entries, next(iter(count)), ()
    chosen = wanted.upper() or (PREFERRED if PREFERRED in count else count.most_common(1)[0][0])
    if chosen not in count and set(count) != {""}:
        raise InputError(f"modality: expected one of the folder's, {named(sorted(count))}; found {wanted}.")
    entries = [entry for entry in match.entries if (entry.modality or match.modality) in (chosen, "")]
    others = ", ".join(f"{number} of {name}" for name, number in count.items() if name not in (chosen, ""))
    note = f"The cases are of several modalities: those of {chosen} are taken, and {others} left out."
    return entries, chosen, (note,) * bool(others)


def _cases(root: Path, entries: list[Entry]) -> tuple[FoundCase, ...]:
    """Return cases with names that are distinct file names, in order of these."""
    by_label: dict[str | None, str] = {}
    for entry in entries:
        if entry.label and (other := by_label.setdefault(entry.label, entry.image)) != entry.image:
            what = f"'{other}' and '{entry.image}' both have '{entry.label}'"
            raise InputError(f"Expected one image per label; {what}. Move one of the images away, or correct the list.")
    short = {entry.image: entry.name for entry in entries}
    if len(set(map(folded, short.values()))) < len(entries):
        short = {entry.image: (entry.path or entry.name).replace("/", "_") for entry in entries}
    names = distinct_names({image: safe_name(name) for image, name in short.items()})
    patients = patients_of({names[entry.image]: entry.path or entry.name for entry in entries})
    cases = []
    for entry in entries:
        name, structures = names[entry.image], {key: root / file for key, file in entry.structures.items()}
        label = root / entry.label if entry.label else None
        cases.append(FoundCase(name, patients[name], root / entry.image, label, structures, entry.part))
    return tuple(sorted(cases, key=lambda case: case.name))


def _unpaired(contents: Contents, match: Match) -> list[str]:
    """Return the scans that belong to no case, each with the reason; many of one folder and reason in one line."""
    used = {file for entry in match.entries for file in entry.files}
    reasons = {path: reason for path, reason in match.unpaired.items() if path not in used}
    beside = []
    for file in contents.scans:
        if file in used or file in reasons:
            continue
        is_own = is_in(file, match.folders)
        if is_own and match.folder_per_case:
            beside.append(file)
        elif is_own and match.listed_in:
            reasons[file] = f"not listed in '{match.listed_in}'"
        else:
            reasons[file] = "a label without an image" if read_name(file).is_label else "an image without a label"
    groups = defaultdict(list)
    for file, reason in reasons.items():
        groups[os.path.dirname(file), reason].append(file)
    lines = []
    for (folder, reason), files in groups.items():
        many = f"{folder or '.'}: {len(files)} files, such as '{os.path.basename(files[0])}': {reason}"
        lines += [many] if len(files) > MOST_NAMED else [f"{file}: {reason}" for file in files]
    if beside:
        lines.append(f"{beside[0]}: not used, as are {len(beside)} files in all in the folders of cases")
    return sorted(lines)


def _no_pair(contents: Contents) -> InputError:
    """Return the error for scans of which none has a label."""
    names = [read_name(file) for file in contents.scans]
    by_kind = {
        "images": [name.file for name in names if not name.is_label],
        "labels": [name.file for name in names if name.is_label],
    }
    found = "; ".join(
        f"{kind}: {len(files)}, such as '{files[0]}'" if files else f"{kind}: none" for kind, files in by_kind.items()
    )
    remedy = "Give the folder that holds both, complete and unpacked"
    if lists := [description.file for description in descriptions(contents)]:
        remedy += f"; of the files that '{lists[0]}' names, none is a pair that is there"
    else:
        remedy += ", with equal names in images/ and labels/, or as x.nii.gz and x_seg.nii.gz"
    if contents.unpaired:
        remedy += f". Not read: {contents.unpaired[0]}"
    if reasons := pair(contents.scans).reasons:
        file, reason = next(iter(reasons.items()))
        found += f"; '{file}': {reason}"
    return InputError(f"Expected images with labels, found no pair of them ({found}). {remedy}.")


def _mixture(root: Path, matches: list[Match]) -> InputError:
    """Return the error for a folder of several collections."""
    found = "; ".join(f"{match.layout} (by {match.ground})" for match in matches)
    folders = [_top(match) for match in matches]
    remedy = "give their folders one by one"
    if len(set(folders)) == len(folders) and "" not in folders:
        remedy += f", as in collect {shlex.join(str(root / folder) for folder in folders)} LIST.json"
    else:
        remedy += ": collect A B LIST.json"
    return InputError(f"Expected one collection in a folder, found {len(matches)}: {found}. Please {remedy}.")


def _top(match: Match) -> str:
    """Return the folder, relative, that holds all files of a collection."""
    return os.path.commonpath([f"/{folder}" for folder in match.folders]).removeprefix("/")
