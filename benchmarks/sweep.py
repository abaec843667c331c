"""Sweeps: runs of the fine-tuning notebook that differ in their parameters, made once each and then compared.

``ablation`` and ``results_table``, with ``folds``, say which runs there are and how their results are shown. A run has
a folder of its own and is left out when it is done, so a sweep can be stopped and started again, and machines that
share the folder can take a share of the runs each.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from swinunetr.errors import CheckpointError, InputError
from swinunetr.files import as_json, claim_folder, sha256
from swinunetr.hardware import find_hardware, versions
from swinunetr.recipe import Recipe
from swinunetr.training.parameters import PARAMETERS, read_parameters
from swinunetr.training.settings import differences

NOTEBOOK = Path(__file__).parent.parent / "swinunetr_finetune.ipynb"


def make_parser(description: str, folder: str, seeds: int) -> ArgumentParser:
    """Return a parser of what all sweeps take, with the default folder and number of seeds."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many")
    parser.add_argument("--share", type=share, default=slice(None), help="part of the runs: 2/3 is the second of three")
    parser.add_argument("--folder", type=Path, default=Path(folder), help="of all runs")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    return parser


def share(text: str) -> slice:
    """Return the part of a list of runs that a share such as "2/3" stands for."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return slice(part - 1, None, parts)


def parse(parser: ArgumentParser, arguments: Sequence[str] | None, reserved: Collection[str]) -> Namespace:
    """Return the arguments, with the parameters of the notebook after ``-p`` by name.

    Exits with an error if one of them is ``reserved``, as the sweep sets it itself, or is no parameter of the notebook.
    """
    args = parser.parse_args(arguments)
    args.parameters = dict(args.parameters)
    if taken := [name for name in args.parameters if name in reserved]:
        parser.error(f"-p: expected parameters that the benchmark leaves alone, found {', '.join(taken)}.")
    if unknown := [name for name in args.parameters if name not in PARAMETERS]:
        parser.error(f"-p: expected parameters of the notebook, found {', '.join(unknown)}.")
    return args


def begin(parser: ArgumentParser, folders: Mapping[Path, Mapping]) -> None:
    """Claim each folder for results of its settings, else exit with an error; print what the runs are made with."""
    try:
        for folder, settings in folders.items():
            claim_folder(folder, settings)
    except InputError as error:
        parser.error(str(error))
    print(find_hardware(), versions(), flush=True)


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
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOK), f"{logdir}.ipynb"]
    for name, value in {"logdir": logdir, **parameters}.items():
        command += ["-p", name, json.dumps(value) if isinstance(value, Mapping) else str(value)]
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
        options, recipe = read_parameters(parameters)
    except CheckpointError:
        return []
    hashes = [sha256(file) for file in options.weights]
    expected = {"recipe": asdict(recipe), "pretrained_sha256": hashes[0] if hashes else ""}
    if options.ensemble:
        expected["ensemble_sha256"] = hashes
    before = {key: summary(logdir).get(key, value) for key, value in expected.items()}
    before["recipe"] = asdict(Recipe()) | before["recipe"]  # a setting that it does not name was not there
    return differences(as_json(before), as_json(expected))


def summary(logdir: Path) -> dict:
    """Return the summary of a finished run."""
    return json.loads((logdir / "summary.json").read_text(encoding="utf-8"))


def read_csv(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table of a run by column."""
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Return mean and standard deviation of shares, in percent."""
    deviation = f" ± {100 * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.{digits}f}{deviation}"
