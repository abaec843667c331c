"""A file that does not fit is refused by what it is, and the network is unchanged."""

import gzip
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_files import LAYOUTS, extra, only, prefixed, written
from monai.networks.nets import UNETR
from torch import nn

from swinunetr.errors import CheckpointError
from swinunetr.network.checkpoints import (
    build_swinunetr,
    load_pretrained,
)


@pytest.fixture(scope="module")
def target():
    return build_swinunetr(14, feature_size=12, merging="legacy")


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


def of_weights(state, change):
    return {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


POSITIONS = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
TRACED = torch.jit.trace(nn.Linear(1, 1), torch.ones(1))
BAD_FILES = {
    "empty": (raw(b""), "an empty file"),
    "web page": (raw(b"\n<!DOCTYPE html><html>Not Found</html>"), "a web page"),
    "lfs pointer": (raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "a Git LFS pointer"),
    "incomplete": (truncated(zipped=True), "an incomplete PyTorch file"),
    "incomplete, old serialization": (truncated(zipped=False), "a damaged file"),
    "plain zip": (plain_zip, "a zip archive of something else.*Unpack it"),
    "gzip": (raw(gzip.compress(bytes(100))), "a tar or gzip archive.*Unpack it"),
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
    "two wrappers": (saved(lambda state: {"ema": state, "teacher": state}), r"several networks \(ema, teacher\)"),
    "two prefixes": (
        saved(lambda state: prefixed(state, "student.") | prefixed(state, "teacher.")),
        "prefixes 'student.' and 'teacher.'.*start with 'teacher.'",
    ),
    "other names": (
        saved(lambda state: {f"{name}_": tensor for name, tensor in state.items()}),
        "without .*proj.weight",
    ),
    "one unmatched tensor": (saved(lambda state: state | extra("extra.weight")), "unmatched tensors: extra.weight"),
    "a name twice": (saved(lambda state: state | prefixed(state, "module.")), "prefixes '' and 'module.'"),
    "a list": (saved(lambda state: [state, state]), "a list of 2 dictionaries"),
    "decoder only": (saved(lambda state: only(state, "decoder")), "with these parts only: decoder"),
    "one missing": (saved(without("decoder3.transp_conv.conv.weight")), r"transp_conv.conv.weight is missing"),
    "first missing": (saved(without("swinViT.patch_embed.proj.weight")), "without .*proj.weight"),
    "deeper": (saved(lambda state: state | extra("swinViT.layers1.0.blocks.2.norm1.bias")), "blocks.2.norm1.bias"),
    "diverged": (saved(diverged), "NaN or infinity in encoder2.layer.conv1.conv.weight"),
    "quantised": (saved(lambda state: of_weights(state, lambda t: (100 * t).to(torch.int8))), r"proj.weight \(int8\)"),
    "eight bits": (saved(lambda state: of_weights(state, lambda t: t.to(torch.float8_e5m2))), "float8_e5m2"),
    "complex": (saved(lambda state: of_weights(state, lambda t: t.to(torch.complex64))), "complex64"),
    "sparse": (saved(lambda state: of_weights(state, torch.Tensor.to_sparse)), "sparse_coo"),
    "no values": (saved(lambda state: of_weights(state, lambda t: t.to("meta"))), "without values"),
    "positions": (
        saved(lambda state: state | {POSITIONS: state[POSITIONS] * 100}),
        "positions outside of the window in",
    ),
    "unetr": (saved(lambda state: SMALL_UNETR.state_dict()), "a UNETR"),
    "vit": (saved(lambda state: extra("cls_token", "patch_embedding.cls_token")), "vision transformer"),
    "nnunet": (saved(lambda state: {"network_weights": extra("encoder.stages.0.0.convs.0.conv.weight")}), "nnU-Net"),
    "resnet": (saved(lambda state: prefixed(extra("conv1.weight", "layer1.0.conv1.weight"), "module.")), "ResNet"),
    "disruptive": (saved(lambda state: {"model": extra("encoder.patch_embed.proj.conv1.weight")}), "Disruptive"),
}
SMALL_UNETR = UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2)


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


@pytest.mark.parametrize("found", ["no file", "a folder"])
def test_a_path_without_a_file_is_refused_with_where_to_correct_it(found, target, tmp_path):
    file = tmp_path / "suspect.pt"
    if found == "a folder":
        file.mkdir()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(target, file)
    assert str(caught.value).startswith(
        f"{file}: expected a file of weights, found {found}. Correct the path: pretrained"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


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
