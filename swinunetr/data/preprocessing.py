"""Preprocessing of cases, from files to tensors on the training grid; the same for training and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from tqdm.auto import tqdm

from swinunetr.data.cache import cache_file, read_cache, write_cache
from swinunetr.data.geometry import load_nifti, voxel_volume_mm3
from swinunetr.data.label_maps import LabelMap, clear_ignored, to_classes
from swinunetr.data.transforms import preprocessing
from swinunetr.errors import InputError
from swinunetr.files import sha256
from swinunetr.hardware import Hardware
from swinunetr.machine import most_workers
from swinunetr.recipe import CommonRecipe
from swinunetr.threads import in_threads

# Raise it with every change of what a case becomes; tests/data/test_preprocessing.py notices one.
PREPROCESSING_VERSION = 1
MOST_CENTRES = 2**16  # crop centres of each kind per case; all of a BTCV case need more memory than the case itself
CENTRES_PER_ORGAN = 2**12  # of the centres that all organs have alike
UNLABELLED_PARTS = ("image",)  # of a cached case
LABELLED_PARTS = ("image", "label", "vanished_ids", "organ_voxels", "other_voxels", "balanced_voxels")
BYTES_PER_VOXEL, BYTES_PER_GRID_VOXEL = 24, 36  # in memory, of the scan and of the training grid, while preprocessing
MAPPING_LIMIT = Path("/proc/sys/vm/max_map_count")
SPARE_MAPPINGS = 10_000  # of Python, its libraries, their buffers and the other volumes of a run


class Case(TypedDict, total=False):
    """A preprocessed case. Without a label it has the first five keys, of which the last two are None.

    The metadata of the image have the scan's own grid: ``original_affine`` (4, 4) and ``spatial_shape``.
    """

    name: str  # as in the list of the cases
    source: str  # path of the image file
    image: MetaTensor  # (1, X, Y, Z) on the training grid, float16 in 0..1, in RAS order with its affine in mm
    label_source: str | None  # path of the label file
    label_map: LabelMap | None  # how ids of the label file become classes; None if they are the classes
    label: MetaTensor  # classes (1, X, Y, Z) on the same grid, uint8; IGNORED where a voxel does not count
    vanished_ids: list[int]  # classes of the label file that have no voxel left on the training grid
    organ_voxels: torch.Tensor  # flat indices (N), int32, of possible crop centres in organs; see crop_centres
    other_voxels: torch.Tensor  # the same of the other voxels of the body
    balanced_voxels: torch.Tensor  # the same in organs, as many of each organ


def prepare_cases(
    entries: list[dict[str, Any]],
    recipe: CommonRecipe,
    modality: str,
    description: str = "Preprocessing cases",
    cache_dir: str | Path | None = None,
    in_memory: bool = True,
    hardware: Hardware | None = None,
    content_of: Callable[[dict], str] | None = None,
) -> list[Case]:
    """Preprocess all cases in parallel and return them in the same order.

    A warning names the cases that have lost classes on the training grid, their ``vanished_ids``.

    Args:
        entries: Cases as in a :class:`lists.Dataset`.
        recipe: Recipe with ``spacing_mm``, ``hu_window`` and ``crop_size``.
        modality: Modality of the images, by which their intensities are scaled.
        description: Title of the progress bar; empty means no progress bar.
        cache_dir: Folder that stores preprocessed cases for later runs. A case is preprocessed again if the content of
            its files, the settings or ``PREPROCESSING_VERSION`` changed. None or empty means no cache.
        in_memory: Whether to load cases from the cache into memory. Otherwise they are mapped from their files, and
            the operating system reads the parts that are used. Has no effect without ``cache_dir``.
        hardware: Ranks that prepare the same cases. With several and a ``cache_dir``, each preprocesses its share, and
            all map the cache, so that the machine holds one copy. None means one rank.
        content_of: Function that returns the hash of a case's content, by which the cache knows it, wherever its files
            are: ``content_of`` of the :class:`checks.DatasetReport`. None reads and hashes the files.

    Raises:
        InputError: A case, which the message names, cannot be read or preprocessed or has changed since it was checked,
            or there are more cases than files that the system can map.
    """
    shared = hardware is not None and hardware.ranks > 1 and all(hardware.gather([bool(cache_dir)]))
    in_memory = in_memory and not shared
    if cache_dir and not in_memory:
        _require_mappings(len(entries))

    def load_or_preprocess(entry: dict[str, Any]) -> Case:
        file = _cache_file(entry, recipe, modality, cache_dir, content_of) if cache_dir else None
        keys = LABELLED_PARTS if "label" in entry else UNLABELLED_PARTS
        parts = read_cache(file, keys, in_memory) if file else None
        if parts is None:
            parts = _preprocess(entry, recipe, modality)
            if file:
                write_cache(parts, file)
                if not in_memory:
                    parts = read_cache(file, keys, in_memory) or parts
        volumes = {key: MetaTensor(**parts[key]) for key in ("image", "label") if key in parts}
        files = {"source": entry["image"], "label_source": entry.get("label"), "label_map": entry.get("label_map")}
        case: Any = {"name": entry["name"], **files, **parts, **volumes}
        return case

    threads = most_workers(max((_bytes_to_preprocess(entry["image"], recipe) for entry in entries), default=0))
    if hardware and shared:
        title = f"{description}, a share" if description else ""
        with hardware.failing_together():
            in_threads(load_or_preprocess, hardware.share(entries), title, threads)
    cases = in_threads(load_or_preprocess, entries, description, threads)
    if vanished := _vanished(cases, recipe.spacing_mm):
        tqdm.write("\n".join(vanished))
    return cases


def _bytes_to_preprocess(file: str, recipe: CommonRecipe) -> float:
    """Return about how much main memory the preprocessing of a case takes; 0 if its file cannot be read."""
    try:
        scan = load_nifti(file)
    except Exception:  # damaged files raise many types of error; preprocessing the case names it
        return 0.0
    voxels = float(np.prod(scan.shape[:3]))
    on_grid = voxels * voxel_volume_mm3(scan.affine) / float(np.prod(recipe.spacing_mm))
    return BYTES_PER_VOXEL * voxels + BYTES_PER_GRID_VOXEL * on_grid


def _require_mappings(volumes: int) -> None:
    """Raise an error if the system cannot map as many files: one per volume, and ``SPARE_MAPPINGS`` for all else."""
    try:
        most = int(MAPPING_LIMIT.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # other systems than Linux
        return
    needed = volumes + SPARE_MAPPINGS
    if needed > most:
        raise InputError(
            f"cache_dir: {volumes} volumes are read from memory-mapped files, which needs vm.max_map_count of at least "
            f"{needed}; found {most}. Raise it (sudo sysctl vm.max_map_count={needed}) or take fewer volumes."
        )


def require_organs(cases: Sequence[Case], spacing_mm: Sequence[float], name: str) -> None:
    """Raise an error if no case of a list, whose ``name`` is such as "validation", has an organ on the training grid.

    Raises:
        InputError: Some cases have a label, and no label has a voxel of an organ.
    """
    labelled = [case for case in cases if "balanced_voxels" in case]
    if labelled and not any(len(case["balanced_voxels"]) for case in labelled):
        raise InputError(
            f"spacing_mm: no organ of the {len(labelled)} {name} cases has a voxel left on the training grid of "
            f"{' x '.join(f'{mm:g}' for mm in spacing_mm)} mm, so nothing could be learned from them or scored on "
            "them. Choose a finer spacing_mm, or cases with larger organs."
        )


def _vanished(cases: list[Case], spacing_mm: Sequence[float]) -> list[str]:
    """Return at most six lines of warnings on label ids that the training grid has lost."""
    grid = " x ".join(f"{mm:g}" for mm in spacing_mm)
    problem = f"has no voxel left on the training grid of {grid} mm; a finer spacing_mm keeps it"
    lost = {case["name"]: ", ".join(map(str, case["vanished_ids"])) for case in cases if case.get("vanished_ids")}
    lines = [f"warning: {name}: label {ids} {problem}" for name, ids in lost.items()]
    return lines if len(lines) <= 6 else [*lines[:5], f"warning: the same in {len(lines) - 5} more cases"]


def _preprocess(entry: dict[str, Any], recipe: CommonRecipe, modality: str) -> dict:
    """Return the parts of a case that the cache can store: plain tensors, numbers and lists."""
    keys = tuple(key for key in ("image", "label") if key in entry)
    label_map = entry.get("label_map")
    transforms = preprocessing(recipe, modality, keys)
    try:
        case = transforms({key: entry[key] for key in keys}, end=1)  # as loaded from the files
        if "label" in case:
            case["label"].copy_(torch.from_numpy(to_classes(case["label"].numpy(), label_map)))
        ids = _label_ids(*clear_ignored(label_map, case["label"].as_tensor())) if "label" in case else []
        case = transforms(case, start=1)
    except Exception as error:
        cause = _reading_error([entry[key] for key in keys]) or error.__cause__ or error
        reason = " ".join(str(cause).split())[:300]  # MONAI's messages can have many lines
        raise InputError(
            f"Case '{entry['name']}' could not be preprocessed from '{entry['image']}' and '{entry.get('label')}': "
            f"{type(cause).__name__}: {reason}. Replace the file, or remove the case from the JSON."
        ) from error
    _require_contrast(case["image"], entry)
    parts = {key: {"x": case[key].as_tensor().contiguous(), "affine": case[key].affine} for key in keys}
    parts["image"]["meta"] = {  # the scan's own grid, to which a segmentation is resampled
        "original_affine": torch.as_tensor(case["image"].meta["original_affine"]),
        "spatial_shape": [int(n) for n in case["image"].meta["spatial_shape"]],
    }
    if "label" not in parts:
        return parts
    (cleared,) = clear_ignored(label_map, parts["label"]["x"])
    kept = _label_ids(cleared)
    vanished = {"vanished_ids": [label for label in ids if label not in kept]}
    return parts | vanished | crop_centres(parts["image"]["x"], cleared, parts["label"]["x"] == 0)


def _reading_error(files: Sequence[str]) -> Exception | None:
    """Return the first error of nibabel, in place of which MONAI asks to install other readers; None without one."""
    for file in files:
        try:
            load_nifti(file)
        except Exception as error:  # damaged files raise many types of error
            return error
    return None


def _require_contrast(image: torch.Tensor, entry: dict[str, Any]) -> None:
    """Raise an error if an image was not scaled to 0..1: MONAI leaves it as it is where both percentiles are equal."""
    low, high = image.min().item(), image.max().item()
    if not 0 <= low < high <= 1:
        raise InputError(
            f"Case '{entry['name']}': expected intensities that can be scaled to 0..1 in '{entry['image']}', found no "
            "contrast: nearly all voxels have one value, or values too large for float32. Crop the scan to what was "
            "measured, convert it again, or remove the case."
        )


def _label_ids(label: torch.Tensor) -> list[int]:
    """Return the ids that a label map contains, in order."""
    return torch.bincount(label.flatten().to(torch.uint8)).nonzero()[:, 0].tolist()


def _cache_file(
    entry: dict, recipe: CommonRecipe, modality: str, cache_dir: str | Path, content_of: Callable[[dict], str] | None
) -> Path | None:
    settings = [recipe.spacing_mm, recipe.hu_window, recipe.crop_size, modality, MOST_CENTRES, CENTRES_PER_ORGAN]
    paths = [entry[key] for key in ("image", "label") if key in entry]
    try:
        content = content_of(entry) if content_of else [sha256(path) for path in paths]
        dtypes = [load_nifti(path).get_data_dtype().str for path in paths]  # equal bytes can stand for other numbers
    except (OSError, nib.filebasedimages.ImageFileError):  # missing or unreadable; preprocessing it names it
        return None
    if "label_map" in entry:
        settings.append(entry["label_map"].content)
    return cache_file(cache_dir, [PREPROCESSING_VERSION, content, dtypes, settings])


def crop_centres(image: torch.Tensor, label: torch.Tensor, background: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return flat indices (int32) of possible crop centres, by name.

    ``organ_voxels`` and ``other_voxels`` in the body are at most ``MOST_CENTRES`` each. ``balanced_voxels`` has
    ``CENTRES_PER_ORGAN`` of each organ that is there, evenly spaced, those of a smaller organ several times. Where no
    other voxel counts, the crops of both kinds are centred on organs; where no organ is left either, anywhere in the
    body.

    All three are (1, X, Y, Z): the preprocessed image, its label with 0 where a voxel does not count, and where the
    label is background and counts (bool).
    """
    organs, body = label > 0, image > 0
    others = next((mask for mask in (background & body, organs) if mask.any()), body)
    indices = {name: mask.flatten().nonzero()[:, 0].int() for name, mask in (("organ", organs), ("other", others))}
    ids, places = label.flatten()[indices["organ"]], torch.linspace(0, 1, CENTRES_PER_ORGAN, dtype=torch.float64)
    by_organ = [indices["organ"][ids == number] for number in ids.unique()]
    balanced = [organ[(places * (len(organ) - 1)).round().long()] for organ in by_organ]
    centres = {"balanced_voxels": torch.cat(balanced or [indices["organ"]])}
    for name, every in indices.items():
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:MOST_CENTRES].sort().values
        centres[f"{name}_voxels"] = every[chosen]
    return centres
