"""Random transforms of training: crops, then changes of their geometry and intensities."""

from __future__ import annotations

import math

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandShiftIntensityd,
)

from swinunetr.recipe import AXES, Recipe


def augmentation(recipe: Recipe) -> Compose:
    """Return the random transforms of training: crops, then changes of their geometry and intensities.

    The centre of a crop is on an organ with the probability ``organ_crops``, else on another voxel of the body. What a
    deformation brings in from outside a crop is air, which is background.
    """
    keys = ("image", "label")
    # Indices of the possible centres are computed once per case; finding them per step is ten times slower.
    centres = {"voxels": "organ_voxels", "organs": "balanced_voxels"}[recipe.crop_centres]
    transforms = [
        RandCropByPosNegLabeld(
            keys,
            "label",
            recipe.crop_size,
            pos=recipe.organ_crops,
            neg=1 - recipe.organ_crops,
            num_samples=recipe.crops_per_volume,
            fg_indices_key=centres,
            bg_indices_key="other_voxels",
        ),
        # One for each axis, if only with a probability of 0, so that the random numbers of the others stay the same.
        *(RandFlipd(keys, recipe.flip_probability * (axis in recipe.flip_axes), i) for i, axis in enumerate(AXES)),
        RandRotate90d(keys, prob=recipe.rotate_probability, max_k=3),
        RandShiftIntensityd("image", offsets=0.1, prob=recipe.shift_probability),
    ]
    if recipe.deform_probability:
        transforms.append(
            RandAffined(
                keys,
                prob=recipe.deform_probability,
                rotate_range=(math.radians(10),) * 3,
                scale_range=(0.15,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            )
        )
    if recipe.gamma_probability:
        transforms.append(RandAdjustContrastd("image", prob=recipe.gamma_probability, gamma=(0.7, 1.5)))
    if recipe.noise_probability:
        transforms.append(RandGaussianNoised("image", prob=recipe.noise_probability, std=0.05))
    return Compose(transforms)
