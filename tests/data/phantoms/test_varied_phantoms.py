"""Phantoms that vary more: reproducible, within their ranges, and labelled where their voxels are."""

import nibabel
import numpy as np
import pytest

from swinunetr.data.phantoms import make_phantom, varied
from swinunetr.data.phantoms.patient import CODE
from swinunetr.data.phantoms.varied import (
    LESIONS,
    add_lesions,
    draw_hu,
    draw_scanner,
    main,
    make_varied_phantom,
    posture,
)

LIVER, AORTA = 6, 8


@pytest.fixture(scope="module")
def cases():
    return {number: make_varied_phantom(number) for number in (3, 4, 7)}


def spacing(phantom) -> np.ndarray:
    return nibabel.affines.voxel_sizes(phantom.affine)


def test_same_arguments_give_the_same_case(cases):
    again = make_varied_phantom(4)
    assert all(np.array_equal(one, other) for one, other in zip(cases[4], again, strict=True))
    assert not np.array_equal(make_varied_phantom(4, seed=1).image[:9, :9, :9], again.image[:9, :9, :9])


def test_labels_lie_on_voxels_of_their_tissue(cases):
    for phantom in cases.values():
        assert phantom.image.shape == phantom.label.shape and phantom.image.dtype == np.int16
        assert phantom.label.max() == 13 and len(np.unique(phantom.label)) >= 11
        inside = phantom.image[phantom.label == LIVER]
        assert -20 < np.median(inside) < 180 and np.median(phantom.image[phantom.label == 0]) < -500
        litres = (phantom.label == LIVER).sum() * np.prod(spacing(phantom)) / 1e6
        assert 0.6 < litres < 2.8


def test_slices_fields_and_noise_vary_in_their_ranges():
    scanners = [draw_scanner("demo", np.random.default_rng(n)) for n in range(60)]
    thickness = np.array([scanner.slice_mm for scanner in scanners])
    assert 1 <= thickness.min() < 1.5 and 4.5 < thickness.max() <= 5
    lengths = np.array([np.ptp(scanner.axes[2]) for scanner in scanners])
    assert lengths.min() > 165 and lengths.max() < 375
    noise = np.array([scanner.noise_hu for scanner in scanners])
    assert noise.max() > 3 * noise.min()


def test_slice_thickness_is_that_of_the_affine():
    scanner = draw_scanner("demo", np.random.default_rng([0, 4, 4]))
    assert spacing(make_varied_phantom(4)).max() == pytest.approx(max(scanner.slice_mm, np.diff(scanner.axes[0])[0]))


def test_contrast_follows_the_phase(monkeypatch):
    aorta = {}
    for number, phase in enumerate(varied.PHASES):
        monkeypatch.setattr(varied, "PHASE_SHARES", np.eye(4)[number])
        drawn = np.array([draw_hu(np.random.default_rng(n)) for n in range(40)])
        aorta[phase] = drawn[:, CODE["aorta"]]
        if phase == "arterial":  # arteries and spleen first, the portal vein later
            assert (drawn[:, CODE["aorta"]] > drawn[:, CODE["portal vein"]]).all()
    assert np.abs(aorta["unenhanced"] - 42).max() < 25 and aorta["arterial"].mean() > 200
    assert 80 < aorta["delayed"].mean() < aorta["portal-venous"].mean() < aorta["arterial"].mean()


def test_lesions_change_the_image_only_within_their_organ():
    image, label = np.zeros((40, 40, 40), np.float32), np.zeros((40, 40, 40), np.uint8)
    label[10:30, 10:30, 10:30] = LIVER
    for seed in range(20):
        add_lesions(image, label, (3, 3, 3), np.random.default_rng(seed))
    low, high = LESIONS[LIVER][2]
    assert image.any() and not image[label == 0].any() and low <= image[image != 0].min() <= image.max() <= high


def test_posture_is_a_rotation_of_at_most_eight_degrees():
    for seed in range(20):
        moved = posture(np.random.default_rng(seed))
        middle = np.linalg.norm(moved, axis=0)
        assert 0 < middle.max() < 3 * np.radians(8) * 300  # mm, at the corners of the box of nodes


def test_the_command_line_writes_them_and_leaves_the_demo_s_alone(tmp_path):
    main([str(tmp_path), "--cases", "7"], make_varied_phantom)
    image = nibabel.load(tmp_path / "imagesTr/img0007.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), make_varied_phantom(7).image)
    assert image.shape != make_phantom(7).image.shape


@pytest.mark.parametrize(("case", "grid", "message"), [(-1, "demo", "case_id"), (1, "coarse", "grid")])
def test_wrong_arguments_are_refused(case, grid, message):
    with pytest.raises(ValueError, match=message):
        make_varied_phantom(case, grid)
