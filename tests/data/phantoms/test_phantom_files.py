"""Files of phantoms: written once, again where the phantoms have changed, and never over files of others."""

import errno
import hashlib
import json
import os
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
from conftest import PROJECT

from swinunetr.data.phantoms import make_phantom, write_phantom, writing
from swinunetr.data.phantoms.acquisition import GRIDS, Grid
from swinunetr.errors import InputError


def test_written_case_is_read_back_unchanged(tmp_path):
    image_path, label_path = (
        tmp_path / "new" / "imagesTr" / "img0001.nii.gz",
        tmp_path / "new" / "labelsTr" / "l.nii.gz",
    )
    write_phantom(1, image_path, label_path)
    phantom = make_phantom(1)
    for path, array in ((image_path, phantom.image), (label_path, phantom.label)):
        nifti = nibabel.load(path)
        assert nifti.get_data_dtype() == array.dtype
        np.testing.assert_array_equal(np.asarray(nifti.dataobj), array)
        for affine, code in (nifti.get_sform(coded=True), nifti.get_qform(coded=True)):
            assert code == 1
            np.testing.assert_allclose(affine, phantom.affine, atol=1e-3)
        assert nifti.header.get_xyzt_units()[0] == "mm"
    assert sorted(os.listdir(image_path.parent)) == ["img0001.nii.gz"]  # no temporary file


