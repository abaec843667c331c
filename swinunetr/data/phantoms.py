"""Synthetic portal-venous abdominal CT with the 13 organs of BTCV, for use without real data.

A case is a pure function of its id and a seed. The patient (sizes, positions, one smooth deformation), the scan and its
noise each use a separate random stream, so that the demo grid and the full grid show the same anatomy. Making a phantom
needs numpy and scipy; writing it as NIfTI also needs nibabel.

The anatomical frame is in mm: x increases to the patient's right, y to anterior, z to superior (RAS+). Its origin is
the middle of the fourth lumbar vertebra (L4), at the height of the iliac crest; the eighth thoracic vertebra (T8) lies
at z = 275.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline
from tqdm.auto import tqdm

from swinunetr.data.folders import case_name
from swinunetr.data.lists import read_datalist
from swinunetr.errors import InputError
from swinunetr.files import replacing

# Volumes in ml of the labelled organs of an adult. Source: masses of the reference adult male in ICRP Publication 89
# (2002), at 1.05 g/ml for tissue and 1 g/ml for contents. A comment in mm means that the value is not from there but is
# the usual diameter x the length within the scan.
ORGAN_VOLUMES_ML = {
    "spleen": 143,  # 150 g
    "right kidney": 148,  # 310 g for the pair
    "left kidney": 148,
    "gallbladder": 67,  # wall 10 g, bile 58 g
    "esophagus": 19,  # 16 mm x 95 mm; the 40 g of ICRP are for its whole length
    "liver": 1714,  # 1800 g
    "stomach": 393,  # wall 150 g, contents 250 g
    "aorta": 82,  # 20 mm x 260 mm
    "inferior vena cava": 90,  # 22 mm x 235 mm
    "portal and splenic veins": 22,  # 13 mm x 100 mm and 10 mm x 110 mm
    "pancreas": 133,  # 140 g
    "right adrenal gland": 6.7,  # 14 g for the pair
    "left adrenal gland": 6.7,
}


class Tissue(NamedTuple):
    """Label and CT numbers of a tissue."""

    label: int  # BTCV id, 0 = background
    plain: float  # HU without contrast medium
    uptake: float  # HU added by contrast medium in an average portal-venous phase
    texture: float  # HU, standard deviation within the tissue


TISSUES = {
    "air": Tissue(0, -1000, 0, 0),
    "skin": Tissue(0, 10, 15, 4),
    "fat": Tissue(0, -104, 0, 6),
    "muscle": Tissue(0, 52, 10, 6),
    "lung": Tissue(0, -830, 10, 25),
    "heart": Tissue(0, 42, 60, 6),
    "spongy bone": Tissue(0, 165, 15, 25),
    "cortical bone": Tissue(0, 560, 0, 60),
    "disc": Tissue(0, 85, 0, 6),
    "spinal canal": Tissue(0, 28, 5, 4),
    "table": Tissue(0, 60, 0, 0),
    "foam": Tissue(0, -930, 0, 0),
    "artery": Tissue(0, 42, 108, 4),
    "vein": Tissue(0, 42, 110, 4),
    "bowel wall": Tissue(0, 38, 50, 6),
    "chyme": Tissue(0, 34, 0, 12),
    "stool": Tissue(0, 10, 0, 50),
    "gas": Tissue(0, -950, 0, 0),
    "renal sinus": Tissue(0, -70, 0, 20),
    "renal pelvis": Tissue(0, 12, 20, 4),
    "spleen": Tissue(1, 48, 72, 4),
    "right cortex": Tissue(2, 35, 145, 5),
    "right medulla": Tissue(2, 33, 112, 8),
    "left cortex": Tissue(3, 35, 145, 5),
    "left medulla": Tissue(3, 33, 112, 8),
    "gallbladder": Tissue(4, 11, 0, 2),
    "esophagus": Tissue(5, 38, 14, 8),
    "liver": Tissue(6, 56, 50, 4),
    "hepatic vein": Tissue(6, 45, 95, 4),
    "stomach wall": Tissue(7, 38, 36, 6),
    "stomach contents": Tissue(7, 24, 0, 14),
    "stomach gas": Tissue(7, -950, 0, 0),
    "aorta": Tissue(8, 42, 108, 4),
    "inferior vena cava": Tissue(9, 42, 88, 6),
    "portal vein": Tissue(10, 42, 118, 4),
    "pancreas": Tissue(11, 38, 56, 12),
    "right adrenal gland": Tissue(12, 22, 54, 4),
    "left adrenal gland": Tissue(13, 22, 54, 4),
}
CODE = {name: code for code, name in enumerate(TISSUES)}  # values of the tissue map

GROUP_SHIFT_MM = {  # organs that move together: standard deviation along x, y, z
    "stomach": (4, 3, 5),
    "spleen": (3, 4, 6),
    "right kidney": (4, 3, 8),
    "left kidney": (4, 3, 8),
    "pancreas": (3, 2, 5),
    "gallbladder": (5, 4, 4),
    "vessels": (2, 1, 0),
    "bowel": (6, 3, 6),
    "fixed": (0, 0, 0),
}


class Tube(NamedTuple):
    """A tube of one tissue along a smooth centreline."""

    tissue: str
    group: str
    knots: Sequence[tuple[float, float, float, float]]  # x, y, z, radius in mm along the centreline


# fmt: off
TUBES = {
    "aorta": Tube("aorta", "vessels", [(-18, 2, 300, 11), (-14, 18, 215, 10.5), (-8, 28, 130, 10), (-3, 28, 8, 9)]),
    "inferior vena cava": Tube("inferior vena cava", "vessels", [
        (22, 26, -6, 10.5), (23, 28, 60, 11), (25, 31, 120, 12), (27, 40, 190, 12), (22, 50, 232, 12)]),
    "esophagus": Tube("esophagus", "vessels", [
        (-4, 30, 300, 8), (-8, 38, 245, 8), (-18, 45, 214, 8.5), (-34, 42, 198, 9)]),
    "mesenteric artery": Tube("artery", "vessels", [(-7, 36, 116, 4), (-3, 48, 104, 4), (0, 56, 20, 3)]),
    "mesenteric vein": Tube("vein", "pancreas", [(10, 50, 112, 6), (12, 56, 90, 5.5), (12, 58, 30, 4)]),
    "left renal vein": Tube("vein", "vessels", [
        (-44, 8, 106, 4), (-20, 36, 106, 4), (0, 41, 108, 4), (20, 34, 108, 4)]),
    "splenic vein": Tube("portal vein", "pancreas", [
        (-88, 6, 160, 4), (-54, 22, 147, 5), (-20, 40, 136, 5), (10, 48, 124, 6.5)]),
    "portal vein": Tube("portal vein", "pancreas", [
        (10, 48, 124, 6.5), (26, 54, 148, 7), (46, 58, 168, 6.5), (74, 48, 176, 4.5)]),
    "left portal vein": Tube("portal vein", "pancreas", [(46, 58, 168, 5.5), (24, 74, 182, 5), (6, 84, 186, 4)]),
    "right hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (66, 30, 206, 5), (104, 0, 188, 3)]),
    "middle hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (48, 64, 208, 5), (74, 84, 186, 3)]),
    "left hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (14, 66, 212, 4.5), (-8, 86, 204, 3)]),
    "gallbladder": Tube("gallbladder", "gallbladder", [(42, 54, 130, 8), (52, 74, 117, 18), (60, 94, 104, 20)]),
    "pancreas": Tube("pancreas", "pancreas", [
        (26, 46, 84, 14), (30, 55, 106, 19), (10, 62, 124, 15), (-22, 54, 134, 15), (-54, 34, 145, 16),
        (-80, 14, 156, 13)]),
    "stomach": Tube("stomach wall", "stomach", [
        (-52, 8, 206, 20), (-60, 24, 190, 30), (-64, 54, 165, 30), (-54, 76, 138, 26), (-28, 86, 118, 22),
        (2, 84, 112, 18), (28, 70, 118, 11)]),
    "duodenum": Tube("bowel wall", "pancreas", [
        (28, 70, 118, 11), (54, 54, 116, 12), (54, 42, 74, 12), (20, 44, 62, 10), (-24, 46, 84, 11)]),
    "right colon": Tube("bowel wall", "bowel", [
        (94, 38, -40, 24), (106, 28, 30, 22), (98, 54, 74, 20), (70, 88, 72, 20)]),
    "transverse colon": Tube("bowel wall", "bowel", [
        (70, 88, 72, 20), (6, 102, 62, 18), (-60, 94, 92, 19), (-106, 54, 134, 18)]),
    "left colon": Tube("bowel wall", "bowel", [
        (-106, 54, 134, 18), (-116, 14, 104, 16), (-112, 8, 40, 15), (-104, 16, -40, 15)]),
}
PAIRED_TUBES = {  # on the right; the left tube is the mirror image
    "psoas": Tube("muscle", "fixed", [(26, 0, 128, 4), (38, -2, 50, 18), (48, 8, -40, 23)]),
    "quadratus lumborum": Tube("muscle", "fixed", [(46, -27, 125, 6), (66, -27, 40, 14), (74, -26, -40, 16)]),
    "crus of the diaphragm": Tube("muscle", "fixed", [(14, 18, 85, 3), (15, 22, 150, 6), (9, 32, 205, 5)]),
    "common iliac artery": Tube("artery", "fixed", [(2, 27, 6, 6), (14, 26, -12, 6), (34, 20, -45, 5)]),
}
ILIAC_CREST = [(70, -60, -30, 6), (98, -40, 0, 5), (122, -5, 6, 5), (134, 30, -12, 5)]  # knots on the right
LUNG_VESSEL_ENDS = [  # x, y in mm
    (-112, 0), (-84, -34), (-56, -14), (-100, 40), (60, -30), (92, -14), (70, 30), (110, 34)]
# fmt: on


class Lumen(NamedTuple):
    """Contents of a hollow organ: gas above, liquid or stool below."""

    wall_mm: float
    contents: str
    gas: str
    gas_above: float  # y in mm of the surface between contents and gas; the patient lies supine


LUMENS = {
    "stomach": Lumen(4, "stomach contents", "stomach gas", 80),
    "duodenum": Lumen(2.5, "chyme", "gas", 70),
    "right colon": Lumen(2.5, "stool", "gas", 62),
    "transverse colon": Lumen(2.5, "stool", "gas", 100),
    "left colon": Lumen(2.5, "stool", "gas", 62),
}


class Grid(NamedTuple):
    """Ranges from which the voxel grid of a scan is drawn."""

    in_plane: tuple[int, int]  # voxels along x and y
    slices: tuple[int, int]  # minimum and maximum
    spacing_mm: tuple[float, float]  # minimum and maximum in plane


GRIDS = {"demo": Grid((96, 80), (62, 66), (3.9, 4.2)), "full": Grid((512, 512), (140, 160), (0.74, 0.85))}
ORIENTATIONS = {"LAS": 0.5, "RAS": 0.2, "LPS": 0.2, "PIR": 0.1}  # probabilities; BTCV is mostly LAS
FIELD_MIDDLE_MM = (0, 8, 134)  # middle of the scan in the anatomical frame
PSF_MM = 0.8  # standard deviation of the scanner's point spread function


class Phantom(NamedTuple):
    """A synthetic scan with its label."""

    image: np.ndarray  # int16 HU, (X, Y, Z)
    label: np.ndarray  # uint8 BTCV ids, (X, Y, Z)
    affine: np.ndarray  # float64 (4, 4), voxel index to mm in RAS+


class Patient(NamedTuple):
    """Anatomy and contrast enhancement of a synthetic patient."""

    scale: np.ndarray  # (3,), size of the body relative to the tables
    fat_mm: float  # thickness under the skin of the lower abdomen
    bend_mm: np.ndarray  # (3, 6, 6, 6), the smooth deformation at its nodes
    shift_mm: dict[str, np.ndarray]  # (3,), per group
    size: dict[str, float]  # factor on the radius, per organ
    gas_mm: float  # added to every ``Lumen.gas_above``
    small_bowel: np.ndarray  # (N, 4), knots
    hu: np.ndarray  # (len(TISSUES),), mean of each tissue


Make = Callable[[int, str, int], Phantom]  # from case id, grid and seed


def make_phantom(case_id: int, grid: str = "demo", seed: int = 0) -> Phantom:
    """Return one case; the same arguments give the same case (on another machine up to rounding).

    Args:
        case_id: 0 or more; decides the patient, the orientation and the noise.
        grid: ``"demo"``, about 96 x 80 x 64 voxels of 4 x 4 x 4.5 mm, or ``"full"``, 512 x 512 x 140-160 voxels of
            0.8 x 0.8 x 2 mm.
        seed: 0 or more; another seed gives other patients.

    Returns:
        The image in HU, the label in BTCV ids and the affine. The orientation of the axes varies between cases.

    Raises:
        ValueError: The grid is unknown, or ``case_id`` is negative.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {sorted(GRIDS)}, found {grid!r}")
    if case_id < 0:
        raise ValueError(f"case_id must be 0 or more, found {case_id}")
    patient_rng, scan_rng, noise_rng = (np.random.default_rng([seed, case_id, stream]) for stream in range(3))
    patient = draw_patient(patient_rng)
    orientation = scan_rng.choice(list(ORIENTATIONS), p=list(ORIENTATIONS.values()))
    origin = scan_rng.uniform((-12, -180, -350), (12, -120, 300))  # mm, of the anatomical frame in the scanner's
    axes = draw_axes(GRIDS[grid], scan_rng)
    tissue = make_tissue_map(patient, axes)
    image = scan(tissue, patient.hu, [axis[1] - axis[0] for axis in axes], noise_rng)
    label = np.array([t.label for t in TISSUES.values()], np.uint8)[tissue]
    affine = make_affine(axes, origin, orientation)
    return Phantom(orient(image, orientation), orient(label, orientation), affine)


