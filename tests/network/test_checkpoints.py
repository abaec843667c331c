"""Checkpoints are loaded completely or refused with the network unchanged; weights are saved and found."""

import gzip
import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path
from urllib.error import ContentTooShortError, URLError

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, LAYOUTS, btcv, extra, only, prefixed, response, written
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from swinunetr.errors import CheckpointError
from swinunetr.network import checkpoints
from swinunetr.network.checkpoints import (
    build_swinunetr,
    compare_responses,
    encoder_response,
    find_checkpoint,
    load_pretrained,
    match_classes,
    read_ensemble,
    require_classes,
    save_weights,
    training_note,
)
from swinunetr.network.swinunetr import LegacyPatchMerging


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


CLASSES = ("background", "spleen", "left kidney", "liver", "aorta")
HEAD = ("out.conv.conv.weight", "out.conv.conv.bias")


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """Return the file of an own fine-tuning with five classes."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("own") / "best_model.pth"
    save_weights(build_swinunetr(5, feature_size=12, window_size=4), file, note={"classes": CLASSES})
    return file


def check_rows(file, classes, rows):
    """Load a file for these classes, and check where each row of the head is from: the file, or None for random."""
    theirs = torch.load(file, weights_only=True)
    model = build_swinunetr(len(classes), file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_pretrained(model, file, classes=classes)
    own = model.state_dict()
    for name in HEAD:
        expected = [before[name][i] if row is None else theirs[name][row] for i, row in enumerate(rows)]
        assert torch.equal(own[name], torch.stack(expected))
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in HEAD)
    assert sorted([*report.loaded, *report.dropped]) == sorted(theirs)
    assert sorted([*report.loaded.values(), *report.left_random]) == sorted(own)
    return report


NEW_CLASSES = {  # classes of the data, and the row of CLASSES that each gets
    "the same": (CLASSES, [0, 1, 2, 3, 4]),
    "another order": (("background", "aorta", "liver", "spleen", "left kidney"), [0, 4, 3, 1, 2]),
    "fewer": (("background", "liver"), [0, 3]),
    "more": (("background", "tumour", *CLASSES[1:], "vein"), [0, None, 1, 2, 3, 4, None]),
    "as many with other names": (("background", "spleen", "tumour", "liver", "vein"), [0, 1, None, 3, None]),
    "other spelling": (("Background", "Aorta ", "LEFT_KIDNEY", "liver-", "sp leen"), [0, 4, 2, 3, None]),
    "spelling twice": (("background", "left-kidney", "left_kidney", "liver"), [0, None, None, 3]),
    "exact name of two": (("background", "left kidney", "left_kidney", "liver"), [0, 2, None, 3]),
    "name twice": (("background", "liver", "liver", "aorta"), [0, None, None, 4]),
    "without the background": (("air", "liver", "spleen"), [None, 3, 1]),
}


@pytest.mark.parametrize("classes, rows", NEW_CLASSES.values(), ids=NEW_CLASSES)
def test_each_class_keeps_its_row_of_the_head_and_a_new_one_stays_random(classes, rows, own_file):
    report = check_rows(own_file, classes, rows)
    assert report.head.rows == {i: row for i, row in enumerate(rows) if row is not None}
    assert report.head.kept == tuple(classes[i] for i, row in enumerate(rows) if row is not None)
    assert report.head.left_random == tuple(classes[i] for i, row in enumerate(rows) if row is None)
    assert report.head.dropped == tuple(name for row, name in enumerate(CLASSES) if row not in rows)


def test_the_report_names_the_classes_that_were_kept_dropped_and_left_random(own_file):
    report = check_rows(own_file, ("background", "liver", "tumour"), [0, 3, None])
    text = str(report)
    assert re.search("head, 2 of 3 classes +2 of 2\n", text)
    assert "rows of the head, kept: background, liver\n" in text
    assert "rows of the head, dropped: spleen, left kidney, aorta\n" in text
    assert text.endswith("rows of the head, stay random: tumour")
    whole = str(check_rows(own_file, CLASSES, range(5)))
    assert "kept: background, spleen" in whole and "dropped" not in whole and "random" not in whole


def test_a_head_without_a_common_class_is_dropped(own_file):
    classes = ("air", "bone", "muscle", "fat", "skin")  # as many as in the file
    report = check_rows(own_file, classes, [None] * 5)
    assert report.dropped.keys() == report.left_random.keys() == set(HEAD) and report.head is None
    assert "made for other classes: background, spleen" in str(report)


def test_a_name_that_is_twice_in_the_file_is_unknown():
    assert match_classes(("background", "Vein", "vein_", "vein_"), ("background", "VEIN")).rows == {0: 0}
    assert match_classes(("background", "Vein", "vein_", "vein_"), ("background", "Vein")).rows == {0: 0, 1: 1}


def test_without_names_the_number_of_classes_decides(own_file, originals, tmp_path):
    public = written(tmp_path, LAYOUTS["bare state dict"], originals["v1"].state_dict())
    report = check_rows(public, [f"organ {i}" for i in range(14)], range(14))
    assert report.head is None and len(report.loaded) == 159
    assert "made for 14 classes; the network has 3" in str(check_rows(public, CLASSES[:3], [None] * 3))

    model = build_swinunetr(5, own_file)
    assert load_pretrained(model, own_file).head is None  # names in the file only
    assert torch.equal(model.out.conv.conv.bias, torch.load(own_file, weights_only=True)[HEAD[1]])


def test_the_head_of_pretraining_is_not_that_of_the_background(tmp_path):
    file = tmp_path / "ssl_pretrained_weights.pth"
    save_weights(build_swinunetr(1, feature_size=12, window_size=4), file, note={"classes": ("background",)})
    report = check_rows(file, ("background", "liver"), [None, None])
    assert report.dropped.keys() == set(HEAD)


def test_a_head_that_contradicts_the_names_in_its_file_is_dropped(tmp_path):
    file = tmp_path / "changed.pth"
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), file, note={"classes": CLASSES})
    report = check_rows(file, CLASSES[:3], [None] * 3)
    assert set(report.dropped.values()) == {"made for 3 classes, but the file names 5"}
    with pytest.raises(CheckpointError, match="a head for 3 classes, but with names for 5"):
        require_classes(file, CLASSES[:3])


def test_without_decoder_no_row_of_the_head_is_loaded(own_file):
    model = build_swinunetr(5, own_file)
    report = load_pretrained(model, own_file, decoder=False, classes=CLASSES)
    assert report.head is None and set(HEAD) <= report.left_random.keys()


def test_rows_are_converted_to_the_dtype_of_the_network(own_file):
    model = build_swinunetr(2, own_file).double()
    load_pretrained(model, own_file, classes=("liver", "background"))
    theirs = torch.load(own_file, weights_only=True)
    assert torch.equal(model.out.conv.conv.weight, theirs[HEAD[0]][[3, 0]].double())


def test_classes_that_are_not_those_of_the_network_are_an_error(own_file):
    with pytest.raises(ValueError, match="a name for each of 5 classes, found 2"):
        load_pretrained(build_swinunetr(5, own_file), own_file, classes=CLASSES[:2])


def test_evaluation_needs_all_classes_of_the_weights_and_no_others(own_file, originals, tmp_path):
    require_classes(own_file, CLASSES)
    require_classes(own_file, ("Background", "aorta", "liver", "left_kidney", "spleen"))
    for classes, match in (
        ((*CLASSES, "tumour"), "weights that were not trained for tumour. Expected weights for the 6 classes"),
        ((*CLASSES[:4], "tumour"), r"not trained for tumour, but for aorta\..* train without evaluate_only"),
        (CLASSES[:3], "were also trained for liver, aorta"),
    ):
        with pytest.raises(CheckpointError, match=match):
            require_classes(own_file, classes)
    public = written(tmp_path, LAYOUTS["btcv"], originals["v1"].state_dict())
    require_classes(public, [f"organ {i}" for i in range(14)])
    with pytest.raises(CheckpointError, match="a head for 14 classes. Expected weights for the 5 classes"):
        require_classes(public, CLASSES)
    encoder = written(tmp_path, LAYOUTS["ssl_50k"], originals["v1"].state_dict())
    with pytest.raises(CheckpointError, match="without a segmentation head"):
        require_classes(encoder, CLASSES)


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
