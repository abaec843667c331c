"""Every public checkpoint layout, written here from known networks, arrives whole; every other file is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import ContentTooShortError, URLError

import numpy as np
import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import swinunetr_weights as weights
from swinunetr_weights import CheckpointError, build_swinunetr, find_checkpoint, load_pretrained, save_weights

IMAGE = torch.rand(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(7))  # the bottleneck has two voxels


class OracleMerging(nn.Module):
    """State MONAI 0.9's order once more, by indexing: (d, h, w) offsets of slots 0 to 7."""

    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

    def forward(self, x):
        slots = []
        for offset in ("000", "100", "010", "001", "101", "010", "001", "111"):
            d, h, w = (torch.arange(int(digit), size, 2) for digit, size in zip(offset, x.shape[1:4], strict=True))
            slots.append(x[:, d][:, :, h][:, :, :, w])
        return self.reduction(self.norm(torch.cat(slots, dim=-1)))


def known_network(classes=14, in_channels=1, **options):
    """Build a small network no two tensors of which are alike: fresh norms and biases would hide a swap."""
    torch.manual_seed(3)
    model = SwinUNETR(in_channels, classes, feature_size=12, **{"downsample": OracleMerging} | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep to one thread: tensors this small make several of them wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def originals():
    return {
        "v1": known_network(),
        "v2": known_network(use_v2=True),
        "four channels": known_network(classes=3, in_channels=4),
        "current": known_network(downsample="merging"),
    }


# --- Each layout, from a plain state_dict ----------------------------------------------------------------------------


def extra(*names):
    return {name: torch.full((3,), float(number)) for number, name in enumerate(names)}


def pair(*names):
    return extra(*(f"{name}.{kind}" for name in names for kind in ("weight", "bias")))


def only(state, *prefixes):
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def buffers_first(state):
    return dict(sorted(state.items(), key=lambda item: item[1].is_floating_point()))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def renamed(state, *changes):
    for old, new in changes:
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


BODY = ("swinViT.", "encoder", "decoder")
TEXT_HEADS = extra("organ_embedding") | pair(
    "precls_conv.0", "precls_conv.2", "GAP.0", "GAP.3", "controller", "text_to_vision"
)
PRETEXT = pair("rotation_head", "contrastive_head")
VAE_HEAD = pair(*(f"conv.{number}" for number in (0, 4, 8, 12, 16, 20)))


def ssl_50k(state):
    inner = renamed(only(state, *BODY), ("swinViT.", "encoder."))
    inner = {
        name.replace(".0.", ".0.0.", 1) if name.startswith("encoder.layers") else name: t for name, t in inner.items()
    }
    head = {"out.conv.conv.weight": torch.ones(1, 12, 1, 1, 1), "out.conv.conv.bias": torch.ones(1)}
    return {"model": extra("encoder.mask_token") | inner | pair("encoder.norm") | head, "epoch": 7}


def swinvit_5k(state):
    bare = renamed(only(state, "swinViT."), ("swinViT.", ""), ("mlp.linear", "mlp.fc"))
    return {"state_dict": prefixed(bare | pair("norm", "convTrans3d") | PRETEXT, "module."), "epoch": 7}


def ssl_head(state):
    return {"state_dict": only(state, "swinViT.") | PRETEXT | VAE_HEAD, "optimizer": {"state": {}}}


def ssl_head_old(state):
    return prefixed(renamed(only(state, "swinViT."), ("swinViT.", "swin_vit.")) | PRETEXT | VAE_HEAD, "module.")


def brainsegfounder(state):
    return {"state_dict": prefixed(PRETEXT | VAE_HEAD | only(state, "swinViT."), "module.")}


def btcv(state):
    return {"epoch": 4999, "state_dict": state, "best_acc": np.float64(0.8), "history": np.arange(3.0)}


def suprem(state):
    return {"net": prefixed(TEXT_HEADS | prefixed(only(state, *BODY), "backbone."), "module."), "epoch": 2100}


def universal(state):
    return {"net": prefixed(TEXT_HEADS | only(state, *BODY), "module.")}


def voco(state):
    return only(state, "swinViT.", "encoder")


def voco_student(state):
    return {"state_dict": prefixed(prefixed(renamed(voco(state), ("swinViT", "swin_vit")), "module."), "student.")}


@dataclass(frozen=True)
class Layout:
    """What a layout holds: tensors in the file, and how many of them SwinUNETR has a place for."""

    write: callable
    family: str
    tensors: int
    loaded: int
    covers: str  # the last part of the network that it fills: "swinViT", "encoder", "decoder" or "head"
    original: str = "v1"
    zipped: bool = True


LAYOUTS = {
    "1, 5c": Layout(ssl_50k, "ssl_50k", 162, 157, "decoder"),
    "2": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT"),
    "2, before zip": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT", zipped=False),
    "2b": Layout(ssl_head, "ssl_head", 142, 126, "swinViT"),
    "2b, bare, old names": Layout(ssl_head_old, "ssl_head", 142, 126, "swinViT"),
    "3, 5b": Layout(btcv, "swinunetr", 159, 159, "head"),
    "3b": Layout(btcv, "swinunetr", 159, 159, "head", "four channels"),
    "4, bundle": Layout(lambda state: {"model": state}, "swinunetr", 159, 159, "head"),
    "4, bare": Layout(dict, "swinunetr", 159, 159, "head"),
    "5a, 7 retrained": Layout(suprem, "universal", 170, 157, "decoder"),
    "6a": Layout(voco, "voco", 145, 145, "encoder", "v2"),
    "6a, student": Layout(voco_student, "voco", 145, 145, "encoder", "v2"),
    "6c": Layout(dict, "swinunetr_v2", 167, 167, "head", "v2"),
    "7": Layout(universal, "universal", 170, 157, "decoder"),
    "9": Layout(brainsegfounder, "ssl_head", 142, 126, "swinViT", "four channels"),
}


def written(tmp_path, layout, state, name="weights.pt"):
    file = tmp_path / name
    torch.save(layout.write(buffers_first(state)), file, _use_new_zipfile_serialization=layout.zipped)
    return file


@torch.inference_mode()
def response(model, covers):
    """Return what the network computes with the parts that a layout fills, and no others."""
    image = IMAGE[:, : model.swinViT.patch_embed.proj.in_channels]
    model.eval()
    if covers == "head":
        return [model(image)]
    if covers == "decoder":
        kept = []
        with model.decoder1.register_forward_hook(lambda *call: kept.append(call[-1])):
            model(image)
        return kept
    features = model.swinViT(image)
    return features if covers == "swinViT" else [*features, model.encoder1(image), model.encoder10(features[4])]


@pytest.fixture(scope="module")
def expected(originals):
    return cache(lambda original, covers: response(originals[original], covers))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_public_layout_arrives_bit_for_bit_and_computes_what_it_was_trained_to(layout, originals, expected, tmp_path):
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


def test_todays_merging_equals_monai_to_the_last_bit_and_the_older_order_differs(originals, tmp_path):
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


def test_a_network_with_todays_merging_is_not_given_older_weights(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["1, 5c"], originals["v1"].state_dict())
    model = SwinUNETR(1, 14, feature_size=12)
    with pytest.raises(CheckpointError, match="merging is legacy, not current.*build_swinunetr"):
        load_pretrained(model, file)


def test_the_older_merging_concatenates_the_eight_corners_in_the_order_of_the_table():
    merging = weights.LegacyPatchMerging(dim=1)
    merging.norm = merging.reduction = nn.Identity()
    volume = torch.tensor([[[[100 * d + 10 * h + w] for w in (0, 1)] for h in (0, 1)] for d in (0, 1, 2)])[None]
    merged = merging(volume)  # three slices along d: the fourth is padding
    assert merged.reshape(2, 8).tolist() == [[0, 100, 10, 1, 101, 10, 1, 111], [200, 0, 210, 201, 0, 210, 201, 0]]


# --- Heads, types and what else a file may hold ----------------------------------------------------------------------


def test_a_head_for_other_classes_is_dropped_and_the_report_says_why(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["3, 5b"], originals["v1"].state_dict())
    model = build_swinunetr(5, file)
    report = load_pretrained(model, file)
    head = {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert report.dropped.keys() == report.left_random.keys() == head
    assert len(report.loaded) == 157
    text = str(report)
    assert "made for 14 classes" in text and "20 of  20" in text and "0 of   2" in text


def test_the_reconstruction_head_is_not_taken_for_a_one_class_head(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["1, 5c"], originals["v1"].state_dict())
    model = build_swinunetr(1, file)
    before = model.state_dict()["out.conv.conv.weight"].clone()
    report = load_pretrained(model, file)
    assert "out.conv.conv.weight" in report.dropped
    assert torch.equal(model.state_dict()["out.conv.conv.weight"], before)


def test_without_its_decoder_a_file_leaves_decoder_and_head_as_they_were(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["3, 5b"], originals["v1"].state_dict())
    model = build_swinunetr(14, file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_pretrained(model, file, decoder=False)
    for name, tensor in model.state_dict().items():
        source = before if name.startswith(("decoder", "out.")) else originals["v1"].state_dict()
        assert torch.equal(tensor, source[name])
    assert len(report.loaded) == 137 and len(report.dropped) == len(report.left_random) == 22
    assert "no decoder was asked for" in str(report) and "0 of  20" in str(report)


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


# --- Refusals --------------------------------------------------------------------------------------------------------


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
    "web page": (raw(b"\n<!DOCTYPE html><html>Not Found</html>"), "a saved web page"),
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


# --- Saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merging", ["legacy", "current"])
def test_saved_weights_load_in_plain_monai_and_say_their_merging(merging, tmp_path):
    model, file = build_swinunetr(3, feature_size=12, merging=merging), tmp_path / "best_model.pth"
    save_weights(model, file)
    plain = torch.load(file, weights_only=True)
    downsample = weights.LegacyPatchMerging if merging == "legacy" else "merging"
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


# --- Finding ---------------------------------------------------------------------------------------------------------

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
    monkeypatch.setattr(weights, "SSL_50K_SHA256", hashlib.sha256(WHOLE_FILE).hexdigest())
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
    assert weights.SSL_50K_URL in message and weights.SSL_50K_SHA256 in message
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


# --- Seeing that it worked ------------------------------------------------------------------------------------------


def test_the_encoder_answers_otherwise_after_loading_and_is_told_apart_if_not(originals, tmp_path):
    file = written(tmp_path, LAYOUTS["1, 5c"], originals["v1"].state_dict())
    model = build_swinunetr(5, file)
    patch = IMAGE[:, :1]
    before = weights.encoder_response(model, patch)
    load_pretrained(model, file)
    after = weights.encoder_response(model, patch)
    assert [tuple(features.shape[1:]) for features in after][0] == (12, 32, 16, 16)
    assert weights.compare_responses(before, after).count("changed by") == 5
    torch.testing.assert_close(after, weights.encoder_response(originals["v1"], patch))
    with pytest.raises(CheckpointError, match="Stage 0"):
        weights.compare_responses(before, before)