def write_phantom(
    case_id: int,
    image_path: str | Path,
    label_path: str | Path | None = None,
    grid: str = "demo",
    seed: int = 0,
    make: Make | None = None,
) -> None:
    """Write one case as NIfTI: the image as int16 HU, the label as uint8.

    Args:
        case_id: 0 or more, as in :func:`make_phantom`.
        image_path: File name that ends with ``.nii.gz``.
        label_path: The same for the label; None writes no label.
        grid: ``"demo"`` or ``"full"``.
        seed: 0 or more.
        make: Function that makes it, such as ``varied_phantoms.make_varied_phantom``; None means :func:`make_phantom`.
    """
    phantom = (make or make_phantom)(case_id, grid, seed)
    write_nifti(phantom.image, phantom.affine, Path(image_path))
    if label_path is not None:
        write_nifti(phantom.label, phantom.affine, Path(label_path))


def write_phantoms(json_path: str | Path, root: str | Path) -> Path:
    """Write a synthetic CT for each labelled case of the JSON that is not yet in ``root``, and return ``root``.

    A CT that another version of this module wrote there is made again.

    Raises:
        InputError: The JSON does not list the 13 organs of BTCV, which are the organs of the phantoms, it has
            ``label_maps``, or ``root`` cannot be written to.
    """
    content, classes = read_datalist(json_path, ("training",))
    if len(classes) != len(ORGAN_VOLUMES_ML) + 1:
        raise InputError(
            f"json_path: expected the 13 organs of BTCV, which the phantoms have, found {len(classes) - 1} organs in "
            f"'{json_path}'. Set data_root to the folder of your own data, or choose a list from json_files/."
        )
    entries = [entry for name in ("training", "validation") for entry in content[name]]
    if any(entry["label_map"].name for entry in entries if "label_map" in entry):
        what = 'the ids in the label files of phantoms are those of "labels"'
        raise InputError(f"json_path: '{json_path}' has label_maps, but {what}. Set data_root, or remove the maps.")
    digits = ("".join(filter(str.isdigit, case_name(entry["image"]))) for entry in entries)
    cases = [(int(number or 0), (e["image"], e["label"])) for number, e in zip(digits, entries, strict=True)]
    return _write_due(Path(root).expanduser(), cases)


