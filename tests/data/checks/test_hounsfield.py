"""CT in Hounsfield units is accepted, whatever was cropped, clipped or padded; other intensities are refused."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import zoom

from swinunetr.data.checks.hounsfield import histogram, hounsfield_faults

SHAPE = (48, 44, 40)
X, Y, Z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
RADIUS = np.sqrt(X**2 + Y**2)
BALL = np.sqrt(X**2 + Y**2 + Z**2)
OUTSIDE = np.hypot(X, Y) > 1.15  # of the circle that a scanner reconstructs


def layers(radius: np.ndarray, *shells: tuple[float, float], noise: float = 15) -> np.ndarray:
    """Return a volume of air with shells of an outer radius and an intensity in HU, from the outermost to the core."""
    voxels = np.full(SHAPE, -1000.0)
    for size, hu in shells:
        voxels[radius < size] = hu
    return (voxels + np.random.default_rng(0).normal(0, noise, SHAPE)).clip(-1024).astype(np.int16)


@cache
def body(part: str = "abdomen") -> np.ndarray:
    """Return a part of the body in air, int16."""
    return {
        "abdomen": lambda: layers(RADIUS, (1, -100), (0.85, 50), (0.6, -90), (0.55, 110), (0.2, 350), (0.12, 40)),
        "chest": lambda: layers(RADIUS, (1, -100), (0.9, 50), (0.8, -850), (0.25, 150), noise=40),
        "head": lambda: layers(BALL, (1, -90), (0.95, 1200), (0.92, 600), (0.88, 1300), (0.85, 30)),
        "limb": lambda: layers(RADIUS, (0.4, -100), (0.35, 50), (0.15, 1100), (0.1, -50)),
    }[part]()


def padded(voxels: np.ndarray, value: float) -> np.ndarray:
    return np.where(OUTSIDE, value, voxels)


def with_metal(voxels: np.ndarray, value: float, number: int = 1) -> np.ndarray:
    voxels = voxels.astype(np.float64)
    voxels.reshape(-1)[np.linspace(0, voxels.size - 1, number).astype(int)] = value
    return voxels


def inside(voxels: np.ndarray) -> np.ndarray:
    """Return the part without air around the body."""
    return voxels[12:36, 12:32]


def interpolated(voxels: np.ndarray) -> np.ndarray:
    return zoom(voxels.astype(np.float32), 0.9, order=3)


ACCEPTED = {  # volume, and whether there is a warning
    "abdomen": (body(), ""),
    "chest": (body("chest"), ""),
    "head": (body("head"), ""),
    "limb": (body("limb"), ""),
    "cropped": (inside(body()), "no air"),
    "clipped to the body window": (body().clip(-175, 250), "no air"),
    "clipped to soft tissue": (body().clip(-100, 240), "no air"),
    "cropped and clipped": (inside(body()).clip(-175, 250), "no air"),
    "clipped to 12 bits": (body().clip(-1024, 3071), ""),
    "clipped to a thousand": (body("head").clip(-1000, 1000), ""),
    "pad of -1024": (padded(body(), -1024), ""),
    "pad of -2000": (padded(body(), -2000), ""),
    "pad of -2048 in a chest": (padded(body("chest"), -2048), ""),
    "pad of -3024": (padded(body(), -3024), ""),
    "pad that was interpolated": (interpolated(padded(body(), -3024)), ""),
    "smallest pad": (padded(body(), -32_768), "unusual for HU"),
    "half the values": (body() / 2, "no air near -1000"),
    "twice the values": (body() * 2, "no air near -1000"),
    "clipped at -500": (body().clip(-500), "no air near -1000"),
    "padded with 0": (padded(body(), 0), "exactly 0 HU, which is water"),
    "a clip at 3071": (with_metal(body(), 3071, 30), ""),
    "metal on an extended scale": (with_metal(body(), 30_710, 30), ""),
    "one voxel at 40 000": (with_metal(body(), 40_000), "unusual for HU"),
    "noise of a low dose": (body() + np.random.default_rng(1).normal(0, 60, SHAPE), ""),
    "big-endian": (body().astype(">i2"), ""),
}

RAW, TWICE = "apply the rescale intercept", "not twice"
REFUSED = {
    "raw": (body() + 1024, RAW),
    "raw with a pad of -2000": (padded(body() + 1024, -2000), RAW),
    "raw with a pad of -1024": (padded(body() + 1024, -1024), RAW),
    "raw with a pad of -32768": (padded(body() + 1024, -32_768), RAW),
    "raw with pad and metal": (with_metal(padded(body() + 1024, -2000), 30_000), RAW),
    "raw with air below 0": (body() + 960, RAW),
    "raw chest with pad": (padded(body("chest") + 1024, -2000), RAW),
    "raw head with pad": (padded(body("head") + 1024, -2000), RAW),
    "raw and cropped": (inside(body()) + 1024, RAW),
    "twice": (body() - 1024, ""),
    "twice with one voxel of metal": (with_metal(body() - 1024, 2047), TWICE),
    "twice and cropped, with metal": (with_metal(inside(body()) - 1024, 2047), TWICE),
    "twice with pad": (with_metal(padded(body() - 1024, -3024), 2047), TWICE),
    "twice chest": (with_metal(body("chest") - 1024, 3000), TWICE),
    "twice head": (with_metal(body("head") - 1024, 2047), TWICE),
    "unsigned": (body().astype(np.uint16), "signed numbers"),
    "unsigned pad": (padded(body().astype(np.int32), 63_536), "signed numbers"),
    "unsigned pad, raw": (padded(body().astype(np.int32) + 1024, 63_536), "signed numbers"),
    "unsigned of 12 bits": (body().astype(np.int32) % 4096, ""),
    "offset by 32768": (body().astype(np.int32) + 32_768, ""),
    "iodine map": (((body() - 20) / 25).clip(-2, 30) * 10, "correct the modality"),
    "MR": ((body() + 1000) // 3, "correct the modality"),
    "MR, slightly negative": ((body() + 1000) * 0.6 - 20, "correct the modality"),
    "MR with noise around 0": (abs(body() + 1000) * 0.4 + np.random.default_rng(1).normal(0, 15, SHAPE), "modality"),
    "MR, interpolated": (interpolated(np.where(body() > -500, (body() + 300) * 1.5, 0)), "correct the modality"),
    "tenth, with metal": (with_metal(body() / 10, 3000), "correct the modality"),
    "8 bits, with metal": (with_metal((body().clip(-160, 240) + 160) * 0.6 - 1, 3000), "correct the modality"),
    "z-scores, with an outlier": (with_metal((body() + 400) / 500, 400), "correct the modality"),
    "padding alone": (np.where(OUTSIDE, -2000, -3024), "all voxels are padding"),
}


@pytest.mark.parametrize(("voxels", "warning"), ACCEPTED.values(), ids=ACCEPTED)
def test_ct_is_accepted(voxels, warning):
    faults = hounsfield_faults(histogram(voxels))
    assert not any(fault.stops for fault in faults), faults
    assert len(faults) == bool(warning) and all(warning in fault.what for fault in faults)


@pytest.mark.parametrize(("voxels", "remedy"), REFUSED.values(), ids=REFUSED)
def test_other_intensities_are_refused(voxels, remedy):
    (fault,) = hounsfield_faults(histogram(voxels))
    assert fault.stops and remedy in f"{fault.what}; {fault.remedy}"


def test_known_padding_is_left_out():
    iodine = ((body() - 20) / 25).clip(-2, 30) * 10  # with a pad of -1024 it has something like air
    found = histogram(padded(iodine, -1024))
    assert not any(fault.stops for fault in hounsfield_faults(found))
    assert hounsfield_faults(found, padding=[-1024])[0].stops


def test_voxels_are_counted_by_intensity():
    voxels = np.array([[-2, 0], [300, 300]], np.int16)
    for stored, slope, inter in ((voxels, 1, 0), (voxels.astype(np.float32), 1, 0), (2 * voxels + 8, 0.5, -4)):
        found = histogram(stored.reshape(2, 2, 1), slope, inter)
        assert found.values.tolist() == [-2, 0, 300] and found.counts.tolist() == [1, 1, 2]
    found = histogram(-voxels, -1.0, 0.0)
    assert found.values.tolist() == [-2, 0, 300]
    assert histogram(np.array([0.1, 0.1, 0.2])).counts.tolist() == [2, 1]


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", ">u2", "i4", "f4", ">f8"])
def test_every_data_type_is_counted_alike(dtype):
    voxels = np.random.default_rng(0).integers(0, 100, (6, 7, 8)).astype(dtype)
    expected = np.unique(voxels, return_counts=True)
    for stored in (voxels, np.asfortranarray(voxels), voxels.transpose(1, 2, 0)[::-1]):
        found = histogram(stored)
        np.testing.assert_allclose(found.values, expected[0], atol=1e-3)
        np.testing.assert_array_equal(found.counts, expected[1])
    assert histogram(np.full((2, 2, 2), 7, dtype)).values.tolist() == [7]
