"""Segmentation of whole scans: sliding-window inference, and resampling to the scan's own grid."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms.utils import get_largest_connected_component_mask
from scipy.ndimage import find_objects

from swinunetr.data.geometry import load_nifti
from swinunetr.data.lists import organ_labels
from swinunetr.data.preprocessing import Case
from swinunetr.errors import InputError
from swinunetr.files import replacing
from swinunetr.hardware import Hardware, gpu_memory
from swinunetr.network.checkpoints import Weights, read_ensemble
from swinunetr.network.merging import merging_of
from swinunetr.recipe import AXES, Recipe
from swinunetr.results.resampling import resample_labels, softmax_in_place
from swinunetr.threads import read_ahead


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
        recipe: Recipe with the settings of :func:`sliding_window`, and ``flip_axes``.
        hardware: Device and precision.
        flips: Whether to average over all combinations of flips along ``flip_axes``.

    Returns:
        Logits (classes, X, Y, Z), float32.

    Raises:
        InputError: The memory of the GPU is too small for one window.
    """
    batch = torch.as_tensor(image).as_subclass(torch.Tensor)[None]
    flip_axes = [2 + AXES.index(axis) for axis in recipe.flip_axes] if flips else []
    combinations = [axes for n in range(len(flip_axes)) for axes in itertools.combinations(flip_axes, n + 1)]
    total = _logits(model, batch, recipe, hardware)
    for axes in combinations:
        logits = _logits(model, batch.flip(axes), recipe, hardware).flip([axis - 1 for axis in axes])
        if total.device != logits.device:  # the memory of the GPU is full by now
            total, logits = total.cpu(), logits.cpu()
        total.add_(logits)
    return total.div_(1 + len(combinations))


def _logits(model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware) -> torch.Tensor:
    with suppress(torch.OutOfMemoryError):
        return slide_window(model, batch.to(hardware.device), recipe, hardware, stitch_on=hardware.device)
    torch.cuda.empty_cache()  # after the error is gone, which keeps the tensors of the first attempt alive
    one_window = replace(recipe, windows_per_batch=1)
    with gpu_memory():
        return slide_window(model, batch.cpu(), one_window, hardware, stitch_on=torch.device("cpu"))


def slide_window(
    model: torch.nn.Module, batch: torch.Tensor, recipe: Recipe, hardware: Hardware, stitch_on: torch.device
) -> torch.Tensor:
    """Return the float32 logits (classes, X, Y, Z) of images (1, 1, X, Y, Z), joined on the device ``stitch_on``."""
    inferer = SlidingWindowInferer(**sliding_window(recipe), sw_device=hardware.device, device=stitch_on)
    with evaluating(model), hardware.autocast():
        return inferer(batch.float(), model)[0].float()


def sliding_window(recipe: Recipe) -> dict[str, object]:
    """Return the arguments of MONAI's ``SlidingWindowInferer`` that a recipe sets, as values that JSON can store."""
    return {
        "roi_size": list(recipe.crop_size),
        "sw_batch_size": recipe.windows_per_batch,
        "overlap": recipe.overlap,
        "mode": recipe.window_weights,
    }


def segment_cases(
    model: torch.nn.Module,
    cases: Iterable[Case],
    recipe: Recipe,
    hardware: Hardware,
    folder: str | Path,
    classes: Sequence[str],
    ensemble: Sequence[Path] = (),
) -> Iterator[Segmented]:
    """Segment cases and write ``<name>.nii.gz`` for each; yield each case with its labels.

    On a GPU, the next case is segmented in a thread while the caller uses the present one and takes the one after it.

    Args:
        model: Segmentation network.
        cases: Preprocessed cases.
        recipe: Recipe of the training, with its settings of inference.
        hardware: Device and precision.
        folder: Folder of the files.
        classes: Names of the labels from 0, which is background.
        ensemble: Files of weights whose predictions are averaged; empty for the weights of ``model``.

    Raises:
        InputError: A file could not be written, the memory of the GPU is full, or the weights are of other networks.
    """
    reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
    states = read_ensemble(ensemble, classes, merging_of(model)) if ensemble else ()

    def segment(case: Case) -> Segmented:
        labelled = label_case(model, case, recipe, hardware, states)
        written, file = largest_components(labelled.on_own_grid, reduced), Path(folder) / f"{case['name']}.nii.gz"
        save_prediction(written, case["source"], file)
        return Segmented(case, labelled.on_training_grid, labelled.on_own_grid, written, file)

    return read_ahead(segment, cases, hardware)


