"""DICOM series: those that a folder holds, their geometry, and their voxels."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

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
DEFLATED = "1.2.840.10008.1.2.1.99"
SEGMENTATIONS = "Segmentation Storage", "RT Structure Set"  # in the names of SOP classes
SECONDARY_CAPTURE = "Secondary Capture"
MULTIFRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture
DECODED = re.compile(r"1\.2\.840\.10008\.1\.2(\.1|\.1\.99|\.2|\.5|\.4\.(50|51|57|70|80|81|90|91))?")  # by GDCM
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("SeriesNumber", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *GROUPS),
)
PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
TRUNCATED = "has a header that cannot be read (truncated or damaged); copy it again"
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
    """

    name: str
    files: tuple[Path, ...]
    frames: tuple[int, ...]
    uid: str
    modality: str
    affine: tuple[tuple[float, ...], ...]


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
class _Object:
    """What is needed of one DICOM file: it has planes, or it is something ``other``, or it has a ``fault``."""

    file: Path
    series: tuple[str, ...] = ()  # what the objects of a series have in common
    instance: tuple = ()  # what copies of an object have in common
    uid: str = ""
    number: str = "series"
    modality: str = ""
    planes: tuple[_Plane, ...] = ()
    multiframe: bool = False
    other: str = ""
    fault: str = ""