FIRST_UNLABELLED = 1001  # the ids of BTCV, which fine-tuning uses, end at 80


def write_unlabelled_phantoms(root: str | Path, count: int = 40) -> Path:
    """Write ``count`` synthetic CTs without labels that are not yet in ``root``, and return ``root``.

    A CT that another version of this module wrote there is made again.

    Raises:
        InputError: ``root`` cannot be written to.
    """
    numbers = range(FIRST_UNLABELLED, FIRST_UNLABELLED + count)
    return _write_due(Path(root).expanduser(), [(number, (f"phantom{number}.nii.gz",)) for number in numbers])


def _write_due(root: Path, cases: list[tuple[int, tuple[str, ...]]]) -> Path:
    """Write the phantoms, given by id and files, that ``root`` lacks or that other code wrote there; return ``root``.

    ``phantoms.json`` lists the files that were written, with the hash of the code. All other files stay as they are.
    """
    code = _code_hash()
    try:
        written = _read_note(root)
        there = {file for _, files in cases for file in files if (root / file).is_file()}
        due = [
            (number, files)
            for number, files in cases
            if there.intersection(files) <= written.keys()
            and any(file not in there or written[file] != code for file in files)
        ]
        if due:
            _add_to_note(root, dict.fromkeys((file for _, files in due for file in files), "not complete"))
        for number, files in tqdm(due, desc="Making CT phantoms", disable=not due):
            write_phantom(number, *(root / file for file in files))
            _add_to_note(root, dict.fromkeys(files, code))
    except OSError as error:
        raise InputError(
            f"data_root: phantoms cannot be written to '{root}' ({error.strerror or error}). Make room or ask for "
            "permission to write there, or set data_root to a folder of scans."
        ) from None
    return root


