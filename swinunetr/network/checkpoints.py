"""Build the SwinUNETR that fits a checkpoint, load the checkpoint into it, and save weights.

A checkpoint is read without running code and recognised by the names of all its tensors. Every tensor of the file and
of the network is accounted for. A checkpoint that does not fit raises a ``CheckpointError`` and changes nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.apps.utils import check_hash, download_url
from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.errors import CheckpointError
from swinunetr.files import replacing
from swinunetr.network.checkpoint_reading import WeightsFile, existing_file, read_weights
from swinunetr.network.design import USUAL_DESIGN, traits_of, unusual_design
from swinunetr.network.layouts import PARTS, SSL_50K, SSL_50K_FILE, Family, first_few, part_of, recognise, refusal
from swinunetr.network.merging import MERGING, merging_of
from swinunetr.tables import Shown, Table

# The checkpoint that can be downloaded.
SSL_50K_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SSL_50K_FILE}"
SSL_50K_SHA256 = "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8"

Weights = Mapping[str, Tensor]  # state_dict of a network

OTHER_WEIGHTS = "Choose other weights, or leave pretrained_checkpoint empty to train from random ones."
UNNOTED = {  # what the report says of the order of patch merging that a file does not note
    "legacy": ', assumed, as the file notes none; weights trained with MONAI 1.5 or later need merging="current"',
    "current": ", as given; the file notes none",
}
FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}  # types of weights
POSITIONS = "relative_position_index"  # of tokens in an attention window; integers that follow from its size
INTEGERS = (POSITIONS, "num_batches_tracked")  # ends of the names of tensors that are no weights
MOST_NAMES = 14  # of classes in one line of a report or message


def build_swinunetr(
    classes: int,
    checkpoint: str | os.PathLike | None = None,
    *,
    in_channels: int = 1,
    feature_size: int | None = None,
    window_size: int | None = None,
    use_checkpoint: bool = False,
    merging: str | None = None,
) -> SwinUNETR:
    """Build the SwinUNETR (v1 or v2) that fits a checkpoint. Its weights are random; ``load_pretrained`` loads them.

    Args:
        classes: Output channels, including background.
        checkpoint: Path of the checkpoint; None builds a v1 network for training from random weights.
        in_channels: Channels of the image.
        feature_size: None uses that of the checkpoint, or 48 without one.
        window_size: Voxels along each axis of an attention window; None uses that of the checkpoint, or 7 without one.
        use_checkpoint: Use activation checkpointing, which needs less memory and more time. Not related to
            ``checkpoint``.
        merging: Order of patch merging, ``"legacy"`` (MONAI 0.9 to 1.4) or ``"current"`` (MONAI 1.5 and later). None
            uses the order that the file notes, ``"legacy"`` if it notes none, and ``"current"`` without a file.

    Raises:
        CheckpointError: The file cannot be read, is not a known checkpoint, is of a design that SwinUNETR has no
            argument for here, such as 2D or other depths, or contradicts an argument.
        ValueError: ``merging`` is none of the values above.
    """
    if merging not in (None, *MERGING):
        raise ValueError(f"expected merging to be None or one of {list(MERGING)}, found {merging!r}")
    source = None if checkpoint is None else _open(checkpoint, merging)
    traits = source.traits if source else {"feature_size": 48, "window_size": 7, "use_v2": False, "merging": "current"}
    model = SwinUNETR(
        in_channels=in_channels,
        out_channels=classes,
        feature_size=feature_size or traits["feature_size"],
        window_size=window_size or traits["window_size"],
        use_checkpoint=use_checkpoint,
        use_v2=traits["use_v2"],
        downsample=MERGING[merging or traits["merging"]],
    )
    if source:
        _plan(source, model)  # raises CheckpointError if an argument contradicts the file
    return model


def load_pretrained(
    model: SwinUNETR,
    checkpoint: str | os.PathLike,
    *,
    merging: str | None = None,
    decoder: bool = True,
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Load a SwinUNETR checkpoint of any known layout into ``model``, completely or not at all.

    The head has one row per class. Where the file notes the names of its classes, as a ``best_model.pth`` does, each
    class of ``classes`` gets the row of the class with the same name, see ``match_classes``; the other rows of the
    network are unchanged. A file without names has its head loaded row by row, if the number of classes is the same.

    Args:
        model: A network of the same size as in the checkpoint, see ``build_swinunetr``.
        checkpoint: Path of the checkpoint.
        merging: As in ``build_swinunetr``.
        decoder: False leaves the decoder and the head unchanged, for a decoder that was trained for another task than
            segmentation.
        classes: Names of the output channels, including background. None compares the number of classes only.

    Returns:
        What happened to each tensor of the file and of the network.

    Raises:
        CheckpointError: The file cannot be read safely, is incomplete or unknown, contains NaN or infinity, or belongs
            to a network of another size or merging. The network is unchanged.
        TypeError: ``model`` is not a SwinUNETR, for example because it is wrapped in DistributedDataParallel.
        ValueError: ``classes`` has another length than the output of ``model``.
    """
    if not isinstance(model, SwinUNETR):
        raise TypeError(f"expected monai's SwinUNETR without a wrapper, found {type(model).__name__}")
    if classes is not None and len(classes) != len(model.out.conv.conv.bias):
        raise ValueError(f"expected a name for each of {len(model.out.conv.conv.bias)} classes, found {len(classes)}")
    source = _open(checkpoint, merging)
    report = _plan(source, model, decoder, classes)
    own = model.state_dict()
    _require_values(source, report, own)
    with torch.no_grad():
        for name, target in report.loaded.items():
            if target.endswith(POSITIONS) and source.tensors[name].is_floating_point():
                continue  # half precision has rounded them
            if report.head and part_of(target) == "head":
                for own_row, row in report.head.rows.items():
                    own[target][own_row].copy_(source.tensors[name][row])
            else:
                own[target].copy_(source.tensors[name])  # converts to the dtype and the device of the network
    return report


