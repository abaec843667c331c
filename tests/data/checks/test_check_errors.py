"""Every error of a file is reported with its name, and all errors in one table."""

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
from nifti_files import (
    MAP,
    SPACING,
    affine,
    changed,
    ct,
    cut,
    flip_byte,
    good_dataset,
    mirrored,
    numbered,
    organs,
    write,
)

from swinunetr.data import checks
from swinunetr.data.checks import check_dataset, image_faults
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import Dataset
from swinunetr.errors import DatasetError, InputError


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    return good_dataset(tmp_path)


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


def test_an_ending_of_capitals_and_small_letters_is_named(good):
    path = Path(good.training[0]["image"])
    good.training[0]["image"] = str(path.rename(path.with_name("img0001.Nii.Gz")))
    with pytest.raises(DatasetError, match="the ending of its name has capitals"):
        check_dataset(good, SPACING)


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
    monkeypatch.setattr(checks.headers, "stand_in", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(DatasetError, match="1 problem(.|\n)*no permission to read the file"):
        check_dataset(good, SPACING)


IGNORE = LabelMap("", ((0, 0), (1, 1), (2, 2), (255, 255)))


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


def test_label_maps_are_no_scans_of_any_modality(good):
    coarse = (ct(1) + 1000) // 8  # a scan of 19 grey values
    for voxels, refused in ((organs(), True), (organs() > 0, True), (organs() * 100, True), (coarse, False)):
        write(good.training[0]["image"], voxels.astype(np.uint8))
        assert [fault.stops for fault in image_faults(good.training[0]["image"], "MR")] == [True] * refused


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
