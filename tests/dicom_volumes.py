"""What tests of DICOM series share: the volume of the small files, and the only one of a folder."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from dicom_files import stored_voxels

from swinunetr.data.dicom import find_series, write_nifti

VOXELS = stored_voxels().astype(np.int16) - 1024  # (slice, row, column), with the rescale of the files
AFFINE = [[-0.8, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
COS, SIN = np.cos(0.3), np.sin(0.3)
SHUFFLED = [5, 2, 7, 0, 3, 6, 1, 4]


def only_series(folder: Path, modality: str = "CT"):
    found, left_out = find_series(folder, modality)
    assert len(found) == 1 and not left_out, (found, left_out)
    return found[0]


def only_reason(folder: Path) -> str:
    found, left_out = find_series(folder)
    assert len(left_out) == 1 and not found, (found, left_out)
    return left_out[0].reason


def written(series, folder: Path) -> nib.Nifti1Image:
    write_nifti(series, folder / "volume.nii")
    return nib.load(folder / "volume.nii")


def assert_as_simpleitk(image: nib.Nifti1Image, folder: Path) -> None:
    """Compare with SimpleITK's own reading of the DICOM files and of the NIfTI file."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    expected, found = reader.Execute(), sitk.ReadImage(image.get_filename())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for corner in np.ndindex(2, 2, 2):
        voxel = [int(n) for n in np.multiply(corner, np.subtract(expected.GetSize(), 1))]
        ours, theirs = (each.TransformIndexToPhysicalPoint(voxel) for each in (found, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def damage(file: Path) -> None:
    """Overwrite the start of the compressed pixels, so that nothing is missing but they cannot be decoded."""
    content = bytearray(file.read_bytes())
    start = content.rindex(b"\xfe\xff\x00\xe0") + 8
    content[start : start + 64] = b"\xff" * 64
    file.write_bytes(content)
