"""Work in a thread while a GPU computes: the next item is made while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from swinunetr.devices import Hardware

T, R = TypeVar("T"), TypeVar("R")


def read_ahead(make: Callable[[T], R], items: Iterable[T], hardware: Hardware, threads: int = 1) -> Iterator[R]:
    """Yield ``make(item)`` for each item, in order; on a GPU, the next ones are made in threads meanwhile.

    On a CPU nothing is made ahead, as it would take the cores from the item in use. Calls can be chained: the items may
    themselves come from ``read_ahead``.

    Args:
        make: Function of one item. An error that it raises reaches the caller in place of the item's result.
        items: Items, which are taken in the caller's thread.
        hardware: Device of the run.
        threads: Items that are made at the same time; ``make`` needs no lock if it is 1.
    """
    if hardware.device.type != "cuda":
        yield from map(make, items)
        return
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=_use_gpu, initargs=(hardware.device,))
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _use_gpu(device: torch.device) -> None:
    """Make the GPU of the run that of this thread; the GPU of a new thread is number 0."""
    if torch.cuda.is_initialized():
        torch.cuda.set_device(device)
