"""Kill small runs of a notebook at random moments, resume them, and compare each with the run that nobody killed.

Run from the project's root; a kill with its resumed run takes about half a minute on one core:
    .venv/bin/python -m benchmarks.kill_and_resume [--notebook swinunetr_finetune.ipynb] [--kills 20] [--seed 0]
The run has four steps on one phantom, validates every second step on another, and saves a state after every step.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from swinunetr.data.phantoms import write_phantoms
from tests.notebook_runs import NOTEBOOK, PRETRAINING, SMALL_RUN, kill, papermill, results, start, wait_for

# Weights, and parameters: averaged weights in fine-tuning, beside the demo's deep supervision; in pre-training one view
# per step.
NOTEBOOKS = {
    NOTEBOOK.name: (NOTEBOOK, "best_model.pth", {"other_settings": '{"averaged_share": 0.5}'}),
    PRETRAINING.name: (
        PRETRAINING,
        "ssl_pretrained_weights.pth",
        {"tasks": "reconstruction", "volumes_per_step": 1},
    ),
}


def small_run(folder: Path) -> dict[str, object]:
    """Write two phantoms and their list, and return the parameters of a small run on them."""
    case = {"image": "imagesTr/img{:04d}.nii.gz", "label": "labelsTr/label{:04d}.nii.gz"}
    content = json.loads(Path("json_files/btcv_6.json").read_text()) | {"test": []}
    for name, number in (("training", 1), ("validation", 35)):
        content[name] = [{key: text.format(number) for key, text in case.items()}]
    (folder / "list.json").write_text(json.dumps(content))
    write_phantoms(folder / "list.json", folder)
    data = {"data_root": folder, "json_path": folder / "list.json", "cache_dir": folder / "cache"}
    return SMALL_RUN | {"max_steps": 4} | data


def finish(logdir: Path, notebook: Path, parameters: dict[str, object]) -> None:
    """Run a notebook to its end."""
    done = papermill("/dev/null", notebook, logdir=logdir, **parameters)
    if done.returncode:
        raise SystemExit(f"The run in {logdir} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    """Print one line per kill, and how many of the resumed runs equal the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", choices=sorted(NOTEBOOKS), default=NOTEBOOK.name)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    notebook, weights, options = NOTEBOOKS[args.notebook]
    moments, same = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        parameters, whole = small_run(Path(folder)) | options, Path(folder, "whole")
        finish(whole, notebook, parameters)
        seconds = time.time() - (whole / "settings.json").stat().st_mtime  # without the start of the kernel
        expected = results(whole, "state.pt", weights)
        for number in range(1, args.kills + 1):
            logdir = Path(folder, f"killed_{number}")
            process = start("/dev/null", notebook, logdir=logdir, **parameters)
            wait_for(logdir / "settings.json", process)
            moment = moments.uniform(0, seconds)
            time.sleep(moment)
            left = sorted(file.name for file in logdir.iterdir() if file.is_file())
            if process.poll() is None:
                kill(process)
            finish(logdir, notebook, parameters)
            resumed = results(logdir, "state.pt", weights)
            differing = [name for name in expected | resumed if expected.get(name) != resumed.get(name)]
            same += not differing
            verdict = differing or "identical"
            print(f"kill {number} after {moment:.2f} of {seconds:.2f} s: {verdict}; found {left}", flush=True)
    print(f"{same} of {args.kills} identical")


if __name__ == "__main__":
    main()
