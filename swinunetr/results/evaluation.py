"""Scores of a network on labelled cases, on the training grid and on the scans' own grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects
from tqdm.auto import tqdm

from swinunetr.data.geometry import load_nifti, voxel_volume_mm3
from swinunetr.data.label_maps import LabelMap, clear_ignored, to_classes
from swinunetr.data.lists import organ_labels
from swinunetr.data.preprocessing import Case
from swinunetr.hardware import Hardware, gpu_memory
from swinunetr.recipe import Recipe
from swinunetr.results.inference import largest_components, predict
from swinunetr.results.metrics import (
    confusion_matrix,
    dice_per_organ,
    mean_dice,
    mean_ratio,
    organ_means,
    surface_scores,
    volume_ratios,
)
from swinunetr.results.resampling import resample_labels

SCORES = ("dice", "dice_own_grid", "surface_dice", "hd95_mm", "volume_true_ml", "volume_predicted_ml")
COMPARED = ("dice_own_grid", "surface_dice", "hd95_mm")  # as predicted, and with the largest component alone
CEILING = "dice_ceiling"  # what the resolution of the training grid allows
COLUMNS = (*SCORES, *(f"{name}_{kind}" for name in COMPARED for kind in ("all", "largest")), CEILING)


class Validation(NamedTuple):
    """What a network finds in the validation cases, on the training grid."""

    counts: np.ndarray  # (cases, classes, classes), int64, of all ranks; see :func:`metrics.confusion_matrix`
    labels: torch.Tensor | None  # (X, Y, Z), uint8, found in the first case of this rank; None if it has no case


def validate(model: torch.nn.Module, cases: list[Case], recipe: Recipe, hardware: Hardware) -> Validation:
    """Segment labelled cases on the training grid; return their confusion matrices and the labels of the first one.

    An ignored voxel counts as background, in the ground truth and in the prediction. With several ranks, each rank
    predicts some of the cases and all ranks return all matrices.
    """
    matrices, first = [], None
    for number in tqdm(hardware.share(range(len(cases))), desc="Validating", leave=False, disable=hardware.rank > 0):
        logits = predict(model, cases[number]["image"], recipe, hardware)
        truth = cases[number]["label"].as_tensor()[0].to(logits.device)
        truth, prediction = clear_ignored(cases[number].get("label_map"), truth, logits.argmax(0))
        matrices.append((number, confusion_matrix(prediction, truth, len(logits))))
        first = prediction.to("cpu", torch.uint8) if first is None else first
    of_all_ranks = dict(hardware.gather(matrices, training=True))
    return Validation(np.stack([of_all_ranks[number] for number in range(len(cases))]), first)


def evaluate(model: torch.nn.Module, cases: list[Case], recipe: Recipe, hardware: Hardware) -> np.ndarray:
    """Return the confusion matrices of :func:`validate` alone."""
    return validate(model, cases, recipe, hardware).counts


def score_case(
    case: Case,
    prediction: torch.Tensor,
    labels: np.ndarray,
    organs: Sequence[str],
    largest_component: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> list[dict]:
    """Return the rows of ``evaluation.csv`` for one case, one per organ: ``case``, ``organ`` and scores.

    The six ``SCORES`` are of what is written. Those of ``COMPARED`` follow twice: ``<score>_all`` as predicted, and
    ``<score>_largest`` with the largest component of the organ alone. ``dice_ceiling`` is the Dice that the training
    grid allows: that of the ground truth itself, resampled to the training grid and back to the scan's own. A
    prediction can score slightly higher, as its probabilities are interpolated.

    Where the ground truth lacks an organ, all scores except the volumes are NaN. Where only the prediction lacks it,
    ``hd95_mm`` is NaN. Where the ground truth ignores voxels, they are background in it and in the prediction, which
    the predicted volume thus leaves out.

    Args:
        case: Preprocessed case with a label.
        prediction: Labels (X, Y, Z) on the training grid as predicted, for ``dice``.
        labels: Labels on the scan's own grid as predicted, uint8, for all other scores.
        organs: Names of the classes without the background.
        largest_component: Organs of which only the largest connected piece is written; see ``organ_labels``.
        device: Device that computes the ceiling.

    Raises:
        InputError: ``largest_component`` has an unknown organ, or the memory of the GPU is full.
    """
    everything = range(1, len(organs) + 1)
    written = organ_labels(largest_component, organs, "largest_component")
    truth, classes = read_labels(str(case["label_source"]), case.get("label_map")), len(organs) + 1
    ceiling = _ceiling(case, truth, classes, device)

    # All organs as predicted, and those that change with their largest component alone.
    predicted = (prediction.numpy(), labels)
    largest = (largest_components(predicted[0], everything), largest_components(labels, everything))
    changed = np.unique(np.concatenate([grid[grid != kept] for grid, kept in zip(predicted, largest, strict=True)]))
    as_predicted = _scores(case, *predicted, truth, everything, classes)
    reduced = as_predicted | (_scores(case, *largest, truth, changed.tolist(), classes) if len(changed) else {})

    rows = []
    for label, organ in enumerate(organs, start=1):
        both = {"all": as_predicted[label], "largest": reduced[label]}
        compared = {f"{name}_{kind}": scores[name] for name in COMPARED for kind, scores in both.items()}
        scores = both["largest" if label in written else "all"] | compared | {CEILING: float(ceiling[label - 1])}
        rows.append({"case": case["name"], "organ": organ} | scores)
    return rows


def summarise(rows: list[dict], organs: Sequence[str]) -> dict[str, object]:
    """Return the mean scores for ``summary.json``.

    A mean over all cases is the mean of each case's mean over its organs. A mean per organ is over the cases that have
    it. ``volume_ratio`` is the mean over the organs of predicted over true volume, see :func:`metrics.volume_ratios`.

    Args:
        rows: Rows from :func:`score_case` of all cases.
        organs: Names of the classes without the background, in the order of the rows.
    """
    tables = {name: score_table(rows, name, organs) for name in SCORES}
    averaged = [name for name in COLUMNS if name != CEILING and not name.startswith("volume")]
    ratios = volume_ratios(tables["volume_true_ml"], tables["volume_predicted_ml"])
    return {
        **{f"mean_{name}": mean_dice(score_table(rows, name, organs)) for name in averaged},
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


def most_changed(rows: list[dict], organs: Sequence[str], largest_component: Sequence[str] = ()) -> dict | None:
    """Return the row whose HD95 falls most if only the largest component of its organ is kept.

    Rows of organs in ``largest_component`` are left out: their segmentations have been reduced already. None if no HD95
    falls.
    """
    reduced = {organs[label - 1] for label in organ_labels(largest_component, organs, "largest_component")}
    fallen = [row for row in rows if row["organ"] not in reduced and row["hd95_mm_largest"] < row["hd95_mm_all"]]
    return max(fallen, key=lambda row: row["hd95_mm_all"] - row["hd95_mm_largest"], default=None)


def resolution_ceiling(rows: list[dict], organs: Sequence[str]) -> dict[str, float]:
    """Return the ceiling of the resolution, the mean Dice that the training grid allows for each organ, by its name.

    The mean is over the cases that have the organ; NaN if none has. Arguments are those of :func:`summarise`.
    """
    return dict(zip(organs, organ_means(score_table(rows, CEILING, organs)).tolist(), strict=True))


def score_table(rows: list[dict], name: str, organs: Sequence[str]) -> np.ndarray:
    """Return one score of all rows as an array (cases, organs)."""
    return np.array([row[name] for row in rows]).reshape(-1, len(organs))


def case_means(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Return the mean Dice on the training grid and on the scan's own grid of each case that has an organ."""
    cases: dict[str, list[dict]] = {}
    for row in rows:
        if row["volume_true_ml"] > 0:
            cases.setdefault(row["case"], []).append(row)

    def mean(present: list[dict], name: str) -> float:
        return mean_dice(np.array([[row[name] for row in present]]))

    return {case: (mean(present, "dice"), mean(present, "dice_own_grid")) for case, present in cases.items()}


