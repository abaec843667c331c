"""Runs of the fine-tuning notebook for the benchmarks: each in a folder of its own, left out when it is done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def run_notebook(logdir: Path, parameters: Mapping[str, object]) -> bool:
    """Run the notebook through papermill with a ``logdir``, unless that is done; return whether it is now.

    The executed notebook is written beside the folder. A run that fails, or that another process has under way, is
    named, and so is the result of a run that ends well.

    Args:
        logdir: Folder of the run.
        parameters: Parameters of the notebook by name; a dictionary is passed as JSON.
    """
    if (logdir / "summary.json").is_file():
        return True
    given = {"logdir": logdir} | dict(parameters)
    texts = {name: json.dumps(value) if isinstance(value, Mapping) else str(value) for name, value in given.items()}
    options = [text for name, value in texts.items() for text in ("-p", name, value)]
    notebook = ["swinunetr_finetune.ipynb", str(logdir.with_name(f"{logdir.name}.ipynb"))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *notebook, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        elsewhere = "is in use by another run" in done.stderr
        print(f"{logdir.name}: {'under way elsewhere' if elsewhere else done.stderr.strip()[-800:]}", flush=True)
        return False
    print(f"{logdir.name}: {summary(logdir)['mean_dice']:.3f}", flush=True)
    return True


def summary(logdir: Path) -> dict:
    """Return the summary of a finished run."""
    return json.loads((logdir / "summary.json").read_text(encoding="utf-8"))


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Return mean and standard deviation of shares, in percent."""
    return f"{100 * values.mean():.{digits}f}" + (
        f" ± {100 * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    )


def share(text: str) -> tuple[int, int]:
    """Read a share such as "2/3"."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts
