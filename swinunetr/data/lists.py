"""Lists of cases, read from a JSON file or found in a folder."""

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

from swinunetr.data.label_maps import IGNORE, IGNORED, LabelMap, read_label_maps
from swinunetr.data.modality import is_ct
from swinunetr.errors import InputError
from swinunetr.files import distinct_names, folded, safe_name, walk_files
from swinunetr.words import named, short

SECTIONS = ("training", "validation", "test")

# Folders of Synapse's archive by their name in the JSON.
SYNAPSE_FOLDERS = {"imagesTr": "Training/img", "labelsTr": "Training/label", "imagesTs": "Testing/img"}
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
LABELS = re.compile(  # folders of labels, as of TotalSegmentator and other collections
    r"labels?[-_ ]?(tr|ts|va|val|train|training|test|testing|validation)?|segmentations?|masks?|ground[-_ ]?truth",
    re.IGNORECASE,
)
BACKGROUND = {"background", "bg"}
OTHER_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr", ".nii.bz2", ".nii.xz", ".nii.zst")
MOST_HELD_OUT = 24  # volumes, where no validation list is given


@dataclass(frozen=True)
class Dataset:
    """Cases of a data set.

    Each case is a dictionary with ``name``, the path ``image`` and, if labelled, the path ``label``. A ``label_map``
    (:class:`swinunetr.data.label_maps.LabelMap`) is there if the ids in the label file are not the classes.
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
        data_root: Folder that contains the files by their names in the JSON. For BTCV as downloaded from Synapse, it
            is the folder that contains ``RawData``, ``RawData`` itself or ``RawData/Training``.
        fold: Part of the training list to validate on, from 0; see :func:`split_folds`. None: the validation list.
        folds: Number of parts; None without ``fold``. With folds the JSON needs no validation list.

    Raises:
        InputError: The JSON is missing or malformed, the folder is missing, or there is no such fold.
    """
    content, classes = read_datalist(json_path, ("training",) if folds else ("training", "validation"))
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give the folder that contains imagesTr/ or RawData/.")
    modality = _modality(content, json_path)
    sections = {name: [locate(entry, root) for entry in content[name]] for name in SECTIONS}
    _set_distinct_names([entry for entries in sections.values() for entry in entries])
    listed = len(sections["test"])
    sections["test"] = [entry for entry in sections["test"] if Path(entry["image"]).is_file()]
    dataset = Dataset(classes, modality, **sections, test_listed=listed)
    return dataset if fold is None and folds is None else split_folds(dataset, fold, folds)


def split_folds(dataset: Dataset, fold: int | None, folds: int | None) -> Dataset:
    """Return a data set that validates on one part of the training list and trains on the others.

    The parts are drawn at random, always the same for a number of cases. The validation list of ``dataset`` is left
    out; it remains for an ensemble of all folds.

    Args:
        dataset: Data set with at least ``folds`` training cases.
        fold: Part to validate on, from 0.
        folds: Number of parts, at least 2.

    Raises:
        InputError: Only one of ``fold`` and ``folds`` is given, or they are outside their bounds.
    """
    most = len(dataset.training)
    if folds is None or not 2 <= folds <= most:
        raise InputError(f"folds: expected a number of parts from 2 to {most}, the training cases, found {folds}.")
    if fold is None or not 0 <= fold < folds:
        raise InputError(f"fold: expected the part to validate on, from 0 to {folds - 1}, found {fold}.")
    held_out = set(partition_dataset(range(most), num_partitions=folds, shuffle=True, seed=0)[fold])
    training, validation = (
        [case for number, case in enumerate(dataset.training) if (number in held_out) == held] for held in (False, True)
    )
    return replace(dataset, training=training, validation=validation)


