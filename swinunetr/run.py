"""The folder of a run: its only writer, and all that it takes to go on with a run where it stopped.

What step k trains on is a function of the seed and k (``batches.training_batch``), so nothing about the data path
needs saving: the state of a run is the number of its last step, model, optimizer, history and the seconds that it took.
Every file is replaced whole, so a kill at any moment leaves the last state or the one before.
"""

from __future__ import annotations

import csv
import json
import math
import pickle
import platform
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

import monai
import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from swinunetr.checkpoints import save_weights
from swinunetr.devices import Hardware
from swinunetr.errors import InputError, TrainingStopped
from swinunetr.files import replacing

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

MOST_SECONDS = 60  # between two states, however slow saving is
_locks: dict[Path, IO] = {}  # kept open while this process lives, so that a cell can be run again


class RunFolder:
    """Keep a run in ``logdir``: state, ``metrics.csv``, weights, ``summary.json``, TensorBoard events.

    ``settings`` is what decides the result (recipe, seed, split, weights): plain values, compared with those of the
    state found. With ``resume`` False a folder that holds a run is refused. ``save_every`` is in seconds: states
    are saved less often where saving would take over 2% of the time, but at least once a minute.

    Raises:
        InputError: the folder can't be written to, is in use, or holds a run of other settings or no usable state.
    """

    def __init__(
        self,
        logdir: str | Path,
        settings: dict,
        hardware: Hardware,
        resume: bool = True,
        save_every: float = 15,
    ) -> None:
        self.path = Path(logdir).expanduser()
        self.hardware = hardware
        self.writes = hardware.rank == 0
        self.save_every = save_every
        settings = settings | {"ranks": hardware.ranks}
        self.settings = json.loads(json.dumps(settings))  # as it will be when read back: tuples become lists
        self.losses: list[float] = []  # of the steps since the last validation
        self.history: list[dict[str, float]] = []  # one row a validation, as in metrics.csv
        self.step, self.seconds_before, self.started = 0, 0.0, time.monotonic()
        self._stop_asked, self._saved_at, self._save_took = False, time.monotonic(), 0.0
        if not str(logdir):
            raise InputError("logdir: expected the name of a folder, found an empty one.")
        if not isinstance(save_every, int | float) or save_every < 0:
            raise InputError(f"save_every: expected seconds, 0 or more, found {save_every!r}.")
        if self.writes:
            self._open()
        self._find_state(resume)
        self.events = SummaryWriter(self.path, purge_step=self.step + 1) if self.writes else None

    def _open(self) -> None:
        """Make the folder, see that it can be written to, and hold its lock for the life of this process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = _locks.get(self.path.resolve()) or open(self.path / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"logdir: '{self.path}' can't be written to ({error}). Choose another folder.") from None
        if fcntl and self.path.resolve() not in _locks:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"logdir: '{self.path}' is in use by another run. Wait for its end, or choose another folder."
                ) from None
            except OSError:
                pass  # a file system without locks, such as a mounted Drive
        _locks[self.path.resolve()] = lock

    # ------------------------------------------------------------------------------------------------ going on

    def _find_state(self, resume: bool) -> dict | None:
        """Return the newest whole state, if there is one, after checking that it is of the same run."""
        files = [file for file in (self.path / "state.pt", self.path / "state.previous.pt") if file.exists()]
        if not files and (self.path / "metrics.csv").exists():
            raise InputError(
                f"logdir: '{self.path}' holds results without a state to go on from. Choose another folder."
            )
        if files and not resume:
            raise InputError(f"logdir: '{self.path}' holds a run. Choose another folder, or set resume to True.")
        for file in files:
            try:
                state = _read_state(file)
            except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
                print(f"{file} is damaged ({error}); using the state before it.")
                continue
            self._compare(state["settings"])
            self.step, self.seconds_before = state["step"], state["seconds"]
            self.losses, self.history = state["losses"], state["history"]
            return state
        if files:
            raise InputError(f"logdir: no state in '{self.path}' can be read. Move the folder away to start afresh.")
        return None

    def _compare(self, before: dict) -> None:
        then, now = _flat(before), _flat(self.settings)
        if changed := [key for key in then | now if then.get(key) != now.get(key)]:
            lines = [f"  {key}: {then.get(key)} in the folder, {now.get(key)} now" for key in changed]
            raise InputError(
                f"logdir: '{self.path}' holds a run with other settings:\n" + "\n".join(lines) + "\n"
                "Set them back to go on with that run, or choose another folder for a new one."
            )

    def restore(self, **parts: torch.nn.Module | torch.optim.Optimizer | torch.amp.GradScaler) -> int:
        """Load the last state on disk into ``parts`` and return the number of its last step, 0 for a new run.

        ``parts`` are model, optimizer and scaler, by the names under which :meth:`keep` gets them. A new run is saved
        as it stands, so that from here on there is a state to go on from, whenever a kill comes.
        """
        state = self._find_state(resume=True)
        self.started = time.monotonic()
        self.hardware.gather([])  # all ranks have read it, or found none, before one writes
        if state is None:
            self.keep(0, True, **parts)
            return 0
        for name, part in parts.items():
            if content := state[name]:  # a scaler that is switched off has an empty one
                part.load_state_dict(content)
        torch.set_rng_state(state["rng"])
        print(f"Going on after step {self.step} of the run in '{self.path}'.")
        return self.step

    # ------------------------------------------------------------------------------------------- while training

    @contextmanager
    def stopping_cleanly(self) -> Iterator[None]:
        """Turn a first Ctrl-C or SIGTERM into a stop after the step under way; a second one stops at once."""

        def ask(number: int, frame: object) -> None:
            print("Stopping after this step; interrupt again to stop at once.", flush=True)
            self._stop_asked = True
            signal.signal(number, before[number])

        self._stop_asked, self._saved_at = False, time.monotonic()
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingStopped(
                "The GPU's memory is full. Lower crops_per_volume, then crop_size, and start in another logdir; "
                f"or free the GPU of other work and run again to go on. ({str(error).splitlines()[0]})"
            ) from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def record(self, step: int, scores: dict[str, float]) -> bool:
        """Add the scores of one validation; return whether their ``mean_dice``, if there is one, is the best yet."""
        row = {"step": step, "train_loss": float(np.mean(self.losses)), **scores}
        self.losses = []
        self.history.append(row)
        if self.writes:
            self._write_metrics(row)
        return row is self.best

    def _write_metrics(self, row: dict[str, float]) -> None:
        """Write all validations to ``metrics.csv``, and the last one to TensorBoard."""
        self.write_table(self.history, "metrics.csv")
        for name, value in row.items():
            if name != "step":
                tag = name if name in ("train_loss", "mean_dice") else f"scores/{name}"
                self.events.add_scalar(tag, value, row["step"])

    def save_weights(self, model: torch.nn.Module, name: str) -> None:
        """Write the weights of a SwinUNETR, with a note of the settings, to the file ``name``; plain MONAI loads it."""
        if self.writes:
            save_weights(model, self.path / name, note=self.settings)

    def keep(self, step: int, last: bool, **parts: torch.nn.Module | torch.optim.Optimizer) -> None:
        """Write the state of ``parts`` after ``step`` if it is time to, if it is the last, or if a stop was asked for.

        Raises:
            TrainingStopped: a stop was asked for; the state is on disk.
        """
        self.step = step
        stop = self.hardware.mean(self._stop_asked) > 0  # of any rank
        interval = min(max(self.save_every, 50 * self._save_took), MOST_SECONDS)
        due = time.monotonic() - self._saved_at > interval
        if self.writes and (due or last or stop):
            self._save_state(parts)
        if stop:
            raise TrainingStopped(f"Stopped after step {step}, which is saved. Run again with this logdir to go on.")

    def _save_state(self, parts: dict) -> None:
        start = time.monotonic()
        state = {
            "step": self.step,
            "settings": self.settings,
            "losses": self.losses,
            "history": self.history,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            **{name: part.state_dict() for name, part in parts.items()},
        }
        current = self.path / "state.pt"
        try:
            with replacing(current) as temporary:
                torch.save(state, temporary)
                if current.exists():
                    current.replace(self.path / "state.previous.pt")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            free = shutil.disk_usage(self.path).free / 1e6
            raise InputError(
                f"logdir: the state after step {self.step} could not be written to '{self.path}', where {free:.0f} MB "
                f"are free ({error}). The state before it is whole: make room and run again to go on."
            ) from error
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - start

    # --------------------------------------------------------------------------------------------- what came out

    @property
    def seconds(self) -> float:
        """Return the seconds that the run has taken, those before a stop included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def best(self) -> dict[str, float]:
        """Return the row of the best mean Dice so far; step 0 and NaN before the first validation."""
        if not self.history:
            return {"step": 0, "mean_dice": math.nan}
        return max(self.history, key=lambda row: np.nan_to_num(row.get("mean_dice", math.nan), nan=-1))

    @property
    def best_dice(self) -> float:
        """Return the best mean Dice so far, 0 before the first validation."""
        return self.best["mean_dice"] if self.history else 0.0

    def write_table(self, rows: list[dict[str, object]], name: str) -> None:
        """Write rows that share their keys as a CSV file; NaN, as of an absent organ, is an empty field."""
        if not self.writes:
            return
        with replacing(self.path / name) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)

    def add_figure(self, figure: Figure, name: str) -> None:
        """Write a figure as ``<name>.png``, and to TensorBoard at the last step."""
        if self.writes:
            with replacing(self.path / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=150)
            self.events.add_figure(name, figure, self.step, close=False)

    def write_summary(self, **results: object) -> None:
        """Write ``summary.json``: how the run ended, what was run, and on what; NaN, as of an absent organ, is null."""
        if not self.writes:
            return
        content = {
            **results,
            **self.settings,
            "hardware": {key: str(value) for key, value in asdict(self.hardware).items()},
            "versions": versions(),
            "seconds": round(self.seconds, 1),
        }
        with replacing(self.path / "summary.json") as temporary:
            temporary.write_text(json.dumps(_without_nan(content), indent=2) + "\n")


