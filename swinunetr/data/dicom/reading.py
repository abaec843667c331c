"""Which files of a folder are DICOM, and whether they are complete."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pydicom

from swinunetr.data.dicom.headers import (
    DEFLATED,
    HEADER,
    TRUNCATED,
    UNCOMPRESSED,
    Instance,
    describe,
    text_of,
    transfer_syntax,
)
from swinunetr.threads import in_threads

MOST_WITHOUT_BAR = 300  # files; more are read with a progress bar
# Some files have no preamble; they start with group 2 or 8, in either byte order.
FIRST_ELEMENT = re.compile(rb"[\x02\x08]\x00.\x00|\x00[\x02\x08]\x00.", re.DOTALL)
UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed pixels, which are stored as fragments
ARCHIVE = "an archive of several files or a compressed file; unpack it"
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".dcm.gz")
LOOKED_AT = 20  # files in an archive


def read_instances(files: list[Path], modality: str) -> list[Instance]:
    """Return what is needed of all DICOM files, and of archives that hold scans; other files have no instance.

    Several threads read them, since disks can be slow. ``modality`` is DICOM's name of it.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # many headers break rules that do not matter here
        title = "Reading DICOM headers" if len(files) > MOST_WITHOUT_BAR else ""
        instances = in_threads(partial(_read_instance, modality=modality), files, title)
    return [instance for instance in instances if instance]


def _read_instance(file: Path, modality: str) -> Instance | None:
    """Return what is needed of one file; None if it is not DICOM, or a link to a missing file."""
    unread = Instance(file, ("unreadable", str(file.parent)), (str(file), ""), series_name="unreadable")
    marked = False
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
            marked = start[128:] == b"DICM"
            if not marked and not FIRST_ELEMENT.match(start):
                if not _may_hold_scans(file):
                    return None
                return replace(unread, series=(str(file),), series_name=file.name, other=ARCHIVE)
            opened.seek(0)
            header = pydicom.dcmread(opened, stop_before_pixels=True, force=not marked, specific_tags=list(HEADER))
            pixels = "none" if "Rows" not in header else _read_pixels_length(opened, header)
        return describe(unread, header, pixels, marked, modality)
    except FileNotFoundError:
        return None
    except OSError as error:
        fault = f"cannot be read ({error.strerror}); ask for access or copy it again"
        return replace(unread, fault=fault if error.strerror else TRUNCATED)  # pydicom raises it without a text
    except Exception:  # damaged files raise many types of error
        return replace(unread, fault=TRUNCATED) if marked else None


def _may_hold_scans(file: Path) -> bool:
    """Return whether a file is an archive; of zip files, which other programs use too, one that holds scans."""
    if not file.name.lower().endswith(ARCHIVES):
        return False
    if not zipfile.is_zipfile(file):
        return True
    with zipfile.ZipFile(file) as archive:
        for name in [name for name in archive.namelist() if not name.endswith("/")][:LOOKED_AT]:
            encrypted = archive.getinfo(name).flag_bits & 1
            if name.lower().endswith((".nii", ".nii.gz", *ARCHIVES)) or encrypted:
                return True
            with archive.open(name) as member:
                if member.read(132)[128:] == b"DICM":
                    return True
    return False


def _read_pixels_length(opened: BinaryIO, header: pydicom.Dataset) -> str:
    """Return whether the pixels of a file that is read up to them are "complete", "cut" or "none"."""
    syntax = transfer_syntax(header)
    if syntax == DEFLATED:  # decompressing it has found any cut
        return "complete"
    implicit, little = header.original_encoding
    element_size = 8 if implicit else 12
    start = opened.read(element_size)
    if len(start) < element_size:
        return "none" if len(start) < 2 else "cut"
    length = int.from_bytes(start[-4:], "little" if little else "big")
    left = os.fstat(opened.fileno()).st_size - opened.tell()
    if length == UNDEFINED_LENGTH:
        return "complete" if _fragments_end(opened, left) else "cut"
    bits = int(header.Rows) * int(header.Columns) * int(text_of(header, "NumberOfFrames") or 1)
    bits *= int(text_of(header, "SamplesPerPixel") or 1) * int(text_of(header, "BitsAllocated") or 8)
    needed = bits // 8 if syntax in UNCOMPRESSED else 0
    return "complete" if needed <= length <= left else "cut"


def _fragments_end(opened: BinaryIO, left: int) -> bool:
    """Return whether compressed pixels, of which ``left`` bytes are there, do not end within a fragment."""
    while left >= 8:
        group, element, length = struct.unpack("<HHI", opened.read(8))
        if (group, element) != (0xFFFE, 0xE000):
            return (group, element) == (0xFFFE, 0xE0DD)
        opened.seek(length, os.SEEK_CUR)
        left -= 8 + length
    return left == 0  # some writers leave out the end marker
