"""Both orders of patch merging."""

import torch
from checkpoint_files import response
from torch import nn

from swinunetr.network.checkpoints import build_swinunetr, load_pretrained
from swinunetr.network.merging import LegacyPatchMerging


def test_current_merging_equals_monai_exactly_and_legacy_merging_differs(originals, tmp_path):
    file = tmp_path / "elsewhere.pt"
    torch.save(originals["current"].state_dict(), file)
    outputs = {}
    for merging in ("current", "legacy"):
        model = build_swinunetr(14, file, merging=merging)
        assert load_pretrained(model, file, merging=merging).merging == merging
        outputs[merging] = response(model, "head")[0]
    monai = response(originals["current"], "head")[0]
    assert torch.equal(outputs["current"], monai)
    assert (outputs["legacy"] - monai).abs().max() > 0.1 * monai.std()


def test_legacy_merging_concatenates_the_eight_sub_volumes_in_the_documented_order():
    merging = LegacyPatchMerging(dim=1)
    merging.norm = merging.reduction = nn.Identity()
    volume = torch.tensor([[[[100 * d + 10 * h + w] for w in (0, 1)] for h in (0, 1)] for d in (0, 1, 2)])[None]
    merged = merging(volume)  # d has three slices, so the fourth is padding
    assert merged.reshape(2, 8).tolist() == [[0, 100, 10, 1, 101, 10, 1, 111], [200, 0, 210, 201, 0, 210, 201, 0]]
