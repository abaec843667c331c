"""Runs of the fine-tuning notebook for the benchmarks: each in a folder of its own, left out when it is done."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
from papermill import inspect_notebook

from swinunetr.errors import CheckpointError
from swinunetr.files import sha256
from swinunetr.recipe import Recipe
from swinunetr.training.options import Options, read_parameters
from swinunetr.training.settings import differences

NOTEBOOK = Path(__file__).parent.parent / "swinunetr_finetune.ipynb"


def run_notebook(logdir: Path, parameters: Mapping[str, object]) -> bool:
    """Run the notebook through papermill with a ``logdir``, unless that is done; return whether it is now.

    The executed notebook is written beside the folder. A run that fails, that another process has under way, or that is
    done with other settings or weights is named, and so is the result of a run that ends well.

    Args:
        logdir: Folder of the run.
        parameters: Parameters of the notebook by name; a dictionary is passed as JSON.
    """
    if _has_ended(logdir):
        if others := differing(logdir, parameters):
            print("\n".join([f"{logdir.name}: it is of another run. Delete it, or choose another --folder.", *others]))
        return not others
    given = {"logdir": logdir} | dict(parameters)
    texts = {name: json.dumps(value) if isinstance(value, Mapping) else str(value) for name, value in given.items()}
    options = [text for name, value in texts.items() for text in ("-p", name, value)]
    notebook = [str(NOTEBOOK), str(logdir.with_name(f"{logdir.name}.ipynb"))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *notebook, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        elsewhere = "is in use by another run" in done.stderr
        print(f"{logdir.name}: {'under way elsewhere' if elsewhere else done.stderr.strip()[-800:]}", flush=True)
        return False
    print(f"{logdir.name}: {summary(logdir)['mean_dice']:.3f}", flush=True)
    return True


def is_done(logdir: Path, parameters: Mapping[str, object]) -> bool:
    """Return whether the run of these parameters is done."""
    return _has_ended(logdir) and not differing(logdir, parameters)


def _has_ended(logdir: Path) -> bool:
    """Return whether a run has trained to its end and was evaluated; an earlier version did not note the former."""
    return (logdir / "summary.json").is_file() and summary(logdir).get("finished", True)


def differing(logdir: Path, parameters: Mapping[str, object]) -> list[str]:
    """Return a line for each setting in which a finished run is not the one of these parameters, and of these weights.

    Its data are not compared, but for the paths in ``parameters``, which are for the caller to note. What an earlier
    version did not note is not compared, and nothing of a run whose weights have been deleted since.
    """
    try:
        options, recipe = recipe_of(parameters)
        hashes = [_content(file) for file in options.ensemble or filter(None, [options.checkpoint])]
    except CheckpointError:
        return []
    expected = {"recipe": asdict(recipe), "pretrained_sha256": hashes[0] if hashes else ""}
    if options.ensemble:
        expected["ensemble_sha256"] = hashes
    found = summary(logdir)
    before = {key: found.get(key, value) for key, value in expected.items()}
    before["recipe"] = asdict(Recipe()) | before["recipe"]  # a setting that it does not name was not there
    return differences(*(json.loads(json.dumps(settings)) for settings in (before, expected)))


def recipe_of(parameters: Mapping[str, object]) -> tuple[Options, Recipe]:
    """Return the options and the recipe of a run of the notebook with these parameters, the others at their defaults.

    Raises:
        InputError: As from :func:`settings.read_parameters`.
    """
    return read_parameters(**defaults() | dict(parameters))


def _content(file: Path) -> str:
    """Return the hash of a file, which many runs are compared with; it is read again only if it has changed."""
    found = file.stat()
    return _hash(file, found.st_mtime_ns, found.st_size)


@cache
def _hash(file: Path, changed: int, size: int) -> str:
    return sha256(file)


@cache
def defaults() -> dict[str, object]:
    """Return the parameters of the notebook with their defaults."""
    return {name: ast.literal_eval(one["default"]) for name, one in inspect_notebook(str(NOTEBOOK)).items()}


def notebook_parameters(parser: ArgumentParser, given: Sequence[Sequence[str]], own: Collection[str]) -> dict[str, str]:
    """Return the parameters after ``-p`` by name; exits with an error if the benchmark sets one of them itself."""
    if taken := [name for name, _ in given if name in own]:
        parser.error(f"-p: expected parameters that the benchmark leaves alone, found {', '.join(taken)}.")
    if unknown := [name for name, _ in given if name not in defaults()]:
        parser.error(f"-p: expected parameters of the notebook, found {', '.join(unknown)}.")
    return dict(given)


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
