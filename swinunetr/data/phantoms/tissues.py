"""Tissues of the phantoms, with their BTCV ids and CT numbers, and the volumes of the organs of a reference adult."""

from __future__ import annotations

from typing import NamedTuple

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
