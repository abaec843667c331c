"""Fill the results table: fine-tune from random and from pre-trained weights with 6, 12 and 24 volumes and some seeds.

Every run is the notebook's, through papermill, in a folder of its own. Run from the project's root; runs that are done
are left out, so it can be stopped and started again, and machines that share the folder can take a share each:
    .venv/bin/python -m benchmarks.results_table --weights FILE [--volumes 6 12 24] [--seeds 2] [--folds 5]
        [--share 1/2] [--folder runs/results] [-p name value ...]
With ``--folds`` each entry is a model per fold of the training list, which are tested alone and as an ensemble.
Parameters after ``-p`` go to the notebook as they are, such as ``-p data_root /data/BTCV``; without a ``data_root``,
phantoms and the demo recipe fill the table.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks import folds
from benchmarks.sweep import begin, is_done, make_parser, parse, read_csv, run_notebook, spread, summary
from swinunetr.files import replacing, write_csv

STARTS = ("random", "pretrained")
COLOURS, MARKERS = ("#0057B7", "#D55E00"), ("o", "s")
HEAD = """| training volumes | validation volumes | seeds | random init | pre-trained | difference | relative |
|---|---|---|---|---|---|---|
"""
RESERVED = ("json_path", "seed", "pretrained_checkpoint", "logdir", "fold", "folds", "evaluate_only")
FIELDS = ("volumes", "start", "seed", "mean_dice", "mean_dice_own_grid", "best_step", "seconds")


def entries_of(args: Namespace) -> dict[Path, dict[str, object]]:
    """Return the parameters of the notebook for each entry of the table, by its folder."""
    entries = {}
    for seed, volumes, start in product(range(args.seeds), args.volumes, STARTS):
        entry = {"json_path": f"json_files/btcv_{volumes}.json", "seed": seed}
        if start == "pretrained":
            entry["pretrained_checkpoint"] = args.weights
        entries[args.folder / f"{volumes}_{start}_{seed}"] = entry | args.parameters
    return entries


def collect(entries: dict[Path, dict[str, object]]) -> list[dict]:
    """Return a row for each entry that is done, with its curve of (step, mean Dice)."""
    rows = []
    for logdir, parameters in entries.items():
        if not is_done(logdir, parameters):
            continue
        volumes, start, seed = logdir.name.split("_")
        results = summary(logdir) | {"volumes": int(volumes), "start": start, "seed": int(seed)}
        curve = {int(line["step"]): float(line["mean_dice"]) for line in read_csv(logdir / "metrics.csv")}
        cases = len(results["split"]["validation"])
        rows.append({name: results[name] for name in FIELDS} | {"cases": cases, "curve": curve})
    return rows


def paired(rows: list[dict]) -> dict[int, list[tuple[dict, dict]]]:
    """Return, by number of volumes, the random and the pre-trained run of every seed that has both."""
    runs = {(row["volumes"], row["start"], row["seed"]): row for row in rows}
    groups: dict[int, list[tuple[dict, dict]]] = {}
    for volumes, seed in sorted({(row["volumes"], row["seed"]) for row in rows}):
        pair = tuple(runs.get((volumes, start, seed)) for start in STARTS)
        if all(pair):
            groups.setdefault(volumes, []).append(pair)
    return groups


def markdown(groups: dict[int, list[tuple[dict, dict]]]) -> str:
    """Return the table of mean Dice in percent, on the training grid."""
    table = HEAD
    for volumes, pairs in groups.items():
        random, pretrained = np.array([[run["mean_dice"] for run in pair] for pair in pairs]).T
        gain = f"{pretrained.mean() / random.mean() - 1:+.1%}"
        cells = (volumes, pairs[0][0]["cases"], len(pairs), *map(spread, (random, pretrained, pretrained - random)))
        table += f"| {' | '.join(map(str, cells))} | {gain} |\n"
    return table


def describe_curves(groups: dict[int, list[tuple[dict, dict]]]) -> str:
    """Return the mean Dice at every validation, and when pre-trained weights reach what random ones end at."""
    lines = []
    for volumes, pairs in groups.items():
        steps = list(pairs[0][0]["curve"])
        curves = np.array([[list(run["curve"].values()) for run in pair] for pair in pairs])  # (seed, start, step)
        lines += ["", f"{volumes} volumes", f"{'step':>6}{'random':>16}{'pretrained':>16}{'difference':>16}"]
        for step, (random, pretrained) in zip(steps, np.moveaxis(curves, 0, 2).swapaxes(0, 1), strict=True):
            lines.append(f"{step:6d}" + "".join(f"{spread(v):>16}" for v in (random, pretrained, pretrained - random)))
        random, pretrained = curves.mean(axis=0)
        reached = next((step for step, dice in zip(steps, pretrained, strict=True) if dice >= random[-1]), "no")
        lines.append(f"The pre-trained mean reaches the last random one after {reached} steps.")
    return "\n".join(lines)


def draw(groups: dict[int, list[tuple[dict, dict]]]) -> plt.Figure:
    """Draw the curves of each number of volumes with their range; of several numbers also the best of every run."""
    several = len(groups) > 1
    panels = several + len(groups)
    figure, axes = plt.subplots(1, panels, figsize=(4 * panels, 3.4), sharey=True, squeeze=False, layout="constrained")
    for which, (start, colour, marker) in enumerate(zip(STARTS, COLOURS, MARKERS, strict=True)):
        style = {"color": colour, "marker": marker, "label": start}
        if several:
            dices = [[pair[which]["mean_dice"] for pair in pairs] for pairs in groups.values()]
            axes[0, 0].plot(list(groups), [np.mean(values) for values in dices], **style)
            for volumes, values in zip(groups, dices, strict=True):
                axes[0, 0].plot([volumes] * len(values), values, marker, color=colour, alpha=0.4, ms=4)
        for ax, (volumes, pairs) in zip(axes[0, several:], groups.items(), strict=True):
            steps = list(pairs[0][which]["curve"])
            table = np.array([list(pair[which]["curve"].values()) for pair in pairs])
            ax.plot(steps, table.mean(axis=0), **style, ms=4)
            ax.fill_between(steps, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.2)
            ax.set(xlabel="step of fine-tuning", title=f"{volumes} training volumes, {len(pairs)} seeds")
    if several:
        axes[0, 0].set(xlabel="training volumes", title="best of each run", xticks=list(groups))
    axes[0, 0].set(ylabel="mean Dice", ylim=(0, 1))
    axes[0, 0].legend(loc="lower right")
    for ax in axes[0]:
        ax.grid(alpha=0.3)
    return figure


def show(folder: Path, entries: dict[Path, dict[str, object]]) -> None:
    """Write ``table.md``, ``runs.csv`` and ``results.png`` from the entries that are done, and print the table."""
    rows = collect(entries)
    groups = paired(rows)
    if not groups:
        print("No run from random weights has a pre-trained one of the same seed yet.")
        return
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(markdown(groups), encoding="utf-8")
    write_csv([{name: row[name] for name in FIELDS} for row in rows], folder / "runs.csv")
    with replacing(folder / "results.png") as temporary:
        draw(groups).savefig(temporary, dpi=150)
    minutes = sum(row["seconds"] for row in rows) / 60
    print(f"\nMean Dice in percent; {len(rows)} runs, {minutes:.0f} minutes of fine-tuning\n{markdown(groups)}")
    print(f"{describe_curves(groups)}\n\nThe table, the figure and a line a run are in {folder}")


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then show what there is; return 1 if a run failed."""
    parser = make_parser(__doc__, "runs/results", seeds=2)
    parser.add_argument("--weights", required=True, help="checkpoint of the pre-trained runs, or ssl_50k")
    parser.add_argument("--volumes", type=int, nargs="+", default=[6, 12, 24], choices=[6, 12, 24])
    parser.add_argument("--folds", type=int, help="train a model per fold of each training list, and test the ensemble")
    args = parse(parser, arguments, RESERVED)
    settings = {"weights": args.weights, "parameters": args.parameters}
    if args.folds:
        settings["folds"] = args.folds
    begin(parser, {args.folder: settings})

    entries = entries_of(args)
    runs: dict[Path, dict[str, object]] = {}
    for logdir, entry in entries.items():
        runs |= folds.trainings(logdir, entry, args.folds) if args.folds else {logdir: entry}
    done = [run_notebook(logdir, parameters) for logdir, parameters in list(runs.items())[args.share]]
    if args.folds:
        tested = [logdir for logdir, entry in entries.items() if folds.test(logdir, entry, args.folds)]
        done.append(len(tested) == len(entries))
        print(folds.describe(tested, args.folds))
    else:
        show(args.folder, entries)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
