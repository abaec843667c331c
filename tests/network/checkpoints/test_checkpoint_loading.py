"""What is loaded from a checkpoint, and what the report says of it."""

import zipfile

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, LAYOUTS, btcv, written
from monai.networks.nets import SwinUNETR

from swinunetr.errors import CheckpointError
from swinunetr.network.checkpoints import (
    build_swinunetr,
    compare_responses,
    encoder_response,
    load_pretrained,
    read_ensemble,
    save_weights,
)


@pytest.fixture(scope="module")
def target():
    return build_swinunetr(14, feature_size=12, merging="legacy")


POSITIONS = "swinViT.layers1.0.blocks.0.attn.relative_position_index"


def test_older_weights_are_refused_by_a_network_with_current_merging(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["ssl_50k"], originals["v1"].state_dict())
    model = SwinUNETR(1, 14, feature_size=12)
    with pytest.raises(CheckpointError, match="merging is legacy, but current in the network.*build_swinunetr"):
        load_pretrained(model, file)


def test_without_decoder_the_decoder_and_the_head_are_unchanged(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["btcv"], originals["v1"].state_dict())
    model = build_swinunetr(14, file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_pretrained(model, file, decoder=False)
    for name, tensor in model.state_dict().items():
        source = before if name.startswith(("decoder", "out.")) else originals["v1"].state_dict()
        assert torch.equal(tensor, source[name])
    assert len(report.loaded) == 137 and len(report.dropped) == len(report.left_random) == 22
    assert "the decoder was not requested" in str(report) and "0 of 20" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_converted_to_float32(dtype, originals, tmp_path):
    halved = {n: t.to(dtype) if t.is_floating_point() else t for n, t in originals["v1"].state_dict().items()}
    file = written(tmp_path, LAYOUTS["bare state dict"], halved)
    model = build_swinunetr(14, file)
    load_pretrained(model, file)
    own = model.state_dict()
    assert own["out.conv.conv.weight"].dtype == torch.float32
    assert all(torch.equal(own[name], tensor.to(own[name].dtype)) for name, tensor in halved.items())


def test_positions_in_a_window_that_half_precision_has_rounded_are_those_of_the_network(originals, tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in originals["v1"].state_dict().items()}
    file = written(tmp_path, LAYOUTS["bare state dict"], state)
    model = build_swinunetr(14, file)
    load_pretrained(model, file)
    assert not torch.equal(state[POSITIONS].long(), originals["v1"].state_dict()[POSITIONS])
    assert torch.equal(model.state_dict()[POSITIONS], originals["v1"].state_dict()[POSITIONS])


def test_a_file_that_was_packed_again_with_compression_is_read(target, originals, tmp_path):
    torch.save(originals["v1"].state_dict(), tmp_path / "stored.pth")
    stored = zipfile.ZipFile(tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert load_pretrained(target, tmp_path / "packed.pth").left_random == {}


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numbers_of_numpy_1_and_2_beside_the_tensors_are_ignored(core, originals, tmp_path):
    file = tmp_path / "btcv.pt"
    content = btcv(originals["v1"].state_dict()) | {"step": np.int64(3), "loss": np.float32(0.5)}
    torch.save(content, file, _use_new_zipfile_serialization=False)  # no checksum, so it can be edited
    written_as = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    file.write_bytes(file.read_bytes().replace(written_as + b".multiarray", core.encode() + b".multiarray"))
    report = load_pretrained(build_swinunetr(14, file), file)
    assert set(report.ignored) == {"epoch", "best_acc", "history", "step", "loss"}


def test_merging_that_contradicts_the_file_is_refused(target, tmp_path):
    file = tmp_path / "own.pth"
    save_weights(target, file)
    for read in (
        lambda: build_swinunetr(14, file, merging="current"),
        lambda: load_pretrained(target, file, merging="current"),
    ):
        with pytest.raises(CheckpointError, match="note legacy patch merging. Expected current.*Leave merging empty"):
            read()


def test_the_report_says_whether_the_merging_is_noted_given_or_assumed_and_whether_the_head_has_names(target, tmp_path):
    file = tmp_path / "own.pth"
    save_weights(target, file, note={"classes": [f"organ {number}" for number in range(14)]})
    classes = [f"organ {number}" for number in range(14)]
    text = str(load_pretrained(target, file, classes=classes))
    assert "patch merging: legacy\n" in text and "rows of the head, kept" in text
    torch.save(dict(torch.load(file, weights_only=True)), file)  # a copy without notes
    text = str(load_pretrained(target, file, classes=classes))
    assert 'legacy, assumed, as the file notes none; weights trained with MONAI 1.5 or later need merging="curr' in text
    assert "rows of the head: in the order of the file, which names no classes" in text
    current = build_swinunetr(14, file, merging="current")
    assert "patch merging: current, as given" in str(load_pretrained(current, file, merging="current"))
    with pytest.raises(CheckpointError, match="merging is legacy, but current in the network.*same merging in load_pr"):
        load_pretrained(current, file)


def test_encoder_response_changes_after_loading_and_an_unchanged_one_is_an_error(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["ssl_50k"], originals["v1"].state_dict())
    model = build_swinunetr(5, file)
    patch = IMAGE[:, :1]
    before = encoder_response(model, patch)
    load_pretrained(model, file)
    after = encoder_response(model, patch)
    assert [tuple(features.shape[1:]) for features in after][0] == (12, 32, 16, 16)
    assert compare_responses(before, after).count("changed by") == 5
    torch.testing.assert_close(after, encoder_response(originals["v1"], patch))
    with pytest.raises(CheckpointError, match="encoder stage 0 did not change: its weights were not loaded"):
        compare_responses(before, before)


def test_an_ensemble_has_the_rows_of_all_heads_in_one_order_and_one_kind_of_network(tmp_path):
    orders, networks = (("background", "liver", "spleen"), ("background", "spleen", "liver")), []
    for name, classes in zip("ab", orders, strict=True):
        networks.append(build_swinunetr(3, feature_size=12, window_size=4))
        save_weights(networks[-1], tmp_path / f"{name}.pth", note={"classes": classes})
    files = [tmp_path / "a.pth", tmp_path / "b.pth"]
    first, second = read_ensemble(files, orders[0], merging="legacy")  # which both files note otherwise
    head = "out.conv.conv.weight"
    assert torch.equal(first[head], networks[0].state_dict()[head])
    assert torch.equal(second[head], networks[1].state_dict()[head][[0, 2, 1]])
    save_weights(build_swinunetr(3, feature_size=24, window_size=4), tmp_path / "c.pth", note={"classes": orders[0]})
    with pytest.raises(CheckpointError, match="c.pth' is of another network than.*a.pth"):
        read_ensemble([files[0], tmp_path / "c.pth"], orders[0])
