"""Models of all folds of a training list: trained, then tested alone and as an ensemble on the validation list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.sweep import is_done, run_notebook, spread, summary
from swinunetr.tables import Table

TESTED_WITH = ("data_root", "json_path", "cache_dir", "largest_component", "test_time_flips")


def trainings(logdir: Path, parameters: Mapping[str, object], folds: int) -> dict[Path, dict[str, object]]:
    """Return the parameters of the run of each fold by its folder, whose name begins with that of ``logdir``."""
    return {
        logdir.with_name(f"{logdir.name}_fold{fold}"): {**parameters, "fold": fold, "folds": folds}
        for fold in range(folds)
    }


def test(logdir: Path, parameters: Mapping[str, object], folds: int) -> bool:
    """Score each model and their ensemble on the validation list, once all are trained; return whether that is done.

    The validation list has no case of any fold, so no model has seen its cases, and none was chosen by them.
    """
    runs = trainings(logdir, parameters, folds)
    if not all(is_done(folder, fold) for folder, fold in runs.items()):
        return False
    weights = {f"{folder.name}_tested": str(folder / "best_model.pth") for folder in runs}
    weights[f"{logdir.name}_ensemble"] = ",".join(weights.values())
    given = {name: parameters[name] for name in TESTED_WITH if name in parameters} | {"evaluate_only": True}
    done = [
        run_notebook(logdir.with_name(name), given | {"pretrained_checkpoint": files})
        for name, files in weights.items()
    ]
    return all(done)


def row(logdir: Path, folds: int) -> tuple:
    """Return the scores of a tested entry in percent."""
    trained = {folder: summary(folder) for folder in trainings(logdir, {}, folds)}
    alone = np.array([summary(folder.with_name(f"{folder.name}_tested"))["mean_dice"] for folder in trained])
    together = summary(logdir.with_name(f"{logdir.name}_ensemble"))["mean_dice"]
    cases = [len(results["split"]["validation"]) for results in trained.values()]
    crossed = np.average([results["mean_dice"] for results in trained.values()], weights=cases)
    gain = 100 * (together - alone.mean())
    return logdir.name, folds, spread(alone), f"{100 * together:.2f}", f"{gain:+.2f}", f"{100 * crossed:.2f}"


def describe(logdirs: list[Path], folds: int) -> Table:
    """Return a table of tested entries: mean Dice in percent, on the training grid."""
    heads = ("volumes_start_seed", "folds", "single models", "ensemble", "difference", "cross-validated")
    note = (
        "Single models and ensemble: the validation list. Cross-validated: each training case by the model of its fold."
    )
    return Table(heads, [row(logdir, folds) for logdir in logdirs], [note])
