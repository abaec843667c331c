"""What a run computes on: device, precision, memory and the processes that train together."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Hardware:
    """Hold what the run computes on; ``autocast_dtype`` None means plain float32.

    Under ``torchrun`` there are ``ranks`` such processes, of which this is number ``rank``; else it is alone.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    name: str
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs; the loss stays outside it, in float32."""
        dtype = self.autocast_dtype or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.autocast_dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Return what keeps float16 gradients from vanishing; for any other precision it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of the items: every item is in the part of one rank."""
        return items[self.rank :: self.ranks]

    def sample_number(self, step: int) -> int:
        """Return which volume of the run's sequence, from 1, this rank trains on in ``step``: the ranks take turns."""
        return (step - 1) * self.ranks + self.rank + 1

    def mean(self, value: float) -> float:
        """Return the mean of a number over the ranks; every rank must call it."""
        if self.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.ranks

    def gather(self, items: list[T]) -> list[T]:
        """Return the lists of all ranks joined, in order of the ranks; every rank must call it."""
        if self.ranks == 1:
            return items
        lists: list[list[T]] = [[] for _ in range(self.ranks)]
        distributed.all_gather_object(lists, items)
        return [item for part in lists for item in part]


def find_hardware() -> Hardware:
    """Return the GPU if there is one, else the CPU, and join the other processes if ``torchrun`` started several.

    bfloat16 where the hardware computes in it; float16 on older GPUs, such as Colab's T4; else float32.
    """
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return Hardware(torch.device("cuda"), dtype, torch.cuda.get_device_name(), rank, ranks)
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if has_bf16 else None
    return Hardware(torch.device("cpu"), dtype, f"{os.cpu_count()} CPU cores", rank, ranks)


def parallel(model: torch.nn.Module, hardware: Hardware) -> torch.nn.Module:
    """Return the network to call in training: with several ranks, one that averages its gradients over them."""
    return DistributedDataParallel(model) if hardware.ranks > 1 else model


def memory_bytes(hardware: Hardware) -> int:
    """Return the bytes that are free on the device."""
    return torch.cuda.mem_get_info()[0] if hardware.device.type == "cuda" else available_memory()


def available_memory() -> int:
    """Return the bytes of the CPU's memory that are free, at most what a container may use."""
    limits = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes"))
    texts = [limit.read_text().strip() for limit in limits if limit.is_file()]
    return min([psutil.virtual_memory().available, *(int(text) for text in texts if text.isdigit())])


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors instead of giving it back to the system after each.

    Where the C library is not glibc, nothing happens. By default glibc maps each large tensor anew, and the system
    fills its pages with zeros: a third to a half of a training step on a CPU.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # from malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
