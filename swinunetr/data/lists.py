"""Lists of cases in JSON files of the Medical Segmentation Decathlon's format, as data sets."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.data import partition_dataset

from swinunetr.data.folders import find_volumes, locate, set_distinct_names
from swinunetr.data.label_maps import IGNORE, IGNORED, LabelMap, read_label_maps
from swinunetr.data.modality import listed_modality
from swinunetr.errors import InputError
from swinunetr.files import folded, what_is_there
from swinunetr.words import short

SECTIONS = ("training", "validation", "test")
NOT_A_LIST = "json_path: '{}' is not a Decathlon-style list; see json_files/btcv_6.json for one. "
NNUNET = (
    "json_path: '{}' is a dataset.json of nnU-Net, which lists no files or maps names to ids. Write a JSON as in "
    'json_files/btcv_6.json: map ids to names under "labels", such as {{"0": "background", "1": "liver"}}, and list '
    'the files under "training" and "validation".'
)
MOST_CLASSES = 256  # label ids are stored as uint8
ALL = "all"  # word for every organ, in place of their names
BROKEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # what files of names and tables cannot hold
OTHER_COLUMNS = ("step", "train_loss", "mean_dice", "volume_ratio")  # of metrics.csv, which has one column per organ
BACKGROUND = {"background", "bg"}
MOST_HELD_OUT = 24  # volumes, where no validation list is given


@dataclass(frozen=True)
class Dataset:
    """Cases of a data set.

    Each case is a dictionary with ``name``, the path ``image`` and, if labelled, the path ``label``. A ``label_map``
    (:class:`swinunetr.data.label_maps.LabelMap`) is there if the ids in the label file are not the classes, and a
    ``patient`` if the JSON names one.
    """

    classes: tuple[str, ...]  # in order of their label ids; 0 is the background
    modality: str
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]  # images that exist on disk, usually without labels
    test_listed: int = 0  # number of test images in the JSON, including missing files

    @property
    def organs(self) -> tuple[str, ...]:
        """All classes except the background."""
        return self.classes[1:]

    @property
    def ignores(self) -> bool:
        """Whether training cases can have voxels that count in no loss."""
        return any(IGNORED in case["label_map"].targets for case in self.training if "label_map" in case)


def read_dataset(
    json_path: str | Path, data_root: str | Path, fold: int | None = None, folds: int | None = None
) -> Dataset:
    """Read a JSON in the format of the Medical Segmentation Decathlon and find its files in ``data_root``.

    The files themselves are checked by :func:`swinunetr.data.checks.check_dataset`.

    Args:
        json_path: File with ``labels``, ``training``, ``validation`` and, optionally, ``test``, ``modality``,
            ``ignore`` and ``label_maps``.
        data_root: Folder of the files by their names in the JSON; for BTCV as downloaded from Synapse, the folder that
            contains ``RawData``, ``RawData`` itself or ``RawData/Training``.
        fold: Part of the training list to validate on, from 0; see :func:`split_folds`. None: the validation list.
        folds: Number of parts; None without ``fold``. With folds the JSON needs no validation list.

    Raises:
        InputError: The JSON is missing or malformed, the folder is missing, or there is no such fold.
    """
    content, classes = read_datalist(json_path, ("training",) if folds else ("training", "validation"))
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(
            f"data_root: no folder at '{root}'. Give the folder that contains imagesTr/ or RawData/. "
            f"{what_is_there(root)}"
        )
    sections = {name: [locate(entry, root) for entry in content[name]] for name in SECTIONS}
    set_distinct_names([entry for entries in sections.values() for entry in entries])
    test = [entry for entry in sections["test"] if Path(entry["image"]).is_file()]
    modality, listed = listed_modality(content, json_path), len(sections["test"])
    dataset = Dataset(classes, modality, sections["training"], sections["validation"], test, listed)
    return dataset if fold is None and folds is None else split_folds(dataset, fold, folds)


def read_unlabelled(data_root: str | Path, json_path: str | Path = "", modality: str = "CT") -> Dataset:
    """Return the volumes of a folder or of a Decathlon-style JSON as a data set without labels.

    Without a validation list in the JSON, every twentieth volume is used for validation: at least one and at most
    ``MOST_HELD_OUT``.

    Args:
        data_root: Folder that contains the volumes.
        json_path: JSON with ``training`` and, optionally, ``validation`` and ``modality``; empty: all of the folder.
        modality: Modality of the volumes, unless the JSON gives one.

    Raises:
        InputError: The folder is missing, the JSON is missing or malformed, or there are fewer than two volumes.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give a folder of NIfTI files. {what_is_there(root)}")
    if json_path:
        content = read_json(json_path)
        modality = listed_modality(content, json_path, modality)
        training, held_out = (
            [locate(entry, root) for entry in _entries(content, name, json_path, ("image",))]
            for name in ("training", "validation")
        )
        set_distinct_names(training + held_out)
    else:
        training, held_out = find_volumes(root), []
    if len(training) + bool(held_out) < 2:
        where = f"'{json_path}' under \"training\"" if json_path else f"'{root}'"
        remedy = "Volumes are files that end in .nii or .nii.gz; convert DICOM and other formats first."
        raise InputError(f"data_root: expected at least two volumes in {where}, found {len(training)}. {remedy}")
    if not held_out:
        every = max(20, math.ceil(len(training) / MOST_HELD_OUT))
        held_out = training[::every]
        training = [entry for number, entry in enumerate(training) if number % every]
    return Dataset(("background",), modality, training, held_out, test=[])


