"""What identifies a run: its settings, and the notes of the trainings that made its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from swinunetr.data.lists import Dataset, organ_labels
from swinunetr.data.transforms import intensity_window
from swinunetr.errors import InputError
from swinunetr.files import as_json, sha256
from swinunetr.network.checkpoints import (
    find_checkpoint,
    match_classes,
    merging_in,
    require_classes,
    training_note,
)
from swinunetr.recipe import CommonRecipe, PretrainingRecipe, Recipe
from swinunetr.words import short

# Settings that only affect inference, so that they may change between two runs of one folder.
INFERENCE_ONLY = {"test_time_flips", "windows_per_batch", "largest_component"}
MOST_CASES = 500  # whose hashes are noted one by one; of more there is one hash
MOST_LINES = 8  # of differences in a message


def trained_recipe(weights: str | Path) -> Recipe | None:
    """Return the recipe of the fine-tuning that made a ``best_model.pth``; None for weights without such a note.

    Raises:
        InputError: The note has settings that this version does not know.
    """
    return _noted_recipe(training_note(find_checkpoint(weights)), weights)


def _noted_recipe(note: Mapping, weights: str | Path) -> Recipe | None:
    noted = note.get("recipe", {})
    if unknown := noted.keys() - {field.name for field in fields(Recipe)}:
        raise InputError(
            f"'{weights}' was trained with settings that this version of the project does not know: "
            f"{', '.join(sorted(unknown))}. Use the version that trained it."
        )
    return Recipe(**noted) if noted else None


def noted_training(weights: str | Path) -> tuple[dict, Recipe]:
    """Return the note of the fine-tuning that made a ``best_model.pth``, and its recipe.

    Raises:
        InputError: The file has no such note, or it has settings that this version does not know.
    """
    note = training_note(find_checkpoint(weights))
    recipe = _noted_recipe(note, weights)
    if recipe is None:
        raise InputError(
            f"'{weights}' has no note of how it was trained. Expected the best_model.pth of a fine-tuning run. For "
            "other weights, run swinunetr_finetune.ipynb with evaluate_only, a JSON and the recipe that they need."
        )
    return note, recipe


def require_one_setup(notes: Mapping[Path, Mapping], flips: bool = False) -> Recipe | None:
    """Check that predictions of several weights can be averaged; return the recipe of the first that notes one.

    Weights without a note of their training cannot be compared and are left out; None means that none has a note. The
    order of the classes may differ, and so may the name of a modality whose intensities are scaled in the same way.

    Args:
        notes: Note of the training of one or more checkpoints, by file; see :func:`checkpoints.training_note`.
        flips: Whether predictions are averaged over axis flips, too.

    Raises:
        InputError: The weights were trained on other grids, intensities, crops, classes or modalities, as networks of
            another size or, with ``flips``, with other flips; or a note has settings that this version does not know.
    """
    # What must be alike, of each file with a note.
    alike = ["spacing_mm", "hu_window", "crop_size", "feature_size", "window_size"]
    if flips:
        alike.append("flip_axes")
    setups = []
    for file, note in notes.items():
        if recipe := _noted_recipe(note, file):
            try:
                recipe = replace(recipe, test_time_flips=flips)  # refuses flips where the training had none
            except InputError as error:
                raise InputError(f"'{file}': {error}") from None
            setup = {name: getattr(recipe, name) for name in alike}
            # CT has a window in HU; others are scaled alike, by percentiles.
            setup["modality"] = intensity_window(recipe, note.get("modality", "CT")) is None
            setups.append((file, recipe, setup, note.get("classes", ())))
    if not setups:
        return None

    # The others against the first.
    first, recipe, expected, classes = setups[0]
    for file, _, setup, others in setups[1:]:
        differing = [name for name in expected if setup[name] != expected[name]]
        rows = match_classes(others, classes)
        if rows.dropped or rows.left_random:
            differing.append("classes")
        if differing:
            raise InputError(
                f"'{file}' was trained with other settings than '{first}' ({', '.join(differing)}). "
                "Expected weights of one network, one grid and the same classes, as of several seeds or folds. Use "
                "them one by one."
            )
    return recipe


def run_settings(
    recipe: CommonRecipe,
    dataset: Dataset,
    checkpoint: str | Path | None,
    fingerprint: Mapping[str, str] | None = None,
    ensemble: Sequence[Path] = (),
    merging: str | None = None,
    **choices: object,
) -> dict:
    """Return the values that decide the result of a run, for :class:`run_folder.RunFolder` to compare and to note.

    Args:
        recipe: Recipe of the run.
        dataset: Its cases.
        checkpoint: File of its pretrained weights, which count by their content; None or empty for random weights.
        fingerprint: Hash of each case's content, from :class:`checks.DatasetReport`; None leaves it out.
        ensemble: Files whose predictions are averaged, which count by their content; empty for one network.
        merging: Order of patch merging of weights that note none; None means legacy. It is left out where it is what
            the weights have anyway, so that such runs are the same.
        choices: Further values that decide the result.

    Raises:
        InputError: ``recipe.largest_component`` names an organ that the data set lacks; or the weights are to be
            evaluated without training (``evaluate_only`` in ``choices``), and intensities of their modality are scaled
            in another way than those of the data set.
        CheckpointError: The weights are to be evaluated without training, and their classes are not those of the data
            set.
    """
    organ_labels(getattr(recipe, "largest_component", ()), dataset.organs, "largest_component")

    # The weights.
    files = ensemble or ([find_checkpoint(checkpoint)] if checkpoint else [])
    if choices.get("evaluate_only"):
        for file in files:
            _require_evaluable(file, recipe, dataset)
    orders = {merging_in(file) for file in files} or {"current"}  # of random weights
    if merging and orders != {merging}:
        choices["merging"] = merging
    hashes = [sha256(file) for file in files]
    if ensemble:
        choices["ensemble_sha256"] = hashes

    # The data.
    split = {name: [case["name"] for case in getattr(dataset, name)] for name in ("training", "validation")}
    data = {name: fingerprint[name] for names in split.values() for name in names} if fingerprint else {}
    if len(data) > MOST_CASES:
        data = {f"{len(data)} cases": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}
    return {
        "kind": recipe.kind,
        "recipe": asdict(recipe),
        "split": split,
        "data": data,
        "classes": dataset.classes,
        "modality": dataset.modality,
        "pretrained_checkpoint": Path(checkpoint).name if checkpoint else "",
        "pretrained_sha256": hashes[0] if hashes else "",
        **choices,
    }


def _require_evaluable(weights: Path, recipe: CommonRecipe, dataset: Dataset) -> None:
    """Check that weights were trained for the classes and the intensities of a data set."""
    require_classes(weights, dataset.classes)
    modality = training_note(weights).get("modality", dataset.modality)
    if intensity_window(recipe, modality) != intensity_window(recipe, dataset.modality):
        raise InputError(
            f"pretrained_checkpoint: '{weights}' was trained on {modality}, and the data set is of modality "
            f"{dataset.modality}. Use weights of the same modality, or correct the modality in the JSON."
        )


def identity(settings: dict) -> dict:
    """Return settings without those that may change between two runs of one folder.

    These are what only affects inference, the name of the checkpoint's file, whose content counts, and ``max_steps``
    where neither the learning rate nor the average of the weights depends on it. Settings that an earlier version did
    not have are at their defaults, which mean what that version did; the seed, which it noted twice, is in the recipe.
    """
    recipe = settings.get("recipe", {})
    kind = settings.get("kind") or (PretrainingRecipe.kind if "tasks" in recipe else Recipe.kind)
    kept = {key: value for key, value in settings.items() if key not in ("pretrained_checkpoint", "seed")}
    if recipe and kind == Recipe.kind:
        recipe = as_json(asdict(Recipe())) | recipe
    free = INFERENCE_ONLY | ({"max_steps"} if _any_length(recipe) else set())
    return kept | {"kind": kind, "recipe": {key: value for key, value in recipe.items() if key not in free}}


def _any_length(recipe: Mapping) -> bool:
    """Return whether a step of a run does not depend on how many there are in all."""
    return recipe.get("schedule") == "constant" and not recipe.get("averaged_share")


def differences(before: dict, now: dict, where: tuple[str, str] = ("in the folder", "now")) -> list[str]:
    """Return a line for each setting that differs, at most nine in all; ``where`` says of what each of the two is."""
    lines = []
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = differences(old, new, where)
            names = [line.split(":")[0].strip() for line in inner[:3]]
            lines += inner if len(inner) <= 3 else [f"  {key}: several differ ({', '.join(names)}, ...)"]
        elif old != new:
            lines.append(f"  {key}: {short(old, 60)} {where[0]}, {short(new, 60)} {where[1]}")
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"  ... and {len(lines) - MOST_LINES} more"]
    return lines
