"""Training batches, as a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd, RandRotate90d, RandShiftIntensityd

from swinunetr.recipe import Recipe


def augmentation(recipe: Recipe) -> Compose:
    """Return the random transforms of training: crops, flips, rotations and intensity shifts.

    Half of the crops are expected to be centred on an organ voxel, the others on another voxel of the body.
    """
    keys = ("image", "label")
    return Compose(
        [
            RandCropByPosNegLabeld(
                keys,
                "label",
                recipe.crop_size,
                num_samples=recipe.crops_per_volume,
                fg_indices_key="organ_voxels",  # computed once per case; finding them per step is ten times slower
                bg_indices_key="other_voxels",
            ),
            *(RandFlipd(keys, prob=recipe.flip_probability, spatial_axis=axis) for axis in range(3)),
            RandRotate90d(keys, prob=recipe.rotate_probability, max_k=3),
            RandShiftIntensityd("image", offsets=0.1, prob=recipe.shift_probability),
        ]
    )


def next_case(cases: list[dict], seed: int, number: int) -> dict:
    """Return the case at position ``number`` (from 1) of the training order, which is shuffled again in each epoch."""
    epoch, position = divmod(number - 1, len(cases))
    return cases[np.random.default_rng([seed, epoch]).permutation(len(cases))[position]]


def training_batch(cases: list[dict], augment: Compose, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return the batch of one step, which depends only on the arguments.

    Args:
        cases: Preprocessed cases with labels.
        augment: Transforms from :func:`augmentation`; its random state is set here.
        seed: Seed of the run.
        step: Number of the step, from 1.

    Returns:
        Images (B, 1, X, Y, Z), float32; labels of the same shape, uint8; and the name of the case.
    """
    case = next_case(cases, seed, step)
    augment.set_random_state(seed=int(np.random.default_rng([seed, step, 1]).integers(2**32)))
    with without_metadata():
        crops = augment(case | {key: case[key].as_tensor() for key in ("image", "label")})
    images, labels = (torch.stack([crop[key] for crop in crops]) for key in ("image", "label"))
    return images.float(), labels, case["name"]


@contextmanager
def without_metadata() -> Iterator[None]:
    """Turn off MONAI's tracking of affines and histories, which takes most of the time of its transforms."""
    tracking = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracking)
