"""Items that are made in threads: several at a time, and while a GPU computes."""

import threading
import time

import pytest
import torch

from swinunetr.hardware import Hardware
from swinunetr.threads import in_threads, read_ahead

CPU = Hardware(torch.device("cpu"), None, "CPU")
GPU = Hardware(torch.device("cuda", 0), torch.bfloat16, "GPU")  # only a name here: nothing is computed on it


def test_several_items_are_made_at_a_time_and_come_in_order():
    together = threading.Barrier(3, timeout=10)

    def make(number: int) -> str:
        together.wait()  # for two others
        return str(number)

    assert in_threads(make, range(6), threads=3) == list("012345")
    assert in_threads(str, [], "Empty") == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_out_what_has_not_begun(error):
    made = []

    def make(number: int) -> None:
        made.append(number)
        time.sleep(0.01)
        if number == 1:
            raise error

    with pytest.raises(error):
        in_threads(make, range(1000), threads=2)
    assert len(made) < 100


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["CPU", "GPU"])
def test_all_items_come_in_order(hardware, threads):
    assert list(read_ahead(str, range(20), hardware, threads)) == [str(number) for number in range(20)]
    assert list(read_ahead(len, read_ahead(str, [7, 12], hardware), hardware)) == [1, 2]
    assert list(read_ahead(str, [], hardware)) == []


def test_the_next_item_is_made_while_the_present_one_is_used():
    made = [threading.Event() for _ in range(3)]
    items = read_ahead(lambda number: made[number].set(), range(3), GPU)
    next(items)
    assert made[1].wait(timeout=10)  # although nobody asked for it yet
    assert list(items) == [None, None]


def test_on_a_cpu_nothing_is_made_before_it_is_used():
    made = []
    items = read_ahead(made.append, range(3), CPU)
    next(items)
    assert made == [0]


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["CPU", "GPU"])
def test_an_error_reaches_the_caller_in_its_turn(hardware):
    items = read_ahead(lambda number: 1 / number, [2, 1, 0, 5], hardware)
    assert [next(items), next(items)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_no_item_is_made_after_the_caller_stops():
    made = []
    items = read_ahead(made.append, range(100), GPU)
    next(items)
    items.close()
    assert len(made) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
