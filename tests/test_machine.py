"""Cores and memory that a process may use."""

import os

import pytest

from swinunetr import machine
from swinunetr.machine import most_workers


@pytest.mark.parametrize("version", [0, 1])
def test_a_container_has_what_its_limit_leaves_besides_the_file_cache(version, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    contents = ("3000000\n", "2000000\n", "anon 5\ninactive_file 500000\n")
    for name, text in zip(machine.CONTAINER_MEMORY[version], contents, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.available_memory() == 1_500_000
    (tmp_path / machine.CONTAINER_MEMORY[version][0]).write_text("max\n")
    assert machine.available_memory() > 1_500_000


@pytest.mark.parametrize(
    ("names", "texts", "cores"),
    [
        (("cpu.max",), ("250000 100000\n",), 3),
        (("cpu.max",), ("50000 100000\n",), 1),
        (("cpu.max",), ("max 100000\n",), 8),
        (("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"), ("200000\n", "100000\n"), 2),
        (("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"), ("-1\n", "100000\n"), 8),
    ],
)
def test_cores_are_those_that_the_process_may_use(names, texts, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for name, text in zip(names, texts, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cpu_cores() == cores


def test_processes_of_a_machine_share_its_cores_and_memory(monkeypatch):
    monkeypatch.setattr(machine, "cpu_cores", lambda: 16)
    monkeypatch.setattr(machine, "available_memory", lambda: 24e9)
    assert (most_workers(), most_workers(4e9), most_workers(50e9)) == (16, 6, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (most_workers(), most_workers(4e9)) == (4, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert most_workers() == 1
