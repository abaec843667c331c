"""The folder of the results of `segment.py`: which scans it has segmentations of, and the volumes of their organs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from swinunetr.errors import InputError
from swinunetr.files import folded, write_csv, write_json
from swinunetr.label_maps import named
from swinunetr.scans import Scan, read_content

UNCERTAINTY = "_uncertainty.nii.gz"  # ending of its file


class Results:
    """What a folder holds: content and place of the scan of each segmentation (``scans.json``), and ``volumes.csv``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        notes, table = folder / "scans.json", folder / "volumes.csv"
        noted = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        # An earlier version noted the content alone.
        self.scans = {name: {"content": note} if isinstance(note, str) else note for name, note in noted.items()}
        self.rows: dict[str, list[dict]] = {}
        self.segmentations: set[str] = set()  # files of all scans, in folded form
        if table.is_file():
            with open(table, newline="", encoding="utf-8") as opened:
                for row in csv.DictReader(opened):
                    self.rows.setdefault(row["scan"], []).append(row)

    def file(self, scan: Scan, ending: str = ".nii.gz") -> Path:
        """Return the file of a scan with this ending."""
        return self.folder / f"{scan.name}{ending}"

    def require_own(self, scans: Sequence[Scan], uncertainty: bool) -> None:
        """Check that no file of these scans would replace one of another scan.

        Raises:
            InputError: The folder has segmentations of other scans of the same name, from another folder; or a scan has
                the name of the uncertainty of another.
        """
        if others := [scan.name for scan in scans if self._has_other(scan)]:
            raise InputError(
                f"output: '{self.folder}' holds segmentations of other scans of the same name, from another folder: "
                f"{named(others)}. Choose another output folder. "
                "To segment several patients, give the folder above theirs as scans: names then hold the subfolder."
            )
        self.segmentations = {folded(f"{name}.nii.gz") for name in self.scans.keys() | {scan.name for scan in scans}}
        files = [f"{scan.name}{UNCERTAINTY}" for scan in scans]
        if uncertainty and (replaced := [file for file in files if folded(file) in self.segmentations]):
            raise InputError(f"uncertainty: it would replace {named(replaced)} of another scan. Rename that scan.")

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

    def clear(self, scan: Scan) -> None:
        """Remove the files beside the segmentation of a scan, which are of the scan as it was before."""
        for ending in (".dcm", ".png", UNCERTAINTY):
            if folded(f"{scan.name}{ending}") not in self.segmentations:
                self.file(scan, ending).unlink(missing_ok=True)

    def add(self, scan: Scan, content: str, volumes: list[dict]) -> None:
        """Note that a scan has been segmented, and the volumes of its organs."""
        self.rows[scan.name] = [{"scan": scan.name, **row} for row in volumes]
        write_csv([row for name in sorted(self.rows) for row in self.rows[name]], self.folder / "volumes.csv")
        self.note(scan, content)

    def note(self, scan: Scan, content: str) -> None:
        """Note the content and the present place of a scan whose segmentation is there."""
        noted = {"content": content, "place": scan.place}
        if self.scans.get(scan.name) != noted:
            self.scans[scan.name] = noted
            write_json(self.scans, self.folder / "scans.json")
