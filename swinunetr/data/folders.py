"""NIfTI files in folders: their names as cases, and where the files of a list are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from swinunetr.files import distinct_names, folded, safe_name, walk_files
from swinunetr.words import named

# Folders of Synapse's archive by their name in the JSON.
SYNAPSE_FOLDERS = {"imagesTr": "Training/img", "labelsTr": "Training/label", "imagesTs": "Testing/img"}
LABELS = re.compile(  # folders of labels, as of TotalSegmentator and other collections
    r"labels?[-_ ]?(tr|ts|va|val|train|training|test|testing|validation)?|segmentations?|masks?|ground[-_ ]?truth",
    re.IGNORECASE,
)
OTHER_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr", ".nii.bz2", ".nii.xz", ".nii.zst")


def find_volumes(root: str | Path, without: Path | None = None) -> list[dict[str, str]]:
    """Return the cases of :func:`list_volumes`, and print its sentences."""
    entries, left_out = list_volumes(root, without)
    for line in left_out:
        print(line)
    return entries


def list_volumes(root: str | Path, without: Path | None = None) -> tuple[list[dict[str, str]], list[str]]:
    """Return a case for every ``.nii`` and ``.nii.gz`` file in ``root`` and its subfolders, linked ones too.

    The folder ``without`` and subfolders of labels and masks (``LABELS``) and of results of this project are left out,
    and so are hidden files and folders. The second result are sentences that name those that were not asked for,
    folders that cannot be opened and volumes in other formats.
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


def locate(entry: dict | str, root: str | Path) -> dict[str, Any]:
    """Return the case name, the file paths, the map of labels and the patient of one entry of the JSON.

    An entry is the file name of an image, or a dictionary with ``image`` and, if there is one, ``label``, ``label_map``
    and ``patient``.
    File names are absolute or relative to ``root``, also in Synapse's layout; a missing file has the path of the JSON.
    """
    entry = {"image": entry} if isinstance(entry, str) else entry
    root = Path(root).expanduser()
    files = {key: str(_first_existing(entry[key], root)) for key in ("image", "label") if key in entry}
    others = {key: entry[key] for key in ("label_map", "patient") if key in entry}
    return {"name": case_name(entry["image"]), **files, **others}


def _first_existing(file: str, root: Path) -> Path:
    """Return the path of a file in ``root`` or, for the folders of BTCV's lists, in Synapse's folders there."""
    plain = root / file
    folder, _, rest = file.removeprefix("./").partition("/")
    if Path(file).is_absolute() or folder not in SYNAPSE_FOLDERS:
        return plain
    packed = Path(SYNAPSE_FOLDERS[folder]) / rest
    candidates = [plain, root / packed, root / "RawData" / packed, root.joinpath(*packed.parts[1:])]
    return next((path for path in candidates if path.is_file()), plain)


def is_nifti(file: str | Path) -> bool:
    """Return whether a file has an ending of NIfTI, ``.nii`` or ``.nii.gz``."""
    return Path(file).name.lower().endswith((".nii", ".nii.gz"))


def case_name(image: str | Path) -> str:
    """Return the file name of an image without its endings: ``imagesTr/img0035.nii.gz`` is case ``img0035``.

    What a name of a file must not hold is replaced, see :func:`files.safe_name`.
    """
    return safe_name(re.sub(r"(\.nii)?(\.gz)?$", "", Path(image).name, flags=re.IGNORECASE))


def set_distinct_names(entries: list[dict[str, str]]) -> None:
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
