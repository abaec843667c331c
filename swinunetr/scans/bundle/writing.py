"""The folder of a bundle: its weights, and the files that say how to use them."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.networks.nets import SwinUNETR
from torch.export import Dim

from swinunetr.data import nifti_reader
from swinunetr.data.organs import save_label_names
from swinunetr.errors import InputError
from swinunetr.network import merging
from swinunetr.network.checkpoints import build_swinunetr, find_checkpoint, load_pretrained, save_weights
from swinunetr.network.merging import merging_of
from swinunetr.recipe import Recipe
from swinunetr.results import resampling
from swinunetr.results.inference import evaluating
from swinunetr.scans.bundle.texts import bundle_texts
from swinunetr.training.settings import noted_training

LICENSE = Path(__file__).parents[3] / "LICENSE"
# Modules that import nothing of this project, by their names in a bundle. inference.json loads classes from them by
# their paths, since programs that run bundles do not always have the bundle's folder on Python's path.
SCRIPTS = {"nifti_reader.py": nifti_reader, "resampling.py": resampling}
LEGACY_SCRIPT = {"legacy_patch_merging.py": merging}  # only for networks with the older order of merging
KEPT_NOTES = ("recipe", "classes", "modality")  # in model.pt; without the names of cases, which may be private


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
        shutil.copyfile(module.__file__, folder / "scripts" / name)
    save_weights(model, folder / "models/model.pt", note={name: note[name] for name in KEPT_NOTES})
    export_program(model, recipe.crop_size, folder / "models/model.pt2")
    shutil.copyfile(LICENSE, folder / "LICENSE")
    save_label_names(folder / "docs", note["classes"])


def export_program(model: SwinUNETR, crop_size: Sequence[int], path: str | Path) -> None:
    """Write a network as a ``torch.export`` program, which needs only PyTorch.

    Its input is (B, C, X, Y, Z), float32, with the axes of the crop and any number B of crops, and its output are the
    logits (B, classes, X, Y, Z).

    Args:
        model: Network on the CPU.
        crop_size: Voxels along each axis.
        path: File to write, with the ending ``.pt2``.
    """
    channels = model.swinViT.patch_embed.proj.in_channels
    crops = torch.zeros(2, channels, *crop_size)  # two, as torch.export takes a size of 1 for a constant
    with evaluating(model):
        program = torch.export.export(model, (crops,), dynamic_shapes={"x_in": {0: Dim("crops")}}, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which has the paths of this machine
    content = io.BytesIO()  # torch.export.save aborts the process if it cannot write to a file
    torch.export.save(program, content)
    Path(path).write_bytes(content.getbuffer())
