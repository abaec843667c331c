"""Recipe, cases, transforms and batches: what the notebooks need to turn a folder of scans into training steps.

Data walks one way. A JSON file and a folder become a :class:`Dataset` of file names; :func:`prepare_cases` turns each
case, once, into small tensors on the training grid; :func:`training_batch` cuts the crops of one step out of them.
What follows lives beside: ``swinunetr_weights``, ``evaluation``, ``run_folder``, ``pictures``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import monai
import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    SpatialPadd,
)
from tqdm.auto import tqdm

import ct_phantoms
from atomic_files import replacing
from dataset_checks import check_dataset
from evaluation import confusion_matrix, dice_per_organ, evaluate, mean_dice
from swinunetr_weights import LoadReport, build_swinunetr, find_checkpoint, load_pretrained, made_by
from user_errors import InputError

# Other projects import these from here.
__all__ = [
    "LoadReport",
    "build_swinunetr",
    "check_dataset",
    "confusion_matrix",
    "dice_per_organ",
    "evaluate",
    "load_pretrained",
    "mean_dice",
]

# BTCV's headers carry pixdim[0] = 0, which nibabel reports once a file; the value has no bearing on the geometry.
logging.getLogger("nibabel.global").setLevel(logging.ERROR)


# ----------------------------------------------------------------------------------------------------------- recipe


LEAST = {
    "max_steps": 0,  # without training, given weights are evaluated
    "eval_every": 1,
    "crops_per_volume": 1,
    "windows_per_batch": 1,
    "volumes_per_step": 1,
    "seed": 0,
}


@dataclass(frozen=True)
class CommonRecipe:
    """Hold the choices that fine-tuning and pre-training share; the defaults are those of fine-tuning.

    Raises:
        InputError: a value that the network or the training loop can't take, naming the parameter.
    """

    max_steps: int = 30_000
    eval_every: int = 100  # steps between two validations
    learning_rate: float = 1e-4
    schedule: str = "constant"  # or "cosine": from learning_rate down to 0 at max_steps, after a warm-up of 5%
    weight_decay: float = 1e-5
    crops_per_volume: int = 4  # the batch of fine-tuning: one volume a step, this many crops of it
    crop_size: tuple[int, int, int] = (96, 96, 96)  # voxels of the training grid; also the window of inference
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)  # training grid: right, anterior, superior
    hu_window: tuple[float, float] = (-175.0, 250.0)  # mapped to 0..1 and clipped: fat to enhanced vessels
    feature_size: int = 48  # channels after the patch embedding; a checkpoint overrides it
    window_size: int = 7  # tokens along each edge of an attention window; a checkpoint overrides it
    seed: int = 0  # decides initial weights, order of volumes, crops and augmentation

    def __post_init__(self) -> None:
        for name in ("crop_size", "spacing_mm"):  # one number stands for three
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else (value,) * 3)
        for name, least in LEAST.items():
            value = getattr(self, name, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}: expected a whole number of at least {least}, found {value!r}.")
        if not isinstance(self.learning_rate, int | float) or not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate: expected a number between 0 and 1, found {self.learning_rate!r}.")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"schedule: expected 'constant' or 'cosine', found {self.schedule!r}.")
        if self.feature_size < 12 or self.feature_size % 12:
            raise InputError(
                f"feature_size: expected a multiple of 12 (heads: 3, 6, 12, 24), found {self.feature_size}."
            )
        if len(self.spacing_mm) != 3 or not all(isinstance(s, int | float) and 0.1 <= s <= 20 for s in self.spacing_mm):
            raise InputError(f"spacing_mm: expected one or three numbers from 0.1 to 20 mm, found {self.spacing_mm}.")
        crop = self.crop_size
        if len(crop) != 3 or any(not isinstance(c, int) or c < 32 or c % 32 for c in crop) or math.prod(crop) <= 32**3:
            raise InputError(
                f"crop_size: expected one or three multiples of 32 (the network halves each axis five times), above "
                f"32 x 32 x 32 (one voxel at the bottleneck can't be normalised), found {crop}. Try 64 or 96."
            )

    def _require_square(self, turned: str) -> None:
        if self.crop_size[0] != self.crop_size[1]:
            raise InputError(
                f"crop_size: the first two of {self.crop_size} must agree, as {turned} are rotated in that plane."
            )


@dataclass(frozen=True)
class Recipe(CommonRecipe):
    """Hold every choice of a fine-tuning run; the defaults are the published ones (Tang et al., CVPR 2022).

    Raises:
        InputError: a value that the network or the training loop can't take, naming the parameter.
    """

    clip_norm: float | None = None  # a longer gradient, over all weights, is shortened to this; None: none is
    class_balance: float = 0.0  # weight classes in the loss by frequency ** -class_balance; 0: all alike, 0.5: root
    flip_probability: float = 0.1  # on each axis
    rotate_probability: float = 0.1  # by 90, 180 or 270 degrees in the axial plane
    shift_probability: float = 0.5  # add up to +-0.1 to all intensities
    overlap: float = 0.25  # of neighbouring windows in inference
    windows_per_batch: int = 4  # in inference
    test_time_flips: bool = False  # average the final predictions over the eight ways to mirror a scan

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None and not (isinstance(self.clip_norm, int | float) and self.clip_norm > 0):
            raise InputError(f"clip_norm: expected a number above 0, or None, found {self.clip_norm!r}.")
        if self.rotate_probability:
            self._require_square("crops")
        if self.test_time_flips and not self.flip_probability:
            raise InputError(
                "test_time_flips: this recipe does not flip in training (flip_probability 0), so its network would "
                "take the right kidney of a mirrored scan for the left one. Leave it False."
            )


R = TypeVar("R", bound=CommonRecipe)

# Two CPU cores and a few minutes: a coarse grid, a small network, a large step that decays, with short gradients, since
# without (8e-3, three seeds) some runs lost an organ or two in the first steps and did not find them again.
DEMO = Recipe(
    max_steps=360,
    eval_every=120,
    learning_rate=8e-3,
    schedule="cosine",
    clip_norm=1.0,
    class_balance=0.5,
    crops_per_volume=1,
    crop_size=(64, 64, 32),
    spacing_mm=(4.5, 4.5, 4.5),
    flip_probability=0.0,
    rotate_probability=0.0,
    feature_size=12,
    window_size=4,
)


RECIPES = {"published": Recipe(), "demo": DEMO}


def choose_recipe(name: str, recipes: Mapping[str, R] = RECIPES, checkpoint: str = "", **changes) -> R:
    """Return the recipe called ``name`` with ``changes`` applied; a change to None is none.

    Without training (``max_steps`` 0) it is the recipe that ``checkpoint`` was trained with, if the file notes that.

    Raises:
        InputError: no such recipe, a value that it can't take, or no checkpoint where nothing is trained.
    """
    if name not in recipes:
        raise InputError(f"recipe: expected one of {sorted(recipes)}, found {name!r}.")
    recipe = recipes[name]
    if changes.get("max_steps") == 0:
        if not checkpoint:
            raise InputError("max_steps: 0 evaluates given weights; set pretrained_checkpoint to a best_model.pth.")
        recipe = trained_recipe(checkpoint) or recipe
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def trained_recipe(weights: str | Path) -> Recipe | None:
    """Return the recipe of the fine-tuning that made a ``best_model.pth``; None for weights from elsewhere."""
    noted = made_by(find_checkpoint(weights)).get("recipe", {})
    known = {field.name for field in fields(Recipe)}
    return Recipe(**noted) if noted and noted.keys() <= known else None


def learning_rate_at(step: int, recipe: CommonRecipe) -> float:
    """Return the learning rate of step 1..max_steps, as a function of the step alone."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = max(1, recipe.max_steps // 20)
    if step <= warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (recipe.max_steps - warmup)))


