"""Every public checkpoint layout is recognised, and each of its tensors is loaded or dropped."""

from functools import cache

import pytest
import torch
from checkpoint_files import LAYOUTS, response, written

from swinunetr.network.checkpoints import build_swinunetr, load_pretrained


@pytest.fixture(scope="module")
def expected(originals):
    return cache(lambda original, covers: response(originals[original], covers))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_public_layout_loads_with_equal_tensors_and_equal_output(layout, originals, expected, tmp_path):
    original = originals[layout.original]
    state = original.state_dict()
    file = written(tmp_path, layout, state)
    in_channels = original.swinViT.patch_embed.proj.in_channels
    model = build_swinunetr(len(state["out.conv.conv.bias"]), file, in_channels=in_channels)
    report = load_pretrained(model, file)

    assert (report.family, report.merging) == (layout.family, "legacy")
    assert (len(report.loaded) + len(report.dropped), len(report.loaded)) == (layout.tensors, layout.loaded)
    own = model.state_dict()
    assert not report.loaded.keys() & report.dropped.keys()
    assert sorted([*report.loaded.values(), *report.left_random]) == sorted(own)
    assert all(torch.equal(own[name], state[name]) for name in report.loaded.values())
    for ours, theirs in zip(response(model, layout.covers), expected(layout.original, layout.covers), strict=True):
        assert torch.equal(ours, theirs)


def test_head_for_other_classes_is_dropped_with_a_reason(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["btcv"], originals["v1"].state_dict())
    model = build_swinunetr(5, file)
    report = load_pretrained(model, file)
    head = {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert report.dropped.keys() == report.left_random.keys() == head
    assert len(report.loaded) == 157
    text = str(report)
    assert "made for 14 classes" in text and "20 of 20" in text and "0 of 2" in text


def test_reconstruction_head_is_not_loaded_as_a_one_class_head(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["ssl_50k"], originals["v1"].state_dict())
    model = build_swinunetr(1, file)
    before = model.state_dict()["out.conv.conv.weight"].clone()
    report = load_pretrained(model, file)
    assert "out.conv.conv.weight" in report.dropped
    assert torch.equal(model.state_dict()["out.conv.conv.weight"], before)
