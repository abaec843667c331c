"""Files that cannot be read: which byte stream a file is, and why reading it failed."""

from __future__ import annotations

import gzip
import os
import unicodedata
import zlib
from pathlib import Path
from typing import BinaryIO

from swinunetr.data.folders import case_name, is_nifti
from swinunetr.errors import Fault
from swinunetr.files import stand_in


def open_unpacked(path: str) -> BinaryIO:
    """Open a file for reading bytes, decompressed if its name ends in ``.gz``."""
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")


def missing(path: Path) -> Fault:
    """Return that a file is missing, with the name of one that is meant: of nnU-Net, in other letters or endings."""
    if path.is_dir():
        return Fault("a folder, not a file", "give the NIfTI file in it; convert DICOM first")
    if "\\" in path.name:
        return Fault("file is missing", "write / between the folders in the JSON, not \\")
    if path.is_symlink():
        target = os.readlink(path)
        return Fault(f"a link to '{target}', which is missing", "bring that file back, or correct the link")
    wanted = _plain_name(path.name)
    names = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    alike = next((name for name in names if is_nifti(name) and _plain_name(name) == wanted), None)
    remedy = "check data_root and the name in the JSON"
    if alike and unicodedata.normalize("NFC", alike) == unicodedata.normalize("NFC", path.name):
        remedy = "its folder has this name in another Unicode form (NFC or NFD): copy the name from there"
    elif alike:
        remedy = f"its folder has '{alike}': write that name in the JSON"
    return Fault("file is missing", remedy)


def _plain_name(file: str) -> str:
    """Return a file name without endings, the number of nnU-Net's first channel, case and Unicode form."""
    return unicodedata.normalize("NFC", case_name(file)).casefold().removesuffix("_0000")


def unreadable(path: str, error: Exception) -> Fault:
    """Return why a file cannot be read, given the error that reading it raised."""
    again = "copy or download it again"
    try:
        other = stand_in(path)
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as refused:
        error, other, start = refused, None, b""
    if isinstance(error, PermissionError):
        return Fault("no permission to read the file", "ask for access or copy it")
    if other:
        what, remedy = other
        return Fault(f"{what}, not a scan", remedy)
    if isinstance(error, OSError) and (error.errno or not start):  # of the operating system, not of nibabel or gzip
        return Fault(f"cannot be read ({error.strerror or _first_line(error)})", again)
    if isinstance(error, MemoryError):
        return Fault(f"too large for the memory ({_first_line(error)})", "crop it, or correct its header")
    if path.lower().endswith(".gz") != start.startswith(b"\x1f\x8b"):
        return Fault("the name says gzip and the content is not gzip, or the reverse", "rename it to .nii.gz or .nii")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return Fault("gzip data are damaged", again)
    if isinstance(error, EOFError) or "Expected" in str(error):  # nibabel: "Expected ... bytes, got ..."
        return Fault("file is truncated: it ends before its last voxel", again)
    return Fault(f"not readable as NIfTI ({_first_line(error)})", "convert it to .nii.gz again")


def _first_line(error: Exception) -> str:
    """Return at most 60 characters of an error's first line, or its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:60]