# ------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Dataset:
    """Hold the cases of one Decathlon-style JSON as dictionaries of ``name``, ``image`` and, if labelled, ``label``."""

    classes: tuple[str, ...]  # position = label id; 0 is the background
    modality: str
    training: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]  # images without labels; those missing on disk are left out
    test_listed: int = 0  # those missing on disk included

    @property
    def organs(self) -> tuple[str, ...]:
        return self.classes[1:]


def read_dataset(json_path: str | Path, data_root: str | Path) -> Dataset:
    """Read a Decathlon-style JSON and find its files under ``data_root``.

    ``data_root`` may also be BTCV as Synapse packs it: the folder that holds ``RawData``, ``RawData`` itself or
    ``RawData/Training``.

    Raises:
        InputError: the JSON is missing or malformed, or the folder is missing. The files are :func:`check_dataset`'s.
    """
    content, classes = _read_datalist(Path(json_path))
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give the folder that holds imagesTr/ or RawData/.")
    sections = {name: [locate(entry, root) for entry in content.get(name, [])] for name in SECTIONS}
    names = _distinct_names({entry["image"] for entries in sections.values() for entry in entries})
    for entry in (entry for entries in sections.values() for entry in entries):
        entry["name"] = names[entry["image"]]
    listed = len(sections["test"])
    sections["test"] = [entry for entry in sections["test"] if Path(entry["image"]).is_file()]
    return Dataset(classes, next(iter(content.get("modality", {"0": "CT"}).values())), **sections, test_listed=listed)


