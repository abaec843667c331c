"""What is needed of one DICOM file, which the standard calls a SOP instance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plane:
    """Geometry of one slice, as in its header: LPS coordinates in mm.

    Attributes:
        position: Center of the first voxel (x, y, z).
        orientation: Unit vectors along a row and along a column, one after the other.
        spacing: Distance between rows, and between columns.
        shape: Number of rows and of columns.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Values:
    """How the stored values of an instance become those of the modality.

    Attributes:
        image_type: ImageType with the types of the frames, in capitals.
        rescale: Slope and intercept of each frame.
        calibrated: Whether the header says that the result is in the units of the modality.
        padding: First and last stored value of padding; None if the header names none.
    """

    image_type: str = ""
    rescale: tuple[tuple[float, float], ...] = ()
    calibrated: bool = True
    padding: tuple[int, int] | None = None


@dataclass(frozen=True)
class Instance:
    """What is needed of one DICOM file: it has planes, or it is something ``other``, or it has a ``fault``.

    Attributes:
        file: The file.
        series: What the instances of a series have in common: patient, study, and last the series.
        identity: SOP instance UID and instance number.
        series_uid: Series instance UID.
        series_name: Name from the series number, such as ``series3``.
        modality: As in the file, such as ``CT``.
        planes: Geometry of each frame.
        values: How stored values become those of the modality.
        multiframe: Whether it is an enhanced multi-frame object.
        other: What it is, if it is no slice of the modality.
        fault: What is wrong with it.
    """

    file: Path
    series: tuple[str, ...] = ()
    identity: tuple[str, str] = ("", "")
    series_uid: str = ""
    series_name: str = "series"
    modality: str = ""
    planes: tuple[Plane, ...] = ()
    values: Values = Values()
    multiframe: bool = False
    other: str = ""
    fault: str = ""

    @property
    def place(self) -> tuple:
        """Positions of all frames, rounded as much as copies may be; two slices are never so close."""
        return tuple(tuple(round(x, 1) for x in plane.position) for plane in self.planes)
