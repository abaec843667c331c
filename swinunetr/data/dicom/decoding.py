"""Voxels of one DICOM file, decoded by GDCM through SimpleITK."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from swinunetr.data.dicom.headers import UNCOMPRESSED, text_of, transfer_syntax, transformations
from swinunetr.files import not_written

DECODED = re.compile(r"1\.2\.840\.10008\.1\.2(\.1|\.1\.99|\.2|\.5|\.4\.(50|51|57|70|80|81|90|91))?")  # by GDCM
JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
MULTIFRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture
PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
DECODING = threading.Lock()  # one series at a time, on all cores; the display of warnings is common to all threads


def decode(file: Path, multiframe: bool) -> np.ndarray:
    """Return the rescaled values of a file (frame, row, column), int16 if all fit, else float32.

    Call it within :func:`quiet_decoding`.

    Raises:
        WriteError: A temporary file cannot be written.
        Exception: The pixels cannot be decoded; GDCM and pydicom raise many types of error.
    """
    if multiframe:
        return _decode_frames(file)
    # SimpleITK ends the process on a path that is not UTF-8: a link takes its place.
    plain = os.fsencode(file).decode(errors="replace") == str(file)
    link = nullcontext(file) if plain else _temporary_file(lambda link: link.symlink_to(os.path.abspath(file)))
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with link as path:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetMetaData("0028|0004").strip() == "MONOCHROME1":  # GDCM inverts the stored values, as for display
            return _decode_frames(file)
        return compact(sitk.GetArrayFromImage(reader.Execute()))


@contextmanager
def quiet_decoding(first: Path) -> Iterator[None]:
    """Decode files that are compressed as the ``first`` without lines of GDCM, which repeat errors or are none."""
    display = sitk.ProcessObject
    with DECODING, ExitStack() as restored:
        restored.callback(display.SetGlobalWarningDisplay, display.GetGlobalWarningDisplay())
        display.SetGlobalWarningDisplay(False)
        # GDCM tries 8 bits first, and its JPEG library writes that this fails, past Python, for every slice.
        if noted_syntax(first) == JPEG_12_BIT:
            stderr = os.dup(2)
            restored.callback(os.close, stderr)
            restored.callback(os.dup2, stderr, 2)
            with open(os.devnull, "wb") as silent:
                os.dup2(silent.fileno(), 2)
        yield


def noted_syntax(file: Path) -> pydicom.uid.UID:
    """Return how the file says that its pixels are stored; implicit VR little endian if it does not say it."""
    try:
        return pydicom.uid.UID(str(pydicom.filereader.read_file_meta_info(file).TransferSyntaxUID))
    except Exception:  # the file is damaged, which decoding it tells, or it has no file meta information
        return pydicom.uid.ImplicitVRLittleEndian


def compact(values: np.ndarray) -> np.ndarray:
    """Return values as int16 if all fit, else as float32."""
    fits = np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max
    whole = values.dtype.kind in "iu" or (values == np.round(values)).all()
    return values.astype(np.int16 if fits and whole else np.float32)


@contextmanager
def _temporary_file(write: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a temporary file that ``write`` makes, for GDCM to read."""
    with ExitStack() as stack:
        try:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "slice.dcm"
            write(file)
        except OSError as error:  # which must not look like one of reading the scan
            raise not_written(Path(tempfile.gettempdir()) / "slice.dcm", error) from error
        yield file


def _decode_frames(file: Path) -> np.ndarray:
    """Return the values of all frames in their order in the file.

    GDCM decodes a copy with no more than the description of the pixels, which gives the stored values. From the whole
    header it takes the rescale of the first frame for all, and it inverts MONOCHROME1.
    """
    header = pydicom.dcmread(file, force=True)
    plain = pydicom.Dataset()
    for name in PIXELS:
        if name in header:
            plain[name] = header[name]
    plain.PhotometricInterpretation = "MONOCHROME2"
    plain.SOPClassUID, plain.SOPInstanceUID = MULTIFRAME_WORD, "2.25.1"
    plain.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = transfer_syntax(header)
    plain.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    with _temporary_file(lambda copy: plain.save_as(copy, enforce_file_format=True)) as copy:
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
    if syntax in UNCOMPRESSED and len(header.PixelData) < stored.nbytes:
        raise ValueError("the file ends before its last frame")  # GDCM would fill the rest
    frames = []
    for values, transformation in zip(stored, transformations(header), strict=True):
        slope = text_of(transformation, "RescaleSlope") or 1
        intercept = text_of(transformation, "RescaleIntercept") or 0
        frames.append(compact(values * float(slope) + float(intercept)))
    return np.stack(frames)