def _require_values(source: _Source, report: LoadReport, own: Weights) -> None:
    """Check that the tensors to load hold values that a network computes with.

    Args:
        source: The file.
        report: What is to be loaded from it.
        own: Tensors of the network.

    Raises:
        CheckpointError: Weights contain NaN or infinity, or positions are outside of the attention window.
    """
    broken, outside = [], []
    for name, target in report.loaded.items():
        low, high = source.tensors[name].aminmax()  # both NaN if any value is; no copies
        if not (low.isfinite() and high.isfinite()):
            broken.append(name)
        elif target.endswith(POSITIONS) and (low < 0 or high > own[target].max()):
            outside.append(name)
    if broken:
        raise refusal(source.file, f"{report.title} with NaN or infinity in {first_few(broken)}")
    if outside:
        raise refusal(source.file, f"{report.title} with positions outside of the window in {first_few(outside)}")


@dataclass(frozen=True)
class HeadRows:
    """Rows of a head that a file and a network have in common, one per class.

    Attributes:
        rows: ``{row in the network: row in the file}`` of each class that both have.
        kept: Names of these classes in the network.
        dropped: Names of the other classes of the file.
        left_random: Names of the other classes of the network.
    """

    rows: Mapping[int, int]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    left_random: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return a line for each kind of class that there is."""
        kinds = {"kept": self.kept, "dropped": self.dropped, "stay random": self.left_random}
        return [f"rows of the head, {kind}: {first_few(names, MOST_NAMES)}" for kind, names in kinds.items() if names]


def match_classes(theirs: Sequence[str], ours: Sequence[str]) -> HeadRows:
    """Return which rows of a file's head belong to which rows of a network's head.

    Names agree if they are equal in lower case with each run of spaces, underscores and hyphens as one space:
    ``"Left_Kidney"`` is ``"left kidney"``. Where this makes two names of one list equal, such as ``"T1"`` and ``"t1"``,
    they must agree exactly. A name that is twice in one list agrees with none, since either row could be meant.

    Args:
        theirs: Names of the classes in the file, in order of their rows.
        ours: Names of the classes in the network, in order of their rows.
    """
    plain = [Counter(map(_plain, names)) for names in (theirs, ours)]
    unclear = {name for counts in plain for name, count in counts.items() if count > 1}
    row_of = []
    for names in (theirs, ours):
        keys = [(name,) if _plain(name) in unclear else _plain(name) for name in names]
        row_of.append({key: row for row, key in enumerate(keys) if keys.count(key) == 1})
    rows = {own_row: row_of[0][key] for key, own_row in row_of[1].items() if key in row_of[0]}
    return HeadRows(
        rows=rows,
        kept=tuple(ours[row] for row in rows),
        dropped=tuple(name for row, name in enumerate(theirs) if row not in rows.values()),
        left_random=tuple(name for row, name in enumerate(ours) if row not in rows),
    )


def _plain(name: str) -> str:
    """Return the form of a class name that is compared; a name of separators only is compared as it is."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() or name


