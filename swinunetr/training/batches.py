"""Training batches, as a function of the seed and the step."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from monai.data import set_track_meta
from monai.networks.nets import SwinUNETR
from monai.transforms import Compose

from swinunetr.data.preprocessing import Case
from swinunetr.hardware import Hardware, memory_bytes
from swinunetr.network.placement import SPARE, training_bytes
from swinunetr.threads import read_ahead

CROP_STREAM = 1  # of random numbers; that of pre-training is 2
VALIDATION_BYTES = 4e9  # of the logits of one scan and of what a sliding window needs
_untracked = 0  # threads within ``without_metadata``
_lock = threading.Lock()


def next_case(cases: list[Case], seed: int, number: int) -> Case:
    """Return the case at position ``number`` (from 1) of the training order, which is shuffled again in each epoch."""
    epoch, position = divmod(number - 1, len(cases))
    return cases[np.random.default_rng([seed, epoch]).permutation(len(cases))[position]]


def place_cases(cases: list[Case], model: SwinUNETR, hardware: Hardware, batch_voxels: int) -> list[Case]:
    """Return the cases with image and label on the GPU, so that crops are made there; 30 of BTCV take 1.1 GB.

    On a CPU, or where they do not fit beside the training, the same cases are returned.

    Args:
        cases: Preprocessed cases with labels.
        model: The network that is trained on them.
        hardware: Device of the run.
        batch_voxels: Voxels of one training batch.
    """
    if hardware.device.type != "cuda":
        return cases
    volumes = [case[key] for case in cases for key in ("image", "label")]
    needed = sum(volume.numel() * volume.element_size() for volume in volumes) + VALIDATION_BYTES
    if needed + SPARE * training_bytes(model, batch_voxels, hardware) > memory_bytes(hardware):
        return cases
    device = hardware.device
    return [{**case, "image": case["image"].to(device), "label": case["label"].to(device)} for case in cases]


def training_batches(
    cases: list[Case], augment: Compose, seed: int, steps: Iterable[int], hardware: Hardware
) -> Iterator[tuple[torch.Tensor, torch.Tensor, str]]:
    """Yield the batch of each step on the device, as :func:`training_batch` makes it for this rank.

    On a GPU the next batch is made in a thread while the network trains on the present one.
    """

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        return training_batch(cases, augment, seed, hardware.sample_number(step), hardware.device)

    return read_ahead(batch, steps, hardware)


def training_batch(
    cases: list[Case], augment: Compose, seed: int, step: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return the batch of one step, which depends only on the arguments.

    Args:
        cases: Preprocessed cases with labels.
        augment: Transforms from :func:`augmentation`; its random state is set here.
        seed: Seed of the run.
        step: Position in the training order, from 1: the step, if one rank trains.
        device: Device of the batch; None means that of the cases.

    Returns:
        Images (B, 1, X, Y, Z), float32; labels of the same shape, uint8; and the name of the case.
    """
    case = next_case(cases, seed, step)
    augment.set_random_state(seed=int(np.random.default_rng([seed, step, CROP_STREAM]).integers(2**32)))
    with without_metadata():
        crops = augment(case | {key: case[key].as_tensor() for key in ("image", "label")})
    images, labels = (send(torch.stack([crop[key] for crop in crops]), device) for key in ("image", "label"))
    return images.float(), labels.to(torch.uint8), case["name"]  # a deformation makes float32 of labels


def send(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """Return a tensor on a device; a copy to a GPU starts from pinned memory, so that the host does not wait for it.

    Args:
        tensor: Tensor on any device.
        device: Where to send it; None leaves it where it is.
    """
    if device is None or tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def without_metadata() -> Iterator[None]:
    """Turn off MONAI's tracking of affines and histories, which takes most of the time of its transforms.

    MONAI has one switch for all threads, so the last thread that leaves turns it on again.
    """
    _count_untracked(1)
    try:
        yield
    finally:
        _count_untracked(-1)


def _count_untracked(change: int) -> None:
    global _untracked
    with _lock:
        _untracked += change
        set_track_meta(_untracked == 0)
