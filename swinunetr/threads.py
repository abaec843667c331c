"""Work in threads: several items at a time, and the next one while a GPU computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from swinunetr.hardware import Hardware
from swinunetr.machine import most_workers

T = TypeVar("T")
R = TypeVar("R")


def in_threads(make: Callable[[T], R], items: Sequence[T], title: str = "", threads: int | None = None) -> list[R]:
    """Return ``make(item)`` for each item, in order. An error or Ctrl-C waits only for the items under way.

    Args:
        make: Function of one item.
        items: Items.
        title: Title of the progress bar; empty means no progress bar.
        threads: Items that are made at the same time. None means :func:`machine.most_workers` of small items.
    """
    with ThreadPoolExecutor(threads or most_workers()) as pool:
        try:
            return list(tqdm(pool.map(make, items), total=len(items), desc=title, disable=not (title and items)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
