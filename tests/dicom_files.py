"""Small DICOM files for tests: single slices, enhanced multi-frame objects, and objects that are not volumes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = (1, 0, 0, 0, 1, 0)
PATIENT = {"PatientName": "Secret^Person", "PatientID": "SECRET1", "PatientBirthDate": "19500101"}


def stored_voxels(slices: int = 8, dtype: str = "int16") -> np.ndarray:
    """Return voxels (slices, 12 rows, 16 columns) that are all different."""
    return np.arange(slices * 12 * 16).reshape(slices, 12, 16).astype(dtype)


def base(series_uid: str, sop_class: str = CT_IMAGE, modality: str = "CT", **tags) -> Dataset:
    """Return the tags that all objects have; ``tags`` are added or replace them, and None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series_uid
    dataset.Modality = modality
    dataset.SeriesDescription = "Secret^Person abdomen"
    for name, value in (PATIENT | tags).items():
        if value is not None:
            setattr(dataset, name, value)
        elif name in dataset:
            delattr(dataset, name)
    return dataset


def add_pixels(dataset: Dataset, voxels: np.ndarray) -> Dataset:
    """Add the pixels (rows, columns) or (frames, rows, columns), 16 bits, uncompressed."""
    dataset.Rows, dataset.Columns = voxels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(voxels.dtype == np.int16)
    if voxels.ndim == 3:
        dataset.NumberOfFrames = len(voxels)
    dataset.PixelData = voxels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def save(dataset: Dataset, path: Path, rle: bool = False) -> Path:
    """Write a file, on request with RLE compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if rle:
        dataset.compress(RLELossless, generate_instance_uid=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some tests write values that the standard forbids
        dataset.save_as(path, enforce_file_format=True)
    return path


def slice_positions(
    slices: int = 8, origin=(-10.0, -20.0, 30.0), orientation=AXIAL, step_mm: float = 2.5
) -> list[list[float]]:
    """Return the positions of slices at equal distances along the normal of their planes."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [[round(float(x), 6) for x in np.asarray(origin) + number * step_mm * normal] for number in range(slices)]


def write_series(
    folder: Path,
    series_uid: str = "1.2.3.4",
    number: int | None = 3,
    voxels: np.ndarray | None = None,
    positions: list | None = None,
    orientation=AXIAL,
    names: list[str] | None = None,
    rle: bool = False,
    **tags,
) -> list[Path]:
    """Write one file per slice, 0.7 mm between the rows and 0.8 mm between the columns; return the paths."""
    voxels = stored_voxels(8 if positions is None else len(positions)) if voxels is None else voxels
    positions = slice_positions(len(voxels), orientation=orientation) if positions is None else positions
    names = names or [f"IM{count:04d}" for count in range(len(voxels))]
    paths = []
    for count, (pixels, position, name) in enumerate(zip(voxels, positions, names, strict=True)):
        place = {
            "SeriesNumber": number,
            "InstanceNumber": count + 1,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImagePositionPatient": position,
            "ImageOrientationPatient": [round(float(x), 9) for x in orientation],
            "PixelSpacing": [0.7, 0.8],
            "SliceThickness": 5,
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        paths.append(save(add_pixels(base(series_uid, **(place | tags)), pixels), folder / name, rle))
    return paths


def item(**tags) -> Sequence:
    """Return a sequence of one item."""
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


def write_enhanced(
    path: Path,
    series_uid: str = "1.2.3.5",
    number: int | None = 4,
    voxels: np.ndarray | None = None,
    positions: list | None = None,
    orientation=AXIAL,
    rescale: tuple | list[tuple] = (1, -1024),
    rle: bool = False,
    per_frame: bool = False,
    **tags,
) -> Path:
    """Write an enhanced multi-frame CT with the frames in the given order.

    Orientation, spacing and rescale are in the shared functional groups, or with ``per_frame`` in those of each frame.
    A list as ``rescale`` has slope and intercept of each frame.
    """
    voxels = stored_voxels() if voxels is None else voxels
    positions = slice_positions(len(voxels), orientation=orientation) if positions is None else positions
    dataset = base(series_uid, ENHANCED_CT, SeriesNumber=number, InstanceNumber=1, **tags)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    per_slice = rescale if isinstance(rescale, list) else [rescale] * len(voxels)

    def geometry() -> dict[str, Sequence]:
        return {
            "PlaneOrientationSequence": item(ImageOrientationPatient=[round(float(x), 9) for x in orientation]),
            "PixelMeasuresSequence": item(PixelSpacing=[0.7, 0.8], SliceThickness=5),
        }

    def values(slope: float, intercept: float) -> dict[str, Sequence]:
        return {
            "PixelValueTransformationSequence": item(RescaleIntercept=intercept, RescaleSlope=slope, RescaleType="HU")
        }

    shared = {} if per_frame else geometry()
    if not per_frame and not isinstance(rescale, list):
        shared |= values(*rescale)
    dataset.SharedFunctionalGroupsSequence = item(**shared)
    frames = []
    for position, frame_rescale in zip(positions, per_slice, strict=True):
        groups = {"PlanePositionSequence": item(ImagePositionPatient=position)}
        groups |= geometry() if per_frame else {}
        groups |= values(*frame_rescale) if per_frame or isinstance(rescale, list) else {}
        frames += item(**groups)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return save(add_pixels(dataset, voxels), path, rle)