def split_folds(dataset: Dataset, fold: int | None, folds: int | None) -> Dataset:
    """Return a data set that validates on one part of the training list and trains on the others.

    The parts are drawn at random, always the same for a number of cases. Cases with the same ``patient`` stay in one
    part. The validation list of ``dataset`` is left out; it remains for an ensemble of all folds.

    Raises:
        InputError: Only one of ``fold`` and ``folds`` is given, or they are outside their bounds.
    """
    patients = [("patient", case["patient"]) if "patient" in case else ("", case["name"]) for case in dataset.training]
    distinct = list(dict.fromkeys(patients))
    if folds is None or not 2 <= folds <= len(distinct):
        each = "training cases" if len(distinct) == len(patients) else "patients in training"
        raise InputError(f"folds: expected a number of parts from 2 to {len(distinct)}, the {each}, found {folds}.")
    if fold is None or not 0 <= fold < folds:
        raise InputError(f"fold: expected the part to validate on, from 0 to {folds - 1}, found {fold}.")
    part = partition_dataset(range(len(distinct)), num_partitions=folds, shuffle=True, seed=0)[fold]
    held_out = {distinct[number] for number in part}
    lists: tuple[list, list] = [], []  # of training and of validation, in the order of the cases
    for case, patient in zip(dataset.training, patients, strict=True):
        lists[patient in held_out].append(case)
    return replace(dataset, training=lists[0], validation=lists[1])


def organ_labels(names: Sequence[str], organs: Sequence[str], parameter: str) -> list[int]:
    """Return the labels, from 1, of the ``organs`` of some names, in any case; ``all`` means every organ.

    Raises:
        InputError: A name is not one of the organs.
    """
    by_name = {folded(organ): label for label, organ in enumerate(organs, start=1)}
    wanted = [folded(name) for name in names]
    if ALL in wanted:
        return list(range(1, len(organs) + 1))
    if unknown := [name for name in names if folded(name) not in by_name]:
        raise InputError(
            f"{parameter}: expected organs of the data set, all, or nothing; unknown: {', '.join(unknown)}. The organs "
            f"are {', '.join(organs)}."
        )
    return sorted({by_name[name] for name in wanted})


