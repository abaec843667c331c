"""Training batches."""

from dataclasses import replace

import torch
from conftest import SMALL, prepared

from swinunetr.batches import augmentation, training_batch


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
