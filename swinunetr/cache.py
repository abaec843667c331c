"""Cache of preprocessed cases on disk, which later runs read."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import torch
from tqdm.auto import tqdm

from swinunetr.files import replacing


def cache_file(
    folder: str | Path, files: Mapping[str, str], settings: Sequence[object], code: Sequence[object]
) -> Path:
    """Return the path of a case in the cache; its name is a hash of everything that the case depends on.

    The hash includes the versions of MONAI, PyTorch, NumPy and nibabel.

    Args:
        folder: Folder of the cache.
        files: Paths of the case's files by kind. The hash includes path, size and time of modification.
        settings: Values that the result depends on, which JSON can store.
        code: Functions that compute the case. The hash includes their source.
    """
    stats = [(kind, os.path.realpath(file), os.stat(file)) for kind, file in files.items()]
    stamps = [(kind, path, stat.st_size, stat.st_mtime_ns) for kind, path, stat in stats]
    sources = [inspect.getsource(function) for function in code]
    versions = [library.__version__ for library in (monai, torch, np, nib)]
    content = [stamps, settings, sources, versions]
    return Path(folder).expanduser() / (hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32] + ".pt")


def read_cache(file: Path, keys: Collection[str], in_memory: bool) -> dict | None:
    """Return a preprocessed case from ``file``, or None if the file is missing or damaged.

    Args:
        file: Path from :func:`cache_file`.
        keys: Parts that the case must have.
        in_memory: Whether to load the tensors into memory; otherwise they are mapped from the file.
    """
    try:
        parts = torch.load(file, weights_only=True, mmap=not in_memory)
    except Exception:  # damaged files raise many types of error
        return None
    return parts if isinstance(parts, dict) and parts.keys() == set(keys) else None


def write_cache(parts: dict, file: Path) -> None:
    """Write a preprocessed case to ``file``; if that fails, print a message and continue without it."""
    try:
        with replacing(file) as temporary:
            torch.save(parts, temporary)
    except (OSError, RuntimeError) as error:
        tqdm.write(f"cache_dir: '{file.parent}' cannot store preprocessed cases ({error}).")
