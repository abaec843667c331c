"""Synthetic abdominal CT that varies far more than the demo's: patients, contrast phases, scanners, fields of view.

They are for measuring: the anatomy is that of :mod:`swinunetr.data.phantoms`, from wider ranges. Run from the project's
root to write cases in the layout of BTCV:
    .venv/bin/python -m swinunetr.data.phantoms.varied data/varied --cases 1 2 3
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from swinunetr.data.phantoms.acquisition import (
    FIELD_MIDDLE_MM,
    GRIDS,
    Phantom,
    acquire,
    draw_position,
    in_scanner,
    labels_of,
    random_streams,
    textured_hu,
)
from swinunetr.data.phantoms.anatomy import make_tissue_map
from swinunetr.data.phantoms.patient import BEND_BOX_MM, CODE, GROUP_SHIFT_MM, SIZED, TISSUES, Patient, draw_small_bowel
from swinunetr.data.phantoms.writing import main

# HU that contrast medium adds, by tissue: unenhanced, late arterial, portal-venous, delayed (some minutes). Typical
# values; those of the portal-venous phase are the demo's. A tissue that is not here takes up as much in every phase.
PHASES = ("unenhanced", "arterial", "portal-venous", "delayed")
PHASE_SHARES = (0.3, 0.2, 0.3, 0.2)
UPTAKE = {
    "aorta": (0, 260, 108, 70),
    "artery": (0, 260, 108, 70),
    "heart": (0, 170, 60, 50),
    "vein": (0, 25, 110, 72),
    "inferior vena cava": (0, 45, 88, 70),
    "hepatic vein": (0, 8, 95, 68),
    "portal vein": (0, 45, 118, 70),
    "liver": (0, 12, 50, 40),
    "spleen": (0, 80, 72, 48),
    "right cortex": (0, 135, 145, 110),
    "left cortex": (0, 135, 145, 110),
    "right medulla": (0, 30, 112, 115),
    "left medulla": (0, 30, 112, 115),
    "renal pelvis": (0, 0, 20, 300),
    "pancreas": (0, 75, 56, 35),
    "right adrenal gland": (0, 50, 54, 35),
    "left adrenal gland": (0, 50, 54, 35),
    "stomach wall": (0, 40, 36, 25),
    "bowel wall": (0, 45, 50, 35),
    "esophagus": (0, 20, 14, 12),
    "muscle": (0, 6, 10, 12),
}
LESIONS = {  # label of the organ: mean number in a patient, largest radius in mm, range of HU
    2: (0.6, 20, (0, 25)),  # cysts of the kidneys
    3: (0.6, 20, (0, 25)),
    6: (1.2, 25, (0, 150)),  # of the liver: cysts, metastases, hypervascular lesions
    1: (0.2, 15, (0, 60)),
    8: (1.0, 3, (300, 900)),  # calcifications of the aortic wall
}
IN_PLANE = (128, 108)  # voxels along x and y of the demo's grid, 20% of them beyond the body


class Scanner(NamedTuple):
    """How a scan is taken."""

    axes: list[np.ndarray]  # coordinates of the voxels in mm
    slice_mm: float  # over which a slice averages
    psf_mm: float
    noise_hu: float
    grain: float  # standard deviation in voxels of the blur of the noise


def make_varied_phantom(case_id: int, grid: str = "demo", seed: int = 0) -> Phantom:
    """Return one case; arguments, result and errors are those of ``make_phantom``.

    An organ can be outside the field of view, or cut off by it.
    """
    patient_rng, scan_rng, noise_rng, lesion_rng = random_streams(case_id, grid, seed, range(3, 7))
    patient, scanner = draw_varied_patient(patient_rng), draw_scanner(grid, scan_rng)
    position = draw_position(scan_rng)
    parts = max(1, round(scanner.slice_mm / 2))  # thinner slices that make up one
    step = scanner.axes[2][1] - scanner.axes[2][0]
    offsets = (np.arange(parts) - (parts - 1) / 2) * step / parts
    fine_axes = [*scanner.axes[:2], (scanner.axes[2][:, None] + offsets).ravel()]
    tissue = make_tissue_map(patient, fine_axes)
    fine_spacing = [axis[1] - axis[0] for axis in fine_axes]
    label = labels_of(tissue)
    image = textured_hu(tissue, patient.hu, fine_spacing, noise_rng)
    add_lesions(image, label, fine_spacing, lesion_rng)
    image = image.reshape(*image.shape[:2], -1, parts).mean(-1)
    label = label[:, :, parts // 2 :: parts]
    spacing = [axis[1] - axis[0] for axis in scanner.axes]
    image = acquire(image, spacing, noise_rng, scanner.psf_mm, (scanner.noise_hu, scanner.noise_hu), scanner.grain)
    return in_scanner(image, label, scanner.axes, position)


def draw_varied_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: body, organs, posture and contrast phase."""
    size = {name: float(np.clip(rng.normal(1, 0.1), 0.75, 1.25)) for name in SIZED}
    size["spleen"] = float(np.clip(rng.lognormal(0, 0.14), 0.8, 1.35))
    size["gallbladder"] = float(rng.uniform(0.5, 1.2))
    size["stomach"] = float(rng.uniform(0.65, 1.2))
    if rng.random() < 0.1:
        size["aorta"] = float(rng.uniform(1.3, 2))  # an aneurysm
    spread = rng.uniform(0.5, 1.8)
    return Patient(
        scale=np.clip(rng.normal(1, 0.06), 0.88, 1.15) + rng.normal(0, 0.025, 3),
        fat_mm=rng.uniform(4, 45),
        bend_mm=rng.normal(0, rng.uniform(6, 13), (3, 6, 6, 6)) + posture(rng),
        shift_mm={g: rng.standard_normal(3).clip(-1.8, 1.8) * sd * spread for g, sd in GROUP_SHIFT_MM.items()},
        size=size,
        gas_mm=rng.normal(0, 20),
        small_bowel=draw_small_bowel(rng),
        hu=draw_hu(rng),
    )


