"""Which tensor of a checkpoint goes where in a network, and the report about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.network.checkpoints.classes import MOST_NAMES, HeadRows, match_classes
from swinunetr.network.checkpoints.recognition import OTHER_WEIGHTS, Checkpoint, first_size
from swinunetr.network.design import traits_of
from swinunetr.network.layouts import PARTS, first_few, part_of, refusal
from swinunetr.network.merging import MERGING, merging_of
from swinunetr.tables import Shown, Table

UNNOTED = {  # what the report says of the order of patch merging that a file does not note
    "legacy": ', assumed, as the file notes none; weights trained with MONAI 1.5 or later need merging="current"',
    "current": ", as given; the file notes none",
}


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


def fit(
    checkpoint: Checkpoint, model: SwinUNETR, decoder: bool = True, classes: Sequence[str] | None = None
) -> LoadReport:
    """Return what has to happen to each tensor of a file and of a network, which may be without values.

    Args:
        checkpoint: The file.
        model: The network, which is not changed.
        decoder: False leaves out the decoder and the head.
        classes: Names of the output channels of the network; None compares their number only.

    Raises:
        CheckpointError: The file is of a network of another size or merging, or tensors are missing or of other shapes.
    """
    tensors, family = model.state_dict(), checkpoint.family
    _require_traits(checkpoint, traits_of(tensors) | {"merging": merging_of(model)})

    # Left out are parts that were not requested, and a head that was made for other classes.
    head = match_classes(checkpoint.classes, classes) if classes and checkpoint.classes else None
    other_head = _head_for_other_classes(checkpoint, tensors, head)
    unwanted_parts = set() if decoder else {"decoder", "head"}
    unwanted = [name for name, target in checkpoint.placed.items() if part_of(target) in unwanted_parts]
    left_out = other_head | dict.fromkeys(unwanted, "the decoder was not requested")
    loaded = {name: target for name, target in checkpoint.placed.items() if name not in left_out}

    # All others have to be there, in the shapes of the network.
    shapes = {target: tuple(checkpoint.tensors[name].shape) for name, target in loaded.items()}
    if head:
        shapes |= {target: (len(classes), *shape[1:]) for target, shape in shapes.items() if part_of(target) == "head"}
    required = family.covers - unwanted_parts - ({"head"} if other_head else set())
    _require_shapes(checkpoint, shapes, tensors, required)
    return LoadReport(
        file=checkpoint.file,
        family=family.name,
        title=family.title,
        merging=checkpoint.traits["merging"],
        merging_noted=checkpoint.weights.notes.get("patch_merging") in MERGING,
        loaded=loaded,
        dropped=checkpoint.dropped | left_out,
        left_random={name: _why_random(name, unwanted_parts) for name in tensors if name not in shapes},
        ignored=checkpoint.weights.ignored,
        unused=checkpoint.weights.unused,
        names_compared=bool(classes),
        head=head if any(part_of(target) == "head" for target in loaded.values()) else None,
    )


def _require_traits(checkpoint: Checkpoint, traits: Mapping[str, object]) -> None:
    """Check that a file is of a network of these traits."""
    if differing := _differences(checkpoint.traits, traits):
        again = f"Use build_swinunetr(classes, {str(checkpoint.file)!r}), with in_channels as in the file"
        other_merging = checkpoint.traits["merging"] != traits["merging"]
        raise refusal(
            checkpoint.file,
            f"{checkpoint.family.title}, where {first_few(differing)}",
            "a checkpoint that fits the network",
            again + (", and the same merging in load_pretrained." if other_merging else "."),
        )


def _require_shapes(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple], tensors: Mapping[str, Tensor], required: set[str]
) -> None:
    """Check that what is loaded has the shapes of the network's tensors, and that no required part lacks one."""
    needed = {name: tuple(tensors[name].shape) for name in tensors if name in shapes or part_of(name) in required}
    if differing := _differences(shapes, needed):
        problem = f"{checkpoint.family.title}, where {first_few(differing)}"
        raise refusal(
            checkpoint.file, problem, "all tensors of MONAI's SwinUNETR, of its default options", OTHER_WEIGHTS
        )


def _differences(in_file: Mapping, in_network: Mapping) -> list[str]:
    """Return one text per key whose value in the file is not that in the network."""
    keys = [key for key in in_file | in_network if in_file.get(key) != in_network.get(key)]
    return [
        f"{key} is {in_file.get(key, 'missing')}, but {in_network.get(key, 'missing')} in the network" for key in keys
    ]


def _head_for_other_classes(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], head: HeadRows | None
) -> dict[str, str]:
    """Return ``{name in the file: reason}`` for a head of which nothing is loaded because of its classes.

    Without the names in ``head`` this is a head with another number of classes than the network's.
    """
    reasons = {}
    for name, target in checkpoint.placed.items():
        if part_of(target) == "head" and target in tensors:
            in_file, in_network = first_size(checkpoint.tensors[name]), first_size(tensors[target])
            if head and in_file != len(checkpoint.classes):
                reasons[name] = f"made for {in_file} classes, but the file names {len(checkpoint.classes)}"
            elif head and not head.rows:
                reasons[name] = f"made for other classes: {first_few(checkpoint.classes, MOST_NAMES)}"
            elif not head and in_file != in_network:
                reasons[name] = f"made for {in_file} classes; the network has {in_network}"
    return reasons


def _why_random(name: str, unwanted_parts: set[str]) -> str:
    if part_of(name) == "head":
        return "head for the classes of your data; trained in fine-tuning"
    if part_of(name) in unwanted_parts:
        return "the decoder was not requested; trained in fine-tuning"
    return "not in this checkpoint; trained in fine-tuning"
