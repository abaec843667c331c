"""The folder of a run: everything that a run writes, and the state from which a stopped run resumes.

The data of step k depend only on the seed and k (``batches.training_batch``), so the state holds nothing about the data
loading. It holds the number of the last step, model, optimizer, history, random state and elapsed seconds.
Every file is replaced as a whole, so a process that is killed at any moment leaves the last state or the one before it.
"""

from __future__ import annotations

import csv
import json
import math
import pickle
import secrets
import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from swinunetr.data.organs import save_label_names
from swinunetr.errors import InputError, TrainingStopped
from swinunetr.files import check_zip, claim_folder, not_written, replacing, require_note, write_csv, write_json
from swinunetr.hardware import Hardware, gpu_is_full, is_lost_process, lost_process, versions
from swinunetr.network.checkpoints import save_weights, training_note
from swinunetr.recipe import CommonRecipe
from swinunetr.training.settings import differences, identity

LEAST_SCALE = 2**-4  # of a loss in float16; it begins at 2^16 and halves where gradients overflow
MOST_SECONDS = 60  # to which slow saving may stretch the time between two states
EVALUATION = "evaluation.csv"
IN_STATE = {"step", "settings", "losses", "history", "seconds", "rng"}  # beside the parts of the training
RESULTS = ("state.pt", "state.previous.pt", "metrics.csv", "best_model.pth", EVALUATION)
_locks: dict[Path, FileLock] = {}  # held until this process exits, so that a notebook cell can be run again


