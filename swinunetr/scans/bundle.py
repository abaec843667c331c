"""A MONAI bundle of a trained model: a folder that plain MONAI runs without this project.

Source: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import SwinUNETR
from torch.export import Dim

from swinunetr.data import nifti_reader
from swinunetr.data.organs import save_label_names
from swinunetr.data.transforms import case_transforms, describe_scaling, intensity_window
from swinunetr.errors import InputError
from swinunetr.network import merging
from swinunetr.network.checkpoints import build_swinunetr, find_checkpoint, load_pretrained, save_weights, traits_of
from swinunetr.network.merging import merging_of
from swinunetr.recipe import Recipe
from swinunetr.results import resampling
from swinunetr.results.inference import evaluating, sliding_window
from swinunetr.training.settings import noted_training

LICENSE = Path(__file__).parents[2] / "LICENSE"
TEMPLATES = Path(__file__).parent / "bundle_templates"
PLACE = re.compile(r"\{(\w+)\}")  # of a value in a template, by its name
# Modules that import nothing of this project, by their names in a bundle. inference.json loads classes from them by
# their paths, since programs that run bundles do not always have the bundle's folder on Python's path.
SCRIPTS = {"nifti_reader.py": nifti_reader, "resampling.py": resampling}
LEGACY_SCRIPT = {"legacy_patch_merging.py": merging}  # only for networks with the older order of merging
KEPT_NOTES = ("recipe", "classes", "modality")  # in model.pt; without the names of cases, which may be private
RUNNERS = {"pytorch-ignite": "0.4.11", "fire": "0.5.0"}  # what `monai.bundle run` needs and this project does not


def write_bundle(weights: str | Path, folder: str | Path) -> Path:
    """Write a MONAI bundle of a trained model, completely or not at all, and return its folder.

    The bundle segments as ``segment.py`` does without its options, in float32.

    Args:
        weights: ``best_model.pth`` of a fine-tuning run, which stores recipe, classes and modality.
        folder: Folder to make. It may exist if it is empty.

    Raises:
        InputError: The weights are missing or do not store their training, or the folder is in use or cannot be
            written.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"'{folder}' exists. Delete it or choose another folder; nothing was overwritten.")
    model, note, recipe = _trained_model(weights)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
            new = Path(temporary, folder.name)
            _write_files(new, model, note, recipe)
            os.replace(new, folder)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises its own on a full disk
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"'{folder}' could not be written ({cause.strerror or cause}). Nothing was left there. Free disk space or "
            "choose another folder."
        ) from error
    return folder


def _trained_model(weights: str | Path) -> tuple[SwinUNETR, dict, Recipe]:
    """Return the network with its weights, the note of its training, and the recipe."""
    weights = find_checkpoint(weights)
    note, recipe = noted_training(weights)
    model = build_swinunetr(len(note["classes"]), weights)
    if missing := load_pretrained(model, weights).left_random:
        raise InputError(
            f"'{weights}' has no weights for {next(iter(missing))} of a network with {len(note['classes'])} classes, "
            "which its note names. Expected the best_model.pth of a fine-tuning run."
        )
    return model, note, recipe


def _write_files(folder: Path, model: SwinUNETR, note: Mapping, recipe: Recipe) -> None:
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir(parents=True)
    for name, text in bundle_texts(model, note, recipe).items():
        (folder / name).write_text(text, encoding="utf-8")
    scripts = SCRIPTS | (LEGACY_SCRIPT if merging_of(model) == "legacy" else {})
    for name, module in scripts.items():
        (folder / "scripts" / name).write_text(inspect.getsource(module), encoding="utf-8")
    save_weights(model, folder / "models/model.pt", note={name: note[name] for name in KEPT_NOTES})
    export_program(model, recipe.crop_size, folder / "models/model.pt2")
    shutil.copyfile(LICENSE, folder / "LICENSE")
    save_label_names(folder / "docs", note["classes"])


