"""From the parameters of a notebook to a recipe and options, and the settings that identify a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from swinunetr.data.lists import Dataset, organ_labels
from swinunetr.data.transforms import intensity_window
from swinunetr.errors import InputError
from swinunetr.files import sha256
from swinunetr.network.checkpoints import (
    find_checkpoint,
    match_classes,
    merging_in,
    network_size,
    require_buildable,
    require_classes,
    training_note,
)
from swinunetr.network.swinunetr import MERGING
from swinunetr.parameters import convert_parameters
from swinunetr.recipe import RECIPES, CommonRecipe, Recipe

R = TypeVar("R", bound=CommonRecipe)

# Settings that only affect inference, so that they may change between two runs of one folder.
INFERENCE_ONLY = {"test_time_flips", "windows_per_batch", "largest_component"}
MOST_CASES = 500  # whose hashes are noted one by one; of more there is one hash
MOST_LINES = 8  # of differences in a message


@dataclass(frozen=True)
class Options:
    """Parameters of a run that are not part of its recipe."""

    data_root: str  # empty means phantoms
    json_path: str
    checkpoint: Path | None  # file of pretrained_checkpoint, the first of several; None means random weights
    logdir: str
    resume: bool
    cache_dir: str  # empty means no cache
    save_every: float  # seconds
    pretrained_decoder: bool = True
    evaluate_only: bool = False
    modality: str = "CT"
    fold: int | None = None  # part of the training list to validate on, from 0; None: the JSON's validation list
    folds: int | None = None  # number of parts
    ensemble: tuple[Path, ...] = ()  # files of pretrained_checkpoint, if they are several
    merging: str | None = None  # order of patch merging, of weights that note none; None means legacy


def read_parameters(recipes: Mapping[str, R] = RECIPES, **given: object) -> tuple[Options, R]:
    """Return the options and the recipe that the parameters of a notebook stand for.

    Without ``recipe_name`` the recipe is the published one with a ``data_root`` and the demo's without. To evaluate
    (``evaluate_only``, or ``max_steps`` 0) it is the one that the weights were trained with, if they note it.

    Args:
        recipes: The recipes to choose from.
        given: Parameters by name, as the notebook or papermill gives them; see :mod:`swinunetr.parameters`.

    Raises:
        InputError: Some parameters cannot be converted or used; the message names them.
        CheckpointError: The checkpoint is missing or is not a SwinUNETR's.
    """
    values = convert_parameters(given)
    name = values.pop("recipe_name") or ("published" if values["data_root"] else "demo")
    file = values.pop("pretrained_checkpoint")
    other = _other_settings(values.pop("other_settings", {}), values, recipes)
    options = {field.name: values.pop(field.name) for field in fields(Options) if field.name in values}
    if "evaluate_only" in options:
        options["evaluate_only"] |= values["max_steps"] == 0
    if options.get("evaluate_only") and not options["pretrained_decoder"]:
        raise InputError(
            "pretrained_decoder: expected True with evaluate_only, as a random decoder would be evaluated, found False."
        )
    files = _find_weights(file, options.get("merging"), options.get("evaluate_only", False))
    if options.get("evaluate_only") and not files:
        raise InputError("evaluate_only: expected weights to evaluate; set pretrained_checkpoint to a best_model.pth.")
    checkpoint = files[0] if files else None
    changes = {key: value for key, value in values.items() if value is not None} | other
    _require_known(name, recipes)
    trained = None
    if options.get("evaluate_only"):
        changes["max_steps"] = 0
        notes = {file: training_note(file) for file in files}
        trained = require_one_setup(notes, flips=bool(changes.get("test_time_flips")))
    recipe = replace(trained, **changes) if trained else choose_recipe(name, recipes, checkpoint, **changes)
    for file in files:
        size = network_size(file)
        if wrong := [name for name in size if other.get(name, size[name]) != size[name]]:
            raise InputError(
                f"other_settings: expected the network of pretrained_checkpoint, with {_listed(size, wrong)} in "
                f"'{file}', found {_listed(other, wrong)}. Leave these out."
            )
    return Options(checkpoint=checkpoint, ensemble=files if len(files) > 1 else (), **options), recipe


def _find_weights(names: str, merging: str | None, evaluate_only: bool) -> tuple[Path, ...]:
    """Return the files of ``pretrained_checkpoint``, after checking that a network can be built for each of them.

    Args:
        names: One name or path, or several with commas between them.
        merging: Order of patch merging of weights that note none; None means legacy.
        evaluate_only: Whether there may be several.

    Raises:
        InputError: There is no such order of patch merging, the names are empty, or there are several weights to train
            from, or of several orders.
        CheckpointError: A file is missing, cannot be read, or is of another network.
    """
    if merging not in (None, *MERGING):
        raise InputError(f"merging: expected {', '.join(MERGING)} or nothing, found {merging!r}.")
    several = [part.strip() for part in names.split(",") if part.strip()] if not Path(names).is_file() else [names]
    if names and not several:
        raise InputError(f"pretrained_checkpoint: expected the name of a file, found {names!r}.")
    if len(several) > 1 and not evaluate_only:
        raise InputError(
            f"pretrained_checkpoint: expected one file to train from, found {len(several)}. Several are averaged with "
            "evaluate_only."
        )
    files = tuple(find_checkpoint(name) for name in several)
    for file in files:
        require_buildable(file, merging)
    orders = {file: merging_in(file, merging) for file in files}
    if len(set(orders.values())) > 1:
        raise InputError(
            "pretrained_checkpoint: expected weights of one order of patch merging, found "
            f"{', '.join(f'{order} in {file.name!r}' for file, order in orders.items())}. Weights that note none count "
            'as legacy; if they were trained with MONAI 1.5 or later, set merging to "current".'
        )
    return files


def _listed(values: Mapping[str, object], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names)


def _other_settings(other: Mapping[str, object], given: Mapping[str, object], recipes: Mapping[str, R]) -> dict:
    """Return the settings in ``other_settings``, after checking that they are of the recipe and not given twice."""
    known = {field.name for recipe in recipes.values() for field in fields(recipe)}
    if unknown := other.keys() - known:
        raise InputError(
            f"other_settings: expected settings of the recipe, found {', '.join(sorted(unknown))}. They are "
            f"{', '.join(sorted(known - given.keys()))}."
        )
    if parameters := other.keys() & given.keys():
        raise InputError(
            f"other_settings: {', '.join(sorted(parameters))} are parameters of their own; set them there."
        )
    return dict(other)


def choose_recipe(
    name: str, recipes: Mapping[str, R] = RECIPES, checkpoint: str | Path | None = None, **changes: object
) -> R:
    """Return a recipe with some values changed, for the network of a checkpoint.

    Where that network has another size than the recipe's, the learning rate is the published one: the demo's is for its
    small network.

    Args:
        name: One of ``recipes``.
        recipes: The recipes to choose from.
        checkpoint: Weights that the run starts from; None or empty for random ones.
        changes: Fields of the recipe by name.

    Raises:
        InputError: There is no such recipe, or it cannot take a value.
        CheckpointError: The checkpoint is missing or is not a SwinUNETR's.
    """
    _require_known(name, recipes)
    recipe = recipes[name]
    size = network_size(checkpoint) if checkpoint else {}
    if size and size["feature_size"] != recipe.feature_size:
        size["learning_rate"] = type(recipe)().learning_rate
    return replace(recipe, **size | changes)


def _require_known(name: str, recipes: Mapping[str, R]) -> None:
    if name not in recipes:
        raise InputError(f"recipe_name: expected one of {sorted(recipes)}, found {name!r}.")


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
    alike = ("spacing_mm", "hu_window", "crop_size", "feature_size", "window_size") + ("flip_axes",) * flips
    setups = []
    for file, note in notes.items():
        if recipe := _noted_recipe(note, file):
            try:
                recipe = replace(recipe, test_time_flips=flips)  # refuses flips where the training had none
            except InputError as error:
                raise InputError(f"'{file}': {error}") from None
            setup = {name: getattr(recipe, name) for name in alike}
            setup["modality"] = intensity_window(recipe, note.get("modality", "CT")) is None
            setups.append((file, recipe, setup, note.get("classes", ())))
    if not setups:
        return None
    first, recipe, expected, classes = setups[0]
    for file, _, setup, others in setups[1:]:
        differing = [name for name in expected if setup[name] != expected[name]]
        rows = match_classes(others, classes)
        if differing := differing + ["classes"] * bool(rows.dropped or rows.left_random):
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
        fingerprint: Hash of each case's content, from :class:`swinunetr.data.checks.DatasetReport`; None leaves it out.
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
    files = ensemble or ([find_checkpoint(checkpoint)] if checkpoint else [])
    if choices.get("evaluate_only"):
        for file in files:
            require_classes(file, dataset.classes)
            noted = training_note(file).get("modality", dataset.modality)
            if intensity_window(recipe, noted) != intensity_window(recipe, dataset.modality):
                raise InputError(
                    f"pretrained_checkpoint: '{file}' was trained on {noted}, and the data set is of modality "
                    f"{dataset.modality}. Use weights of the same modality, or correct the modality in the JSON."
                )
    orders = {merging_in(file) for file in files} or {"current"}  # of random weights
    if merging and orders != {merging}:
        choices["merging"] = merging
    hashes = [sha256(file) for file in files]
    if ensemble:
        choices["ensemble_sha256"] = hashes
    split = {name: [case["name"] for case in getattr(dataset, name)] for name in ("training", "validation")}
    data = {name: fingerprint[name] for names in split.values() for name in names} if fingerprint else {}
    if len(data) > MOST_CASES:
        data = {f"{len(data)} cases": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}
    return {
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "split": split,
        "data": data,
        "classes": dataset.classes,
        "modality": dataset.modality,
        "pretrained_checkpoint": Path(checkpoint).name if checkpoint else "",
        "pretrained_sha256": hashes[0] if hashes else "",
        **choices,
    }


def identity(settings: dict) -> dict:
    """Return settings without those that may change between two runs of one folder.

    These are what only affects inference, the name of the checkpoint's file, whose content counts, and ``max_steps``
    where neither the learning rate nor the average of the weights depends on it. Settings that an earlier version did
    not have are at their defaults, which mean what that version did.
    """
    recipe = settings.get("recipe", {})
    if recipe and "tasks" not in recipe:  # of fine-tuning
        recipe = json.loads(json.dumps(asdict(Recipe()))) | recipe
    free = INFERENCE_ONLY | ({"max_steps"} if _any_length(recipe) else set())
    kept = {key: value for key, value in settings.items() if key != "pretrained_checkpoint"}
    return kept | {"recipe": {key: value for key, value in recipe.items() if key not in free}}


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
            lines.append(f"  {key}: {_short(old)} {where[0]}, {_short(new)} {where[1]}")
    lines = list(dict.fromkeys(lines))  # the seed is stored twice: by itself and in the recipe
    return lines[:MOST_LINES] + [f"  ... and {len(lines) - MOST_LINES} more"] * (len(lines) > MOST_LINES)


def _short(value: object) -> str:
    return str(value) if len(str(value)) <= 60 else str(value)[:57] + "..."
