"""What `gpu_checks.py` measures on: a network, random data, and clocks that wait for the GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from monai.data import MetaTensor

from benchmarks.step import CLASSES, Training, batch_shape, make_network
from swinunetr.data.preprocessing import crop_centres
from swinunetr.hardware import Hardware
from swinunetr.recipe import Recipe
from swinunetr.training.batches import place_cases


@dataclass(frozen=True)
class Setup:
    """What is measured: the recipe's sizes, a scan, and the device."""

    recipe: Recipe
    hardware: Hardware
    scan: tuple[int, int, int] = (250, 200, 200)  # voxels of a case of BTCV on the training grid
    steps: int = 10  # timed ones

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU; some checks have no meaning without."""
        return self.hardware.device.type == "cuda"

    def network(self) -> torch.nn.Module:
        """Return a network with random weights, the same in every call, placed as in training."""
        return make_network(self.recipe, self.hardware)

    def training(self, model: torch.nn.Module | None = None) -> Training:
        """Return a training of a network; None stands for that of :meth:`network`."""
        return Training(model or self.network(), self.recipe, self.hardware)

    def placed(self, model: torch.nn.Module) -> dict:
        """Return :meth:`case` on the device, if it fits there beside the training of the network."""
        return place_cases([self.case()], model, self.hardware, math.prod(batch_shape(self.recipe)))[0]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random images and labels of a step on the device."""
        generator, shape = torch.Generator().manual_seed(0), batch_shape(self.recipe)
        labels = torch.randint(0, CLASSES, shape, dtype=torch.uint8, generator=generator)
        images = torch.rand(shape, generator=generator)
        return images.to(self.hardware.device), labels.to(self.hardware.device)

    def case(self) -> dict:
        """Return a preprocessed case with random voxels and one organ."""
        image = torch.rand((1, *self.scan), generator=torch.Generator().manual_seed(0)).half()
        label = torch.zeros((1, *self.scan), dtype=torch.uint8)
        label[:, 30:70, 30:60, 30:60] = 5
        affine = torch.diag(torch.tensor([1.5, 1.5, 2.0, 1.0], dtype=torch.float64))
        meta = {"original_affine": affine, "spatial_shape": list(self.scan)}
        volumes = {"image": MetaTensor(image, affine, meta), "label": MetaTensor(label, affine)}
        return {"name": "random"} | volumes | crop_centres(image, label, label == 0)


def wait() -> None:
    """Wait until the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Return the mean seconds of a call, after some that do not count."""
    for _ in range(warm_up):
        function()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    wait()
    return (time.perf_counter() - start) / repeats


def measured(setup: Setup, training: Training) -> dict:
    """Return milliseconds and peak memory of a step, and the loss of the last one."""
    images, labels = setup.batch()
    training.step(images, labels)
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    taken = seconds(lambda: losses.append(training.step(images, labels)), setup.steps, warm_up=setup.steps // 3)
    peak = {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if setup.on_gpu else {}
    return {"ms": taken * 1e3, **peak, "last_loss": losses[-1]}


def relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the norm of the difference of two tensors, as a share of that of the expected one."""
    return float((expected - found).norm() / expected.norm())


@contextmanager
def memory_limit(gigabytes: float):
    """Let this process take so much memory of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
