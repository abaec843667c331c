"""How a folder becomes that of a run: it can be written to, is in no other use, holds no other run, and is shared."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from filelock import FileLock, Timeout

from swinunetr.errors import InputError
from swinunetr.files import replacing
from swinunetr.hardware import Hardware
from swinunetr.training.run_folder.state import CURRENT, PREVIOUS
from swinunetr.training.settings import differences, identity

EVALUATION = "evaluation.csv"
RESULTS = (CURRENT, PREVIOUS, "metrics.csv", "best_model.pth", EVALUATION)
_locks: dict[Path, FileLock] = {}  # held until this process exits, so that a notebook cell can be run again


def claim_run_folder(folder: Path, settings: dict, hardware: Hardware, resume: bool) -> None:
    """Make and lock the folder of a run, after checking that it holds no other one and that all ranks see it.

    Args:
        folder: The folder, which is made if it is missing.
        settings: Settings of the run, as read back from JSON.
        hardware: Rank of this process; rank 0 makes the folder.
        resume: Whether the folder may hold this run already.

    Raises:
        InputError: The folder cannot be written to, is in use, is not the same for all ranks, or holds another run, or
            this one without ``resume``. All ranks raise it.
    """
    with hardware.failing_together():
        if hardware.rank == 0:
            _make_writable(folder)
            _lock(folder)
            _compare_settings(folder, settings, resume)
    _require_shared(folder, hardware)


def _make_writable(folder: Path) -> None:
    """Make a folder and check that files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / ".writable") as temporary:
            temporary.touch()
        (folder / ".writable").unlink()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"logdir: '{folder}' cannot be written to ({reason}). Choose another folder.") from None


def _lock(folder: Path) -> None:
    """Keep other processes out of a folder until this one exits."""
    if folder.resolve() in _locks:
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"logdir: '{folder}' is in use by another run. Wait until it finishes, or choose another folder."
        ) from None
    except (OSError, NotImplementedError):
        pass  # the file system has no locks, such as a mounted Google Drive
    _locks[folder.resolve()] = lock


def _compare_settings(folder: Path, settings: dict, resume: bool) -> None:
    """Check that a run in the folder is the one of these settings."""
    file = folder / "settings.json"
    results = [name for name in RESULTS if (folder / name).exists()]
    if results and not file.exists():
        raise InputError(
            f"logdir: '{folder}' holds {', '.join(results)}, but no settings.json, which names the data and the "
            "weights of a run; an earlier version of this project wrote none. Choose another folder. The weights "
            "in this one can still be used as pretrained_checkpoint and by segment.py."
        )
    if not file.exists():
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict) or not isinstance(before.get("recipe", {}), dict):
            raise ValueError("it does not hold settings by name")
    except (OSError, ValueError) as error:
        raise InputError(f"logdir: '{file}' cannot be read ({error}). Choose another folder.") from None
    if results and (lines := differences(identity(before), identity(settings))):
        raise InputError(
            f"logdir: '{folder}' holds a run with other settings:\n" + "\n".join(lines) + "\n"
            "Restore them to continue that run, or choose another folder for a new run."
        )
    if results and not resume:
        raise InputError(f"logdir: '{folder}' holds a run. Choose another folder, or set resume to True.")


def _require_shared(folder: Path, hardware: Hardware) -> None:
    """Check that all ranks see the folder: at the end they read its weights and write their predictions to it."""
    marks = []
    if hardware.rank == 0:
        marks.append(f".{secrets.token_hex(8)}")
        (folder / marks[0]).touch()
    (mark,) = hardware.gather(marks)
    sees = hardware.gather([(folder / mark).exists()])
    if hardware.rank == 0:
        (folder / mark).unlink()
    if not all(sees):
        raise InputError(
            f"logdir: '{folder}' is not the same folder on all machines: rank {sees.index(False)} does not see what "
            "rank 0 wrote there. Choose a folder on a disk that all machines share, with its path on each."
        )
