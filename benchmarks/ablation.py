"""Measure the choices of the tuned recipe: each alone in the published one, and the tuned one without each.

Every run is the notebook's, through papermill, at the demo's scale: its grid, crop, network, steps and learning rate.
The training list is split in two; each seed trains on one part and is scored on the other, so no choice is made on the
validation list. Differences are paired by seed. Run from the project's root; runs that are done are left out, so it can
be stopped and started again, and machines that share the folder can take a share each:
    .venv/bin/python -m benchmarks.ablation [--seeds 3] [--only "tuned with flips" ...] [--share 1/2]
        [--folder runs/ablation] [--test DATA_ROOT JSON_PATH] [-p name value ...]
With ``--test`` each model is also scored on the validation list of a data set that no choice was made on, such as real
CT, and the table says whether it ranks the models alike. Parameters after ``-p`` go to the notebook as they are, such
as ``-p data_root /data/BTCV``; without a ``data_root`` the runs are on phantoms. ``-p other_settings`` adds settings to
those of every run, such as another ``feature_size``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.sweep import begin, is_done, make_parser, parse, read_csv, run_notebook, spread, summary
from swinunetr.errors import InputError
from swinunetr.fields import convert_parameters
from swinunetr.files import write_csv
from swinunetr.recipe import DEMO_SCALE, TUNED, Recipe
from swinunetr.tables import Table
from swinunetr.training.parameters import PARAMETERS

PUBLISHED = Recipe()
RESERVED = ("recipe_name", "seed", "folds", "fold", "logdir", "evaluate_only")  # parameters that each run sets itself
FOLDS = 2
TESTED = "tested"  # folder of the scores on other data
SHOWN = ("mean_dice", "hd95_mm", "volume_ratio", "test_dice", "not_found")

# Choices of the tuned recipe, what the published one has in their place, and the settings, which belong together.
CHOICES = {
    "crops by organ": ("crops by voxel", ("crop_centres", "organ_crops")),
    "deep supervision": ("no deep supervision", ("deep_supervision",)),
    "beta2 0.95": ("beta2 0.999", ("adam_beta2",)),
    "cosine schedule, clipped gradient": ("constant rate, no clipping", ("schedule", "clip_norm")),
    "rare classes weighted": ("equal class weights", ("class_balance",)),
    "calibrated volumes": ("no calibration", ("calibration_cases",)),
    "no flips": ("flips", ("flip_probability",)),
    "Gaussian windows, overlap 0.5": ("flat windows, overlap 0.25", ("window_weights", "overlap")),
}
# Candidates that the tuned recipe does not have, as far as the published one has not either.
CANDIDATES = {
    "averaged weights": {"averaged_share": 0.05},
    "rotation and scaling": {"deform_probability": 0.3},
    "gamma and noise": {"gamma_probability": 0.3, "noise_probability": 0.2},
}


def variants() -> dict[str, tuple[str, dict[str, object]]]:
    """Return the name of each run without its seed, with its recipe and the settings that are changed in it."""
    changes: dict[str, tuple[str, dict[str, object]]] = {"published": ("published", {}), "tuned": ("tuned", {})}
    for choice, (instead, names) in CHOICES.items():
        changes[f"tuned with {instead}"] = "tuned", {name: getattr(PUBLISHED, name) for name in names}
        changes[f"published with {choice}"] = "published", {name: getattr(TUNED, name) for name in names}
    for recipe in ("tuned", "published"):
        changes |= {f"{recipe} with {name}": (recipe, settings) for name, settings in CANDIDATES.items()}
    return changes


def parameters(name: str, seed: int, given: dict[str, object]) -> dict[str, object]:
    """Return the parameters of the notebook for one run; ``given`` are those of every run."""
    recipe, settings = variants()[name]
    scale = {name: value for name, value in DEMO_SCALE.items() if name in PARAMETERS}
    other = {name: value for name, value in DEMO_SCALE.items() if name not in PARAMETERS}
    other |= given.get("other_settings", {})
    split = {"json_path": "json_files/btcv_12.json", "folds": FOLDS, "fold": seed % FOLDS}
    return {"recipe_name": recipe, "seed": seed, **split, **scale} | given | {"other_settings": other | settings}


def scoring_parameters(folder: Path, run: str, data: list[str]) -> dict[str, object]:
    """Return the parameters of the notebook that scores the model of a run on other data: their root and their JSON."""
    weights = {"evaluate_only": True, "pretrained_checkpoint": folder / run / "best_model.pth"}
    return weights | dict(zip(("data_root", "json_path"), data, strict=True))


def collect(folder: Path, given: dict[str, object], data: list[str] | None) -> list[dict[str, object]]:
    """Return a row for each run that is done with these parameters, and its score on other data where it has one."""
    rows = []
    for file in sorted(folder.glob("*/summary.json")):
        run = file.parent.name
        name, _, seed = run.rpartition(" seed ")
        if name not in variants():
            print(f"{run}: left out, as there is no variant of this name.")
            continue
        if not is_done(file.parent, parameters(name, int(seed), given)):
            print(f"{run}: left out, as it has not ended or is of other settings.")
            continue
        results, distances = summary(file.parent), _distances(file.with_name("evaluation.csv"))
        tested = folder / TESTED / run
        is_tested = data and is_done(tested, scoring_parameters(folder, run, data))
        scores = {
            "mean_dice": results["mean_dice"],
            "hd95_mm": results["mean_hd95_mm_all"],
            "seconds": results["seconds"],
            "volume_ratio": results.get("volume_ratio"),  # which earlier versions did not note
            "test_dice": summary(tested)["mean_dice_own_grid"] if is_tested else None,
            "not_found": sum(map(np.isnan, distances.values())),
        }
        rows.append({"variant": name, "seed": int(seed), **scores, **results["dice_per_organ"], "distances": distances})
    return rows


def _distances(file: Path) -> dict[tuple[str, str], float]:
    """Return HD95 in mm by case and organ that the ground truth has; NaN where the organ was not found."""
    rows = [row for row in read_csv(file) if float(row["volume_true_ml"]) > 0]
    return {(row["case"], row["organ"]): float(row["hd95_mm_all"] or "nan") for row in rows}


def describe(rows: list[dict[str, object]]) -> Table:
    """Return a table of Dice and distance of each variant, and of the paired differences to its recipe."""
    by_run = {(row["variant"], row["seed"]): row for row in rows}
    lines = []
    for name, (recipe, _) in variants().items():
        runs = [row for row in rows if row["variant"] == name]
        if not runs:
            continue
        # None, where a run has no such score, becomes NaN
        scores = [np.array([row[key] for row in runs], dtype=float) for key in SHOWN]
        dice, hd95, ratio, tested, missed = scores
        pairs = [(row, base) for row in runs if name != recipe and (base := by_run.get((recipe, row["seed"])))]
        gain = further = ""
        if pairs:
            gain = spread(np.array([row["mean_dice"] - base["mean_dice"] for row, base in pairs]), 1)
            further = f"{np.mean([_further(row['distances'], base['distances']) for row, base in pairs]):+.1f}"
        volume = f"{ratio.mean():.2f}" if np.isfinite(ratio).all() else ""
        on_test = spread(tested, 1) if np.isfinite(tested).all() else ""
        distance = (f"{missed.mean():.1f}", f"{hd95.mean():.1f}", further)
        lines.append((name, len(runs), spread(dice, 1), gain, volume, *distance, on_test))
    heads = ("variant", "seeds", "Dice, %", "difference", "ml / true", "not found", "HD95, mm", "difference")
    heads += ("Dice on the test, %",)
    notes = [
        "Not found: organs of all cases without a voxel in the prediction, per run. They have no HD95; its difference "
        "is over the organs and cases that both models found."
    ]
    return Table(heads, lines, notes + _ranking(rows))


def _further(distances: dict[tuple[str, str], float], base: dict[tuple[str, str], float]) -> float:
    """Return the mean difference of HD95 over the organs that both models found, in mm; NaN if there is none."""
    differences = [distances[key] - base[key] for key in distances.keys() & base.keys()]
    both_found = [difference for difference in differences if not np.isnan(difference)]
    return float(np.mean(both_found)) if both_found else float("nan")


def _ranking(rows: list[dict[str, object]]) -> list[str]:
    """Return a sentence that says whether the test ranks the models as the validation does."""
    tested = [row for row in rows if row["test_dice"] is not None]
    if len(tested) < 3:
        return []
    correlation = spearmanr([row["mean_dice"] for row in tested], [row["test_dice"] for row in tested])
    return [
        f"Rank correlation (Spearman) of Dice in validation and on the test, over {len(tested)} models: "
        f"{correlation.statistic:.2f}, p = {correlation.pvalue:.2g}."
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then show what there is; return 1 if a run failed."""
    parser = make_parser(__doc__, "runs/ablation", seeds=3)
    parser.add_argument("--only", nargs="+", default=list(variants()), choices=variants(), metavar="VARIANT")
    parser.add_argument("--test", nargs=2, metavar=("DATA_ROOT", "JSON_PATH"), help="score the models there too")
    args = parse(parser, arguments, RESERVED)
    given: dict[str, object] = args.parameters
    if "other_settings" in given:
        try:
            given |= convert_parameters({"other_settings": given["other_settings"]}, PARAMETERS)
        except InputError as error:
            parser.error(str(error))
        chosen = {name for _, settings in variants().values() for name in settings}
        if taken := sorted(chosen & given["other_settings"].keys()):
            parser.error(f"other_settings: expected none that a variant changes, found {', '.join(taken)}.")
    folders: dict[Path, dict] = {args.folder: {"parameters": given}}
    if args.test:
        folders[args.folder / TESTED] = {"data": args.test}
    begin(parser, folders)

    done = []
    for name, seed in [(name, seed) for seed in range(args.seeds) for name in args.only][args.share]:
        run = f"{name} seed {seed}"
        done.append(run_notebook(args.folder / run, parameters(name, seed, given)))
        if args.test and done[-1]:
            done.append(run_notebook(args.folder / TESTED / run, scoring_parameters(args.folder, run, args.test)))
    if rows := collect(args.folder, given, args.test):
        write_csv([{key: row[key] for key in row if key != "distances"} for row in rows], args.folder / "runs.csv")
        print(describe(rows))
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