SECTIONS = ("training", "validation", "test")
# Where Synapse's archive keeps what the JSON calls imagesTr/, labelsTr/ and imagesTs/.
SYNAPSE_FOLDERS = {"imagesTr": "Training/img", "labelsTr": "Training/label", "imagesTs": "Testing/img"}


NOT_A_LIST = "json_path: '{}' is not a Decathlon-style list; see json_files/btcv_6.json for one. "


def read_json(json_path: Path) -> dict:
    """Return the content of a JSON file that holds an object.

    Raises:
        InputError: the file is missing or holds something else.
    """
    if not json_path.is_file():
        raise InputError(f"json_path: no file at '{json_path}'. The project's own lists are in json_files/.")
    try:
        content = json.loads(json_path.read_text())
    except ValueError as error:
        raise InputError(f"json_path: '{json_path}' is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(NOT_A_LIST.format(json_path) + f"Expected an object, found {type(content).__name__}.")
    return content


def _read_datalist(json_path: Path) -> tuple[dict, tuple[str, ...]]:
    """Return the content of a Decathlon-style JSON and its class names in order of their ids."""
    content, form = read_json(json_path), NOT_A_LIST.format(json_path)
    labels = content.get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(len(labels))) or len(labels) < 2:
        raise InputError(form + 'Expected "labels" to map "0" (background), "1", "2", ... to names, without gaps.')
    for name in ("training", "validation"):
        entries = content.get(name)
        if not isinstance(entries, list) or not entries:
            raise InputError(form + f'Expected a list of cases under "{name}". Move some cases there if it has none.')
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("image", "label")):
                raise InputError(form + f'Expected "image" and "label" in each case of "{name}", found {entry!r}.')
    return content, tuple(labels[str(i)] for i in range(len(labels)))


def locate(entry: dict | str, root: Path) -> dict[str, str]:
    """Turn one entry of the JSON into absolute file names and a case name."""
    entry = {"image": entry} if isinstance(entry, str) else entry
    files = {key: str(_first_existing(entry[key], root)) for key in ("image", "label") if key in entry}
    return {"name": case_name(entry["image"]), **files}


