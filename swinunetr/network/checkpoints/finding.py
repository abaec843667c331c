"""The file of a checkpoint, by its path or by the short name of one that can be downloaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from monai.apps.utils import download_url

from swinunetr.errors import CheckpointError
from swinunetr.files import sha256, what_is_there
from swinunetr.network.layouts import SSL_50K, SSL_50K_FILE, refusal

SSL_50K_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SSL_50K_FILE}"
SSL_50K_SHA256 = "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8"


def find_checkpoint(name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the path of a checkpoint.

    Args:
        name_or_path: A path, or ``"ssl_50k"``, which is downloaded once; its sha256 is checked once in this process.
        cache_dir: Folder of the download; None uses ``checkpoints`` in the folder of ``torch.hub``.

    Raises:
        CheckpointError: There is no such file, it cannot be downloaded, or its sha256 is wrong.
    """
    if str(name_or_path) != SSL_50K:
        return existing_file(name_or_path)
    file = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints")).expanduser() / SSL_50K_FILE
    if not file.exists():
        _download_ssl_50k(file)
    elif sha256(file) != SSL_50K_SHA256:
        remedy = f"Delete it, or download {SSL_50K_URL}"
        raise refusal(file, "an incomplete or changed file", f"sha256 {SSL_50K_SHA256}", remedy)
    return file


def existing_file(path: str | os.PathLike) -> Path:
    """Return the path of a file, with ``~`` expanded.

    Raises:
        CheckpointError: There is no such file.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    present = "a folder" if file.is_dir() else "no file"
    raise CheckpointError(
        f"{file}: expected a file of weights, found {present}. Correct the path: pretrained_checkpoint of a notebook, "
        f"or the weights given to segment.py or export.py. In a notebook, {SSL_50K!r} downloads this tutorial's. "
        f"{what_is_there(file)}"
    )


def _download_ssl_50k(file: Path) -> None:
    """Download into a folder beside ``file``, on the same disk, then rename: an interrupted download leaves no file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder, SSL_50K_FILE)
            download_url(SSL_50K_URL, part, hash_val=SSL_50K_SHA256, hash_type="sha256", progress=True)
            os.replace(part, file)
    except (OSError, RuntimeError, ValueError) as error:  # the type for a wrong hash depends on the version of MONAI
        expected = f"{SSL_50K_FILE}, about 719 MB, sha256 {SSL_50K_SHA256}"
        remedy = f"Download {SSL_50K_URL} on a computer with internet access and copy it to this path."
        raise refusal(file, f"a file that could not be downloaded ({error})", expected, remedy) from error
