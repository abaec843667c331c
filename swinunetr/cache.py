"""Preprocessed cases on disk, where the next run finds them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import monai
import torch
from tqdm.auto import tqdm

from swinunetr.files import replacing


def cache_file(
    folder: str | Path, files: Mapping[str, str], settings: Sequence[object], code: Sequence[object]
) -> Path:
    """Return where a case is kept, under a name that changes with all that it is made from.

    Args:
        folder: Folder of the cache.
        files: The case's files by kind; their path, size and time count.
        settings: Plain values that the result depends on.
        code: The functions that make the case; their source counts, and so do the versions of MONAI and PyTorch.
    """
    stats = [(kind, os.path.realpath(file), os.stat(file)) for kind, file in files.items()]
    stamps = [(kind, path, stat.st_size, stat.st_mtime_ns) for kind, path, stat in stats]
    sources = [inspect.getsource(function) for function in code]
    content = [stamps, settings, sources, monai.__version__, torch.__version__]
    return Path(folder, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32] + ".pt")


def read_cache(file: Path, in_memory: bool) -> dict | None:
    """Read a preprocessed case, or map it from the file; None if there is none that can be read."""
    try:
        return torch.load(file, weights_only=True, mmap=not in_memory)
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return None


def write_cache(parts: dict, file: Path) -> None:
    """Keep a preprocessed case; where that fails the run continues, and the next one preprocesses the case again."""
    try:
        with replacing(file) as temporary:
            torch.save(parts, temporary)
    except (OSError, RuntimeError) as error:
        tqdm.write(f"cache_dir: '{file.parent}' can't keep preprocessed cases ({error}).")