def require_finite(loss: float, model: torch.nn.Module, step: int, case: str, scaled: bool = False) -> None:
    """Stop the run before a broken step reaches the weights.

    ``scaled``: the gradients are float16's, and a scaler skips those steps that overflow; only the loss is looked at.

    Raises:
        TrainingStopped: the loss or a gradient is NaN or infinite, naming step and case.
    """
    gradients = [] if scaled else [p.grad for p in model.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingStopped(
            f"Step {step} on case '{case}' gave a loss of {loss} and a gradient of norm {norm}. The last saved state "
            "is from before it. Look at that case's intensities and labels; if they are right, lower learning_rate and "
            "start in another logdir."
        )


def _flat(settings: dict) -> dict:
    """Return settings with those of inner dictionaries lifted up: no two of them share a name."""
    inner = [_flat(value) for value in settings.values() if isinstance(value, dict)]
    return {key: value for part in [settings, *inner] for key, value in part.items() if not isinstance(value, dict)}


def _without_nan(content: object) -> object:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def _read_state(file: Path) -> dict:
    """Read a state without running code; torch does not compare the checksums that it writes, so this does."""
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")
    return torch.load(file, map_location="cpu", weights_only=True)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    modules = {"monai": monai, "torch": torch, "numpy": np, "nibabel": nib}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in modules.items()}}
