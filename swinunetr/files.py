"""Files that are written completely or not at all, folders of one run, and detection of files with other content."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from swinunetr.errors import InputError, WriteError
from swinunetr.words import named

LONGEST_NAME = 200  # bytes; file systems allow 255, of which endings and the prefix of a temporary file need some
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # in file names or in tables
NOTE = "made_by.json"  # in a folder of results: what they depend on
REMEDIES = {  # by the number of an error that writing raised
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free disk space, or choose a folder on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Ask for write access, or choose another folder"),
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), "Bring the folder back, or choose another one"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "A file has the name of the folder: choose another folder"),
    errno.EISDIR: "A folder has the name of the file: choose another folder",
    errno.ENAMETOOLONG: "Choose a shorter path",
}
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
    return next(((kind, remedy) for pattern, kind, remedy in STAND_INS if re.match(pattern, start)), None)


class Tree(NamedTuple):
    """What :func:`walk_files` found below a folder."""

    files: list[Path]
    closed: list[tuple[str, str]]  # path and reason of the folders that cannot be opened
    results: list[str]  # folders of results of this project, see :func:`holds_results`


def walk_files(root: Path, without: Path | None = None) -> Tree:
    """Return all files below a folder, the folders that cannot be opened, and those that hold results.

    Links are followed, each folder once and not by a link if it is there itself; links to missing files are listed too.
    Hidden files and folders are left out: the ``._*`` files and ``__MACOSX`` folders of macOS, and temporary files that
    an interrupted run left. So are folders of results, with all that they hold.

    Args:
        root: The folder.
        without: Folder to leave out with all that it holds; None leaves none out.
    """
    files, closed, results = [], [], []
    seen = {os.path.realpath(without)} if without else set()

    def note(error: OSError) -> None:
        closed.append((error.filename, f"the folder cannot be opened ({error.strerror}); ask for access"))

    for folder, inner, names in os.walk(root, onerror=note, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # links can make a circle
            inner.clear()
            continue
        seen.add(real)
        if holds_results(folder):
            results.append(folder)
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__MACOSX"]
        inner.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        paths = (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))
        # A pipe, which exists and is no file, would wait for ever.
        files += [Path(path) for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return Tree(files, closed, results)


def what_is_there(path: str | Path) -> str:
    """Return a sentence on the folder in which a path was looked for: what it holds, or that there is none."""
    path = Path(path).expanduser()
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder '{folder}' either."
    with suppress(OSError):
        names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
        return f"The folder '{folder}' holds {named(names, counted=True) or 'nothing'}."
    return ""


def holds_results(folder: str | Path) -> bool:
    """Return whether a folder holds segmentations of this project: those with its note, or of an exported bundle."""
    of_bundle = os.path.basename(folder) == "eval" and os.path.isfile(os.path.join(folder, "../configs/metadata.json"))
    return of_bundle or os.path.isfile(os.path.join(folder, NOTE))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; replace ``path`` by that file if the block succeeds.

    The file is flushed to disk first, so that ``path`` is never incomplete. Missing parent folders are made. A kill can
    leave the temporary file, which is hidden.

    Raises:
        WriteError: The disk is full, the folder is gone or may not be written to; ``path`` is as it was.
    """
    path = Path(path).expanduser()
    # Random, since containers on a shared disk can have equal process ids. The same file name extension, since writers
    # such as nibabel choose the format by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):  # torch.save to an open file raises a RuntimeError from it
            cause = cause.__context__
        if isinstance(error, WriteError) or not isinstance(cause, OSError):
            raise
        raise not_written(path, cause) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def not_written(path: str | Path, error: OSError) -> WriteError:
    """Return the error for a file that could not be written, with the free space of its disk and what to do."""
    folder = Path(path).parent
    free = ""
    with suppress(OSError):  # the folder may be gone
        free = f"; {shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    reason = error.strerror or str(error)
    remedy = REMEDIES.get(error.errno or 0, "Check the disk")
    short = WriteError(f"'{path}' could not be written ({reason}{free}). {remedy}, and run again.")
    short.strerror = reason  # as of any OSError, for messages that name the file themselves
    return short


