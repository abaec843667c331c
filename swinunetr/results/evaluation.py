"""Scores of a network on labelled cases, on the training grid and on the scans' own grids, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import find_objects
from tqdm.auto import tqdm

from swinunetr.data.geometry import voxel_volume_mm3
from swinunetr.data.label_maps import LabelMap, clear_ignored, to_classes
from swinunetr.data.lists import organ_labels
from swinunetr.hardware import Hardware, gpu_memory
from swinunetr.recipe import Recipe
from swinunetr.results.inference import largest_components, predict, to_source_grid
from swinunetr.results.metrics import (
    confusion_matrix,
    dice_per_organ,
    mean_dice,
    mean_ratio,
    organ_means,
    surface_scores,
    volume_ratios,
)
from swinunetr.tables import Table, Tables

SCORES = ("dice", "dice_own_grid", "surface_dice", "hd95_mm", "volume_true_ml", "volume_predicted_ml")
COMPARED = ("dice_own_grid", "surface_dice", "hd95_mm")  # as predicted, and with the largest component alone
RATIO_LIMITS = (0.8, 1.25)  # of predicted to true volume; a note names the organs outside
COLUMNS = (*SCORES, *(f"{name}_{kind}" for name in COMPARED for kind in ("all", "largest")))


def evaluate(model: torch.nn.Module, cases: list[dict], recipe: Recipe, hardware: Hardware) -> np.ndarray:
    """Return the confusion matrices of the model on labelled cases, on the training grid.

    An ignored voxel counts as background, in the ground truth and in the prediction.

    With several ranks, each rank predicts some of the cases and all ranks return all matrices.

    Args:
        model: Segmentation network.
        cases: Preprocessed cases with labels.
        recipe: Recipe with the settings of the sliding window.
        hardware: Device, precision and rank.

    Returns:
        Array (cases, classes, classes), int64; see :func:`metrics.confusion_matrix`.
    """
    own = []
    for number in tqdm(hardware.share(range(len(cases))), desc="Validating", leave=False, disable=hardware.rank > 0):
        logits = predict(model, cases[number]["image"], recipe, hardware)
        truth = cases[number]["label"].as_tensor()[0].to(logits.device)
        truth, prediction = clear_ignored(cases[number].get("label_map"), truth, logits.argmax(0))
        own.append((number, confusion_matrix(prediction, truth, len(logits))))
    return np.stack([counts for _, counts in sorted(hardware.gather(own, training=True), key=lambda pair: pair[0])])


def score_case(
    case: dict,
    prediction: torch.Tensor,
    labels: np.ndarray,
    organs: Sequence[str],
    largest_component: Sequence[str] = (),
) -> list[dict]:
    """Return the rows of ``evaluation.csv`` for one case, one per organ: ``case``, ``organ`` and scores.

    The six ``SCORES`` are of what is written. Those of ``COMPARED`` follow twice: ``<score>_all`` as predicted, and
    ``<score>_largest`` with the largest component of the organ alone.

    Where the ground truth lacks an organ, all scores except the volumes are NaN. Where only the prediction lacks it,
    ``hd95_mm`` is NaN. Where the ground truth ignores voxels, they are background in it and in the prediction, which
    the predicted volume thus leaves out.

    Args:
        case: Preprocessed case with a label.
        prediction: Labels (X, Y, Z) on the training grid as predicted, for ``dice``.
        labels: Labels on the scan's own grid as predicted, uint8, for all other scores.
        organs: Names of the classes without the background.
        largest_component: Organs of which only the largest connected piece is written; see ``organ_labels``.
    """
    everything = range(1, len(organs) + 1)
    written = organ_labels(largest_component, organs, "largest_component")
    predicted = (prediction.numpy(), labels)
    largest = [largest_components(grid, everything) for grid in predicted]
    changed = np.unique(np.concatenate([grid[grid != kept] for grid, kept in zip(predicted, largest, strict=True)]))
    truth, classes = read_labels(case["label_source"], case.get("label_map")), len(organs) + 1
    as_predicted = _scores(case, *predicted, truth, everything, classes)
    reduced = as_predicted | (_scores(case, *largest, truth, changed.tolist(), classes) if len(changed) else {})
    rows = []
    for label, organ in enumerate(organs, start=1):
        both = {"all": as_predicted[label], "largest": reduced[label]}
        compared = {f"{name}_{kind}": scores[name] for name in COMPARED for kind, scores in both.items()}
        rows.append({"case": case["name"], "organ": organ} | both["largest" if label in written else "all"] | compared)
    return rows


def _scores(
    case: dict, prediction: np.ndarray, labels: np.ndarray, truth: np.ndarray, scored: Sequence[int], classes: int
) -> dict[int, dict[str, float]]:
    """Return the ``SCORES`` of some labels of a segmentation, given on the training grid and on the scan's own."""
    affine = np.asarray(case["image"].meta["original_affine"], dtype=float)
    voxel_ml = voxel_volume_mm3(affine) / 1000
    coarse_truth, coarse = clear_ignored(
        case.get("label_map"), case["label"].as_tensor()[0], torch.from_numpy(prediction)
    )
    truth, labels = clear_ignored(case.get("label_map"), truth, labels)
    counts = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(truth), classes)
    dice, own_dice = dice_per_organ(confusion_matrix(coarse, coarse_truth, classes)), dice_per_organ(counts)
    boxes = [
        _union(pair) for pair in zip(*(find_objects(volume, classes - 1) for volume in (labels, truth)), strict=True)
    ]
    found = {}
    for label in scored:
        box = boxes[label - 1]
        true, predicted = int(counts[label].sum()), int(counts[:, label].sum())
        surface_dice, hd95 = (0.0, np.nan) if true else (np.nan, np.nan)
        if true and predicted:
            surface_dice, hd95 = surface_scores(labels[box] == label, truth[box] == label, affine)
        values = (dice[label - 1], own_dice[label - 1], surface_dice, hd95, true * voxel_ml, predicted * voxel_ml)
        found[label] = dict(zip(SCORES, map(float, values), strict=True))
    return found


