"""A CUDA device without a GPU, for fake tensors, whose gradients need one even in a PyTorch without CUDA."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
STANDARD = "-std=c++20"  # of C++, which PyTorch's headers need


@cache
def load() -> None:
    """Compile and load the device; must be called before torch is imported. A build with CUDA needs nothing.

    Raises:
        RuntimeError: torch was imported before.
        FileNotFoundError: There is no C++ compiler.
    """
    if "torch" in sys.modules:
        raise RuntimeError("expected no torch yet, found it imported: torch looks for its devices only once")
    package = Path(importlib.util.find_spec("torch").origin).parent
    if re.search(r"^(cuda|hip).*= '", (package / "version.py").read_text(), re.MULTILINE):
        return
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "fake_cuda.so"
        options = ["-shared", "-fPIC", STANDARD, f"-I{package / 'include'}"]
        subprocess.run(["c++", *options, str(SOURCE), "-o", str(built)], check=True)
        for library in (package / "lib/libc10.so", package / "lib/libtorch_cpu.so", built):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
