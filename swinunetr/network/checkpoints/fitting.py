"""Which tensor of a checkpoint goes where in a network, the rows of its head by class, and the report about it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.network.checkpoints.recognition import OTHER_WEIGHTS, Checkpoint, first_size, read_checkpoint, traits_of
from swinunetr.network.layouts import PARTS, first_few, part_of, refusal
from swinunetr.network.merging import MERGING, merging_of
from swinunetr.tables import Shown, Table
from swinunetr.words import named

first_classes = partial(named, most=14, counted=True)  # in one line of a report or message
UNNOTED = {  # what the report says of the order of patch merging that a file does not note
    "legacy": ', assumed, as the file notes none; weights trained with MONAI 1.5 or later need merging="current"',
    "current": ", as given; the file notes none",
}


@dataclass(frozen=True)
class HeadRows:
    """Rows of a head that a file and a network have in common, one per class."""

    rows: Mapping[int, int]  # {row in the network: row in the file} of each class that both have
    kept: tuple[str, ...]  # names of these classes in the network
    dropped: tuple[str, ...]  # names of the other classes of the file
    left_random: tuple[str, ...]  # names of the other classes of the network


@dataclass(frozen=True, repr=False)
class LoadReport(Shown):
    """What happened to each tensor of a file (loaded or dropped) and of a network (loaded or left random)."""

    file: Path
    family: str  # short name of the layout
    title: str  # description of the layout
    merging: str  # "legacy" or "current"
    merging_noted: bool  # by the file; otherwise it is the argument, or assumed
    loaded: Mapping[str, str]  # {name in the file: name in the network}; of the head only the rows in ``head``, if any
    dropped: Mapping[str, str]  # {name in the file: reason}
    left_random: Mapping[str, str]  # {name in the network: reason}
    ignored: tuple[str, ...] = ()  # names of entries that are not tensors, such as "epoch"
    head: HeadRows | None = None  # None if the names of the classes were not compared, or if no row was loaded
    unused: tuple[str, ...] = ()  # keys of further networks in the file, such as "ema", which were not loaded
    names_compared: bool = False  # whether the names of the network's classes were given

    def tables(self) -> list[Table]:
        """Return a table of the number of tensors loaded per part, with notes about the others."""
        loaded = Counter(part_of(name) for name in self.loaded.values())
        totals = loaded + Counter(part_of(name) for name in self.left_random)
        titles = {part: part for part in PARTS}
        if self.head and self.head.left_random:
            classes = len(self.head.kept) + len(self.head.left_random)
            titles["head"] = f"head, {len(self.head.kept)} of {classes} classes"
        rows = [(titles[part], f"{loaded[part]} of {totals[part]}") for part in PARTS if totals[part]]
        notes = [f"patch merging: {self.merging}" + ("" if self.merging_noted else UNNOTED[self.merging])]
        if self.head:
            rows_by_kind = {"kept": self.head.kept, "dropped": self.head.dropped, "stay random": self.head.left_random}
            notes += [f"rows of the head, {kind}: {first_classes(row)}" for kind, row in rows_by_kind.items() if row]
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


def fit(
    checkpoint: Checkpoint, model: SwinUNETR, decoder: bool = True, classes: Sequence[str] | None = None
) -> LoadReport:
    """Return what has to happen to each tensor of a file and of a network, which may be without values.

    ``decoder`` and ``classes`` are as in ``load_pretrained``.

    Raises:
        CheckpointError: The file is of a network of another size or merging, or tensors are missing or of other shapes.
    """
    tensors = model.state_dict()
    _require_traits(checkpoint, traits_of(tensors) | {"merging": merging_of(model)})

    # Left out are parts that were not requested, and a head that was made for other classes.
    head = match_classes(checkpoint.classes, classes) if classes and checkpoint.classes else None
    other_head = _head_for_other_classes(checkpoint, tensors, head)
    unwanted_parts = set() if decoder else {"decoder", "head"}
    unwanted = [name for name, target in checkpoint.placed.items() if part_of(target) in unwanted_parts]
    not_requested = "the decoder was not requested"
    left_out = other_head | dict.fromkeys(unwanted, not_requested)
    loaded = {name: target for name, target in checkpoint.placed.items() if name not in left_out}

    # All others have to be there, in the shapes of the network.
    shapes = {target: tuple(checkpoint.tensors[name].shape) for name, target in loaded.items()}
    if head and classes:
        shapes |= {target: (len(classes), *shape[1:]) for target, shape in shapes.items() if part_of(target) == "head"}
    required = checkpoint.family.covers - unwanted_parts - ({"head"} if other_head else set())
    needed = {name: tuple(tensors[name].shape) for name in tensors if name in shapes or part_of(name) in required}
    expected = "all tensors of MONAI's SwinUNETR, of its default options"
    _require_equal(checkpoint, shapes, needed, expected, OTHER_WEIGHTS)

    # What the network has and the file has not.
    missing: dict[str | None, str] = dict.fromkeys(unwanted_parts, not_requested)
    missing["head"] = "head for the classes of your data"
    reasons = {name: missing.get(part_of(name), "not in this checkpoint") for name in tensors if name not in shapes}
    return LoadReport(
        file=checkpoint.file,
        family=checkpoint.family.name,
        title=checkpoint.family.title,
        merging=checkpoint.traits["merging"],
        merging_noted=checkpoint.notes.get("patch_merging") in MERGING,
        loaded=loaded,
        dropped={**checkpoint.dropped, **left_out},
        left_random={name: f"{reason}; trained in fine-tuning" for name, reason in reasons.items()},
        ignored=checkpoint.ignored,
        unused=checkpoint.unused,
        names_compared=bool(classes),
        head=head if any(part_of(target) == "head" for target in loaded.values()) else None,
    )


def match_classes(in_file: Sequence[str], in_network: Sequence[str]) -> HeadRows:
    """Return which rows of a file's head belong to which rows of a network's head.

    Names agree if they are equal in lower case with each run of spaces, underscores and hyphens as one space:
    ``"Left_Kidney"`` is ``"left kidney"``. Where this makes two names of one list equal, such as ``"T1"`` and ``"t1"``,
    they must agree exactly. A name that is twice in one list agrees with none, since either row could be meant.

    Args:
        in_file: Names of the classes in the file, in the order of their rows.
        in_network: The same of the network.
    """
    counts = [Counter(map(_plain, names)) for names in (in_file, in_network)]
    unclear = {name for count in counts for name in count if count[name] > 1}
    file_rows, network_rows = (_rows_by_name(names, unclear) for names in (in_file, in_network))
    rows = {row: file_rows[name] for name, row in network_rows.items() if name in file_rows}
    return HeadRows(
        rows=rows,
        kept=tuple(in_network[row] for row in rows),
        dropped=tuple(name for row, name in enumerate(in_file) if row not in rows.values()),
        left_random=tuple(name for row, name in enumerate(in_network) if row not in rows),
    )


def require_classes(checkpoint: str | os.PathLike, classes: Sequence[str]) -> None:
    """Check that the head of a checkpoint has these classes and no others, so that it can be used without training.

    A class that the head lacks would start at random. A class that only the head has would lose its row, and its voxels
    would go to other classes. The order does not matter where the file notes the names of its classes, see
    ``match_classes``; without names their number is compared.

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
        problem = f"weights that were not trained for {first_classes(head.left_random)}"
        problem += f", but for {first_classes(head.dropped)}" if head.dropped else ""
    elif head and head.dropped:
        problem = f"weights that were also trained for {first_classes(head.dropped)}"
    else:
        return
    raise refusal(
        source.file,
        problem,
        f"weights for the {len(classes)} classes in the JSON and no others, since evaluate_only does not train",
        "Correct the labels in the JSON (label files need not contain every class), or train without evaluate_only.",
    )


