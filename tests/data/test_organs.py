"""Colours of organs that touch, and label files of viewers."""

import itertools
import shlex

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from swinunetr.data.organs import ORGAN_COLOURS, ORGANS, save_label_names

# Organs within 3 mm of each other in at least one of four label maps: three abdomens of the TotalSegmentator data set
# (s0011, s0327, s0328; Zenodo 10047292) and the example CT of the tool of that name.
TOUCHING = {
    "spleen": "left kidney, stomach, portal and splenic veins, pancreas, left adrenal gland",
    "right kidney": "liver",
    "gallbladder": "liver, stomach",
    "esophagus": "aorta, stomach, liver",
    "liver": "stomach, inferior vena cava, portal and splenic veins, right adrenal gland",
    "stomach": "pancreas",
    "aorta": "inferior vena cava",
    "inferior vena cava": "right adrenal gland, pancreas, portal and splenic veins",
    "portal and splenic veins": "pancreas, left adrenal gland",
    "pancreas": "left adrenal gland",
}
# What readers see in place of linear RGB (Machado, Oliveira, Fernandes, 2009, severity 1).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def seen(colours, sight: str) -> np.ndarray:
    """Return colours (N, 3) in CIELAB as a reader sees them, from HTML codes."""
    rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(SIGHT[sight])
    linear = linear.clip(0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("sight", SIGHT)
def test_organs_that_touch_have_colours_that_differ(sight):
    """By 20 in CIEDE2000, where 2 is just noticed side by side."""
    colours = dict(zip(ORGANS, seen(ORGAN_COLOURS, sight), strict=True))
    pairs = [(organ, other) for organ, others in TOUCHING.items() for other in others.split(", ")]
    assert len(pairs) == 23
    close = [pair for pair in pairs if deltaE_ciede2000(*(colours[organ] for organ in pair)) < 20]
    assert not close


def test_all_colours_differ_and_are_seen_on_a_scan_and_on_white():
    colours = seen(ORGAN_COLOURS, "normal")
    assert min(deltaE_ciede2000(*pair) for pair in itertools.combinations(colours, 2)) > 15
    for background in seen(("#000000", "#808080", "#FFFFFF"), "normal"):
        assert deltaE_ciede2000(colours, background[None]).min() > 20


def test_label_files_list_every_class_in_the_format_of_each_viewer(tmp_path):
    save_label_names(tmp_path, ("background", "left kidney", "liver"))
    slicer = [line.split() for line in (tmp_path / "labels.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [row[:2] for row in slicer] == [["0", "background"], ["1", "left_kidney"], ["2", "liver"]]
    assert all(len(row) == 6 and all(0 <= int(n) <= 255 for n in row[2:]) for row in slicer)
    snap = (tmp_path / "labels_itksnap.txt").read_text().splitlines()
    assert snap[1].split(maxsplit=7)[0] == "1" and snap[1].split(maxsplit=7)[7] == '"left kidney"'
    assert snap[1].split()[1:4] == slicer[1][2:5]


def test_any_name_stays_one_field_of_the_label_files(tmp_path):
    save_label_names(tmp_path, ("not an organ", 'the "left"\tbox\n2', "\u809d\u81d3"))
    slicer = (tmp_path / "labels.ctbl").read_text(encoding="utf-8").splitlines()[2:]
    assert [len(line.split()) for line in slicer] == [6, 6, 6] and slicer[2].split()[1] == "\u809d\u81d3"
    snap = (tmp_path / "labels_itksnap.txt").read_text(encoding="utf-8").splitlines()
    assert [shlex.split(line)[7] for line in snap] == ["Clear Label", "the 'left' box 2", "\u809d\u81d3"]
