"""What a file and its header must be: one NIfTI volume with a geometry that can be trusted, for a label its image's."""

from __future__ import annotations

import gzip
import itertools
import os
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np

from swinunetr.data.folders import case_name, is_nifti
from swinunetr.data.geometry import (
    REVERSED_DEGREES,
    TILT_DEGREES,
    TURNED_DEGREES,
    in_body_order,
    other_spacing,
    tilt_degrees,
    turned_degrees,
    voxel_volume_mm3,
)
from swinunetr.errors import Fault
from swinunetr.files import stamp, stand_in
from swinunetr.recipe import SPACING_LIMITS_MM

THICK_SLICE_MM = 8.0


@dataclass(frozen=True)
class Header:
    """What the header of a file says, and its problems; without a shape, the header was not read or cannot be."""

    faults: tuple[Fault, ...] = ()  # at most one error, which is the last of them
    stamp: tuple = ()  # of the file when it was checked; see files.stamp
    shape: tuple[int, ...] = ()  # in voxels, along the file's axes
    voxel_bytes: int = 0  # of a stored voxel
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))  # voxel to mm

    @property
    def spacing(self) -> np.ndarray:
        """Voxel spacing in mm, along the file's axes."""
        return nib.affines.voxel_sizes(self.affine)

    @property
    def body_spacing(self) -> np.ndarray:
        """Voxel spacing in mm, along x, y, z of the body."""
        return in_body_order(self.spacing, self.affine)

    @property
    def orientation(self) -> str:
        """Directions of the file's axes, such as ``LAS``."""
        return "".join(nib.aff2axcodes(self.affine))

    def voxels_on_grid(self, spacing_mm: Sequence[float]) -> int:
        """Return the number of voxels on a training grid, before the scan is cropped to the body."""
        steps = (in_body_order(self.shape[:3], self.affine) - 1) * self.body_spacing / np.array(spacing_mm)
        return int(np.prod(np.round(steps + 1)))


def check_header(path: str) -> Header:
    """Read the header of a file; a damaged one raises an error of any type, see :func:`unreadable`."""
    if not Path(path).is_file():
        return Header((_missing(Path(path)),))
    written = stamp(path)
    with open_unpacked(path) as stream:
        stream.read(348)  # raises on damaged data, which nibabel would report as an unknown file type
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            pair = isinstance(image, nib.AnalyzeImage)  # of which NIfTI pairs are subclasses
            form = "a pair of .hdr and .img" if pair else type(image).__name__
            return Header((Fault(f"not one NIfTI file but {form}", "convert it to .nii.gz"),))
        if not is_nifti(path):  # nibabel reads other compressions too, from which the header is not read here
            return Header((Fault("the name does not end in .nii or .nii.gz", "convert it to .nii.gz"),))
        stream.seek(0)
        stored = type(image.header).from_fileobj(stream, check=False)  # nibabel.load changes a spacing of 0 to 1 mm
    error = _volume_fault(stored) or _geometry_fault(stored, image)
    faults = [error] if error else _geometry_warnings(image)
    return Header(tuple(faults), written, stored.get_data_shape(), stored.get_data_dtype().itemsize, image.affine)


def compare_grids(label: Header, image: Header) -> Fault | None:
    """Return the difference between the grid of a label and that of its image, if corners are over 0.001 mm apart.

    Up to a tenth of a voxel is a warning: a qform, stored as a float32 quaternion, can differ by that from an sform.
    """
    if label.shape[:3] != image.shape[:3]:
        what = f"shape {dimensions(label.shape)}, its image has {dimensions(image.shape)}"
        return Fault(what, "export the label on the image's grid")
    corners = np.array(list(itertools.product(*((0, n - 1) for n in label.shape[:3]), [1])))
    apart = np.linalg.norm(corners @ (label.affine - image.affine).T, axis=1).max()  # mm
    if apart <= 1e-3:
        return None
    what = f"affine differs from its image's: corners up to {apart:.3g} mm apart"
    return Fault(what, "export the label with the image's affine", stops=bool(apart > 0.1 * label.spacing.min()))


