"""Kill small runs of a notebook at random moments, resume them, and compare each with the run that nobody killed.

Run from the project's root; a kill with its resumed run takes about half a minute on one core:
    .venv/bin/python -m benchmarks.kill_and_resume [--notebook swinunetr_finetune.ipynb] [--kills 20] [--seed 0]
The run has four steps on one phantom, validates every second step on another, and saves a state after every step.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from swinunetr.data.phantoms import write_phantoms

WEIGHTS = {"swinunetr_finetune.ipynb": "best_model.pth", "ssl_train.ipynb": "ssl_pretrained_weights.pth"}
# Averaged weights in fine-tuning, beside the demo's deep supervision; one view per step of pre-training.
MORE = {
    "swinunetr_finetune.ipynb": {"other_settings": '{"averaged_share": 0.5}'},
    "ssl_train.ipynb": {"tasks": "reconstruction", "volumes_per_step": 1},
}
NETWORKS = ("model", "heads", "averaged")  # in state.pt


def small_data(folder: Path) -> dict[str, object]:
    """Write two phantoms and their list, and return the parameters of a small run on them."""
    case = {"image": "imagesTr/img{:04d}.nii.gz", "label": "labelsTr/label{:04d}.nii.gz"}
    content = json.loads(Path("json_files/btcv_6.json").read_text()) | {"test": []}
    for name, number in (("training", 1), ("validation", 35)):
        content[name] = [{key: text.format(number) for key, text in case.items()}]
    (folder / "list.json").write_text(json.dumps(content))
    write_phantoms(folder / "list.json", folder)
    given = {"data_root": folder, "json_path": folder / "list.json", "cache_dir": folder / "cache"}
    return given | {"recipe_name": "demo", "max_steps": 4, "eval_every": 2, "save_every": 0}


def start(notebook: str, logdir: Path, parameters: dict[str, object]) -> subprocess.Popen:
    """Start a notebook under papermill, as the README does."""
    options = [text for name, value in (parameters | {"logdir": logdir}).items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook, "/dev/null", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, logdir: Path) -> None:
    """Wait for the end of a run."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"The run in {logdir} failed:\n{errors[-2000:]}")


def kill(process: subprocess.Popen) -> None:
    """Stop papermill and its kernel with SIGKILL, which no process can handle."""
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in processes:
        victim.kill()
    psutil.wait_procs(processes)
    process.wait()


def wait_for(file: Path, process: subprocess.Popen) -> None:
    """Wait until ``file`` exists, or the process has ended."""
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)


def outcome(logdir: Path, weights: str) -> dict[str, object]:
    """Return what two runs must agree on: last and best weights, and the bytes of every table and prediction."""
    found: dict[str, object] = {}
    for name in ("state.pt", weights):
        content = torch.load(logdir / name, weights_only=True)
        networks = [content[part] for part in NETWORKS if part in content] or [content]
        found |= {f"{name} {n} {key}": tensor for n, network in enumerate(networks) for key, tensor in network.items()}
    files = [logdir / "metrics.csv", *logdir.glob("evaluation.csv"), *sorted(logdir.glob("predictions/*.nii.gz"))]
    return found | {file.name: file.read_bytes() for file in files}


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Name what two finished runs disagree on, to the last bit."""

    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return [name for name in one | other if not same(one.get(name), other.get(name))]


def main() -> None:
    """Print one line per kill, and how many of the resumed runs equal the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", choices=sorted(WEIGHTS), default="swinunetr_finetune.ipynb")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments, same = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        parameters, whole = small_data(Path(folder)) | MORE[args.notebook], Path(folder, "whole")
        process = start(args.notebook, whole, parameters)
        wait_for(whole / "settings.json", process)
        begin = time.monotonic()
        finish(process, whole)
        seconds, expected = time.monotonic() - begin, outcome(whole, WEIGHTS[args.notebook])
        for number in range(1, args.kills + 1):
            logdir = Path(folder, f"killed_{number}")
            process = start(args.notebook, logdir, parameters)
            wait_for(logdir / "settings.json", process)
            moment = moments.uniform(0, seconds)
            time.sleep(moment)
            left = sorted(file.name for file in logdir.iterdir() if file.is_file())
            if process.poll() is None:
                kill(process)
            finish(start(args.notebook, logdir, parameters), logdir)
            wrong = differences(expected, outcome(logdir, WEIGHTS[args.notebook]))
            same += not wrong
            verdict = wrong or "identical"
            print(f"kill {number} after {moment:.2f} of {seconds:.2f} s: {verdict}; found {left}", flush=True)
    print(f"{same} of {args.kills} identical")


if __name__ == "__main__":
    main()