def find_series(root: Path, modality: str = "CT", without: Path | None = None) -> tuple[list[Series], list[LeftOut]]:
    """Find the volumes among all DICOM files of a folder, and why other series are not volumes.

    Files that are not DICOM are ignored, and so are hidden files and folders. Copies of an object count once.

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
    for found in _read_objects(files, dicom_modality(modality)):
        groups.setdefault(found.series, []).append(found)
    objects = [_without_copies(group) for group in groups.values()]
    volumes, left_out = [], []
    for name, group in sorted(zip(_names(objects, folder), objects, strict=True), key=lambda pair: pair[0]):
        result = _volume(name, group)
        volumes += [result] if isinstance(result, Series) else []
        left_out += [LeftOut(name, result)] if isinstance(result, str) else []
    left_out += [LeftOut(_clean(Path(os.path.relpath(path, folder))), reason) for path, reason in closed]
    return volumes, left_out


def write_nifti(series: Series, path: Path) -> None:
    """Write the voxels of a series to a NIfTI file: int16 if all values fit, else float32.

    Args:
        series: A result of :func:`find_series`.
        path: File to write, ``.nii`` or ``.nii.gz``.

    Raises:
        InputError: The pixels of a file cannot be decoded, or the NIfTI file cannot be written.
    """
    voxels = np.concatenate(_decode_all(series))  # (slice, row, column)
    if series.frames:
        voxels = voxels[list(series.frames)]
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
            if not marked and not re.match(rb"[\x02\x08]\x00.\x00", start, re.DOTALL):  # some files have no preamble
                return None
            opened.seek(0)
            header = pydicom.dcmread(opened, stop_before_pixels=True, force=not marked, specific_tags=list(HEADER))
            ended = not opened.read(2)
        return _describe(unreadable, header, ended, marked, modality)
    except FileNotFoundError:
        return None
    except OSError as error:
        system = f"cannot be read ({error.strerror}); ask for access or copy it again"
        return replace(unreadable, fault=system if error.strerror else TRUNCATED)  # pydicom raises it without a text
    except Exception:  # damaged files raise many types of error
        return replace(unreadable, fault=TRUNCATED) if marked else None


def _describe(unreadable: _Object, header: pydicom.Dataset, ended: bool, marked: bool, modality: str) -> _Object | None:
    """Return what is needed of a header; ``ended`` is whether the file has nothing after it, thus no pixels."""
    meta = header.file_meta
    sop_class = _text(meta, "MediaStorageSOPClassUID") or _text(header, "SOPClassUID")
    uid = _text(header, "SeriesInstanceUID")
    if sop_class == DICOMDIR or not (marked or sop_class or uid):
        return None
    kind = pydicom.uid.UID(sop_class).name  # "CT Image Storage"
    pixels = "Rows" in header and not (ended and _text(meta, "TransferSyntaxUID") != DEFLATED)
    truncated = not pixels and (kind.endswith("Image Storage") or "Rows" in header or not (sop_class or uid))
    if truncated and not uid:
        return replace(unreadable, fault=TRUNCATED)
    number = "series" + re.sub(r"[^0-9-]", "", _text(header, "SeriesNumber"))[:12]
    folder = unreadable.series[1]
    instance = _text(header, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID") or str(unreadable.file)
    found = _Object(
        unreadable.file,
        (_text(header, "StudyInstanceUID"), uid) if uid else ("", folder, number),
        (instance, _text(header, "InstanceNumber")),
        uid,
        number,
        _text(header, "Modality"),
    )
    if truncated:
        return replace(found, fault=TRUNCATED)
    if other := _other(header, kind, pixels, modality):
        return replace(found, other=other)
    planes = _planes(header)
    if isinstance(planes, str):
        return replace(found, fault=planes)
    # With the position, since some anonymised files have the same SOP instance UID.
    return replace(found, instance=(*found.instance, planes[0].position), planes=planes, multiframe=GROUPS[1] in header)


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
    return ""


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


def _without_copies(group: list[_Object]) -> list[_Object]:
    """Return one of the objects of each instance; an intact one, if there is one."""
    intact: dict[tuple, _Object] = {}
    for each in group:
        if not each.fault:
            intact.setdefault(each.instance, each)
    held = {instance[0] for instance in intact}
    return [*intact.values(), *(each for each in group if each.fault and each.instance[0] not in held)]


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
    if faulty := [each for each in slices if each.fault]:
        fault, number = Counter(each.fault for each in faulty).most_common(1)[0]
        first = next(each.file.name for each in faulty if each.fault == fault)
        others = f" (and {number - 1} more of {len(slices)} files)" if number > 1 else ""
        return f"file '{_clean(Path(first))}'{others} {fault}"
    planes = [plane for each in slices for plane in each.planes]
    if problem := _difference(planes):
        return problem
    axes = _axes(planes[0])
    places = np.array([plane.position for plane in planes]) @ axes  # (slice, 3): along row, column and normal
    order = np.argsort(places[:, 2], kind="stable")
    if problem := _spacing_problem(places[order]):
        return problem
    multiframe = any(each.multiframe for each in slices)
    return Series(
        name,
        tuple(each.file for each in slices) if multiframe else tuple(slices[number].file for number in order),
        tuple(int(number) for number in order) if multiframe else (),
        slices[0].uid,
        slices[0].modality,
        _affine(planes[order[0]], axes, (places[order[-1], 2] - places[order[0], 2]) / (len(planes) - 1)),
    )


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


def _spacing_problem(places: np.ndarray) -> str:
    """Return why slices are not at equal distances on one line, given their places (slice, 3) in order; else ''."""
    along = places[:, 2]
    gaps = np.diff(along)
    convert = "resample it, for example with dcm2niix, and give the NIfTI file"
    if same := int((gaps < SAME_PLACE_MM).sum()):
        return (
            f"{len(along)} slices at {len(along) - same} different positions, for example phases or time points in one "
            "series; export each of them as a series of its own"
        )
    if len(along) < LEAST_SLICES:
        found = f"{len(along)} slice{'s' * (len(along) > 1)}"
        return f"{found}, expected at least {LEAST_SLICES}; give the folder that holds all of them"
    shifts = places[:, :2] - places[0, :2]
    if np.abs(shifts).max() > SHIFT_TOLERANCE_MM:
        slope = shifts[-1] / (along[-1] - along[0])
        if np.abs(shifts - np.outer(along - along[0], slope)).max() > SHIFT_TOLERANCE_MM:
            return f"slices shifted sideways by up to {np.abs(shifts).max():.1f} mm; export the original series"
        return f"gantry tilt of {math.degrees(math.atan(np.linalg.norm(slope))):.1f} degrees; {convert}"
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

    with DECODING:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            return in_threads(decode, series.files)
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _transfer_syntax(file: Path) -> pydicom.uid.UID:
    """Return how the pixels are stored; implicit VR little endian for a file that does not say it."""
    try:
        return pydicom.uid.UID(str(pydicom.filereader.read_file_meta_info(file).TransferSyntaxUID))
    except Exception:  # the file is damaged, which decoding it tells, or it has no file meta information
        return pydicom.uid.ImplicitVRLittleEndian


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
    plain.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pixels.dcm"
        plain.save_as(copy, enforce_file_format=True)
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
    if not header.file_meta.TransferSyntaxUID.is_compressed and len(header.PixelData) < stored.nbytes:
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