def read_datalist(
    json_path: str | Path, needed: Sequence[str] = ("training", "validation")
) -> tuple[dict, tuple[str, ...]]:
    """Return the content of a Decathlon-style JSON, and its class names in order of their ids.

    In the content, each of ``training``, ``validation`` and ``test`` is a list of dictionaries with the file names
    ``image`` and, if labelled, ``label``, and the ``LabelMap`` of the case as ``label_map``, if it has one. Lists other
    than those in ``needed`` may be empty.

    Raises:
        InputError: The file is missing, or its labels, maps of labels or lists of cases are malformed.
    """
    content = read_json(json_path)
    labels: Any = content.get("labels")
    if isinstance(labels, dict) and "0" not in labels and any(isinstance(i, int | list) for i in labels.values()):
        raise InputError(NNUNET.format(json_path))
    if problem := _names_problem(labels):
        raise _not_a_list(json_path, problem)
    classes = tuple(labels[str(i)] for i in range(len(labels)))  # in order of their ids
    sections = {name: _entries(content, name, json_path, ("image", "label")) for name in ("training", "validation")}
    hints = _auto3dseg_hints(content)
    if _same(classes[0]) not in BACKGROUND:
        hints.append(f"The id 0, '{classes[0]}', is taken for the background: it counts in no score and has no volume.")
    if empty := [name for name in needed if not sections[name]]:
        remedy = "move some cases there" + (" or set fold and folds" if empty[0] == "validation" else "")
        expected = f'Expected a list of cases under "{empty[0]}". If it has none, {remedy}.'
        raise _not_a_list(json_path, " ".join([expected, *hints]))
    for hint in hints:
        print(f"note: {hint}")
    sections["test"] = _entries(content, "test", json_path, ("image",), ("label",))
    maps = read_label_maps(content, classes, NOT_A_LIST.format(json_path))
    _set_label_maps([case for cases in sections.values() for case in cases], maps)
    return content | sections, classes


def read_json(json_path: str | Path) -> dict:
    """Return the content of a JSON file that contains an object.

    Raises:
        InputError: The file is missing or contains something else, or an object in it has the same key twice.
    """
    json_path = Path(json_path).expanduser()
    if json_path.is_dir():
        raise InputError(f"json_path: expected a JSON file, found the folder '{json_path}'. Give a file in it.")
    if not json_path.is_file():
        raise InputError(
            f"json_path: no file at '{json_path}'. {what_is_there(json_path)} The project's own lists are in "
            "json_files/."
        )
    try:
        text = json_path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise InputError(f"json_path: '{json_path}' is not valid JSON ({error}). Correct it there.") from None
    except OSError as error:
        raise InputError(f"json_path: '{json_path}' cannot be read ({error}). Ask for access, or copy it.") from None
    if not isinstance(content, dict):
        raise _not_a_list(json_path, f"Expected an object, found {type(content).__name__}.")
    return content