class Segmented(NamedTuple):
    """A case that was segmented: its labels as predicted, for its scores, and what was written."""

    case: Case
    on_training_grid: torch.Tensor  # (X, Y, Z), int64
    on_own_grid: np.ndarray  # uint8, in the axis order of the source file
    written: np.ndarray  # the same with the largest component alone of the organs in ``recipe.largest_component``
    file: Path


class Labelled(NamedTuple):
    """Labels of a case."""

    on_training_grid: torch.Tensor  # (X, Y, Z), int64
    on_own_grid: np.ndarray  # uint8, in the axis order of the source file
    uncertainty: np.ndarray | None  # of the same shape, see :func:`resample_labels`; None if not asked for


def label_case(
    model: torch.nn.Module,
    case: Case,
    recipe: Recipe,
    hardware: Hardware,
    ensemble: Sequence[Weights] = (),
    uncertainty: bool = False,
) -> Labelled:
    """Return the labels of a case on the training grid and on the scan's own.

    Args:
        model: Segmentation network.
        case: Preprocessed case with ``image``.
        recipe: Recipe of the training; ``test_time_flips`` averages over flips.
        hardware: Device and precision.
        ensemble: Weights of networks of the same shape. They are loaded into ``model`` one after another, and their
            probabilities are averaged, so that the network's memory is needed once. Empty: the weights of ``model``.
        uncertainty: Whether to compute the uncertainty of the averaged probabilities.

    Raises:
        InputError: The memory of the GPU is full.
    """
    with gpu_memory():
        mean: Any = None
        members: list[Weights | None] = [*ensemble] or [None]
        for weights in members:
            if weights is not None:
                model.load_state_dict(weights)
            probabilities = predict(model, case["image"], recipe, hardware, recipe.test_time_flips)
            softmax_in_place(probabilities)
            mean = probabilities if mean is None else mean.add_(probabilities.to(mean.device))
        mean.div_(len(members))
        return Labelled(mean.argmax(0).cpu(), *resample_labels(mean, case["image"], uncertainty))


def largest_components(labels: np.ndarray, organs: Collection[int]) -> np.ndarray:
    """Return a segmentation (X, Y, Z) in which only the largest connected piece of the labels in ``organs`` is kept.

    Voxels that touch at a corner are connected. Where an organ really has several pieces, all but one are lost.
    """
    if not organs:
        return labels
    kept = labels.copy()
    for label, box in enumerate(find_objects(labels), start=1):
        if box is not None and label in organs:
            mask = labels[box] == label
            kept[box][mask & ~get_largest_connected_component_mask(mask)] = 0
    return kept


def save_prediction(labels: np.ndarray, source: str | Path, path: str | Path, step: float = 1.0) -> None:
    """Write a segmentation, or its uncertainty, as a NIfTI file with the geometry of its scan: sform and qform.

    Args:
        labels: Volume in the shape of the scan, uint8.
        source: File of the scan.
        path: File to write; an existing file is replaced only if writing succeeds.
        step: What a stored 1 stands for, the slope of the header.

    Raises:
        InputError: The volume does not have the shape of the scan, or the file could not be written.
    """
    scan = load_nifti(source)
    if labels.shape != scan.shape[:3]:
        raise InputError(f"Expected a segmentation of shape {scan.shape[:3]} for '{source}', found {labels.shape}.")
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 0  # the scan's display range, which does not suit labels
    for name in {"descrip", "aux_file", "intent_name", "db_name"} & set(header):  # free text, may name the patient
        header[name] = b""
    header.extensions.clear()  # which may hold the whole DICOM header
    with replacing(path) as temporary:
        volume = type(scan)(labels, scan.affine, header)  # NIfTI-1 or NIfTI-2
        volume.header.set_slope_inter(step, 0)  # the constructor resets it
        nib.save(volume, temporary)
