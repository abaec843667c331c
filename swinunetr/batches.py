"""The batch of each training step, as a function of the seed and the number of the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd, RandRotate90d, RandShiftIntensityd

from swinunetr.recipe import Recipe


def class_weights(cases: list[dict], classes: int, recipe: Recipe) -> torch.Tensor | None:
    """Return the weight of each class in the loss, float32 with mean 1, from the labels of ``cases``; None: all alike.

    A class that no case holds gets the weight of the rarest one that some case does.
    """
    if not recipe.class_balance:
        return None
    counts = sum(torch.bincount(case["label"].as_tensor().flatten().long(), minlength=classes) for case in cases)
    weights = counts.clamp(min=int(counts[counts > 0].min())).double() ** -recipe.class_balance
    return (weights / weights.mean()).float()


def augmentation(recipe: Recipe) -> Compose:
    """Return the random transforms of training: crops of one case, centred on organ or background 1:1, then varied."""
    keys = ("image", "label")
    return Compose(
        [
            RandCropByPosNegLabeld(
                keys,
                "label",
                recipe.crop_size,
                num_samples=recipe.crops_per_volume,
                fg_indices_key="organ_voxels",  # worked out once a case: searching the volume takes ten times as long
                bg_indices_key="other_voxels",
            ),
            *(RandFlipd(keys, prob=recipe.flip_probability, spatial_axis=axis) for axis in range(3)),
            RandRotate90d(keys, prob=recipe.rotate_probability, max_k=3),
            RandShiftIntensityd("image", offsets=0.1, prob=recipe.shift_probability),
        ]
    )


def next_case(cases: list[dict], seed: int, number: int) -> dict:
    """Return the case that comes as ``number`` (from 1): a new random order each time that all have been seen."""
    epoch, position = divmod(number - 1, len(cases))
    return cases[np.random.default_rng([seed, epoch]).permutation(len(cases))[position]]


def training_batch(cases: list[dict], augment: Compose, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return what step ``step`` (from 1) trains on, as a pure function of ``seed`` and ``step``.

    Images are (B, 1, X, Y, Z) float32, labels the same shape in uint8, and the name is that of the volume.
    """
    case = next_case(cases, seed, step)
    augment.set_random_state(seed=int(np.random.default_rng([seed, step, 1]).integers(2**32)))
    with without_metadata():
        crops = augment(case | {key: case[key].as_tensor() for key in ("image", "label")})
    images, labels = (torch.stack([crop[key] for crop in crops]) for key in ("image", "label"))
    return images.float(), labels, case["name"]


@contextmanager
def without_metadata() -> Iterator[None]:
    """Let MONAI's transforms take plain tensors as such; following affines and histories takes most of their time."""
    tracking = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracking)
