"""NIfTI files and their geometry: one affine of a scan for all its uses, and what its header says against that affine.

The affine, a (4, 4) matrix from voxels to mm, is nibabel's: the sform if it is set, else the qform, else the spacing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ROUNDING = 1e-3  # of a spacing in mm, which some programs store with three digits
TURNED_DEGREES = 1.0  # of an axis in sform and qform; a float32 quaternion differs by less
REVERSED_DEGREES = 45.0  # from which an axis points to another side of the patient
TILT_DEGREES = 0.5  # of two axes from a right angle; an oblique affine with few digits differs by less


def load_nifti(path: str | Path) -> nib.Nifti1Image:
    """Return a NIfTI-1 or NIfTI-2 file; its voxels are not read yet.

    Raises:
        OSError: The file is missing or cannot be read.
        nibabel.filebasedimages.ImageFileError: It is not an image.
    """
    image: Any = nib.load(path)  # nibabel's type is the base class, which lacks the affine and the voxels
    return image


def voxel_volume_mm3(affine: np.ndarray) -> float:
    """Return the volume of a voxel in mm3; it is less than the product of the spacings where axes are sheared."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])))


def in_body_order(values: Sequence[float] | np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return values of a file's three axes, such as its spacings, in the order x, y, z of the body."""
    body_axes = nib.io_orientation(affine)[:, 0]  # of the file's axes
    return np.asarray(values, dtype=float)[np.argsort(body_axes)]


def tilt_degrees(affine: np.ndarray) -> float:
    """Return by how much two axes of a scan differ from a right angle, at most; the tilt of a sheared scan."""
    axes = _directions(affine)
    pairs = itertools.combinations(range(3), 2)
    return max(float(np.degrees(np.arcsin(min(1.0, abs(axes[:, a] @ axes[:, b]))))) for a, b in pairs)


def other_spacing(header: nib.Nifti1Header, affine: np.ndarray) -> np.ndarray | None:
    """Return the spacing in mm of ``pixdim``, which is that of the qform, if that of the affine differs; else None."""
    pixdim, spacing = np.abs(header["pixdim"][1:4].astype(float)), nib.affines.voxel_sizes(affine)
    return None if np.allclose(pixdim, spacing, rtol=ROUNDING, atol=ROUNDING) else pixdim


def turned_degrees(header: nib.Nifti1Header) -> float:
    """Return the largest angle between an axis in the sform and in the qform; 0 if one of the two is not set.

    The header is one that nibabel loaded, which corrects a ``pixdim[0]`` of 0.
    """
    if not (header["sform_code"] and header["qform_code"]):
        return 0.0
    try:
        sform, qform = (_directions(form) for form in (header.get_sform(), header.get_qform()))
    except ValueError:  # a quaternion that is no rotation says nothing that could be compared
        return 0.0
    cosines = (sform * qform).sum(axis=0).clip(-1, 1)
    return float(np.degrees(np.arccos(cosines)).max())


def _directions(affine: np.ndarray) -> np.ndarray:
    """Return the unit vectors along the axes of a scan, as columns."""
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    return matrix / np.linalg.norm(matrix, axis=0)