def _code_hash() -> str:
    """Return a hash of this module without its comments, docstrings and formatting."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _read_note(root: Path) -> dict[str, str]:
    """Return the files of this module in ``root`` with the hash of the code that wrote them; empty if not noted."""
    try:
        content = json.loads((root / "phantoms.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _add_to_note(root: Path, files: dict[str, str]) -> None:
    with replacing(root / "phantoms.json") as temporary:
        temporary.write_text(json.dumps(_read_note(root) | files, indent=2) + "\n", encoding="utf-8")


def write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write an array as NIfTI; a write that fails leaves an existing file unchanged."""
    import nibabel  # here, so that making a phantom needs only numpy and scipy

    nifti = nibabel.Nifti1Image(array, affine)
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nifti.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nibabel.save(nifti, temporary)


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a random patient: everything that does not depend on the scan."""
    sized = [*TUBES, "right kidney", "left kidney", "spleen", "liver"]
    phase = np.clip(rng.normal(1, 0.1), 0.8, 1.2)  # strength of enhancement, shared by all organs
    return Patient(
        scale=np.clip(rng.normal(1, 0.025), 0.95, 1.05) + rng.normal(0, 0.012, 3),
        fat_mm=rng.uniform(9, 30),
        bend_mm=rng.normal(0, 8, (3, 6, 6, 6)),
        shift_mm={group: rng.standard_normal(3).clip(-1.6, 1.6) * sd for group, sd in GROUP_SHIFT_MM.items()},
        size={name: np.clip(rng.normal(1, 0.05), 0.9, 1.1) for name in sized},
        gas_mm=rng.normal(0, 5),
        small_bowel=draw_small_bowel(rng),
        hu=np.array([t.plain + t.uptake * phase + rng.normal(0, 4) * (t.plain > -500) for t in TISSUES.values()]),
    )


def draw_small_bowel(rng: np.random.Generator) -> np.ndarray:
    """Return (N, 4) knots of a tube that runs up and down through the lower abdomen."""
    columns = [(x, y) for y in (46, 74, 98) for x in np.linspace(-82, 78, 7)]
    heights = np.array([-40, -4, 32, 68])
    knots = [(x, y, z, 12) for i, (x, y) in enumerate(columns) for z in heights[:: 1 if i % 2 else -1]]
    return np.array(knots) + rng.normal(0, 1, (len(knots), 4)) * (7, 6, 8, 1.5)


def draw_axes(grid: Grid, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the coordinates in mm of the voxels along x, y and z; the scanned length does not depend on the grid."""
    length = rng.uniform(278, 292)  # mm along z
    slices = int(rng.integers(grid.slices[0], grid.slices[1], endpoint=True))
    in_plane = rng.uniform(*grid.spacing_mm)
    sizes = [(grid.in_plane[0], in_plane), (grid.in_plane[1], in_plane), (slices, length / slices)]
    return [(np.arange(n) - (n - 1) / 2) * step + mid for (n, step), mid in zip(sizes, FIELD_MIDDLE_MM, strict=True)]


