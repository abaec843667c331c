"""Build the SwinUNETR that fits a checkpoint, load the checkpoint into it, and save weights.

A checkpoint is read without running code and recognised by the names of all its tensors. Every tensor of the file and
of the network is accounted for. A checkpoint that does not fit raises a ``CheckpointError`` and changes nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.apps.utils import check_hash, download_url
from monai.networks.nets import SwinUNETR
from torch import Tensor

from swinunetr.checkpoint_layouts import PARTS, SSL_50K, SSL_50K_FILE, Family, first_few, part_of, recognise, refusal
from swinunetr.errors import CheckpointError
from swinunetr.files import replacing, stand_in
from swinunetr.network import MERGING, merging_of, traits_of
from swinunetr.tables import Shown, Table

# The checkpoint that can be downloaded.
SSL_50K_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SSL_50K_FILE}"
SSL_50K_SHA256 = "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8"

# Keys under which training code stores the tensors.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network_weights")


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
        CheckpointError: The file cannot be read, is not a known checkpoint, or contradicts an argument.
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
    model: SwinUNETR, checkpoint: str | os.PathLike, *, merging: str | None = None, decoder: bool = True
) -> LoadReport:
    """Load a SwinUNETR checkpoint of any known layout into ``model``, completely or not at all.

    Args:
        model: A network of the same size as in the checkpoint, see ``build_swinunetr``.
        checkpoint: Path of the checkpoint.
        merging: As in ``build_swinunetr``.
        decoder: False leaves the decoder and the head unchanged, for a decoder that was trained for another task than
            segmentation.

    Returns:
        What happened to each tensor of the file and of the network.

    Raises:
        CheckpointError: The file cannot be read safely, is incomplete or unknown, contains NaN or infinity, or belongs
            to a network of another size or merging. The network is unchanged.
        TypeError: ``model`` is not a SwinUNETR, for example because it is wrapped in DistributedDataParallel.
    """
    if not isinstance(model, SwinUNETR):
        raise TypeError(f"expected monai's SwinUNETR without a wrapper, found {type(model).__name__}")
    source = _open(checkpoint, merging)
    report = _plan(source, model, decoder)
    bounds = {name: source.tensors[name].aminmax() for name in report.loaded}  # both NaN if any value is; no copies
    if broken := [name for name, (low, high) in bounds.items() if not (low.isfinite() and high.isfinite())]:
        raise refusal(source.file, f"{report.title} with NaN or infinity in {first_few(broken)}")
    own = model.state_dict()
    with torch.no_grad():
        for name, target in report.loaded.items():
            own[target].copy_(source.tensors[name])  # converts to the dtype and the device of the network
    return report


@dataclass(frozen=True, repr=False)
class LoadReport(Shown):
    """What happened to each tensor of a file (loaded or dropped) and of a network (loaded or left random).

    Attributes:
        file: Path of the checkpoint.
        family: Short name of the layout.
        title: Description of the layout.
        merging: ``"legacy"`` or ``"current"``.
        loaded: ``{name in the file: name in the network}``.
        dropped: ``{name in the file: reason}``.
        left_random: ``{name in the network: reason}``.
        ignored: Names of entries that are not tensors, such as ``epoch``.
    """

    file: Path
    family: str
    title: str
    merging: str
    loaded: Mapping[str, str]
    dropped: Mapping[str, str]
    left_random: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """Return a table of the number of tensors loaded per part, with notes about the others."""
        loaded = Counter(part_of(name) for name in self.loaded.values())
        totals = loaded + Counter(part_of(name) for name in self.left_random)
        rows = [(part, f"{loaded[part]} of {totals[part]}") for part in PARTS if totals[part]]
        notes = [f"patch merging: {self.merging}"]
        for heading, reasons in (("dropped", self.dropped), ("stays random", self.left_random)):
            for reason in dict.fromkeys(reasons.values()):
                names = [name for name in reasons if reasons[name] == reason]
                notes.append(f"{heading}: {first_few(names)}: {reason}")
        if self.ignored:
            notes.append(f"ignored, not tensors: {first_few(self.ignored)}")
        title = f"{self.file.name} seems to be {self.title}."
        return [Table(("part", "tensors loaded"), rows, notes, title)]


@dataclass(frozen=True)
class _Source:
    """Content of a checkpoint; each of its tensors is a key of either ``placed`` or ``dropped``."""

    file: Path
    family: Family
    tensors: Mapping[str, Tensor]
    placed: Mapping[str, str]
    dropped: Mapping[str, str]
    ignored: tuple[str, ...]
    traits: Mapping[str, object]


def _open(checkpoint: str | os.PathLike, merging: str | None) -> _Source:
    """Read and recognise a file; ``merging`` is used if the file does not note its own, None means legacy."""
    file = _existing(checkpoint)
    entries, tensors, ignored = _unwrap(file, _read(file))
    family, placed, dropped = recognise(file, list(tensors))
    try:
        traits = traits_of({target: tensors[name] for name, target in placed.items()})
    except KeyError as absent:
        raise refusal(file, f"{family.title} without {absent}") from absent
    noted = _note(entries, "patch_merging")
    traits["merging"] = noted if noted in MERGING else merging or "legacy"
    return _Source(file, family, tensors, placed, dropped, ignored, traits)


def _existing(checkpoint: str | os.PathLike) -> Path:
    file = Path(checkpoint).expanduser()
    if file.is_file():
        return file
    found = "a folder" if file.is_dir() else "a path where there is no file"
    raise refusal(file, found, remedy=f"Give the path of a file, or find_checkpoint({SSL_50K!r}).")


def _read(file: Path) -> Mapping:
    """Return the dictionary in a file without running code, with tensors memory-mapped where the format allows."""
    if found := _not_weights(file):
        raise refusal(file, found)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        raise refusal(file, _unreadable(error)) from error
    if not isinstance(content, Mapping):
        raise refusal(file, f"a saved {type(content).__name__}")
    return content


def _not_weights(file: Path) -> str | None:
    """Return what a file is if its first bytes show that ``torch.save`` did not write it, else None."""
    if found := stand_in(file):
        return found[0]
    with file.open("rb") as opened:
        start = opened.read(64)
    if re.match(rb".{8}\s*\{", start, re.DOTALL):  # eight bytes of length, then JSON
        return "a safetensors file"
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return "an incomplete PyTorch file"
    members = {Path(name).name for name in zipfile.ZipFile(file).namelist()}
    if "constants.pkl" in members:
        return "a TorchScript program"
    return None if "data.pkl" in members else "a zip archive of something else"


def _numpy_globals() -> list:
    """Return the numpy functions and classes that ``torch.load`` may use for numbers and arrays beside the tensors."""
    make_scalar, make_array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    allowed = [np.ndarray, np.dtype]
    for function in (make_scalar, make_array):
        for core in ("core", "_core"):  # the names in files of numpy 1 and of numpy 2
            allowed.append((function, f"numpy.{core}.multiarray.{function.__name__}"))
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return allowed + list({type(np.dtype(code)) for code in codes})


def _unreadable(error: Exception) -> str:
    """Return what a file is that ``torch.load`` refused."""
    needed = re.search(r"GLOBAL (\S+)", str(error))
    if needed is None:
        return "a damaged file, or not a PyTorch file"
    if needed[1].startswith(("torch.nn.", "monai.")):
        return f"a pickled module ({needed[1]}) instead of its state_dict()"
    return f"a pickle that would run code ({needed[1]}), which did not run"


def _unwrap(file: Path, content: Mapping) -> tuple[Mapping, dict[str, Tensor], tuple[str, ...]]:
    """Return the dictionary that contains the tensors, the tensors alone, and the names of all other entries."""
    wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    entries = content if wrapper is None else content[wrapper]
    tensors = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise refusal(file, _without_tensors(content), f"named tensors, at the top level or in one of {WRAPPERS}")
    return entries, tensors, tuple(str(name) for name in content | entries if name not in tensors and name != wrapper)


def _without_tensors(content: Mapping) -> str:
    """Return what a dictionary without named tensors is."""
    if any("param_groups" in part for part in (content, *content.values()) if isinstance(part, Mapping)):
        return "the state of an optimizer"
    return f"a dictionary without a network's tensors (it has {first_few(content) or 'nothing'})"


def _note(entries: Mapping, name: str) -> object:
    """Return what ``save_weights`` noted under a name, None if there is no such note."""
    metadata = getattr(entries, "_metadata", None)
    return metadata.get("", {}).get(name) if isinstance(metadata, Mapping) else None


def _plan(source: _Source, model: SwinUNETR, decoder: bool = True) -> LoadReport:
    """Decide what happens to each tensor of the file and of the network; change nothing, raise if they do not fit."""
    own, family = model.state_dict(), source.family
    skipped_parts = set() if decoder else {"decoder", "head"}
    skipped = {
        name: "the decoder was not requested"
        for name, target in source.placed.items()
        if part_of(target) in skipped_parts
    }
    other_head = _head_for_other_classes(source, own)
    dropped = other_head | skipped
    loaded = {name: target for name, target in source.placed.items() if name not in dropped}

    required = family.covers - skipped_parts - ({"head"} if other_head else set())
    shapes = {target: tuple(source.tensors[name].shape) for name, target in loaded.items()}
    own_shapes = {name: tuple(own[name].shape) for name in own if name in shapes or part_of(name) in required}
    own_traits = traits_of(own) | {"merging": merging_of(model)}
    if wrong := _differences(source.traits, own_traits) or _differences(shapes, own_shapes):
        raise refusal(
            source.file,
            f"{family.title}, where {first_few(wrong)}",
            "a checkpoint that fits the network",
            f"Use build_swinunetr(classes, {str(source.file)!r}), with in_channels as in the file.",
        )
    return LoadReport(
        file=source.file,
        family=family.name,
        title=family.title,
        merging=source.traits["merging"],
        loaded=loaded,
        dropped=source.dropped | dropped,
        left_random={name: _why_random(name, skipped_parts) for name in own if name not in shapes},
        ignored=source.ignored,
    )


def _head_for_other_classes(source: _Source, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return ``{name in the file: reason}`` for a head with another number of classes than the network's."""
    head = {}
    for name, target in source.placed.items():
        if part_of(target) == "head" and target in own:
            classes, own_classes = source.tensors[name].shape[0], own[target].shape[0]
            if classes != own_classes:
                head[name] = f"made for {classes} classes; the network has {own_classes}"
    return head


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


def training_note(checkpoint: str | os.PathLike) -> dict:
    """Return the note that ``save_weights`` wrote into a file; it is empty for weights from elsewhere.

    Raises:
        CheckpointError: The file cannot be read.
    """
    file = _existing(checkpoint)
    entries, _, _ = _unwrap(file, _read(file))
    return dict(_note(entries, "made_by") or {})


def find_checkpoint(name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the path of a checkpoint.

    Args:
        name_or_path: A path, or ``"ssl_50k"``, which is downloaded once; its sha256 is checked on each call.
        cache_dir: Folder of the download; None uses ``checkpoints`` in the folder of ``torch.hub``.

    Raises:
        CheckpointError: There is no such file, it cannot be downloaded, or its sha256 is wrong.
    """
    if str(name_or_path) != SSL_50K:
        return _existing(name_or_path)
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