def export_program(model: SwinUNETR, crop_size: Sequence[int], path: Path) -> None:
    """Write a network on the CPU as a ``torch.export`` program (``.pt2``), which needs only PyTorch.

    Its input is (B, C, X, Y, Z), float32, of ``crop_size`` voxels and any B; its output are the logits
    (B, classes, X, Y, Z).
    """
    channels = model.swinViT.patch_embed.proj.in_channels
    crops = torch.zeros(2, channels, *crop_size)  # two, as torch.export takes a size of 1 for a constant
    with evaluating(model):
        program = torch.export.export(model, (crops,), dynamic_shapes={"x_in": {0: Dim("crops")}}, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which has the paths of this machine
    content = io.BytesIO()  # torch.export.save aborts the process if it cannot write to a file
    torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def bundle_texts(model: SwinUNETR, note: Mapping, recipe: Recipe) -> dict[str, str]:
    """Return README and configuration of a bundle by their files: the templates, filled for a trained model.

    ``configs/inference.json`` has MONAI's classes and their arguments for segmenting the scans of a folder. Its ``run``
    refuses a folder with a scan in both formats, whose results would replace each other, and an ``output_dir`` that is
    the folder of the scans, where the results would be scans in the next run.
    """
    names = ("README.md", "metadata.json", "inference.json")
    readme, *configs = ((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    metadata, inference = map(json.loads, configs)
    values = _values(note, recipe)
    metadata = _filled(metadata, values)
    inference = _filled(inference, _parts(model, note["modality"], recipe))
    if merging_of(model) == "current":
        del inference["patch_merging"]
    values["intended_use"] = metadata["intended_use"]
    values["references"] = "\n".join(f"- {reference}" for reference in metadata["references"])
    return {
        "configs/metadata.json": json.dumps(metadata, indent=4) + "\n",
        "configs/inference.json": json.dumps(inference, indent=4) + "\n",
        "docs/README.md": _filled(readme, values),
    }


def _parts(model: SwinUNETR, modality: str, recipe: Recipe) -> dict[str, Any]:
    """Return network, preprocessing and sliding window, as the configuration has them."""
    network = {
        "_target_": "SwinUNETR",
        "out_channels": model.out.conv.conv.out_channels,
        **traits_of(model.state_dict()),
        "downsample": "@patch_merging" if merging_of(model) == "legacy" else "merging",
    }
    inferer = {"_target_": "SlidingWindowInferer", **sliding_window(recipe), "device": "cpu"}

    # To float32 by way of float16, as which a preprocessed case is stored here. Spacingd takes each key that begins
    # with "image_" for a dictionary, and MONAI Label has a path there.
    transforms = case_transforms(recipe, modality, labelled=False)
    (spacing,) = [transform for transform in transforms if transform["_target_"] == "Spacingd"]
    arguments = {name: value for name, value in spacing.items() if name not in ("_target_", "keys")}
    lambdad = {"_target_": "Lambdad", "keys": "image", "func": {"_target_": "Spacing", **arguments}}
    transforms[transforms.index(spacing)] = lambdad
    transforms.append({"_target_": "CastToTyped", "keys": "image", "dtype": "$torch.float32"})
    return {"network": network, "transforms": transforms, "inferer": inferer}


def _values(note: Mapping, recipe: Recipe) -> dict[str, Any]:
    """Return what README and metadata say of a model."""
    classes, modality = note["classes"], note["modality"]
    window = intensity_window(recipe, modality)
    split = [f"{len(cases)} {name} cases" for name, cases in note.get("split", {}).items()]
    start = note.get("pretrained_checkpoint")
    packages = ("monai", "torch", "numpy", "nibabel", "einops")
    releases = {package: version(package).split("+")[0] for package in packages}  # without the build, such as +cpu
    return {
        # The model.
        "modality": modality,
        "count": len(classes) - 1,
        "channels": len(classes),
        "names": ", ".join(classes[1:]),
        "class_rows": "\n".join(f"| {number} | {name} |" for number, name in enumerate(classes)),
        "channel_def": {str(number): name for number, name in enumerate(classes)},
        # Its input.
        "format": "hounsfield" if window else "magnitude",
        "scaling": describe_scaling(window),
        "spacing": " x ".join(f"{mm:g}" for mm in recipe.spacing_mm),
        "crop_size": list(recipe.crop_size),
        "crop": " x ".join(map(str, recipe.crop_size)),
        "shape": ", ".join(map(str, recipe.crop_size)),
        # Its training.
        "data": " and ".join(split) or "unknown number of cases",
        "start": f"weights of `{start}`" if start else "random weights",
        "settings": "\n".join(f"| `{name}` | {value} |" for name, value in note["recipe"].items()),
        # The software.
        **releases,
        "packages": {name: releases[name] for name in ("nibabel", "einops")} | RUNNERS,
        "runners": " ".join(f'"{name}>={least}"' for name, least in RUNNERS.items()),
    }


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a text, or what JSON holds, with the value for each ``{name}``; for one alone, as it is, of any type."""
    if isinstance(template, dict):
        return {name: _filled(part, values) for name, part in template.items()}
    if isinstance(template, list):
        return [_filled(part, values) for part in template]
    if not isinstance(template, str):
        return template
    alone = PLACE.fullmatch(template)
    return values[alone[1]] if alone else PLACE.sub(lambda place: str(values[place[1]]), template)
