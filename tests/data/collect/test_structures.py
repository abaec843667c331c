"""Labels of one file per structure: joined they equal an independent join, and no file is made twice or half."""

import nibabel as nib
import numpy as np
import pytest
from nifti_files import affine, ct, write

from swinunetr.data.collect.cases import FoundCase
from swinunetr.data.collect.structures import join_structures
from swinunetr.data.label_maps import IGNORED
from swinunetr.errors import InputError

SHAPE = (16, 14, 12)
LABELS = {"liver": 3, "spleen": 1, "gall": 2, "cyst": IGNORED}


def box(*bounds: int) -> np.ndarray:
    """Return a mask of the voxels from the first to before the second of three pairs of bounds."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[bounds[0] : bounds[1], bounds[2] : bounds[3], bounds[4] : bounds[5]] = 1
    return mask


MASKS = {
    "liver": box(2, 12, 2, 12, 2, 10),
    "spleen": box(10, 15, 2, 6, 2, 6),  # 2 x 4 x 4 voxels in the liver
    "gall": box(4, 6, 4, 6, 4, 6),  # all in the liver
    "cyst": box(1, 4, 2, 4, 2, 4),  # its last two planes in the liver
    "heart": box(0, 16, 0, 14, 0, 12),  # not wanted
}


@pytest.fixture
def case(tmp_path):
    return made(tmp_path, MASKS)


def made(folder, masks, **changes) -> FoundCase:
    folder = folder / "s0001"
    (folder / "segmentations").mkdir(parents=True)
    write(str(folder / "ct.nii.gz"), ct(shape=SHAPE), affine(x3=5, y3=-7), qform_code=1)
    structures = {}
    for name, mask in masks.items():
        structures[name] = folder / "segmentations" / f"{name}.nii.gz"
        write(str(structures[name]), mask, changes.get(name, affine(x3=5, y3=-7)))
    return FoundCase("s0001", "s0001", folder / "ct.nii.gz", structures=structures)


def test_joined_voxels_equal_an_independent_join(case, tmp_path):
    joined = join_structures(case, LABELS, tmp_path / "labels")
    label = nib.load(joined.path)
    expected = np.zeros(SHAPE)
    for name in ("cyst", "liver", "spleen", "gall"):  # from the largest organ to the smallest
        expected = np.where(MASKS[name] == 1, LABELS[name], expected)
    assert np.array_equal(np.asarray(label.dataobj), expected) and label.get_data_dtype() == np.uint8
    assert joined.path == tmp_path / "labels" / "s0001.nii.gz" and joined.faults == ()
    image = nib.load(case.image)
    assert label.shape == SHAPE and np.array_equal(label.affine, image.affine)
    for form in ("get_qform", "get_sform"):
        assert getattr(label.header, form)(coded=True)[1] == getattr(image.header, form)(coded=True)[1]


def test_overlaps_are_counted_between_organs(case, tmp_path):
    joined = join_structures(case, LABELS, tmp_path)
    assert joined.overlaps == {("liver", "spleen"): 32, ("liver", "gall"): 8}
    assert joined.voxels == {"liver": 800, "spleen": 80, "gall": 8, "cyst": 12}
    assert join_structures(case, LABELS, tmp_path) == joined  # also where it was made earlier


def test_parts_of_one_class_are_joined(case, tmp_path):
    joined = join_structures(case, {"liver": 1, "gall": 1, "spleen": 2}, tmp_path)
    voxels = np.asarray(nib.load(joined.path).dataobj)
    assert np.count_nonzero(voxels == 1) == 800 - 32 and joined.overlaps == {("liver", "spleen"): 32}


def test_masks_of_255_of_floats_and_empty_ones_are_read(tmp_path):
    masks = {"liver": MASKS["liver"] * 255, "spleen": MASKS["spleen"].astype(np.float64), "gall": box(0, 0, 0, 0, 0, 0)}
    joined = join_structures(made(tmp_path, masks), LABELS, tmp_path / "labels")
    assert joined.voxels == {"liver": 800, "spleen": 80, "gall": 0}
    assert set(np.unique(nib.load(joined.path).dataobj)) == {0, 1, 3}


def test_a_joined_file_is_made_again_only_if_its_inputs_changed(case, tmp_path):
    path = join_structures(case, LABELS, tmp_path).path
    made_first = path.stat().st_mtime_ns
    content = case.structures["gall"].read_bytes()
    case.structures["gall"].write_bytes(content)  # a new time, the same content
    join_structures(case, LABELS, tmp_path)
    assert path.stat().st_mtime_ns == made_first
    write(str(case.structures["gall"]), box(4, 6, 4, 6, 4, 7), affine(x3=5, y3=-7))
    assert join_structures(case, LABELS, tmp_path).voxels["gall"] == 12
    assert np.count_nonzero(np.asarray(nib.load(path).dataobj) == LABELS["gall"]) == 12
    join_structures(case, LABELS | {"gall": 7}, tmp_path)
    assert np.count_nonzero(np.asarray(nib.load(path).dataobj) == 7) == 12


def test_a_damaged_joined_file_is_made_again(case, tmp_path):
    path = join_structures(case, LABELS, tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert join_structures(case, LABELS, tmp_path).voxels["liver"] == 800 and path.read_bytes() == content


@pytest.mark.parametrize("keeps_note", [True, False])
def test_a_label_that_was_changed_by_hand_is_not_replaced(case, tmp_path, keeps_note):
    path = join_structures(case, LABELS, tmp_path).path
    label = nib.load(path)
    if keeps_note:
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), label.affine, label.header), path)
    else:
        write(str(path), MASKS["liver"])
    content = path.read_bytes()
    with pytest.raises(InputError, match="'s0001.nii.gz' was not, or it was changed since"):
        join_structures(case, LABELS, tmp_path)
    assert path.read_bytes() == content


def test_every_faulty_file_of_a_case_is_named_and_nothing_is_written(tmp_path):
    case = made(tmp_path, MASKS, liver=affine(x3=8, y3=-7))
    write(str(case.structures["spleen"]), MASKS["spleen"][1:], affine(x3=5, y3=-7))
    case.structures["gall"].write_bytes(b"")
    faults = dict(join_structures(case, LABELS, tmp_path / "labels").faults)
    assert {file.name: fault.what for file, fault in faults.items()} == {
        "liver.nii.gz": "affine differs from its image's: corners up to 3 mm apart",
        "spleen.nii.gz": "shape 15 x 14 x 12, its image has 16 x 14 x 12",
        "gall.nii.gz": "an empty file, not a scan",
    }
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 7), (0, 0.5, 1)])
def test_a_file_that_is_no_mask_is_named(tmp_path, values):
    voxels = np.resize(np.array(values, np.float32), SHAPE)
    case = made(tmp_path, MASKS | {"spleen": voxels})
    ((file, fault),) = join_structures(case, LABELS, tmp_path / "labels").faults
    assert file.name == "spleen.nii.gz" and "expected 0 and 1, or 0 and 255" in fault.what
    assert not (tmp_path / "labels").exists()


def test_a_truncated_structure_is_named(case, tmp_path):
    file = case.structures["liver"]
    file.write_bytes(file.read_bytes()[:-20])
    ((faulty, fault),) = join_structures(case, LABELS, tmp_path / "labels").faults
    assert faulty == file and "truncated" in fault.what