class RunFolder:
    """Folder of a run: state, weights, tables, figures, ``summary.json`` and TensorBoard events.

    With several ranks, all read the state and only rank 0 writes.

    Args:
        logdir: Path of the folder, which is made if it is missing.
        settings: Values that decide the result (recipe, seed, content of data and weights) and that JSON can store.
            ``settings.json`` keeps them. The folder is refused to a run with others, apart from those that only affect
            inference, and ``max_steps`` where the learning rate does not depend on it.
        hardware: Device and rank of this process.
        resume: Whether to continue the run in the folder. False refuses a folder that holds a run.
        save_every: Seconds between two states. Where saving would take over 2% of the time, the interval is stretched
            up to a minute.
        trains: Whether the run trains. Without training, no state is written.

    Raises:
        InputError: The folder cannot be written to, is in use, holds a run with other settings, or holds results
            without a state that can be read; ``save_every`` is not a number of seconds; or the ranks do not see the
            same folder, or have other settings or states. All ranks raise it.
    """

    def __init__(
        self,
        logdir: str | Path,
        settings: dict,
        hardware: Hardware,
        resume: bool = True,
        save_every: float = 15,
        trains: bool = True,
    ) -> None:
        self.path = Path(logdir).expanduser()
        self.hardware = hardware
        self.writes = hardware.rank == 0
        self.trains = trains
        self.save_every = save_every
        settings = settings | {"ranks": hardware.ranks}
        self.settings = json.loads(json.dumps(settings))  # as read back from a file: tuples become lists
        self.losses: list[float] = []  # of the steps since the last validation
        self.history: list[dict[str, float]] = []  # one row per validation, as in metrics.csv
        self.best: dict[str, float] = {"step": 0, "mean_dice": math.nan}  # row with the best mean Dice so far
        self.step, self.seconds_before, self.started = 0, 0.0, time.monotonic()
        self._stop_asked, self._saved_at, self._save_took = False, time.monotonic(), 0.0
        self._evaluated: float | None = None  # step of the weights that were evaluated last
        with hardware.failing_together():
            if not str(logdir):
                raise InputError("logdir: expected the name of a folder, found an empty one.")
            if not isinstance(save_every, int | float) or save_every < 0:
                raise InputError(f"save_every: expected seconds, 0 or more, found {save_every!r}.")
            if self.writes:
                self._open()
                self._compare_settings(resume)
        self._require_shared()
        self._read_alike()
        if self.writes:
            write_json(self.settings, self.path / "settings.json")
        self.events: SummaryWriter | None = None
        if self.writes:
            self._open_events()

    def _open(self) -> None:
        """Make the folder, check that it can be written to, and lock it until this process exits."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / ".writable") as temporary:
                temporary.touch()
            (self.path / ".writable").unlink()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"logdir: '{self.path}' cannot be written to ({reason}). Choose another folder.") from None
        if self.path.resolve() in _locks:
            return
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"logdir: '{self.path}' is in use by another run. Wait until it finishes, or choose another folder."
            ) from None
        except (OSError, NotImplementedError):
            pass  # the file system has no locks, such as a mounted Google Drive
        _locks[self.path.resolve()] = lock

    def _open_events(self) -> None:
        threading.excepthook = _keep_event_errors_short
        try:
            self.events = SummaryWriter(self.path, purge_step=self.step + 1)
        except UnicodeEncodeError:
            print("No events for TensorBoard are written, which allows only UTF-8 in the name of logdir.")
        except OSError as error:
            raise not_written(self.path / "events.out.tfevents", error) from error

    def _add_event(self, kind: str, *content: object, **options: object) -> None:
        """Add a scalar or a figure to TensorBoard's events, which hold nothing that is not in other files too."""
        try:
            if self.events:
                getattr(self.events, f"add_{kind}")(*content, **options)
        except OSError as error:  # of this event or, as a thread writes them, of an earlier one
            self.events = None
            print(f"Events for TensorBoard are no longer written ({error}); metrics.csv and the pictures are.")

    def _file(self, name: str) -> Path:
        """Return the path of a file of the run, after checking that the folder is still there."""
        require_note(self.path / "settings.json")
        return self.path / name

    @property
    def identity(self) -> dict:
        """Return the settings that decide what the run trains on and what comes out of it."""
        return identity(self.settings)

    def _compare_settings(self, resume: bool) -> None:
        """Check that a run in the folder is this one."""
        file = self.path / "settings.json"
        results = [name for name in RESULTS if (self.path / name).exists()]
        if results and not file.exists():
            raise InputError(
                f"logdir: '{self.path}' holds {', '.join(results)}, but no settings.json, which names the data and the "
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
        if results and (lines := differences(identity(before), self.identity)):
            raise InputError(
                f"logdir: '{self.path}' holds a run with other settings:\n" + "\n".join(lines) + "\n"
                "Restore them to continue that run, or choose another folder for a new run."
            )
        if results and not resume:
            raise InputError(f"logdir: '{self.path}' holds a run. Choose another folder, or set resume to True.")

    def _require_shared(self) -> None:
        """Check that all ranks see the folder: at the end they read its weights and write their predictions to it."""
        names = [f".{secrets.token_hex(8)}"] * self.writes
        for name in names:
            (self.path / name).touch()
        (name,) = self.hardware.gather(names)
        blind = self.hardware.gather([self.hardware.rank] * (not (self.path / name).exists()))
        if self.writes:
            (self.path / name).unlink()
        if blind:
            raise InputError(
                f"logdir: '{self.path}' is not the same folder on all machines: rank {blind[0]} does not see what rank "
                "0 wrote there. Choose a folder on a disk that all machines share, with its path on each."
            )

    # ------------------------------------------------------------------------------------------------ resuming

    def _read_alike(self) -> dict | None:
        """Return the state as :meth:`_find_state` does, after checking that all ranks go on from the same one."""
        with self.hardware.failing_together():
            state = self._find_state()
        settings = {key: value for key, value in self.settings.items() if key != "pretrained_checkpoint"}
        step = f"{self.step}" if state else f"{self.step}, without a state"
        if other := self.hardware.first_other({"step": step, "trains": self.trains, **settings}):
            rank, expected, found = other
            lines = differences(expected, found, ("on rank 0", f"on rank {rank}"))
            raise InputError(
                "torchrun: the processes would not train the same:\n" + "\n".join(lines) + "\n"
                "Give all the same parameters and data, and one logdir on a disk that all machines share."
            )
        return state

    def _find_state(self) -> dict | None:
        """Return the newest undamaged state, None if there is none, and take over its step, time and scores."""
        files = [file for file in (self.path / "state.pt", self.path / "state.previous.pt") if file.exists()]
        if not files and (self.path / "metrics.csv").exists():
            self._take_over_finished_run()
        for file in files:
            try:
                state = _read_state(file)
            except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
                print(f"{file} is damaged ({error}); using the state before it.")
                continue
            if lines := differences(identity(state["settings"]), self.identity):
                raise InputError(
                    f"logdir: '{file}' is the state of a run with other settings than '{self.path / 'settings.json'}' "
                    "names:\n" + "\n".join(lines) + "\nBring the run's own state back, or choose another folder."
                )
            most = self.settings.get("recipe", {}).get("max_steps", state["step"])
            if state["step"] > most:
                raise InputError(
                    f"max_steps: expected at least {state['step']}, as many as the run in '{self.path}' has trained, "
                    f"found {most}. Raise max_steps, or choose another logdir."
                )
            self.step, self.seconds_before = state["step"], state["seconds"]
            self.losses, self.history = state["losses"], state["history"]
            self.best = max(self.history, key=_dice_of, default=self.best)
            return state
        if files:
            raise InputError(f"logdir: no state in '{self.path}' can be read. Choose another folder to start again.")
        return None

    def _take_over_finished_run(self) -> None:
        """Take over the scores of a finished run whose states were deleted to save space."""
        metrics = self.path / "metrics.csv"
        try:
            with open(metrics, newline="", encoding="utf-8") as file:
                rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
            rows = [row | {"step": int(row["step"])} for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:  # a spreadsheet may have saved it
            raise InputError(
                f"logdir: '{metrics}' is not as the run wrote it ({type(error).__name__}: {error}), and there is no "
                "state. Bring the file back as it was, or choose another folder."
            ) from None
        last = rows[-1]["step"] if rows else 0
        if not rows or last != self.settings.get("recipe", {}).get("max_steps"):
            raise InputError(
                f"logdir: '{self.path}' holds results up to step {last}, but no state to resume from. "
                "Choose another folder."
            )
        self.step, self.history = last, rows
        self.best = max(self.history, key=_dice_of)
        with suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged; it is written again
            self.seconds_before = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))["seconds"]

    def restore(
        self,
        recipe: CommonRecipe | None = None,
        **parts: torch.nn.Module | torch.optim.Optimizer | torch.amp.GradScaler,
    ) -> int:
        """Load the last state on disk into ``parts`` and return the number of its last step, 0 for a new run.

        A new run is saved before its first step, so that it can be resumed whenever its process is killed.

        Args:
            recipe: Recipe that the training now follows; None leaves it unchecked.
            parts: Model, optimizer, scaler and others, under the names that :meth:`keep` receives them by. A state of
                an earlier version has no heads, and neither had its runs.

        Raises:
            InputError: Recipe or optimizer are not those of the run, as after cells that were run in another order.
        """
        if recipe:
            self._require_recipe(recipe)
        _require_one_network(**parts)
        state = self._read_alike()  # by all ranks, before rank 0 writes
        self.started = time.monotonic()
        if state is None and self.step:
            print(f"The run in '{self.path}' is finished; its state was deleted.")
            return self.step
        if state is None:
            self.keep(0, self.trains, **parts)
            return 0
        for name, part in parts.items():
            if content := state.get(name):  # the state of a disabled scaler is empty
                part.load_state_dict(content)
        torch.set_rng_state(state["rng"])
        print(f"Resuming after step {self.step} of the run in '{self.path}'.")
        return self.step

    def _require_recipe(self, recipe: CommonRecipe) -> None:
        """Check that a recipe is that of the run: the parameters may have been changed since the folder was opened."""
        now = json.loads(json.dumps(asdict(recipe)))
        if lines := differences(self.settings["recipe"], now, ("in the run", "now")):
            raise InputError(
                "The parameters have changed since the run's folder was opened:\n" + "\n".join(lines) + "\n"
                "Run the cell that makes the RunFolder again, and all below it."
            )

    # ------------------------------------------------------------------------------------------- while training

    @contextmanager
    def stopping_cleanly(self) -> Iterator[None]:
        """Stop after the current step on the first Ctrl-C or SIGTERM, and at once on the second.

        Raises:
            TrainingStopped: The memory of the GPU is full, or another rank stopped.
        """

        def ask(number: int, frame: object) -> None:
            print("Stopping after this step; interrupt again to stop at once.", flush=True)
            self._stop_asked = True
            signal.signal(number, before[number])

        self._stop_asked, self._saved_at = False, time.monotonic()
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingStopped(gpu_is_full(error)) from error
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise TrainingStopped(lost_process(error, self.hardware.ranks, f"in step {self.step + 1}")) from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def record(self, step: int, scores: dict[str, float]) -> bool:
        """Add the scores of one validation to the history, and write it to ``metrics.csv`` and TensorBoard.

        Args:
            step: Number of the step after which the model was validated.
            scores: Scores by name.

        Returns:
            Whether this is the validation with the highest ``mean_dice`` so far.
        """
        row = {"step": step, "train_loss": float(np.mean(self.losses)), **scores}
        self.losses = []
        if not self.history or _dice_of(row) > _dice_of(self.best):
            self.best = row
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
                self._add_event("scalar", tag, value, row["step"])

    def save_weights(self, model: torch.nn.Module, name: str) -> None:
        """Write the weights of a SwinUNETR and the settings of the run to the file ``name``, which MONAI can load.

        The next :meth:`keep` writes the state too. A run that is killed after that goes on behind this step; on a GPU,
        which repeats a step with other rounding, it could otherwise find that another step was the best one.
        """
        if self.writes:
            save_weights(model, self._file(name), note=self.settings)
            self._saved_at = -math.inf

    def saved_weights(self, name: str) -> Path:
        """Return the path of the weights that :meth:`save_weights` wrote, after checking that they are of this run.

        Raises:
            InputError: The file is missing, damaged or of another run.
        """
        file = self._file(name)
        if not file.is_file():
            raise InputError(
                f"'{file}' is missing, which the run wrote and whose scores its files hold. Bring it back, or choose "
                "another logdir to train again."
            )
        if lines := differences(identity(training_note(file)), self.identity, ("in the file", "in the run")):
            raise InputError(
                f"'{file}' is not of this run:\n" + "\n".join(lines) + "\n"
                "Bring the run's own weights back, or choose another logdir to train again. To score these weights, "
                "use evaluate_only with another logdir."
            )
        return file

    def keep(self, step: int, last: bool, **parts: torch.nn.Module | torch.optim.Optimizer) -> None:
        """Write the state after a step if it is due, after new weights, at the last step, or if the user asked to stop.

        Args:
            step: Number of the step.
            last: Whether it is the last step of the run.
            parts: Model, optimizer and scaler; the state stores each under its name.

        Raises:
            TrainingStopped: The user asked to stop, on any rank; the state is on disk.
            WriteError: The state could not be written; the state before it is intact.
        """
        self.step = step
        stop = self.hardware.mean(self._stop_asked) > 0  # on any rank
        interval = max(self.save_every, min(50 * self._save_took, MOST_SECONDS))
        due = time.monotonic() - self._saved_at > interval
        if self.writes and self.trains and (due or last or stop):
            self._save_state(parts)
        if stop:
            raise TrainingStopped(f"Stopped after step {step}, which is saved. Run again with this logdir to continue.")

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
        current = self._file("state.pt")
        with replacing(current) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
            if current.exists():
                current.replace(self.path / "state.previous.pt")
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - start

    # ------------------------------------------------------------------------------------------------- results

    @property
    def seconds(self) -> float:
        """Return the seconds that the run has taken, including the time before it was resumed."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def best_dice(self) -> float:
        """Return the best mean Dice so far, 0 before the first validation."""
        return self.best["mean_dice"] if self.history else 0.0

    @property
    def finished(self) -> bool:
        """Whether the last step of the recipe is done, or there is none."""
        return not self.trains or self.step >= self._most

    @property
    def _most(self) -> int:
        return self.settings.get("recipe", {}).get("max_steps", self.step)

    def require_validation(self) -> None:
        """Check that the run has weights to show, and print a line if its training has not ended.

        Raises:
            InputError: The training has not reached its first validation.
        """
        at = f"The training in '{self.path}' has reached step {self.step} of {self._most}"
        if self.trains and not self.history:
            raise InputError(f"{at}, and no validation yet. Run the cell that trains first, to its end, then this one.")
        if not self.finished and self.writes:
            print(f"{at}: these are results of an unfinished run. Run the cell that trains again to continue it.")

    def require_evaluation(self) -> None:
        """Check that the best weights were evaluated since they were found: the network may hold others.

        Raises:
            InputError: They were not.
        """
        if self._evaluated != self.best["step"]:
            raise InputError(
                f"The best weights of the run in '{self.path}', of step {self.best['step']}, have not been evaluated "
                f"since this kernel started or trained. Run the cell that writes {EVALUATION} first, then this one."
            )

    def write_table(self, rows: list[dict[str, object]], name: str) -> None:
        """Write rows with the same keys to the CSV file ``name``; NaN becomes an empty field."""
        if self.writes:
            write_csv(rows, self._file(name))
        if name == EVALUATION:
            self._evaluated = self.best["step"]

    def open_predictions(self, classes: Sequence[str]) -> Path:
        """Return the folder for the segmentations, with the names and colours of their labels for viewers.

        Raises:
            InputError: The folder holds segmentations that another run made, or the run has no weights to evaluate yet.
        """
        self.require_validation()
        folder = claim_folder(self._file("predictions"), self.identity, identity)
        if self.writes:
            save_label_names(folder, classes)
        return folder

    def add_figure(self, figure: Figure, name: str) -> None:
        """Write a figure to ``<name>.png``, and to TensorBoard at the current step."""
        if self.writes:
            with replacing(self._file(f"{name}.png")) as temporary:
                figure.savefig(temporary, dpi=150)
            self._add_event("figure", name, figure, self.step, close=False)

    def write_summary(self, **results: object) -> None:
        """Write results, settings, hardware, versions and seconds to ``summary.json``; NaN becomes null.

        ``step`` is the last step of the training, and ``finished`` whether it is the last one of the recipe.

        Raises:
            InputError: The run was not validated yet, or scores are not of its best weights.
        """
        self.require_validation()
        if "mean_dice" in results:
            self.require_evaluation()
        if not self.writes:
            return
        content = {
            **results,
            "step": self.step,
            "finished": self.finished,
            **self.settings,
            "hardware": {key: str(value) for key, value in asdict(self.hardware).items()},
            "versions": versions(),
            "seconds": round(self.seconds, 1),
        }
        write_json(_without_nan(content), self._file("summary.json"))


def require_finite(
    loss: Tensor, model: torch.nn.Module, step: int, case: str, hardware: Hardware, scaler: torch.amp.GradScaler
) -> float:
    """Return the mean loss over all ranks, after checking that loss and gradients are finite.

    The optimizer must not have changed the weights yet. Loss and norm of the gradients are read from the device
    together, so that the host waits for a GPU once per step.

    Args:
        loss: Loss of the step.
        model: Network with the gradients of the step.
        step: Number of the step.
        case: Name of the case, or of the cases, of the step.
        hardware: Ranks that train together.
        scaler: Loss scaler. If it is enabled, only the loss is checked, as it skips steps in which float16 overflows;
            each of them halves its scale, which must stay above ``LEAST_SCALE``.

    Raises:
        TrainingStopped: The loss or a gradient is NaN or infinite, or all gradients overflow; the message names step
            and case.
    """
    gradients = [] if scaler.is_enabled() else [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).to(loss.device)
    value, norm = torch.stack([loss.detach().double(), norm.double()]).tolist()
    value = hardware.mean(value)
    if not (math.isfinite(value) and math.isfinite(norm)):
        found = f"gave a loss of {value} and a gradient norm of {norm}"
    elif scaler.get_scale() < LEAST_SCALE:
        found = f"has gradients that overflow in float16, as in many steps before: their scale fell below {LEAST_SCALE}"
    else:
        return value
    raise TrainingStopped(
        f"Step {step} on case '{case}' {found}. The last saved state is from before this step. Check the intensities "
        "and labels of that case; if they are correct, lower learning_rate and use another logdir."
    )


def _keep_event_errors_short(error: threading.ExceptHookArgs) -> None:
    """Leave errors of the thread that writes events to :meth:`RunFolder._add_event`, which gets them too."""
    if type(error.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(error)


def _dice_of(row: dict[str, float]) -> float:
    """Return the mean Dice of a validation; -1 if no organ has one, or in pre-training."""
    dice = row.get("mean_dice", math.nan)
    return -1.0 if math.isnan(dice) else dice


def _require_one_network(optimizer: torch.optim.Optimizer | None = None, **others: object) -> None:
    """Check that the optimizer belongs to the networks: a cell that was run again may have made a new one."""
    networks = [part for part in others.values() if isinstance(part, torch.nn.Module)]
    if optimizer is None or not networks:
        return
    own = {id(parameter) for network in networks for parameter in network.parameters()}
    if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
        raise InputError(
            "optimizer: it belongs to an earlier network than the present one. Run the cell that makes the optimizer "
            "again, then this one."
        )


def _without_nan(content: object) -> object:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def _read_state(file: Path) -> dict:
    """Read a state without running code from the file, and check its checksums.

    Raises:
        ValueError: The file holds something else. Damaged files raise other errors, too.
    """
    check_zip(file)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not state.keys() >= IN_STATE:
        raise ValueError("it is not the state of a run")
    return state
