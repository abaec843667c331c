"""DICOM series: those that a folder holds, their geometry, and their voxels."""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import tempfile
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from nibabel.affines import from_matvec

from swinunetr.errors import InputError
from swinunetr.files import sha256, walk_files
from swinunetr.modality import dicom_modality
from swinunetr.threads import in_threads

LEAST_SLICES = 5
SPACING_TOLERANCE = 0.1  # of the spacing; headers have rounded positions
SAME_PLACE_MM = 0.05  # slices closer than this are at the same position
SHIFT_TOLERANCE_MM = 0.5  # in the plane of the slices, over the whole series
UNIT_TOLERANCE = 1e-3  # of the length of the orientation vectors, and of their angle in rad
SAME_TOLERANCE = 1e-4  # orientation and pixel spacing (mm) of slices of one volume
MOST_WITHOUT_BAR = 300  # files; more are read with a progress bar

DICOMDIR = "1.2.840.10008.1.3.10"
UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed pixels, which are stored as fragments
DEFLATED = "1.2.840.10008.1.2.1.99"
SEGMENTATIONS = "Segmentation Storage", "RT Structure Set"  # in the names of SOP classes
SECONDARY_CAPTURE = "Secondary Capture"
MULTIFRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture
DECODED = re.compile(r"1\.2\.840\.10008\.1\.2(\.1|\.1\.99|\.2|\.5|\.4\.(50|51|57|70|80|81|90|91))?")  # by GDCM
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".dcm.gz")
LOOKED_AT = 20  # files in an archive

