"""Names of modalities: CT by any of its usual names, DICOM's names, and names of two."""

import pytest

from swinunetr.data.modality import dicom_modality, is_ct
from swinunetr.errors import InputError

CT = """CT|4D-CT|photon-counting CT|ct
CT scan|CT-scan|CTA|CT angiography|NCCT|nect|CECT|CBCT|HRCT|LDCT|MDCT|contrast-enhanced CT|abdominal CT
low-dose CT|Computed Tomography|computed tomography (CT)|Computerized tomography|computerised tomography|synthetic CT
computer tomography"""
OTHERS = {
    "MR": "MR|MRI|mri|T1 MRI|Magnetic Resonance|mr-t2",
    "PT": "PET|PT|positron emission tomography|FDG-PET",
    "NM": "SPECT|single photon emission computed tomography",
    "US": "US|ultrasound",
    "FLAIR": "flair",
    "OCT": "OCT",
    "NOCT": "noCT",
}


@pytest.mark.parametrize("name", CT.replace("\n", "|").split("|"))
def test_ct_is_recognised_by_its_names(name):
    assert is_ct(name) and dicom_modality(name) == "CT"


@pytest.mark.parametrize(("dicom", "names"), OTHERS.items(), ids=OTHERS)
def test_other_modalities_have_the_name_of_dicom(dicom, names):
    for name in names.split("|"):
        assert not is_ct(name) and dicom_modality(name) == dicom


@pytest.mark.parametrize(
    "name",
    [
        "PET/CT",
        "PET-CT",
        "PETCT",
        "pt/ct",
        "SPECT/CT",
        "CT and MR",
        "MR-CT",
        "CT/PET",
        "Positron emission tomography / computed tomography",
    ],
)
def test_a_name_of_two_modalities_is_refused(name):
    for read in (is_ct, dicom_modality):
        with pytest.raises(InputError, match="modality: .* names two modalities.*Write CT"):
            read(name)
