"""The tissue at each place of a patient, in the frame of :mod:`swinunetr.data.phantoms.patient`."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline

from swinunetr.data.phantoms.patient import (
    BEND_BOX_MM,
    CODE,
    ILIAC_CREST,
    LUMENS,
    LUNG_VESSEL_ENDS,
    PAIRED_TUBES,
    TUBES,
    Patient,
)


def make_tissue_map(patient: Patient, axes: list[np.ndarray]) -> np.ndarray:
    """Return the uint8 (X, Y, Z) tissue map; the order matters, as later parts cover earlier ones."""
    canvas = Canvas(patient, axes)
    add_torso(canvas)
    add_chest(canvas)
    add_muscles_and_pelvis(canvas)
    add_spine(canvas)
    add_small_bowel(canvas)
    canvas.add_organs("right colon", "transverse colon", "left colon", "duodenum", "stomach")
    add_spleen(canvas)
    add_liver(canvas)
    canvas.add_organs("gallbladder", "pancreas")
    add_kidney(canvas, "right", side=1)
    add_kidney(canvas, "left", side=-1)
    canvas.add_organs("mesenteric vein", "splenic vein", "portal vein", "left portal vein", "left renal vein")
    canvas.add_organs("inferior vena cava", "mesenteric artery", "aorta", "esophagus")
    add_table(canvas)
    return canvas.tissue


class Canvas:
    """A tissue map to which parts are added in anatomical mm; a part covers the parts added before it."""

    def __init__(self, patient: Patient, axes: list[np.ndarray]):
        """Fill the map with air, and compute the anatomical position of each voxel of ``axes`` (mm)."""
        self.patient, self.axes = patient, axes
        bend = smooth_field(patient.bend_mm, axes, *BEND_BOX_MM)
        self.slack_mm = np.abs(bend).max(axis=(1, 2, 3))
        self.places = bend  # float32 (3, X, Y, Z) in mm: (axis - bend) / scale, computed in place to save memory
        for place, axis, scale in zip(self.places, np.ix_(*axes), patient.scale, strict=True):
            np.subtract(axis, place, out=place, casting="same_kind")
            place /= scale
        self.tissue = np.full(bend.shape[1:], CODE["air"], np.uint8)

    def near(self, low, high) -> tuple[np.ndarray, ...]:
        """Return views of the tissue and of x, y and z in the box between two corners in mm."""
        lows = np.asarray(low) * self.patient.scale - self.slack_mm
        highs = np.asarray(high) * self.patient.scale + self.slack_mm
        box = tuple(slice(*axis.searchsorted(ends)) for axis, *ends in zip(self.axes, lows, highs, strict=True))
        return self.tissue[box], *(place[box] for place in self.places)

    def add_tube(self, tissue: str, knots, inset: float = 0.0, above: float = -np.inf) -> None:
        """Add a tube along (N, 4) knots, with a radius smaller by ``inset`` mm, where y exceeds ``above`` mm."""
        points = smooth_curve(np.asarray(knots, float)) - (0, 0, 0, inset)
        for start, end in zip(points[:-1], points[1:], strict=True):
            reach = max(start[3], end[3])
            here, x, y, z = self.near(np.minimum(start, end)[:3] - reach, np.maximum(start, end)[:3] + reach)
            here[(capsule(x, y, z, start, end) < 0) & (y > above)] = CODE[tissue]

    def add_organs(self, *names: str) -> None:
        """Add tubes by name with the patient's shift and size, and the contents of their lumens."""
        for name in names:
            shift, size = self.patient.shift_mm[TUBES[name].group], self.patient.size[name]
            knots = np.array(TUBES[name].knots) * (1, 1, 1, size) + (*shift, 0)
            self.add_tube(TUBES[name].tissue, knots)
            if name in LUMENS:
                lumen = LUMENS[name]
                self.add_tube(lumen.contents, knots, lumen.wall_mm)
                self.add_tube(lumen.gas, knots, lumen.wall_mm, lumen.gas_above + shift[1] + self.patient.gas_mm)


