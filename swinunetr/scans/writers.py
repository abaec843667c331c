"""What is written for each scan beside its segmentation: one subclass of :class:`Writer` per kind of file.

A new kind is a class here, with its place in ``WRITERS``. It is then an option of `segment.py` and of
:func:`swinunetr.scans.segmentation.segment`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from swinunetr.errors import InputError
from swinunetr.files import replacing
from swinunetr.results import plots
from swinunetr.results.inference import save_prediction
from swinunetr.scans.dicom_seg import KINDS, Origin, kind_of, write_segmentation
from swinunetr.scans.finding import Scan


class SegmentedScan(NamedTuple):
    """A scan with its segmentation on its own grid, and what the segmentation was made with."""

    scan: Scan
    source: str  # NIfTI file of the scan, for a DICOM series a temporary one
    file: Path  # of the segmentation, which is written first
    labels: np.ndarray  # uint8, as in the file
    uncertainty: np.ndarray | None  # in steps of 1/255; None if no writer needs it
    classes: tuple[str, ...]  # names of the labels from 0, which is background
    window: tuple[float, float] | None  # in HU, of the intensities; None for other modalities than CT
    origin: Origin


class Writer(ABC):
    """One kind of file that is written for each scan if its option is given."""

    ending: ClassVar[str]  # of the file, after the name of the scan
    noun: ClassVar[str]  # what a scan has with it, for messages
    option: ClassVar[str]  # keyword of `segment`; in `segment.py`, with dashes
    argument: ClassVar[dict[str, Any]]  # what argparse needs for the option
    needs_uncertainty: ClassVar[bool] = False  # whether the uncertainty must be computed

    def __init__(self, value: Any) -> None:
        """Take the value of the option; raise an InputError if it is not one of those that it has."""
        self.value = value

    def require_scans(self, scans: Sequence[Scan], root: Path) -> None:  # noqa: B027
        """Raise an InputError if none of the scans in ``root`` can have such a file."""

    def is_done(self, scan: Scan, file: Path) -> bool:
        """Return whether ``file`` is there as asked for, or the scan has none."""
        return file.is_file()

    @abstractmethod
    def write(self, segmented: SegmentedScan, file: Path) -> None:
        """Write the file of a scan.

        Raises:
            InputError: The scan allows no such file.
            WriteError: The disk is full, or the folder is gone.
        """


class DicomObject(Writer):
    """DICOM segmentation object of a series; the value is its kind."""

    ending = ".dcm"
    noun = "DICOM segmentation object"
    option = "dicom_seg"
    argument = {
        "nargs": "?",
        "choices": KINDS,
        "const": KINDS[0],
        "default": "",
        "help": "write a DICOM segmentation object for each series: LABELMAP (the default), or BINARY for older "
        "viewers",
    }

    def __init__(self, value: str) -> None:
        if value not in KINDS:
            raise InputError(f"dicom_seg: expected one of {', '.join(KINDS)}, found {value!r}.")
        super().__init__(value)

    def require_scans(self, scans: Sequence[Scan], root: Path) -> None:
        if not any(scan.series for scan in scans):
            expected = f"dicom_seg: expected DICOM series in '{root}', found NIfTI files only."
            raise InputError(f"{expected} Leave out --dicom-seg.")

    def is_done(self, scan: Scan, file: Path) -> bool:
        return not scan.series or kind_of(file) == self.value

    def write(self, segmented: SegmentedScan, file: Path) -> None:
        if series := segmented.scan.series:
            write_segmentation(segmented.labels, series, segmented.classes, file, segmented.origin, self.value)


class Picture(Writer):
    """Picture of a scan with the outlines of the organs."""

    ending = ".png"
    noun = "picture"
    option = "pictures"
    argument = {"action": "store_true", "help": "write a picture of each scan with its outlines"}

    def write(self, segmented: SegmentedScan, file: Path) -> None:
        name, organs = segmented.scan.name, segmented.classes[1:]
        figure = plots.plot_segmentation(name, segmented.source, segmented.file, organs, segmented.window)
        with replacing(file) as picture:
            figure.savefig(picture, dpi=110)
        plt.close(figure)


class Uncertainty(Writer):
    """Uncertainty of each voxel, from 0 to 1; see :func:`swinunetr.results.resampling.resample_labels`."""

    ending = "_uncertainty.nii.gz"
    noun = "file of their uncertainty"
    option = "uncertainty"
    argument = {"action": "store_true", "help": "write how uncertain each voxel is, from 0 to 1, best of an ensemble"}
    needs_uncertainty = True

    def write(self, segmented: SegmentedScan, file: Path) -> None:
        assert segmented.uncertainty is not None  # as it was needed
        save_prediction(segmented.uncertainty, segmented.source, file, 1 / 255)


WRITERS: tuple[type[Writer], ...] = (DicomObject, Picture, Uncertainty)


def asked_writers(options: Mapping[str, Any]) -> list[Writer]:
    """Return the writers whose options are given, by name with a value that is not false.

    Raises:
        InputError: An option does not have this value.
        TypeError: There is no such option.
    """
    if unknown := options.keys() - {writer.option for writer in WRITERS}:
        raise TypeError(f"segment() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    return [writer(options[writer.option]) for writer in WRITERS if options.get(writer.option)]