def _first_existing(file: str, root: Path) -> Path:
    plain = root / file
    folder, _, rest = file.removeprefix("./").partition("/")
    packed = Path(SYNAPSE_FOLDERS.get(folder, folder)) / rest
    candidates = [plain, root / packed, root / "RawData" / packed, root / packed.relative_to(packed.parts[0])]
    return next((path for path in candidates if path.is_file()), plain)


def case_name(image: str | Path) -> str:
    """Return the file name of an image without its endings: ``imagesTr/img0035.nii.gz`` is case ``img0035``."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _distinct_names(images: set[str]) -> dict[str, str]:
    """Return a case name for each image: that of its file, after as many of its folders as tell all images apart."""
    names = {}
    for depth in range(1, max(len(Path(image).parts) for image in images) + 1):
        names = {image: "_".join((*Path(image).parts[-depth:-1], case_name(image))) for image in images}
        if len(set(names.values())) == len(images):
            break
    return names


def find_volumes(root: Path) -> list[dict[str, str]]:
    """Return every ``.nii`` and ``.nii.gz`` below ``root``, but for folders whose name begins with "label"."""
    files = sorted(file for ending in ("*.nii", "*.nii.gz") for file in root.rglob(ending))
    inner = [file.relative_to(root) for file in files]
    images = [file for file in inner if not any(part.lower().startswith("label") for part in file.parts[:-1])]
    return [{"name": str(file.parent / case_name(file)), "image": str(root / file)} for file in images]


def write_phantoms(json_path: str | Path, root: str | Path) -> Path:
    """Write a synthetic CT for each labelled case that the JSON names, where ``root`` lacks it, and return ``root``.

    Raises:
        InputError: the JSON is not about BTCV's 13 organs, which are all that a phantom has.
    """
    content, classes = _read_datalist(Path(json_path))
    if len(classes) != len(ct_phantoms.ORGAN_VOLUMES_ML) + 1:
        raise InputError(
            f"json_path: '{json_path}' has {len(classes) - 1} organs, the phantoms have BTCV's 13. Set data_root to "
            "the folder of your own data, or take a list from json_files/."
        )
    root = Path(root)
    cases = [entry for name in ("training", "validation") for entry in content[name]]
    missing = [e for e in cases if not ((root / e["image"]).is_file() and (root / e["label"]).is_file())]
    for entry in tqdm(missing, desc="Making CT phantoms", disable=not missing):
        digits = "".join(filter(str.isdigit, case_name(entry["image"])))
        ct_phantoms.write_phantom(int(digits or 0), root / entry["image"], root / entry["label"])
    return root


def run_settings(recipe: CommonRecipe, dataset: Dataset, checkpoint: str, **choices: object) -> dict:
    """Return what decides the result of a run, as plain values, for :class:`run_folder.RunFolder` to compare.

    ``choices`` are those of a notebook that are no part of its recipe.
    """
    split = {name: [case["name"] for case in getattr(dataset, name)] for name in ("training", "validation")}
    return {
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "split": split,
        "classes": dataset.classes,
        "modality": dataset.modality,
        "pretrained_checkpoint": Path(checkpoint).name,
        **choices,
    }


def preprocessing(recipe: CommonRecipe, modality: str, keys: tuple[str, ...] = ("image", "label")) -> Compose:
    """Return the transforms that take files to the training grid: the one definition for training, Dice and export.

    The image becomes float16 in 0..1 and the label uint8, both (1, X, Y, Z) in RAS order with their affine. For CT,
    ``recipe.hu_window`` is mapped to 0..1; for any other ``modality`` the 0.5th to 99.5th percentile is.
    """
    modes = ["bilinear" if key == "image" else "nearest" for key in keys]
    window = intensity_window(recipe, modality)
    to_unit = (
        ScaleIntensityRanged("image", *window, 0.0, 1.0, clip=True)
        if window
        else ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True)
    )
    return Compose(
        [
            LoadImaged(keys, reader="NibabelReader", simple_keys=True),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys, pixdim=recipe.spacing_mm, mode=modes, dtype=np.float32),
            to_unit,
            CropForegroundd(keys, source_key="image"),  # drops the air around the body
            SpatialPadd(keys, spatial_size=recipe.crop_size),  # a scan smaller than a crop is padded, not refused
            CastToTyped(keys, dtype=[torch.float16 if key == "image" else torch.uint8 for key in keys]),
        ]
    )


def intensity_window(recipe: CommonRecipe, modality: str) -> tuple[float, float] | None:
    """Return the Hounsfield units that become 0 and 1; None for other modalities than CT, which have percentiles."""
    return recipe.hu_window if modality.upper().startswith("CT") else None


def prepare_cases(
    entries: list[dict[str, str]],
    recipe: CommonRecipe,
    modality: str,
    description: str = "Preparing cases",
    cache_dir: str | Path | None = None,
    in_memory: bool = True,
) -> list[dict]:
    """Take every entry to the training grid once, in parallel, and return the cases in order.

    A case holds ``name``, the files ``source`` and ``label_source`` (None without labels), ``image`` and, if labelled,
    ``label`` and the places where crops may be centred. An empty ``description`` shows no progress bar.

    ``cache_dir`` keeps cases across runs, under a name made from the files' size and time, the settings and the code
    that prepared them, so that a stale one is never found; None keeps nothing. Without ``in_memory`` voxels are mapped
    from there: the system reads what is used and forgets it where memory is short.

    Raises:
        InputError: a case could not be read or transformed, naming it.
    """

    def prepare(entry: dict[str, str]) -> dict:
        file = Path(cache_dir, _cache_key(entry, recipe, modality) + ".pt") if cache_dir else None
        parts = _read_cache(file, in_memory) if file else None
        if parts is None:
            parts = _prepare(entry, recipe, modality)
            if file:
                _write_cache(parts, file)
                if not in_memory:
                    parts = _read_cache(file, in_memory) or parts
        volumes = {key: MetaTensor(**parts[key]) for key in ("image", "label") if key in parts}
        files = {"source": entry["image"], "label_source": entry.get("label")}
        return parts | volumes | {"name": entry["name"]} | files

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(prepare, entries), total=len(entries), desc=description, disable=not description))


def _prepare(entry: dict[str, str], recipe: CommonRecipe, modality: str) -> dict:
    """Apply the transforms and keep what later work needs, as plain tensors."""
    keys = tuple(key for key in ("image", "label") if key in entry)
    try:
        case = preprocessing(recipe, modality, keys)(entry)
    except Exception as error:
        cause = error.__cause__ or error
        raise InputError(
            f"Case '{entry['name']}' could not be prepared from '{entry['image']}' and '{entry.get('label')}': "
            f"{type(cause).__name__}: {cause}. Replace the file, or take the case out of the JSON."
        ) from error
    parts = {key: {"x": case[key].as_tensor().contiguous(), "affine": case[key].affine} for key in keys}
    parts["image"]["meta"] = {  # where the scan's own voxels lie, for the way back
        "original_affine": torch.as_tensor(case["image"].meta["original_affine"]),
        "spatial_shape": [int(n) for n in case["image"].meta["spatial_shape"]],
    }
    return parts | (_crop_centres(parts["image"]["x"], parts["label"]["x"]) if "label" in parts else {})


MOST_CENTRES = 2**16  # voxels of each kind to choose from; all of a BTCV case would take more memory than the case


def _crop_centres(image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return flat indices (int32) of organ voxels and of other voxels in the body, at most MOST_CENTRES of each."""
    centres = {}
    for name, mask in (("organ_voxels", label > 0), ("other_voxels", (label == 0) & (image > 0))):
        indices = mask.flatten().nonzero()[:, 0].int()
        if len(indices) > MOST_CENTRES:
            chosen = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:MOST_CENTRES]
            indices = indices[chosen.sort().values]
        centres[name] = indices
    return centres