def smooth_field(nodes: np.ndarray, axes, lows, highs) -> np.ndarray:
    """Interpolate (C, I, J, K) values at regular nodes on a grid; return float32 (C, X, Y, Z).

    Each voxel gets the mean of the nodes, weighted with a Gaussian of 0.6 node distances, one axis after the other.
    ``axes`` are the coordinates of the voxels, ``lows`` and ``highs`` those of the first and the last node per axis.
    """
    field = nodes.astype(np.float32)
    for axis, low, high, count in zip(axes, lows, highs, nodes.shape[1:], strict=True):
        nodes_at, step = np.linspace(low, high, count, retstep=True)
        weights = np.exp(-0.5 * ((axis[:, None] - nodes_at) / (0.6 * step)) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        field = np.tensordot(field, weights.astype(np.float32), axes=(1, 1))  # the next axis becomes axis 1
    return field


def smooth_curve(knots: np.ndarray) -> np.ndarray:
    """Return (M, 4) points on a smooth curve through (N, 4) knots, about one mean radius apart."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])  # mm
    count = 1 + int(np.ceil(along[-1] / knots[:, 3].mean()))
    return make_interp_spline(along, knots, k=min(3, len(knots) - 1))(np.linspace(0, along[-1], count))


def capsule(x, y, z, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a tapered capsule between two (x, y, z, radius); negative inside."""
    (x0, y0, z0, radius), (dx, dy, dz, widening) = start.tolist(), (end - start).tolist()
    x, y, z = x - x0, y - y0, z - z0
    part = ((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz)).clip(0, 1)
    return np.sqrt((x - part * dx) ** 2 + (y - part * dy) ** 2 + (z - part * dz) ** 2) - (radius + part * widening)


def ellipsoid(x, y, z, centre, radii) -> np.ndarray:
    """Return 1 on the surface of an ellipsoid, less than 1 inside, more than 1 outside."""
    (a, b, c), (rx, ry, rz) = np.asarray(centre).tolist(), np.asarray(radii).tolist()
    return np.sqrt(((x - a) / rx) ** 2 + ((y - b) / ry) ** 2 + ((z - c) / rz) ** 2)


def smooth_max(a, b, blend_mm: float = 10.0) -> np.ndarray:
    """Return the maximum of two distances, with a rounded edge where they are equal."""
    return np.maximum(a, b) + (blend_mm - np.abs(a - b)).clip(0) ** 2 / (4 * blend_mm)


def beyond_outline(x, y, half_width, front, back) -> np.ndarray:
    """Return the distance in mm from a rounded outline, along a ray from its middle at y = 33; negative inside."""
    y = y - 33
    q = (np.abs(x / half_width) ** 2.5 + np.abs(y / np.where(y > 0, front, back)) ** 2.5 + 1e-6) ** 0.4
    return np.sqrt(x * x + y * y) * (1 - 1 / q)


def beyond_cavity(x, y, z) -> np.ndarray:
    """Return the distance in mm from the cavity of abdomen and chest; negative inside."""
    return beyond_outline(x, y, 132 + 8 * np.exp(-(((z - 170) / 70) ** 2)), 86, 80)  # widest at the lower ribs


def above_diaphragm(x, y, z, outside) -> np.ndarray:
    """Return the height in mm above the diaphragm: two domes, the right one higher, lowest at the posterior wall."""
    near_wall = (1 + outside / 115).clip(0, 1.1)  # 0 in the middle, 1 at the wall of the cavity
    fall = (105 - 0.45 * (y + 45).clip(0, 150)) * near_wall**6
    return z - (234 - fall - 12 / (1 + np.exp(x / 15)) - 8 * np.exp(-((x / 30) ** 2)))


def add_torso(canvas: Canvas) -> None:
    """Add the trunk, in slabs of 16 voxels, as it needs many arrays of the size of the slab."""
    for first in range(0, len(canvas.tissue), 16):
        slab = slice(first, first + 16)
        x, y, z = canvas.places[:, slab]
        outside = beyond_cavity(x, y, z)
        add_wall(canvas.tissue[slab], x, y, z, outside, canvas.patient.fat_mm)
        add_ribs(canvas.tissue[slab], x, y, z, outside)


def add_wall(tissue, x, y, z, outside, fat_mm: float) -> None:
    """Add skin, fat, muscle, diaphragm and lungs."""
    fat = fat_mm * (1 - 0.5 / (1 + np.exp((110 - z) / 25)))  # half as thick over the chest
    groove = 5 * np.exp(-((x / 14) ** 2)) * (y < 0)  # mm, over the spine
    skin = beyond_outline(x, y, 142 + fat, 98 + fat, 112 + 0.6 * fat) + groove
    back_muscle = ((np.abs(x) - 33) / 36) ** 2 + ((y + 52) / 24) ** 2
    tissue[skin < 0] = CODE["skin"]
    tissue[skin < -2] = CODE["fat"]
    tissue[((outside < 9) | (back_muscle < 1)) & (skin < -4)] = CODE["muscle"]
    tissue[outside < 0] = CODE["fat"]
    height = above_diaphragm(x, y, z, outside)
    tissue[(outside < 0) & (np.abs(height) < 2)] = CODE["muscle"]
    mediastinum = (x / 36) ** 2 + ((y - 14) / 48) ** 2 < 1
    tissue[(outside < -2) & (height > 2) & ~mediastinum] = CODE["lung"]


def add_ribs(tissue, x, y, z, outside) -> None:
    """Add the ribs above the costal margin, which slope down anteriorly, and the sternum."""
    level = z + 0.8 * (y + 45) + 0.3 * np.abs(x)  # mm, constant along a rib
    from_rib = level % 27 - 13.5  # mm from the middle of the nearest rib
    section = ((outside - 4.5) / 4.2) ** 2 + (from_rib / 6.5) ** 2  # 1 on the surface
    cage = (z > 95 + 1.6 * (y - 35).clip(0)) & (np.abs(x) > 30)
    tissue[cage & (section < 1)] = CODE["cortical bone"]
    tissue[cage & (section < 0.35)] = CODE["spongy bone"]
    tissue[(np.abs(x) < 17) & (y > 90) & (z > 222) & (np.abs(outside - 4.5) < 4)] = CODE["spongy bone"]


def add_chest(canvas: Canvas) -> None:
    """Add the vessels of the lung bases, and the heart with two chambers and its fat."""
    for x_end, y_end in LUNG_VESSEL_ENDS:
        canvas.add_tube("vein", [(0.5 * x_end, 20, 310, 5), (x_end, y_end, 246, 1.5)])
    tissue, x, y, z = canvas.near((-95, 15, 220), (45, 115, 330))
    heart = ellipsoid(x, y, z, (-22, 66, 274), (62, 44, 44))
    tissue[(tissue == CODE["lung"]) & (heart < 1.08)] = CODE["fat"]
    tissue[(tissue != CODE["muscle"]) & (heart < 1)] = CODE["heart"]
    tissue[ellipsoid(x, y, z, (-42, 56, 276), (28, 19, 32)) < 1] = CODE["artery"]
    tissue[ellipsoid(x, y, z, (2, 80, 274), (30, 17, 32)) < 1] = CODE["vein"]


def add_muscles_and_pelvis(canvas: Canvas) -> None:
    """Add the muscles, arteries and iliac crests that come in mirrored pairs."""
    for mirror in ((1, 1, 1, 1), (-1, 1, 1, 1)):
        for tube in PAIRED_TUBES.values():
            canvas.add_tube(tube.tissue, np.array(tube.knots) * mirror)
        canvas.add_tube("cortical bone", np.array(ILIAC_CREST) * mirror)
        canvas.add_tube("spongy bone", np.array(ILIAC_CREST) * mirror, inset=2)  # mm of cortical bone


def add_spine(canvas: Canvas) -> None:
    """Add vertebral bodies, discs, the spinal canal and the processes."""
    tissue, x, y, z = canvas.near((-50, -95, -60), (50, 25, 330))
    y = y + 8 * ((z - 60) / 215) ** 2 * (z > 60)  # the thoracic spine curves to posterior, 8 mm at T8
    level = z / 36 + 1.4e-5 * z**2  # integer in the middle of a vertebra; 36 mm per vertebra at L4, 28 mm at T8
    part = np.abs(level - np.round(level))  # 0 in the middle of a vertebra, 0.5 in the middle of a disc
    slanted = level - 0.012 * (y + 25)
    width, depth = 25 - 0.03 * z, 18 - 0.01 * z  # mm, half axes of a body
    body = np.sqrt((x / width) ** 2 + (y / depth) ** 2) - 0.35 * part**2  # narrow in the middle
    canal = np.sqrt((x / 11) ** 2 + ((y + 26) / 8) ** 2)
    arch = (canal < 1.6) & (part < 0.42)
    spinous = (np.abs(x) < 3.5) & (y < -32) & (y > -68) & (np.abs(slanted - np.round(slanted)) < 0.25)
    transverse = (np.abs(x) < 42 - 0.06 * z) & (np.abs(y + 21) < 4.5) & (part < 0.13)
    tissue[arch | spinous | transverse | ((body < 0.92) & (part < 0.42))] = CODE["cortical bone"]
    tissue[(body < 0.82) & (part < 0.37)] = CODE["spongy bone"]
    tissue[(body < 0.95) & (part > 0.41)] = CODE["disc"]
    tissue[canal < 1] = CODE["spinal canal"]


def add_small_bowel(canvas: Canvas) -> None:
    """Add the small bowel and the mesenteric veins that lead to it."""
    knots = canvas.patient.small_bowel + (*canvas.patient.shift_mm["bowel"], 0)
    for x, y, z, _ in knots[::4]:
        canvas.add_tube("vein", [(10, 56, 84, 3), (x, y, z, 1.5)])
    canvas.add_tube("bowel wall", knots)
    canvas.add_tube("chyme", knots, inset=2.5)


def add_spleen(canvas: Canvas) -> None:
    """Add the spleen: an ellipsoid limited by wall and diaphragm, concave on its medial side."""
    shift, size = canvas.patient.shift_mm["spleen"], canvas.patient.size["spleen"]
    tissue, x, y, z = canvas.near((-160, -70, 90), (-45, 80, 250))
    outside = beyond_cavity(x, y, z)
    ball = 45 * (ellipsoid(x, y, z, shift + (-110, -8, 172), np.array([50, 53, 53]) * size) - 1)
    hollow = 40 * (1 - ellipsoid(x, y, z, shift + (-58, 22, 172), (42, 46, 74)))
    under_dome = smooth_max(outside + 3, above_diaphragm(x, y, z, outside) + 3)
    tissue[smooth_max(smooth_max(ball, under_dome), hollow) < 0] = CODE["spleen"]


def add_liver(canvas: Canvas) -> None:
    """Add the liver under the right dome: a wedge with its inferior edge on the right and its tip on the left."""
    tissue, x, y, z = canvas.near((-85, -50, 40), (150, 125, 240))
    outside = beyond_cavity(x, y, z)
    grown = 250 * (canvas.patient.size["liver"] - 1)  # mm
    below = 74 + 0.55 * (132 - x) - 0.3 * (y - 30) - grown - z  # mm below the visceral surface
    behind = -smooth_max(y - 46 + 0.55 * x, 0.6 * (y - 52 + 1.5 * x))  # posterior surfaces of the left and right lobe
    under_dome = smooth_max(outside + 2.5, above_diaphragm(x, y, z, outside) + 3)
    liver = smooth_max(smooth_max(under_dome, 0.8 * below), smooth_max(behind, -66 - x))
    tissue[liver < 0] = CODE["liver"]
    canvas.add_organs("right hepatic vein", "middle hepatic vein", "left hepatic vein")


def add_kidney(canvas: Canvas, name: str, side: int) -> None:
    """Add a kidney with cortex, pyramids, sinus and pelvis, and its adrenal gland; ``side`` is 1 right, -1 left."""
    centre = canvas.patient.shift_mm[f"{name} kidney"] + (side * 66, -6, 100 - side * 8)  # the right kidney is lower
    tissue, x, y, z = canvas.near(centre - (50, 50, 75), centre + (50, 50, 75))
    up, front = z - centre[2], y - centre[1] + 0.16 * (z - centre[2])  # the upper pole is more posterior
    out = side * (x - centre[0]) + 0.2 * up + 0.004 * up**2  # mm from the curved axis, to lateral
    bean = ellipsoid(out, front, up, (0, 0, 0), np.array([28, 25, 55]) * canvas.patient.size[f"{name} kidney"])
    sinus = ellipsoid(out, front, up, (-16, 5, 0), (16, 11, 25))
    pyramids = 0.1 * np.sin(0.4 * up + 3 * np.arctan2(front, out))
    tissue[bean < 1.22] = CODE["fat"]
    tissue[bean < 1] = CODE[f"{name} cortex"]
    tissue[bean < 0.68 + pyramids] = CODE[f"{name} medulla"]
    tissue[(bean < 1.1) & (sinus < 1)] = CODE["renal sinus"]
    tissue[(bean < 1.1) & (sinus < 0.5)] = CODE["renal pelvis"]
    # The adrenal gland is an inverted Y with a body and two limbs, anterior to the upper pole of the kidney.
    apex = centre + (-side * 26, 14, 56)
    for offset in [(-side * 2, 8, 10), (side * 10, -12, -12), (-side * 6, -14, -12)]:  # mm
        canvas.add_tube(f"{name} adrenal gland", [(*apex, 6.5), (*(apex + offset), 5.2)])


def add_table(canvas: Canvas) -> None:
    """Add the scanner table in the air below the back: a shell around foam, 26 mm thick, with sides curved up."""
    x, y, _ = np.ix_(*canvas.axes)
    back = canvas.axes[1][np.argmax((canvas.tissue != CODE["air"]).any(axis=(0, 2)))]
    depth = back - 4 + x**2 / 1400 - y  # mm below the upper surface
    table = (np.abs(depth - 13) < 13) & (np.abs(x) < 205)
    foam = table & (np.abs(depth - 13) < 10)
    air = canvas.tissue == CODE["air"]
    canvas.tissue[air & table] = CODE["table"]
    canvas.tissue[air & foam] = CODE["foam"]
