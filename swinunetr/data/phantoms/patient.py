"""Reference anatomy with the CT numbers of its tissues, and patients around it: sizes, positions, fat, enhancement.

The anatomical frame is in mm: x increases to the patient's right, y to anterior, z to superior (RAS+). Its origin is
the middle of the fourth lumbar vertebra (L4), at the height of the iliac crest; the eighth thoracic vertebra (T8) lies
at z = 275.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Patient(NamedTuple):
    """Anatomy and contrast enhancement."""

    scale: np.ndarray  # (3,), size of the body relative to the tables
    fat_mm: float  # thickness under the skin of the lower abdomen
    bend_mm: np.ndarray  # (3, 6, 6, 6), the smooth deformation at its nodes
    shift_mm: dict[str, np.ndarray]  # (3,), per group
    size: dict[str, float]  # factor on the radius, per organ
    gas_mm: float  # added to every ``Lumen.gas_above``
    small_bowel: np.ndarray  # (N, 4), knots
    hu: np.ndarray  # (len(TISSUES),), mean of each tissue


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw what does not depend on the scan."""
    phase = np.clip(rng.normal(1, 0.1), 0.8, 1.2)  # strength of enhancement, shared by all organs
    return Patient(
        scale=np.clip(rng.normal(1, 0.025), 0.95, 1.05) + rng.normal(0, 0.012, 3),
        fat_mm=rng.uniform(9, 30),
        bend_mm=rng.normal(0, 8, (3, 6, 6, 6)),
        shift_mm={group: rng.standard_normal(3).clip(-1.6, 1.6) * sd for group, sd in GROUP_SHIFT_MM.items()},
        size={name: np.clip(rng.normal(1, 0.05), 0.9, 1.1) for name in SIZED},
        gas_mm=rng.normal(0, 5),
        small_bowel=draw_small_bowel(rng),
        hu=np.array([t.plain + t.uptake * phase + rng.normal(0, 4) * (t.plain > -500) for t in TISSUES.values()]),
    )


def draw_small_bowel(rng: np.random.Generator) -> np.ndarray:
    """Return (N, 4) knots of a tube that runs up and down through the lower abdomen."""
    columns = [(x, y) for y in (46, 74, 98) for x in np.linspace(-82, 78, 7)]
    heights = np.array([-40, -4, 32, 68])
    knots = [(x, y, z, 12) for i, (x, y) in enumerate(columns) for z in heights[:: 1 if i % 2 else -1]]
    return np.array(knots) + rng.normal(0, 1, (len(knots), 4)) * (7, 6, 8, 1.5)


BEND_BOX_MM = (-200, -120, -40), (200, 180, 320)  # x, y, z of the first and of the last node of the deformation
GROUP_SHIFT_MM = {  # organs that move together: standard deviation along x, y, z
    "stomach": (4, 3, 5),
    "spleen": (3, 4, 6),
    "right kidney": (4, 3, 8),
    "left kidney": (4, 3, 8),
    "pancreas": (3, 2, 5),
    "gallbladder": (5, 4, 4),
    "vessels": (2, 1, 0),
    "bowel": (6, 3, 6),
    "fixed": (0, 0, 0),
}


class Tube(NamedTuple):
    """A tube of one tissue along a smooth centreline."""

    tissue: str
    group: str
    knots: Sequence[tuple[float, float, float, float]]  # x, y, z, radius in mm along the centreline


