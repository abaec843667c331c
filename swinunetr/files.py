"""Files written whole or not at all, folders that belong to one run, and files that are not what their name says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from swinunetr.errors import InputError

STAND_INS = (  # first bytes, what such a file is, what to do
    (rb"$", "an empty file", "copy or download it again"),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page", "log in and download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
)


def stand_in(file: str | Path) -> tuple[str, str] | None:
    """Return what lies in place of a scan or of weights, such as a web page, and what to do; None for other files."""
    with open(file, "rb") as opened:
        start = opened.read(64)
    return next(((found, remedy) for pattern, found, remedy in STAND_INS if re.match(pattern, start)), None)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; move it there, synced to disk, if the block succeeds.

    The temporary name keeps the ending, since writers such as nibabel choose the format by it. Folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def claim_folder(folder: str | Path, settings: Mapping) -> Path:
    """Make a folder for results, note in ``made_by.json`` what makes them, and return it.

    A folder that the same made before is taken again, so that a run can go on.

    Raises:
        InputError: the folder holds results that something else made, or it can't be written to.
    """
    folder, settings = Path(folder).expanduser(), json.loads(json.dumps(settings))
    note = folder / "made_by.json"
    if note.is_file():
        found = json.loads(note.read_text())
        others = [key for key in settings | found if settings.get(key) != found.get(key)]
    else:
        others = ["all"] if next(folder.rglob("*.nii.gz"), None) else []
    if others:
        raise InputError(
            f"'{folder}' holds results of other settings ({', '.join(others)}; see made_by.json there). "
            "Move them away or choose another folder; nothing was overwritten."
        )
    try:
        with replacing(note) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"'{folder}' can't be written to ({error}). Choose another folder.") from None
    return folder
