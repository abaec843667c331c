"""What a file of weights is: its family, the size and patch merging of its network, its classes and its training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swinunetr.network.checkpoints.classes import MOST_NAMES, match_classes
from swinunetr.network.checkpoints.finding import existing_file, find_checkpoint
from swinunetr.network.checkpoints.reading import WeightsFile, read_weights
from swinunetr.network.design import USUAL_DESIGN, traits_of, unusual_design
from swinunetr.network.layouts import Family, first_few, part_of, recognise, refusal
from swinunetr.network.merging import MERGING

OTHER_WEIGHTS = "Choose other weights, or leave pretrained_checkpoint empty to train from random ones."
FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}  # types of weights
POSITIONS = "relative_position_index"  # of tokens in an attention window; integers that follow from its size
INTEGERS = (POSITIONS, "num_batches_tracked")  # ends of the names of tensors that are no weights


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights that was recognised; each of its tensors is a key of either ``placed`` or ``dropped``.

    Attributes:
        weights: Its content.
        family: Its layout.
        placed: ``{name in the file: name in SwinUNETR}``.
        dropped: ``{name in the file: reason}``.
        traits: Arguments of the constructor of its network, see ``design.traits_of``, and its ``merging``.
        classes: Names of the rows of its head; None if they are not noted.
    """

    weights: WeightsFile
    family: Family
    placed: Mapping[str, str]
    dropped: Mapping[str, str]
    traits: Mapping[str, object]
    classes: tuple[str, ...] | None

    @property
    def file(self) -> Path:
        """Return the path of the file."""
        return self.weights.file

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by their names in the file."""
        return self.weights.tensors


def read_checkpoint(path: str | os.PathLike, merging: str | None = None) -> Checkpoint:
    """Read and recognise a file of weights.

    Args:
        path: Path of the file.
        merging: Order of patch merging of a file that notes none; None means legacy.

    Raises:
        CheckpointError: The file cannot be read or recognised, holds quantised weights, is of another design of the
            network, or notes another order of patch merging.
    """
    weights = read_weights(existing_file(path))
    family, placed, dropped = recognise(weights.file, tuple(weights.tensors))
    traits = _traits(weights, family, placed) | {"merging": _merging(weights, merging)}
    return Checkpoint(weights, family, placed, dropped, traits, _noted_classes(weights))


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
    note = read_weights(existing_file(checkpoint)).notes.get("made_by")
    return dict(note) if isinstance(note, Mapping) else {}


def require_classes(checkpoint: str | os.PathLike, classes: Sequence[str]) -> None:
    """Check that the head of a checkpoint has these classes and no others, so that it can be used without training.

    A class that the head lacks would start at random. A class that only the head has would lose its row, and its voxels
    would go to other classes. The order does not matter where the file notes the names of its classes, see
    ``match_classes``; without names their number is compared.

    Args:
        checkpoint: Path of the checkpoint.
        classes: Names of the classes, including background.

    Raises:
        CheckpointError: The classes differ, the file has no head for segmentation, or it cannot be read.
    """
    source = read_checkpoint(checkpoint)
    sizes = {first_size(source.tensors[name]) for name, target in source.placed.items() if part_of(target) == "head"}
    head = match_classes(source.classes, classes) if source.classes else None
    if not sizes:
        problem = "weights without a segmentation head"
    elif sizes != {len(source.classes or classes)}:
        problem = f"weights with a head for {max(sizes)} classes"
        problem += f", but with names for {len(source.classes)}" if source.classes else ""
    elif head and head.left_random:
        problem = f"weights that were not trained for {first_few(head.left_random, MOST_NAMES)}"
        problem += f", but for {first_few(head.dropped, MOST_NAMES)}" if head.dropped else ""
    elif head and head.dropped:
        problem = f"weights that were also trained for {first_few(head.dropped, MOST_NAMES)}"
    else:
        return
    raise refusal(
        source.file,
        problem,
        f"weights for the {len(classes)} classes in the JSON and no others, since evaluate_only does not train",
        "Correct the labels in the JSON (label files need not contain every class), or train without evaluate_only.",
    )


def first_size(tensor: Tensor) -> int:
    """Return the size of the first axis, which of a head is the number of classes; 1 without axes."""
    return tensor.shape[:1].numel()


def _traits(weights: WeightsFile, family: Family, placed: Mapping[str, str]) -> dict[str, object]:
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
        raise refusal(
            weights.file,
            f"weights that note {noted} patch merging",
            f"{merging} patch merging, as the parameter merging says",
            "Leave merging empty: the note was written by the run that trained the weights.",
        )
    return noted


def _noted_classes(weights: WeightsFile) -> tuple[str, ...] | None:
    """Return the names of the classes that a note has, None if there are none or only one, as after pre-training."""
    note = weights.notes.get("made_by")
    classes = note.get("classes") if isinstance(note, Mapping) else None
    named = isinstance(classes, list | tuple) and len(classes) > 1 and all(isinstance(name, str) for name in classes)
    return tuple(classes) if named else None
