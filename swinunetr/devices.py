"""Hardware of a run: device, precision, memory, and the processes of training on several GPUs."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import monai
import nibabel as nib
import numpy as np
import psutil
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
CGROUP = Path("/sys/fs/cgroup")
CONTAINER_MEMORY = (  # files of a container's limit, its use, and what of that is file cache, by version of cgroups
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


@dataclass(frozen=True)
class Hardware:
    """Device and precision of a process, and its place among the processes that ``torchrun`` started.

    Attributes:
        device: Device of the network.
        autocast_dtype: Type that :meth:`autocast` computes in; None means float32.
        name: Name of the device for tables and ``summary.json``.
        rank: Number of this process, from 0.
        ranks: Number of processes that train together; 1 without ``torchrun``.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    name: str
    rank: int = 0
    ranks: int = 1

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
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.ranks

    def gather(self, items: list[T]) -> list[T]:
        """Return the lists of all ranks joined, in the order of the ranks; every rank must call this method."""
        if self.ranks == 1:
            return items
        lists: list[list[T]] = [[] for _ in range(self.ranks)]
        distributed.all_gather_object(lists, items)
        return [item for part in lists for item in part]


def find_hardware() -> Hardware:
    """Return the GPU if there is one, otherwise the CPU; under ``torchrun``, also connect the processes.

    The precision is bfloat16 if the hardware supports it, float16 on older GPUs such as Colab's T4, otherwise float32.
    """
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo")
        if not on_gpu:  # gloo's threads can abort a process that exits while they run
            atexit.register(distributed.destroy_process_group)
    if on_gpu:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return Hardware(torch.device("cuda"), dtype, torch.cuda.get_device_name(), rank, ranks)
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if has_bf16 else None
    return Hardware(torch.device("cpu"), dtype, f"{os.cpu_count()} CPU cores", rank, ranks)


def parallel(model: torch.nn.Module, hardware: Hardware) -> torch.nn.Module:
    """Return the network to call in training; with several ranks, it averages the gradients over them."""
    return DistributedDataParallel(model) if hardware.ranks > 1 else model


def memory_bytes(hardware: Hardware) -> int:
    """Return the free memory of the device in bytes."""
    return torch.cuda.mem_get_info()[0] if hardware.device.type == "cuda" else available_memory()


def available_memory() -> int:
    """Return the bytes of main memory that are available: those of the machine, or fewer in a container."""
    available = psutil.virtual_memory().available
    for limit, usage, cache in CONTAINER_MEMORY:
        texts = [(CGROUP / name).read_text() if (CGROUP / name).is_file() else "" for name in (limit, usage, cache)]
        if texts[0].strip().isdigit() and texts[1].strip().isdigit():
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", texts[2], re.MULTILINE)
            used = int(texts[1]) - (int(cached[1]) if cached else 0)  # the system gives its file cache back
            available = min(available, max(0, int(texts[0]) - used))
    return available


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors instead of returning it to the operating system.

    By default glibc requests new memory for each large tensor, and the operating system fills it with zeros. That takes
    a third to a half of a training step on a CPU. With other C libraries this function has no effect.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # from malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the result."""
    modules = {"monai": monai, "torch": torch, "numpy": np, "nibabel": nib}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in modules.items()}}
