"""What tests of `segment.py` share: small weights, NIfTI scans, and a DICOM series."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from conftest import SMALL, write_case
from dicom_files import slice_positions, write_series

from swinunetr.network.checkpoints import build_swinunetr, save_weights

CLASSES = ("background", "left box", "right box")
RECIPE = replace(SMALL, crop_size=(64, 32, 32), spacing_mm=(3.0, 3.0, 3.0), overlap=0.0)  # few, small windows


def write_weights(file: Path) -> Path:
    """Write a ``best_model.pth`` like that of a fine-tuning run, with random weights."""
    torch.manual_seed(0)
    noted = {"recipe": asdict(RECIPE), "classes": CLASSES, "modality": "CT"}
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), file, note=noted)
    return file


def write_scans(folder: Path) -> Path:
    """Write two scans, one in a subfolder, and their labels, which must not be segmented; return the folder."""
    for number, affine in ((1, None), (2, np.diag([-2.0, -1.5, 3.0, 1.0]))):
        write_case(folder, number, affine=affine)
    shutil.move(folder / "imagesTr/img0001.nii.gz", folder / "first.nii.gz")
    return folder


def body(slices=12):
    """Return stored voxels (slices, rows, columns) of a block of soft tissue in air, with two brighter boxes."""
    voxels = np.full((slices, 40, 48), 24, np.int16)  # -1000 HU, with an intercept of -1024
    voxels[:, 4:36, 4:44] = 1064
    voxels[2:8, 10:20, 8:24], voxels[5:10, 22:32, 26:40] = 1124, 1204
    return voxels


def write_body(folder, uid="1.2.3.4", **tags):
    """Write the block as a DICOM series of 3 x 3 x 3 mm."""
    positions = slice_positions(12, step_mm=3)
    geometry = {"PixelSpacing": [3, 3], "FrameOfReferenceUID": "1.2.9"}
    return write_series(folder, uid, voxels=body(), positions=positions, **(geometry | tags))


def as_nifti(files, path):
    """Write a series to a NIfTI file with SimpleITK."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(reader.Execute(), str(path))
    return path
