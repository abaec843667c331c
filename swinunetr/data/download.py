"""Public data sets by name: downloaded once, verified, and unpacked whole or not at all.

As a command: ``python -m swinunetr.data.download totalsegmentator_small``.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from monai.apps import DecathlonDataset
from monai.apps.utils import extractall
from tqdm.auto import tqdm

from swinunetr.errors import InputError, WriteError
from swinunetr.files import locked, not_written
from swinunetr.words import named

WORK = ".downloads"  # folder beside the data sets, hidden so that nobody takes half a data set for a whole one
TRIES = 5  # in a row, to receive the rest of a file
WAIT_S, TIMEOUT_S = 2.0, 60.0  # between two tries, and until a silent server counts as stopped
BLOCK = 2**20  # bytes that are received or hashed at a time
RANGE_REFUSED = 416  # HTTP status: the file has no bytes after those that are here


@dataclass(frozen=True)
class PublicData:
    """A data set that anyone may download."""

    content: str
    url: str  # of a zip or tar archive
    md5: str  # of the archive
    page: str  # where it is described
    licence: str
    citation: str


_TOTALSEGMENTATOR = (
    "CC BY 4.0",
    "Wasserthal et al., TotalSegmentator: robust segmentation of 104 anatomic structures in CT images, Radiology: "
    "Artificial Intelligence 5 (2023), e230024",
)
_DECATHLON = (
    "http://medicaldecathlon.com",
    "CC BY-SA 4.0",
    "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022), 4128",
)


def _task(name: str, content: str) -> PublicData:
    """Return a task of the Decathlon, from the address that MONAI has."""
    return PublicData(content, DecathlonDataset.resource[name], DecathlonDataset.md5[name], *_DECATHLON)


DATA_SETS = {
    "totalsegmentator_small": PublicData(
        "102 CT, one file per structure, all 13 organs of BTCV among them",
        "https://zenodo.org/records/10047263/files/Totalsegmentator_dataset_small_v201.zip",
        "6b5524af4b15e6ba06ef2d700c0c73e0",
        "https://zenodo.org/records/10047263",
        *_TOTALSEGMENTATOR,
    ),
    "totalsegmentator": PublicData(
        "1,228 CT, one file per structure, all 13 organs of BTCV among them",
        "https://zenodo.org/records/10047292/files/Totalsegmentator_dataset_v201.zip",
        "fe250e5718e0a3b5df4c4ea9d58a62fe",
        "https://zenodo.org/records/10047292",
        *_TOTALSEGMENTATOR,
    ),
    "msd_spleen": _task("Task09_Spleen", "CT with the spleen"),
    "msd_liver": _task("Task03_Liver", "CT with the liver and its tumours"),
    "msd_pancreas": _task("Task07_Pancreas", "CT with the pancreas and its tumours"),
}


def fetch(name: str, folder: str | Path = "data") -> Path:
    """Return the folder of a public data set, which is downloaded if it is not there; print licence and citation.

    A download that was stopped continues from there, if the server can. Of several processes one downloads, and the
    others wait.

    Args:
        name: One of ``DATA_SETS``.
        folder: Folder in which the data set gets a folder of its name.

    Raises:
        InputError: There is no data set of this name, it cannot be downloaded, or the archive is not the expected one.
        WriteError: The disk is full or may not be written to.
    """
    if name not in DATA_SETS:
        raise InputError(f"Expected the name of a public data set, one of {named(DATA_SETS)}, found {name!r}.")
    data, target = DATA_SETS[name], Path(folder).expanduser() / name
    print(f"{name}: {data.content}. Licence: {data.licence} ({data.page}). Please cite: {data.citation}.")
    if _is_there(target):
        return target
    work = target.parent / WORK / name
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(work, error) from error
    print(f"It is downloaded to '{target}'. If another process does so already, this one waits.")
    with locked(work):
        if not _is_there(target):
            archive = _download(data, work)
            _unpack(archive, target)
            archive.unlink()
    return target


def _is_there(target: Path) -> bool:
    """Return whether a folder has content: it gets all of it at once."""
    return target.is_dir() and any(target.iterdir())


# --------------------------------------------------------------------------------------------------------- download


def _download(data: PublicData, work: Path) -> Path:
    """Return the verified archive in the folder ``work``; MONAI's ``download_url`` would start anew after a stop."""
    archive = work / PurePosixPath(urlsplit(data.url).path).name
    part = archive.with_name(f"{archive.name}.part")
    if archive.is_file():  # verified before, and not unpacked
        return archive
    for attempt in range(TRIES):
        if _receive(data, part):
            break
        time.sleep(WAIT_S * (attempt + 1 < TRIES))
    else:
        have = part.stat().st_size / 1e6
        raise _failed(data, f"stopped {TRIES} times, with {have:.1f} MB received. Run again: it continues from there")
    print(f"Verifying {archive.name}")
    if (found := _md5(part)) != data.md5:
        part.unlink()
        what = f"is another file than expected (md5 {found}, expected {data.md5}) and was removed. Run again"
        raise _failed(data, f"{what}; if that does not help, the file of the server has changed")
    os.replace(part, archive)
    return archive