def read_datalist(
    json_path: str | Path, needed: Sequence[str] = ("training", "validation")
) -> tuple[dict, tuple[str, ...]]:
    """Return the content of a Decathlon-style JSON, and its class names in order of their ids.

    Lists other than those in ``needed`` may be empty or missing.

    In the content, each of ``training``, ``validation`` and ``test`` is a list of dictionaries with the file names
    ``image`` and, if labelled, ``label``, and the ``LabelMap`` of the case as ``label_map``, if it has one.

    Raises:
        InputError: The file is missing, or its labels, maps of labels or lists of cases are malformed.
    """
    content, form = read_json(json_path), NOT_A_LIST.format(json_path)
    labels = content.get("labels")
    if isinstance(labels, dict) and "0" not in labels and any(isinstance(i, int | list) for i in labels.values()):
        raise InputError(NNUNET.format(json_path))
    classes = _class_names(labels, form)
    sections = {name: _entries(content, name, json_path, ("image", "label")) for name in ("training", "validation")}
    hints = _auto3dseg_hints(content)
    if _same(classes[0]) not in BACKGROUND:
        hints.append(f"The id 0, '{classes[0]}', is taken for the background: it counts in no score and has no volume.")
    for name, entries in sections.items():
        if not entries and name in needed:
            remedy = "If it has none, move some cases there" + " or set fold and folds." * (name == "validation")
            raise InputError(
                " ".join([f'{form}Expected a list of cases under "{name}". {remedy.rstrip(".")}.', *hints])
            )
    for hint in hints:
        print(f"note: {hint}")
    sections["test"] = _entries(content, "test", json_path, ("image",), ("label",))
    _set_label_maps([case for cases in sections.values() for case in cases], read_label_maps(content, classes, form))
    return content | sections, classes


def _auto3dseg_hints(content: dict) -> list[str]:
    """Return sentences about what a list of Auto3DSeg holds and this project does not read."""
    hints = []
    training = content.get("training")
    if isinstance(training, list) and any(isinstance(entry, dict) and "fold" in entry for entry in training):
        what = 'The "fold" of a case is not read: fold and folds draw the parts at random.'
        hints.append(f'{what} To keep the parts, list the cases of one fold under "validation" instead.')
    if content.get("testing") and not content.get("test"):
        hints.append('The list "testing" is not read; call it "test" to segment its images at the end.')
    return hints


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


def _class_names(labels: object, form: str) -> tuple[str, ...]:
    """Return the names of the classes in order of their ids; ``form`` is the start of an error message."""
    if not isinstance(labels, dict) or len(labels) < 2 or set(labels) != {str(i) for i in range(len(labels))}:
        what = 'Expected "labels" to map "0" (background), "1", "2", ... to names, without gaps, '
        raise InputError(form + what + f"found {short(labels)}.")
    if len(labels) > MOST_CLASSES:
        raise InputError(f"{form}labels: at most {MOST_CLASSES} classes, found {len(labels)}. Join or remove some.")
    names = tuple(labels[str(i)] for i in range(len(labels)))
    if unnamed := [i for i, name in enumerate(names) if not (isinstance(name, str) and name.strip())]:
        raise InputError(f'{form}Expected a name for each id in "labels", found {short(labels[str(unnamed[0])])}.')
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{form}Expected a different name for each id in \"labels\", found '{repeated[0]}' twice.")
    if broken := [name for name in names if BROKEN.search(name)]:
        raise InputError(
            f"{form}labels: expected names of one line without tabs, found {broken[0]!r}. Rename the class."
        )
    if taken := [name for name in names if _same(name) in (ALL, IGNORE)]:
        meaning = f"'{ALL}' means every organ in largest_component, and '{IGNORE}' no class in label_maps"
        raise InputError(f"{form}labels: '{taken[0]}' is not a name: {meaning}. Rename the class.")
    first: dict[str, str] = {}
    if alike := [(first[_same(name)], name) for name in names if first.setdefault(_same(name), name) != name]:
        what = "Expected names that differ in more than case, Unicode form, spaces, _ and -"
        raise InputError(f'{form}{what} in "labels", found {alike[0][0]!r} and {alike[0][1]!r}. Rename one of them.')
    if moved := [i for i, name in enumerate(names) if i and _same(name) in BACKGROUND]:
        what = f"'{names[moved[0]]}' has the id {moved[0]}, but the id 0 is the background here, in loss and scores"
        raise InputError(f"{form}labels: {what}. Give it the id 0; label_maps change the ids of label files.")
    if taken := [name for name in names if name in OTHER_COLUMNS]:
        raise InputError(f"{form}labels: '{taken[0]}' is the name of another column of the tables. Rename the class.")
    return names


def _same(name: str) -> str:
    """Return what two names of one class have in common; see :func:`checkpoints.load_pretrained`."""
    return folded(re.sub(r"[\s_-]+", " ", name).strip())


