"""Measure the seconds and the memory that building and loading a SwinUNETR takes, from real checkpoints or a made one.

Run on Linux, from the project's root:
    .venv/bin/python -m benchmarks.load_weights [FILE ...]
Without a file, a network of feature size 48 (62 million parameters) is written and loaded. Each file is loaded in a
process of its own. Memory is given as a multiple of the file: what loading adds at its peak to the network that is
already there, and what network and loading take together. Both count the pages of the mapped file, which the system
can take back.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.step import CLASSES
from swinunetr.hardware import versions
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained, save_weights


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def load_here(file: str) -> None:
    """Print seconds to build and to load, bytes that loading adds and bytes of both; meant for a process of its own."""
    before, start = resident_bytes(), time.perf_counter()
    model = build_swinunetr(CLASSES, file)
    between, built = resident_bytes(), time.perf_counter()
    load_pretrained(model, file)
    loaded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(built - start, loaded - built, peak - between, peak - before)


def measure(file: Path) -> None:
    """Print one line of the table."""
    code = f"from benchmarks.load_weights import load_here; load_here({str(file)!r})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    build_s, load_s, added, peak = (float(number) for number in output.split())
    size = file.stat().st_size
    print(f"{file.name:<40}{size / 1e6:>8.0f}{build_s:>9.2f}{load_s:>8.2f}", end="")
    print(f"{added / size:>14.2f}{peak / size:>13.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="checkpoints of one-channel networks")
    files = parser.parse_args().files
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions()}")
    print(f"{'file':<40}{'MB':>8}{'build s':>9}{'load s':>8}{'added / file':>14}{'peak / file':>13}")
    with tempfile.TemporaryDirectory() as folder:
        if not files:
            files = [Path(folder, "feature_size_48.pth")]
            torch.manual_seed(0)
            save_weights(build_swinunetr(CLASSES), files[0])
        for file in files:
            measure(file)


if __name__ == "__main__":
    main()