def require_note(note: Path) -> None:
    """Check that a folder still has the file that names its results: a removed folder must not be filled again.

    Raises:
        WriteError: The folder was removed, renamed or unmounted.
    """
    if not note.is_file():
        raise WriteError(
            f"'{note.parent}' has lost its '{note.name}' since the start: it was removed, renamed or unmounted. "
            "Bring it back to continue there, or choose another folder, and run again."
        )


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Let one process at a time into the block, of those that write to a folder; all, on a disk that has no locks."""
    lock = FileLock(Path(folder, ".lock"))
    with suppress(OSError, NotImplementedError):  # such as a mounted Google Drive
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def as_json(content: Any) -> Any:
    """Return values as they are read back from a JSON file: tuples become lists."""
    return json.loads(json.dumps(content))


def write_json(content: object, path: str | Path) -> None:
    """Write values as indented JSON to a file, completely or not at all; NaN, which JSON lacks, becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=2) + "\n", encoding="utf-8")


def _without_nan(content: object) -> object:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if content != content else content


def write_csv(rows: Sequence[Mapping[str, object]], path: str | Path) -> None:
    """Write rows to a CSV file, completely or not at all; NaN, and what a row lacks, becomes an empty field."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


def claim_folder(folder: str | Path, settings: Mapping, as_now: Callable[[dict], Mapping] = lambda note: note) -> Path:
    """Make a folder for results, write ``settings`` to its ``made_by.json``, and return its path.

    An existing folder with the same settings is used again, so that a run can continue.

    Args:
        folder: Folder of the results; ``~`` is the home folder.
        settings: What the results depend on, as values that JSON can store.
        as_now: Function that returns the settings that a note stands for, which an earlier version may have written.

    Raises:
        InputError: The folder contains results of other or unknown settings, or it cannot be written to.
    """
    folder, settings = Path(folder).expanduser(), as_json(settings)
    note = folder / NOTE
    noted = _noted(note)
    if noted is not None:
        noted = as_json(as_now(noted))
        differing = [key for key in settings | noted if settings.get(key) != noted.get(key)]
    else:
        try:
            differing = ["all"] if any(not file.name.startswith(".") for file in folder.rglob("*.nii.gz")) else []
        except OSError as error:  # in a closed folder, or with a long name
            raise not_written(note, error) from None
    if differing:
        raise InputError(
            f"'{folder}' holds results of other settings ({', '.join(differing)}; see made_by.json there). "
            "Move them away or choose another folder; nothing was overwritten."
        )
    write_json(settings, note)
    return folder


def _noted(note: Path) -> dict | None:
    """Return the settings in ``made_by.json``, or None if it is missing or damaged."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def sha256(file: str | Path) -> str:
    """Return the SHA-256 of the content of a file, in hexadecimal; it is read once in this process while unchanged."""
    return _sha256(stamp(file))


@lru_cache(maxsize=1000)
def _sha256(present: tuple) -> str:
    """Return the hash of the file that has a stamp now."""
    digest = hashlib.sha256()
    with open(present[0], "rb") as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


_intact: set[tuple] = set()  # stamps of the files whose checksums were right in this process


def stamp(file: str | Path) -> tuple:
    """Return what changes when a file is written: its path and, from the system, inode, size and times.

    Copying programs keep the time of modification; they cannot keep that of the last change (ctime).

    Raises:
        OSError: The file is missing.
    """
    stat = os.stat(file)
    return os.path.realpath(file), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_zip(file: str | Path) -> None:
    """Check the checksums of a zip archive, such as a file of ``torch.save``; ``torch.load`` checks none of them.

    The file is read as a whole, once in this process while it does not change. An archive that was written without
    checksums, as ``torch.serialization.set_crc32_options(False)`` does, cannot be checked.

    Raises:
        zipfile.BadZipFile: The file is damaged, or it is no zip archive.
        OSError: It cannot be read.
    """
    present = stamp(file)
    if present in _intact:
        return
    try:
        with zipfile.ZipFile(file) as archive:
            checked = any(record.CRC for record in archive.infolist())
            damaged = archive.testzip() if checked else None
    except (OSError, zipfile.BadZipFile):
        raise
    except Exception as error:  # damaged headers raise many types of error
        raise zipfile.BadZipFile(f"damaged header: {error}") from error
    if damaged:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    _intact.add(present)
