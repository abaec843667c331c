"""Patch merging in the order of the public checkpoints."""

import torch
from torch import nn

from swinunetr.network.legacy_merging import LegacyPatchMerging


def test_legacy_merging_concatenates_the_eight_sub_volumes_in_the_documented_order():
    merging = LegacyPatchMerging(dim=1)
    merging.norm = merging.reduction = nn.Identity()
    volume = torch.tensor([[[[100 * d + 10 * h + w] for w in (0, 1)] for h in (0, 1)] for d in (0, 1, 2)])[None]
    merged = merging(volume)  # d has three slices, so the fourth is padding
    assert merged.reshape(2, 8).tolist() == [[0, 100, 10, 1, 101, 10, 1, 111], [200, 0, 210, 201, 0, 210, 201, 0]]