def _cache_key(entry: dict[str, str], recipe: CommonRecipe, modality: str) -> str:
    """Return a name that changes with the files, the settings and the code that prepares them."""
    files = [(key, os.path.realpath(entry[key]), os.stat(entry[key])) for key in ("image", "label") if key in entry]
    stamps = [(key, path, stat.st_size, stat.st_mtime_ns) for key, path, stat in files]
    settings = [recipe.spacing_mm, recipe.hu_window, recipe.crop_size, modality]
    code = [inspect.getsource(function) for function in (preprocessing, _prepare, _crop_centres)]
    versions = [monai.__version__, torch.__version__]
    return hashlib.sha256(json.dumps([stamps, settings, code, versions]).encode()).hexdigest()[:32]


def _read_cache(file: Path, in_memory: bool) -> dict | None:
    """Read a prepared case, or map it from the file; None if there is none, or none that can be read."""
    try:
        return torch.load(file, weights_only=True, mmap=not in_memory)
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return None


def _write_cache(parts: dict, file: Path) -> None:
    """Keep a prepared case; where that fails the run goes on, since the next one can prepare the case again."""
    try:
        with replacing(file) as temporary:
            torch.save(parts, temporary)
    except (OSError, RuntimeError) as error:
        tqdm.write(f"cache_dir: '{file.parent}' can't keep prepared cases ({error}).")


