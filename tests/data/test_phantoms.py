"""Synthetic CT: anatomy, geometry, CT numbers and files."""

import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
from conftest import PROJECT

from swinunetr.data import phantoms
from swinunetr.data.phantoms import CODE, GRIDS, ORGAN_VOLUMES_ML, Grid, Phantom, make_phantom, write_phantom
from swinunetr.errors import InputError

ORGANS = [  # BTCV ids 1 to 13
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
]
IDS = {name: label for label, name in enumerate(ORGANS, start=1)}
VALIDATION = range(35, 41)


@pytest.fixture(scope="module")
def cases() -> dict[int, Phantom]:
    return {case_id: make_phantom(case_id) for case_id in VALIDATION}


def volumes_ml(phantom: Phantom) -> np.ndarray:
    voxel_mm3 = abs(np.linalg.det(phantom.affine[:3, :3]))
    return np.bincount(phantom.label.ravel(), minlength=14)[1:] * voxel_mm3 / 1000


def middle_mm(phantom: Phantom, organ: str) -> np.ndarray:
    voxels = np.argwhere(phantom.label == IDS[organ])
    return nibabel.affines.apply_affine(phantom.affine, voxels.mean(axis=0))


def test_same_arguments_give_the_same_case():
    first, second = make_phantom(3), make_phantom(3)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.affine, second.affine)


@pytest.mark.parametrize("other", [{"case_id": 4}, {"case_id": 3, "seed": 1}])
def test_another_id_or_seed_gives_another_patient(other):
    assert np.abs(volumes_ml(make_phantom(3)) - volumes_ml(make_phantom(**other))).max() > 5


def test_arrays_are_int16_and_uint8_with_labels_up_to_13(cases):
    for image, label, affine in cases.values():
        assert (image.dtype, label.dtype, affine.dtype) == (np.int16, np.uint8, np.float64)
        assert image.shape == label.shape
        np.testing.assert_array_equal(np.unique(label), np.arange(14))
        assert image.min() >= -1024


def test_reference_volumes_name_each_organ_once():
    assert sorted(ORGAN_VOLUMES_ML) == sorted(ORGANS)


def test_organ_volumes_are_close_to_the_reference(cases):
    reference = np.array([ORGAN_VOLUMES_ML[organ] for organ in ORGANS])
    for phantom in cases.values():
        ratio = volumes_ml(phantom) / reference
        assert ratio.min() > 0.5 and ratio.max() < 1.8, dict(zip(ORGANS, ratio.round(2), strict=True))
        assert volumes_ml(phantom).argmax() + 1 == IDS["liver"]


def test_left_and_right_are_correct_in_every_orientation(cases):
    for phantom in cases.values():
        x = {organ: middle_mm(phantom, organ)[0] for organ in ORGANS}  # RAS+: x increases to the right
        for right in ("liver", "right kidney", "gallbladder"):
            for left in ("spleen", "stomach", "left kidney"):
                assert x[right] > x[left] + 20
        assert x["inferior vena cava"] > x["aorta"] + 10
        assert x["right adrenal gland"] > x["left adrenal gland"] + 20


def test_organs_have_their_anatomical_neighbours(cases):
    for phantom in cases.values():
        for side in ("right", "left"):
            adrenal, kidney = middle_mm(phantom, f"{side} adrenal gland"), middle_mm(phantom, f"{side} kidney")
            assert adrenal[2] > kidney[2] + 20  # superior
            assert adrenal[1] > kidney[1]  # anterior
        assert middle_mm(phantom, "esophagus")[2] > middle_mm(phantom, "pancreas")[2] + 50
        assert middle_mm(phantom, "pancreas")[1] > middle_mm(phantom, "left kidney")[1] + 20


def test_canonical_reorientation_puts_the_liver_on_the_right(cases):
    for phantom in cases.values():
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(phantom.label, phantom.affine))
        label = np.asarray(canonical.dataobj)
        assert np.argwhere(label == IDS["liver"]).mean(axis=0)[0] > np.argwhere(label == IDS["spleen"]).mean(axis=0)[0]


def test_hu_values_are_those_of_the_portal_venous_phase(cases):
    for phantom in cases.values():
        hu = {organ: phantom.image[phantom.label == IDS[organ]].mean() for organ in ORGANS}
        assert -10 < hu["gallbladder"] < 40 < hu["pancreas"] < hu["liver"] < hu["spleen"]
        assert 80 < hu["liver"] < hu["aorta"] < 180
        background = phantom.image[phantom.label == 0]
        fat = background[(background > -150) & (background < -50)]
        assert len(fat) > 0.05 * background.size
        assert np.mean((background > -900) & (background < -700)) > 0.01  # lung
        assert np.mean(background < -950) > 0.2  # air
        assert np.mean(background > 250) > 0.002  # bone


def test_mean_hu_differs_between_cases(cases):
    liver = [phantom.image[phantom.label == IDS["liver"]].mean() for phantom in cases.values()]
    assert np.std(liver) > 1