# Defined terms of RescaleType: those of Hounsfield units, and those of something else. Others, such as US
# (unspecified), say nothing, and the voxels decide.
HOUNSFIELD = ("", "HU", "HU_MOD")
OTHER_UNITS = {"MGML": "mg/ml", "OD": "optical density", "Z_EFF": "effective atomic number", "PCT": "percent"}
OTHER_UNITS |= dict.fromkeys(("ED", "EDW"), "electron density")
# In ImageType: maps of a material or of blood flow, and images in Hounsfield units from which a material was removed.
MAP = re.compile(
    r"IODINE|Z[ _]?EFF|EFF_ATOMIC|ELECTRON[ _]?DENSITY|MAT_(SPECIFIC|FRACTIONAL|VALUE_BASED)"
    r"|(?<![A-Z])(MD|CBF|CBV|MTT|TTP|TMAX)(?![A-Z])"
)
REMOVED = re.compile(r"REMOVED|SUPPRESS|VNC|VUE|NON[ _-]?CONTRAST")
AIR, WATER, BONE, METAL = (-1100, -850), (-150, 150), (150, 850), (850, 1200)  # ranges in HU
LEAST_SHARE = 0.01  # of the voxels of a CT that are air, and that are soft tissue
HIGHEST_HU = 3071  # of 12 bits; padding above it would look like metal
PADDED_HU = -2000  # as many scanners write outside the field of view
HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("SeriesNumber", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *GROUPS),
    *("PatientID", "PatientName", "PatientBirthDate", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
TRUNCATED = "has a header that cannot be read (truncated or damaged); copy it again"
CUT = "ends before its last pixel (truncated); copy it again"
LIST_ONLY = "a DICOMDIR, which only lists files; give the folder that holds them, or copy them beside it"
DECODING = threading.Lock()  # one series at a time, on all cores; the display of warnings is common to all threads


@dataclass(frozen=True)
class Series:
    """A volume of a DICOM series, whose slices lie at equal distances.

    Attributes:
        name: Path-like name from the folder and the number of the series, unique in the tree; it holds nothing of the
            header that identifies a patient.
        files: The files in the order of their slices; a single one for an enhanced multi-frame object.
        frames: For multi-frame objects, the numbers of the frames in the order of the slices; else empty. They count
            from 0, through all files if a series has several.
        uid: Series instance UID.
        modality: As in the files, such as ``CT``.
        affine: Four rows of the matrix from voxels (column, row, slice) to mm in RAS, as in NIfTI.
        padding: Values of the NIfTI file that mark voxels outside the field of view, as the headers say.
        calibrated: Whether the headers say how stored values become those of the modality. If not, as in a CT without
            RescaleIntercept, :func:`write_nifti` compares the voxels with Hounsfield units.
        distinct: Whether no other series that was found has images of the same UIDs and other content.
        notes: What a user should know of a series that is a volume all the same.
    """

    name: str
    files: tuple[Path, ...]
    frames: tuple[int, ...]
    uid: str
    modality: str
    affine: tuple[tuple[float, ...], ...]
    padding: tuple[float, ...] = field(default=(), repr=False)
    calibrated: bool = True
    distinct: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A DICOM series that is not used: its name as of a :class:`Series`, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Plane:
    """Geometry of one slice, as in its header: LPS coordinates in mm."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]


@dataclass(frozen=True)
class _Values:
    """How the stored values of an object become those of the modality."""

    image_type: str = ""
    rescale: tuple[tuple[float, float], ...] = ()  # slope and intercept of each frame
    calibrated: bool = True
    padding: tuple[int, int] | None = None  # first and last stored value


@dataclass(frozen=True)
class _Object:
    """What is needed of one DICOM file: it has planes, or it is something ``other``, or it has a ``fault``."""

    file: Path
    series: tuple[str, ...] = ()  # what the objects of a series have in common: patient, study, series
    instance: tuple[str, str] = ("", "")  # SOP instance UID and number
    uid: str = ""
    number: str = "series"
    modality: str = ""
    planes: tuple[_Plane, ...] = ()
    values: _Values = _Values()
    multiframe: bool = False
    other: str = ""
    fault: str = ""

    @property
    def place(self) -> tuple:
        """Positions of all frames, rounded as much as copies may be; two slices are never so close."""
        return tuple(tuple(round(x, 1) for x in plane.position) for plane in self.planes)


def find_series(root: Path, modality: str = "CT", without: Path | None = None) -> tuple[list[Series], list[LeftOut]]:
    """Find the volumes among all DICOM files of a folder, and why other series are not volumes.

    Files that are not DICOM are ignored, and so are hidden files and folders; archives with scans are named. Copies of
    an object count once. Objects are copies if their content is equal, whatever their identifiers. Where folders hold
    different content under the same identifiers, each folder is a series.

    Args:
        root: Folder that is searched with its subfolders and links, or a single file.
        modality: Modality of the series, such as ``CT`` or ``MR``.
        without: Subfolder that is not searched, such as that of the results.

    Returns:
        The volumes, and the series that are left out; both in the order of their names.

    Raises:
        InputError: There is no such file or folder.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise InputError(f"scans: no file or folder at '{root}'.")
    folder = root if root.is_dir() else root.parent
    files, closed, _ = walk_files(root, without) if root.is_dir() else ([root], [], [])
    groups: dict[tuple[str, ...], list[_Object]] = {}
    found = _read_objects(files, dicom_modality(modality))
    only_list = all(each.other == LIST_ONLY for each in found)
    for each in found:
        if only_list or each.other != LIST_ONLY:
            groups.setdefault(each.series, []).append(each)
    objects = _join_slices([part for group in groups.values() for part in _separate(group)])
    held = Counter(uid for group in objects for uid in {each.instance[0] for each in group if each.planes})
    volumes, left_out = [], []
    for name, group in sorted(zip(_names(objects, folder), objects, strict=True), key=lambda pair: pair[0]):
        result = _volume(name, group)
        if isinstance(result, Series) and any(held[each.instance[0]] > 1 for each in group):
            note = "another series here has images of the same UIDs and other content"
            result = replace(result, distinct=False, notes=(*result.notes, note))
        volumes += [result] if isinstance(result, Series) else []
        left_out += [LeftOut(name, result)] if isinstance(result, str) else []
    left_out += [LeftOut(_clean(Path(os.path.relpath(path, folder))), reason) for path, reason in closed]
    return volumes, left_out


def write_nifti(series: Series, path: Path) -> None:
    """Write the voxels of a series to a NIfTI file: int16 if all values fit, else float32.

    Padding of a CT that would look like metal is written as -2000 HU.

    Args:
        series: A result of :func:`find_series`.
        path: File to write, ``.nii`` or ``.nii.gz``.

    Raises:
        InputError: The pixels of a file cannot be decoded, the headers of a CT do not say its units and its values are
            no Hounsfield units, or the NIfTI file cannot be written.
    """
    voxels = np.concatenate(_decode_all(series))  # (slice, row, column)
    if series.frames:
        voxels = voxels[list(series.frames)]
    if not series.calibrated:
        _require_hounsfield(series, voxels)
    if series.modality == "CT" and (high := [value for value in series.padding if value > HIGHEST_HU]):
        voxels = _compact(np.where(np.isin(voxels, np.array(high, voxels.dtype)), PADDED_HU, voxels))
    image = nib.Nifti1Image(voxels.T, np.array(series.affine))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    try:
        nib.save(image, path)
    except OSError as error:
        raise InputError(f"'{path}' could not be written ({error}). Free disk space and run again.") from error


def fingerprint(series: Series) -> str:
    """Return a hash (16 hex digits) of the content of the files, whatever their names, folders and order.

    Raises:
        InputError: A file cannot be read.
    """
    try:
        contents = sorted(in_threads(sha256, series.files))
    except OSError as error:
        raise InputError(f"Series '{series.name}' cannot be read ({error}). Copy it again.") from error
    return hashlib.blake2b("".join(contents).encode(), digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------------------------ files


def _read_objects(files: list[Path], modality: str) -> list[_Object]:
    """Return what is needed of all DICOM files, read by several threads, since disks can be slow."""

    def read(file: Path) -> _Object | None:
        return _read_object(file, modality)

    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # many headers break rules that do not matter here
        title = "Reading DICOM headers" if len(files) > MOST_WITHOUT_BAR else ""
        return [found for found in in_threads(read, files, title) if found]


def _read_object(file: Path, modality: str) -> _Object | None:
    """Return what is needed of one file; None if it is not DICOM, a DICOMDIR, or a link to a missing file."""
    unreadable = _Object(file, ("unreadable", str(file.parent)), (str(file),), number="unreadable")
    marked = False
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
            marked = start[128:] == b"DICM"
            # Some files have no preamble; they start with group 2 or 8, in either byte order.
            if not marked and not re.match(rb"[\x02\x08]\x00.\x00|\x00[\x02\x08]\x00.", start, re.DOTALL):
                reason = "an archive of several files or a compressed file; unpack it"
                return (
                    replace(unreadable, series=(str(file),), number=file.name, other=reason) if _packed(file) else None
                )
            opened.seek(0)
            header = pydicom.dcmread(opened, stop_before_pixels=True, force=not marked, specific_tags=list(HEADER))
            pixels = "none" if "Rows" not in header else _read_pixels_length(opened, header)
        return _describe(unreadable, header, pixels, marked, modality)
    except FileNotFoundError:
        return None
    except OSError as error:
        system = f"cannot be read ({error.strerror}); ask for access or copy it again"
        return replace(unreadable, fault=system if error.strerror else TRUNCATED)  # pydicom raises it without a text
    except Exception:  # damaged files raise many types of error
        return replace(unreadable, fault=TRUNCATED) if marked else None


def _packed(file: Path) -> bool:
    """Return whether a file is an archive; of zip files, which other programs use too, one that holds scans."""
    if not file.name.lower().endswith(ARCHIVES):
        return False
    if not zipfile.is_zipfile(file):
        return True
    with zipfile.ZipFile(file) as archive:
        for name in [name for name in archive.namelist() if not name.endswith("/")][:LOOKED_AT]:
            if (
                name.lower().endswith((".nii", ".nii.gz", *ARCHIVES)) or archive.getinfo(name).flag_bits & 1
            ):  # encrypted
                return True
            with archive.open(name) as member:
                if member.read(132)[128:] == b"DICM":
                    return True
    return False


def _read_pixels_length(opened: BinaryIO, header: pydicom.Dataset) -> str:
    """Return whether the pixels of a file that is read up to them are "complete", "cut" or "none"."""
    syntax = _text(header.file_meta, "TransferSyntaxUID") or _plain_syntax(header)
    if syntax == DEFLATED:  # decompressing it has found any cut
        return "complete"
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    start = opened.read(8 if implicit else 12)
    if len(start) < 2:
        return "none"
    if len(start) < (8 if implicit else 12):
        return "cut"
    (length,) = struct.unpack(f"{order}I", start[-4:])
    left = os.fstat(opened.fileno()).st_size - opened.tell()
    if length == UNDEFINED_LENGTH:
        return "complete" if _fragments_end(opened, left) else "cut"
    size = int(header.Rows) * int(header.Columns) * int(_text(header, "NumberOfFrames") or 1)
    size *= int(_text(header, "SamplesPerPixel") or 1) * int(_text(header, "BitsAllocated") or 8)
    needed = size // 8 if syntax in UNCOMPRESSED else 0
    return "complete" if needed <= length <= left else "cut"


def _fragments_end(opened: BinaryIO, left: int) -> bool:
    """Return whether compressed pixels, of which ``left`` bytes are there, do not end within a fragment."""
    while left >= 8:
        group, element, length = struct.unpack("<HHI", opened.read(8))
        if (group, element) != (0xFFFE, 0xE000):
            return (group, element) == (0xFFFE, 0xE0DD)
        opened.seek(length, os.SEEK_CUR)
        left -= 8 + length
    return left == 0  # some writers leave out the end marker


def _describe(unreadable: _Object, header: pydicom.Dataset, pixels: str, marked: bool, modality: str) -> _Object | None:
    """Return what is needed of a header; ``pixels`` is whether pixels are "complete", "cut" or "none"."""
    meta = header.file_meta
    sop_class = _text(meta, "MediaStorageSOPClassUID") or _text(header, "SOPClassUID")
    uid = _text(header, "SeriesInstanceUID")
    if sop_class == DICOMDIR:
        return replace(unreadable, number=unreadable.file.name, other=LIST_ONLY)
    if not (marked or sop_class or uid):
        return None
    kind = pydicom.uid.UID(sop_class).name  # "CT Image Storage"
    truncated = pixels == "none" and (kind.endswith("Image Storage") or "Rows" in header or not (sop_class or uid))
    if truncated and not uid:
        return replace(unreadable, fault=TRUNCATED)
    number = "series" + re.sub(r"[^0-9-]", "", _text(header, "SeriesNumber"))[:12]
    instance = _text(header, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID") or str(unreadable.file)
    patient = tuple(_text(header, name) for name in ("PatientID", "PatientName", "PatientBirthDate"))
    found = _Object(
        unreadable.file,
        # With the patient, since some tools for anonymising give the same UIDs to several.
        (*patient, *((_text(header, "StudyInstanceUID"), uid) if uid else ("", unreadable.series[1], number))),
        (instance, _text(header, "InstanceNumber")),
        uid,
        number,
        _text(header, "Modality"),
    )
    if truncated:
        return replace(found, fault=TRUNCATED)
    if other := _other(header, kind, pixels != "none", modality):
        return replace(found, other=other)
    planes, values = _planes(header), _values(header, modality)
    if fault := next((each for each in (planes, values) if isinstance(each, str)), ""):
        return replace(found, fault=fault)
    found = replace(found, planes=planes, values=values, multiframe=GROUPS[1] in header)
    return replace(found, fault=CUT) if pixels == "cut" else found


def _other(header: pydicom.Dataset, kind: str, pixels: bool, modality: str) -> str:
    """Return what an object is if it is no slice of the modality, else an empty text."""
    own = _text(header, "Modality").upper()
    if any(part in kind for part in SEGMENTATIONS) or own in ("SEG", "RTSTRUCT"):
        return "a segmentation or structure set, not a scan"
    if not pixels:
        return "a report or another object without pixels"
    grey = _text(header, "SamplesPerPixel") in ("", "1")
    grey &= _text(header, "PhotometricInterpretation") in ("", "MONOCHROME1", "MONOCHROME2")
    if SECONDARY_CAPTURE in kind or not grey:
        return "a screenshot, secondary capture or colour image, without reliable intensities; export the original"
    if own != modality:
        return f"modality {own if re.fullmatch('[A-Z0-9_ ]{1,16}', own) else 'not given'}, expected {modality}"
    if any(part in _text(header, "ImageType").upper() for part in ("LOCALIZER", "SCOUT", "TOPOGRAM")):
        return "a localiser"
    return _other_quantity(header) if modality == "CT" else ""


def _other_quantity(header: pydicom.Dataset) -> str:
    """Return what a CT image shows if it is not Hounsfield units, else an empty text."""
    frames = range(len(header.get(GROUPS[1]) or ())) or range(1)
    for number in frames:
        transformation = _group(header, number, "PixelValueTransformationSequence") or header
        if unit := OTHER_UNITS.get(_text(transformation, "RescaleType").upper()):
            return f"a map of {unit} (RescaleType), expected Hounsfield units; export the images of the series in HU"
    image_type = _image_type(header)
    if MAP.search(image_type) and not REMOVED.search(image_type):
        return "a map of a material or of blood flow (ImageType), expected Hounsfield units; export the images in HU"
    return ""


def _image_type(header: pydicom.Dataset) -> str:
    """Return the image type of an object, with those of its frames."""
    texts = [_text(header, "ImageType")]
    for number in range(len(header.get(GROUPS[1]) or ())):
        texts.append(_text(_group(header, number, "CTImageFrameTypeSequence"), "FrameType"))
    return " ".join(dict.fromkeys(texts)).upper()


def _values(header: pydicom.Dataset, modality: str) -> _Values | str:
    """Return how stored values become those of the modality, or what is wrong with it."""
    bits, highest = (_text(header, name) for name in ("BitsStored", "HighBit"))
    if bits and highest and int(highest) != int(bits) - 1:  # GDCM reads the low bits in any case
        return f"has BitsStored {bits} with HighBit {highest}, expected {int(bits) - 1}; export the original series"
    rescale, calibrated = [], True
    for number in range(len(header.get(GROUPS[1]) or ()) or 1):
        group = _group(header, number, "PixelValueTransformationSequence") or header
        texts = _text(group, "RescaleSlope"), _text(group, "RescaleIntercept")
        calibrated &= all(texts) and _text(group, "RescaleType").upper() in HOUNSFIELD
        try:
            slope, intercept = float(texts[0] or 1), float(texts[1] or 0)
        except ValueError:
            slope, intercept = 0.0, 0.0
        if not (slope and math.isfinite(slope) and math.isfinite(intercept)):
            return "has no valid rescale slope and intercept; export the original series"
        rescale.append((slope, intercept))
    return _Values(_image_type(header), tuple(rescale), calibrated or modality != "CT", _stored_padding(header))


def _stored_padding(header: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the first and last stored value of padding. Some files write a signed one as unsigned, or the reverse."""
    bits = int(_text(header, "BitsAllocated") or 16)
    lowest = -(2 ** (bits - 1)) if _text(header, "PixelRepresentation") == "1" else 0
    try:
        first = int(_text(header, "PixelPaddingValue"))
        last = int(_text(header, "PixelPaddingRangeLimit") or first)
    except ValueError:
        return None
    first, last = sorted((value - lowest) % 2**bits + lowest for value in (first, last))
    return first, last


def _planes(header: pydicom.Dataset) -> tuple[_Plane, ...] | str:
    """Return the plane of each frame, or what is wrong with one."""
    frames = header.get(GROUPS[1])
    count = int(_text(header, "NumberOfFrames") or 1)
    if count != (described := len(frames) if frames else 1):
        return f"has {count} frames and positions of {described}; export the series as single slices"
    places = [header] * 3
    planes = []
    for number in range(count):
        if frames:
            names = "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"
            places = [_group(header, number, name) for name in names]
        position = _numbers(places[0], "ImagePositionPatient", 3)
        orientation = _numbers(places[1], "ImageOrientationPatient", 6)
        spacing = _numbers(places[2], "PixelSpacing", 2)
        if position is None or orientation is None:
            return "has no position or orientation in the patient; export the original series"
        if spacing is None or min(spacing) <= 0:
            return "has no valid pixel spacing; export the original series"
        row, column = np.reshape(orientation, (2, 3))
        lengths = np.linalg.norm([row, column], axis=1)
        if max(abs(lengths - 1)) > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
            return "has an orientation that is not two perpendicular unit vectors; export the original series"
        planes.append(_Plane(position, orientation, spacing, (int(header.Rows), int(header.Columns))))
    return tuple(planes)


def _group(header: pydicom.Dataset, frame: int, name: str) -> pydicom.Dataset:
    """Return a functional group of a frame, which is stored per frame or for all; empty if it is missing."""
    for groups, number in ((header.get(GROUPS[1]), frame), (header.get(GROUPS[0]), 0)):
        if groups and groups[number].get(name):
            return groups[number][name][0]
    return pydicom.Dataset()


def _text(dataset: pydicom.Dataset, name: str) -> str:
    """Return a value as text, empty if it is missing."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def _numbers(dataset: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return a value of ``count`` finite numbers; None if it is something else."""
    try:
        values = tuple(float(value) for value in dataset.get(name) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


# ------------------------------------------------------------------------------------------------------------ series


def _separate(group: list[_Object]) -> list[list[_Object]]:
    """Return the objects of a series without copies; those of each folder, if folders hold different series."""
    parts: dict[str, list[_Object]] = {}
    common = os.path.commonpath([each.file.parent for each in group])
    for each in group:
        inner = each.file.parent.relative_to(common).parts
        parts.setdefault(inner[0] if inner else "", []).append(each)
    part_of = {id(each): name for name, part in parts.items() for each in part}
    kept, differing = _without_copies(group)
    if len({part_of[id(each)] for each in differing}) > 1 or _shared_identifiers(parts):
        return [series for part in parts.values() for series in _separate(part)]
    return [kept]


def _shared_identifiers(parts: dict[str, list[_Object]]) -> bool:
    """Return whether folders cannot be of one volume: other sizes or spacings, or one UID of slices at two places."""
    slices = {name: [each for each in part if each.planes] for name, part in parts.items()}
    if len([name for name, part in slices.items() if part]) < 2:
        return False
    if _difference([plane for part in slices.values() for each in part for plane in each.planes]):
        return True
    places: dict[str, set] = {}
    for each in (each for part in slices.values() for each in part):
        places.setdefault(each.instance[0], set()).add(each.place)
    in_parts = Counter(uid for part in slices.values() for uid in {each.instance[0] for each in part})
    return any(in_parts[uid] > 1 and len(places[uid]) > 1 for uid in places)


def _without_copies(group: list[_Object]) -> tuple[list[_Object], list[_Object]]:
    """Return one of the objects of each content, an intact one if there is one, and the first that differ at one place.

    Files are compared only where two are at one place, and up to the first that differ.
    """
    damaged = Counter(each.file.parent for each in group if each.fault)
    places: dict[tuple, list[_Object]] = {}
    for each in sorted(group, key=lambda each: damaged[each.file.parent]):  # rather all of one folder
        if each.planes and not each.fault:
            places.setdefault(each.place, []).append(each)
    differing: list[_Object] = []
    for place, copies in places.items():
        if len(copies) > 1 and not differing:
            places[place] = _distinct(copies)
            differing = places[place] if len(places[place]) > 1 else []
    intact = [each for copies in places.values() for each in copies]
    held = Counter(each.instance for each in intact)
    faulty = [each for each in group if each.fault and each.place not in places]
    faulty = [each for each in faulty if each.planes or held[each.instance] != 1]
    return [*intact, *faulty, *(each for each in group if each.other)], differing


def _distinct(copies: list[_Object]) -> list[_Object]:
    """Return the objects at one place whose content differs, without those that cannot be decoded if others can."""

    def content_of(file: Path) -> str:
        try:
            return sha256(file)
        except OSError:  # as on a damaged disc; it cannot be decoded either
            return str(file)

    files = {content_of(each.file): each for each in reversed(copies)}
    if len(files) == 1:
        return copies[:1]
    contents: dict[tuple | None, _Object] = {}
    for each in reversed(files.values()):  # compressed in different ways, or with other identifiers
        voxels = _voxels(each)
        spacings = tuple((plane.spacing, plane.shape) for plane in each.planes)
        content = None if voxels is None else (voxels.tobytes(), each.values, each.modality, spacings)
        contents.setdefault(content, each)
    undecoded = contents.pop(None, None)
    return list(contents.values()) or [undecoded]


def _voxels(each: _Object) -> np.ndarray | None:
    """Return the voxels of an object; None if they cannot be decoded."""
    try:
        with _decoding([each.file]):
            return _decode_frames(each.file) if each.multiframe else _decode_slice(each.file)
    except Exception:  # GDCM and pydicom raise many types of error
        return None


def _join_slices(groups: list[list[_Object]]) -> list[list[_Object]]:
    """Return the series, with those of one slice joined that some tools for anonymising make of each slice of a volume.

    They are of one folder, number, type and geometry. Whether they are a volume is decided by their positions.
    """
    joined: dict[tuple, list[_Object]] = {}
    for index, group in enumerate(groups):
        first, key = group[0], (index,)
        if len(group) == 1 and len(first.planes) == 1 and not first.fault:
            plane = first.planes[0]
            orientation = tuple(round(x, 3) for x in plane.orientation)
            key = (first.file.parent, first.number, first.values.image_type, orientation, plane.spacing, plane.shape)
        joined.setdefault(key, []).extend(group)
    series = []
    for group in joined.values():
        whole = len(group) >= LEAST_SLICES or len({each.series for each in group}) == 1
        series += [group] if whole else [[each] for each in group]
    return series


def _names(groups: list[list[_Object]], root: Path) -> list[str]:
    """Return a name for each series, from its folder and its number, and where two agree also from its UID."""
    names = []
    for group in groups:
        folder = Path(os.path.commonpath([each.file.parent for each in group]))
        names.append(_clean(Path(os.path.relpath(folder, root)) / group[0].number))
    count = Counter(name.casefold() for name in names)
    taken: set[str] = set()
    for index, name in enumerate(names):
        ending = re.sub(r"[^0-9A-Za-z]", "", groups[index][0].uid.rpartition(".")[2])
        name = f"{name}-{ending}" if ending and count[name.casefold()] > 1 else name
        unique, copy = name, 1
        while unique.casefold() in taken:
            copy += 1
            unique = f"{name}-{copy}"
        taken.add(unique.casefold())
        names[index] = unique
    return names


def _clean(path: Path) -> str:
    """Return a path with ``/``, without the characters that file names cannot have on some systems."""
    parts = [part.encode("utf-8", "replace").decode() for part in path.parts]
    return "/".join(re.sub(r'[<>:"|?*\\\x00-\x1f\x7f]', "_", part).strip(" .") or "_" for part in parts)


def _volume(name: str, group: list[_Object]) -> Series | str:
    """Return the volume of the objects of a series, or why they are none."""
    slices = [each for each in group if not each.other]
    if not slices:
        return Counter(each.other for each in group).most_common(1)[0][0]
    if problem := _file_problem(slices):
        return problem
    planes = [plane for each in slices for plane in each.planes]
    if problem := _difference(planes):
        return problem
    axes = _axes(planes[0])
    places = np.array([plane.position for plane in planes]) @ axes  # (slice, 3): along row, column and normal
    order = np.argsort(places[:, 2], kind="stable")
    files = [each.file for each in slices for _ in each.planes]
    if problem := _repeated(places[order], [files[number] for number in order]) or _spacing_problem(places[order]):
        return problem
    multiframe = any(each.multiframe for each in slices)
    return Series(
        name,
        tuple(each.file for each in slices) if multiframe else tuple(slices[number].file for number in order),
        tuple(int(number) for number in order) if multiframe else (),
        slices[0].uid,
        slices[0].modality,
        _affine(planes[order[0]], axes, (places[order[-1], 2] - places[order[0], 2]) / (len(planes) - 1)),
        _padding(slices),
        slices[0].values.calibrated,
        notes=_notes(slices),
    )


def _file_problem(slices: list[_Object]) -> str:
    """Return what is wrong with files of a series, or in which way they are not of one series; else an empty text."""
    if faulty := [each for each in slices if each.fault]:
        fault, number = Counter(each.fault for each in faulty).most_common(1)[0]
        first = next(each.file.name for each in faulty if each.fault == fault)
        others = f" (and {number - 1} more of {len(slices)} files)" if number > 1 else ""
        return f"file '{_clean(Path(first))}'{others} {fault}"
    if len({each.series[:-1] for each in slices}) > 1:
        return (
            f"{len(slices)} slices with identifiers of patient, study and series of their own; anonymise the original "
            "again and keep the slices of a series together"
        )
    if unknown := sum(not each.values.calibrated for each in slices) % len(slices):
        return (
            f"{unknown} of {len(slices)} files do not say how their values become Hounsfield units (RescaleSlope, "
            "RescaleIntercept, RescaleType); export the original series"
        )
    return ""


def _padding(slices: list[_Object]) -> tuple[float, ...]:
    """Return the values of padding after the rescale, in order."""
    values: set[float] = set()
    for padding, rescale in {(each.values.padding, pair) for each in slices for pair in each.values.rescale}:
        if padding:
            first, last = padding
            stored = range(first, last + 1) if last - first < 2**16 else padding
            values |= {value * rescale[0] + rescale[1] for value in stored}
    if slices[0].modality == "CT" and any(value > HIGHEST_HU for value in values):
        values.add(PADDED_HU)  # as it is written
    return tuple(sorted(float(value) for value in values))


def _notes(slices: list[_Object]) -> tuple[str, ...]:
    """Return what a user should know of a volume."""
    notes = []
    if len({each.uid for each in slices}) > 1:
        notes.append("each slice has a series instance UID of its own; joined by position")
    if not slices[0].values.calibrated:
        notes.append("the headers do not say that values are Hounsfield units; the voxels decide")
    return tuple(notes)


def _difference(planes: list[_Plane]) -> str:
    """Return in what the slices differ, so that they are not of one volume; else an empty text."""
    remedy = "export each kind of slice as a series of its own"
    if len(shapes := Counter(plane.shape for plane in planes)) > 1:
        found = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in shapes.most_common(3))
        return f"slices of different size ({found} rows x columns); {remedy}"
    if np.ptp([plane.orientation for plane in planes], axis=0).max() > SAME_TOLERANCE:
        return f"slices of different orientation; {remedy}"
    spacings = np.array([plane.spacing for plane in planes])
    if np.ptp(spacings, axis=0).max() > SAME_TOLERANCE:
        return f"slices of different pixel spacing ({spacings.min():g} to {spacings.max():g} mm); {remedy}"
    return ""


def _axes(plane: _Plane) -> np.ndarray:
    """Return the unit vectors along a row, along a column and normal to the slice, as columns; LPS.

    Where rounding made the orientation oblique, the vectors are made orthogonal in the way of ITK.
    """
    row, column = np.reshape(plane.orientation, (2, 3))
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    row = np.cross(column, normal)
    row /= np.linalg.norm(row)
    return np.stack([row, np.cross(normal, row), normal], axis=1)


def _repeated(places: np.ndarray, files: list[Path]) -> str:
    """Return what it means that slices are at one position, given places (slice, 3) and files in order; else ''."""
    along = places[:, 2]
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) >= SAME_PLACE_MM)
    counts = np.diff(starts, append=len(along))
    if len(along) == len(starts):
        return ""
    if len(starts) == 1:
        return f"all {len(along)} slices have the same position in the header; export the original series"
    found = f"{len(along)} slices at {len(starts)} different positions"
    if len(set(counts)) == 1:
        return f"{found}, for example phases or time points in one series; export each of them as a series of its own"
    first = starts[np.argmax(counts > 1)]
    names = " and ".join(f"'{_clean(Path(file.name))}'" for file in files[first : first + 2])
    return f"{found}: different slices at {along[first]:.1f} mm ({names}); remove the wrong ones or export it again"


def _spacing_problem(places: np.ndarray) -> str:
    """Return why slices are not at equal distances on one line, given their places (slice, 3) in order; else ''."""
    along = places[:, 2]
    gaps = np.diff(along)
    convert = "resample it, for example with dcm2niix, and give the NIfTI file"
    if len(along) < LEAST_SLICES:
        found = f"{len(along)} slice{'s' * (len(along) > 1)}"
        return f"{found}, expected at least {LEAST_SLICES}; give the folder that holds all of them"
    shifts = places[:, :2] - places[0, :2]
    if np.abs(shifts).max() > SHIFT_TOLERANCE_MM:
        slope = shifts[-1] / (along[-1] - along[0])
        if np.abs(shifts - np.outer(along - along[0], slope)).max() > SHIFT_TOLERANCE_MM:
            return f"slices shifted sideways by up to {np.abs(shifts).max():.1f} mm; export the original series"
        degrees = math.degrees(math.atan(np.linalg.norm(slope)))
        return (
            f"gantry tilt of {degrees:.1f} degrees; convert it with dcm2niix and give its file with _Tilt in the name"
        )
    spacing = (along[-1] - along[0]) / len(gaps)
    if np.abs(along - np.linspace(along[0], along[-1], len(along))).max() <= SPACING_TOLERANCE * spacing:
        return ""
    usual = np.sort(gaps)[len(gaps) // 2]
    steps = np.maximum(np.round(gaps / usual), 1)
    if np.abs(gaps / usual - steps).max() > 2 * SPACING_TOLERANCE or steps.max() == 1:
        return f"slices at uneven distances ({gaps.min():.2f} to {gaps.max():.2f} mm); {convert}"
    holes = np.flatnonzero(steps > 1)
    where = ", ".join(f"{along[hole]:.1f} and {along[hole + 1]:.1f} mm" for hole in holes[:3])
    where += " and in other places" if len(holes) > 3 else ""
    missing = int(steps.sum()) - len(steps)
    return f"{missing} missing slice{'s' * (missing > 1)}, between {where}; copy or export the series again"


def _affine(first: _Plane, axes: np.ndarray, slice_spacing: float) -> tuple[tuple[float, ...], ...]:
    """Return the matrix from voxels (column, row, slice) to mm in RAS."""
    between_rows, between_columns = first.spacing
    lps = from_matvec(axes * [between_columns, between_rows, slice_spacing], first.position)
    return tuple(tuple(float(value) + 0.0 for value in row) for row in np.diag([-1, -1, 1, 1]) @ lps)


# ------------------------------------------------------------------------------------------------------------ voxels


def _decode_all(series: Series) -> list[np.ndarray]:
    """Return the voxels of each file (frame, row, column)."""

    def decode(file: Path) -> np.ndarray:
        syntax = _transfer_syntax(file)
        problem = f"Series '{series.name}': the pixels of '{file}' cannot be decoded: "
        if not DECODED.fullmatch(syntax):
            what = f"compressed as {syntax.name}, which GDCM does not know. Export the series without compression."
            raise InputError(problem + what)
        try:
            return _decode_frames(file) if series.frames else _decode_slice(file)
        except (OSError, MemoryError) as error:
            raise InputError(f"{problem}{error or 'not enough memory'}. Copy it again, or free memory.") from error
        except Exception as error:  # GDCM and pydicom raise many types of error
            raise InputError(f"{problem}it is truncated or damaged ({syntax.name}). Copy it again.") from error

    with _decoding(series.files):
        return in_threads(decode, series.files)


@contextmanager
def _decoding(files: Sequence[Path]) -> Iterator[None]:
    """Decode without lines of GDCM, in which errors are repeated or which are no errors; one caller at a time."""
    with DECODING:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        # GDCM tries 8 bits first, and its JPEG library writes that this fails, past Python, for every slice.
        silent = os.open(os.devnull, os.O_WRONLY) if _transfer_syntax(files[0]) == JPEG_12_BIT else None
        stderr = os.dup(2) if silent is not None else None
        try:
            if silent is not None:
                os.dup2(silent, 2)
            yield
        finally:
            if silent is not None:
                os.dup2(stderr, 2)
                os.close(stderr)
                os.close(silent)
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


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


def _transfer_syntax(file: Path) -> pydicom.uid.UID:
    """Return how the pixels are stored; implicit VR little endian for a file that does not say it."""
    try:
        return pydicom.uid.UID(str(pydicom.filereader.read_file_meta_info(file).TransferSyntaxUID))
    except Exception:  # the file is damaged, which decoding it tells, or it has no file meta information
        return pydicom.uid.ImplicitVRLittleEndian


def _plain_syntax(header: pydicom.Dataset) -> pydicom.uid.UID:
    """Return how a header without file meta information was read."""
    implicit, little = header.original_encoding
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _decode_slice(file: Path) -> np.ndarray:
    """Return the values of a file with one slice (1, row, column), rescaled by GDCM."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with _plain_path(file) as path:
        reader.SetFileName(path)
        reader.ReadImageInformation()
        if reader.GetMetaData("0028|0004").strip() == "MONOCHROME1":  # GDCM inverts the stored values, as for display
            return _decode_frames(file)
        return _compact(sitk.GetArrayFromImage(reader.Execute()))


@contextmanager
def _plain_path(file: Path) -> Iterator[str]:
    """Yield a path for SimpleITK, which ends the process on one that is not UTF-8: a link takes its place."""
    if os.fsencode(file).decode(errors="replace") == str(file):
        yield str(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "slice.dcm")
        os.symlink(os.path.abspath(file), link)
        yield link


def _decode_frames(file: Path) -> np.ndarray:
    """Return the rescaled values of all frames of a file in their order there (frame, row, column).

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
    syntax = plain.file_meta.TransferSyntaxUID = _text(header.file_meta, "TransferSyntaxUID") or _plain_syntax(header)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pixels.dcm"
        plain.save_as(copy, enforce_file_format=True)
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
    if syntax in UNCOMPRESSED and len(header.PixelData) < stored.nbytes:
        raise ValueError("the file ends before its last frame")  # GDCM would fill the rest
    frames = []
    for number, values in enumerate(stored):
        group = _group(header, number, "PixelValueTransformationSequence") or header
        slope, intercept = _text(group, "RescaleSlope") or 1, _text(group, "RescaleIntercept") or 0
        frames.append(_compact(values * float(slope) + float(intercept)))
    return np.stack(frames)


def _compact(values: np.ndarray) -> np.ndarray:
    """Return values as int16 if all fit, else as float32."""
    fits = np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max
    whole = values.dtype.kind in "iu" or (values == np.round(values)).all()
    return values.astype(np.int16 if fits and whole else np.float32)