def class_weights(cases: list[dict], classes: int, recipe: Recipe) -> torch.Tensor | None:
    """Return the weight of each class in the loss, float32 with mean 1, from the labels of ``cases``; None: all alike.

    A class that no case holds gets the weight of the rarest one that some case does.
    """
    if not recipe.class_balance:
        return None
    counts = sum(torch.bincount(case["label"].as_tensor().flatten().long(), minlength=classes) for case in cases)
    weights = counts.clamp(min=int(counts[counts > 0].min())).double() ** -recipe.class_balance
    return (weights / weights.mean()).float()


def augmentation(recipe: Recipe) -> Compose:
    """Return the random transforms of training: crops of one case, centred on organ or background 1:1, then varied."""
    keys = ("image", "label")
    return Compose(
        [
            RandCropByPosNegLabeld(
                keys,
                "label",
                recipe.crop_size,
                num_samples=recipe.crops_per_volume,
                fg_indices_key="organ_voxels",  # worked out once a case: searching the volume takes ten times as long
                bg_indices_key="other_voxels",
            ),
            *(RandFlipd(keys, prob=recipe.flip_probability, spatial_axis=axis) for axis in range(3)),
            RandRotate90d(keys, prob=recipe.rotate_probability, max_k=3),
            RandShiftIntensityd("image", offsets=0.1, prob=recipe.shift_probability),
        ]
    )


def next_case(cases: list[dict], seed: int, number: int) -> dict:
    """Return the case that comes as ``number`` (from 1): a new random order each time that all have been seen."""
    epoch, position = divmod(number - 1, len(cases))
    return cases[np.random.default_rng([seed, epoch]).permutation(len(cases))[position]]


def training_batch(cases: list[dict], augment: Compose, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return what step ``step`` (from 1) trains on, as a pure function of ``seed`` and ``step``.

    Images are (B, 1, X, Y, Z) float32, labels the same shape in uint8, and the name is that of the volume.
    """
    case = next_case(cases, seed, step)
    augment.set_random_state(seed=int(np.random.default_rng([seed, step, 1]).integers(2**32)))
    with without_metadata():
        crops = augment(case | {key: case[key].as_tensor() for key in ("image", "label")})
    images, labels = (torch.stack([crop[key] for crop in crops]) for key in ("image", "label"))
    return images.float(), labels, case["name"]


@contextmanager
def without_metadata() -> Iterator[None]:
    """Let MONAI's transforms take plain tensors as such; following affines and histories takes most of their time."""
    tracking = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracking)