def read_labels(file: str | Path, label_map: LabelMap | None = None) -> np.ndarray:
    """Return the classes in a NIfTI file as uint8 (X, Y, Z), in the file's axis order; see :func:`to_classes`."""
    volume = np.asarray(load_nifti(file).dataobj)
    return to_classes(volume, label_map).reshape(volume.shape[:3])


def _scores(
    case: Case, prediction: np.ndarray, labels: np.ndarray, truth: np.ndarray, scored: Sequence[int], classes: int
) -> dict[int, dict[str, float]]:
    """Return the ``SCORES`` of some labels of a segmentation, given on the training grid and on the scan's own."""
    affine, label_map = np.asarray(case["image"].meta["original_affine"], dtype=float), case.get("label_map")
    voxel_ml = voxel_volume_mm3(affine) / 1000
    coarse_truth, coarse = clear_ignored(label_map, case["label"].as_tensor()[0], torch.from_numpy(prediction))
    truth, labels = clear_ignored(label_map, truth, labels)
    counts = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(truth), classes)
    dice, dice_own_grid = dice_per_organ(confusion_matrix(coarse, coarse_truth, classes)), dice_per_organ(counts)
    boxes = [find_objects(volume, classes - 1) for volume in (labels, truth)]
    scores = {}
    for label in scored:
        true, predicted = int(counts[label].sum()), int(counts[:, label].sum())
        surface_dice, hd95 = (0.0, np.nan) if true else (np.nan, np.nan)
        if true and predicted:
            sides = zip(*(box[label - 1] for box in boxes), strict=True)
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in sides)  # that holds both
            surface_dice, hd95 = surface_scores(labels[box] == label, truth[box] == label, affine)
        values = (dice[label - 1], dice_own_grid[label - 1], surface_dice, hd95, true * voxel_ml, predicted * voxel_ml)
        scores[label] = dict(zip(SCORES, map(float, values), strict=True))
    return scores


def _ceiling(case: Case, truth: np.ndarray, classes: int, device: torch.device | str) -> np.ndarray:
    """Return the Dice of each organ that the training grid allows, from the ground truth on both grids.

    Ignored voxels have no class on the way, so that an organ beside them loses nothing to background.
    """
    with gpu_memory():
        label = case["label"].as_tensor()[0].to(device)
        perfect = torch.stack([label == number for number in range(classes)]).byte()
        labels, _ = resample_labels(perfect, case["image"])
    truth, labels = clear_ignored(case.get("label_map"), truth, labels)
    return dice_per_organ(confusion_matrix(torch.from_numpy(labels), torch.from_numpy(truth), classes))
