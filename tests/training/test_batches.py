"""Training batches."""

import threading
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, prepared
from monai.data import get_track_meta

from swinunetr.hardware import Hardware
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.training import batches
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import place_cases, training_batch, training_batches, without_metadata


def test_batch_depends_only_on_seed_and_step(small_data):
    _, cases = prepared(small_data)
    augment = augmentation(replace(SMALL, flip_probability=0.5, rotate_probability=0.5))
    first = training_batch(cases, augment, seed=3, step=5)
    training_batch(cases, augment, seed=3, step=6)
    again = training_batch(
        cases, augmentation(replace(SMALL, flip_probability=0.5, rotate_probability=0.5)), seed=3, step=5
    )
    other = training_batch(cases, augment, seed=4, step=5)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2]
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (2, 1, 64, 64, 64) and first[0].dtype == torch.float32 and first[1].dtype == torch.uint8


def test_every_volume_is_used_once_per_epoch(small_data):
    _, cases = prepared(small_data)
    names = [training_batch(cases, augmentation(SMALL), seed=0, step=step)[2] for step in range(1, 9)]
    assert all({names[i], names[i + 1]} == {"img0001", "img0002"} for i in range(0, 8, 2))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_of_a_run_are_those_of_its_steps(small_data, monkeypatch, device):
    monkeypatch.setattr(batches, "send", lambda tensor, device: tensor)  # there is no GPU
    _, cases = prepared(small_data)
    rank = Hardware(torch.device(device), None, "second of two", rank=1, ranks=2)
    found = list(training_batches(cases, augmentation(SMALL), 3, range(4, 9), rank))
    for step, (images, labels, name) in zip(range(4, 9), found, strict=True):
        expected = training_batch(cases, augmentation(SMALL), 3, 2 * step)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1]) and name == expected[2]


@pytest.mark.parametrize(("free_gb", "placed"), [(10, True), (4.1, False)])
def test_cases_are_placed_on_a_gpu_if_they_fit_beside_the_training(small_data, monkeypatch, free_gb, placed):
    _, cases = prepared(small_data)
    model = build_swinunetr(3, feature_size=12, window_size=4)
    moved = []
    monkeypatch.setattr(batches, "memory_bytes", lambda hardware: free_gb * 1e9)
    monkeypatch.setattr(type(cases[0]["image"]), "to", lambda self, device: moved.append(device) or self)
    gpu = Hardware(torch.device("cuda", 1), torch.bfloat16, "GPU")
    there = place_cases(cases, model, gpu, batch_voxels=64**3)
    assert moved == ([gpu.device] * 4 if placed else [])
    assert [case["name"] for case in there] == [case["name"] for case in cases]
    assert place_cases(cases, model, Hardware(torch.device("cpu"), None, "CPU"), 64**3) is cases


def test_metadata_are_tracked_again_after_the_last_thread_that_turned_them_off():
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_metadata():
            entered.set()
            leave.wait(timeout=10)

    thread = threading.Thread(target=other)
    with without_metadata():
        thread.start()
        assert entered.wait(timeout=10)
    assert not get_track_meta()  # the other thread still needs it off
    leave.set()
    thread.join()
    assert get_track_meta()
