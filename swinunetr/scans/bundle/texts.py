"""README and configuration of a bundle: the files of `templates/`, filled for a trained model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from monai.networks.nets import SwinUNETR

from swinunetr.data.transforms import case_transforms, describe_scaling, intensity_window
from swinunetr.network.checkpoints import traits_of
from swinunetr.network.merging import merging_of
from swinunetr.recipe import Recipe
from swinunetr.results.inference import sliding_window

TEMPLATES = Path(__file__).parent / "templates"
PLACE = re.compile(r"\{(\w+)\}")  # of a value, by its name
RUNNERS = {"pytorch-ignite": "0.4.11", "fire": "0.5.0"}  # what `monai.bundle run` needs and this project does not


def bundle_texts(model: SwinUNETR, note: Mapping, recipe: Recipe) -> dict[str, str]:
    """Return the texts of a bundle by their files.

    ``configs/inference.json`` has MONAI's classes and their arguments for segmenting the scans of a folder. Its ``run``
    refuses a folder with a scan in both formats, whose results would replace each other, and an ``output_dir`` that is
    the folder of the scans, where the results would be scans in the next run.

    Args:
        model: Trained network.
        note: Note of the training, with ``recipe``, ``classes`` and ``modality``.
        recipe: Recipe of the training.
    """
    values = _values(note, recipe)
    metadata = _filled(_read_json("metadata.json"), values)
    inference = _filled(_read_json("inference.json"), _parts(model, note["modality"], recipe))
    if merging_of(model) == "current":
        del inference["patch_merging"]
    values["intended_use"] = metadata["intended_use"]
    values["references"] = "\n".join(f"- {reference}" for reference in metadata["references"])
    return {
        "configs/metadata.json": json.dumps(metadata, indent=4) + "\n",
        "configs/inference.json": json.dumps(inference, indent=4) + "\n",
        "docs/README.md": _filled((TEMPLATES / "README.md").read_text(encoding="utf-8"), values),
    }


def _parts(model: SwinUNETR, modality: str, recipe: Recipe) -> dict[str, object]:
    """Return network, preprocessing and sliding window, as the configuration has them."""
    network = {
        "_target_": "SwinUNETR",
        "out_channels": model.out.conv.conv.out_channels,
        **traits_of(model.state_dict()),
        "downsample": "@patch_merging" if merging_of(model) == "legacy" else "merging",
    }
    inferer = {"_target_": "SlidingWindowInferer", **sliding_window(recipe), "device": "cpu"}
    return {"network": network, "transforms": _transforms(modality, recipe), "inferer": inferer}


def _transforms(modality: str, recipe: Recipe) -> list[dict]:
    """Return the transforms of an image to float32, by way of float16, as which a preprocessed case is stored here."""
    transforms = case_transforms(recipe, modality, labelled=False)
    (spacing,) = [transform for transform in transforms if transform["_target_"] == "Spacingd"]
    # Spacingd takes each key that begins with "image_" for a dictionary, and MONAI Label has a path there.
    arguments = {name: value for name, value in spacing.items() if name not in ("_target_", "keys")}
    lambdad = {"_target_": "Lambdad", "keys": "image", "func": {"_target_": "Spacing", **arguments}}
    transforms[transforms.index(spacing)] = lambdad
    return [*transforms, {"_target_": "CastToTyped", "keys": "image", "dtype": "$torch.float32"}]


def _values(note: Mapping, recipe: Recipe) -> dict[str, object]:
    """Return what README and metadata say of a model."""
    classes, modality = note["classes"], note["modality"]
    window = intensity_window(recipe, modality)
    split = [f"{len(cases)} {name} cases" for name, cases in note.get("split", {}).items()]
    start = note.get("pretrained_checkpoint")
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
        **{package: _release(package) for package in ("monai", "torch", "numpy")},
        "packages": {name: _release(name) for name in ("nibabel", "einops")} | RUNNERS,
        "runners": " ".join(f'"{name}>={least}"' for name, least in RUNNERS.items()),
    }


def _release(package: str) -> str:
    """Return the installed version of a package, without the name of its build (``+cpu``)."""
    return version(package).split("+")[0]


def _read_json(name: str) -> dict:
    return json.loads((TEMPLATES / name).read_text(encoding="utf-8"))


def _filled(template, values: Mapping[str, object]):
    """Return a text, or what JSON holds, with the value for each ``{name}``; for one alone, as it is, of any type."""
    if isinstance(template, dict):
        return {name: _filled(part, values) for name, part in template.items()}
    if isinstance(template, list):
        return [_filled(part, values) for part in template]
    if not isinstance(template, str):
        return template
    alone = PLACE.fullmatch(template)
    return values[alone[1]] if alone else PLACE.sub(lambda place: str(values[place[1]]), template)