class Canvas:
    """A tissue map to which parts are added in anatomical mm; a part covers the parts added before it."""

    def __init__(self, patient: Patient, axes: list[np.ndarray]):
        """Fill the map with air, and compute the anatomical position of each voxel of ``axes`` (mm)."""
        self.patient, self.axes = patient, axes
        bend = smooth_field(patient.bend_mm, axes, lows=(-200, -120, -40), highs=(200, 180, 320))
        self.slack_mm = np.abs(bend).max(axis=(1, 2, 3))
        self.places = bend  # float32 (3, X, Y, Z) in mm: (axis - bend) / scale, computed in place to save memory
        for place, axis, scale in zip(self.places, np.ix_(*axes), patient.scale, strict=True):
            np.subtract(axis, place, out=place, casting="same_kind")
            place /= scale
        self.tissue = np.full(bend.shape[1:], CODE["air"], np.uint8)

    def near(self, low, high) -> tuple[np.ndarray, ...]:
        """Return views of the tissue and of x, y and z in the box between two corners in mm."""
        low = np.asarray(low) * self.patient.scale - self.slack_mm
        high = np.asarray(high) * self.patient.scale + self.slack_mm
        box = tuple(
            slice(*axis.searchsorted(ends)) for axis, ends in zip(self.axes, zip(low, high, strict=True), strict=True)
        )
        return self.tissue[box], *self.places[(slice(None), *box)]

    def add_tube(self, tissue: str, knots, inset: float = 0.0, above: float = -np.inf) -> None:
        """Add a tube along (N, 4) knots, with a radius smaller by ``inset`` mm, where y exceeds ``above`` mm."""
        points = smooth_curve(np.asarray(knots, float)) - (0, 0, 0, inset)
        for start, end in zip(points[:-1], points[1:], strict=True):
            reach = max(start[3], end[3])
            here, x, y, z = self.near(np.minimum(start, end)[:3] - reach, np.maximum(start, end)[:3] + reach)
            here[(capsule(x, y, z, start, end) < 0) & (y > above)] = CODE[tissue]

    def add_organ(self, name: str) -> None:
        """Add the tube ``name`` with the patient's shift and size, and the contents of its lumen."""
        shift, size = self.patient.shift_mm[TUBES[name].group], self.patient.size[name]
        knots = np.array(TUBES[name].knots) * (1, 1, 1, size) + (*shift, 0)
        self.add_tube(TUBES[name].tissue, knots)
        if name in LUMENS:
            lumen = LUMENS[name]
            self.add_tube(lumen.contents, knots, lumen.wall_mm)
            self.add_tube(lumen.gas, knots, lumen.wall_mm, lumen.gas_above + shift[1] + self.patient.gas_mm)


