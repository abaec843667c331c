"""What training grids cost and lose: ceilings against those of the evaluation, costs, and advice."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import SMALL, write_case
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from swinunetr.data.checks import check_dataset
from swinunetr.data.label_maps import LabelMap
from swinunetr.data.lists import read_dataset
from swinunetr.data.organs import ORGANS
from swinunetr.data.phantoms.writing import write_phantom
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.results import grids
from swinunetr.results.evaluation import CEILING, read_labels, score_case
from swinunetr.results.grids import compare_grids, organs_on_grids


@pytest.mark.parametrize("spacing_mm", [(5.3, 5.1, 6.7), (7.9, 8.3, 3.1)])
def test_ceilings_are_those_of_the_evaluation(tmp_path, spacing_mm):
    files = {kind: str(tmp_path / f"{kind}.nii.gz") for kind in ("image", "label")}
    write_phantom(1, files["image"], files["label"])
    (case,) = prepare_cases([{"name": "a", **files}], replace(SMALL, spacing_mm=spacing_mm), "CT", "")
    nothing = np.zeros_like(read_labels(files["label"]))
    rows = score_case(case, case["label"].as_tensor()[0].long() * 0, nothing, tuple(ORGANS))
    _, ceilings = organs_on_grids(files, len(ORGANS), [spacing_mm])
    expected = [row[CEILING] for row in rows]
    assert min(expected) < 0.8  # so that there is something to compare
    np.testing.assert_allclose(ceilings[:, 0], expected, atol=0.04)  # of a vein beside other organs
    assert ceilings.mean() == pytest.approx(np.mean(expected), abs=0.005)


def write_label(folder, axes: str = "RAS") -> dict:
    """Write a label of 2 x 1 x 1 mm with its axes in some order: a box of 16 x 8 x 12 mm, and a sheet of 1 mm."""
    label = np.zeros((16, 20, 24), np.uint8)
    label[2:10, 4:12, 4:16] = 1
    label[:, 17, :] = 3
    affine = np.diag([2.0, 1, 1, 1])
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    turned = nib.Nifti1Image(apply_orientation(label, turn), affine @ inv_ornt_aff(turn, label.shape))
    nib.save(turned, folder / "label.nii.gz")
    return {"label": str(folder / "label.nii.gz")}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR"])
def test_extents_and_ceilings_counted_by_hand(tmp_path, axes):
    extents, ceilings = organs_on_grids(write_label(tmp_path, axes), 3, [(2, 1, 1), (2, 2, 1)])
    np.testing.assert_array_equal(extents, [[16, 8, 12], [np.nan] * 3, [32, 1, 24]])
    np.testing.assert_array_equal(ceilings[:, 0], [1, np.nan, 1])
    # Along y, the second grid has voxels at 0, 2, ..., 18 mm. The box, from 4 to 11 mm, comes back as 4 to 10 mm, since
    # its mask is 0.5 at 11 mm; the sheet, at 17 mm, is between two of them.
    np.testing.assert_allclose(ceilings[:, 1], [2 * 7 / (8 + 7), np.nan, 0])


def test_ids_become_classes_and_ignored_voxels_belong_to_no_organ(tmp_path):
    case = write_label(tmp_path) | {"label_map": LabelMap("m", ((0, 0), (1, 2), (3, 255)))}
    extents, ceilings = organs_on_grids(case, 3, [(2, 1, 1)])
    assert np.isnan(extents[[0, 2]]).all() and ceilings[1, 0] == 1


def compared(small_data, **changes) -> tuple[str, str]:
    """Return the text of both tables of a small data set of 1.5 x 1.5 x 2 mm."""
    dataset = read_dataset(*small_data)
    recipe = replace(SMALL, **changes)
    return tuple(str(table) for table in compare_grids(dataset, recipe, check_dataset(dataset, (3, 3, 3))).parts)


def test_a_grid_has_its_costs(small_data):
    costs, organs = compared(small_data, spacing_mm=(3, 3, 4), crop_size=(64, 64, 64))
    cells = [line.split("  ") for line in costs.splitlines()[1:4]]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    assert rows == [
        ["recipe", "3 x 3 x 4", "0.04", "0.00", "192 x 192 x 256"],  # 35 or 36 voxels along each axis
        ["data", "1.5 x 1.5 x 2", "0.34", "0.00", "96 x 96 x 128"],  # 70 x 72 x 68
        ["coarser", "4.5 x 4.5 x 6", "0.01", "0.00", "288 x 288 x 384"],
    ]
    assert "left box" in organs and "30 x 42 x 40" in organs and "Means of 2 training cases" in organs
    assert "On the grid" not in organs and "A crop of" not in organs


def test_organs_too_small_or_too_large_for_the_grid_are_named(small_data):
    _, organs = compared(small_data, spacing_mm=(20, 20, 0.5), crop_size=(64, 64, 64))
    assert "the ceiling is below 0.8 for left box (0.71), right box (0.69). A finer spacing_mm raises it." in organs
    assert "A crop of 1280 x 1280 x 32 mm is smaller than left box, right box, so the network sees a part" in organs


def test_a_grid_is_shown_once(small_data):
    costs, organs = compared(small_data, spacing_mm=(1.5, 1.5, 2.0))
    assert "data" not in costs and "recipe" in costs and "coarser" in costs
    assert "ceiling, data" not in organs


def test_a_few_cases_are_read_whatever_their_number(tmp_path, monkeypatch):
    entries = [write_case(tmp_path, number) for number in range(7)]
    content = {"labels": {"0": "background", "1": "a", "2": "b", "3": "c"}, "training": entries, "validation": entries}
    (tmp_path / "all.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path / "all.json", tmp_path)
    read = []
    monkeypatch.setattr(
        grids, "organs_on_grids", lambda case, *_: read.append(case["name"]) or organs_on_grids(case, *_)
    )
    tables = compare_grids(dataset, SMALL, check_dataset(dataset, SMALL.spacing_mm))
    assert sorted(read) == ["img0000", "img0002", "img0004", "img0006"]
    assert any(line.split() == ["c", "-", "-", "-"] for line in str(tables).splitlines())  # an organ that none has