def test_a_finer_grid_shows_the_same_patient(monkeypatch):
    monkeypatch.setitem(GRIDS, "fine", Grid((256, 256), (75, 75), (1.6, 1.6)))  # coarser than full, for speed
    demo, fine = make_phantom(36), make_phantom(36, "fine")
    np.testing.assert_allclose(volumes_ml(demo), volumes_ml(fine), rtol=0.1)
    for organ in ORGANS:
        np.testing.assert_allclose(middle_mm(demo, organ), middle_mm(fine, organ), atol=3)


def test_full_grid_has_the_size_of_btcv():
    for seed in range(5):
        x, y, z = phantoms.draw_axes(GRIDS["full"], np.random.default_rng(seed))
        assert len(x) == len(y) == 512 and 140 <= len(z) <= 160
        assert 0.7 <= x[1] - x[0] <= 0.85 and 1.7 <= z[1] - z[0] <= 2.1


def test_affine_follows_the_orientation_code():
    axes = [np.arange(4.0), np.arange(5.0) * 2, np.arange(6.0) * 3]  # voxels of 1 x 2 x 3 mm
    las = phantoms.make_affine(axes, np.zeros(3), "LAS")
    np.testing.assert_array_equal(las, [[-1, 0, 0, 3], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    pir = phantoms.make_affine(axes, np.zeros(3), "PIR")
    np.testing.assert_array_equal(pir, [[0, 0, 1, 0], [-2, 0, 0, 8], [0, -3, 0, 15], [0, 0, 0, 1]])


def test_cases_differ_in_orientation_and_spacing(cases):
    codes = {"".join(nibabel.aff2axcodes(phantom.affine)) for phantom in cases.values()}
    spacings = {tuple(nibabel.affines.voxel_sizes(phantom.affine).round(3)) for phantom in cases.values()}
    assert len(codes) >= 3 and len(spacings) == len(cases)


def test_orient_agrees_with_nibabel():
    array = np.arange(24).reshape(2, 3, 4)
    for code in phantoms.ORIENTATIONS:
        transform = nibabel.orientations.axcodes2ornt(code)
        back = nibabel.orientations.apply_orientation(phantoms.orient(array, code), transform)
        np.testing.assert_array_equal(back, array)


def test_capsule_distance_is_zero_on_its_surface():
    start, end = np.array([0.0, 0, 0, 5]), np.array([10.0, 0, 0, 5])
    x = np.array([5.0, 5, 15, -8])
    y = np.array([0.0, 5, 0, 0])
    np.testing.assert_allclose(phantoms.capsule(x, y, np.zeros(4), start, end), [-5, 0, 0, 3])


def test_smooth_field_of_a_constant_is_constant():
    axes = [np.linspace(0, 10, n) for n in (4, 5, 6)]
    field = phantoms.smooth_field(np.full((2, 3, 3, 3), 7.0), axes, (0, 0, 0), (10, 10, 10))
    assert field.shape == (2, 4, 5, 6)
    np.testing.assert_allclose(field, 7, rtol=1e-6)


def test_a_later_part_covers_an_earlier_one():
    patient = phantoms.draw_patient(np.random.default_rng(0))
    axes = phantoms.draw_axes(GRIDS["demo"], np.random.default_rng(0))
    canvas = phantoms.Canvas(patient, axes)
    canvas.add_tube("fat", [(0, 0, 100, 30), (0, 0, 140, 30)])
    before = np.count_nonzero(canvas.tissue == CODE["fat"])
    canvas.add_tube("liver", [(0, 0, 100, 15), (0, 0, 140, 15)])
    liver = np.count_nonzero(canvas.tissue == CODE["liver"])
    assert liver > 0 and np.count_nonzero(canvas.tissue == CODE["fat"]) == before - liver


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
    phantoms.main([str(tmp_path), "--cases", "1", "2"])
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gz"))
    assert written == [
        f"{folder}{case}.nii.gz" for folder in ("imagesTr/img000", "labelsTr/label000") for case in (1, 2)
    ]


def test_unknown_grid_raises_value_error():
    with pytest.raises(ValueError, match=r"\['demo', 'full'\].*'tiny'"):
        make_phantom(1, grid="tiny")


def test_negative_case_id_raises_value_error():
    with pytest.raises(ValueError, match="0 or more, found -1"):
        make_phantom(-1)


def test_a_list_without_the_organs_of_btcv_raises_input_error(small_data):
    with pytest.raises(InputError, match="found 2 organs.*Set data_root"):
        phantoms.write_phantoms(small_data[0], small_data[1])


@pytest.fixture
def quick(monkeypatch):
    """Write phantoms of a small grid, and return the ids of the phantoms that are made."""
    made = []
    plain = phantoms.make_phantom
    monkeypatch.setitem(GRIDS, "demo", Grid((12, 10), (8, 8), (30, 30)))
    monkeypatch.setattr(phantoms, "make_phantom", lambda case, *args: made.append(case) or plain(case, *args))
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
        phantoms.write_phantoms(tmp_path / "list.json", tmp_path)


def test_phantoms_of_the_same_code_are_used_again(quick, json_path, tmp_path):
    root = phantoms.write_phantoms(json_path, tmp_path / "a")
    assert len(quick) == 3 and len(contents(root)) == 7
    before = contents(root)
    assert phantoms.write_phantoms(json_path, tmp_path / "a") == root
    assert len(quick) == 3 and contents(root) == before
    (root / "labelsTr/label0035.nii.gz").unlink()
    phantoms.write_phantoms(json_path, root)
    assert quick[3:] == [35] and contents(root).keys() == before.keys()


def test_phantoms_of_other_code_are_made_again(quick, json_path, tmp_path, monkeypatch):
    for write, files in (
        (lambda: phantoms.write_phantoms(json_path, tmp_path / "a"), 3),
        (lambda: phantoms.write_unlabelled_phantoms(tmp_path / "b", 2), 2),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(phantoms, "_code_hash", lambda: "of other code")
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
    for code in ("first", "second"):
        monkeypatch.setattr(phantoms, "_code_hash", lambda code=code: code)
        phantoms.write_phantoms(json_path, root)
        assert all((root / name).read_bytes() == b"a scan" for name in theirs)
    assert quick == [2, 2] and not (root / "labelsTr/label0001.nii.gz").exists()


def test_interrupted_writing_continues(quick, json_path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(phantoms, "write_nifti", Mock(side_effect=[None, None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            phantoms.write_phantoms(json_path, tmp_path / "a")
    (tmp_path / "a/imagesTr").mkdir()
    (tmp_path / "a/imagesTr/img0002.nii.gz").write_bytes(b"without a label")  # as after a kill between the two
    phantoms.write_phantoms(json_path, tmp_path / "a")
    nibabel.load(tmp_path / "a/imagesTr/img0002.nii.gz")
    assert len(contents(tmp_path / "a")) == 7


@pytest.mark.parametrize("note", [b"", b"[]", b"\xff"])
def test_damaged_note_makes_existing_phantoms_files_of_others(quick, json_path, tmp_path, note):
    root = phantoms.write_phantoms(json_path, tmp_path / "a")
    (root / "phantoms.json").write_bytes(note)
    phantoms.write_phantoms(json_path, root)
    assert len(quick) == 3


def test_hash_of_the_code_ignores_comments_and_docstrings(tmp_path, monkeypatch):
    source = Path(phantoms.__file__).read_text(encoding="utf-8")
    copy = tmp_path / "phantoms.py"
    monkeypatch.setattr(phantoms, "__file__", str(copy))

    def code_hash(old: str, new: str) -> str:
        assert old in source
        copy.write_text(source.replace(old, new), encoding="utf-8")
        return phantoms._code_hash()

    same = code_hash("", "")
    assert code_hash("PSF_MM = 0.8", "PSF_MM = 0.80  # mm") == same
    assert code_hash('"""Return one case; ', '"""Return a case; ') == same
    assert code_hash("PSF_MM = 0.8", "PSF_MM = 0.9") != same


@pytest.mark.parametrize("write", ["labelled", "unlabelled"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_folder_that_cannot_be_written_to_is_named(quick, json_path, tmp_path, monkeypatch, write, number):
    """Tests run as root, who may write everywhere: the errors are raised in place of the operating system."""
    monkeypatch.setattr(nibabel, "save", Mock(side_effect=OSError(number, os.strerror(number), "x")))
    with pytest.raises(InputError, match="phantoms cannot be written to '.*/a'.*Make room") as caught:
        if write == "labelled":
            phantoms.write_phantoms(json_path, tmp_path / "a")
        else:
            phantoms.write_unlabelled_phantoms(tmp_path / "a", 1)
    assert os.strerror(number) in str(caught.value) and not list((tmp_path / "a").rglob("*.gz"))


def test_file_in_place_of_the_folder_is_named(quick, json_path, tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written to '.*/a'"):
        phantoms.write_phantoms(json_path, tmp_path / "a")


def test_read_only_folder_with_all_phantoms_is_used(quick, json_path, tmp_path, monkeypatch):
    phantoms.write_phantoms(json_path, tmp_path / "a")
    monkeypatch.setattr(phantoms, "replacing", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert phantoms.write_phantoms(json_path, tmp_path / "a") == tmp_path / "a"


def test_home_folder_is_expanded(quick, json_path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert phantoms.write_phantoms("~/list.json", "~/a") == tmp_path / "a"
    assert phantoms.write_unlabelled_phantoms("~/b", 1) == tmp_path / "b"
    assert len(contents(tmp_path / "a")) == 7 and len(contents(tmp_path / "b")) == 2
