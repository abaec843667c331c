"""The median spacing of scans, along the axes of the body, from their headers."""

import numpy as np
import pytest
from nifti_files import ct, write

from swinunetr.data.spacing import median_spacing_of
from swinunetr.errors import InputError


def write_scans(folder, *affines) -> list[dict]:
    cases = []
    for number, affine in enumerate(affines):
        file = str(folder / f"scan{number}.nii.gz")
        write(file, ct(number), affine)
        cases.append({"name": f"scan{number}", "image": file, "label": "which is not read"})
    return cases


def test_each_axis_has_its_median(tmp_path):
    cases = write_scans(tmp_path, *(np.diag([*mm, 1]) for mm in [(0.7, 0.7, 5), (0.8, 0.8, 1.25), (0.912345, 0.9, 3)]))
    assert median_spacing_of(cases) == (0.8, 0.8, 3)
    assert median_spacing_of(cases[::2]) == (0.81, 0.8, 4)  # of 0.7 and 0.912345, to 0.01 mm


def test_axes_are_those_of_the_body_and_not_of_the_file(tmp_path):
    sagittal = np.zeros((4, 4))  # the file's axes run inferior, right to left and posterior
    sagittal[2, 0], sagittal[0, 1], sagittal[1, 2], sagittal[3, 3] = -3, -0.7, 0.9, 1
    assert median_spacing_of(write_scans(tmp_path, sagittal)) == (0.7, 0.9, 3)


def test_a_file_that_cannot_be_read_is_left_to_the_checks(tmp_path):
    cases = write_scans(tmp_path, np.diag([1, 1, 2, 1]), np.diag([4, 4, 4, 1]))
    (tmp_path / "scan1.nii.gz").write_bytes(b"")
    assert median_spacing_of(cases) == (1, 1, 2)
    with pytest.raises(InputError, match="found none to read: '.*scan1.nii.gz': an empty file, not a scan; copy or"):
        median_spacing_of(cases[1:])
