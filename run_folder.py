"""The folder of a run and all that is written to it."""

from __future__ import annotations

import csv
import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import monai
import nibabel as nib
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from atomic_files import replacing
from evaluation import dice_per_organ, mean_dice, organ_means
from hardware import Hardware
from user_errors import InputError

if TYPE_CHECKING:
    from ssl_helpers import Dataset, Recipe


class RunFolder:
    """Write what a run leaves behind: ``metrics.csv``, ``best_model.pth``, ``summary.json`` and TensorBoard events.

    Raises:
        InputError: the folder can't be written to, or holds another run.
    """

    def __init__(self, logdir: str | Path, organs: tuple[str, ...]) -> None:
        self.path = Path(logdir).expanduser()
        self.organs = organs
        self.history: list[dict[str, float]] = []  # one row a validation, as in metrics.csv
        if (self.path / "metrics.csv").exists():
            raise InputError(f"logdir: '{self.path}' holds a finished run. Choose another folder; nothing was changed.")
        try:
            with replacing(self.path / "metrics.csv") as temporary:
                temporary.touch()
            (self.path / "metrics.csv").unlink()
        except OSError as error:
            raise InputError(f"logdir: '{self.path}' can't be written to ({error}). Choose another folder.") from None
        self.started = time.monotonic()
        self.events = SummaryWriter(self.path)

    @property
    def best(self) -> dict[str, float]:
        """Return the row of the best mean Dice so far."""
        return max(self.history, key=lambda row: row["mean_dice"])

    @property
    def best_dice(self) -> float:
        """Return the best mean Dice so far, 0 before the first validation."""
        return self.best["mean_dice"] if self.history else 0.0

    def record(self, step: int, train_loss: float, counts: np.ndarray) -> bool:
        """Add one validation, confusion matrices (cases, classes, classes); return whether it is the best so far."""
        dice = dice_per_organ(counts)
        row = {"step": step, "train_loss": train_loss, "mean_dice": mean_dice(dice)}
        row |= dict(zip(self.organs, organ_means(dice).tolist(), strict=True))
        self.history.append(row)
        with replacing(self.path / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.history)
        for name, value in row.items():
            if name != "step":
                self.events.add_scalar(name if name in ("train_loss", "mean_dice") else f"dice/{name}", value, step)
        return row is self.best

    def write_summary(
        self, recipe: Recipe, dataset: Dataset, hardware: Hardware, counts: np.ndarray, **settings: object
    ) -> None:
        """Write ``summary.json``: what was run, on what, and how it ended; null is the Dice of an absent organ."""
        means = organ_means(dice_per_organ(counts))
        content = {
            "best_step": self.best["step"],
            "best_mean_dice": self.best["mean_dice"],
            "dice_per_organ": {
                o: None if math.isnan(d) else d for o, d in zip(self.organs, means.tolist(), strict=True)
            },
            "recipe": asdict(recipe),
            "split": {name: [case["name"] for case in getattr(dataset, name)] for name in ("training", "validation")},
            **settings,
            "hardware": {key: str(value) for key, value in asdict(hardware).items()},
            "versions": versions(),
            "seconds": round(time.monotonic() - self.started, 1),
        }
        with replacing(self.path / "summary.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    modules = {"monai": monai, "torch": torch, "numpy": np, "nibabel": nib}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in modules.items()}}
