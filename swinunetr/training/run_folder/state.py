"""The state of a run on disk, from which it resumes.

The data of step k depend only on the seed, k and the rank (``batches.training_batch``), so a state holds nothing about
the data loading. A state is replaced as a whole and the one before it is kept, so a process that is killed at any
moment leaves the last one or the one before.
"""

from __future__ import annotations

import csv
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinunetr.errors import InputError
from swinunetr.files import check_zip, replacing
from swinunetr.training.settings import differences, identity

CURRENT, PREVIOUS = "state.pt", "state.previous.pt"
PROGRESS = ("step", "losses", "history", "seconds", "rng")  # in a file, beside the settings and the parts
COMMON = {"settings", *PROGRESS}


@dataclass(frozen=True)
class RunState:
    """How far a run is. Without ``parts`` nothing can be resumed: the run is new, or finished and its state deleted."""

    step: int = 0  # the last one
    seconds: float = 0.0  # of training
    losses: list[float] = field(default_factory=list)  # of the steps since the last validation
    history: list[dict[str, float]] = field(default_factory=list)  # one row per validation, as in metrics.csv
    rng: Tensor = field(default_factory=torch.get_rng_state)  # state of the random numbers
    parts: Mapping[str, Any] = field(default_factory=dict)  # state_dict of model, optimizer and others by name


def find_state(folder: Path, settings: dict) -> RunState:
    """Return the newest undamaged state of a run, or what its scores say if it is finished.

    Args:
        folder: Folder of the run.
        settings: Settings of the run, of which a state must be.

    Raises:
        InputError: No state can be read, it is of another run or of a later step than the last one, or there are
            scores of an unfinished run without a state.
    """
    files = [folder / name for name in (CURRENT, PREVIOUS) if (folder / name).exists()]
    most = settings.get("recipe", {}).get("max_steps", math.inf)
    for file in files:
        try:
            state = _read(file)
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            print(f"{file} is damaged ({error}); using the state before it.")
            continue
        if lines := differences(identity(state["settings"]), identity(settings)):
            raise InputError(
                f"logdir: '{file}' is the state of a run with other settings than '{folder / 'settings.json'}' "
                "names:\n" + "\n".join(lines) + "\nBring the run's own state back, or choose another folder."
            )
        if state["step"] > most:
            raise InputError(
                f"max_steps: expected at least {state['step']}, as many as the run in '{folder}' has trained, "
                f"found {most}. Raise max_steps, or choose another logdir."
            )
        parts = {name: part for name, part in state.items() if name not in COMMON}
        return RunState(**{name: state[name] for name in PROGRESS}, parts=parts)
    if files:
        raise InputError(f"logdir: no state in '{folder}' can be read. Choose another folder to start again.")
    return _finished_without_state(folder, most) if (folder / "metrics.csv").exists() else RunState()


def write_state(state: RunState, settings: dict, folder: Path) -> None:
    """Write a state to the folder of its run, and keep the one before it.

    Raises:
        WriteError: It could not be written; the state before it is intact.
    """
    progress = {name: getattr(state, name) for name in PROGRESS}
    current = folder / CURRENT
    with replacing(current) as temporary, open(temporary, "wb") as file:
        torch.save({"settings": settings, **progress, **state.parts}, file)
        if current.exists():
            current.replace(folder / PREVIOUS)


def _read(file: Path) -> dict:
    """Read a state without running code from the file, and check its checksums.

    Raises:
        ValueError: The file holds something else. Damaged files raise other errors, too.
    """
    check_zip(file)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not state.keys() >= COMMON:
        raise ValueError("it is not the state of a run")
    return state


def _finished_without_state(folder: Path, most: float) -> RunState:
    """Return the scores of a finished run whose states were deleted to save space."""
    metrics = folder / "metrics.csv"
    try:
        with open(metrics, newline="", encoding="utf-8") as file:
            rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
        history = [row | {"step": int(row["step"])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:  # a spreadsheet may have saved it
        raise InputError(
            f"logdir: '{metrics}' is not as the run wrote it ({type(error).__name__}: {error}), and there is no "
            "state. Bring the file back as it was, or choose another folder."
        ) from None
    last = history[-1]["step"] if history else 0
    if not history or last != most:
        raise InputError(
            f"logdir: '{folder}' holds results up to step {last}, but no state to resume from. Choose another folder."
        )
    try:
        seconds = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seconds"]
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged; it is written again
        seconds = 0.0
    return RunState(step=int(last), seconds=seconds, history=history)
