"""Measure the choices of the tuned recipe: each added alone to the published one, and taken alone from the tuned one.

Every run is the notebook's, through papermill, at the demo's scale: its grid, crop, network, steps and learning rate.
The training list is split in two; each seed trains on one part and is scored on the other, so no choice is made on the
validation list. Differences are paired by seed. Run from the project's root; runs that are done are left out, so it can
be stopped and started again, and machines that share the folder can take a share each:
    .venv/bin/python -m benchmarks.ablation [--seeds 3] [--only "tuned without no flips" ...] [--share 1/2]
        [--folder runs/ablation] [--test DATA_ROOT JSON_PATH] [-p name value ...]
With ``--test`` each model is also scored on the validation list of a data set that no choice was made on, such as real
CT, and the table says whether it ranks the models alike. Parameters after ``-p`` go to the notebook as they are, such
as ``-p data_root /data/BTCV``; without a ``data_root`` the runs are on phantoms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.runs import run_notebook, share, spread, summary
from swinunetr.devices import find_hardware, versions
from swinunetr.errors import InputError
from swinunetr.files import claim_folder, write_csv
from swinunetr.recipe import DEMO_SCALE, TUNED, Recipe
from swinunetr.tables import Table

PUBLISHED = Recipe()
OWN_PARAMETERS = ("max_steps", "eval_every", "learning_rate", "crops_per_volume", "crop_size", "spacing_mm")
FOLDS = 2
TESTED = "tested"  # folder of the scores on other data

# Choices of the tuned recipe, each of settings that only make sense together.
CHOICES = {
    "crops by organ": ("crop_centres", "organ_crops"),
    "deep supervision": ("deep_supervision",),
    "second moment of 20 steps": ("adam_beta2",),
    "cosine schedule, clipped gradient": ("schedule", "clip_norm"),
    "rare classes weighted": ("class_balance",),
    "no flips": ("flip_probability",),
    "Gaussian windows, overlap 0.5": ("window_weights", "overlap"),
}
# Candidates that the tuned recipe does not have, as far as the published one has not either.
CANDIDATES = {
    "averaged weights": {"averaged_share": 0.05},
    "rotation and scaling": {"deform_probability": 0.3},
    "gamma and noise": {"gamma_probability": 0.3, "noise_probability": 0.2},
}


def changed(names: tuple[str, ...], recipe: Recipe) -> dict[str, object]:
    """Return some settings of a recipe."""
    return {name: getattr(recipe, name) for name in names}


def variants() -> dict[str, tuple[str, dict[str, object]]]:
    """Return the name of each run without its seed, with its recipe and the settings that are changed in it."""
    found = {"published": ("published", {}), "tuned": ("tuned", {})}
    found |= {f"tuned without {name}": ("tuned", changed(names, PUBLISHED)) for name, names in CHOICES.items()}
    found |= {f"published with {name}": ("published", changed(names, TUNED)) for name, names in CHOICES.items()}
    for recipe in ("tuned", "published"):
        found |= {f"{recipe} with {name}": (recipe, settings) for name, settings in CANDIDATES.items()}
    return found


def parameters(recipe: str, settings: dict[str, object], seed: int) -> dict[str, object]:
    """Return the parameters of the notebook for one run."""
    scale = {name: value for name, value in DEMO_SCALE.items() if name in OWN_PARAMETERS}
    other = {name: value for name, value in DEMO_SCALE.items() if name not in OWN_PARAMETERS}
    split = {"json_path": "json_files/btcv_12.json", "folds": FOLDS, "fold": seed % FOLDS}
    return {"recipe_name": recipe, "seed": seed, "other_settings": other | settings, **split, **scale}


def collect(folder: Path) -> list[dict[str, object]]:
    """Return a row for each run that is done."""
    rows = []
    for file in sorted(folder.glob("*/summary.json")):
        name, _, seed = file.parent.name.rpartition(" seed ")
        found = summary(file.parent)
        scores = {"mean_dice": found["mean_dice"], "hd95_mm": found["mean_hd95_mm_all"], "seconds": found["seconds"]}
        tested = folder / TESTED / file.parent.name
        scores["test_dice"] = summary(tested)["mean_dice_own_grid"] if (tested / "summary.json").is_file() else None
        rows.append({"variant": name, "seed": int(seed)} | scores | found["dice_per_organ"])
    return rows


def describe(rows: list[dict[str, object]]) -> Table:
    """Return a table of Dice and distance of each variant, and of the paired differences to its recipe."""
    scores = {(row["variant"], row["seed"]): row for row in rows}
    lines = []
    for name, (recipe, _) in variants().items():
        own = [row for row in rows if row["variant"] == name]
        if not own:
            continue
        pairs = [(row, base) for row in own if name != recipe and (base := scores.get((recipe, row["seed"])))]
        dice, hd95, tested = (_numbers(row[key] for row in own) for key in ("mean_dice", "hd95_mm", "test_dice"))
        gains, further = (
            _numbers(row[key] for row, _ in pairs) - _numbers(base[key] for _, base in pairs)
            for key in ("mean_dice", "hd95_mm")
        )
        differences = (spread(gains, 1), f"{further.mean():+.1f}") if pairs else ("", "")
        on_test = spread(tested, 1) if np.isfinite(tested).all() else ""
        lines.append((name, len(own), spread(dice, 1), differences[0], f"{hd95.mean():.1f}", differences[1], on_test))
    heads = ("variant", "seeds", "Dice, %", "difference", "HD95, mm", "difference", "Dice on the test, %")
    return Table(heads, lines, _ranking(rows))


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    """Return values as an array, in which None is NaN."""
    return np.array(list(values), dtype=float)


def _ranking(rows: list[dict[str, object]]) -> list[str]:
    """Return a sentence that says whether the test ranks the models as the validation does."""
    tested = [row for row in rows if row["test_dice"] is not None]
    if len(tested) < 3:
        return []
    found = spearmanr([row["mean_dice"] for row in tested], [row["test_dice"] for row in tested])
    return [
        f"Rank correlation (Spearman) of Dice in validation and on the test, over {len(tested)} models: "
        f"{found.statistic:.2f}, p = {found.pvalue:.2g}."
    ]


def test(folder: Path, run: str, data_root: str, json_path: str) -> bool:
    """Score the model of a finished run on another data set; return whether that is done."""
    weights = {"evaluate_only": True, "pretrained_checkpoint": folder / run / "best_model.pth"}
    return run_notebook(folder / TESTED / run, weights | {"data_root": data_root, "json_path": json_path})


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then show what there is; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--only", nargs="+", default=list(variants()), choices=variants(), metavar="VARIANT")
    parser.add_argument("--share", type=share, default=(1, 1), help="part of the runs: 2/3 is the second of three")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"), help="of all runs")
    parser.add_argument("--test", nargs=2, metavar=("DATA_ROOT", "JSON_PATH"), help="score the models there too")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    args = parser.parse_args(arguments)
    try:
        claim_folder(args.folder, {"parameters": dict(args.parameters)})
        if args.test:
            claim_folder(args.folder / TESTED, {"data": list(args.test)})
    except InputError as error:
        parser.error(str(error))
    print(find_hardware(), versions(), flush=True)
    part, parts = args.share
    runs = [(seed, name, *variants()[name]) for seed in range(args.seeds) for name in args.only][part - 1 :: parts]
    done = []
    for seed, name, recipe, settings in runs:
        run = f"{name} seed {seed}"
        trained = run_notebook(args.folder / run, parameters(recipe, settings, seed) | dict(args.parameters))
        done.append(trained and (not args.test or test(args.folder, run, *args.test)))
    if rows := collect(args.folder):
        write_csv(rows, args.folder / "runs.csv")
        print(describe(rows))
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