def _union(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Return the smallest box that contains all boxes that are not None; an empty tuple if all are None."""
    axes = zip(*(box for box in boxes if box), strict=True)
    return tuple(slice(min(side.start for side in axis), max(side.stop for side in axis)) for axis in axes)


def resolution_ceiling(cases: list[dict], organs: Sequence[str], hardware: Hardware) -> dict[str, float]:
    """Return the ceiling of the resolution: the Dice that the training grid allows for each organ.

    It is the mean Dice of the ground truth itself after resampling to the training grid and back to the scan's own
    grid. A prediction can score slightly higher, as its probabilities are interpolated. Ignored voxels have no class on
    the way, so that an organ beside them loses nothing to background.

    Args:
        cases: Preprocessed cases with labels.
        organs: Names of the classes without the background.
        hardware: Rank of this process; each rank computes some of the cases.

    Returns:
        Mean Dice by organ; NaN for an organ that no case has.
    """
    classes, dice = len(organs) + 1, []
    title = "Measuring the upper bound of the resolution"
    for case in tqdm(hardware.share(cases), desc=title, leave=False, disable=hardware.rank > 0):
        with gpu_memory():
            label = case["label"].as_tensor().to(hardware.device)
            perfect = torch.stack([label[0] == number for number in range(classes)]).byte()
            labels = to_source_grid(perfect, case["image"])
        truth = read_labels(case["label_source"], case.get("label_map"))
        truth, labels = map(torch.from_numpy, clear_ignored(case.get("label_map"), truth, labels))
        dice.append(dice_per_organ(confusion_matrix(labels, truth, classes)))
    dice = np.array(hardware.gather(dice)).reshape(-1, len(organs))
    return dict(zip(organs, organ_means(dice).tolist(), strict=True))


def read_labels(file: str | Path, label_map: LabelMap | None = None) -> np.ndarray:
    """Return the classes in a NIfTI file as uint8 (X, Y, Z), in the file's axis order; see :func:`to_classes`."""
    volume = np.asarray(nib.load(file).dataobj)
    return to_classes(volume, label_map).reshape(volume.shape[:3])


def case_means(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Return the mean Dice on the training grid and on the scan's own grid of each case that has an organ."""
    cases: dict[str, list[dict]] = {}
    for row in rows:
        if row["volume_true_ml"] > 0:
            cases.setdefault(row["case"], []).append(row)
    scores = {case: [[row[name] for row in own] for name in ("dice", "dice_own_grid")] for case, own in cases.items()}
    return {case: tuple(mean_dice(np.array([dice])) for dice in both) for case, both in scores.items()}


def summarise(rows: list[dict], organs: Sequence[str]) -> dict[str, object]:
    """Return the mean scores for ``summary.json``.

    A mean over all cases is the mean of each case's mean over its organs. A mean per organ is over the cases that have
    it. ``volume_ratio`` is the mean over the organs of predicted over true volume, see :func:`metrics.volume_ratios`.

    Args:
        rows: Rows from :func:`score_case` of all cases.
        organs: Names of the classes without the background, in the order of the rows.
    """
    tables = {name: np.array([row[name] for row in rows]).reshape(-1, len(organs)) for name in SCORES}
    ratios = volume_ratios(tables["volume_true_ml"], tables["volume_predicted_ml"])
    return {
        **{f"mean_{name}": _mean_of_cases(rows, name, organs) for name in COLUMNS if not name.startswith("volume")},
        "dice_per_organ": dict(zip(organs, organ_means(tables["dice"]).tolist(), strict=True)),
        "dice_own_grid_per_organ": dict(zip(organs, organ_means(tables["dice_own_grid"]).tolist(), strict=True)),
        "volume_ratio": mean_ratio(ratios),
        "volume_ratio_per_organ": dict(zip(organs, ratios.tolist(), strict=True)),
    }


def worst_and_best(rows: list[dict]) -> dict[str, dict]:
    """Return the rows with the lowest and the highest Dice on the scan's own grid, as ``worst`` and ``best``.

    The result is empty if no case has an organ.
    """
    present = sorted((row for row in rows if row["volume_true_ml"] > 0), key=lambda row: row["dice_own_grid"])
    return {"worst": present[0], "best": present[-1]} if present else {}


def describe_scores(rows: list[dict], ceiling: dict[str, float] | None = None) -> Tables:
    """Return a table of each organ's scores, and one that compares them with those of the largest component alone.

    Scores of an organ are mean and standard deviation over the cases in which the ground truth has it. Distances also
    need the organ in the prediction.

    Args:
        rows: Rows from :func:`score_case` of all cases; without rows there is a note in place of the tables.
        ceiling: What the resolution allows by organ, from :func:`resolution_ceiling`; None omits the column.
    """
    if not rows:
        return Tables([Table((), (), ["No case was scored."])])
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    heads = ["organ", "Dice", "own grid", "surface Dice", "HD95, mm", "ml", "true ml", "ml / true", "cases"]
    lines, absent, ratios = [], [], {}
    for organ in organs:
        present = [row for row in rows if row["organ"] == organ and row["volume_true_ml"] > 0]
        if not present:
            absent.append(organ)
            lines.append([organ, *"-" * (len(heads) - 2), 0] + ["-"] * bool(ceiling))
            continue
        columns = {name: np.array([row[name] for row in present]) for name in SCORES}
        cells = [organ, *(_spread(columns[name], 2) for name in SCORES[:3]), _spread(columns["hd95_mm"], 1)]
        predicted, true = (columns[name].mean() for name in ("volume_predicted_ml", "volume_true_ml"))
        ratios[organ] = predicted / true
        cells += [f"{predicted:.1f}", f"{true:.1f}", f"{ratios[organ]:.2f}"]
        lines.append([*cells, len(present)] + ([f"{ceiling[organ]:.2f}"] if ceiling else []))
    if means := case_means(rows):
        dices = [_spread(np.array(column), 2) for column in zip(*means.values(), strict=True)]
        ratio = f"{np.mean(list(ratios.values())):.2f}"
        lines.append(["mean of cases", *dices, *[""] * 4, ratio, *[""] * (1 + bool(ceiling))])
    scores = Table(heads + ["ceiling"] * bool(ceiling), lines, _notes(rows, organs, absent, ratios))
    return Tables([scores, describe_components(rows)])


def _notes(rows: list[dict], organs: list[str], absent: list[str], ratios: dict[str, float]) -> list[str]:
    """Return sentences about organs that are absent from all cases, that were not found, and whose size is wrong."""
    notes = [f"Absent from the ground truth of all cases: {', '.join(absent)}."] if absent else []
    missed = [organ for organ in organs if _never_found([row for row in rows if row["organ"] == organ])]
    if sum(row["volume_predicted_ml"] for row in rows) == 0:
        notes.append("The model predicts only background: train longer, or check labels, learning rate, intensities.")
    elif missed:
        notes.append(f"Not found in any case: {', '.join(missed)}.")
    low, high = RATIO_LIMITS
    for kind, names in (
        ("small", [organ for organ, ratio in ratios.items() if 0 < ratio < low]),
        ("large", [organ for organ, ratio in ratios.items() if ratio > high]),
    ):
        if names:
            notes.append(f"Too {kind} on average (ml / true outside {low:g} to {high:g}): {', '.join(names)}.")
    return notes


def describe_worst_cases(rows: list[dict], most: int = 6) -> Table:
    """Return a table of the cases with the lowest mean Dice on the scan's own grid, with their worst organs.

    Args:
        rows: Rows from :func:`score_case` of all cases.
        most: Largest number of cases; the worst case is first.
    """
    lines = []
    for case, (dice, own_dice) in sorted(case_means(rows).items(), key=lambda pair: pair[1][1])[:most]:
        there = [row for row in rows if row["case"] == case and row["volume_true_ml"] > 0]
        worst = sorted(there, key=lambda row: row["dice_own_grid"])[:3]
        names = ", ".join(f"{row['organ']} {row['dice_own_grid']:.2f}" for row in worst)
        lines.append((case, f"{dice:.3f}", f"{own_dice:.3f}", names))
    return Table(("case", "Dice", "own grid", "worst organs"), lines)


def describe_components(rows: list[dict]) -> Table:
    """Return a table of scores as predicted and with the largest component alone, of the organs where they differ.

    Args:
        rows: Rows from :func:`score_case` of all cases.
    """
    if not rows:
        return Table((), ())
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    digits = {"dice_own_grid": 2, "surface_dice": 2, "hd95_mm": 1}
    columns = [(f"{name}_{kind}", digits[name]) for name in COMPARED for kind in ("all", "largest")]
    lines, same = [], []
    for organ in organs:
        own = [row for row in rows if row["organ"] == organ and row["volume_true_ml"] > 0]
        cells = [_spread(np.array([row[name] for row in own]), n) for name, n in columns]
        if cells[::2] == cells[1::2]:
            same.append(organ)
        else:
            lines.append([organ, *cells])
    means = [_mean_of_cases(rows, name, organs) for name, _ in columns]
    lines.append(["mean of cases", *(f"{mean:.{max(n, 1)}f}" for mean, (_, n) in zip(means, columns, strict=True))])
    heads = ("own grid", "with", "surface Dice", "with", "HD95, mm", "with")
    notes = [f"The same with both, or absent: {', '.join(same)}."] if same else []
    title = 'Without and with "largest component", which keeps the largest connected piece of an organ:'
    return Table(["organ", *heads], lines, notes, title)


def _mean_of_cases(rows: list[dict], name: str, organs: Sequence[str]) -> float:
    """Return the mean over the cases of each case's mean over its organs."""
    return mean_dice(np.array([row[name] for row in rows]).reshape(-1, len(organs)))


def _never_found(rows: list[dict]) -> bool:
    present = [row for row in rows if row["volume_true_ml"] > 0]
    return bool(present) and all(row["dice_own_grid"] == 0 for row in present)


def _spread(values: np.ndarray, digits: int) -> str:
    """Return mean and standard deviation of the values that are not NaN, as text."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "-"
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
