"""Parameters of a notebook: converted, checked together, and made a recipe and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from swinunetr.data.lists import read_dataset, read_unlabelled
from swinunetr.data.source import find_data
from swinunetr.data.spacing import median_spacing_of
from swinunetr.errors import InputError
from swinunetr.fields import Allowed, FilePath, check_settings, convert_parameters, parameters_of, setting
from swinunetr.network.checkpoints import (
    find_checkpoint,
    merging_in,
    network_size,
    require_buildable,
    training_note,
)
from swinunetr.network.merging import MERGING
from swinunetr.recipe import DATA_SPACING, RECIPES, CommonRecipe, PretrainingRecipe, Recipe
from swinunetr.training.settings import require_one_setup


@dataclass(frozen=True)
class Options:
    """Parameters of a notebook that are no settings of its recipe; the subclasses say what each means in theirs.

    Raises:
        InputError: Values cannot be used together; the message names them.
    """

    data_root: FilePath = FilePath("")
    json_path: FilePath = FilePath("")
    pretrained_checkpoint: FilePath = FilePath("")
    merging: str | None = setting(
        None,
        "order of patch merging of weights that note none, legacy or current; empty: legacy",
        Allowed(f"{', '.join(MERGING)} or nothing", lambda merging: merging in (None, *MERGING)),
    )
    logdir: FilePath = FilePath("")
    recipe_name: str = ""
    resume: bool = setting(True, "continue the run that logdir holds; False: refuse such a folder")
    cache_dir: FilePath = FilePath("")
    save_every: float = setting(15, "seconds between two saved states; stretched, up to 60, where saving is slow")

    weights: tuple[Path, ...] = ()  # no parameter: the files that pretrained_checkpoint stands for

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def checkpoint(self) -> Path | None:
        """The file of the weights, the first of several; None means random weights."""
        return self.weights[0] if self.weights else None

    @property
    def ensemble(self) -> tuple[Path, ...]:
        """The files whose predictions are averaged; empty for one network."""
        return self.weights if len(self.weights) > 1 else ()


@dataclass(frozen=True)
class FinetuningOptions(Options):
    """Options of fine-tuning."""

    data_root: FilePath = setting(
        "", "folder of scans and labels, or totalsegmentator_small to download them; empty: synthetic CT"
    )
    json_path: FilePath = setting("", "Decathlon-style list of cases and classes; empty: made of data_root")
    fold: int | None = setting(
        None, "part of the training list to validate on, from 0, in place of the validation list"
    )
    folds: int | None = setting(None, "number of parts; set both or neither")
    pretrained_checkpoint: FilePath = setting(
        "", "path of weights, or ssl_50k to download them; several, with commas, to evaluate"
    )
    pretrained_decoder: bool = setting(True, "False: take the encoder alone from pretrained_checkpoint")
    logdir: FilePath = setting("runs/finetune", "folder for weights, metrics, predictions and TensorBoard events")
    recipe_name: str = setting("", "published, tuned or demo; empty: published with data_root, demo without")
    evaluate_only: bool = setting(
        False, "score pretrained_checkpoint as it is, without training; max_steps 0 means the same"
    )
    other_settings: dict[str, object] = setting(
        None, 'other settings of the recipe, see its table; {"schedule": "cosine"}'
    )
    cache_dir: FilePath = setting(
        "data/cache", "folder that keeps preprocessed cases for the next run; empty: none is kept"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_only and not self.pretrained_decoder:
            raise InputError(
                "pretrained_decoder: expected True with evaluate_only, as a random decoder would be evaluated, found "
                "False."
            )
        if self.evaluate_only and not self.pretrained_checkpoint:
            raise InputError(
                "evaluate_only: expected weights to evaluate; set pretrained_checkpoint to a best_model.pth."
            )


@dataclass(frozen=True)
class PretrainingOptions(Options):
    """Options of pre-training."""

    data_root: FilePath = setting(
        "", "folder of NIfTI volumes, searched with its subfolders; empty: synthetic CT and the demo recipe"
    )
    json_path: FilePath = setting("", "Decathlon-style list of volumes in data_root; empty: all volumes of the folder")
    modality: str = setting("CT", "of the volumes, if no JSON names it; other modalities are scaled by percentiles")
    pretrained_checkpoint: FilePath = setting(
        "", "path of weights to start from, or ssl_50k to download them; empty: random"
    )
    logdir: FilePath = setting("runs/pretrain", "folder for weights, metrics, figures and TensorBoard events")
    recipe_name: str = setting("", "standard or demo; empty: standard with data_root, demo without")
    cache_dir: FilePath = setting(
        "data/cache", "folder that keeps preprocessed volumes and from which they are read in training"
    )


PARAMETERS = parameters_of(FinetuningOptions, Recipe)
PRETRAINING_PARAMETERS = parameters_of(PretrainingOptions, PretrainingRecipe)


def read_parameters(
    values: Mapping[str, object], recipes: Mapping[str, CommonRecipe] = RECIPES
) -> tuple[Options, CommonRecipe]:
    """Return the options and the recipe that the parameters of a notebook stand for.

    Without ``recipe_name`` the recipe is the first one with a ``data_root`` and the demo's without. To evaluate
    (``evaluate_only``, or ``max_steps`` 0) it is the one that the weights were trained with, if they note it.

    A ``spacing_mm`` of "data" becomes the median of the training scans here, from their headers, so that a recipe has
    numbers, which identify the run.

    Args:
        values: Parameters by name, as the notebook or papermill gives them; those that are left out have their
            defaults.
        recipes: The recipes to choose from, ``RECIPES`` or ``PRETRAINING_RECIPES``.

    Raises:
        InputError: Some parameters cannot be converted or used; the message names them.
        CheckpointError: The checkpoint is missing or is not a SwinUNETR's.
    """
    options, changes = _convert(values, recipes)
    options = replace(options, weights=_find_weights(options))
    if changes.get("spacing_mm") == DATA_SPACING:
        changes["spacing_mm"] = _median_spacing(options)
    return options, _recipe(options, changes, recipes)


def _convert(values: Mapping[str, object], recipes: Mapping[str, CommonRecipe]) -> tuple[Options, dict[str, Any]]:
    """Return the options, and the settings of the recipe that are changed."""
    pretraining = any(isinstance(recipe, PretrainingRecipe) for recipe in recipes.values())
    kind = PretrainingOptions if pretraining else FinetuningOptions
    converted = convert_parameters(values, PRETRAINING_PARAMETERS if pretraining else PARAMETERS)
    option_names = {field.name for field in fields(kind)}
    changes = {name: value for name, value in converted.items() if name not in option_names and value is not None}
    chosen = {name: value for name, value in converted.items() if name in option_names}
    if not pretraining and changes.get("max_steps") == 0:
        chosen["evaluate_only"] = True
    return kind(**chosen), changes


def _median_spacing(options: Options) -> tuple[float, float, float]:
    """Return the median spacing of the training scans; with folds that of all parts, so that these have one grid."""
    if not options.data_root:
        raise InputError(
            f'spacing_mm: expected numbers without data_root, found "{DATA_SPACING}", the median spacing of the scans '
            "there. Set data_root, or leave spacing_mm to the recipe."
        )
    if isinstance(options, PretrainingOptions):
        return median_spacing_of(read_unlabelled(options.data_root, options.json_path, options.modality).training)
    if not isinstance(options, FinetuningOptions) or options.evaluate_only:
        raise InputError(
            f'spacing_mm: expected numbers with evaluate_only, found "{DATA_SPACING}". Weights belong to the grid that '
            "they were trained on: leave spacing_mm out where they note it, as a best_model.pth does, or set its "
            "numbers."
        )
    source = find_data(options.data_root, options.json_path, options.logdir)
    dataset = read_dataset(source.json_path, source.root, options.fold, options.folds)
    return median_spacing_of(dataset.training + (dataset.validation if options.folds else []))


def _recipe(options: Options, changes: dict[str, Any], recipes: Mapping[str, CommonRecipe]) -> CommonRecipe:
    """Return the recipe of the options, with the settings that are changed."""
    name = options.recipe_name or (next(iter(recipes)) if options.data_root else "demo")
    _require_known(name, recipes)
    other = {}
    trained = None
    if isinstance(options, FinetuningOptions):
        other = _other_settings(options, recipes)
        changes = changes | other
        if options.evaluate_only:
            changes["max_steps"] = 0
            notes = {file: training_note(file) for file in options.weights}
            trained = require_one_setup(notes, flips=bool(changes.get("test_time_flips")))
    recipe = replace(trained, **changes) if trained else choose_recipe(name, recipes, options.checkpoint, **changes)
    for file in options.weights:
        size = network_size(file)
        if differing := [name for name in size if other.get(name, size[name]) != size[name]]:
            raise InputError(
                f"other_settings: expected the network of pretrained_checkpoint, with {_listed(size, differing)} in "
                f"'{file}', found {_listed(other, differing)}. Leave these out."
            )
    return recipe


def _other_settings(options: FinetuningOptions, recipes: Mapping[str, CommonRecipe]) -> dict[str, object]:
    """Return ``other_settings``, after checking that they are of the recipe and no parameters of their own."""
    other = options.other_settings or {}
    known = {field.name for recipe in recipes.values() for field in fields(recipe)}
    if unknown := other.keys() - known:
        raise InputError(
            f"other_settings: expected settings of the recipe, found {', '.join(sorted(unknown))}. They are "
            f"{', '.join(sorted(known - PARAMETERS.keys()))}."
        )
    if parameters := other.keys() & PARAMETERS.keys():
        raise InputError(
            f"other_settings: {', '.join(sorted(parameters))} are parameters of their own; set them there."
        )
    return dict(other)


def _find_weights(options: Options) -> tuple[Path, ...]:
    """Return the files of ``pretrained_checkpoint``, after checking that a network can be built for each of them.

    Raises:
        InputError: The names are empty, or there are several weights to train from, or of several orders of patch
            merging.
        CheckpointError: A file is missing, cannot be read, or is of another network.
    """
    given, merging = options.pretrained_checkpoint, options.merging
    names = [given] if Path(given).is_file() else [name.strip() for name in given.split(",") if name.strip()]
    if given and not names:
        raise InputError(f"pretrained_checkpoint: expected the name of a file, found {given!r}.")
    if len(names) > 1 and not (isinstance(options, FinetuningOptions) and options.evaluate_only):
        raise InputError(
            f"pretrained_checkpoint: expected one file to train from, found {len(names)}. Several are averaged with "
            "evaluate_only."
        )
    files = tuple(find_checkpoint(name) for name in names)
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


def choose_recipe(
    name: str, recipes: Mapping[str, CommonRecipe] = RECIPES, checkpoint: str | Path | None = None, **changes: Any
) -> CommonRecipe:
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
    size: dict[str, Any] = network_size(checkpoint) if checkpoint else {}
    if size and size["feature_size"] != recipe.feature_size:
        size["learning_rate"] = type(recipe)().learning_rate
    return replace(recipe, **size | changes)


def _require_known(name: str, recipes: Mapping[str, CommonRecipe]) -> None:
    if name not in recipes:
        raise InputError(f"recipe_name: expected one of {sorted(recipes)}, found {name!r}.")
