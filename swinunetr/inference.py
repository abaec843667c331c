"""The network applied to whole scans: sliding window, and the way back to the voxels of the scan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from nibabel.affines import from_matvec

from swinunetr.devices import Hardware
from swinunetr.errors import InputError
from swinunetr.files import replacing
from swinunetr.recipe import Recipe

SLAB_VOXELS = 2**21  # of the scan, whose probabilities are in memory at a time


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and back into the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def predict(
    model: torch.nn.Module, image: torch.Tensor, recipe: Recipe, hardware: Hardware, flips: bool = False
) -> torch.Tensor:
    """Return the logits (classes, X, Y, Z), float32, of one image (1, X, Y, Z) on the training grid.

    With ``flips`` they are the mean over all eight ways to mirror the image. Where the volume's logits don't fit on the
    GPU beside the network, they are put together in the CPU's memory.
    """
    batch = torch.as_tensor(image).as_subclass(torch.Tensor)[None].float()
    mirrored = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)] if flips else [()]
    total = _logits(model, batch, recipe, hardware)
    for axes in mirrored[1:]:
        total += _logits(model, batch.flip(axes), recipe, hardware).flip([axis - 1 for axis in axes])
    return total.div_(len(mirrored))


def _logits(model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware) -> torch.Tensor:
    try:
        return _slide(model, batch.to(hardware.device), recipe, hardware, stitch_on=hardware.device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _slide(model, batch, replace(recipe, windows_per_batch=1), hardware, stitch_on=torch.device("cpu"))


def _slide(
    model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware, stitch_on: torch.device
) -> torch.Tensor:
    inferer = SlidingWindowInferer(
        recipe.crop_size,
        recipe.windows_per_batch,
        recipe.overlap,
        sw_device=hardware.device,
        device=stitch_on,
    )
    with evaluating(model), hardware.autocast():
        return inferer(batch, model)[0].float()


def segment_case(
    model: torch.nn.Module, case: dict, recipe: Recipe, hardware: Hardware, path: str | Path
) -> tuple[torch.Tensor, np.ndarray]:
    """Segment a prepared case and write the result to ``path`` on the voxels of its scan.

    Returns:
        The labels on the training grid (X, Y, Z), int64, and those on the scan's own grid, uint8.
    """
    probabilities = predict(model, case["image"], recipe, hardware, recipe.test_time_flips)
    for plane in probabilities.unbind(1):  # in place: a second volume of all classes may not fit
        plane.copy_(plane.softmax(0))
    probabilities = probabilities.cpu()
    labels = to_source_grid(probabilities, case["image"])
    save_prediction(labels, case["source"], path)
    return probabilities.argmax(0), labels


def to_source_grid(probabilities: torch.Tensor, image: MetaTensor) -> np.ndarray:
    """Return the segmentation of a case on the grid of its source file, uint8, in the file's axis order.

    ``probabilities`` is (classes, X, Y, Z) on the training grid; ``image`` is the case's prepared image, whose affines
    say where both grids lie. Probabilities are interpolated before the largest is taken: interpolated labels would
    invent classes at borders. It goes slab by slab to save memory. Voxels outside the training grid are background.
    """
    shape = [int(n) for n in image.meta["spatial_shape"]]
    affine = np.asarray(image.meta["original_affine"], dtype=float)
    volume = MetaTensor(probabilities.float(), affine=image.affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    labels = torch.empty(shape, dtype=torch.uint8)
    for first in range(0, shape[0], thickness):
        last = min(first + thickness, shape[0])
        slab_affine = affine @ from_matvec(np.eye(3), [first, 0, 0])
        labels[first:last] = resample(volume, slab_affine, (last - first, *shape[1:])).as_tensor().argmax(0)
    return labels.numpy()


def save_prediction(labels: np.ndarray, source: str | Path, path: str | Path) -> None:
    """Write a segmentation as uint8 NIfTI with the geometry, sform and qform of the scan ``source``.

    Raises:
        InputError: the segmentation is not of the scan's shape, or it can't be written; what was at ``path`` is whole.
    """
    scan = nib.load(source)
    if labels.shape != scan.shape[:3]:
        raise InputError(f"Expected a segmentation of shape {scan.shape[:3]} for '{source}', found {labels.shape}.")
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0  # the window that a viewer would show the scan in
    try:
        with replacing(path) as temporary:
            nib.save(nib.Nifti1Image(labels, scan.affine, header), temporary)
    except OSError as error:
        raise InputError(
            f"'{path}' could not be written ({error}). Predictions before it are whole: make room and run again."
        ) from error
