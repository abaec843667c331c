"""NIfTI files of small cases, correct or with any header."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from swinunetr.data.folders import case_name
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import Dataset

SPACING = (1.5, 1.5, 2.0)  # mm, of the cases in this file


def write(path: str, voxels: np.ndarray, affine=None, **header) -> None:
    """Write a NIfTI file; ``header`` sets fields that nibabel does not write itself."""
    image = nib.Nifti1Image(voxels, np.diag([*SPACING, 1.0]) if affine is None else affine)
    content = bytearray(image.to_bytes())
    stored = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in header.items():
        stored[name] = value
    content[:348] = stored.binaryblock
    Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)


def ct(seed: int = 0, shape=(16, 16, 16)) -> np.ndarray:
    """Return a volume of soft tissue surrounded by air, in HU."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[2:-2, 2:-2] = np.random.default_rng(seed).normal(40, 20, voxels[2:-2, 2:-2].shape)
    return voxels


def organs(dtype=np.uint8, shape=(16, 16, 16)) -> np.ndarray:
    """Return a label map with 100 voxels of organ 1 and 20 of organ 2."""
    voxels = np.zeros(shape, dtype)
    voxels[2:7, 2:7, 2:6], voxels[8:10, 8:10, 8:13] = 1, 2
    return voxels


def good_dataset(folder: Path) -> Dataset:
    """Return two training cases, one validation case and one test image without a label."""
    cases = []
    for number in (1, 2, 3, 4):
        image, label = (str(folder / f"{kind}000{number}.nii.gz") for kind in ("img", "label"))
        write(image, ct(number))
        write(label, organs())
        cases.append({"name": case_name(image), "image": image, "label": label})
    del cases[3]["label"]
    return Dataset(("background", "left box", "right box"), "CT", cases[:2], cases[2:3], cases[3:])


def affine(**changes: float) -> np.ndarray:
    """Return the affine of the cases with some elements changed: ``affine(x3=5)`` shifts by 5 mm along x."""
    matrix = np.diag([*SPACING, 1.0])
    for place, value in changes.items():
        matrix["xyz".index(place[0]), int(place[1])] = value
    return matrix


def changed(voxels: np.ndarray, value: float, dtype=np.float32) -> np.ndarray:
    """Return ``voxels`` as ``dtype`` with one voxel set to ``value``."""
    voxels = voxels.astype(dtype)
    voxels[3, 3, 3] = value
    return voxels


def cut(path: str, keep: slice) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[keep])


def flip_byte(path: str, place: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[place] ^= 0xFF
    Path(path).write_bytes(content)


def mirrored() -> np.ndarray:
    """Return pixdim with -1 in front, which turns the last axis of the qform."""
    return np.array([-1, *SPACING, 1, 1, 1, 1])


MAP = LabelMap("other hospital", ((0, 0), (5, 2), (7, 1), (9, 255)))


def numbered(**ids: int) -> np.ndarray:
    """Return the labels with other ids: ``numbered(zero=9)`` has 9 as background."""
    zero, one, two = (ids.get(name, default) for name, default in (("zero", 0), ("one", 7), ("two", 5)))
    return np.array([zero, one, two], np.int16)[organs()]


def write_both(dataset: Dataset, matrix=None, **header) -> None:
    write(dataset.training[0]["image"], ct(1), matrix, **header)
    write(dataset.training[0]["label"], organs(), matrix, **header)