def _entries(
    content: dict, section: str, json_path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the cases of one list of the JSON; a missing list is an empty one.

    A case is a dictionary of file names, and of the name of its ``label_map`` if it has one.
    """
    entries, form = content.get(section), NOT_A_LIST.format(json_path)
    if "training" not in content and ("channel_names" in content or "file_ending" in content):
        raise InputError(NNUNET.format(json_path))
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f'{form}Expected a list of cases under "{section}", found {short(entries)}.')
    cases = []
    for entry in entries:
        given = {"image": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
        case = {key: given.get(key) for key in (*needed, *optional) if key in needed or given.get(key) is not None}
        if not all(isinstance(file, str) and file.strip() for file in case.values()):
            what = 'a file name or "image"' if needed == ("image",) else '"image" and "label"'
            raise InputError(f'{form}Expected {what} in each case of "{section}", found {short(entry)}.')
        named = {"label_map": given["label_map"]} if "label" in case and given.get("label_map") is not None else {}
        cases.append(case | named)
    return cases


def _modality(content: dict, json_path: str | Path, otherwise: str = "CT") -> str:
    """Return the modality that the JSON gives, as a name or by channel, or ``otherwise``."""
    for key in ("modality", "channel_names"):  # the names of Decathlon and of nnU-Net
        given = content.get(key)
        if given is None or given == {}:
            continue
        name = next(iter(given.values())) if isinstance(given, dict) else given
        if not (isinstance(name, str) and name.strip()):
            raise InputError(f'json_path: expected "{key}" in \'{json_path}\' as {{"0": "CT"}}, found {short(given)}.')
        try:
            is_ct(name)
        except InputError as error:  # the name is of two modalities
            raise InputError(f"json_path: '{json_path}': {error}") from None
        return name.strip()
    return otherwise


def read_json(json_path: str | Path) -> dict:
    """Return the content of a JSON file that contains an object.

    Raises:
        InputError: The file is missing or contains something else, or an object in it has the same key twice.
    """
    json_path = Path(json_path).expanduser()
    if json_path.is_dir():
        raise InputError(f"json_path: expected a JSON file, found the folder '{json_path}'. Give a file in it.")
    if not json_path.is_file():
        raise InputError(f"json_path: no file at '{json_path}'. The project's own lists are in json_files/.")
    try:
        text = json_path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise InputError(f"json_path: '{json_path}' is not valid JSON ({error}). Correct it there.") from None
    except OSError as error:
        raise InputError(f"json_path: '{json_path}' cannot be read ({error}). Ask for access, or copy it.") from None
    if not isinstance(content, dict):
        raise InputError(NOT_A_LIST.format(json_path) + f"Expected an object, found {type(content).__name__}.")
    return content


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object of a JSON; json.loads would keep the last of two equal keys without an error."""
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f'the key "{repeated[0]}" stands twice in one object; remove or rename one of them')
    return dict(pairs)


def locate(entry: dict | str, root: str | Path) -> dict[str, Any]:
    """Return the case name, the file paths and the map of labels of one entry of the JSON.

    Args:
        entry: Dictionary with ``image`` and, if labelled, ``label`` and ``label_map``; or the file name of an image. A
            file name is relative to ``root`` or absolute.
        root: Folder that contains the files, also in Synapse's layout. Where a file is missing, the path is the one
            that the JSON gives.
    """
    entry = {"image": entry} if isinstance(entry, str) else entry
    root = Path(root).expanduser()
    files = {key: str(_first_existing(entry[key], root)) for key in ("image", "label") if key in entry}
    mapped = {"label_map": entry["label_map"]} if "label_map" in entry else {}
    return {"name": case_name(entry["image"]), **files, **mapped}


def _first_existing(file: str, root: Path) -> Path:
    """Return the path of a file in ``root`` or, for the folders of BTCV's lists, in Synapse's folders there."""
    plain = root / file
    folder, _, rest = file.removeprefix("./").partition("/")
    if Path(file).is_absolute() or folder not in SYNAPSE_FOLDERS:
        return plain
    packed = Path(SYNAPSE_FOLDERS[folder]) / rest
    candidates = [plain, root / packed, root / "RawData" / packed, root.joinpath(*packed.parts[1:])]
    return next((path for path in candidates if path.is_file()), plain)


def case_name(image: str | Path) -> str:
    """Return the file name of an image without its endings: ``imagesTr/img0035.nii.gz`` is case ``img0035``.

    What a name of a file must not hold is replaced, see :func:`files.safe_name`.
    """
    return safe_name(re.sub(r"(\.nii)?(\.gz)?$", "", Path(image).name, flags=re.IGNORECASE))


def is_nifti(file: str | Path) -> bool:
    """Return whether a file has an ending of NIfTI, ``.nii`` or ``.nii.gz``."""
    return Path(file).name.lower().endswith((".nii", ".nii.gz"))


