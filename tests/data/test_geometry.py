"""One affine for every use of a scan, and what its header says against it."""

import nibabel as nib
import numpy as np
import pytest
from conftest import SMALL, write_case
from nibabel.eulerangles import euler2mat

from swinunetr.data.geometry import other_spacing, tilt_degrees, turned_degrees, voxel_volume_mm3
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.results.evaluation import read_labels, score_case

LAS = np.array([[-1.5, 0, 0, 90], [0, 1.5, 0, -60], [0, 0, 2.0, -700], [0, 0, 0, 1]])
SHEARED = LAS @ np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_a_sheared_case_is_scored_in_mm(tmp_path):
    files = {kind: str(tmp_path / name) for kind, name in write_case(tmp_path, 1, affine=SHEARED).items()}
    (case,) = prepare_cases([{"name": "c", **files}], SMALL, "CT")
    affine = np.asarray(case["image"].affine)
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.diag(np.square(SMALL.spacing_mm)), atol=1e-6)
    labels = read_labels(files["label"])
    labels[40:60, 20:40, 48:50] = 0  # the last two slices of the right box
    _, right = score_case(case, case["label"].as_tensor()[0].long(), labels, ("left box", "right box"))
    assert right["volume_true_ml"] == pytest.approx(20 * 20 * 20 * 4.5e-3)
    assert right["hd95_mm"] == pytest.approx(2 * 2.0, abs=0.01)  # straight down; along the slice axis it is 5 mm


def test_the_volume_of_a_voxel_is_by_the_determinant():
    assert voxel_volume_mm3(LAS) == voxel_volume_mm3(SHEARED) == pytest.approx(4.5)


def test_the_tilt_of_a_scan_is_its_largest_angle_from_right_angles():
    assert tilt_degrees(LAS) == 0
    assert tilt_degrees(SHEARED) == pytest.approx(np.degrees(np.arctan(1.5 / 2 * 0.5)))
    oblique = euler2mat(0.3, -0.2, 0.1) @ LAS[:3, :3]
    assert tilt_degrees(oblique.astype(np.float32)) < 1e-4 and tilt_degrees(oblique.round(2)) < 0.5


def test_a_spacing_that_prints_alike_is_the_same():
    header = nib.Nifti1Header()
    header["pixdim"][1:4] = 1.501, 1.4995, 2
    assert other_spacing(header, LAS) is None
    header["pixdim"][3] = 2.5
    np.testing.assert_allclose(other_spacing(header, LAS), [1.501, 1.4995, 2.5])


def test_sform_and_qform_are_compared_only_where_both_are_set():
    header = nib.Nifti1Header()
    header.set_sform(LAS, 1)
    assert turned_degrees(header) == 0
    header.set_qform(np.diag([1.5, 1.5, 2, 1]), 1)
    assert turned_degrees(header) == pytest.approx(180)
    header.set_qform(LAS, 1)
    assert turned_degrees(header) == pytest.approx(0, abs=1e-3)
    header.set_sform(None, 0)
    assert turned_degrees(header) == 0
