"""Segmentation of whole scans: sliding-window inference, and resampling to the scan's own grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from nibabel.affines import from_matvec

from swinunetr.ahead import read_ahead
from swinunetr.devices import Hardware, gpu_memory
from swinunetr.errors import InputError
from swinunetr.files import replacing
from swinunetr.recipe import Recipe

SLAB_VOXELS = 2**21  # voxels of the scan that are resampled at a time, to save memory


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode without gradients, and restore its previous mode afterwards."""
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
    """Return the logits of one image, computed with a sliding window.

    If the logits of the whole image do not fit into the memory of the GPU, they are collected in main memory, and the
    windows are computed one at a time.

    Args:
        model: Segmentation network.
        image: Image (1, X, Y, Z) on the training grid.
        recipe: Recipe with ``crop_size``, ``overlap`` and ``windows_per_batch``.
        hardware: Device and precision.
        flips: Whether to average over all eight combinations of axis flips.

    Returns:
        Logits (classes, X, Y, Z), float32.

    Raises:
        InputError: The memory of the GPU is too small for one window.
    """
    batch = torch.as_tensor(image).as_subclass(torch.Tensor)[None]
    flipped = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)] if flips else [()]
    total = None
    for axes in flipped:
        logits = _logits(model, batch.flip(axes) if axes else batch, recipe, hardware)
        if axes:
            logits = logits.flip([axis - 1 for axis in axes])
        if total is not None and total.device != logits.device:  # the memory of the GPU is full by now
            total, logits = total.cpu(), logits.cpu()
        total = logits if total is None else total.add_(logits)
    return total.div_(len(flipped))


def _logits(model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware) -> torch.Tensor:
    with suppress(torch.OutOfMemoryError):
        return _slide(model, batch.to(hardware.device), recipe, hardware, stitch_on=hardware.device)
    torch.cuda.empty_cache()  # after the error is gone, which keeps the tensors of the first attempt alive
    one_window = replace(recipe, windows_per_batch=1)
    with gpu_memory():
        return _slide(model, batch.cpu(), one_window, hardware, stitch_on=torch.device("cpu"))


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
        return inferer(batch.float(), model)[0].float()


def segment_cases(
    model: torch.nn.Module, cases: Iterable[dict], recipe: Recipe, hardware: Hardware, folder: str | Path
) -> Iterator[tuple[dict, torch.Tensor, np.ndarray]]:
    """Segment cases as :func:`segment_case` does, to ``<name>.nii.gz`` in a folder; yield each with its labels.

    On a GPU, the next case is segmented in a thread while the caller uses the present one and takes the one after it.
    """

    def segment(case: dict) -> tuple[dict, torch.Tensor, np.ndarray]:
        return case, *segment_case(model, case, recipe, hardware, Path(folder) / f"{case['name']}.nii.gz")

    return read_ahead(segment, cases, hardware)


def segment_case(
    model: torch.nn.Module, case: dict, recipe: Recipe, hardware: Hardware, path: str | Path
) -> tuple[torch.Tensor, np.ndarray]:
    """Segment a preprocessed case and write the result to a NIfTI file on the scan's own grid.

    Args:
        model: Segmentation network.
        case: Preprocessed case with ``image`` and ``source``.
        recipe: Recipe of the training; ``test_time_flips`` averages over flips.
        hardware: Device and precision.
        path: File to write.

    Returns:
        Labels on the training grid (X, Y, Z), int64, and labels on the scan's own grid, uint8.

    Raises:
        InputError: The file could not be written, or the memory of the GPU is full.
    """
    on_training_grid, on_own_grid = label_case(model, case, recipe, hardware)
    save_prediction(on_own_grid, case["source"], path)
    return on_training_grid, on_own_grid


def label_case(
    model: torch.nn.Module, case: dict, recipe: Recipe, hardware: Hardware
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the labels of a case on both grids, as :func:`segment_case` does, without writing a file."""
    with gpu_memory():
        probabilities = predict(model, case["image"], recipe, hardware, recipe.test_time_flips)
        for plane in probabilities.unbind(1):  # in place: memory may not hold the probabilities of all classes twice
            plane.copy_(plane.softmax(0))
        labels = to_source_grid(probabilities, case["image"])
        return probabilities.argmax(0).cpu(), labels


def to_source_grid(probabilities: torch.Tensor, image: MetaTensor) -> np.ndarray:
    """Return the segmentation of a case on the grid of its source file.

    Probabilities are interpolated before the class is chosen, because interpolated labels would give wrong classes at
    borders. Voxels outside the training grid are background. The scan is computed in slabs to save memory, on the
    device of the probabilities; on the CPU if the memory of the GPU is full.

    Args:
        probabilities: Class probabilities (classes, X, Y, Z) on the training grid.
        image: Preprocessed image of the case, which stores the affines of both grids.

    Returns:
        Labels in the axis order of the source file, uint8.
    """
    if probabilities.is_cuda:
        with suppress(torch.OutOfMemoryError):
            return _resample_labels(probabilities, image)
        torch.cuda.empty_cache()
    return _resample_labels(probabilities.cpu(), image)


def _resample_labels(probabilities: torch.Tensor, image: MetaTensor) -> np.ndarray:
    shape = [int(n) for n in image.meta["spatial_shape"]]
    affine = np.asarray(image.meta["original_affine"], dtype=float)
    volume = MetaTensor(probabilities.float(), affine=image.affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    labels = torch.empty(shape, dtype=torch.uint8)
    for first in range(0, shape[0], thickness):
        last = min(first + thickness, shape[0])
        slab_affine = affine @ from_matvec(np.eye(3), [first, 0, 0])
        slab = resample(volume, slab_affine, (last - first, *shape[1:])).as_tensor()
        labels[first:last] = slab.argmax(0).to(torch.uint8)
    return labels.numpy()


def save_prediction(labels: np.ndarray, source: str | Path, path: str | Path) -> None:
    """Write a segmentation as a NIfTI file with the geometry of its scan, including sform and qform.

    Args:
        labels: Segmentation in the shape of the scan, uint8.
        source: File of the scan.
        path: File to write; an existing file is replaced only if writing succeeds.

    Raises:
        InputError: The segmentation does not have the shape of the scan, or the file could not be written.
    """
    scan = nib.load(source)
    if labels.shape != scan.shape[:3]:
        raise InputError(f"Expected a segmentation of shape {scan.shape[:3]} for '{source}', found {labels.shape}.")
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0  # the scan's display range, which does not suit labels
    try:
        with replacing(path) as temporary:
            nib.save(nib.Nifti1Image(labels, scan.affine, header), temporary)
    except OSError as error:
        raise InputError(
            f"'{path}' could not be written ({error}). Earlier predictions are intact. Free disk space and run again."
        ) from error