def _receive(data: PublicData, part: Path) -> bool:
    """Append to a file what it lacks of the archive; return whether it is complete."""
    have = part.stat().st_size if part.is_file() else 0
    request = Request(data.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == RANGE_REFUSED and have:
            return True
        raise _failed(data, f"is refused by the server (HTTP {error.code}, {error.reason}). See {data.page}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _failed(data, f"cannot be reached ({reason}). Check the connection and run again") from error
    with response:
        first = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # else the server sends all of it
        length = response.headers.get("Content-Length")
        total = first + int(length) if length else None
        if total:
            _require_space(part.parent, 2 * total - first, "The archive and its content")  # which hardly shrinks
        try:
            with open(part, "ab" if first else "wb") as file:
                bar = {"initial": first, "total": total, "unit": "B", "unit_scale": True}
                with tqdm(desc="Downloading", **bar) as progress:
                    for block in _blocks(response):
                        file.write(block)
                        progress.update(len(block))
                received = file.tell()
        except OSError as error:
            raise not_written(part, error) from error
    return total is None or received == total


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what a server sends, until its end or until the connection breaks."""
    with suppress(OSError, http.client.HTTPException):
        while block := response.read(BLOCK):
            yield block


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _failed(data: PublicData, what: str) -> InputError:
    """Return the error of a download, with the way to do without it."""
    return InputError(
        f"{data.url} {what}. Or download it on another computer, and give the folder in which you unpack it as your "
        "data."
    )


# ----------------------------------------------------------------------------------------------------------- unpack


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive beside itself, then make it the folder ``target``; a single folder in it is left out."""
    unpacked = archive.with_name("unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
    try:
        sizes = _sizes(archive)
        _require_space(archive.parent, sum(sizes), "The content")
        print(f"Unpacking {len(sizes)} files")
        extractall(archive, unpacked, has_base=False)  # refuses paths that leave the folder
        top = [path for path in unpacked.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
        os.replace(top[0] if len(top) == 1 and top[0].is_dir() else unpacked, target)
    except (zipfile.BadZipFile, tarfile.TarError, ValueError, EOFError) as error:
        if isinstance(error, WriteError):
            raise
        archive.unlink(missing_ok=True)
        raise InputError(f"'{archive}' cannot be unpacked ({error}) and was removed. Run again.") from error
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _sizes(archive: Path) -> list[int]:
    """Return the bytes of each file in an archive, unpacked."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return [member.file_size for member in opened.infolist() if not member.is_dir()]
    with tarfile.open(archive) as tar:
        return [member.size for member in tar if member.isfile()]


def _require_space(folder: Path, needed: int, what: str) -> None:
    """Raise a WriteError if the disk of a folder has less space than is needed, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WriteError(
            f"{what} need {needed / 1e9:.1f} GB in '{folder}', where {free / 1e9:.1f} GB are free. Free disk space, or "
            "choose a folder on another disk, and run again."
        )


def main() -> None:
    """Download a public data set and print its folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", help=f"one of {', '.join(DATA_SETS)}")
    parser.add_argument("folder", nargs="?", default="data", help="folder for data sets (default: data)")
    arguments = parser.parse_args()
    try:
        print(fetch(arguments.name, arguments.folder))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