@dataclass(frozen=True, repr=False)
class LoadReport(Shown):
    """What happened to each tensor of a file (loaded or dropped) and of a network (loaded or left random).

    Attributes:
        file: Path of the checkpoint.
        family: Short name of the layout.
        title: Description of the layout.
        merging: ``"legacy"`` or ``"current"``.
        merging_noted: Whether the file notes it; otherwise it is the argument, or assumed.
        loaded: ``{name in the file: name in the network}``; of the head only the rows in ``head``, if there are any.
        dropped: ``{name in the file: reason}``.
        left_random: ``{name in the network: reason}``.
        ignored: Names of entries that are not tensors, such as ``epoch``.
        head: Rows of the head that were loaded, by the names of the classes; None if names were not compared or if no
            row was loaded.
        unused: Keys of further networks in the file, such as ``ema``, which were not loaded.
        names_compared: Whether the names of the network's classes were given.
    """

    file: Path
    family: str
    title: str
    merging: str
    merging_noted: bool
    loaded: Mapping[str, str]
    dropped: Mapping[str, str]
    left_random: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    head: HeadRows | None = None
    unused: tuple[str, ...] = ()
    names_compared: bool = False

    def tables(self) -> list[Table]:
        """Return a table of the number of tensors loaded per part, with notes about the others."""
        loaded = Counter(part_of(name) for name in self.loaded.values())
        totals = loaded + Counter(part_of(name) for name in self.left_random)
        names = {part: part for part in PARTS}
        if self.head and self.head.left_random:
            classes = len(self.head.kept) + len(self.head.left_random)
            names["head"] = f"head, {len(self.head.kept)} of {classes} classes"
        rows = [(names[part], f"{loaded[part]} of {totals[part]}") for part in PARTS if totals[part]]
        notes = [f"patch merging: {self.merging}" + ("" if self.merging_noted else UNNOTED[self.merging])]
        if self.head:
            notes += self.head.notes()
        elif self.names_compared and loaded["head"]:
            notes.append("rows of the head: in the order of the file, which names no classes; compare it with your own")
        for heading, reasons in (("dropped", self.dropped), ("stays random", self.left_random)):
            for reason in dict.fromkeys(reasons.values()):
                names = [name for name in reasons if reasons[name] == reason]
                notes.append(f"{heading}: {first_few(names)}: {reason}")
        if self.ignored:
            notes.append(f"ignored, not tensors: {first_few(self.ignored)}")
        if self.unused:
            notes.append(f"not used, other networks in the file: {first_few(self.unused)}")
        title = f"{self.file.name} seems to be {self.title}."
        return [Table(("part", "tensors loaded"), rows, notes, title)]


@dataclass(frozen=True)
class _Source:
    """Content of a checkpoint; each of its tensors is a key of either ``placed`` or ``dropped``."""

    weights: WeightsFile
    family: Family
    placed: Mapping[str, str]
    dropped: Mapping[str, str]
    traits: Mapping[str, object]
    classes: tuple[str, ...] | None  # names of the rows of the head, None if they are not noted

    @property
    def file(self) -> Path:
        return self.weights.file

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.weights.tensors


def _open(checkpoint: str | os.PathLike, merging: str | None) -> _Source:
    """Read and recognise a file.

    Args:
        checkpoint: Path.
        merging: Order of patch merging of a file that notes none; None means legacy.

    Raises:
        CheckpointError: The file cannot be read or recognised, holds quantised weights, is of another design of the
            network, or notes another order of patch merging.
    """
    weights = read_weights(existing_file(checkpoint))
    family, placed, dropped = recognise(weights.file, list(weights.tensors))
    try:
        tensors = {target: weights.tensors[name] for name, target in placed.items()}
        if unusual := unusual_design(tensors):
            found = f"{family.title}, but with another design: {', '.join(unusual)}"
            raise refusal(weights.file, found, f"a SwinUNETR like the published ones, {USUAL_DESIGN}", OTHER_WEIGHTS)
        traits = traits_of(tensors)
    except KeyError as absent:
        raise refusal(weights.file, f"{family.title} without {absent}") from absent
    if others := _other_kinds(tensors):
        found = f"{family.title}, quantised or stored in another form: {first_few(others)}"
        raise refusal(weights.file, found, "weights in float32, float16, bfloat16 or float64")
    noted = weights.note("patch_merging")
    if noted in MERGING and merging not in (None, noted):
        raise refusal(
            weights.file,
            f"weights that note {noted} patch merging",
            f"{merging} patch merging, as the parameter merging says",
            "Leave merging empty: the note was written by the run that trained the weights.",
        )
    traits["merging"] = noted if noted in MERGING else merging or "legacy"
    return _Source(weights, family, placed, dropped, traits, _noted_classes(weights))


