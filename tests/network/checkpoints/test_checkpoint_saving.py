"""Saved weights load in plain MONAI, with notes that only this project reads."""

import pytest
import torch
from checkpoint_files import response
from monai.networks.nets import SwinUNETR

from swinunetr.network.checkpoints import (
    build_swinunetr,
    load_pretrained,
    save_weights,
    training_note,
)
from swinunetr.network.merging import LegacyPatchMerging


@pytest.fixture(scope="module")
def target():
    return build_swinunetr(14, feature_size=12, merging="legacy")


@pytest.mark.parametrize("merging", ["legacy", "current"])
def test_saved_weights_load_in_plain_monai_and_note_their_merging(merging, tmp_path):
    model, file = build_swinunetr(3, feature_size=12, merging=merging), tmp_path / "best_model.pth"
    save_weights(model, file)
    plain = torch.load(file, weights_only=True)
    downsample = LegacyPatchMerging if merging == "legacy" else "merging"
    monai = SwinUNETR(1, 3, feature_size=12, downsample=downsample)
    assert monai.load_state_dict(plain).missing_keys == []
    again = build_swinunetr(3, file)
    assert load_pretrained(again, file).merging == merging
    assert torch.equal(response(again, "head")[0], response(monai, "head")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.pth"]


def test_a_note_of_another_form_is_none(originals, tmp_path):
    state = originals["v1"].state_dict()
    state._metadata[""]["made_by"] = "a colleague"
    torch.save(state, tmp_path / "a.pth")
    assert training_note(tmp_path / "a.pth") == {}


def test_failed_save_keeps_the_old_file(target, tmp_path, monkeypatch):
    file = tmp_path / "own.pth"
    save_weights(target, file)
    before = file.read_bytes()

    def full_disk(state, path):
        path.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(target, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]
