"""Weights are found in what training code writes, without running code; damaged files are refused."""

import argparse
import functools
import os
import re
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from checkpoint_files import known_network, prefixed, renamed
from torch.optim.swa_utils import AveragedModel

from swinunetr.errors import CheckpointError
from swinunetr.network.checkpoints import (
    build_swinunetr,
    load_pretrained,
    network_size,
    reading,
    require_buildable,
    save_weights,
    training_note,
)
from swinunetr.network.checkpoints.reading import read_weights

STATE = {"step": 3, "settings": {"classes": ["background"]}, "history": [], "rng": torch.zeros(3)}


@pytest.fixture(scope="module")
def state(originals):
    return dict(originals["v1"].state_dict())


@pytest.fixture(scope="module")
def target():
    return build_swinunetr(14, feature_size=12, merging="legacy")


def test_the_state_of_a_run_is_refused_with_the_weights_beside_it(target, state, tmp_path):
    torch.save(STATE | {"model": prefixed(state, "swinunetr."), "optimizer": {}}, tmp_path / "state.pt")  # pre-training
    with pytest.raises(CheckpointError, match="the state of a run.*Use the best_model.pth or ssl_pretrained_weights"):
        read_weights(tmp_path / "state.pt")
    torch.save(STATE | {"model": state}, tmp_path / "state.previous.pt")
    save_weights(target, tmp_path / "best_model.pth")
    reads = (training_note, functools.partial(load_pretrained, target), functools.partial(build_swinunetr, 14))
    for read in reads:
        with pytest.raises(CheckpointError, match="the state of a run.*Use '.*best_model.pth'"):
            read(tmp_path / "state.previous.pt")


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


