"""Segmentation on the scan's own grid, from class probabilities on the training grid.

Exported bundles have a copy of this file, so it imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample
from nibabel.affines import from_matvec

SLAB_VOXELS = 2**21  # voxels of the scan that are resampled at a time, to save memory


class LabelsOnScand(MapTransform):
    """Transform from logits on the training grid to labels on the grid of the scan's file.

    It needs less memory than MONAI's own transforms in a row, which keep all probabilities on the scan's grid.

    Args:
        keys: Keys of logits (classes, X, Y, Z), which are overwritten. They become labels (1, X, Y, Z), uint8.
        image: Key of the preprocessed image (1, X, Y, Z), with the metadata of its file.
    """

    def __init__(self, keys: KeysCollection, image: str = "image") -> None:
        super().__init__(keys)
        self.image = image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data of a case with labels in place of the logits."""
        case = dict(data)
        image = case[self.image]
        for key in self.key_iterator(case):
            probabilities = torch.as_tensor(case[key]).as_subclass(torch.Tensor)
            softmax_in_place(probabilities)
            labels, _ = resample_labels(probabilities, image)
            # Without a channel, as SaveImaged writes it; a scan stored with one would be taken for a plane.
            grid = {"affine": torch.as_tensor(image.meta["original_affine"]), "original_channel_dim": float("nan")}
            case[key] = MetaTensor(torch.from_numpy(labels)[None], meta=dict(image.meta) | grid)
        return case


def softmax_in_place(logits: torch.Tensor) -> None:
    """Turn logits (classes, X, Y, Z) into probabilities; memory may not hold all of them twice."""
    for plane in logits.unbind(1):
        plane.copy_(plane.softmax(0))


def resample_labels(
    probabilities: torch.Tensor, image: MetaTensor, uncertainty: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the segmentation of a case on the grid of its source file, and its uncertainty.

    Probabilities are interpolated before the class is chosen, because interpolated labels would give wrong classes at
    borders. Voxels outside the training grid are background. The scan is computed in slabs to save memory, on the
    device of the probabilities; on the CPU if the memory of the GPU is full.

    Args:
        probabilities: Class probabilities (classes, X, Y, Z) on the training grid.
        image: Preprocessed image of the case, which stores the affines of both grids.
        uncertainty: Whether to compute the uncertainty, which is the entropy of the interpolated probabilities over the
            logarithm of the number of classes: 0 where one class is certain, 1 where all are equally probable.

    Returns:
        Labels in the axis order of the source file, uint8; and the uncertainty in steps of 1/255, uint8, or None.
    """
    if probabilities.is_cuda:
        with suppress(torch.OutOfMemoryError):
            return _resample(probabilities, image, uncertainty)
        torch.cuda.empty_cache()
    return _resample(probabilities.cpu(), image, uncertainty)


def _resample(
    probabilities: torch.Tensor, image: MetaTensor, uncertainty: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    shape = [int(n) for n in image.meta["spatial_shape"]]
    affine = np.asarray(image.meta["original_affine"], dtype=float)
    volume = MetaTensor(probabilities.float(), affine=image.affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    labels = torch.empty(shape, dtype=torch.uint8)
    entropy = torch.empty_like(labels) if uncertainty else None
    for first in range(0, shape[0], thickness):
        last = min(first + thickness, shape[0])
        slab_affine = affine @ from_matvec(np.eye(3), [first, 0, 0])
        slab = resample(volume, slab_affine, (last - first, *shape[1:])).as_tensor()
        labels[first:last] = slab.argmax(0).to(torch.uint8)
        if entropy is not None:
            slab /= slab.sum(0).clamp_min(1e-6)  # at the edge of the training grid, beyond which all are 0
            share = torch.special.entr(slab).sum(0) / math.log(len(slab))
            entropy[first:last] = (255 * share.clamp(0, 1)).round().to(torch.uint8)
    return labels.numpy(), None if entropy is None else entropy.numpy()
