"""Files that are written completely or not at all, folders of one run, and detection of files with other content."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from swinunetr.errors import InputError

LONGEST_NAME = 200  # bytes; file systems allow 255, of which endings and the prefix of a temporary file need some
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # in file names or in tables
STAND_INS = (  # pattern of the first bytes, what the file is, what to do
    (rb"$", "an empty file", "copy or download it again"),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page", "log in and download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
)


def safe_name(text: str) -> str:
    """Return a text as the name of a file or folder: never empty, hidden or ``..``, at most ``LONGEST_NAME`` bytes.

    Characters that some file systems or tables cannot hold become ``_``. A longer name is cut and ends in its hash.
    """
    name = UNSAFE.sub("_", text).strip(" .") or "_"
    if len(name.encode()) > LONGEST_NAME:
        name = f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{_short_hash(text)}"
    return name


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return names that also differ on disks that ignore case or Unicode form.

    Args:
        names: Name, which may be a path, by its source. Names that meet get the start of a hash of their source, so
            that a name does not depend on the order of the others.
    """
    count = Counter(map(folded, names.values()))
    return {
        source: name if count[folded(name)] == 1 else f"{name}-{_short_hash(source)}" for source, name in names.items()
    }


def folded(text: str) -> str:
    """Return a text without the differences of case and of Unicode form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def stand_in(file: str | Path) -> tuple[str, str] | None:
    """Return what a file is if it is not a scan or weights, and what to do.

    An empty file, a web page and a Git LFS pointer are recognised; for all other files the result is None.
    """
    with open(file, "rb") as opened:
        start = opened.read(64)
    return next(((found, remedy) for pattern, found, remedy in STAND_INS if re.match(pattern, start)), None)


def walk_files(root: Path, without: Path | None = None) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return all files below a folder, and path and reason of the folders that cannot be opened.

    Links are followed, each folder once and not by a link if it is there itself; links to missing files are listed too.
    Hidden files and folders are left out: the ``._*`` files and ``__MACOSX`` folders of macOS, and temporary files that
    an interrupted run left.

    Args:
        root: The folder.
        without: Folder to leave out with all that it holds; None leaves none out.
    """
    files, closed = [], []
    seen = {os.path.realpath(without)} if without else set()

    def note(error: OSError) -> None:
        closed.append((error.filename, f"the folder cannot be opened ({error.strerror}); ask for access"))

    for folder, inner, names in os.walk(root, onerror=note, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # links can make a circle
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__MACOSX"]
        inner.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        paths = (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))
        # A pipe, which exists and is no file, would wait for ever.
        files += [Path(path) for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return files, closed


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; replace ``path`` by that file if the block succeeds.

    The file is flushed to disk first, so that ``path`` is never incomplete. Missing parent folders are made. A kill can
    leave the temporary file, which is hidden.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, since containers on a shared disk can have equal process ids. The same file name extension, since writers
    # such as nibabel choose the format by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(content: object, path: str | Path) -> None:
    """Write values as indented JSON to a file, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(rows: Sequence[Mapping[str, object]], path: str | Path) -> None:
    """Write rows with the same keys to a CSV file, completely or not at all; NaN becomes an empty field."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


def claim_folder(
    folder: str | Path, settings: Mapping, as_now: Callable[[dict], Mapping] = lambda noted: noted
) -> Path:
    """Make a folder for results, write ``settings`` to its ``made_by.json``, and return its path.

    An existing folder with the same settings is used again, so that a run can continue.

    Args:
        folder: Folder of the results; ``~`` is the home folder.
        settings: What the results depend on, as values that JSON can store.
        as_now: Function that returns the settings that a note stands for, which an earlier version may have written.

    Raises:
        InputError: The folder contains results of other or unknown settings, or it cannot be written to.
    """
    folder, settings = Path(folder).expanduser(), json.loads(json.dumps(settings))
    note = folder / "made_by.json"
    found = _noted(note)
    if found is not None:
        found = json.loads(json.dumps(as_now(found)))
        others = [key for key in settings | found if settings.get(key) != found.get(key)]
    else:
        others = ["all"] if any(not file.name.startswith(".") for file in folder.rglob("*.nii.gz")) else []
    if others:
        raise InputError(
            f"'{folder}' holds results of other settings ({', '.join(others)}; see made_by.json there). "
            "Move them away or choose another folder; nothing was overwritten."
        )
    try:
        write_json(settings, note)
    except OSError as error:
        raise InputError(f"'{folder}' cannot be written to ({error}). Choose another folder.") from None
    return folder


def _noted(note: Path) -> dict | None:
    """Return the settings in ``made_by.json``, or None if it is missing or damaged."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def sha256(file: str | Path) -> str:
    """Return the SHA-256 of the content of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
