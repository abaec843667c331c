"""The transforms of a case, and how intensities are scaled."""

import json

import pytest
from conftest import SMALL

from swinunetr.data.transforms import PERCENTILES, case_transforms, describe_scaling, intensity_window, preprocessing


@pytest.mark.parametrize("labelled", [True, False])
def test_the_list_can_be_stored_as_json_and_names_monais_transforms(labelled):
    transforms = case_transforms(SMALL, "CT", labelled)
    assert json.loads(json.dumps(transforms)) == transforms
    names = [transform["_target_"] for transform in transforms]
    assert names[:4] == ["LoadImaged", "EnsureChannelFirstd", "Orientationd", "Spacingd"]
    assert [type(transform).__name__ for transform in preprocessing(SMALL, "CT").transforms] == names


def test_other_modalities_than_ct_are_scaled_by_percentiles():
    assert intensity_window(SMALL, "CT scan") == SMALL.hu_window and intensity_window(SMALL, "MR") is None
    assert PERCENTILES == (0.5, 99.5)
    assert describe_scaling((-175.0, 250.0)) == "-175 HU to 250 HU scaled to 0 to 1 and clipped"
    words = "the 0.5th percentile to the 99.5th percentile scaled to 0 to 1 and clipped"
    assert describe_scaling(None) == words
