"""Cache of preprocessed cases on disk, which later runs read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import torch
from tqdm.auto import tqdm

from swinunetr.files import check_zip, replacing


def cache_file(folder: str | Path, content: Sequence[object]) -> Path:
    """Return the path of a case in the cache; its name is a hash of everything that the case depends on.

    That is ``content``, values that JSON can store, and the versions of MONAI, PyTorch, NumPy and nibabel.
    """
    versions = [library.__version__ for library in (monai, torch, np, nib)]
    digest = hashlib.sha256(json.dumps([*content, versions]).encode()).hexdigest()
    return Path(folder).expanduser() / f"{digest[:32]}.pt"


def read_cache(file: Path, keys: Collection[str], in_memory: bool) -> dict | None:
    """Return a case, of the parts ``keys``, or None if the file is missing or damaged, which a message says.

    Its tensors are loaded into memory (``in_memory``) or mapped from the file.
    """
    if not file.exists():
        return None
    try:
        check_zip(file)
        parts = torch.load(file, weights_only=True, mmap=not in_memory)
        if isinstance(parts, dict) and parts.keys() == set(keys):
            return parts
        reason = "it lacks parts of a case"
    except Exception as error:  # damaged files raise many types of error
        reason = str(error)
    tqdm.write(f"cache_dir: '{file}' is damaged ({reason}); its case is preprocessed again.")
    return None


def write_cache(parts: dict, file: Path) -> None:
    """Write a preprocessed case to ``file``; if that fails, print a message and continue without it."""
    try:
        with replacing(file) as temporary:
            torch.save(parts, temporary)
    except (OSError, RuntimeError) as error:
        tqdm.write(f"cache_dir: '{file.parent}' cannot store preprocessed cases ({error}).")
