"""What a file of weights is: its family, the size and patch merging of its network, its classes and its training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swinunetr.network.checkpoints.finding import existing_file, find_checkpoint
from swinunetr.network.checkpoints.reading import WeightsFile, read_weights
from swinunetr.network.layouts import Family, first_few, part_of, recognise, refusal
from swinunetr.network.merging import MERGING

USUAL_DESIGN = "a 3D one with depths 2, 2, 2, 2, heads 3, 6, 12, 24, patches of 2 voxels and a cubic window"
OTHER_WEIGHTS = "Choose other weights, or leave pretrained_checkpoint empty to train from random ones."
FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}  # types of weights
POSITIONS = "relative_position_index"  # of tokens in an attention window; integers that follow from its size
INTEGERS = (POSITIONS, "num_batches_tracked")  # ends of the names of tensors that are no weights


@dataclass(frozen=True)
class Checkpoint(WeightsFile):
    """A file of weights that was recognised; each of its tensors is a key of either ``placed`` or ``dropped``."""

    family: Family
    placed: Mapping[str, str]  # {name in the file: name in SwinUNETR}
    dropped: Mapping[str, str]  # {name in the file: reason}
    traits: Mapping[str, Any]  # arguments of the constructor of its network, see ``traits_of``, and its ``merging``
    classes: tuple[str, ...] | None  # names of the rows of its head; None if they are not noted


def read_checkpoint(path: str | os.PathLike, merging: str | None = None) -> Checkpoint:
    """Read and recognise a file of weights; ``merging`` is the order of patch merging where it notes none, or legacy.

    Raises:
        CheckpointError: The file cannot be read or recognised, holds quantised weights, is of another design of the
            network, or notes another order of patch merging.
    """
    weights = read_weights(existing_file(path))
    family, placed, dropped = recognise(weights.file, tuple(weights.tensors))
    traits = _traits(weights, family, placed) | {"merging": _merging(weights, merging)}
    return Checkpoint(
        **vars(weights), family=family, placed=placed, dropped=dropped, traits=traits, classes=_noted_classes(weights)
    )


def network_size(checkpoint: str | os.PathLike) -> dict[str, int]:
    """Return the ``feature_size`` and the ``window_size`` of the network that a checkpoint belongs to.

    Raises:
        CheckpointError: The file is missing or is not a SwinUNETR's.
    """
    traits = read_checkpoint(find_checkpoint(checkpoint)).traits
    return {name: traits[name] for name in ("feature_size", "window_size")}


def merging_in(checkpoint: str | os.PathLike, merging: str | None = None) -> str:
    """Return the order of patch merging that a checkpoint notes; if it notes none, ``merging``, or legacy if None.

    Raises:
        CheckpointError: The file is missing, is not a SwinUNETR's, or notes another order than ``merging``.
    """
    return read_checkpoint(find_checkpoint(checkpoint), merging).traits["merging"]


def training_note(checkpoint: str | os.PathLike) -> dict:
    """Return the note that ``save_weights`` wrote into a file; it is empty for weights from elsewhere.

    Raises:
        CheckpointError: The file cannot be read.
    """
    return _training_note(read_weights(existing_file(checkpoint)))


def traits_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the constructor of a SwinUNETR that has these tensors, which have their names in it.

    Raises:
        KeyError: The patch embedding or the first attention block is missing.
    """
    feature_size, in_channels = tensors["swinViT.patch_embed.proj.weight"].shape[:2]
    offsets = len(tensors["swinViT.layers1.0.blocks.0.attn.relative_position_bias_table"])  # (2 * window_size - 1)^3
    return {
        "feature_size": feature_size,
        "in_channels": in_channels,
        "window_size": (round(offsets ** (1 / 3)) + 1) // 2,
        "use_v2": any(part_of(name) == "v2 blocks" for name in tensors),
    }


def unusual_design(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what differs in a SwinUNETR of these tensors from ``USUAL_DESIGN``, the only one that is built here."""
    patch = tuple(tensors["swinViT.patch_embed.proj.weight"].shape[2:])
    if len(patch) != 3:
        return [f"{len(patch)}D"]
    tables = {name: tensor for name, tensor in tensors.items() if name.endswith(".relative_position_bias_table")}
    stages = [[name for name in tables if name.startswith(f"swinViT.layers{stage}.")] for stage in (1, 2, 3, 4)]
    depths, heads = [len(names) for names in stages], [tables[names[0]].shape[-1] for names in stages if names]
    offsets = len(next(iter(tables.values()), ()))  # (2 * window_size - 1)^3
    edge = round(offsets ** (1 / 3))
    deviations = {
        f"patches of {' x '.join(map(str, patch))} voxels": patch != (2, 2, 2),
        f"depths {', '.join(map(str, depths))}": depths != [2, 2, 2, 2],
        f"heads {', '.join(map(str, heads))}": 0 not in depths and heads != [3, 6, 12, 24],
        "a window that is not cubic": edge**3 != offsets or edge % 2 == 0,
    }
    return [text for text, unusual in deviations.items() if unusual]


def first_size(tensor: Tensor) -> int:
    """Return the size of the first axis, which of a head is the number of classes; 1 without axes."""
    return tensor.shape[:1].numel()


def _traits(weights: WeightsFile, family: Family, placed: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of the constructor of the network, after checking that it can be built here."""
    tensors = {target: weights.tensors[name] for name, target in placed.items()}
    try:
        if unusual := unusual_design(tensors):
            problem = f"{family.title}, but with another design: {', '.join(unusual)}"
            raise refusal(weights.file, problem, f"a SwinUNETR like the published ones, {USUAL_DESIGN}", OTHER_WEIGHTS)
        traits = traits_of(tensors)
    except KeyError as absent:
        raise refusal(weights.file, f"{family.title} without {absent}") from absent
    if not_floats := _not_floats(tensors):
        problem = f"{family.title}, quantised or stored in another form: {first_few(not_floats)}"
        raise refusal(weights.file, problem, "weights in float32, float16, bfloat16 or float64")
    return traits


def _not_floats(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of weights that are no plain floating-point numbers, with what they are."""
    kinds = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            kinds[name] = "without values"
        elif tensor.layout is not torch.strided:
            kinds[name] = str(tensor.layout)
        elif tensor.dtype not in FLOATS and not name.endswith(INTEGERS):
            kinds[name] = str(tensor.dtype)
    return [f"{name} ({kind.removeprefix('torch.')})" for name, kind in kinds.items()]


def _merging(weights: WeightsFile, merging: str | None) -> str:
    """Return the order of patch merging that a file notes, else the one that was given, else legacy."""
    noted = weights.notes.get("patch_merging")
    if noted not in MERGING:
        return merging or "legacy"
    if merging not in (None, noted):
        expected = f"{merging} patch merging, as the parameter merging says"
        remedy = "Leave merging empty: the note was written by the run that trained the weights."
        raise refusal(weights.file, f"weights that note {noted} patch merging", expected, remedy)
    return noted


def _training_note(weights: WeightsFile) -> dict[str, Any]:
    note = weights.notes.get("made_by")
    return dict(note) if isinstance(note, Mapping) else {}


def _noted_classes(weights: WeightsFile) -> tuple[str, ...] | None:
    """Return the names of the classes that a note has, None if there are none or only one, as after pre-training."""
    classes = _training_note(weights).get("classes")
    if isinstance(classes, list | tuple) and len(classes) > 1 and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None
