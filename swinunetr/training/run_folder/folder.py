"""What a run writes. Every file but TensorBoard's events is replaced as a whole, or not at all."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.networks.nets import SwinUNETR

from swinunetr.data.organs import save_label_names
from swinunetr.errors import InputError, TrainingStopped
from swinunetr.files import as_json, claim_folder, replacing, require_note, write_csv, write_json
from swinunetr.hardware import Hardware, gpu_is_full, is_lost_process, lost_process, versions
from swinunetr.network.checkpoints import save_weights, training_note
from swinunetr.recipe import CommonRecipe
from swinunetr.training.run_folder.claiming import EVALUATION, claim_run_folder
from swinunetr.training.run_folder.events import Events
from swinunetr.training.run_folder.state import CURRENT, RunState, find_state, write_state
from swinunetr.training.settings import differences, identity
from swinunetr.training.stopping import stop_requests

MOST_SECONDS = 60  # to which slow saving may stretch the time between two states


class RunFolder:
    """Folder of a run: state, weights, tables, figures, ``summary.json`` and TensorBoard events.

    With several ranks, all read the state and only rank 0 writes.

    Args:
        logdir: Path of the folder, which is made if it is missing.
        settings: Values that decide the result (recipe, content of data and weights) and that JSON can store.
            ``settings.json`` keeps them. The folder is refused to a run with others, apart from those that
            :func:`settings.identity` leaves out.
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
        self.settings = as_json(settings)
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
        claim_run_folder(self.path, self.settings, hardware, resume)
        self._state: RunState | None = self._take_over_state()  # until it is restored
        if self.writes:
            write_json(self.settings, self.path / "settings.json")
        self.events = Events(self.path, self.step + 1) if self.writes else None

    def _file(self, name: str) -> Path:
        """Return the path of a file of the run, after checking that the folder is still there."""
        require_note(self.path / "settings.json")
        return self.path / name

    @property
    def identity(self) -> dict:
        """Return the settings that decide what the run trains on and what comes out of it."""
        return identity(self.settings)

    # ------------------------------------------------------------------------------------------------ resuming

    def _take_over_state(self) -> RunState:
        """Return the last state and take over its step, time and scores, after checking that all ranks have the same.

        Raises:
            InputError: As from :func:`find_state`, or the ranks differ. All ranks raise it.
        """
        with self.hardware.failing_together():
            state = find_state(self.path, self.settings)
        settings = {key: value for key, value in self.settings.items() if key != "pretrained_checkpoint"}
        step = state.step if state.parts else f"{state.step}, without a state"
        if other := self.hardware.first_other({"step": step, "trains": self.trains, **settings}):
            rank, expected, found = other
            lines = differences(expected, found, ("on rank 0", f"on rank {rank}"))
            raise InputError(
                "torchrun: the processes would not train the same:\n" + "\n".join(lines) + "\n"
                "Give all the same parameters and data, and one logdir on a disk that all machines share."
            )
        if state.step or state.parts:
            self.step, self.seconds_before = state.step, state.seconds
            self.losses, self.history = list(state.losses), list(state.history)
            self.best = max(self.history, key=_dice_of, default=self.best)
        return state

    def restore(
        self,
        recipe: CommonRecipe | None = None,
        **parts: Any,
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
        state, self._state = self._state or self._take_over_state(), None  # by all ranks, before rank 0 writes
        self.started = time.monotonic()
        if state.parts:
            for name, part in parts.items():
                if content := state.parts.get(name):  # the state of a disabled scaler is empty
                    part.load_state_dict(content)
            torch.set_rng_state(state.rng)
            print(f"Resuming after step {self.step} of the run in '{self.path}'.")
        elif self.step:
            print(f"The run in '{self.path}' is finished; its state was deleted.")
        else:
            self.keep(0, self.trains, **parts)
        return self.step

    def _require_recipe(self, recipe: CommonRecipe) -> None:
        """Check that a recipe is that of the run: the parameters may have been changed since the folder was opened."""
        now = as_json(asdict(recipe))
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
        self._stop_asked, self._saved_at = False, time.monotonic()
        try:
            with stop_requests(self._ask_to_stop):
                yield
        except torch.OutOfMemoryError as error:
            raise TrainingStopped(gpu_is_full(error)) from error
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise TrainingStopped(lost_process(error, self.hardware.ranks, f"in step {self.step + 1}")) from error

    def _ask_to_stop(self) -> None:
        self._stop_asked = True

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
        self._write_metrics(row)
        return row is self.best

    def _write_metrics(self, row: dict[str, float]) -> None:
        """Write all validations to ``metrics.csv``, and the last one to TensorBoard."""
        self.write_table(self.history, "metrics.csv")
        for name, value in row.items():
            if self.events and name != "step":
                tag = name if name in ("train_loss", "mean_dice") else f"scores/{name}"
                self.events.add_scalar(tag, value, int(row["step"]))

    def save_weights(self, model: SwinUNETR, name: str) -> None:
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

    def keep(self, step: int, last: bool, **parts: Any) -> None:
        """Write the state after a step if it is due, after new weights, at the last step, or if the user asked to stop.

        Args:
            step: Number of the step.
            last: Whether it is the last step of the run.
            parts: As in :meth:`restore`; the state stores each under its name.

        Raises:
            TrainingStopped: The user asked to stop, on any rank; the state is on disk.
            WriteError: The state could not be written; the state before it is intact.
        """
        self.step, self._state = step, None
        stop = self.hardware.mean(self._stop_asked) > 0  # on any rank
        interval = max(self.save_every, min(50 * self._save_took, MOST_SECONDS))
        due = time.monotonic() - self._saved_at > interval
        if self.writes and self.trains and (due or last or stop):
            self._save_state(parts)
        if stop:
            raise TrainingStopped(f"Stopped after step {step}, which is saved. Run again with this logdir to continue.")

    def _save_state(self, parts: dict) -> None:
        start = time.monotonic()
        states = {name: part.state_dict() for name, part in parts.items()}
        state = RunState(self.step, self.seconds, self.losses, self.history, torch.get_rng_state(), states)
        write_state(state, self.settings, self._file(CURRENT).parent)
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

    def write_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
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

    def add_figure(self, figure: Figure, name: str, step: int | None = None) -> None:
        """Write a figure to ``<name>.png`` and to TensorBoard.

        Figures of several steps go to a folder, as ``<name>/<step>.png``, and the one name in TensorBoard. Without a
        step it is the last one of the run.
        """
        if self.events:
            file = self._file(f"{name}.png" if step is None else f"{name}/{step:06}.png")
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=150 if step is None else 100)
            self.events.add_figure(name, figure, self.step if step is None else step)

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
        write_json(content, self._file("summary.json"))


def _dice_of(row: dict[str, float]) -> float:
    """Return the mean Dice of a validation; -1 if no organ has one, or in pre-training."""
    dice = row.get("mean_dice", math.nan)
    return -1.0 if math.isnan(dice) else dice


def _require_one_network(optimizer: torch.optim.Optimizer | None = None, **others: object) -> None:
    """Check that the optimizer belongs to the networks: a cell that was run again may have made a new one."""
    networks = [part for part in others.values() if isinstance(part, torch.nn.Module)]
    if optimizer is None or not networks:
        return
    theirs = {id(parameter) for network in networks for parameter in network.parameters()}
    if any(id(parameter) not in theirs for group in optimizer.param_groups for parameter in group["params"]):
        raise InputError(
            "optimizer: it belongs to an earlier network than the present one. Run the cell that makes the optimizer "
            "again, then this one."
        )
