"""Reader of NIfTI files: the affine of nibabel, whatever else the header says."""

import nibabel as nib
import numpy as np
import pytest
from conftest import SMALL, write_case

from swinunetr.data.preprocessing import prepare_cases

LAS = np.array([[-1.5, 0, 0, 90], [0, 1.5, 0, -60], [0, 0, 2.0, -700], [0, 0, 0, 1]])


def rewrite(file, **fields):
    """Change fields of the header of an uncompressed file that nibabel would set itself."""
    content = bytearray(file.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    file.write_bytes(content)


UNSET = {f"quatern_{axis}": 0 for axis in "bcd"} | {f"qoffset_{axis}": 0 for axis in "xyz"} | {"qform_code": 0}
HEADERS = {
    "qform not set, pixdim rounded": UNSET | {"pixdim": [1, 1.501, 1.499, 2.003, 1, 1, 1, 1]},
    "sform against qform": {"qform_code": 1, "pixdim": [-1, 1.5, 1.5, 2.5, 1, 1, 1, 1]},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_case_is_preprocessed_with_the_affine_of_nibabel(tmp_path, header):
    files = {kind: tmp_path / name for kind, name in write_case(tmp_path, 1, affine=LAS).items()}
    entry = {"name": "c"}
    for kind, file in files.items():
        entry[kind] = str(tmp_path / f"{kind}.nii")
        nib.save(nib.load(file), entry[kind])
        rewrite(tmp_path / f"{kind}.nii", **header)
    (case,) = prepare_cases([entry], SMALL, "CT")
    np.testing.assert_allclose(case["image"].meta["original_affine"], LAS)
    (expected,) = prepare_cases([{"name": "c"} | {kind: str(file) for kind, file in files.items()}], SMALL, "CT")
    assert case["image"].equal(expected["image"]) and case["label"].equal(expected["label"])
