"""Checkpoints are loaded whole or refused with the network unchanged; saved and found."""

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


def test_a_network_with_todays_merging_is_not_given_older_weights(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["1, 5c"], originals["v1"].state_dict())
    model = SwinUNETR(1, 14, feature_size=12)
    with pytest.raises(CheckpointError, match="merging is legacy, not current.*build_swinunetr"):
        load_pretrained(model, file)


def test_without_its_decoder_a_file_leaves_decoder_and_head_as_they_were(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["3, 5b"], originals["v1"].state_dict())
    model = build_swinunetr(14, file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_pretrained(model, file, decoder=False)
    for name, tensor in model.state_dict().items():
        source = before if name.startswith(("decoder", "out.")) else originals["v1"].state_dict()
        assert torch.equal(tensor, source[name])
    assert len(report.loaded) == 137 and len(report.dropped) == len(report.left_random) == 22
    assert "no decoder was asked for" in str(report) and "0 of 20" in str(report)


def test_half_precision_weights_are_cast_to_the_networks_type(originals, tmp_path):
    halved = {n: t.half() if t.is_floating_point() else t for n, t in originals["v1"].state_dict().items()}
    file = written(tmp_path, LAYOUTS["4, bare"], halved)
    model = build_swinunetr(14, file)
    load_pretrained(model, file)
    own = model.state_dict()
    assert own["out.conv.conv.weight"].dtype == torch.float32
    assert all(torch.equal(own[name], tensor.to(own[name].dtype)) for name, tensor in halved.items())


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numpy_numbers_beside_the_tensors_load_by_the_names_of_numpy_1_and_2(core, originals, tmp_path):
    file = tmp_path / "btcv.pt"
    content = btcv(originals["v1"].state_dict()) | {"step": np.int64(3), "loss": np.float32(0.5)}
    torch.save(content, file, _use_new_zipfile_serialization=False)  # whose pickle is not checksummed
    written_as = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    file.write_bytes(file.read_bytes().replace(written_as + b".multiarray", core.encode() + b".multiarray"))
    report = load_pretrained(build_swinunetr(14, file), file)
    assert set(report.ignored) == {"epoch", "best_acc", "history", "step", "loss"}


class Evil:
    """Make a folder named after the file, should anybody run this pickle."""

    def __init__(self, file):
        self.folder = str(file) + ".ran"

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def saved(make):
    return lambda file, state: torch.save(make(state), file)


def raw(content):
    return lambda file, state: file.write_bytes(content)


def cut(zipped):
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
    "cut off": (cut(zipped=True), "cut off"),
    "cut off, before zip": (cut(zipped=False), "a damaged file"),
    "plain zip": (plain_zip, "a zip archive"),
    "safetensors": (raw((9).to_bytes(8, "little") + b'{"a": {} }'), "a safetensors file"),
    "random bytes": (raw(bytes(range(100, 200))), "a damaged file"),
    "torchscript": (lambda file, state: TRACED.save(file), "a TorchScript program"),
    "code": (lambda file, state: torch.save({"state_dict": Evil(file)}, file), "mkdir.*did not run"),
    "code, plain pickle": (lambda file, state: file.write_bytes(pickle.dumps(Evil(file), 2)), "mkdir.*did not run"),
    "module": (saved(lambda state: nn.Linear(1, 1)), "a whole pickled module"),
    "one tensor": (saved(lambda state: torch.ones(3)), "a saved Tensor"),
    "nothing": (saved(lambda state: {}), "nothing"),
    "optimizer": (saved(lambda state: torch.optim.SGD([torch.ones(1)]).state_dict()), "the state of an optimizer"),
    "unknown wrapper": (saved(lambda state: {"ema": state}), "it has ema"),
    "unknown prefix": (saved(lambda state: prefixed(state, "net0.")), "unknown prefix"),
    "one stranger": (saved(lambda state: state | extra("extra.weight")), "no place for extra.weight"),
    "a name twice": (saved(lambda state: state | prefixed(state, "module.")), "no place for"),
    "half a network": (saved(lambda state: only(state, "decoder")), "no more than decoder"),
    "one lost": (saved(without("decoder3.transp_conv.conv.weight")), r"transp_conv.conv.weight is missing"),
    "first lost": (saved(without("swinViT.patch_embed.proj.weight")), "without .*proj.weight"),
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


def refused_unchanged(model, file, match):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        load_pretrained(model, file)
    message = str(caught.value)
    assert message.startswith(str(file)) and "this seems to be" in message and "Expected" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("write, match", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_by_name_and_the_network_stays_as_it_was(write, match, target, originals, tmp_path):
    file = tmp_path / "suspect.pt"
    write(file, dict(originals["v1"].state_dict()))
    refused_unchanged(target, file, match)
    assert not Path(f"{file}.ran").exists()


def test_the_malicious_pickle_would_have_run(tmp_path):
    evil = Evil(tmp_path / "file")
    pickle.loads(pickle.dumps(evil))
    assert Path(evil.folder).exists()


OTHER_BUILDS = {
    "feature_size is 12, not 24": {"feature_size": 24},
    "in_channels is 1, not 2": {"in_channels": 2},
    "window_size is 7, not 4": {"window_size": 4},
}


@pytest.mark.parametrize("match, options", OTHER_BUILDS.items(), ids=OTHER_BUILDS)
def test_another_build_is_refused_on_building_and_on_loading(match, options, originals, tmp_path):
    file = written(tmp_path, LAYOUTS["2"], originals["v1"].state_dict())
    with pytest.raises(CheckpointError, match=match):
        build_swinunetr(14, file, **options)
    model = build_swinunetr(14, **{"feature_size": 12, "merging": "legacy"} | options)
    refused_unchanged(model, file, match)


def test_v2_weights_are_refused_by_a_v1_network(target, originals, tmp_path):
    refused_unchanged(
        target, written(tmp_path, LAYOUTS["6a"], originals["v2"].state_dict()), "use_v2 is True, not False"
    )


def test_an_unknown_merging_and_a_wrapped_network_are_refused(target):
    with pytest.raises(ValueError, match="'legacy', 'current'.*found 'mergingv2'"):
        build_swinunetr(2, merging="mergingv2")
    with pytest.raises(TypeError, match="without a wrapper, found DataParallel"):
        load_pretrained(nn.DataParallel(target), "any.pt")


@pytest.mark.parametrize("merging", ["legacy", "current"])
def test_saved_weights_load_in_plain_monai_and_say_their_merging(merging, tmp_path):
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


def test_a_saved_merging_cannot_be_overruled(target, tmp_path):
    file = tmp_path / "own.pth"
    save_weights(target, file)
    with pytest.raises(CheckpointError, match="merging is legacy, not current"):
        build_swinunetr(14, file, merging="current")


def test_a_failed_save_leaves_the_older_file_whole(target, tmp_path, monkeypatch):
    file = tmp_path / "own.pth"
    save_weights(target, file)
    before = file.read_bytes()

    def full_disk(state, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(target, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]


WHOLE_FILE = b"stands for 719 MB"


@pytest.fixture
def network(monkeypatch):
    """Replace the network below MONAI's download_url: set `.send` to what a download does."""

    class Network:
        calls = 0

        def send(self, path):
            Path(path).write_bytes(WHOLE_FILE)

    network = Network()

    def urlretrieve(url, path, reporthook=None):
        network.calls += 1
        network.send(path)

    monkeypatch.setattr("monai.apps.utils.urlretrieve", urlretrieve)
    monkeypatch.setattr(checkpoints, "SSL_50K_SHA256", hashlib.sha256(WHOLE_FILE).hexdigest())
    return network


def test_the_short_name_is_downloaded_once_into_the_cache(network, tmp_path):
    file = find_checkpoint("ssl_50k", tmp_path / "cache")
    assert file == tmp_path / "cache" / "ssl_pretrained_weights.pth" == find_checkpoint("ssl_50k", tmp_path / "cache")
    assert (file.read_bytes(), network.calls) == (WHOLE_FILE, 1)


def offline(path):
    raise URLError("Name or service not known")


def interrupted(path):
    Path(path).write_bytes(WHOLE_FILE[:8])
    raise ContentTooShortError("got 8 of 17 bytes", None)


def altered(path):
    Path(path).write_bytes(WHOLE_FILE[:8])


@pytest.mark.parametrize("send", [offline, interrupted, altered])
def test_a_download_that_fails_says_what_to_fetch_and_leaves_no_file(send, network, tmp_path):
    network.send = send
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("ssl_50k", tmp_path)
    message = str(caught.value)
    assert checkpoints.SSL_50K_URL in message and checkpoints.SSL_50K_SHA256 in message
    assert str(tmp_path / "ssl_pretrained_weights.pth") in message
    assert list(tmp_path.iterdir()) == []


def test_half_a_file_in_the_cache_is_not_taken_for_a_whole_one(network, tmp_path):
    (tmp_path / "ssl_pretrained_weights.pth").write_bytes(WHOLE_FILE[:8])
    with pytest.raises(CheckpointError, match="half or changed file.*Delete it"):
        find_checkpoint("ssl_50k", tmp_path)
    assert network.calls == 0


def test_a_path_is_returned_as_it_is_and_must_exist(tmp_path):
    file = tmp_path / "weights.pt"
    file.touch()
    assert find_checkpoint(str(file)) == file
    with pytest.raises(CheckpointError, match="no file.*ssl_50k"):
        find_checkpoint(tmp_path / "elsewhere.pt")


def test_the_encoder_answers_otherwise_after_loading_and_is_told_apart_if_not(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["1, 5c"], originals["v1"].state_dict())
    model = build_swinunetr(5, file)
    patch = IMAGE[:, :1]
    before = encoder_response(model, patch)
    load_pretrained(model, file)
    after = encoder_response(model, patch)
    assert [tuple(features.shape[1:]) for features in after][0] == (12, 32, 16, 16)
    assert compare_responses(before, after).count("changed by") == 5
    torch.testing.assert_close(after, encoder_response(originals["v1"], patch))
    with pytest.raises(CheckpointError, match="Stage 0"):
        compare_responses(before, before)
