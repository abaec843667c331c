"""Lists of cases, read from a JSON file or found in a folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from swinunetr.errors import InputError

SECTIONS = ("training", "validation", "test")

# Folders of Synapse's archive by their name in the JSON.
SYNAPSE_FOLDERS = {"imagesTr": "Training/img", "labelsTr": "Training/label", "imagesTs": "Testing/img"}
NOT_A_LIST = "json_path: '{}' is not a Decathlon-style list; see json_files/btcv_6.json for one. "
MOST_HELD_OUT = 24  # volumes, where no validation list is given


@dataclass(frozen=True)
class Dataset:
    """Cases of a data set.

    Each case is a dictionary with ``name``, the path ``image`` and, if labelled, the path ``label``.
    """

    classes: tuple[str, ...]  # in order of their label ids; 0 is the background
    modality: str
    training: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]  # images that exist on disk, usually without labels
    test_listed: int = 0  # number of test images in the JSON, including missing files

    @property
    def organs(self) -> tuple[str, ...]:
        """All classes except the background."""
        return self.classes[1:]


def read_dataset(json_path: str | Path, data_root: str | Path) -> Dataset:
    """Read a JSON in the format of the Medical Segmentation Decathlon and find its files in ``data_root``.

    The files themselves are checked by :func:`swinunetr.checks.check_dataset`.

    Args:
        json_path: File with ``labels``, ``training``, ``validation`` and, optionally, ``test`` and ``modality``.
        data_root: Folder that contains the files by their names in the JSON. For BTCV as downloaded from Synapse, it
            is the folder that contains ``RawData``, ``RawData`` itself or ``RawData/Training``.

    Raises:
        InputError: The JSON is missing or malformed, or the folder is missing.
    """
    content, classes = read_datalist(Path(json_path))
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give the folder that contains imagesTr/ or RawData/.")
    sections = {name: [locate(entry, root) for entry in content.get(name, [])] for name in SECTIONS}
    names = _distinct_names({entry["image"] for entries in sections.values() for entry in entries})
    for entry in (entry for entries in sections.values() for entry in entries):
        entry["name"] = names[entry["image"]]
    listed = len(sections["test"])
    sections["test"] = [entry for entry in sections["test"] if Path(entry["image"]).is_file()]
    return Dataset(classes, next(iter(content.get("modality", {"0": "CT"}).values())), **sections, test_listed=listed)


def read_datalist(json_path: Path) -> tuple[dict, tuple[str, ...]]:
    """Return the content of a Decathlon-style JSON, and its class names in order of their ids.

    Raises:
        InputError: The file is missing, or its labels, training or validation cases are malformed.
    """
    content, form = read_json(json_path), NOT_A_LIST.format(json_path)
    labels = content.get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(len(labels))) or len(labels) < 2:
        raise InputError(form + 'Expected "labels" to map "0" (background), "1", "2", ... to names, without gaps.')
    for name in ("training", "validation"):
        entries = content.get(name)
        if not isinstance(entries, list) or not entries:
            raise InputError(form + f'Expected a list of cases under "{name}". If it has none, move some cases there.')
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("image", "label")):
                raise InputError(form + f'Expected "image" and "label" in each case of "{name}", found {entry!r}.')
    return content, tuple(labels[str(i)] for i in range(len(labels)))


def read_json(json_path: Path) -> dict:
    """Return the content of a JSON file that contains an object.

    Raises:
        InputError: The file is missing or contains something else.
    """
    if not json_path.is_file():
        raise InputError(f"json_path: no file at '{json_path}'. The project's own lists are in json_files/.")
    try:
        content = json.loads(json_path.read_text())
    except ValueError as error:
        raise InputError(f"json_path: '{json_path}' is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(NOT_A_LIST.format(json_path) + f"Expected an object, found {type(content).__name__}.")
    return content


def locate(entry: dict | str, root: Path) -> dict[str, str]:
    """Return the case name and the file paths of one entry of the JSON.

    Args:
        entry: Dictionary with ``image`` and, if labelled, ``label``; or the file name of an image.
        root: Folder that contains the files, also in Synapse's layout. Where a file is missing, the path is the one
            that the JSON gives.
    """
    entry = {"image": entry} if isinstance(entry, str) else entry
    files = {key: str(_first_existing(entry[key], root)) for key in ("image", "label") if key in entry}
    return {"name": case_name(entry["image"]), **files}


def _first_existing(file: str, root: Path) -> Path:
    """Return the path of a file in ``root`` or in one of Synapse's folders there."""
    plain = root / file
    folder, _, rest = file.removeprefix("./").partition("/")
    packed = Path(SYNAPSE_FOLDERS.get(folder, folder)) / rest
    candidates = [plain, root / packed, root / "RawData" / packed, root / packed.relative_to(packed.parts[0])]
    return next((path for path in candidates if path.is_file()), plain)


def case_name(image: str | Path) -> str:
    """Return the file name of an image without its endings: ``imagesTr/img0035.nii.gz`` is case ``img0035``."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _distinct_names(images: set[str]) -> dict[str, str]:
    """Return a name for each image: its file name, with as many parent folders as make all names different."""
    names = {}
    for depth in range(1, max(len(Path(image).parts) for image in images) + 1):
        names = {image: "_".join((*Path(image).parts[-depth:-1], case_name(image))) for image in images}
        if len(set(names.values())) == len(images):
            break
    return names


def find_volumes(root: Path) -> list[dict[str, str]]:
    """Return a case for every ``.nii`` and ``.nii.gz`` file in ``root`` and its subfolders.

    Subfolders with a name that starts with "label" are skipped.
    """
    files = sorted(file for ending in ("*.nii", "*.nii.gz") for file in root.rglob(ending))
    inner = [file.relative_to(root) for file in files]
    images = [file for file in inner if not any(part.lower().startswith("label") for part in file.parts[:-1])]
    return [{"name": str(file.parent / case_name(file)), "image": str(root / file)} for file in images]


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
        content = read_json(Path(json_path))
        modality = next(iter(content.get("modality", {"0": modality}).values()))
        training, held_out = (_listed(content, name, root, json_path) for name in ("training", "validation"))
    else:
        training, held_out = find_volumes(root), []
    if len(training) + bool(held_out) < 2:
        where = f"'{json_path}' under \"training\"" if json_path else f"'{root}'"
        raise InputError(f"data_root: expected at least two volumes in {where}, found {len(training)}.")
    if not held_out:
        every = max(20, math.ceil(len(training) / MOST_HELD_OUT))
        held_out = training[::every]
        training = [entry for number, entry in enumerate(training) if number % every]
    return Dataset(("background",), modality, training, held_out, test=[])


def _listed(content: dict, section: str, root: Path, json_path: str | Path) -> list[dict[str, str]]:
    """Return the volumes in one section of a Decathlon-style JSON."""
    entries = content.get(section, [])
    images = [e.get("image") if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else [None]
    if not all(isinstance(image, str) for image in images):
        raise InputError(NOT_A_LIST.format(json_path) + f'Expected file names or "image" in each case of "{section}".')
    return [locate(image, root) for image in images]