def read_header(path: str | Path) -> Header:
    """Return the result of :func:`check_header`; of a file that cannot be read, a header with that fault alone."""
    try:
        return check_header(str(path))
    except Exception as error:  # damaged files raise many types of error
        return Header((unreadable(str(path), error),))


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
    if isinstance(error, FileNotFoundError) and start:  # by nibabel, which knows .nii and .NII, but not .Nii
        return Fault("the ending of its name has capitals and small letters", "rename it to .nii.gz or .nii")
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


def open_unpacked(path: str) -> BufferedIOBase:
    """Open a file for reading bytes, decompressed if its name ends in ``.gz``."""
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")


def dimensions(numbers: Iterable[float]) -> str:
    """Return numbers as in ``1.5 x 1.5 x 2``."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def _missing(path: Path) -> Fault:
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


def _volume_fault(stored: nib.Nifti1Header) -> Fault | None:
    axes = stored.get_data_shape()
    if stored.get_data_dtype().kind not in "iuf":
        return Fault("voxels are colours or complex numbers", "convert it to one grey value per voxel")
    if axes[3:] == (1,):  # MONAI uses one such axis as the channel
        axes = axes[:3]
    if len(axes) != 3 or min(axes) < 2:
        return Fault(f"shape {dimensions(axes)} is not a 3D volume", "give one volume of several slices per file")
    start, header_bytes = stored["vox_offset"], stored.single_vox_offset
    if stored["magic"] == stored.single_magic and start < header_bytes:  # nibabel takes the header for voxels
        return Fault(f"voxels begin at byte {start:g}, in the header", f"set vox_offset to {header_bytes}")
    return None


def _geometry_fault(stored: nib.Nifti1Header, image: nib.Nifti1Image) -> Fault | None:
    least, most = SPACING_LIMITS_MM
    remedy = "correct the header or convert the scan again"
    lengths, pixdim = nib.affines.voxel_sizes(image.affine), stored["pixdim"][1:4]
    if not np.isfinite(image.affine).all():
        return Fault("affine contains NaN or infinity", remedy)
    for mm in (lengths, np.abs(pixdim)):
        if not ((mm >= least) & (mm <= most)).all():  # written so that NaN is an error too
            return Fault(f"spacing {dimensions(mm)} mm, expected {least:g} to {most:g}", remedy)
    if voxel_volume_mm3(image.affine) < 0.01 * lengths.prod():
        return Fault("affine is singular: its axes lie in one plane", remedy)
    if (turned := turned_degrees(image.header)) > REVERSED_DEGREES:
        what = f"sform and qform contradict each other by {turned:.0f} degrees: left and right are in doubt"
        return Fault(what, "compare both with the original in a viewer, then store the right one as both")
    return None


def _geometry_warnings(image: nib.Nifti1Image) -> list[Fault]:
    """Return what is unusual in the geometry of a scan."""
    header, affine = image.header, image.affine
    spacing, warnings = nib.affines.voxel_sizes(affine), []
    if not (header["sform_code"] or header["qform_code"]):
        warnings.append(("neither sform nor qform is set", "check left and right in a viewer"))
    if (pixdim := other_spacing(header, affine)) is not None:
        what = f"the spacing of the sform, {dimensions(spacing)} mm, is used; pixdim says {dimensions(pixdim)} mm"
        warnings.append((what, "correct the sform if pixdim is right: volumes and distances depend on it"))
    tilt, turned = tilt_degrees(affine), turned_degrees(header)
    if tilt > TILT_DEGREES:
        what = f"axes are {tilt:.1f} degrees from right angles (gantry tilt); volumes and distances allow for it"
        remedy = "viewers that build on ITK do not open it; dcm2niix names a resampled file for them with _Tilt"
        warnings.append((what, remedy))
    elif turned > TURNED_DEGREES:
        what = f"sform and qform differ by {turned:.1f} degrees; the sform is used"
        warnings.append((what, "check left and right in a viewer"))
    if spacing.max() > THICK_SLICE_MM:
        warnings.append((f"slices are {spacing.max():g} mm thick", "small organs may be missed"))
    return [Fault(what, remedy, stops=False) for what, remedy in warnings]
