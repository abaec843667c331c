"""Voxels of a DICOM series, as a NIfTI file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from swinunetr.data.dicom.decoding import DECODED, compact, decode, noted_syntax, quiet_decoding
from swinunetr.data.dicom.series import HIGHEST_HU, PADDED_HU, Series
from swinunetr.errors import InputError, WriteError
from swinunetr.files import not_written
from swinunetr.threads import in_threads

AIR, WATER, BONE, METAL = (-1100, -850), (-150, 150), (150, 850), (850, 1200)  # ranges in HU
LEAST_SHARE = 0.01  # of the voxels of a CT that are air, and that are soft tissue


def write_nifti(series: Series, path: Path) -> None:
    """Write the voxels of a series to a NIfTI file: int16 if all values fit, else float32.

    Padding of a CT that would look like metal is written as -2000 HU.

    Raises:
        InputError: The pixels of a file cannot be decoded, the headers of a CT do not say its units and its values are
            no Hounsfield units.
        WriteError: The NIfTI file or a temporary file cannot be written.
    """
    with quiet_decoding(series.files[0]):
        voxels = np.concatenate(in_threads(partial(_decode_file, series), series.files))  # (slice, row, column)
    if series.frames:
        voxels = voxels[list(series.frames)]
    if not series.calibrated:
        _require_hounsfield(series, voxels)
    if series.modality == "CT" and (high := [value for value in series.padding if value > HIGHEST_HU]):
        voxels = compact(np.where(np.isin(voxels, np.array(high, voxels.dtype)), PADDED_HU, voxels))
    image = nib.Nifti1Image(voxels.T, np.array(series.affine))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    try:
        nib.save(image, path)
    except OSError as error:
        raise not_written(path, error) from error


def _decode_file(series: Series, file: Path) -> np.ndarray:
    syntax = noted_syntax(file)
    problem = f"Series '{series.name}': the pixels of '{file}' cannot be decoded: "
    if not DECODED.fullmatch(syntax):
        compression = f"compressed as {syntax.name}, which GDCM does not know"
        raise InputError(f"{problem}{compression}. Export the series without compression.")
    try:
        return decode(file, multiframe=bool(series.frames))
    except WriteError:
        raise
    except (OSError, MemoryError) as error:
        raise InputError(f"{problem}{error or 'not enough memory'}. Copy it again, or free memory.") from error
    except Exception as error:  # GDCM and pydicom raise many types of error
        raise InputError(f"{problem}it is truncated or damaged ({syntax.name}). Copy it again.") from error


def _require_hounsfield(series: Series, voxels: np.ndarray) -> None:
    """Raise an error if values cannot be Hounsfield units: no air or soft tissue, or more of them like metal than bone.

    Stored values with an offset of 1024, the usual ones, have air near 0 and soft tissue near 1024.
    """
    values = voxels.ravel()[:: max(voxels.size // 1_000_000, 1)]
    values = values[~np.isin(values, np.array(series.padding, np.float32))]
    air, water, bone, metal = (((values >= low) & (values <= high)).mean() for low, high in (AIR, WATER, BONE, METAL))
    if not (min(air, water) >= LEAST_SHARE and metal <= bone):
        raise InputError(
            "the header does not say how stored values become Hounsfield units (RescaleSlope, RescaleIntercept, "
            f"RescaleType), and the values are not these: {air:.0%} are like air, {water:.0%} like soft tissue, "
            f"{bone:.0%} like bone, {metal:.0%} like metal; export the original series"
        )