DAMAGE = {
    "a hole": lambda content, at: content[:at] + bytes(4096) + content[at + 4096 :],
    "a flipped byte": flipped,
    "a flipped byte in the list of contents": lambda content, at: flipped(content, content.index(b"PK\x01\x02") + 50),
    "a list of contents of zeros": lambda content, at: (
        content[: content.index(b"PK\x01\x02")] + bytes(100) + content[content.index(b"PK\x01\x02") + 100 :]
    ),
    "a flipped first byte": lambda content, at: flipped(content, 0),
    "a tail of zeros": lambda content, at: content[:at] + bytes(len(content) - at),
    "without its end": lambda content, at: content[:at],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_also_after_it_was_read(damage, target, tmp_path):
    file = tmp_path / "best_model.pth"
    save_weights(target, file)
    content, times = file.read_bytes(), file.stat()
    training_note(file)  # intact until now
    file.write_bytes(damage(content, len(content) // 2))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(CheckpointError, match=r"seems to be (a damaged file|an incomplete PyTorch file).*Copy"):
        training_note(file)


def test_a_file_that_was_written_without_checksums_is_loaded(target, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save_weights(target, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(load_pretrained(target, tmp_path / "weights.pth").loaded) == 159


def in_lightning(state):
    settings = argparse.Namespace(lr=1e-4, folder=Path("runs"), optimizer=functools.partial(torch.optim.AdamW, lr=1e-4))
    more = {"loss.class_weight": torch.ones(14)}
    return {"state_dict": prefixed(state, "net0.") | more, "hyper_parameters": settings, "callbacks": {}}


def averaged(state):
    network = known_network()
    network.load_state_dict(state)
    return AveragedModel(network).state_dict()


FSDP = "_fsdp_wrapped_module."
OTHER_FILES = {  # content, names of ignored entries, names of unused networks
    "namespace": (lambda state: {"model": state, "args": argparse.Namespace(lr=1e-4)}, ("args",), ()),
    "lightning": (in_lightning, ("hyper_parameters", "callbacks"), ()),
    "averaged": (averaged, (), ()),
    "deepspeed": (lambda state: {"module": state, "ds_version": "0.9"}, ("ds_version",), ()),
    "fsdp": (lambda state: prefixed(renamed(state, ("blocks.", f"blocks.{FSDP}")), FSDP), (), ()),
    "compiled": (lambda state: {"net": prefixed(state, "module._orig_mod.")}, (), ()),
    "average beside": (lambda state: {"model": state, "ema": {n: 0 * t for n, t in state.items()}}, (), ("ema",)),
    "average alone": (lambda state: {"epoch": 3, "ema_state_dict": prefixed(state, "module.")}, ("epoch",), ()),
    "nested": (lambda state: {"checkpoint": {"model": state, "epoch": 3}}, ("epoch",), ()),
    "of another type": (lambda state: Gone(state), (), ()),
}


class Gone(OrderedDict):
    """A dictionary of a package that is not installed where the file is read."""


OTHERS = {
    "path": Path("runs"),
    "time": datetime(2026, 1, 1),
    "counts": Counter("aab"),
    "lists": defaultdict(list, {1: [2]}),
    "set": {1, 2},
    "simple": types.SimpleNamespace(a=1),
    "configuration": Gone(lr=1e-4),
    "number": np.float64(1),
}


@pytest.mark.parametrize("make, ignored, unused", OTHER_FILES.values(), ids=OTHER_FILES)
def test_what_other_training_code_writes_is_loaded(make, ignored, unused, target, state, tmp_path, monkeypatch):
    torch.save(make(state), tmp_path / "weights.ckpt")
    monkeypatch.delattr(sys.modules[__name__], "Gone")
    torch.nn.utils.vector_to_parameters(torch.zeros(10**7), target.parameters())
    report = load_pretrained(target, tmp_path / "weights.ckpt")
    assert (report.ignored, report.unused) == (ignored, unused) and len(report.loaded) == 159
    assert all(torch.equal(tensor, state[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("name", OTHERS)
def test_an_object_beside_the_weights_is_ignored_and_nothing_of_it_runs(name, target, state, tmp_path, monkeypatch):
    torch.save({"model": state, name: OTHERS[name]}, tmp_path / "weights.pth")
    monkeypatch.setattr(Gone, "__new__", None)
    assert load_pretrained(target, tmp_path / "weights.pth").ignored == (name,)


@pytest.mark.parametrize("place", ["", "model", "list", "ema", "protocol 4"])
def test_the_advice_for_a_file_that_needs_trust_works(place, target, originals, state, tmp_path, monkeypatch):
    module, file = originals["v1"], tmp_path / "whole.pth"
    content = {"": module, "model": {"model": module}, "list": [state, state], "ema": {"a": state, "b": state}}
    torch.save(content.get(place, state), file, pickle_protocol=4 if place == "protocol 4" else 2)
    with pytest.raises(CheckpointError, match="If you trust the file") as caught:
        load_pretrained(target, file)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"torch\.save\(.*\)", str(caught.value))[0], {"torch": torch})
    assert len(load_pretrained(target, "weights.pth").loaded) == 159


def test_a_file_that_the_system_refuses_is_not_called_damaged(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    monkeypatch.setattr(reading, "stand_in", lambda file: None)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\). Ask for access"):
        read_weights(tmp_path / "weights.pth")


def test_a_file_is_read_once_until_it_is_replaced(target, tmp_path):
    file = tmp_path / "best_model.pth"
    save_weights(target, file, note={"seed": 1})
    with patch.object(torch, "load", wraps=torch.load) as load:
        assert read_weights(file) is read_weights(file)
        require_buildable(file)
        assert training_note(file) == {"seed": 1} and network_size(file)["feature_size"] == 12
        load_pretrained(build_swinunetr(14, file), file)
        assert load.call_count == 1
        save_weights(target, file, note={"seed": 2})
        assert training_note(file) == {"seed": 2} and load.call_count == 2


def test_a_file_that_cannot_be_mapped_is_not_kept_in_memory(state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth") is not read_weights(tmp_path / "old.pth")


def test_a_few_files_are_kept(target, tmp_path):
    save_weights(target, tmp_path / "0.pth")
    files = [tmp_path / f"{number}.pth" for number in range(reading.MOST_KEPT + 1)]
    for file in files[1:]:
        os.link(files[0], file)
    first, *others = [read_weights(file) for file in files]
    assert [read_weights(file) for file in files[1:]] == others and read_weights(files[0]) is not first


def test_a_check_by_building_draws_no_random_numbers_and_leaves_other_networks_as_they_are(target, tmp_path):
    save_weights(target, tmp_path / "weights.pth")
    before = torch.get_rng_state()
    require_buildable(tmp_path / "weights.pth")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.nn.Linear(2, 2).weight.is_meta
