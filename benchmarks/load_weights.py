"""Measure seconds and memory that loading the 62-million-parameter SwinUNETR takes, from each checkpoint layout.

Run on Linux, from the repository's root: `python -m benchmarks.load_weights`. Each file is written at full size into a
temporary folder and loaded in a fresh process. Memory is a multiple of the file: what loading adds at its peak to the
network that is already there, and what network and loading take together. Both count the pages of the mapped file,
which the system can take back. Files of the Swin encoder alone are small beside the network, whatever loads them.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import monai
import torch

from swinunetr_weights import build_swinunetr, load_pretrained
from tests.test_swinunetr_weights import LAYOUTS, Layout

CLASSES = 14


def write_full_size(layout: Layout, file: Path) -> int:
    """Write one layout from a network of feature size 48 and return its number of input channels."""
    in_channels = 4 if layout.original == "four channels" else 1
    model = monai.networks.nets.SwinUNETR(in_channels, CLASSES, feature_size=48, use_v2=layout.original == "v2")
    torch.save(layout.write(model.state_dict()), file, _use_new_zipfile_serialization=layout.zipped)
    return in_channels


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def load_here(file: str, in_channels: int) -> None:
    """Print seconds to build and to load, bytes that loading adds and bytes of both; meant for a process of its own."""
    before, start = resident_bytes(), time.perf_counter()
    model = build_swinunetr(CLASSES, file, in_channels=in_channels)
    between, built = resident_bytes(), time.perf_counter()
    load_pretrained(model, file)
    loaded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(built - start, loaded - built, peak - between, peak - before)


def measure(file: Path, in_channels: int) -> list[float]:
    code = f"from benchmarks.load_weights import load_here; load_here({str(file)!r}, {in_channels})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return [float(number) for number in output.split()]


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, MONAI {monai.__version__}")
    print(f"{'layout':<22}{'file MB':>8}{'build s':>9}{'load s':>8}{'added / file':>14}{'peak / file':>13}")
    for name, layout in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.pt")
            in_channels = write_full_size(layout, file)
            size = file.stat().st_size
            build_s, load_s, added, peak = measure(file, in_channels)
        print(f"{name:<22}{size / 1e6:>8.0f}{build_s:>9.2f}{load_s:>8.2f}", end="")
        print(f"{added / size:>14.2f}{peak / size:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
