"""Hardware of a run: device, precision, memory, and the processes of training on several GPUs."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import monai
import nibabel as nib
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from swinunetr.errors import InputError, TrainingStopped
from swinunetr.machine import available_memory, cpu_cores

T = TypeVar("T")
V = TypeVar("V")
# How long a rank waits for the others: for shares of the cases, which one rank may check, preprocess or segment for
# hours; and while all train, for a validation case, for weights and states that rank 0 writes, and for its next crops.
SHARE_WAIT, TRAINING_WAIT = timedelta(days=1), timedelta(minutes=30)
SLOW_CUDNN = range(90800, 91500)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Hardware:
    """Device and precision of a process, and its place among the processes that ``torchrun`` started.

    Attributes:
        device: Device of the network.
        autocast_dtype: Type that :meth:`autocast` computes in; None means float32.
        name: Name of the device for tables and ``summary.json``.
        rank: Number of this process, from 0.
        ranks: Number of processes that train together; 1 without ``torchrun``.
        warnings: What makes training slower than the hardware allows, in sentences.
        local_rank: Number of this process on its machine, from 0.
        local_ranks: Number of processes on its machine; 1 if the launcher does not tell.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    name: str
    rank: int = 0
    ranks: int = 1
    warnings: tuple[str, ...] = ()
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def several_machines(self) -> bool:
        """Whether the ranks may be on several machines, which may see other files at the same path."""
        return self.ranks > self.local_ranks

    def autocast(self) -> torch.autocast:
        """Return the context for the forward pass of the network; the loss is computed outside it, in float32."""
        dtype = self.autocast_dtype or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.autocast_dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler, which keeps float16 gradients from becoming 0; it is disabled for other types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of the items; the parts of all ranks are disjoint and complete."""
        return items[self.rank :: self.ranks]

    def sample_number(self, step: int) -> int:
        """Return the position in the training order of the volume that this rank uses in ``step``; both are from 1."""
        return (step - 1) * self.ranks + self.rank + 1

    def mean(self, value: float) -> float:
        """Return the mean of a number over all ranks; every rank must call this method."""
        if self.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)  # on the host, so that no GPU is waited for
        distributed.all_reduce(total)
        return float(total) / self.ranks

    def gather(self, items: list[T], training: bool = False) -> list[T]:
        """Return the lists of all ranks joined, in the order of the ranks; every rank must call this method.

        Args:
            items: List of this rank, which pickle can store.
            training: Whether all ranks train, so that none can be hours behind. Otherwise they wait up to a day.

        Raises:
            TrainingStopped: Another rank stopped or did not come in time.
        """
        if self.ranks == 1:
            return items
        lists: list[list[T]] = [[] for _ in range(self.ranks)]
        try:
            distributed.all_gather_object(lists, items, None if training else _patient_group())
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise TrainingStopped(lost_process(error, self.ranks)) from error
        return [item for part in lists for item in part]

    def first_other(self, values: V) -> tuple[int, V, V] | None:
        """Return the first rank whose values are not those of rank 0, the values of rank 0, and its own.

        Every rank must call this method; all get the same result, None if the values are alike.
        """
        first, *others = self.gather([values])
        return next(((rank, first, other) for rank, other in enumerate(others, 1) if other != first), None)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let all ranks raise the error that one of them raises; every rank must enter this context.

        Otherwise the ranks without an error wait for the others until these have exited, and do not know why.

        Raises:
            InputError: One of the ranks raised it.
        """
        errors = []
        try:
            yield
        except InputError as error:
            if self.ranks == 1:
                raise
            errors.append(error)
        if errors := self.gather(errors):
            raise errors[0]


def find_hardware() -> Hardware:
    """Return the GPU if there is one, otherwise the CPU; under ``torchrun``, also connect the processes.

    The precision is bfloat16 if the hardware supports it, float16 on older GPUs such as Colab's T4, otherwise float32.
    PyTorch computes on at most as many threads as this process has cores.

    Raises:
        InputError: PyTorch finds a GPU but cannot use it; or the ranks have other devices, precisions or versions.
    """
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, ranks, local, local_ranks = (int(os.environ.get(name, default)) for name, default in defaults.items())
    torch.set_num_threads(min(torch.get_num_threads(), cpu_cores()))  # which knows no quota of a container
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_gpu = torch.cuda.is_available()
    if on_gpu:
        _open_gpu(local)

    # The processes that train together.
    if ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TRAINING_WAIT)
        atexit.register(distributed.destroy_process_group)  # gloo's threads can abort a process that exits before

    # Device and precision.
    if on_gpu:
        device = torch.device("cuda", local)
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype: torch.dtype | None = torch.bfloat16 if has_bf16 else torch.float16
        name, slow = torch.cuda.get_device_name(local), _slow_convolutions()
    else:
        device = torch.device("cpu")
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        dtype = torch.bfloat16 if has_bf16 else None
        name, slow = f"{cpu_cores()} CPU cores", _unused_gpu([str(warning.message) for warning in caught])
    hardware = Hardware(device, dtype, name, rank, ranks, slow, local, local_ranks)
    _require_alike(hardware)
    return hardware


