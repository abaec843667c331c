"""Kill a small run of the notebook at random moments, resume it, and compare it with the run that nobody killed.

Run from the project's root; 20 kills take about a quarter of an hour on two cores:
    .venv/bin/python -m benchmarks.kill_and_resume --kills 20
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

PARAMETERS = {
    "max_steps": 12,
    "eval_every": 3,
    "save_every": 0,
}  # demo recipe; a state as often as 2% of the time allows


def start(logdir: Path, parameters: dict, notebook: str | Path = "swinunetr_finetune.ipynb") -> subprocess.Popen:
    """Start a notebook under papermill, as the README does."""
    options = [text for name, value in (parameters | {"logdir": logdir}).items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), "/dev/null", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(logdir: Path, parameters: dict) -> None:
    """Run the notebook to its end."""
    process = start(logdir, parameters)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"The run in {logdir} failed:\n{errors[-2000:]}")


def kill(process: subprocess.Popen) -> None:
    """End papermill and its kernel with SIGKILL, which no process can handle."""
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in processes:
        victim.kill()
    psutil.wait_procs(processes)
    process.wait()


def wait_for(file: Path, process: subprocess.Popen) -> None:
    """Wait until ``file`` is there, or the process has ended."""
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)


def outcome(logdir: Path) -> tuple[dict[str, torch.Tensor], bytes, float]:
    """Return what two runs must agree on: last and best weights, ``metrics.csv``, best Dice."""
    state = torch.load(logdir / "state.pt", weights_only=True)
    best = torch.load(logdir / "best_model.pth", weights_only=True)
    weights = {f"last {name}": t for name, t in state["model"].items()} | {
        f"best {name}": t for name, t in best.items()
    }
    return weights, (logdir / "metrics.csv").read_bytes(), max(row["mean_dice"] for row in state["history"])


def differences(one: Path, other: Path) -> list[str]:
    """Name what two finished runs disagree on, to the last bit."""
    (weights, metrics, best), (weights_2, metrics_2, best_2) = outcome(one), outcome(other)
    found = [name for name in weights | weights_2 if not torch.equal(weights[name], weights_2[name])]
    return found + ["metrics.csv"] * (metrics != metrics_2) + ["best Dice"] * (best != best_2)


def main() -> None:
    """Print a line for each kill and how many ended as the uninterrupted run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    same = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        process = start(whole, PARAMETERS)
        wait_for(whole / ".lock", process)
        begin = time.monotonic()
        wait_for(whole / "summary.json", process)
        seconds = time.monotonic() - begin
        process.wait()
        for number in range(1, args.kills + 1):
            logdir = Path(folder, f"killed_{number}")
            process = start(logdir, PARAMETERS)
            wait_for(logdir / ".lock", process)
            moment = moments.uniform(0, seconds)
            time.sleep(moment)
            left = sorted(file.name for file in logdir.iterdir() if file.is_file())
            if process.poll() is None:
                kill(process)
            finish(logdir, PARAMETERS)
            wrong = differences(whole, logdir)
            same += not wrong
            print(
                f"kill {number} after {moment:.2f} of {seconds:.2f} s: {wrong or 'identical'}; found {left}", flush=True
            )
    print(f"{same} of {args.kills} identical")


if __name__ == "__main__":
    main()
