"""Random transforms of training."""

from dataclasses import replace

import torch
from conftest import SMALL, prepared

from swinunetr.data import preprocessing
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batch


def test_crops_centred_by_organ_hold_small_organs_more_often(small_data):
    _, cases = prepared(small_data)
    label = cases[0]["label"].as_tensor()
    label[label == 2] = 0
    label[0, 60, 60, 5] = 2  # one voxel in a corner
    case = cases[0] | preprocessing.crop_centres(cases[0]["image"].as_tensor(), label, label == 0)
    share = {}
    for centres in ("voxels", "organs"):
        augment = augmentation(replace(SMALL, crop_size=(32, 32, 64), crops_per_volume=1, crop_centres=centres))
        with_it = [(training_batch([case], augment, seed=0, step=step)[1] == 2).any() for step in range(1, 101)]
        share[centres] = torch.stack(with_it).float().mean()
    assert (
        share["voxels"] < 0.15 and 0.2 < share["organs"] < 0.4
    )  # an organ in half of the crops, this one in a quarter


def test_flips_are_along_the_given_axes(small_data):
    _, cases = prepared(small_data)
    size = {"crop_size": (64, 64, 64), "crops_per_volume": 1, "shift_probability": 0.0}
    plain, flipped = (
        training_batch(cases, augmentation(replace(SMALL, **size, flip_axes="y", flip_probability=p)), 0, 1)
        for p in (0.0, 1.0)
    )
    assert all(torch.equal(a.flip(3), b) for a, b in zip(plain[:2], flipped[:2], strict=True))


def test_deformed_crops_keep_labels_and_fill_with_air(small_data):
    _, cases = prepared(small_data)
    recipe = replace(SMALL, deform_probability=1.0, gamma_probability=1.0, noise_probability=1.0)
    images, labels, _ = training_batch(cases, augmentation(recipe), 0, 1)
    plain = training_batch(cases, augmentation(SMALL), 0, 1)
    assert labels.dtype == torch.uint8 and set(labels.unique().tolist()) <= {0, 1, 2}
    assert not torch.equal(labels, plain[1]) and images.shape == plain[0].shape
    organs, air = images[labels == 2].median(), images[labels == 0].median()
    assert organs > air and torch.isfinite(images).all()