@cache
def _patient_group() -> distributed.ProcessGroup:
    """Return the group of all ranks in which they wait for each other's share of the cases."""
    return distributed.new_group(backend="gloo", timeout=SHARE_WAIT)


def _require_alike(hardware: Hardware) -> None:
    """Check that all ranks compute the same: gradients of other precisions or versions must not be averaged.

    Raises:
        InputError: A rank differs from rank 0; all ranks raise it.
    """
    code = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.rglob("*.py"))))
    packages = {name: release for name, release in versions().items() if name != "python"}
    values = {"device": hardware.device.type, "precision": str(hardware.autocast_dtype or torch.float32)}
    values |= packages | {"code of the project": code.hexdigest()[:8]}
    if other := hardware.first_other(values):
        rank, expected, found = other
        lines = [f"  {key}: {expected[key]} on rank 0, {found[key]} on rank {rank}" for key in values]
        raise InputError(
            "torchrun: the processes do not compute the same:\n"
            + "\n".join(line for key, line in zip(values, lines, strict=True) if expected[key] != found[key])
            + "\nGive all machines the same code, packages and kind of GPU."
        )


def _open_gpu(number: int) -> None:
    """Make a GPU the device of this process, and check that it can be used.

    Raises:
        InputError: There is no such GPU, or it refuses its memory.
    """
    count = torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"torchrun: process {number} has no GPU of its own: this machine has {count}. Lower --nproc-per-node to "
            f"{count}."
        )
    try:
        torch.cuda.set_device(number)
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"GPU {number} cannot be used ({reason}). It may be taken by another program (nvidia-smi lists them): stop "
            "that program, or choose another GPU with CUDA_VISIBLE_DEVICES; an empty CUDA_VISIBLE_DEVICES means the "
            "CPU. Then restart the kernel."
        ) from error


def _slow_convolutions() -> tuple[str, ...]:
    """Return a warning if this PyTorch does not let cuDNN compute 3D convolutions in half precision.

    From version 2.9, PyTorch avoids cuDNN 9.8 to 9.14 for them, and its own are several times slower.

    Source: https://github.com/pytorch/pytorch/issues/166122
    """
    cudnn = torch.backends.cudnn.version() or 0
    if cudnn not in SLOW_CUDNN or torch.__version__ < "2.9":
        return ()
    return (
        f"warning: PyTorch {torch.__version__} does not use its cuDNN {cudnn} for 3D convolutions in half precision, "
        "which makes training several times slower and takes more memory; install another version of "
        "requirements.txt, which leaves those out.",
    )


def _unused_gpu(messages: Sequence[str]) -> tuple[str, ...]:
    """Return a warning if the machine has an NVIDIA GPU that PyTorch does not see.

    Args:
        messages: Warnings of PyTorch when it looked for a GPU, such as that the driver is too old.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset") in ("", "-1")
    if hidden or not (NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi")):
        return ()
    build = "" if torch.version.cuda else f"PyTorch {torch.__version__} is a build without CUDA. "
    reason = build + " ".join(messages)
    return (f"warning: this machine has an NVIDIA driver, but PyTorch finds no GPU and uses the CPU. {reason}".strip(),)


@contextmanager
def gpu_memory() -> Iterator[None]:
    """Turn an out-of-memory error of the GPU into one message.

    Raises:
        InputError: The memory of the GPU is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(gpu_is_full(error)) from error


def gpu_is_full(error: Exception) -> str:
    """Return what to do about an out-of-memory error of the GPU."""
    return (
        "The GPU's memory is full. Lower crops_per_volume, then crop_size, and use another logdir; or stop other "
        f"programs on the GPU and run again to continue. ({str(error).strip().splitlines()[0]})"
    )


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether an error says that another rank stopped, or did not answer in time."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def lost_process(error: RuntimeError, ranks: int, when: str = "") -> str:
    """Return what to do about an error of :func:`is_lost_process`; ``when`` is a time such as "in step 3"."""
    when = f" {when}" if when else ""
    if "timed out" in str(error).lower():
        return (
            f"Another of the {ranks} processes did not answer{when}. Look at the output of each process for the last "
            "thing that it did, and whether its machine, network and disks respond. Then run again with this logdir to "
            "continue."
        )
    return (
        f"Another of the {ranks} processes stopped{when}; its own message says why. Run again with this logdir to "
        "continue."
    )


def parallel(model: torch.nn.Module, hardware: Hardware) -> torch.nn.Module:
    """Return the network to call in training; with several ranks, it averages the gradients over them.

    Gradients are views of the buckets that are sent, which saves a copy. The only buffers are those of batch norm in
    pre-training, which each rank keeps, so none are sent before each step.
    """
    if hardware.ranks == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)


def memory_bytes(hardware: Hardware) -> int:
    """Return the free memory of the device in bytes."""
    return torch.cuda.mem_get_info(hardware.device)[0] if hardware.device.type == "cuda" else available_memory()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the result."""
    modules = {"monai": monai, "torch": torch, "numpy": np, "nibabel": nib}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in modules.items()}}
