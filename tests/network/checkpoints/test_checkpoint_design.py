"""The design of a network, seen in the shapes of its tensors."""

import pytest
from monai.networks.nets import SwinUNETR

from swinunetr.network.checkpoints.recognition import unusual_design


@pytest.mark.parametrize(
    "options, found",
    [
        ({"spatial_dims": 2}, ["2D"]),
        ({"depths": (2, 2, 6, 2)}, ["depths 2, 2, 6, 2"]),
        ({"num_heads": (2, 4, 8, 16), "feature_size": 24}, ["heads 2, 4, 8, 16"]),
        ({"window_size": (4, 4, 2)}, ["a window that is not cubic"]),
        ({"window_size": 5, "use_v2": True, "in_channels": 3}, []),
    ],
)
def test_another_design_is_seen_in_the_tensors(options, found):
    network = SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12} | options)
    assert unusual_design(network.state_dict()) == found
