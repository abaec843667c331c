"""What a header must be: one NIfTI volume with a geometry that can be trusted, for a label that of its image."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from swinunetr.data.checks.reading import missing, open_unpacked
from swinunetr.data.folders import is_nifti
from swinunetr.data.geometry import (
    REVERSED_DEGREES,
    TILT_DEGREES,
    TURNED_DEGREES,
    other_spacing,
    tilt_degrees,
    turned_degrees,
    voxel_volume_mm3,
)
from swinunetr.errors import Fault
from swinunetr.files import stamp
from swinunetr.recipe import SPACING_LIMITS_MM

THICK_SLICE_MM = 8.0


@dataclass(frozen=True)
class Header:
    """What the header of a file says, and its problems; without a shape, the file has no header that can be read."""

    faults: tuple[Fault, ...] = ()  # at most one error, which is the last of them
    stamp: tuple = ()  # of the file when it was checked; see files.stamp
    shape: tuple[int, ...] = ()  # in voxels, along the file's axes
    dtype: np.dtype | None = None  # of the stored voxels
    affine: np.ndarray | None = None  # (4, 4), voxel to mm

    @property
    def spacing(self) -> np.ndarray:
        """Voxel spacing in mm, along the file's axes."""
        return nib.affines.voxel_sizes(self.affine)


def check_header(path: str) -> Header:
    """Read the header of a file.

    Raises:
        Exception: Of any type, as damaged files raise; see :func:`swinunetr.data.checks.reading.unreadable`.
    """
    if not Path(path).is_file():
        return Header((missing(Path(path)),))
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
    error = _volume_fault(stored) or _geometry_fault(stored, image.affine) or _direction_fault(image.header)
    faults = [error] if error else _geometry_warnings(image.header, image.affine)
    return Header(tuple(faults), written, stored.get_data_shape(), stored.get_data_dtype(), image.affine)


def compare_grids(label: Header, image: Header) -> Fault | None:
    """Return the difference between the grid of a label and that of its image, if any.

    The corners of the two volumes may be 0.001 mm apart. Up to a tenth of a voxel is a warning: a qform is stored as
    a float32 quaternion, and can differ by that much from an sform with the same geometry.
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


def dimensions(numbers: Iterable[float]) -> str:
    """Return numbers as in ``1.5 x 1.5 x 2``."""
    return " x ".join(f"{number:.4g}" for number in numbers)


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


def _geometry_fault(stored: nib.Nifti1Header, affine: np.ndarray) -> Fault | None:
    least, most = SPACING_LIMITS_MM
    remedy = "correct the header or convert the scan again"
    lengths, pixdim = nib.affines.voxel_sizes(affine), stored["pixdim"][1:4]
    if not np.isfinite(affine).all():
        return Fault("affine contains NaN or infinity", remedy)
    for mm in (lengths, np.abs(pixdim)):
        if not ((mm >= least) & (mm <= most)).all():  # written so that NaN is an error too
            return Fault(f"spacing {dimensions(mm)} mm, expected {least:g} to {most:g}", remedy)
    if voxel_volume_mm3(affine) < 0.01 * lengths.prod():
        return Fault("affine is singular: its axes lie in one plane", remedy)
    return None


def _direction_fault(header: nib.Nifti1Header) -> Fault | None:
    if (angle := turned_degrees(header)) <= REVERSED_DEGREES:
        return None
    what = f"sform and qform contradict each other by {angle:.0f} degrees: left and right are in doubt"
    return Fault(what, "compare both with the original in a viewer, then store the right one as both")


def _geometry_warnings(header: nib.Nifti1Header, affine: np.ndarray) -> list[Fault]:
    """Return what is unusual in the geometry of a scan; ``header`` is its header as nibabel corrected it."""
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