# fmt: off
TUBES = {
    "aorta": Tube("aorta", "vessels", [(-18, 2, 300, 11), (-14, 18, 215, 10.5), (-8, 28, 130, 10), (-3, 28, 8, 9)]),
    "inferior vena cava": Tube("inferior vena cava", "vessels", [
        (22, 26, -6, 10.5), (23, 28, 60, 11), (25, 31, 120, 12), (27, 40, 190, 12), (22, 50, 232, 12)]),
    "esophagus": Tube("esophagus", "vessels", [
        (-4, 30, 300, 8), (-8, 38, 245, 8), (-18, 45, 214, 8.5), (-34, 42, 198, 9)]),
    "mesenteric artery": Tube("artery", "vessels", [(-7, 36, 116, 4), (-3, 48, 104, 4), (0, 56, 20, 3)]),
    "mesenteric vein": Tube("vein", "pancreas", [(10, 50, 112, 6), (12, 56, 90, 5.5), (12, 58, 30, 4)]),
    "left renal vein": Tube("vein", "vessels", [
        (-44, 8, 106, 4), (-20, 36, 106, 4), (0, 41, 108, 4), (20, 34, 108, 4)]),
    "splenic vein": Tube("portal vein", "pancreas", [
        (-88, 6, 160, 4), (-54, 22, 147, 5), (-20, 40, 136, 5), (10, 48, 124, 6.5)]),
    "portal vein": Tube("portal vein", "pancreas", [
        (10, 48, 124, 6.5), (26, 54, 148, 7), (46, 58, 168, 6.5), (74, 48, 176, 4.5)]),
    "left portal vein": Tube("portal vein", "pancreas", [(46, 58, 168, 5.5), (24, 74, 182, 5), (6, 84, 186, 4)]),
    "right hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (66, 30, 206, 5), (104, 0, 188, 3)]),
    "middle hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (48, 64, 208, 5), (74, 84, 186, 3)]),
    "left hepatic vein": Tube("hepatic vein", "fixed", [(26, 46, 216, 6), (14, 66, 212, 4.5), (-8, 86, 204, 3)]),
    "gallbladder": Tube("gallbladder", "gallbladder", [(42, 54, 130, 8), (52, 74, 117, 18), (60, 94, 104, 20)]),
    "pancreas": Tube("pancreas", "pancreas", [
        (26, 46, 84, 14), (30, 55, 106, 19), (10, 62, 124, 15), (-22, 54, 134, 15), (-54, 34, 145, 16),
        (-80, 14, 156, 13)]),
    "stomach": Tube("stomach wall", "stomach", [
        (-52, 8, 206, 20), (-60, 24, 190, 30), (-64, 54, 165, 30), (-54, 76, 138, 26), (-28, 86, 118, 22),
        (2, 84, 112, 18), (28, 70, 118, 11)]),
    "duodenum": Tube("bowel wall", "pancreas", [
        (28, 70, 118, 11), (54, 54, 116, 12), (54, 42, 74, 12), (20, 44, 62, 10), (-24, 46, 84, 11)]),
    "right colon": Tube("bowel wall", "bowel", [
        (94, 38, -40, 24), (106, 28, 30, 22), (98, 54, 74, 20), (70, 88, 72, 20)]),
    "transverse colon": Tube("bowel wall", "bowel", [
        (70, 88, 72, 20), (6, 102, 62, 18), (-60, 94, 92, 19), (-106, 54, 134, 18)]),
    "left colon": Tube("bowel wall", "bowel", [
        (-106, 54, 134, 18), (-116, 14, 104, 16), (-112, 8, 40, 15), (-104, 16, -40, 15)]),
}
SIZED = (*TUBES, "right kidney", "left kidney", "spleen", "liver")  # organs with a size of their own
PAIRED_TUBES = {  # on the right; the left tube is the mirror image
    "psoas": Tube("muscle", "fixed", [(26, 0, 128, 4), (38, -2, 50, 18), (48, 8, -40, 23)]),
    "quadratus lumborum": Tube("muscle", "fixed", [(46, -27, 125, 6), (66, -27, 40, 14), (74, -26, -40, 16)]),
    "crus of the diaphragm": Tube("muscle", "fixed", [(14, 18, 85, 3), (15, 22, 150, 6), (9, 32, 205, 5)]),
    "common iliac artery": Tube("artery", "fixed", [(2, 27, 6, 6), (14, 26, -12, 6), (34, 20, -45, 5)]),
}
ILIAC_CREST = [(70, -60, -30, 6), (98, -40, 0, 5), (122, -5, 6, 5), (134, 30, -12, 5)]  # knots on the right
LUNG_VESSEL_ENDS = [  # x, y in mm
    (-112, 0), (-84, -34), (-56, -14), (-100, 40), (60, -30), (92, -14), (70, 30), (110, 34)]
# fmt: on


class Lumen(NamedTuple):
    """Contents of a hollow organ: gas above, liquid or stool below."""

    wall_mm: float
    contents: str
    gas: str
    gas_above: float  # y in mm of the surface between contents and gas; the patient lies supine


LUMENS = {
    "stomach": Lumen(4, "stomach contents", "stomach gas", 80),
    "duodenum": Lumen(2.5, "chyme", "gas", 70),
    "right colon": Lumen(2.5, "stool", "gas", 62),
    "transverse colon": Lumen(2.5, "stool", "gas", 100),
    "left colon": Lumen(2.5, "stool", "gas", 62),
}


class Tissue(NamedTuple):
    """Label and CT numbers of a tissue."""

    label: int  # BTCV id, 0 = background
    plain: float  # HU without contrast medium
    uptake: float  # HU added by contrast medium in an average portal-venous phase
    texture: float  # HU, standard deviation within the tissue


TISSUES = {
    "air": Tissue(0, -1000, 0, 0),
    "skin": Tissue(0, 10, 15, 4),
    "fat": Tissue(0, -104, 0, 6),
    "muscle": Tissue(0, 52, 10, 6),
    "lung": Tissue(0, -830, 10, 25),
    "heart": Tissue(0, 42, 60, 6),
    "spongy bone": Tissue(0, 165, 15, 25),
    "cortical bone": Tissue(0, 560, 0, 60),
    "disc": Tissue(0, 85, 0, 6),
    "spinal canal": Tissue(0, 28, 5, 4),
    "table": Tissue(0, 60, 0, 0),
    "foam": Tissue(0, -930, 0, 0),
    "artery": Tissue(0, 42, 108, 4),
    "vein": Tissue(0, 42, 110, 4),
    "bowel wall": Tissue(0, 38, 50, 6),
    "chyme": Tissue(0, 34, 0, 12),
    "stool": Tissue(0, 10, 0, 50),
    "gas": Tissue(0, -950, 0, 0),
    "renal sinus": Tissue(0, -70, 0, 20),
    "renal pelvis": Tissue(0, 12, 20, 4),
    "spleen": Tissue(1, 48, 72, 4),
    "right cortex": Tissue(2, 35, 145, 5),
    "right medulla": Tissue(2, 33, 112, 8),
    "left cortex": Tissue(3, 35, 145, 5),
    "left medulla": Tissue(3, 33, 112, 8),
    "gallbladder": Tissue(4, 11, 0, 2),
    "esophagus": Tissue(5, 38, 14, 8),
    "liver": Tissue(6, 56, 50, 4),
    "hepatic vein": Tissue(6, 45, 95, 4),
    "stomach wall": Tissue(7, 38, 36, 6),
    "stomach contents": Tissue(7, 24, 0, 14),
    "stomach gas": Tissue(7, -950, 0, 0),
    "aorta": Tissue(8, 42, 108, 4),
    "inferior vena cava": Tissue(9, 42, 88, 6),
    "portal vein": Tissue(10, 42, 118, 4),
    "pancreas": Tissue(11, 38, 56, 12),
    "right adrenal gland": Tissue(12, 22, 54, 4),
    "left adrenal gland": Tissue(13, 22, 54, 4),
}
CODE = {name: code for code, name in enumerate(TISSUES)}  # values of the tissue map