def _not_a_list(json_path: str | Path, problem: str) -> InputError:
    return InputError(NOT_A_LIST.format(json_path) + problem)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object of a JSON; json.loads would keep the last of two equal keys without an error."""
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f'the key "{repeated[0]}" stands twice in one object; remove or rename one of them')
    return dict(pairs)


def _auto3dseg_hints(content: dict) -> list[str]:
    """Return sentences about what a list of Auto3DSeg holds and this project does not read."""
    hints, training = [], content.get("training")
    if isinstance(training, list) and any(isinstance(entry, dict) and "fold" in entry for entry in training):
        what = 'The "fold" of a case is not read: fold and folds draw the parts at random.'
        hints.append(f'{what} To keep the parts, list the cases of one fold under "validation" instead.')
    if content.get("testing") and not content.get("test"):
        hints.append('The list "testing" is not read; call it "test" to segment its images at the end.')
    return hints


def _names_problem(labels: object) -> str:
    """Return what is wrong with the class names by id of a JSON and what to do; empty if they can be used."""
    if not isinstance(labels, dict) or len(labels) < 2 or set(labels) != {str(i) for i in range(len(labels))}:
        what = 'Expected "labels" to map "0" (background), "1", "2", ... to names, without gaps'
        return f"{what}, found {short(labels)}."
    if len(labels) > MOST_CLASSES:
        return f"labels: at most {MOST_CLASSES} classes, found {len(labels)}. Join or remove some."
    names = [labels[str(i)] for i in range(len(labels))]
    if unnamed := [name for name in names if not (isinstance(name, str) and name.strip())]:
        return f'Expected a name for each id in "labels", found {short(unnamed[0])}.'
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        return f"Expected a different name for each id in \"labels\", found '{repeated[0]}' twice."
    if broken := [name for name in names if BROKEN.search(name)]:
        return f"labels: expected names of one line without tabs, found {broken[0]!r}. Rename the class."
    if taken := [name for name in names if _same(name) in (ALL, IGNORE)]:
        meaning = f"'{ALL}' means every organ in largest_component, and '{IGNORE}' no class in label_maps"
        return f"labels: '{taken[0]}' is not a name: {meaning}. Rename the class."
    first: dict[str, str] = {}
    if alike := [(first[_same(name)], name) for name in names if first.setdefault(_same(name), name) != name]:
        what = "Expected names that differ in more than case, Unicode form, spaces, _ and -"
        return f'{what} in "labels", found {alike[0][0]!r} and {alike[0][1]!r}. Rename one of them.'
    if moved := [i for i, name in enumerate(names) if i and _same(name) in BACKGROUND]:
        what = f"'{names[moved[0]]}' has the id {moved[0]}, but the id 0 is the background here, in loss and scores"
        return f"labels: {what}. Give it the id 0; label_maps change the ids of label files."
    if taken := [name for name in names if name in OTHER_COLUMNS]:
        return f"labels: '{taken[0]}' is the name of another column of the tables. Rename the class."
    return ""


def _same(name: str) -> str:
    """Return what two names of one class have in common; see :func:`checkpoints.load_pretrained`."""
    return folded(re.sub(r"[\s_-]+", " ", name).strip())


def _entries(
    content: dict, section: str, json_path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the cases of one list of the JSON, as file names and the name of a ``label_map``; empty without a list."""
    entries = content.get(section)
    if "training" not in content and ("channel_names" in content or "file_ending" in content):
        raise InputError(NNUNET.format(json_path))
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise _not_a_list(json_path, f'Expected a list of cases under "{section}", found {short(entries)}.')
    cases = []
    for entry in entries:
        keys = {"image": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
        case = {key: keys.get(key) for key in (*needed, *optional) if key in needed or keys.get(key) is not None}
        if not all(isinstance(file, str) and file.strip() for file in case.values()):
            what = 'a file name or "image"' if needed == ("image",) else '"image" and "label"'
            raise _not_a_list(json_path, f'Expected {what} in each case of "{section}", found {short(entry)}.')
        if "label" in case and keys.get("label_map") is not None:
            case["label_map"] = keys["label_map"]
        if keys.get("patient") is not None:
            case["patient"] = str(keys["patient"])
        cases.append(case)
    return cases


def _set_label_maps(cases: list[dict[str, Any]], maps: dict[str, LabelMap]) -> None:
    """Replace the name of each case's map by the map; "" is the map of cases that name none."""
    used = set()
    for case in cases:
        name = case.pop("label_map", "")
        if not isinstance(name, str) or (name and name not in maps):
            known = ", ".join(filter(None, maps)) or "none"
            what = f'expected the name of a map in "label_maps" ({known}), found {short(name)}'
            raise InputError(f"json_path: label_map of '{case['image']}': {what}. Correct the name, or add the map.")
        used.add(name)
        if name in maps and "label" in case:
            case["label_map"] = maps[name]
    if unused := [name for name in maps if name and name not in used]:
        remedy = f'Add "label_map": "{unused[0]}" to the cases that it is for, or remove it'
        raise InputError(f"json_path: label_maps: no case names '{unused[0]}'. {remedy}.")