def smooth_field(nodes: np.ndarray, axes, lows, highs) -> np.ndarray:
    """Interpolate (C, I, J, K) values at regular nodes on a grid; return float32 (C, X, Y, Z).

    Each voxel gets the mean of the nodes, weighted with a Gaussian of 0.6 node distances, one axis after the other.

    Args:
        nodes: (C, I, J, K) values.
        axes: Coordinates of the voxels along x, y and z.
        lows: Coordinate of the first node per axis, in the unit of ``axes``.
        highs: Coordinate of the last node per axis.
    """
    field = nodes.astype(np.float32)
    for axis, low, high, count in zip(axes, lows, highs, nodes.shape[1:], strict=True):
        nodes_at, step = np.linspace(low, high, count, retstep=True)
        weights = np.exp(-0.5 * ((axis[:, None] - nodes_at) / (0.6 * step)) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        field = np.tensordot(field, weights.astype(np.float32), axes=(1, 1))  # the next axis becomes axis 1
    return field


def smooth_curve(knots: np.ndarray) -> np.ndarray:
    """Return (M, 4) points on a smooth curve through (N, 4) knots, about one mean radius apart."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])  # mm
    count = 1 + int(np.ceil(along[-1] / knots[:, 3].mean()))
    return make_interp_spline(along, knots, k=min(3, len(knots) - 1))(np.linspace(0, along[-1], count))


def capsule(x, y, z, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a tapered capsule between two (x, y, z, radius); negative inside."""
    (x0, y0, z0, radius), (dx, dy, dz, widening) = start.tolist(), (end - start).tolist()
    x, y, z = x - x0, y - y0, z - z0
    part = ((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz)).clip(0, 1)
    return np.sqrt((x - part * dx) ** 2 + (y - part * dy) ** 2 + (z - part * dz) ** 2) - (radius + part * widening)


def ellipsoid(x, y, z, centre, radii) -> np.ndarray:
    """Return 1 on the surface of an ellipsoid, less than 1 inside, more than 1 outside."""
    (a, b, c), (rx, ry, rz) = np.asarray(centre).tolist(), np.asarray(radii).tolist()
    return np.sqrt(((x - a) / rx) ** 2 + ((y - b) / ry) ** 2 + ((z - c) / rz) ** 2)


def smooth_max(a, b, blend_mm: float = 10.0) -> np.ndarray:
    """Return the maximum of two distances, with a rounded edge where they are equal."""
    return np.maximum(a, b) + (blend_mm - np.abs(a - b)).clip(0) ** 2 / (4 * blend_mm)


def beyond_outline(x, y, half_width, front, back) -> np.ndarray:
    """Return the distance in mm from a rounded outline, along a ray from its middle at y = 33; negative inside."""
    y = y - 33
    q = (np.abs(x / half_width) ** 2.5 + np.abs(y / np.where(y > 0, front, back)) ** 2.5 + 1e-6) ** 0.4
    return np.sqrt(x * x + y * y) * (1 - 1 / q)


def beyond_cavity(x, y, z) -> np.ndarray:
    """Return the distance in mm from the cavity of abdomen and chest; negative inside."""
    return beyond_outline(x, y, 132 + 8 * np.exp(-(((z - 170) / 70) ** 2)), 86, 80)  # widest at the lower ribs


def above_diaphragm(x, y, z, outside) -> np.ndarray:
    """Return the height in mm above the diaphragm: two domes, the right one higher, lowest at the posterior wall."""
    near_wall = (1 + outside / 115).clip(0, 1.1)  # 0 in the middle, 1 at the wall of the cavity
    fall = (105 - 0.45 * (y + 45).clip(0, 150)) * near_wall**6
    return z - (234 - fall - 12 / (1 + np.exp(x / 15)) - 8 * np.exp(-((x / 30) ** 2)))


def make_tissue_map(patient: Patient, axes: list[np.ndarray]) -> np.ndarray:
    """Return the uint8 (X, Y, Z) tissue map; the order matters, as later parts cover earlier ones."""
    canvas = Canvas(patient, axes)
    add_torso(canvas)
    add_chest(canvas)
    add_muscles_and_pelvis(canvas)
    add_spine(canvas)
    add_small_bowel(canvas)
    for name in ("right colon", "transverse colon", "left colon", "duodenum", "stomach"):
        canvas.add_organ(name)
    add_spleen(canvas)
    add_liver(canvas)
    canvas.add_organ("gallbladder")
    canvas.add_organ("pancreas")
    add_kidney(canvas, "right", side=1)
    add_kidney(canvas, "left", side=-1)
    for name in ("mesenteric vein", "splenic vein", "portal vein", "left portal vein", "left renal vein"):
        canvas.add_organ(name)
    for name in ("inferior vena cava", "mesenteric artery", "aorta", "esophagus"):
        canvas.add_organ(name)
    add_table(canvas)
    return canvas.tissue


def add_torso(canvas: Canvas) -> None:
    """Add the trunk, in slabs of 16 voxels, as it needs many arrays of the size of the slab."""
    for first in range(0, len(canvas.tissue), 16):
        slab = slice(first, first + 16)
        x, y, z = canvas.places[:, slab]
        outside = beyond_cavity(x, y, z)
        add_wall(canvas.tissue[slab], x, y, z, outside, canvas.patient.fat_mm)
        add_ribs(canvas.tissue[slab], x, y, z, outside)


def add_wall(tissue, x, y, z, outside, fat_mm: float) -> None:
    """Add skin, fat, muscle, diaphragm and lungs."""
    fat = fat_mm * (1 - 0.5 / (1 + np.exp((110 - z) / 25)))  # half as thick over the chest
    groove = 5 * np.exp(-((x / 14) ** 2)) * (y < 0)  # mm, over the spine
    skin = beyond_outline(x, y, 142 + fat, 98 + fat, 112 + 0.6 * fat) + groove
    back_muscle = ((np.abs(x) - 33) / 36) ** 2 + ((y + 52) / 24) ** 2
    tissue[skin < 0] = CODE["skin"]
    tissue[skin < -2] = CODE["fat"]
    tissue[((outside < 9) | (back_muscle < 1)) & (skin < -4)] = CODE["muscle"]
    tissue[outside < 0] = CODE["fat"]
    height = above_diaphragm(x, y, z, outside)
    tissue[(outside < 0) & (np.abs(height) < 2)] = CODE["muscle"]
    mediastinum = (x / 36) ** 2 + ((y - 14) / 48) ** 2 < 1
    tissue[(outside < -2) & (height > 2) & ~mediastinum] = CODE["lung"]


def add_ribs(tissue, x, y, z, outside) -> None:
    """Add the ribs above the costal margin, which slope down anteriorly, and the sternum."""
    level = z + 0.8 * (y + 45) + 0.3 * np.abs(x)  # mm, constant along a rib
    from_rib = level % 27 - 13.5  # mm from the middle of the nearest rib
    section = ((outside - 4.5) / 4.2) ** 2 + (from_rib / 6.5) ** 2  # 1 on the surface
    cage = (z > 95 + 1.6 * (y - 35).clip(0)) & (np.abs(x) > 30)
    tissue[cage & (section < 1)] = CODE["cortical bone"]
    tissue[cage & (section < 0.35)] = CODE["spongy bone"]
    tissue[(np.abs(x) < 17) & (y > 90) & (z > 222) & (np.abs(outside - 4.5) < 4)] = CODE["spongy bone"]


def add_chest(canvas: Canvas) -> None:
    """Add the vessels of the lung bases, and the heart with two chambers and its fat."""
    for x, y in LUNG_VESSEL_ENDS:
        canvas.add_tube("vein", [(0.5 * x, 20, 310, 5), (x, y, 246, 1.5)])
    tissue, x, y, z = canvas.near((-95, 15, 220), (45, 115, 330))
    heart = ellipsoid(x, y, z, (-22, 66, 274), (62, 44, 44))
    tissue[(tissue == CODE["lung"]) & (heart < 1.08)] = CODE["fat"]
    tissue[(tissue != CODE["muscle"]) & (heart < 1)] = CODE["heart"]
    tissue[ellipsoid(x, y, z, (-42, 56, 276), (28, 19, 32)) < 1] = CODE["artery"]
    tissue[ellipsoid(x, y, z, (2, 80, 274), (30, 17, 32)) < 1] = CODE["vein"]


def add_muscles_and_pelvis(canvas: Canvas) -> None:
    """Add the muscles, arteries and iliac crests that come in mirrored pairs."""
    for mirror in ((1, 1, 1, 1), (-1, 1, 1, 1)):
        for tube in PAIRED_TUBES.values():
            canvas.add_tube(tube.tissue, np.array(tube.knots) * mirror)
        canvas.add_tube("cortical bone", np.array(ILIAC_CREST) * mirror)
        canvas.add_tube("spongy bone", np.array(ILIAC_CREST) * mirror, inset=2)  # mm of cortical bone


def add_spine(canvas: Canvas) -> None:
    """Add vertebral bodies, discs, the spinal canal and the processes."""
    tissue, x, y, z = canvas.near((-50, -95, -60), (50, 25, 330))
    y = y + 8 * ((z - 60) / 215) ** 2 * (z > 60)  # the thoracic spine curves to posterior, 8 mm at T8
    level = z / 36 + 1.4e-5 * z**2  # integer in the middle of a vertebra; 36 mm per vertebra at L4, 28 mm at T8
    part = np.abs(level - np.round(level))  # 0 in the middle of a vertebra, 0.5 in the middle of a disc
    slanted = level - 0.012 * (y + 25)
    width, depth = 25 - 0.03 * z, 18 - 0.01 * z  # mm, half axes of a body
    body = np.sqrt((x / width) ** 2 + (y / depth) ** 2) - 0.35 * part**2  # narrow in the middle
    canal = np.sqrt((x / 11) ** 2 + ((y + 26) / 8) ** 2)
    arch = (canal < 1.6) & (part < 0.42)
    spinous = (np.abs(x) < 3.5) & (y < -32) & (y > -68) & (np.abs(slanted - np.round(slanted)) < 0.25)
    transverse = (np.abs(x) < 42 - 0.06 * z) & (np.abs(y + 21) < 4.5) & (part < 0.13)
    tissue[arch | spinous | transverse | ((body < 0.92) & (part < 0.42))] = CODE["cortical bone"]
    tissue[(body < 0.82) & (part < 0.37)] = CODE["spongy bone"]
    tissue[(body < 0.95) & (part > 0.41)] = CODE["disc"]
    tissue[canal < 1] = CODE["spinal canal"]


def add_small_bowel(canvas: Canvas) -> None:
    """Add the small bowel and the mesenteric veins that lead to it."""
    knots = canvas.patient.small_bowel + (*canvas.patient.shift_mm["bowel"], 0)
    for x, y, z, _ in knots[::4]:
        canvas.add_tube("vein", [(10, 56, 84, 3), (x, y, z, 1.5)])
    canvas.add_tube("bowel wall", knots)
    canvas.add_tube("chyme", knots, inset=2.5)


def add_spleen(canvas: Canvas) -> None:
    """Add the spleen: an ellipsoid limited by wall and diaphragm, concave on its medial side."""
    shift, size = canvas.patient.shift_mm["spleen"], canvas.patient.size["spleen"]
    tissue, x, y, z = canvas.near((-160, -70, 90), (-45, 80, 250))
    outside = beyond_cavity(x, y, z)
    ball = 45 * (ellipsoid(x, y, z, shift + (-110, -8, 172), np.array([50, 53, 53]) * size) - 1)
    hollow = 40 * (1 - ellipsoid(x, y, z, shift + (-58, 22, 172), (42, 46, 74)))
    under_dome = smooth_max(outside + 3, above_diaphragm(x, y, z, outside) + 3)
    tissue[smooth_max(smooth_max(ball, under_dome), hollow) < 0] = CODE["spleen"]


def add_liver(canvas: Canvas) -> None:
    """Add the liver under the right dome: a wedge with its inferior edge on the right and its tip on the left."""
    tissue, x, y, z = canvas.near((-85, -50, 40), (150, 125, 240))
    outside = beyond_cavity(x, y, z)
    grown = 250 * (canvas.patient.size["liver"] - 1)  # mm
    below = 74 + 0.55 * (132 - x) - 0.3 * (y - 30) - grown - z  # mm below the visceral surface
    behind = -smooth_max(y - 46 + 0.55 * x, 0.6 * (y - 52 + 1.5 * x))  # posterior surfaces of the left and right lobe
    under_dome = smooth_max(outside + 2.5, above_diaphragm(x, y, z, outside) + 3)
    liver = smooth_max(smooth_max(under_dome, 0.8 * below), smooth_max(behind, -66 - x))
    tissue[liver < 0] = CODE["liver"]
    for name in ("right hepatic vein", "middle hepatic vein", "left hepatic vein"):
        canvas.add_organ(name)


def add_kidney(canvas: Canvas, name: str, side: int) -> None:
    """Add a kidney with cortex, pyramids, sinus and pelvis, and its adrenal gland; ``side`` is 1 right, -1 left."""
    centre = canvas.patient.shift_mm[f"{name} kidney"] + (side * 66, -6, 100 - side * 8)  # the right kidney is lower
    tissue, x, y, z = canvas.near(centre - (50, 50, 75), centre + (50, 50, 75))
    up, front = z - centre[2], y - centre[1] + 0.16 * (z - centre[2])  # the upper pole is more posterior
    out = side * (x - centre[0]) + 0.2 * up + 0.004 * up**2  # mm from the curved axis, to lateral
    bean = ellipsoid(out, front, up, (0, 0, 0), np.array([28, 25, 55]) * canvas.patient.size[f"{name} kidney"])
    sinus = ellipsoid(out, front, up, (-16, 5, 0), (16, 11, 25))
    pyramids = 0.1 * np.sin(0.4 * up + 3 * np.arctan2(front, out))
    tissue[bean < 1.22] = CODE["fat"]
    tissue[bean < 1] = CODE[f"{name} cortex"]
    tissue[bean < 0.68 + pyramids] = CODE[f"{name} medulla"]
    tissue[(bean < 1.1) & (sinus < 1)] = CODE["renal sinus"]
    tissue[(bean < 1.1) & (sinus < 0.5)] = CODE["renal pelvis"]
    add_adrenal(canvas, name, side, centre + (-side * 26, 14, 56))


def add_adrenal(canvas: Canvas, name: str, side: int, apex: np.ndarray) -> None:
    """Add an adrenal gland, an inverted Y with a body and two limbs, anterior to the upper pole of the kidney."""
    for offset in [(-side * 2, 8, 10), (side * 10, -12, -12), (-side * 6, -14, -12)]:  # mm
        canvas.add_tube(f"{name} adrenal gland", [(*apex, 6.5), (*(apex + offset), 5.2)])


def add_table(canvas: Canvas) -> None:
    """Add the scanner table in the air below the back: a shell around foam, 26 mm thick, with sides curved up."""
    x, y, _ = np.ix_(*canvas.axes)
    back = canvas.axes[1][np.argmax((canvas.tissue != CODE["air"]).any(axis=(0, 2)))]
    depth = back - 4 + x**2 / 1400 - y  # mm below the upper surface
    table = (np.abs(depth - 13) < 13) & (np.abs(x) < 205)
    foam = table & (np.abs(depth - 13) < 10)
    air = canvas.tissue == CODE["air"]
    canvas.tissue[air & table] = CODE["table"]
    canvas.tissue[air & foam] = CODE["foam"]


def scan(tissue: np.ndarray, hu: np.ndarray, spacing, rng: np.random.Generator) -> np.ndarray:
    """Return the int16 HU image of a tissue map, with texture, the scanner's blur and noise.

    Args:
        tissue: (X, Y, Z) codes of tissues.
        hu: (len(TISSUES),) mean of each tissue.
        spacing: Voxel size in mm along x, y and z.
        rng: Source of texture and noise.
    """
    return acquire(paint(tissue, hu, spacing, rng), spacing, rng)


def paint(tissue: np.ndarray, hu: np.ndarray, spacing, rng: np.random.Generator) -> np.ndarray:
    """Return the float32 HU of a tissue map with the texture of its tissues; arguments as for :func:`scan`."""
    image = hu.astype(np.float32)[tissue]
    nodes = (np.array(tissue.shape) * np.asarray(spacing) / 9).astype(int)  # one every 9 mm
    grain = rng.normal(0, 1.7, (1, *nodes))  # the weighted mean of several nodes has a standard deviation of 1
    voxels = [np.arange(n) for n in tissue.shape]
    texture = smooth_field(grain, voxels, (0, 0, 0), tissue.shape)[0]
    texture *= np.array([t.texture for t in TISSUES.values()], np.float32)[tissue]
    image += texture
    return image


def acquire(
    image: np.ndarray,
    spacing,
    rng: np.random.Generator,
    psf_mm: float = PSF_MM,
    noise_hu: tuple[float, float] = (10, 15),
    grain: float = 0.6,
) -> np.ndarray:
    """Return the int16 image of a scanner.

    Args:
        image: (X, Y, Z) float32 HU, which is changed.
        spacing: Voxel size in mm along x, y and z.
        rng: Source of the noise.
        psf_mm: Standard deviation of the point spread function.
        noise_hu: Range of the standard deviation of the noise.
        grain: Standard deviation in voxels of the blur of the noise.
    """
    spacing = np.asarray(spacing)
    ndimage.gaussian_filter(image, np.maximum(psf_mm, 0.35 * spacing) / spacing, output=image, truncate=3)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), grain, truncate=3)
    image += noise * np.float32(rng.uniform(*noise_hu) / noise.std())
    return np.rint(image.clip(-1024, 3071)).astype(np.int16)