def _other_kinds(tensors: Weights) -> list[str]:
    """Return the names of weights that are no plain floating-point numbers, with what they are."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            found[name] = "without values"
        elif tensor.layout is not torch.strided:
            found[name] = str(tensor.layout)
        elif tensor.dtype not in FLOATS and not name.endswith(INTEGERS):
            found[name] = str(tensor.dtype)
    return [f"{name} ({kind.removeprefix('torch.')})" for name, kind in found.items()]


def _noted_classes(weights: WeightsFile) -> tuple[str, ...] | None:
    """Return the names of the classes that a note has, None if there are none or only one, as after pre-training."""
    note = weights.note("made_by")
    classes = note.get("classes") if isinstance(note, Mapping) else None
    named = isinstance(classes, list | tuple) and len(classes) > 1 and all(isinstance(name, str) for name in classes)
    return tuple(classes) if named else None


def _plan(source: _Source, model: SwinUNETR, decoder: bool = True, classes: Sequence[str] | None = None) -> LoadReport:
    """Decide what happens to each tensor of the file and of the network; change nothing, raise if they do not fit."""
    own, family = model.state_dict(), source.family
    skipped_parts = set() if decoder else {"decoder", "head"}
    skipped = {
        name: "the decoder was not requested"
        for name, target in source.placed.items()
        if part_of(target) in skipped_parts
    }
    head = match_classes(source.classes, classes) if classes and source.classes else None
    other_head = _head_for_other_classes(source, own, head)
    dropped = other_head | skipped
    loaded = {name: target for name, target in source.placed.items() if name not in dropped}

    required = family.covers - skipped_parts - ({"head"} if other_head else set())
    shapes = {target: tuple(source.tensors[name].shape) for name, target in loaded.items()}
    if head:
        shapes |= {target: (len(classes), *shape[1:]) for target, shape in shapes.items() if part_of(target) == "head"}
    own_shapes = {name: tuple(own[name].shape) for name in own if name in shapes or part_of(name) in required}
    own_traits = traits_of(own) | {"merging": merging_of(model)}
    if wrong := _differences(source.traits, own_traits):
        other = source.traits["merging"] != own_traits["merging"]
        again = f"Use build_swinunetr(classes, {str(source.file)!r}), with in_channels as in the file"
        raise refusal(
            source.file,
            f"{family.title}, where {first_few(wrong)}",
            "a checkpoint that fits the network",
            again + (", and the same merging in load_pretrained." if other else "."),
        )
    if wrong := _differences(shapes, own_shapes):
        found = f"{family.title}, where {first_few(wrong)}"
        raise refusal(source.file, found, "all tensors of MONAI's SwinUNETR, of its default options", OTHER_WEIGHTS)
    return LoadReport(
        file=source.file,
        family=family.name,
        title=family.title,
        merging=source.traits["merging"],
        merging_noted=source.weights.note("patch_merging") in MERGING,
        loaded=loaded,
        dropped=source.dropped | dropped,
        left_random={name: _why_random(name, skipped_parts) for name in own if name not in shapes},
        ignored=source.weights.ignored,
        unused=source.weights.unused,
        names_compared=bool(classes),
        head=head if any(part_of(target) == "head" for target in loaded.values()) else None,
    )


def _head_for_other_classes(source: _Source, own: Mapping[str, Tensor], head: HeadRows | None) -> dict[str, str]:
    """Return ``{name in the file: reason}`` for a head of which nothing is loaded because of its classes.

    Without the names in ``head`` this is a head with another number of classes than the network's.
    """
    reasons = {}
    for name, target in source.placed.items():
        if part_of(target) == "head" and target in own:
            classes, own_classes = _first_size(source.tensors[name]), _first_size(own[target])
            if head and classes != len(source.classes):
                reasons[name] = f"made for {classes} classes, but the file names {len(source.classes)}"
            elif head and not head.rows:
                reasons[name] = f"made for other classes: {first_few(source.classes, MOST_NAMES)}"
            elif not head and classes != own_classes:
                reasons[name] = f"made for {classes} classes; the network has {own_classes}"
    return reasons


def read_ensemble(
    files: Sequence[str | os.PathLike], classes: Sequence[str], merging: str | None = None
) -> list[Weights]:
    """Return the weights of several networks of the same shape, with the head's rows in the order of ``classes``.

    Args:
        files: Checkpoints of SwinUNETR with a head.
        classes: Names of the classes, including the background.
        merging: Order of patch merging of the files that note none, as in ``build_swinunetr``.

    Raises:
        CheckpointError: A file cannot be read, or is of another network than the first.
    """
    states, kinds = [], []
    for file in files:
        order = None if read_weights(existing_file(file)).note("patch_merging") in MERGING else merging
        network = build_swinunetr(len(classes), file, merging=order)
        load_pretrained(network, file, merging=order, classes=classes)
        states.append(network.state_dict())
        kinds.append((merging_of(network), traits_of(states[-1])))
    if others := [file for file, kind in zip(files, kinds, strict=True) if kind != kinds[0]]:
        raise CheckpointError(
            f"'{others[0]}' is of another network than '{files[0]}'. Expected the same size of network and the same "
            "patch merging, as of several seeds or folds. Use them one by one."
        )
    return states


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
    source = _open(checkpoint, None)
    counts = {_first_size(source.tensors[name]) for name, target in source.placed.items() if part_of(target) == "head"}
    head = match_classes(source.classes, classes) if source.classes else None
    if not counts:
        found = "weights without a segmentation head"
    elif counts != {len(source.classes or classes)}:
        found = f"weights with a head for {max(counts)} classes"
        found += f", but with names for {len(source.classes)}" if source.classes else ""
    elif head and head.left_random:
        found = f"weights that were not trained for {first_few(head.left_random, MOST_NAMES)}"
        found += f", but for {first_few(head.dropped, MOST_NAMES)}" if head.dropped else ""
    elif head and head.dropped:
        found = f"weights that were also trained for {first_few(head.dropped, MOST_NAMES)}"
    else:
        return
    raise refusal(
        source.file,
        found,
        f"weights for the {len(classes)} classes in the JSON and no others, since evaluate_only does not train",
        "Correct the labels in the JSON (label files need not contain every class), or train without evaluate_only.",
    )


def _first_size(tensor: Tensor) -> int:
    return tensor.shape[:1].numel()  # 1 for a tensor without dimensions


def _differences(theirs: Mapping, ours: Mapping) -> list[str]:
    """Return one text per key whose value in the file (``theirs``) is not that in the network (``ours``)."""
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    return [f"{key} is {theirs.get(key, 'missing')}, but {ours.get(key, 'missing')} in the network" for key in keys]


def _why_random(name: str, skipped_parts: set[str]) -> str:
    if part_of(name) == "head":
        return "head for the classes of your data; trained in fine-tuning"
    if part_of(name) in skipped_parts:
        return "the decoder was not requested; trained in fine-tuning"
    return "not in this checkpoint; trained in fine-tuning"


def encoder_response(model: SwinUNETR, image: Tensor) -> list[Tensor]:
    """Return the five feature maps of the Swin encoder, float32 on the CPU, each at half the resolution of the last.

    Args:
        model: The network.
        image: (B, C, X, Y, Z), on the device of the network.
    """
    with torch.no_grad():
        return [features.float().cpu() for features in model.swinViT(image, model.normalize)]


def response_changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    """Return the relative change of each encoder stage: the norm of the difference over the norm of ``before``."""
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def compare_responses(before: list[Tensor], after: list[Tensor]) -> str:
    """Describe how much the response of each encoder stage changed when the weights were loaded, one line per stage.

    Args:
        before: Result of ``encoder_response`` before loading.
        after: Result for the same image after loading.

    Raises:
        CheckpointError: The response of a stage did not change, so its weights were not loaded.
    """
    changes = response_changes(before, after)
    if 0 in changes:
        raise CheckpointError(
            f"The response of encoder stage {changes.index(0)} did not change: its weights were not loaded. "
            "Call load_pretrained on this network between the two calls of encoder_response."
        )
    return "\n".join(f"encoder stage {i}: response changed by {change:.0%}" for i, change in enumerate(changes))


def save_weights(model: SwinUNETR, path: str | os.PathLike, note: Mapping | None = None) -> None:
    """Write the state dict of a network, on the CPU; the file is written completely or not at all.

    Plain MONAI can load it: ``SwinUNETR(...).load_state_dict(torch.load(path, weights_only=True))``. The order of patch
    merging and ``note`` are in ``_metadata`` of the state dict, which torch saves and MONAI does not read.

    Args:
        model: The network, on any device.
        path: File to write.
        note: How the weights were trained, as plain values; ``training_note`` returns it.
    """
    own = model.state_dict()
    state = OrderedDict((name, tensor.cpu().contiguous()) for name, tensor in own.items())
    state._metadata = own._metadata
    state._metadata[""] |= {"patch_merging": merging_of(model), "made_by": dict(note or {})}
    with replacing(path) as temporary, open(temporary, "wb") as file:  # by its path, the file would hold its name
        torch.save(state, file)


def network_size(checkpoint: str | os.PathLike) -> dict[str, int]:
    """Return the ``feature_size`` and the ``window_size`` of the network that a checkpoint belongs to.

    Raises:
        CheckpointError: The file is missing or is not a SwinUNETR's.
    """
    traits = _open(find_checkpoint(checkpoint), None).traits
    return {name: traits[name] for name in ("feature_size", "window_size")}


def merging_in(checkpoint: str | os.PathLike, merging: str | None = None) -> str:
    """Return the order of patch merging that a checkpoint notes; if it notes none, ``merging``, or legacy if None.

    Raises:
        CheckpointError: The file is missing, is not a SwinUNETR's, or notes another order than ``merging``.
    """
    return _open(find_checkpoint(checkpoint), merging).traits["merging"]


def require_buildable(checkpoint: str | os.PathLike, merging: str | None = None) -> None:
    """Check that a network for images of one channel can be built and filled with a checkpoint, by building one.

    Args:
        checkpoint: Path of the checkpoint.
        merging: As in ``build_swinunetr``.

    Raises:
        CheckpointError: The file cannot be read or is of another network; the message says which.
    """
    source = _open(find_checkpoint(checkpoint), merging)
    if (channels := source.traits["in_channels"]) != 1:
        found = f"{source.family.title}, with {channels} input channels"
        raise refusal(source.file, found, "weights for images of one channel, as here", OTHER_WEIGHTS)
    with torch.random.fork_rng(devices=[]):  # the random numbers of the caller stay as they are
        build_swinunetr(2, source.file, merging=merging)


def training_note(checkpoint: str | os.PathLike) -> dict:
    """Return the note that ``save_weights`` wrote into a file; it is empty for weights from elsewhere.

    Raises:
        CheckpointError: The file cannot be read.
    """
    note = read_weights(existing_file(checkpoint)).note("made_by")
    return dict(note) if isinstance(note, Mapping) else {}


def find_checkpoint(name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the path of a checkpoint.

    Args:
        name_or_path: A path, or ``"ssl_50k"``, which is downloaded once; its sha256 is checked on each call.
        cache_dir: Folder of the download; None uses ``checkpoints`` in the folder of ``torch.hub``.

    Raises:
        CheckpointError: There is no such file, it cannot be downloaded, or its sha256 is wrong.
    """
    if str(name_or_path) != SSL_50K:
        return existing_file(name_or_path)
    file = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints")).expanduser() / SSL_50K_FILE
    if not file.exists():
        _download_ssl_50k(file)
    elif not check_hash(file, SSL_50K_SHA256, "sha256"):
        remedy = f"Delete it, or download {SSL_50K_URL}"
        raise refusal(file, "an incomplete or changed file", f"sha256 {SSL_50K_SHA256}", remedy)
    return file


def _download_ssl_50k(file: Path) -> None:
    """Download into a folder beside ``file``, on the same disk, then rename: an interrupted download leaves no file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder, SSL_50K_FILE)
            download_url(SSL_50K_URL, part, hash_val=SSL_50K_SHA256, hash_type="sha256", progress=True)
            os.replace(part, file)
    except (OSError, RuntimeError, ValueError) as error:  # the type for a wrong hash depends on the version of MONAI
        expected = f"{SSL_50K_FILE}, about 719 MB, sha256 {SSL_50K_SHA256}"
        remedy = f"Download {SSL_50K_URL} on a computer with internet access and copy it to this path."
        raise refusal(file, f"a file that could not be downloaded ({error})", expected, remedy) from error
