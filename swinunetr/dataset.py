"""Which cases there are: a JSON file, or a folder, becomes lists of file names."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from swinunetr.errors import InputError

SECTIONS = ("training", "validation", "test")

# Where Synapse's archive keeps what the JSON calls imagesTr/, labelsTr/ and imagesTs/.
SYNAPSE_FOLDERS = {"imagesTr": "Training/img", "labelsTr": "Training/label", "imagesTs": "Testing/img"}
NOT_A_LIST = "json_path: '{}' is not a Decathlon-style list; see json_files/btcv_6.json for one. "
MOST_HELD_OUT = 24  # volumes


@dataclass(frozen=True)
class Dataset:
    """Hold the cases of one Decathlon-style JSON as dictionaries of ``name``, ``image`` and, if labelled, ``label``."""

    classes: tuple[str, ...]  # position = label id; 0 is the background
    modality: str
    training: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]  # images without labels; those missing on disk are left out
    test_listed: int = 0  # those missing on disk included

    @property
    def organs(self) -> tuple[str, ...]:
        return self.classes[1:]


def read_dataset(json_path: str | Path, data_root: str | Path) -> Dataset:
    """Read a Decathlon-style JSON and find its files under ``data_root``.

    ``data_root`` may also be BTCV as Synapse packs it: the folder that holds ``RawData``, ``RawData`` itself or
    ``RawData/Training``.

    Raises:
        InputError: the JSON is missing or malformed, or the folder is missing. The files are :func:`check_dataset`'s.
    """
    content, classes = read_datalist(Path(json_path))
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give the folder that holds imagesTr/ or RawData/.")
    sections = {name: [locate(entry, root) for entry in content.get(name, [])] for name in SECTIONS}
    names = _distinct_names({entry["image"] for entries in sections.values() for entry in entries})
    for entry in (entry for entries in sections.values() for entry in entries):
        entry["name"] = names[entry["image"]]
    listed = len(sections["test"])
    sections["test"] = [entry for entry in sections["test"] if Path(entry["image"]).is_file()]
    return Dataset(classes, next(iter(content.get("modality", {"0": "CT"}).values())), **sections, test_listed=listed)


def read_datalist(json_path: Path) -> tuple[dict, tuple[str, ...]]:
    """Return the content of a Decathlon-style JSON and its class names in order of their ids."""
    content, form = read_json(json_path), NOT_A_LIST.format(json_path)
    labels = content.get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(len(labels))) or len(labels) < 2:
        raise InputError(form + 'Expected "labels" to map "0" (background), "1", "2", ... to names, without gaps.')
    for name in ("training", "validation"):
        entries = content.get(name)
        if not isinstance(entries, list) or not entries:
            raise InputError(form + f'Expected a list of cases under "{name}". Move some cases there if it has none.')
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("image", "label")):
                raise InputError(form + f'Expected "image" and "label" in each case of "{name}", found {entry!r}.')
    return content, tuple(labels[str(i)] for i in range(len(labels)))


def read_json(json_path: Path) -> dict:
    """Return the content of a JSON file that holds an object.

    Raises:
        InputError: the file is missing or holds something else.
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
    """Turn one entry of the JSON into absolute file names and a case name."""
    entry = {"image": entry} if isinstance(entry, str) else entry
    files = {key: str(_first_existing(entry[key], root)) for key in ("image", "label") if key in entry}
    return {"name": case_name(entry["image"]), **files}


def _first_existing(file: str, root: Path) -> Path:
    plain = root / file
    folder, _, rest = file.removeprefix("./").partition("/")
    packed = Path(SYNAPSE_FOLDERS.get(folder, folder)) / rest
    candidates = [plain, root / packed, root / "RawData" / packed, root / packed.relative_to(packed.parts[0])]
    return next((path for path in candidates if path.is_file()), plain)


def case_name(image: str | Path) -> str:
    """Return the file name of an image without its endings: ``imagesTr/img0035.nii.gz`` is case ``img0035``."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _distinct_names(images: set[str]) -> dict[str, str]:
    """Return a case name for each image: that of its file, after as many of its folders as tell all images apart."""
    names = {}
    for depth in range(1, max(len(Path(image).parts) for image in images) + 1):
        names = {image: "_".join((*Path(image).parts[-depth:-1], case_name(image))) for image in images}
        if len(set(names.values())) == len(images):
            break
    return names


def find_volumes(root: Path) -> list[dict[str, str]]:
    """Return every ``.nii`` and ``.nii.gz`` below ``root``, but for folders whose name begins with "label"."""
    files = sorted(file for ending in ("*.nii", "*.nii.gz") for file in root.rglob(ending))
    inner = [file.relative_to(root) for file in files]
    images = [file for file in inner if not any(part.lower().startswith("label") for part in file.parts[:-1])]
    return [{"name": str(file.parent / case_name(file)), "image": str(root / file)} for file in images]


def read_unlabelled(data_root: str | Path, json_path: str | Path = "", modality: str = "CT") -> Dataset:
    """Return the volumes of a folder, or those that a Decathlon-style JSON lists, without their labels.

    Without ``json_path`` every ``.nii`` and ``.nii.gz`` below ``data_root`` is taken, but for folders whose name
    begins with "label". Of the JSON, ``training`` and, held out, ``validation`` are read, and its ``modality``. Where
    no volume is held out yet, every twentieth is, at least one and at most ``MOST_HELD_OUT``.

    Raises:
        InputError: the folder or the JSON is missing or malformed, or there are fewer than two volumes.
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
    """Return the volumes of one section of a Decathlon-style JSON."""
    entries = content.get(section, [])
    images = [e.get("image") if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else [None]
    if not all(isinstance(image, str) for image in images):
        raise InputError(NOT_A_LIST.format(json_path) + f'Expected file names or "image" in each case of "{section}".')
    return [locate(image, root) for image in images]
