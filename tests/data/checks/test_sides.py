"""Organs that are named right and left are compared with the sides on which they lie."""

import pytest
import torch
from monai.data import MetaTensor

from swinunetr.data.checks.sides import check_sides, pairs_of_sides

ORGANS = ("liver", "left kidney", "right kidney")


def case(name, *labels):
    """Return a case whose labels lie along x, to the patient's right, one voxel each."""
    return {"name": name, "label": MetaTensor(torch.tensor(labels, dtype=torch.uint8)[None, :, None, None])}


def test_a_right_organ_left_of_the_left_one_is_named(capsys):
    check_sides([case("anna", 2, 0, 1, 3), case("ben", 3, 0, 2)], ORGANS)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: ben: right kidney lies left of left kidney. Were the two labels exchanged")


@pytest.mark.parametrize("labels", [(2, 3), (0, 3), (3, 0), (2,), (1,), (3, 3, 2, 255, 3, 3)])
def test_sides_that_are_right_or_unknown_are_passed_over(labels, capsys):
    check_sides([case("anna", *labels)], ORGANS)
    assert not capsys.readouterr().out


def test_many_warnings_are_cut_short(capsys):
    check_sides([case(f"case{i}", 3, 2) for i in range(20)], ORGANS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[-1] == "warning: the same 15 more times"


@pytest.mark.parametrize(
    ("organs", "pairs"),
    [
        (("right kidney", "left kidney"), [("right kidney", "left kidney")]),
        (("adrenal_gland_left", "adrenal_gland_right"), [("adrenal_gland_right", "adrenal_gland_left")]),
        (("Right-Lung", "LEFT LUNG", "right atrium"), [("Right-Lung", "LEFT LUNG")]),
        (("liver", "bright lesion", "left"), []),
    ],
)
def test_pairs_differ_in_right_and_left_alone(organs, pairs):
    assert pairs_of_sides(organs) == pairs
