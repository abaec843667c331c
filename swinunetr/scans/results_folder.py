"""The folder of the results of `segment.py`: which scans it has segmentations of, and the volumes of their organs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swinunetr.errors import InputError
from swinunetr.files import folded, locked, not_written, sha256, write_csv, write_json
from swinunetr.scans.finding import Scan, read_content
from swinunetr.scans.writers import WRITERS, Writer
from swinunetr.words import named

COLUMNS = ("scan", "organ", "ml", "touches_border")  # of volumes.csv


class Results:
    """What a folder holds: content and place of the scan of each segmentation (``scans.json``), and ``volumes.csv``.

    Several processes may segment different scans to one folder.

    Raises:
        InputError: Another program has changed one of the two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes, self.table = folder / "scans.json", folder / "volumes.csv"
        self.scans, self.rows = _read_notes(self.notes), _read_volumes(self.table)
        self.segmentations: set[str] = set()  # files of all scans, in folded form

    def file(self, scan: Scan, ending: str = ".nii.gz") -> Path:
        return self.folder / f"{scan.name}{ending}"

    def require_own(self, scans: Sequence[Scan], writers: Sequence[Writer]) -> None:
        """Check that no file of these scans would replace one of another scan.

        Raises:
            InputError: The folder has segmentations of other scans of the same name, from another folder; or a scan has
                the name of what is written beside the segmentation of another, such as its uncertainty.
        """
        if others := [scan.name for scan in scans if self._has_other(scan)]:
            raise InputError(
                f"output: '{self.folder}' holds segmentations of other scans of the same name, from another folder: "
                f"{named(others)}. Choose another output folder. "
                "To segment several patients, give the folder above theirs as scans: names then hold the subfolder."
            )
        self.segmentations = {folded(f"{name}.nii.gz") for name in self.scans.keys() | {scan.name for scan in scans}}
        for writer in writers:
            files = [f"{scan.name}{writer.ending}" for scan in scans]
            if replaced := named(file for file in files if folded(file) in self.segmentations):
                raise InputError(f"{writer.option}: it would replace {replaced} of another scan. Rename that scan.")

    def _has_other(self, scan: Scan) -> bool:
        noted = self.scans.get(scan.name, {})
        if noted.get("place", scan.place) == scan.place or not self.file(scan).is_file():
            return False
        try:
            content, _ = read_content(scan, modality="")
        except InputError:  # it is left out later
            return False
        return content != noted["content"]

    def has(self, scan: Scan, content: str) -> bool:
        """Return whether the segmentation of a scan is there, and is of its present content."""
        known = self.scans.get(scan.name, {}).get("content") == content and scan.name in self.rows
        return known and self.file(scan).is_file()

    def require_unchanged(self, scan: Scan) -> None:
        """Raise an error if the segmentation of a scan is not as it was written: someone may have corrected it."""
        written, file = self.scans.get(scan.name, {}).get("result"), self.file(scan)
        if written and file.is_file() and sha256(file) != written:
            raise InputError(f"'{file}' was changed since it was written, and would be replaced; move it away first")

    def clear(self, scan: Scan) -> None:
        """Remove the note of a scan, and the files beside its segmentation, which are of the scan as it was before."""
        with self._updating():
            if self.scans.pop(scan.name, None):
                write_json(self.scans, self.notes)
        for writer in WRITERS:
            file = self.file(scan, writer.ending)
            if folded(f"{scan.name}{writer.ending}") in self.segmentations:
                continue
            try:
                file.unlink(missing_ok=True)
            except OSError as error:  # a file has the name of its folder, or a folder that of the file
                raise not_written(file, error) from error

    def add(self, scan: Scan, content: str, volumes: list[dict]) -> None:
        """Note that a scan has been segmented, and a row for each of its organs."""
        with self._updating():
            self.rows[scan.name] = [{"scan": scan.name, **row} for row in volumes]
            write_csv([row for name in sorted(self.rows) for row in self.rows[name]], self.table)
            self.scans[scan.name] = {"content": content, "place": scan.place, "result": sha256(self.file(scan))}
            write_json(self.scans, self.notes)

    def note_place(self, scan: Scan) -> None:
        """Note the present place of a scan whose segmentation is there."""
        if self.scans[scan.name].get("place") != scan.place:
            noted = self.scans[scan.name] | {"place": scan.place}
            with self._updating():
                self.scans[scan.name] = noted
                write_json(self.scans, self.notes)

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """Read both files again, with what other processes wrote, and keep those out while they are changed."""
        with locked(self.folder):
            self.scans, self.rows = _read_notes(self.notes), _read_volumes(self.table)
            yield


def _read_notes(file: Path) -> dict[str, dict[str, str]]:
    """Return ``scans.json``: by the name of a scan, hashes of its ``content``, its ``place`` and its ``result``."""
    try:
        noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for name, note in noted.items():
            noted[name] = (
                {"content": note} if isinstance(note, str) else {"content": "", **note}
            )  # str: earlier version
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _changed(file) from error
    return noted


def _read_volumes(file: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of ``volumes.csv`` by the name of their scan."""
    rows: dict[str, list[dict[str, str]]] = {}
    if not file.is_file():
        return rows
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:  # a spreadsheet may add a byte order mark
            table = list(csv.reader(opened))
        for row in table[1:]:
            cells = dict(zip(COLUMNS, row, strict=True))
            rows.setdefault(cells["scan"], []).append(cells)
    except (OSError, ValueError, csv.Error) as error:
        raise _changed(file) from error
    if table and table[0] != list(COLUMNS):
        raise _changed(file)
    return rows


def _changed(file: Path) -> InputError:
    """Return the error for a file of the results that another program has saved in another form."""
    return InputError(
        f"'{file}' cannot be read: it is damaged, or another program saved it in another form, as spreadsheets do. "
        "Restore it, or delete it: its scans are then segmented again."
    )