def axis_of(letter: str) -> int:
    """Return the axis (0, 1, 2 for x, y, z) of a letter of an orientation code."""
    return next(axis for axis, pair in enumerate(("LR", "PA", "IS")) if letter in pair)


def orient(array: np.ndarray, orientation: str) -> np.ndarray:
    """Return a RAS+ array with its axes in the order and direction of a code such as ``"LPS"``."""
    flips = tuple(slice(None, None, 1 if letter in "RAS" else -1) for letter in orientation)
    return np.ascontiguousarray(array.transpose([axis_of(letter) for letter in orientation])[flips])


def make_affine(axes: list[np.ndarray], origin: np.ndarray, orientation: str) -> np.ndarray:
    """Return the (4, 4) affine of an array from :func:`orient`; ``axes`` and ``origin`` are RAS+ coordinates in mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(orientation):
        row = axis_of(letter)
        axis = axes[row] if letter in "RAS" else axes[row][::-1]
        affine[row, column], affine[row, 3] = axis[1] - axis[0], axis[0] + origin[row]
    return affine


def main(arguments: list[str] | None = None, make: Make = make_phantom) -> None:
    """Write synthetic cases to a folder in the layout of BTCV."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="output: imagesTr/img0001.nii.gz, labelsTr/label0001.nii.gz")
    parser.add_argument("--cases", type=int, nargs="+", required=True, help="case ids, such as 1 2 35")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    for case in args.cases:
        image, label = f"imagesTr/img{case:04d}.nii.gz", f"labelsTr/label{case:04d}.nii.gz"
        write_phantom(case, args.folder / image, args.folder / label, args.grid, args.seed, make)


if __name__ == "__main__":
    main()