def _require_traits(checkpoint: Checkpoint, traits: Mapping[str, object]) -> None:
    """Check that a file is of a network of these traits."""
    remedy = f"Use build_swinunetr(classes, {str(checkpoint.file)!r}), with in_channels as in the file"
    if checkpoint.traits["merging"] != traits["merging"]:
        remedy += ", and the same merging in load_pretrained"
    _require_equal(checkpoint, checkpoint.traits, traits, "a checkpoint that fits the network", f"{remedy}.")


def _require_equal(checkpoint: Checkpoint, in_file: Mapping, in_network: Mapping, expected: str, remedy: str) -> None:
    """Check that the traits or shapes of a file are those of the network, each by its name."""
    pairs = {key: (in_file.get(key, "missing"), in_network.get(key, "missing")) for key in {**in_file, **in_network}}
    if differing := [f"{key} is {a}, but {b} in the network" for key, (a, b) in pairs.items() if a != b]:
        raise refusal(checkpoint.file, f"{checkpoint.family.title}, where {first_few(differing)}", expected, remedy)


def _head_for_other_classes(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], head: HeadRows | None
) -> dict[str, str]:
    """Return ``{name in the file: reason}`` for a head of which nothing is loaded because of its classes.

    Without the names in ``head`` this is a head with another number of classes than the network's.
    """
    reasons, named_classes = {}, checkpoint.classes or ()
    for name, target in checkpoint.placed.items():
        if part_of(target) == "head" and target in tensors:
            in_file, in_network = first_size(checkpoint.tensors[name]), first_size(tensors[target])
            if head and in_file != len(named_classes):
                reasons[name] = f"made for {in_file} classes, but the file names {len(named_classes)}"
            elif head and not head.rows:
                reasons[name] = f"made for other classes: {first_classes(named_classes)}"
            elif not head and in_file != in_network:
                reasons[name] = f"made for {in_file} classes; the network has {in_network}"
    return reasons


def _rows_by_name(names: Sequence[str], unclear: set[str]) -> dict[object, int]:
    """Return the row of each name that is once in a list; a name whose plain form is unclear counts as it is."""
    compared = [(name,) if _plain(name) in unclear else _plain(name) for name in names]
    return {name: row for row, name in enumerate(compared) if compared.count(name) == 1}


def _plain(name: str) -> str:
    """Return the form of a class name that is compared; a name of separators only is compared as it is."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() or name
