"""Measure what pre-training gains: fine-tune on six labelled phantoms from random and from pre-trained weights.

Both sides take the demo recipe, the same steps and the same seeds, and are validated on the same six phantoms as they
go. Run from the project's root, after ``ssl_train.ipynb`` has made the weights; each run takes about two minutes on two
cores, and runs that the results file already holds are skipped:
    .venv/bin/python -m benchmarks.pretraining_gain --weights runs/pretrain/ssl_pretrained_weights.pth [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.training import fine_tune
from evaluation import dice_per_organ, evaluate, mean_dice
from hardware import find_hardware, place_network
from run_folder import versions
from ssl_helpers import DEMO, Recipe, prepare_cases, read_dataset, write_phantoms
from swinunetr_weights import build_swinunetr, load_pretrained

LIST = "json_files/btcv_6.json"
STARTS = ("random", "pretrained")


def dice_curve(weights: Path | None, recipe: Recipe, every: int) -> dict[int, float]:
    """Return the mean validation Dice after every so many steps of one run; ``weights`` None starts at random."""
    hardware = find_hardware()
    dataset = read_dataset(LIST, write_phantoms(LIST, "data/phantoms"))
    training, validation = (
        prepare_cases(cases, recipe, dataset.modality, cache_dir="data/cache")
        for cases in (dataset.training, dataset.validation)
    )
    torch.manual_seed(recipe.seed)
    sizes = {} if weights else {"feature_size": recipe.feature_size, "window_size": recipe.window_size}
    model = build_swinunetr(len(dataset.classes), weights, **sizes)
    if weights:
        load_pretrained(model, weights)
    model = place_network(model, hardware)
    curve = {}

    def validate(step: int) -> None:
        if step % every == 0 or step == recipe.max_steps:
            curve[step] = mean_dice(dice_per_organ(evaluate(model, validation, recipe, hardware)))

    fine_tune(model, training, len(dataset.classes), recipe, hardware, validate)
    return curve


def show(results: dict[str, dict], file: Path) -> None:
    """Print mean and standard deviation over the seeds, with paired differences, and draw the curves."""
    pairs = [[run for run in results.values() if run["start"] == start] for start in STARTS]
    seeds = sorted({run["seed"] for run in pairs[0]} & {run["seed"] for run in pairs[1]})
    tables = [
        np.array([list(next(r for r in runs if r["seed"] == seed)["dice"].values()) for seed in seeds])
        for runs in pairs
    ]
    steps = [int(step) for step in pairs[0][0]["dice"]]
    difference = tables[1] - tables[0]
    print(f"\n{len(seeds)} seeds {seeds}; mean Dice, mean and standard deviation over the seeds")
    print(f"{'step':>6}{'random':>16}{'pretrained':>16}{'difference':>16}")
    for column, step in enumerate(steps):
        cells = [f"{t[:, column].mean():.3f} +- {t[:, column].std(ddof=1):.3f}" for t in (*tables, difference)]
        print(f"{step:6d}" + "".join(f"{cell:>16}" for cell in cells))
    random, pretrained = (table.mean(axis=0) for table in tables)
    reached = next((step for step, dice in zip(steps, pretrained, strict=True) if dice >= random[-1]), None)
    print(
        f"Pre-trained reaches random's last Dice after {reached or 'more than ' + str(steps[-1])} of {steps[-1]} steps."
    )

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for start, table in zip(STARTS, tables, strict=True):
        ax.errorbar(steps, table.mean(axis=0), table.std(axis=0, ddof=1), marker=".", capsize=3, label=start)
    ax.set(
        xlabel="step of fine-tuning", ylabel="mean Dice", ylim=(0, 1), title=f"6 labelled phantoms, {len(seeds)} seeds"
    )
    ax.grid(alpha=0.3)
    ax.legend()
    figure.savefig(file, dpi=150)
    print(f"The curves are in {file}")


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="ssl_pretrained_weights.pth of ssl_train.ipynb")
    parser.add_argument("--seeds", type=int, default=3, help="how many; at least two")
    parser.add_argument("--learning-rate", type=float, default=DEMO.learning_rate, help="of both sides")
    parser.add_argument("--every", type=int, default=40, help="steps between two validations")
    parser.add_argument("--results", type=Path, default=Path("runs/pretraining_gain.json"), help="what is done")
    args = parser.parse_args(arguments)
    if args.seeds < 2:
        parser.error(f"--seeds: expected at least 2, since one has no spread, found {args.seeds}")
    print(find_hardware(), versions())
    results = json.loads(args.results.read_text()) if args.results.is_file() else {}
    for seed in range(args.seeds):
        for start in STARTS:
            name = f"{start} {seed}"
            if name not in results:
                recipe = replace(DEMO, seed=seed, learning_rate=args.learning_rate)
                curve = dice_curve(args.weights if start == "pretrained" else None, recipe, args.every)
                results[name] = {
                    "start": start,
                    "seed": seed,
                    "dice": {str(step): dice for step, dice in curve.items()},
                }
                args.results.parent.mkdir(parents=True, exist_ok=True)
                args.results.write_text(json.dumps(results, indent=2) + "\n")
                print(name, {step: round(dice, 3) for step, dice in curve.items()}, flush=True)
    show(results, args.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
