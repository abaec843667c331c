"""How much of this machine a process may use: CPU cores and main memory, also in a container."""

from __future__ import annotations

import ctypes
import math
import os
import re
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
CONTAINER_CORES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # by version of cgroups
CONTAINER_MEMORY = (  # files of a container's limit, its use, and what of that is file cache, by version of cgroups
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_memory() -> int:
    """Return the bytes of main memory that are available: those of the machine, or fewer in a container."""
    available = psutil.virtual_memory().available
    for limit, usage, statistics in CONTAINER_MEMORY:
        texts = [
            (CGROUP / name).read_text() if (CGROUP / name).is_file() else "" for name in (limit, usage, statistics)
        ]
        if texts[0].strip().isdigit() and texts[1].strip().isdigit():
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", texts[2], re.MULTILINE)
            used = int(texts[1]) - (int(cached[1]) if cached else 0)  # the system gives its file cache back
            available = min(available, max(0, int(texts[0]) - used))
    return available


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use: of the machine, or fewer by its affinity or quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in CONTAINER_CORES:
        numbers = [text for name in names if (CGROUP / name).is_file() for text in (CGROUP / name).read_text().split()]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):  # otherwise there is no quota
            quota, period = map(int, numbers)
            cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def most_workers(item_bytes: float = 0) -> int:
    """Return how many items to make at the same time: as many as this process's share of cores and memory allows.

    Processes that ``torchrun`` starts on one machine share both.

    Args:
        item_bytes: Main memory that one item takes while it is made; 0 if it is small.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fitting = available_memory() // (processes * item_bytes) if item_bytes else math.inf
    return int(max(1, min(cpu_cores() // processes, fitting)))


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
