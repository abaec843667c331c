"""Checkpoints are loaded completely or refused with the network unchanged; weights are saved and found."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from urllib.error import ContentTooShortError, URLError

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, LAYOUTS, btcv, extra, only, prefixed, response, written
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from swinunetr import checkpoints
from swinunetr.checkpoints import (
    build_swinunetr,
    compare_responses,
    encoder_response,
    find_checkpoint,
    load_pretrained,
    save_weights,
)
from swinunetr.errors import CheckpointError
from swinunetr.network import LegacyPatchMerging

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_half_precision_weights_are_converted_to_float32(originals, tmp_path):
    halved = {n: t.half() if t.is_floating_point() else t for n, t in originals["v1"].state_dict().items()}
    file = written(tmp_path, LAYOUTS["bare state dict"], halved)
    model = build_swinunetr(14, file)
    load_pretrained(model, file)
    own = model.state_dict()
    assert own["out.conv.conv.weight"].dtype == torch.float32
    assert all(torch.equal(own[name], tensor.to(own[name].dtype)) for name, tensor in halved.items())


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numbers_of_numpy_1_and_2_beside_the_tensors_are_ignored(core, originals, tmp_path):
    file = tmp_path / "btcv.pt"
    content = btcv(originals["v1"].state_dict()) | {"step": np.int64(3), "loss": np.float32(0.5)}
    torch.save(content, file, _use_new_zipfile_serialization=False)  # no checksum, so it can be edited
    written_as = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    file.write_bytes(file.read_bytes().replace(written_as + b".multiarray", core.encode() + b".multiarray"))
    report = load_pretrained(build_swinunetr(14, file), file)
    assert set(report.ignored) == {"epoch", "best_acc", "history", "step", "loss"}


class MaliciousPickle:
    """Pickle that makes a folder next to the file if it is run."""

    def __init__(self, file):
        self.folder = str(file) + ".ran"

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def saved(make):
    return lambda file, state: torch.save(make(state), file)


def raw(content):
    return lambda file, state: file.write_bytes(content)


def truncated(zipped):
    def write(file, state):
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        file.write_bytes(file.read_bytes()[:-100_000])

    return write


def plain_zip(file, state):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def diverged(state):
    return state | {"encoder2.layer.conv1.conv.weight": torch.full((12, 12, 3, 3, 3), float("nan"))}


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


TRACED = torch.jit.trace(nn.Linear(1, 1), torch.ones(1))

BAD_FILES = {
    "no file": (lambda file, state: None, "no file"),
    "a folder": (lambda file, state: file.mkdir(), "a folder"),
    "empty": (raw(b""), "an empty file"),
    "web page": (raw(b"\n<!DOCTYPE html><html>Not Found</html>"), "a web page"),
    "lfs pointer": (raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "a Git LFS pointer"),
    "incomplete": (truncated(zipped=True), "an incomplete PyTorch file"),
    "incomplete, old serialization": (truncated(zipped=False), "a damaged file"),
    "plain zip": (plain_zip, "a zip archive"),
    "safetensors": (raw((9).to_bytes(8, "little") + b'{"a": {} }'), "a safetensors file"),
    "random bytes": (raw(bytes(range(100, 200))), "a damaged file"),
    "torchscript": (lambda file, state: TRACED.save(file), "a TorchScript program"),
    "code": (lambda file, state: torch.save({"state_dict": MaliciousPickle(file)}, file), "mkdir.*did not run"),
    "code, plain pickle": (
        lambda file, state: file.write_bytes(pickle.dumps(MaliciousPickle(file), 2)),
        "mkdir.*did not run",
    ),
    "module": (saved(lambda state: nn.Linear(1, 1)), "a pickled module"),
    "one tensor": (saved(lambda state: torch.ones(3)), "a saved Tensor"),
    "nothing": (saved(lambda state: {}), "nothing"),
    "optimizer": (saved(lambda state: torch.optim.SGD([torch.ones(1)]).state_dict()), "the state of an optimizer"),
    "unknown wrapper": (saved(lambda state: {"ema": state}), "it has ema"),
    "unknown prefix": (saved(lambda state: prefixed(state, "net0.")), "unknown prefix"),
    "one unmatched tensor": (saved(lambda state: state | extra("extra.weight")), "unmatched tensors: extra.weight"),
    "a name twice": (saved(lambda state: state | prefixed(state, "module.")), "unmatched tensors"),
    "decoder only": (saved(lambda state: only(state, "decoder")), "with these parts only: decoder"),
    "one missing": (saved(without("decoder3.transp_conv.conv.weight")), r"transp_conv.conv.weight is missing"),
    "first missing": (saved(without("swinViT.patch_embed.proj.weight")), "without .*proj.weight"),
    "deeper": (saved(lambda state: state | extra("swinViT.layers1.0.blocks.2.norm1.bias")), "blocks.2.norm1.bias"),
    "diverged": (saved(diverged), "NaN or infinity in encoder2.layer.conv1.conv.weight"),
    "unetr": (saved(lambda state: SMALL_UNETR.state_dict()), "a UNETR"),
    "vit": (saved(lambda state: extra("cls_token", "patch_embedding.cls_token")), "vision transformer"),
    "nnunet": (saved(lambda state: {"network_weights": extra("encoder.stages.0.0.convs.0.conv.weight")}), "nnU-Net"),
    "resnet": (saved(lambda state: prefixed(extra("conv1.weight", "layer1.0.conv1.weight"), "module.")), "ResNet"),
    "disruptive": (saved(lambda state: {"model": extra("encoder.patch_embed.proj.conv1.weight")}), "Disruptive"),
}

SMALL_UNETR = UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2)


@pytest.fixture(scope="module")
def target():
    return build_swinunetr(14, feature_size=12, merging="legacy")


def check_refused(model, file, match):
    """Check that loading raises a complete message and leaves the network unchanged."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        load_pretrained(model, file)
    message = str(caught.value)
    assert message.startswith(str(file)) and "this seems to be" in message and "Expected" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("write, match", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_refused_by_name_and_the_network_is_unchanged(write, match, target, originals, tmp_path):
    file = tmp_path / "suspect.pt"
    write(file, dict(originals["v1"].state_dict()))
    check_refused(target, file, match)
    assert not Path(f"{file}.ran").exists()


def test_malicious_pickle_runs_in_plain_pickle(tmp_path):
    malicious = MaliciousPickle(tmp_path / "file")
    pickle.loads(pickle.dumps(malicious))
    assert Path(malicious.folder).exists()


OTHER_SIZES = {
    "feature_size is 12, but 24 in the network": {"feature_size": 24},
    "in_channels is 1, but 2 in the network": {"in_channels": 2},
    "window_size is 7, but 4 in the network": {"window_size": 4},
}


@pytest.mark.parametrize("match, options", OTHER_SIZES.items(), ids=OTHER_SIZES)
def test_network_of_another_size_is_refused_when_built_and_when_loaded(match, options, originals, tmp_path):
    file = written(tmp_path, LAYOUTS["swinvit_5k"], originals["v1"].state_dict())
    with pytest.raises(CheckpointError, match=match):
        build_swinunetr(14, file, **options)
    model = build_swinunetr(14, **{"feature_size": 12, "merging": "legacy"} | options)
    check_refused(model, file, match)


def test_v2_weights_are_refused_by_a_v1_network(target, originals, tmp_path):
    check_refused(
        target,
        written(tmp_path, LAYOUTS["voco"], originals["v2"].state_dict()),
        "use_v2 is True, but False in the network",
    )


def test_unknown_merging_and_wrapped_network_are_refused(target):
    with pytest.raises(ValueError, match="'legacy', 'current'.*found 'mergingv2'"):
        build_swinunetr(2, merging="mergingv2")
    with pytest.raises(TypeError, match="without a wrapper, found DataParallel"):
        load_pretrained(nn.DataParallel(target), "any.pt")


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


def test_merging_that_contradicts_the_file_is_refused(target, tmp_path):
    file = tmp_path / "own.pth"
    save_weights(target, file)
    with pytest.raises(CheckpointError, match="merging is legacy, but current in the network"):
        build_swinunetr(14, file, merging="current")


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


COMPLETE_FILE = b"stands for 719 MB"


@pytest.fixture
def network(monkeypatch):
    """Replace the internet access of MONAI's ``download_url``; ``send`` is what a download does."""

    class Network:
        calls = 0

        def send(self, path):
            Path(path).write_bytes(COMPLETE_FILE)

    network = Network()

    def urlretrieve(url, path, reporthook=None):
        network.calls += 1
        network.send(path)

    monkeypatch.setattr("monai.apps.utils.urlretrieve", urlretrieve)
    monkeypatch.setattr(checkpoints, "SSL_50K_SHA256", hashlib.sha256(COMPLETE_FILE).hexdigest())
    return network


def test_short_name_is_downloaded_once_into_the_cache(network, tmp_path):
    file = find_checkpoint("ssl_50k", tmp_path / "cache")
    assert file == tmp_path / "cache" / "ssl_pretrained_weights.pth" == find_checkpoint("ssl_50k", tmp_path / "cache")
    assert (file.read_bytes(), network.calls) == (COMPLETE_FILE, 1)


def offline(path):
    raise URLError("Name or service not known")


def interrupted(path):
    Path(path).write_bytes(COMPLETE_FILE[:8])
    raise ContentTooShortError("got 8 of 17 bytes", None)


def altered(path):
    Path(path).write_bytes(COMPLETE_FILE[:8])


@pytest.mark.parametrize("send", [offline, interrupted, altered])
def test_failed_download_says_what_to_download_and_leaves_no_file(send, network, tmp_path):
    network.send = send
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("ssl_50k", tmp_path)
    message = str(caught.value)
    assert checkpoints.SSL_50K_URL in message and checkpoints.SSL_50K_SHA256 in message
    assert str(tmp_path / "ssl_pretrained_weights.pth") in message
    assert list(tmp_path.iterdir()) == []


def test_incomplete_file_in_the_cache_is_refused(network, tmp_path):
    (tmp_path / "ssl_pretrained_weights.pth").write_bytes(COMPLETE_FILE[:8])
    with pytest.raises(CheckpointError, match="incomplete or changed file.*Delete it"):
        find_checkpoint("ssl_50k", tmp_path)
    assert network.calls == 0


def test_path_is_returned_unchanged_and_must_exist(tmp_path):
    file = tmp_path / "weights.pt"
    file.touch()
    assert find_checkpoint(str(file)) == file
    with pytest.raises(CheckpointError, match="no file.*ssl_50k"):
        find_checkpoint(tmp_path / "elsewhere.pt")


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
