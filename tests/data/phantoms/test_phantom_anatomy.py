"""Synthetic CT: anatomy, geometry and CT numbers."""

import nibabel
import numpy as np
import pytest

from swinunetr.data.phantoms import Phantom, acquisition, make_phantom
from swinunetr.data.phantoms.acquisition import GRIDS, Grid
from swinunetr.data.phantoms.anatomy import Canvas, capsule, smooth_field
from swinunetr.data.phantoms.patient import CODE, draw_patient

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
        x, y, z = acquisition.draw_axes(GRIDS["full"], np.random.default_rng(seed))
        assert len(x) == len(y) == 512 and 140 <= len(z) <= 160
        assert 0.7 <= x[1] - x[0] <= 0.85 and 1.7 <= z[1] - z[0] <= 2.1


def test_affine_follows_the_orientation_code():
    axes = [np.arange(4.0), np.arange(5.0) * 2, np.arange(6.0) * 3]  # voxels of 1 x 2 x 3 mm
    las = acquisition.make_affine(axes, np.zeros(3), "LAS")
    np.testing.assert_array_equal(las, [[-1, 0, 0, 3], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    pir = acquisition.make_affine(axes, np.zeros(3), "PIR")
    np.testing.assert_array_equal(pir, [[0, 0, 1, 0], [-2, 0, 0, 8], [0, -3, 0, 15], [0, 0, 0, 1]])


def test_cases_differ_in_orientation_and_spacing(cases):
    codes = {"".join(nibabel.aff2axcodes(phantom.affine)) for phantom in cases.values()}
    spacings = {tuple(nibabel.affines.voxel_sizes(phantom.affine).round(3)) for phantom in cases.values()}
    assert len(codes) >= 3 and len(spacings) == len(cases)


def test_orient_agrees_with_nibabel():
    array = np.arange(24).reshape(2, 3, 4)
    for code in acquisition.ORIENTATIONS:
        transform = nibabel.orientations.axcodes2ornt(code)
        back = nibabel.orientations.apply_orientation(acquisition.orient(array, code), transform)
        np.testing.assert_array_equal(back, array)


def test_capsule_distance_is_zero_on_its_surface():
    start, end = np.array([0.0, 0, 0, 5]), np.array([10.0, 0, 0, 5])
    x = np.array([5.0, 5, 15, -8])
    y = np.array([0.0, 5, 0, 0])
    np.testing.assert_allclose(capsule(x, y, np.zeros(4), start, end), [-5, 0, 0, 3])


def test_smooth_field_of_a_constant_is_constant():
    axes = [np.linspace(0, 10, n) for n in (4, 5, 6)]
    field = smooth_field(np.full((2, 3, 3, 3), 7.0), axes, (0, 0, 0), (10, 10, 10))
    assert field.shape == (2, 4, 5, 6)
    np.testing.assert_allclose(field, 7, rtol=1e-6)


def test_a_later_part_covers_an_earlier_one():
    patient = draw_patient(np.random.default_rng(0))
    axes = acquisition.draw_axes(GRIDS["demo"], np.random.default_rng(0))
    canvas = Canvas(patient, axes)
    canvas.add_tube("fat", [(0, 0, 100, 30), (0, 0, 140, 30)])
    before = np.count_nonzero(canvas.tissue == CODE["fat"])
    canvas.add_tube("liver", [(0, 0, 100, 15), (0, 0, 140, 15)])
    liver = np.count_nonzero(canvas.tissue == CODE["liver"])
    assert liver > 0 and np.count_nonzero(canvas.tissue == CODE["fat"]) == before - liver


def test_unknown_grid_raises_value_error():
    with pytest.raises(ValueError, match=r"\['demo', 'full'\].*'tiny'"):
        make_phantom(1, grid="tiny")


def test_negative_case_id_raises_value_error():
    with pytest.raises(ValueError, match="0 or more, found -1"):
        make_phantom(-1)