def test_without_a_label_path_only_the_image_is_written(tmp_path):
    write_phantom(61, tmp_path / "img0061.nii.gz")
    assert os.listdir(tmp_path) == ["img0061.nii.gz"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "img0001.nii.gz"
    path.write_bytes(b"old")
    monkeypatch.setattr(nibabel, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_phantom(1, path)
    assert path.read_bytes() == b"old"


def test_command_writes_the_layout_of_btcv(tmp_path):
    writing.main([str(tmp_path), "--cases", "1", "2"])
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gz"))
    assert written == [
        f"{folder}{case}.nii.gz" for folder in ("imagesTr/img000", "labelsTr/label000") for case in (1, 2)
    ]


def test_a_list_without_the_organs_of_btcv_raises_input_error(small_data):
    with pytest.raises(InputError, match="found 2 organs.*Set data_root"):
        writing.write_phantoms(small_data[0], small_data[1])


@pytest.fixture
def quick(monkeypatch):
    """Write phantoms of a small grid, and return the ids of the phantoms that are made."""
    made = []
    plain = writing.write_phantom
    monkeypatch.setitem(GRIDS, "demo", Grid((12, 10), (8, 8), (30, 30)))
    monkeypatch.setattr(writing, "write_phantom", lambda case, *args: made.append(case) or plain(case, *args))
    return made


@pytest.fixture
def json_path(tmp_path):
    """Return a list of two training cases and one validation case with the organs of BTCV."""
    content = json.loads((PROJECT / "json_files/btcv_6.json").read_text(encoding="utf-8"))
    content |= {"training": content["training"][:2], "validation": content["validation"][:1]}
    (tmp_path / "list.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "list.json"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of each file."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_maps_of_labels_need_real_label_files(tmp_path):
    content = json.loads((PROJECT / "json_files/btcv_6.json").read_text()) | {"label_maps": {"a": {"3": "spleen"}}}
    content["training"][0]["label_map"] = "a"
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="list.json' has label_maps, .* Set data_root, or remove the maps"):
        writing.write_phantoms(tmp_path / "list.json", tmp_path)


def test_phantoms_of_the_same_version_are_used_again(quick, json_path, tmp_path):
    root = writing.write_phantoms(json_path, tmp_path / "a")
    assert len(quick) == 3 and len(contents(root)) == 7
    before = contents(root)
    assert writing.write_phantoms(json_path, tmp_path / "a") == root
    assert len(quick) == 3 and contents(root) == before
    (root / "labelsTr/label0035.nii.gz").unlink()
    writing.write_phantoms(json_path, root)
    assert quick[3:] == [35] and contents(root).keys() == before.keys()


def test_phantoms_of_another_version_are_made_again(quick, json_path, tmp_path, monkeypatch):
    for write, files in (
        (lambda: writing.write_phantoms(json_path, tmp_path / "a"), 3),
        (lambda: writing.write_unlabelled_phantoms(tmp_path / "b", 2), 2),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(writing, "PHANTOM_VERSION", "another")
            write()
        quick.clear()
        write()
        assert len(quick) == files
        write()
        assert len(quick) == files


def test_files_of_others_are_used_as_they_are(quick, json_path, tmp_path, monkeypatch):
    root = tmp_path / "a"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    theirs = ["imagesTr/img0035.nii.gz", "labelsTr/label0035.nii.gz", "imagesTr/img0001.nii.gz"]  # a label is missing
    for name in theirs:
        (root / name).write_bytes(b"a scan")
    for version in (1, 2):
        monkeypatch.setattr(writing, "PHANTOM_VERSION", version)
        writing.write_phantoms(json_path, root)
        assert all((root / name).read_bytes() == b"a scan" for name in theirs)
    assert quick == [2, 2] and not (root / "labelsTr/label0001.nii.gz").exists()


def test_interrupted_writing_continues(quick, json_path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_nifti", Mock(side_effect=[None, None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            writing.write_phantoms(json_path, tmp_path / "a")
    (tmp_path / "a/imagesTr").mkdir()
    (tmp_path / "a/imagesTr/img0002.nii.gz").write_bytes(b"without a label")  # as after a kill between the two
    writing.write_phantoms(json_path, tmp_path / "a")
    nibabel.load(tmp_path / "a/imagesTr/img0002.nii.gz")
    assert len(contents(tmp_path / "a")) == 7


@pytest.mark.parametrize("note", [b"", b"[]", b"\xff"])
def test_damaged_note_makes_existing_phantoms_files_of_others(quick, json_path, tmp_path, note):
    root = writing.write_phantoms(json_path, tmp_path / "a")
    (root / "phantoms.json").write_bytes(note)
    writing.write_phantoms(json_path, root)
    assert len(quick) == 3


@pytest.mark.parametrize("write", ["labelled", "unlabelled"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_folder_that_cannot_be_written_to_is_named(quick, json_path, tmp_path, monkeypatch, write, number):
    """Tests run as root, who may write everywhere: the errors are raised in place of the operating system."""
    monkeypatch.setattr(nibabel, "save", Mock(side_effect=OSError(number, os.strerror(number), "x")))
    with pytest.raises(InputError, match="phantoms cannot be written to '.*/a'.*Make room") as caught:
        if write == "labelled":
            writing.write_phantoms(json_path, tmp_path / "a")
        else:
            writing.write_unlabelled_phantoms(tmp_path / "a", 1)
    assert os.strerror(number) in str(caught.value) and not list((tmp_path / "a").rglob("*.gz"))


def test_file_in_place_of_the_folder_is_named(quick, json_path, tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written to '.*/a'"):
        writing.write_phantoms(json_path, tmp_path / "a")


def test_read_only_folder_with_all_phantoms_is_used(quick, json_path, tmp_path, monkeypatch):
    writing.write_phantoms(json_path, tmp_path / "a")
    for name in ("replacing", "write_json"):
        monkeypatch.setattr(writing, name, Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert writing.write_phantoms(json_path, tmp_path / "a") == tmp_path / "a"


def test_home_folder_is_expanded(quick, json_path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writing.write_phantoms("~/list.json", "~/a") == tmp_path / "a"
    assert writing.write_unlabelled_phantoms("~/b", 1) == tmp_path / "b"
    assert len(contents(tmp_path / "a")) == 7 and len(contents(tmp_path / "b")) == 2


GOLDEN = 1, "b9559e18ecaaa71c"  # version of the phantoms, and hash of the labels of one
GOLDEN_HU = [-415.13, 119.16, 166.86, 166.14, 17.09, 51.95, 103.26, -49.45, 151.83, 121.58, 157.24, 94.3, 74.53, 75.85]


def test_phantoms_change_only_with_their_version(monkeypatch):
    """The intensities are compared by their means, since single voxels can be rounded otherwise on another machine."""
    monkeypatch.setitem(GRIDS, "golden", Grid((150, 110), (24, 24), (2.2, 2.2)))
    image, label, affine = make_phantom(1, "golden")
    digest = hashlib.sha256(label.tobytes() + affine.round(6).tobytes()).hexdigest()[:16]
    hu = [image[label == number].mean() for number in range(14)]
    renew = "the phantoms are others: raise PHANTOM_VERSION and renew the hash and the means here"
    assert (writing.PHANTOM_VERSION, digest) == GOLDEN, renew
    np.testing.assert_allclose(hu, GOLDEN_HU, rtol=0, atol=0.05, err_msg=renew)
    np.testing.assert_allclose(np.abs(np.diff(image.astype(int), axis=0)).mean(), 45.83, atol=0.05, err_msg=renew)