def _set_distinct_names(entries: list[dict[str, str]]) -> None:
    """Set each case's name to its file name, with as many parent folders as make the names of all images different.

    Where no number of folders does, as for ``a_b/c`` and ``a/b_c``, the names that meet end in a hash.
    """
    images = {entry["image"] for entry in entries}
    most = max((len(Path(image).parts) for image in images), default=1)
    candidates = [{image: _name_below(image, depth) for image in images} for depth in range(most)]
    best = max(candidates, key=lambda names: len(set(map(folded, names.values()))))  # of equals, the shortest names
    names = distinct_names(best)
    for entry in entries:
        entry["name"] = names[entry["image"]]


def _name_below(image: str, depth: int) -> str:
    """Return the name of a case from its file name and the last ``depth`` folders above it."""
    folders = [safe_name(part) for part in Path(image).parts[:-1] if part not in ("/", "..")]
    return safe_name("_".join((*folders[max(0, len(folders) - depth) :], case_name(image))))


def organ_labels(names: Sequence[str], organs: Sequence[str], parameter: str) -> list[int]:
    """Return the labels of organs, from 1.

    Args:
        names: Names of organs in any case; ``all`` means every organ.
        organs: Names of the classes without the background.
        parameter: Name of the parameter, for the message.

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


def find_volumes(root: str | Path, without: Path | None = None) -> list[dict[str, str]]:
    """Return a case for every volume in ``root``; a line names each folder that is left out, see :func:`list_volumes`.

    Args:
        root: The folder.
        without: Folder to leave out with all that it holds; None leaves none out.
    """
    entries, left_out = list_volumes(root, without)
    for line in left_out:
        print(line)
    return entries


def list_volumes(root: str | Path, without: Path | None = None) -> tuple[list[dict[str, str]], list[str]]:
    """Return a case for every ``.nii`` and ``.nii.gz`` file in ``root`` and its subfolders, linked ones too.

    Subfolders of labels and masks (``LABELS``) and of results of this project are left out, and so are hidden files and
    folders. The second result are sentences that name them, folders that cannot be opened and volumes in other formats.

    Args:
        root: The folder.
        without: Folder to leave out with all that it holds; None leaves none out.
    """
    root = Path(root).expanduser()
    tree = walk_files(root, without)
    inner = sorted(file.relative_to(root) for file in tree.files if is_nifti(file))
    of_labels = [file for file in inner if any(LABELS.fullmatch(part) for part in file.parts[:-1])]
    images = [file for file in inner if file not in set(of_labels)]
    paths = {str(file): "/".join((*map(safe_name, file.parts[:-1]), case_name(file))) for file in images}
    entries = [{"name": name, "image": str(root / file)} for file, name in distinct_names(paths).items()]

    left_out = [f"Not searched for volumes: '{path}', {reason}." for path, reason in tree.closed]
    if tree.results:
        places = named([f"'{path}'" for path in tree.results])
        left_out.append(f"Left out, as made_by.json or a bundle marks them as results of this project: {places}.")
    if of_labels:
        folders = named(dict.fromkeys(f"'{file.parent}'" for file in of_labels))
        left_out.append(f"Left out, as the name of the folder says labels: {len(of_labels)} files in {folders}.")
    if others := [file.relative_to(root) for file in tree.files if file.name.lower().endswith(OTHER_FORMATS)]:
        number = f"{len(others)} file{'s' * (len(others) > 1)} of other formats, such as '{others[0]}'"
        left_out.append(f"Not read: {number}. Convert what is a scan to .nii.gz.")
    return entries, left_out


def read_unlabelled(data_root: str | Path, json_path: str | Path = "", modality: str = "CT") -> Dataset:
    """Return the volumes of a folder or of a Decathlon-style JSON as a data set without labels.

    Without a validation list in the JSON, every twentieth volume is used for validation: at least one and at most
    ``MOST_HELD_OUT``.

    Args:
        data_root: Folder that contains the volumes.
        json_path: JSON with the lists ``training`` and, optionally, ``validation``, and the ``modality``. Empty means
            all volumes that :func:`find_volumes` finds in ``data_root``.
        modality: Modality of the volumes, unless the JSON gives one.

    Raises:
        InputError: The folder is missing, the JSON is missing or malformed, or there are fewer than two volumes.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give a folder of NIfTI files.")
    if json_path:
        content = read_json(json_path)
        modality = _modality(content, json_path, modality)
        training, held_out = (
            [locate(entry, root) for entry in _entries(content, name, json_path, ("image",))]
            for name in ("training", "validation")
        )
        _set_distinct_names(training + held_out)
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
