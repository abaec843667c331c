"""Every error in the data is reported with its file; unusual data give a warning; the report counts correctly."""

import builtins
import bz2
import gzip
import itertools
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest

from swinunetr import machine
from swinunetr.data import checks
from swinunetr.data.checks import check_dataset, image_faults
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import Dataset, case_name
from swinunetr.errors import DatasetError, InputError

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


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    """Return two training cases, one validation case and one test image without a label."""
    cases = []
    for number in (1, 2, 3, 4):
        image, label = (str(tmp_path / f"{kind}000{number}.nii.gz") for kind in ("img", "label"))
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


RGB = np.zeros((16, 16, 16), [("R", "u1"), ("G", "u1"), ("B", "u1")])
QFORM = {"sform_code": 0, "qform_code": 1}

# What is done to img0001 or label0001, and what the error says about it.
BROKEN_IMAGES = {
    "missing": (os.remove, "file is missing"),
    "a folder": (lambda p: (os.remove(p), os.mkdir(p)), "a folder, not a file"),
    "empty": (lambda p: Path(p).write_bytes(b""), "an empty file, not a scan"),
    "truncated": (lambda p: cut(p, slice(3000)), "file is truncated"),
    "truncated in its header": (lambda p: cut(p, slice(40)), "file is truncated"),
    "complete gzip of half a file": (
        lambda p: Path(p).write_bytes(gzip.compress(gzip.decompress(Path(p).read_bytes())[:5000])),
        "file is truncated",
    ),
    "damaged in its header": (lambda p: flip_byte(p, 40), "gzip data are damaged"),
    "damaged in its checksum": (lambda p: flip_byte(p, -8), "gzip data are damaged"),
    "Git LFS pointer": (lambda p: Path(p).write_text("version https://git-lfs.github.com/spec/v1\noid ..."), "Git LFS"),
    "web page": (lambda p: Path(p).write_text("\n<!DOCTYPE html><html>Log in</html>"), "a web page"),
    "not compressed": (lambda p: Path(p).write_bytes(gzip.decompress(Path(p).read_bytes())), "rename it"),
    "not NIfTI": (lambda p: Path(p).write_bytes(gzip.compress(b"hello" * 200)), "not readable as NIfTI"),
    "unknown data type": (lambda p: write(p, ct(1), datatype=9999), "not readable as NIfTI"),
    "impossible quaternion": (lambda p: write(p, ct(1), quatern_b=3, **QFORM), "not readable as NIfTI"),
    "voxels from byte 0": (lambda p: write(p, ct(1), vox_offset=0), "voxels begin at byte 0, in the header"),
    "a label map": (
        lambda p: write(p, organs()),
        "a label map, of 3 different values  give the scan, or leave this file out",
    ),
    "colour": (lambda p: write(p, RGB), "colours or complex"),
    "complex": (lambda p: write(p, ct(1).astype(np.complex64)), "colours or complex"),
    "2D": (lambda p: write(p, ct(1)[:, :, 0]), "shape 16 x 16 is not a 3D volume"),
    "single slice": (lambda p: write(p, ct(1)[:, :, :1]), "shape 16 x 16 x 1 is not a 3D volume"),
    "4D": (lambda p: write(p, np.stack([ct(1)] * 2, -1)), "shape 16 x 16 x 16 x 2 is not a 3D volume"),
    "5D": (lambda p: write(p, ct(1)[..., None, None]), "shape 16 x 16 x 16 x 1 x 1 is not"),
    "affine NaN": (lambda p: write(p, ct(1), affine(x3=np.nan)), "affine contains NaN"),
    "affine singular": (lambda p: write(p, ct(1), affine(x1=1.5, y1=0)), "affine is singular"),
    "spacing 0 in sform": (lambda p: write(p, ct(1), srow_z=np.zeros(4)), "spacing 1.5 x 1.5 x 0 mm"),
    "spacing 0 in pixdim": (lambda p: write(p, ct(1), pixdim=np.zeros(8), **QFORM), "spacing 0 x 0 x 0 mm"),
    "pixdim NaN": (lambda p: write(p, ct(1), pixdim=np.full(8, np.nan)), "spacing nan x nan x nan mm"),
    "qform mirrored": (lambda p: write(p, ct(1), qform_code=1, pixdim=mirrored()), "left and right are in doubt"),
    "qform turned by 180 degrees": (
        lambda p: write(p, ct(1), qform_code=1, quatern_d=1),
        "contradict each other by 180",
    ),
    "spacing in metres": (lambda p: write(p, ct(1), affine(x0=0.0015, y1=0.0015, z2=0.002)), "spacing 0.0015"),
    "spacing in micrometres": (lambda p: write(p, ct(1), affine(x0=1500, y1=1500, z2=2000)), "spacing 1500"),
    "NaN voxel": (lambda p: write(p, changed(ct(1), np.nan)), "voxels are NaN or infinite"),
    "infinite voxel": (lambda p: write(p, changed(ct(1), np.inf)), "voxels are NaN or infinite"),
    "constant": (lambda p: write(p, np.zeros((16, 16, 16), np.int16)), "all voxels are 0"),
    "scaled to 0..1": (lambda p: write(p, (ct(1) + 1000).astype(np.float32) / 2000), "cannot be HU"),
    "grey values": (lambda p: write(p, ((ct(1) + 1000) // 8).astype(np.uint8)), "cannot be HU"),
    "z-scores": (lambda p: write(p, ((ct(1) + 400) / 500).astype(np.float32)), "cannot be HU"),
    "offset by 1024": (lambda p: write(p, ct(1) + 1024), "cannot be HU: no air below 0"),
    "nothing above 0": (lambda p: write(p, ct(1) - 1000), "cannot be HU"),
    "other shape than its label": (lambda p: write(p, ct(1, (16, 16, 20))), "its image has 16 x 16 x 20"),
}

BROKEN_LABELS = {
    "missing": (os.remove, "file is missing"),
    "truncated": (lambda p: cut(p, slice(-20)), "file is truncated"),
    "4D": (lambda p: write(p, np.stack([organs()] * 2, -1)), "is not a 3D volume"),
    "shifted": (lambda p: write(p, organs(), affine(x3=5)), "corners up to 5 mm apart"),
    "other spacing": (lambda p: write(p, organs(), affine(z2=3)), "corners up to 15 mm apart"),
    "mirrored": (lambda p: write(p, organs(), affine(x0=-1.5)), "corners up to 45 mm apart"),
    "id too large": (lambda p: write(p, changed(organs(), 14)), "ids outside the JSON's 0 to 2: 14"),
    "negative id": (lambda p: write(p, changed(organs(), -1)), "ids outside the JSON's 0 to 2: -1"),
    "fraction": (lambda p: write(p, changed(organs(), 0.5)), "not whole numbers: 0.5 "),
    "nearly whole": (lambda p: write(p, changed(organs(), 1.002)), "not whole numbers: 1.002 "),
    "fraction of a slope": (lambda p: write(p, organs(), scl_slope=0.7, scl_inter=0), "not whole numbers: 0.7, 1.4 "),
    "NaN": (lambda p: write(p, changed(organs(), np.nan)), "ids are NaN or infinite  replace them, usually by 0"),
    "a CT": (lambda p: write(p, ct(1)), "ids outside the JSON's 0 to 2: -1000"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_error_names_the_broken_image_and_the_problem(good, damage, message):
    damage(good.training[0]["image"])
    error = str(pytest.raises(DatasetError, check_dataset, good, SPACING).value)
    assert message in error and "0001.nii.gz" in error
    assert len(error.splitlines()) == 3 and error.startswith("1 problem in the 7 files")


def test_a_link_to_a_missing_file_is_called_that(good):
    image = Path(good.training[0]["image"])
    image.unlink()
    image.symlink_to("/not mounted/scan.nii.gz")
    with pytest.raises(DatasetError, match="a link to '/not mounted/scan.nii.gz', which is missing"):
        check_dataset(good, SPACING)


@pytest.mark.parametrize("form", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_pair_of_header_and_voxels_is_refused(good, tmp_path, form, ending):
    nib.save(form(ct(1), affine()), tmp_path / "pair.img")
    good.training[0]["image"] = str(tmp_path / f"pair{ending}")
    with pytest.raises(DatasetError, match="not one NIfTI file but a pair of .hdr and .img  convert it to .nii.gz"):
        check_dataset(good, SPACING)


@pytest.mark.parametrize(("damage", "message"), BROKEN_LABELS.values(), ids=BROKEN_LABELS)
def test_error_names_the_broken_label_and_the_problem(good, damage, message):
    damage(good.training[0]["label"])
    error = str(pytest.raises(DatasetError, check_dataset, good, SPACING).value)
    assert message in error and "label0001.nii.gz" in error
    assert len(error.splitlines()) == 3


MEANT = {
    "number of nnU-Net's channel": ("img0001_0000.nii.gz", "its folder has 'img0001_0000.nii.gz': write that name"),
    "other case": ("IMG0001.nii.gz", "its folder has 'IMG0001.nii.gz': write that name"),
    "not compressed": ("img0001.nii", "its folder has 'img0001.nii': write that name"),
    "something else": ("img0001_1.nii.gz", "check data_root and the name in the JSON"),
}


@pytest.mark.parametrize(("name", "remedy"), MEANT.values(), ids=MEANT)
def test_the_name_that_is_meant_for_a_missing_file_is_shown(good, name, remedy):
    path = Path(good.training[0]["image"])
    path.rename(path.with_name(name))
    with pytest.raises(DatasetError, match=f"file is missing  {re.escape(remedy)}"):
        check_dataset(good, SPACING)


def test_file_names_of_windows_and_other_endings_are_named(good, tmp_path):
    good.training[0]["image"] = str(tmp_path / "images\\img0001.nii.gz")
    good.training[1]["image"] = str(tmp_path / "packed.nii.bz2")
    write(str(tmp_path / "plain.nii"), ct(1))
    (tmp_path / "packed.nii.bz2").write_bytes(bz2.compress((tmp_path / "plain.nii").read_bytes()))
    error = str(pytest.raises(DatasetError, check_dataset, good, SPACING).value)
    assert "write / between the folders in the JSON" in error and "the name does not end in .nii or .nii.gz" in error


def test_a_name_in_another_unicode_form_is_named_as_one(good, tmp_path):
    good.training[0]["image"] = str(tmp_path / unicodedata.normalize("NFC", "Jürgen.nii.gz"))
    write(str(tmp_path / unicodedata.normalize("NFD", "Jürgen.nii.gz")), ct(1))
    with pytest.raises(DatasetError, match="file is missing  its folder has this name in another Unicode form"):
        check_dataset(good, SPACING)


def test_one_error_lists_the_problems_of_all_files(good, capfd):
    os.remove(good.validation[0]["label"])
    cut(good.training[1]["image"], slice(3000))
    write(good.training[0]["label"], changed(organs(), 14), affine(x3=5))
    error = str(pytest.raises(InputError, check_dataset, good, SPACING).value)
    assert error.startswith("4 problems")
    rows = [line.split()[:2] for line in error.splitlines()[2:]]
    assert rows == [
        ["img0001", "label0001.nii.gz"],  # wrong affine
        ["img0001", "label0001.nii.gz"],  # wrong id
        ["img0002", "img0002.nii.gz"],
        ["img0003", "label0003.nii.gz"],
    ]
    assert "2 problems in" in capfd.readouterr().out  # those of the headers, before any voxel is read


def test_table_of_many_problems_is_cut(good):
    missing = [{"name": f"c{i}", "image": f"/none/c{i}.nii.gz", "label": f"/none/l{i}.nii.gz"} for i in range(100)]
    error = str(pytest.raises(DatasetError, check_dataset, replace(good, training=missing), SPACING).value)
    assert error.startswith("200 problems") and len(error.splitlines()) == 12
    assert "... and 191 more: 191 x check data_root" in error


def test_jupyter_shows_the_table_without_a_traceback(good):
    os.remove(good.training[0]["image"])
    error = pytest.raises(DatasetError, check_dataset, good, SPACING).value
    assert error._render_traceback_() == [f"DatasetError: {error}"]


OTHER_AXES = np.array([[0, 1.5, 0, 0], [0, 0, 1.5, 0], [-2.0, 0, 0, 30], [0, 0, 0, 1]])  # inferior, right, anterior
REPEATS = {
    "twice in a list": (lambda d: d.training.append(d.training[0]), "same file as training case img0001"),
    "validation case used in training": (
        lambda d: d.validation.append(d.training[0]),
        "same file as training case img0001",
    ),
    "through a link": (
        lambda d: (os.remove(d.training[1]["image"]), os.symlink(d.training[0]["image"], d.training[1]["image"])),
        "same file as training case img0001",
    ),
    "copied": (lambda d: write(d.training[1]["image"], ct(1)), "same voxels as training case img0001"),
    "saved again as float32": (
        lambda d: write(d.validation[0]["image"], ct(2).astype(np.float32)),
        "same voxels as training case img0002",
    ),
    "saved again with a slope": (
        lambda d: write(
            d.validation[0]["image"], ((ct(2) + 1000) * 4).astype(np.uint16), scl_slope=0.25, scl_inter=-1000
        ),
        "same voxels as training case img0002",
    ),
    "saved again along other axes": (
        lambda d: [
            write(d.validation[0][kind], volume.transpose(2, 0, 1)[::-1], OTHER_AXES)
            for kind, volume in (("image", ct(2)), ("label", organs()))
        ],
        "same voxels as training case img0002",
    ),
    "copied to validation": (lambda d: write(d.validation[0]["image"], ct(2)), "same voxels as training case img0002"),
}


@pytest.mark.parametrize(("repeat", "message"), REPEATS.values(), ids=REPEATS)
def test_repeated_case_is_refused(good, repeat, message):
    repeat(good)
    with pytest.raises(DatasetError, match=message):
        check_dataset(good, SPACING)


def test_scans_with_the_same_numbers_of_voxels_by_intensity_are_compared_in_place(good):
    write(good.validation[0]["image"], ct(2)[::-1])
    assert check_dataset(good, SPACING).warnings == []


def test_copies_of_small_intensities_are_recognised_too(good):
    mr = replace(good, modality="MR")
    write(mr.training[1]["image"], (ct(2) / 7000).astype(np.float32))
    write(mr.validation[0]["image"], ct(2), scl_slope=1 / 7000, scl_inter=0)
    with pytest.raises(DatasetError, match="same voxels as training case img0002"):
        check_dataset(mr, SPACING)


def test_training_labels_without_any_organ_are_refused(good):
    for case in good.training:
        write(case["label"], organs() * 0)
    with pytest.raises(DatasetError, match="img0001 .* no training label contains an organ .* background alone"):
        check_dataset(good, SPACING)


def test_validation_labels_without_any_organ_are_refused(good):
    good.validation.append(good.training.pop())
    for case in good.validation:
        write(case["label"], organs() * 0)
    with pytest.raises(DatasetError, match="img0003 .* no validation label contains an organ .* Dice would be NaN"):
        check_dataset(good, SPACING)
    good.validation[1]["label"] = good.validation[0]["label"]  # read for one of them only
    with pytest.raises(DatasetError, match="no validation label contains an organ"):
        check_dataset(good, SPACING)
    good.validation[0]["label"] = good.training[0]["label"]
    good.validation[1]["label"] = good.training[0]["label"]
    assert "same file" in str(check_dataset(good, SPACING))


def test_unlabelled_validation_cases_are_no_error(good):
    for case in [*good.training, *good.validation]:
        del case["label"]
    assert check_dataset(replace(good, classes=("background",)), SPACING).warnings == []


READ_ERRORS = [
    (PermissionError(13, "Permission denied"), "no permission to read the file; ask for access or copy it"),
    (PermissionError(), "no permission to read the file; ask for access or copy it"),
    (OSError(5, "Input/output error"), "cannot be read (Input/output error); copy or download it again"),
    (ValueError(), "not readable as NIfTI (ValueError); convert it to .nii.gz again"),
    (ValueError("\n"), "not readable as NIfTI (ValueError); convert it to .nii.gz again"),
    (MemoryError("9 TiB"), "too large for the memory (9 TiB); crop it, or correct its header"),
]


def raising(function, path: str, error: Exception, first: int = 1):
    """Return ``function`` that raises ``error`` for ``path``, from call number ``first`` on."""
    calls = itertools.count(1)

    def call(file, *args, **kwargs):
        if str(file) == path and next(calls) >= first:
            raise error
        return function(file, *args, **kwargs)

    return call


def assert_two_rows(good: Dataset, message: str) -> None:
    """Check ``good`` with another broken file; its own first image has the problem ``message``."""
    cut(good.training[1]["image"], slice(3000))
    shown = str(pytest.raises(DatasetError, check_dataset, good, SPACING).value)
    _, _, row, other = shown.splitlines()
    assert re.split("  +", row)[1:] == ["img0001.nii.gz", *message.split("; ")]
    assert "file is truncated" in other


@pytest.mark.parametrize("first", [1, 2], ids=["header", "voxels"])
@pytest.mark.parametrize(("error", "message"), READ_ERRORS)
def test_each_error_of_reading_a_file_is_one_row(good, monkeypatch, error, message, first):
    monkeypatch.setattr(nib, "load", raising(nib.load, good.training[0]["image"], error, first))
    assert_two_rows(good, message)


@pytest.mark.parametrize(("error", "message"), READ_ERRORS[:3])
def test_file_that_cannot_be_opened_is_one_row(good, monkeypatch, error, message):
    """Tests run as root, who may read all files: the errors are raised in place of the operating system."""
    for module, name in ((builtins, "open"), (gzip, "open")):
        monkeypatch.setattr(module, name, raising(getattr(module, name), good.training[0]["image"], error))
    assert_two_rows(good, message)


def test_folder_that_cannot_be_entered_is_one_row(good, monkeypatch):
    is_file = Path.is_file

    def refuse(path):
        if path.name == "img0001.nii.gz":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.setattr(checks, "stand_in", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(DatasetError, match="1 problem(.|\n)*no permission to read the file"):
        check_dataset(good, SPACING)


UNUSUAL = {
    "no sform or qform": (lambda d: write_both(d, sform_code=0, qform_code=0), "neither sform nor qform"),
    "sform against pixdim": (
        lambda d: write_both(d, pixdim=[1, 2, 2, 2, 1, 1, 1, 1]),
        "the spacing of the sform, 1.5 x 1.5 x 2 mm, is used; pixdim says 2 x 2 x 2 mm",
    ),
    "sform against qform and pixdim": (
        lambda d: write_both(d, pixdim=[1, 1.5, 1.5, 2.5, 1, 1, 1, 1], qform_code=1),
        "the spacing of the sform, 1.5 x 1.5 x 2 mm, is used; pixdim says 1.5 x 1.5 x 2.5 mm",
    ),
    "gantry tilt": (lambda d: write_both(d, affine(y2=0.7)), "axes are 19.3 degrees from right angles (gantry tilt)"),
    "sform turned against qform": (
        lambda d: write_both(d, qform_code=1, quatern_d=0.05),
        "sform and qform differ by 5.7 degrees; the sform is used",
    ),
    "thick slices": (lambda d: write_both(d, matrix=affine(z2=9)), "slices are 9 mm thick"),
    "more voxels than in the header": (
        lambda d: write_both(d, dim=[3, 16, 16, 8, 1, 1, 1, 1]),
        "file holds 100.0% more data than a volume of 16 x 16 x 8",
    ),
    "windowed": (lambda d: write(d.training[0]["image"], changed(ct(1).clip(-175), 250)), "no air"),
    "metal": (lambda d: write(d.training[0]["image"], changed(ct(1), 40_000)), "unusual for HU"),
    "label shifted by 0.01 mm": (
        lambda d: write(d.training[0]["label"], organs(), affine(x3=0.01)),
        "corners up to 0.01 mm apart",
    ),
    "shared label": (lambda d: d.training[1].update(label=d.training[0]["label"]), "same file as training case"),
    "test image used in training": (
        lambda d: d.test.append({k: d.training[0][k] for k in ("name", "image")}),
        "same file as",
    ),
    "one empty label in training": (
        lambda d: write(d.training[0]["label"], organs() * 0),
        "label is empty: no organ; label the case, unless it has none",
    ),
    "one empty label in validation": (
        lambda d: (d.validation.append(d.training.pop()), write(d.validation[0]["label"], organs() * 0)),
        "label is empty",
    ),
    "organ that no case has": (
        lambda d: [write(case["label"], organs() % 2) for case in d.training],
        "no training case has right box",
    ),
}


MAP = LabelMap("other hospital", ((0, 0), (5, 2), (7, 1), (9, 255)))
IGNORE = LabelMap("", ((0, 0), (1, 1), (2, 2), (255, 255)))


def numbered(**ids: int) -> np.ndarray:
    """Return the labels with other ids: ``numbered(zero=9)`` has 9 as background."""
    zero, one, two = (ids.get(name, default) for name, default in (("zero", 0), ("one", 7), ("two", 5)))
    return np.array([zero, one, two], np.int16)[organs()]


BROKEN_MAPPED = {
    "id that the map lacks": (numbered(two=6), MAP, "label ids that label_map 'other hospital' lacks: 6  add them to"),
    "negative id": (numbered(two=-6), replace(MAP, other=0), "label_map 'other hospital' lacks: -6"),
    "fraction": (changed(numbered(), 0.5), MAP, "not whole numbers: 0.5"),
    "all ignored": (numbered(zero=9, one=9, two=9), MAP, "label is empty: all voxels are ignored"),
    "a scan": (np.arange(4096).reshape(16, 16, 16).astype(np.int16), replace(MAP, other=0), "more than 1000 different"),
    "id that is neither class nor ignore": (changed(organs(), 254), IGNORE, "the JSON's 0 to 2 and 255 (ignore): 254"),
}


@pytest.mark.parametrize(("labels", "label_map", "message"), BROKEN_MAPPED.values(), ids=BROKEN_MAPPED)
def test_error_names_what_a_map_does_not_cover(good, labels, label_map, message):
    write(good.training[0]["label"], labels)
    good.training[0]["label_map"] = label_map
    error = str(pytest.raises(DatasetError, check_dataset, good, SPACING).value)
    assert message in error and "label0001.nii.gz" in error and len(error.splitlines()) == 3


def test_a_mapped_case_counts_like_one_with_the_classes_own_ids(good):
    plain = check_dataset(good, SPACING)
    write(good.training[0]["label"], numbered() * 10, scl_slope=0.1, scl_inter=0)
    good.training[0]["label_map"] = MAP
    mapped = check_dataset(good, SPACING)
    assert mapped.organ_ml == plain.organ_ml and mapped.warnings == mapped.notes == []
    assert {case for case in plain.fingerprint if plain.fingerprint[case] != mapped.fingerprint[case]} == {"img0001"}
    good.training[0]["label_map"] = replace(MAP, name="its other name")
    assert check_dataset(good, SPACING).fingerprint == mapped.fingerprint
    good.training[0]["label_map"] = replace(MAP, other=0)
    assert check_dataset(good, SPACING).fingerprint["img0001"] != mapped.fingerprint["img0001"]


def test_a_label_that_two_cases_share_is_read_with_each_of_their_maps(good):
    for case, label_map in zip(good.training, (MAP, replace(MAP, classes=((0, 0), (5, 1), (7, 2)))), strict=True):
        case |= {"label": good.training[0]["label"], "label_map": label_map}
    write(good.training[0]["label"], numbered())
    report = check_dataset(good, SPACING)
    assert report.warnings == [] and sorted(report.organ_ml["right box"]) == pytest.approx([0.09, 0.09, 0.45])


def with_map(dataset: Dataset, labels: np.ndarray, label_map: LabelMap, *splits: str) -> None:
    """Let all cases of some lists have one label and one map."""
    for case in (case for split in splits for case in getattr(dataset, split)):
        write(case["label"], labels)
        case["label_map"] = label_map


TRAINED = LabelMap("t", ((0, 0), (5, 2), (7, 255)))
UNUSUAL_MAPPED = {
    "organ that is ignored in training": (
        lambda d: with_map(d, numbered(), TRAINED, "training"),
        ["no training case has left box;", "label_map 't' has no id for left box: background in its 2 cases;"],
    ),
    "organ that is ignored in validation": (
        lambda d: with_map(d, numbered(), TRAINED, "validation"),
        ["no validation case has left box;", "label_map 't' has no id for left box: background in its 1 cases;"],
    ),
    "no background in training": (
        lambda d: with_map(d, numbered(), replace(MAP, classes=((0, 255), (5, 2), (7, 1))), "training"),
        ["no training case has background;"],
    ),
    "no background in validation": (
        lambda d: with_map(d, numbered(), replace(MAP, classes=((0, 255), (5, 2), (7, 1))), "validation"),
        ["no voxel of background counts in the validation cases img0003;"],
    ),
}


@pytest.mark.parametrize(("change", "messages"), UNUSUAL_MAPPED.values(), ids=UNUSUAL_MAPPED)
def test_classes_that_maps_leave_without_a_voxel_give_a_warning(good, change, messages):
    change(good)
    warnings = check_dataset(good, SPACING).warnings
    assert len(warnings) == len(messages)
    assert all(warning.startswith(message) for warning, message in zip(warnings, messages, strict=True)), warnings


def test_ids_that_one_map_merges_are_noted_once(good):
    with_map(good, numbered(), LabelMap("m", ((0, 0), (5, 1), (7, 1), (8, 2))), "training")
    report = check_dataset(good, SPACING)
    assert report.notes == ["label_map 'm': the ids 5, 7 count as left box"]
    assert str(report).endswith(report.notes[0]) and len(report.warnings) == 1  # no training case has the right box


ODD_HEADERS = {
    "qform not set, pixdim with three digits": {
        "pixdim": [1, 1.5004, 1.4996, 2, 1, 1, 1, 1],
        "srow_x": [1.5003, 0, 0, 7],
    },
    "qform not set and mirrored": {"pixdim": [-1, *SPACING, 1, 1, 1, 1]},
    "qform alone": {"sform_code": 0, "qform_code": 1, "srow_x": np.zeros(4), "qoffset_x": 7},
    "qform without a direction of its axes": {"qform_code": 1, "pixdim": [0, *SPACING, 1, 1, 1, 1]},
    "qform that is no rotation": {"qform_code": 1, "quatern_b": 3},
    "oblique, rounded to three digits": {"srow_x": [1.495, -0.125, 0, 0], "srow_y": [0.125, 1.495, 0, 0]},
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_odd_but_valid_headers_give_no_warning(good, header):
    write_both(good, **header)
    assert check_dataset(good, SPACING).warnings == []


def write_both(dataset: Dataset, matrix=None, **header) -> None:
    write(dataset.training[0]["image"], ct(1), matrix, **header)
    write(dataset.training[0]["label"], organs(), matrix, **header)


@pytest.mark.parametrize(("change", "message"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_data_give_a_warning(good, change, message):
    change(good)
    report = check_dataset(good, SPACING)
    assert any(message in warning for warning in report.warnings)
    assert message in str(report)


def test_volumes_of_a_sheared_scan_are_by_the_determinant(good):
    write_both(good, affine(y2=0.7))
    np.testing.assert_allclose(check_dataset(good, SPACING).organ_ml["left box"], [0.45] * 3)


def test_report_of_correct_data_has_counts_and_no_warning(good):
    report = check_dataset(good, SPACING, workers=2)
    assert report.warnings == []
    assert report.cases == {"training": 2, "validation": 1, "test": 1}
    assert report.orientations == {"RAS": 4}
    np.testing.assert_allclose(report.organ_ml["left box"], [0.45] * 3)  # 100 voxels of 4.5 mm3
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)
    shown = str(report)
    assert "2 training, 1 validation, 1 test" in shown
    assert "16 x 16 x 16 voxels" in shown and "1.5 x 1.5 x 2 mm" in shown


def test_equivalent_files_give_no_warning(good):
    first, second = good.training
    write(first["image"], ct(1)[..., None])  # a last axis of length 1
    write(first["label"], organs(np.float32)[..., None])  # whole numbers as floats
    write(second["image"], ((ct(2) + 1000) // 2).astype(np.uint16), scl_slope=2, scl_inter=-1000)
    write(second["label"], organs() * 10, scl_slope=0.1, scl_inter=0)
    report = check_dataset(good, SPACING)
    assert report.warnings == []
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)


STORED = {
    "float32 just below": ((organs() * np.float32(0.9999999)).astype(np.float32), {}),
    "float32 off by 3e-5": (organs() * np.float32(0.999969), {}),
    "integers with the slope of a CT": (
        np.rint(organs() / (2 / 65_535)).astype(np.uint16),
        {"scl_slope": 2 / 65_535 * 1.0001, "scl_inter": 0},
    ),
    "bytes with a slope of 13 / 255": (
        np.rint(organs() / (13 / 255)).astype(np.uint8),
        {"scl_slope": 13 / 255, "scl_inter": 0},
    ),
    "-0.0": (np.where(organs() == 0, -0.0, organs()).astype(np.float32), {}),
}


@pytest.mark.parametrize(("voxels", "header"), STORED.values(), ids=STORED)
def test_whole_labels_that_storage_changed_are_whole(good, voxels, header):
    write(good.training[0]["label"], voxels, **header)
    report = check_dataset(good, SPACING)
    assert report.warnings == []
    np.testing.assert_allclose(report.organ_ml["left box"], [0.45] * 3)
    np.testing.assert_allclose(report.organ_ml["right box"], [0.09] * 3)


def test_nifti2_and_uncompressed_files_are_read(good, tmp_path):
    first, second = good.training
    nib.save(nib.Nifti2Image(ct(1), affine()), first["image"])
    second["image"] = str(tmp_path / "plain.nii")
    write(second["image"], ct(2))
    assert check_dataset(good, SPACING).warnings == []


def test_hu_are_not_checked_in_other_modalities(good):
    for number, case in enumerate([*good.training, *good.validation, *good.test]):
        write(case["image"], ct(number) + 1000)
    assert check_dataset(replace(good, modality="MRI"), SPACING).warnings == []


def test_ct_under_another_name_gives_a_warning(good):
    (fault,) = image_faults(good.training[0]["image"], "abdominal scan")
    assert not fault.stops and "look like HU, and the modality is 'abdominal scan'" in fault.what


def test_label_maps_are_no_scans_of_any_modality(good):
    coarse = (ct(1) + 1000) // 8  # a scan of 19 grey values
    for voxels, refused in ((organs(), True), (organs() > 0, True), (organs() * 100, True), (coarse, False)):
        write(good.training[0]["image"], voxels.astype(np.uint8))
        assert [fault.stops for fault in image_faults(good.training[0]["image"], "MR")] == [True] * refused


@pytest.mark.parametrize(
    ("modality", "line"),
    {"Computed Tomography": "Computed Tomography: Hounsfield units", "MR": "MR: no CT, so each scan is scaled"}.items(),
)
def test_report_says_how_intensities_are_scaled(good, modality, line):
    assert f"intensities  {line}" in str(check_dataset(replace(good, modality=modality), SPACING))


def test_hu_are_checked_whatever_ct_is_called(good):
    write(good.training[0]["image"], ct(1) + 1024)
    for modality in ("NCCT", "contrast-enhanced CT"):
        with pytest.raises(DatasetError, match="cannot be HU"):
            check_dataset(replace(good, modality=modality), SPACING)
    for check in (
        lambda: check_dataset(replace(good, modality="PET/CT"), SPACING),
        lambda: image_faults(good.training[0]["image"], "PET/CT"),
    ):
        with pytest.raises(InputError, match="names two modalities"):
            check()


def test_known_padding_of_an_image_is_not_judged(good):
    voxels = np.random.default_rng(0).normal(0, 20, (16, 16, 16))
    voxels[:2], voxels[3, 3, :2] = -1024, 300
    write(good.training[0]["image"], voxels.astype(np.int16))
    assert image_faults(good.training[0]["image"], "CT") == []
    (fault,) = image_faults(good.training[0]["image"], "CT", padding=[-1024])
    assert fault.stops and "cannot be HU" in fault.what


def test_memory_estimate_uses_the_axes_of_the_file(good):
    # The file's axes are superior, right, anterior: 2, 1.5 and 1.5 mm; 16 voxels span 30, 22.5 and 22.5 mm.
    rotated = np.array([[0, 1.5, 0, 0], [0, 0, 1.5, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    for case in [*good.training, *good.validation]:
        write(case["image"], ct(int(case["name"][-1])), rotated)
        write(case["label"], organs(), rotated)
    report = check_dataset(good, (4.5, 4.5, 10.0))
    assert report.orientations == {"SRA": 3, "RAS": 1}
    assert report.cache_bytes == 3 * 3 * (6 * 6 * 4)  # cases, bytes per voxel, voxels; the test image is not cached


def test_as_many_files_are_read_at_a_time_as_fit_into_memory(good, monkeypatch):
    largest = 16**3 * 2  # bytes of an int16 image
    monkeypatch.setattr(machine, "cpu_cores", lambda: 8)
    monkeypatch.setattr(machine, "available_memory", lambda: 2.5 * checks.CHECKED_COPIES * largest)
    in_threads = Mock(side_effect=checks.in_threads)
    monkeypatch.setattr(checks, "in_threads", in_threads)
    check_dataset(good, SPACING)
    assert {title: threads for _, _, title, threads in (call.args for call in in_threads.call_args_list)} == {
        "Checking headers": None,
        "Comparing images and labels": 1,
        "Checking voxels": 2,
    }


def test_too_little_memory_gives_a_warning(good, monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda: 1000)
    assert "may not fit into memory" in str(check_dataset(good, SPACING))


def test_same_list_for_training_and_validation_gives_a_warning(good):
    same = Dataset(good.classes, good.modality, good.training, list(good.training), [])
    report = check_dataset(same, (1.5, 1.5, 2.0))
    assert report.warnings == ["validation cases are the training cases: their Dice says nothing about other scans"]
    assert report.cases == {"training": 2, "validation": 2}


def fingerprint(dataset: Dataset) -> dict[str, str]:
    return check_dataset(dataset, SPACING).fingerprint


def test_fingerprint_has_16_hex_digits_per_case(good):
    found = fingerprint(good)
    assert list(found) == ["img0001", "img0002", "img0003", "img0004"]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in found.values()) and len(set(found.values())) == 4


def test_fingerprint_does_not_depend_on_folder_name_time_and_compression(good, tmp_path):
    before = fingerprint(good)
    for case in good.training:
        for kind in ("image", "label"):
            content = gzip.decompress(Path(case[kind]).read_bytes())
            case[kind] = str(tmp_path / "other" / f"{kind}_{case['name']}.nii")
            Path(case[kind]).parent.mkdir(exist_ok=True)
            Path(case[kind]).write_bytes(content)
            os.utime(case[kind], (1, 1))
    assert fingerprint(good) == before


FINGERPRINTED = {
    "a voxel of the image": lambda d: write(d["image"], changed(ct(1), 41, np.int16)),
    "a voxel of the label": lambda d: write(d["label"], changed(organs(), 2, np.uint8)),
    "slope": lambda d: write(d["image"], ct(1), scl_slope=1.001, scl_inter=0),
    "intercept": lambda d: write(d["image"], ct(1), scl_slope=1, scl_inter=1),
    "origin": lambda d: [write(d[k], v, affine(x3=1)) for k, v in (("image", ct(1)), ("label", organs()))],
    "shape": lambda d: [
        write(d[k], v.reshape(16, 32, 8)) for k, v in (("image", ct(1)), ("label", organs()))
    ],  # of the same voxels in another order
    "no label": lambda d: d.pop("label"),
}


@pytest.mark.parametrize("change", FINGERPRINTED.values(), ids=FINGERPRINTED)
def test_fingerprint_changes_with_the_case(good, change):
    before = fingerprint(good)
    change(good.training[0])
    after = fingerprint(good)
    assert after["img0001"] != before["img0001"]
    assert after["img0002"] == before["img0002"] and after["img0003"] == before["img0003"]


def test_fingerprint_ignores_rounding_of_the_affine(good):
    before = fingerprint(good)
    for kind, voxels in (("image", ct(1)), ("label", organs())):
        write(good.training[0][kind], voxels, affine(x3=-1e-6))
    assert fingerprint(good) == before


def test_fingerprint_includes_a_shared_label_and_names_a_shared_case_once(good):
    before = fingerprint(good)
    good.training[1]["label"] = good.training[0]["label"]  # the same voxels as before
    assert fingerprint(good) == before
    same = Dataset(good.classes, good.modality, good.training, list(good.training), [])
    assert fingerprint(same) == {name: before[name] for name in ("img0001", "img0002")}