def posture(rng: np.random.Generator) -> np.ndarray:
    """Return (3, 6, 6, 6) mm, the displacement by a rotation of the patient of up to 8 degrees about each axis."""
    a, b, c = np.radians(rng.uniform(-8, 8, 3))
    rotation = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])  # of small angles
    nodes = np.linspace(*BEND_BOX_MM, 6).T  # those of the deformation
    places = np.stack(np.meshgrid(*nodes, indexing="ij"))
    return np.tensordot(rotation, places - np.reshape(FIELD_MIDDLE_MM, (3, 1, 1, 1)), axes=1)


def draw_hu(rng: np.random.Generator) -> np.ndarray:
    """Return (len(TISSUES),) the mean HU of each tissue, in a phase or between two neighbouring ones."""
    phase = rng.choice(len(PHASES), p=PHASE_SHARES)
    later = min(phase + 1, len(PHASES) - 1)
    part = 0 if phase == 0 else rng.uniform(0, 0.5)  # without contrast medium there is nothing between
    strength = rng.uniform(0.75, 1.3)
    hu = []
    for name, tissue in TISSUES.items():
        uptake = UPTAKE.get(name, (tissue.uptake * (phase > 0),) * len(PHASES))
        added = strength * ((1 - part) * uptake[phase] + part * uptake[later])
        hu.append(tissue.plain + added + rng.normal(0, 5) * (tissue.plain > -500))
    for name, most in (("liver", -35), ("pancreas", -30)):  # fat in the organ lowers its HU
        hu[CODE[name]] += rng.choice([0, rng.uniform(most, 0)])
    if rng.random() < 0.3:  # oral contrast medium
        for name in ("stomach contents", "chyme"):
            hu[CODE[name]] += rng.uniform(80, 300)
    return np.array(hu)


def draw_scanner(grid: str, rng: np.random.Generator) -> Scanner:
    """Draw field of view, voxel size, slice thickness, reconstruction kernel and dose."""
    demo = grid == "demo"
    in_plane = rng.uniform(2.8, 4.0) if demo else rng.uniform(0.65, 0.95)
    slice_mm = rng.uniform(1, 5)
    low, high = rng.uniform(-70, 40), rng.uniform(215, 300)  # mm: from the pelvis or the kidneys to dome or heart
    middle = np.array(FIELD_MIDDLE_MM[:2]) + rng.uniform(-20, 20, 2)
    counts = IN_PLANE if demo else GRIDS[grid].in_plane
    axes = [(np.arange(n) - (n - 1) / 2) * in_plane + mid for n, mid in zip(counts, middle, strict=True)]
    axes.append(np.arange(low, high, slice_mm))
    sharp = rng.random()  # from a smooth kernel to a sharp one
    return Scanner(axes, slice_mm, 1.4 - 0.9 * sharp, rng.uniform(6, 18) * (1 + sharp), 0.9 - 0.6 * sharp)


def add_lesions(image: np.ndarray, label: np.ndarray, spacing, rng: np.random.Generator) -> None:
    """Set the HU of spheres within organs in ``image``; ``label`` has BTCV ids, both are (X, Y, Z), spacing in mm."""
    for organ, (number, largest_mm, hu) in LESIONS.items():
        for _ in range(rng.poisson(number)):
            places = np.argwhere(label == organ)
            radius, value, pick = rng.uniform(2, largest_mm), rng.uniform(*hu), rng.random()
            if not len(places):
                continue
            centre = places[int(pick * len(places))]
            reach = np.ceil(radius / np.asarray(spacing)).astype(int)
            box = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip(centre, reach, strict=True))
            away = np.ogrid[box]
            squares = [((a - c) * s) ** 2 for a, c, s in zip(away, centre, spacing, strict=True)]
            image[box][(sum(squares) < radius**2) & (label[box] == organ)] = value


if __name__ == "__main__":
    main(make=make_varied_phantom)
