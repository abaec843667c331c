"""The SwinUNETR that a checkpoint belongs to, loaded whole or not at all, and saved with a note of its training.

A checkpoint is read without running code and recognised by all of its tensor names. Every tensor of file and network is
accounted for; what does not fit is refused with a :class:`CheckpointError`.
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

from swinunetr.checkpoint_layouts import PARTS, SSL_50K, SSL_50K_FILE, Family, part_of, recognise, refusal, some
from swinunetr.errors import CheckpointError
from swinunetr.files import replacing, stand_in
from swinunetr.network import MERGING, merging_of, traits_of
from swinunetr.tables import Shown, Table

SSL_50K_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SSL_50K_FILE}"
SSL_50K_SHA256 = "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8"
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
    """Build the SwinUNETR that the weights in `checkpoint` belong to, v1 or v2; :func:`load_pretrained` loads them.

    classes: output channels, background counted.
    feature_size, window_size: None takes the checkpoint's, or 48 and 7 without one.
    use_checkpoint: activation checkpointing, which trades time for memory; it has nothing to do with `checkpoint`.
    merging: patch merging order, "legacy" (MONAI 0.9 to 1.4) or "current" (1.5 and later). None takes what the file
        says; a file that does not say is taken for legacy; without a file it is current.
    Raises CheckpointError if the checkpoint does not fit into such a network.
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
        _plan(source, model)  # refuses arguments that contradict the file
    return model


@dataclass(frozen=True, repr=False)
class LoadReport(Shown):
    """Account for all tensors: a file's are in `loaded` or `dropped`, a model's in `loaded` or `left_random`.

    family, title: short name and words for what the file seems to be. merging: "legacy" or "current".
    loaded: {source name: model name}. dropped: {source name: reason}. left_random: {model name: reason}.
    ignored: names of entries that are no tensors, such as `epoch`.
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
        """Return how many tensors of each part were loaded, and what happened to the others."""
        loaded, random = (Counter(map(part_of, names)) for names in (self.loaded.values(), self.left_random))
        totals = loaded + random
        rows = [(part, f"{loaded[part]} of {totals[part]}") for part in PARTS if totals[part]]
        notes = [f"patch merging: {self.merging}"]
        for what, reasons in (("dropped", self.dropped), ("stays random", self.left_random)):
            for reason in dict.fromkeys(reasons.values()):
                notes.append(f"{what}: {some(name for name in reasons if reasons[name] == reason)}: {reason}")
        if self.ignored:
            notes.append(f"ignored, as no tensors: {some(self.ignored)}")
        title = f"{self.file.name} seems to be {self.title}."
        return [Table(("part", "tensors loaded"), rows, notes, title)]


def load_pretrained(
    model: SwinUNETR, checkpoint: str | os.PathLike, *, merging: str | None = None, decoder: bool = True
) -> LoadReport:
    """Load a public SwinUNETR checkpoint of any layout into `model`, whole or not at all.

    decoder: False leaves decoder and head as they are, for a decoder that learnt another task than segmentation.
    merging: as in :func:`build_swinunetr`, for a file that does not say with which order it was trained.
    Raises CheckpointError, with the model unchanged, if the file is not safe, whole, known and of the same build.
    """
    if not isinstance(model, SwinUNETR):
        raise TypeError(f"expected monai's SwinUNETR without a wrapper, found {type(model).__name__}")
    source = _open(checkpoint, merging)
    report = _plan(source, model, decoder)
    bounds = {name: source.tensors[name].aminmax() for name in report.loaded}  # NaN spreads; isfinite makes copies
    if broken := [name for name, (low, high) in bounds.items() if not (low.isfinite() and high.isfinite())]:
        raise refusal(source.file, f"{report.title} with NaN or infinity in {some(broken)}")
    own = model.state_dict()
    with torch.no_grad():
        for name, target in report.loaded.items():
            own[target].copy_(source.tensors[name])  # casts, and moves to the model's device
    return report


@dataclass(frozen=True)
class _Source:
    """Hold what a file contains: each of its tensors has a model name in `placed` or a reason in `dropped`."""

    file: Path
    family: Family
    tensors: Mapping[str, Tensor]
    placed: Mapping[str, str]
    dropped: Mapping[str, str]
    ignored: tuple[str, ...]
    traits: Mapping[str, object]


def _open(checkpoint: str | os.PathLike, merging: str | None) -> _Source:
    """Read and recognise a file; `merging` is the order of a file that does not say its own, None means legacy."""
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


def _note(entries: Mapping, name: str) -> object:
    """Return what `save_weights` noted under a name; None if there is no such note."""
    metadata = getattr(entries, "_metadata", None)
    return metadata.get("", {}).get(name) if isinstance(metadata, Mapping) else None


def _unwrap(file: Path, content: Mapping) -> tuple[Mapping, dict[str, Tensor], tuple[str, ...]]:
    """Return the dictionary that holds the tensors, the tensors alone, and the names of all that is not a tensor."""
    wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    entries = content if wrapper is None else content[wrapper]
    tensors = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise refusal(file, _tensorless(content), f"tensors by name, bare or in one of {WRAPPERS}")
    return entries, tensors, tuple(str(name) for name in content | entries if name not in tensors and name != wrapper)


def _existing(checkpoint: str | os.PathLike) -> Path:
    file = Path(checkpoint).expanduser()
    if file.is_file():
        return file
    found = "a folder" if file.is_dir() else "a path with no file at its end"
    raise refusal(file, found, remedy=f"Give the path of a file, or find_checkpoint({SSL_50K!r}).")


def _not_weights(file: Path) -> str | None:
    """Say what a file is that ``torch.save`` cannot have written; None if it may have."""
    if found := stand_in(file):
        return found[0]
    with file.open("rb") as opened:
        start = opened.read(64)
    if re.match(rb".{8}\s*\{", start, re.DOTALL):  # eight bytes of length, then JSON
        return "a safetensors file"
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return "a PyTorch file that was cut off"
    members = {Path(name).name for name in zipfile.ZipFile(file).namelist()}
    if "constants.pkl" in members:
        return "a TorchScript program"
    return None if "data.pkl" in members else "a zip archive of something else"


def _read(file: Path) -> Mapping:
    """Return the dictionary in `file` without running code, its tensors mapped into memory where the format allows."""
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


def _numpy_globals() -> list:
    """List what numpy scalars and arrays beside the tensors are made of, by the names of numpy 1 and 2."""
    makers = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    named = [(make, f"numpy.{core}.multiarray.{make.__name__}") for make in makers for core in ("core", "_core")]
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in codes}]


def _unreadable(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked is None:
        return "a damaged file, or none of PyTorch's"
    if asked[1].startswith(("torch.nn.", "monai.")):
        return f"a whole pickled module ({asked[1]}) in place of its state_dict()"
    return f"a pickle that would run code ({asked[1]}), which did not run"


def _tensorless(content: Mapping) -> str:
    if any("param_groups" in part for part in (content, *content.values()) if isinstance(part, Mapping)):
        return "the state of an optimizer"
    return f"a dictionary without a network's tensors (it has {some(content) or 'nothing'})"


def _plan(source: _Source, model: SwinUNETR, decoder: bool = True) -> LoadReport:
    """Decide what happens to each tensor of file and model, and refuse what does not fit; change nothing."""
    own, family = model.state_dict(), source.family
    unwanted = set() if decoder else {"decoder", "head"}
    passed_by = {name: "not asked for" for name, target in source.placed.items() if part_of(target) in unwanted}
    foreign = _foreign_head(source, own) | passed_by
    loaded = {name: target for name, target in source.placed.items() if name not in foreign}
    theirs = {target: tuple(source.tensors[name].shape) for name, target in loaded.items()}
    covered = (family.covers - {"head"} if foreign else family.covers) - unwanted
    ours = {name: tuple(own[name].shape) for name in own if name in theirs or part_of(name) in covered}
    traits = traits_of(own) | {"merging": merging_of(model)}
    if wrong := _differences(source.traits, traits) or _differences(theirs, ours):
        remedy = f"Use build_swinunetr(classes, {str(source.file)!r}), with in_channels as in the file."
        raise refusal(source.file, f"{family.title}, where {some(wrong)}", "what the network has", remedy)
    random = {name: _why_random(name, unwanted) for name in own if name not in theirs}
    fate = loaded, source.dropped | foreign, random
    return LoadReport(source.file, family.name, family.title, source.traits["merging"], *fate, source.ignored)


def _foreign_head(source: _Source, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {source name: reason} for the head of a file that was made for another number of classes."""
    head = {name: target for name, target in source.placed.items() if part_of(target) == "head" and target in own}
    classes = {name: (source.tensors[name].shape[0], own[target].shape[0]) for name, target in head.items()}
    reason = "made for {} classes, where the network has {}"
    return {name: reason.format(*both) for name, both in classes.items() if both[0] != both[1]}


def _differences(theirs: Mapping, ours: Mapping) -> list[str]:
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    return [f"{key} is {theirs.get(key, 'missing')}, not {ours.get(key, 'missing')}" for key in keys]


def _why_random(name: str, unwanted: set[str]) -> str:
    if part_of(name) == "head":
        return "its classes are your own; fine-tuning teaches them"
    if part_of(name) in unwanted:
        return "no decoder was asked for; fine-tuning teaches it"
    return "this pre-training had no such blocks; fine-tuning teaches them"


def encoder_response(model: SwinUNETR, image: Tensor) -> list[Tensor]:
    """Return what the Swin encoder makes of `image` (B, C, X, Y, Z): five maps, each half as fine as the one before."""
    with torch.no_grad():
        return [features.float().cpu() for features in model.swinViT(image, model.normalize)]


def response_changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    """Return how far each stage of an encoder answers otherwise, as a share of its answer before."""
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def compare_responses(before: list[Tensor], after: list[Tensor]) -> str:
    """Say how far each stage of the encoder answers otherwise than before the weights were loaded.

    Raises CheckpointError if a stage answers as before, which means that its weights did not arrive.
    """
    changes = response_changes(before, after)
    if 0 in changes:
        raise CheckpointError(
            f"Stage {changes.index(0)} of the encoder answers as before: no pretrained weights there."
        )
    return "\n".join(f"encoder stage {i}: response changed by {change:.0%}" for i, change in enumerate(changes))


def save_weights(model: SwinUNETR, path: str | os.PathLike, note: Mapping | None = None) -> None:
    """Write the state_dict of `model`, on the CPU, so that `path` holds either its old content or all of the new.

    Plain MONAI takes it: `SwinUNETR(...).load_state_dict(torch.load(path, weights_only=True))`. The patch merging order
    and `made_by`, plain values that say how the weights came about, are noted in the state_dict's `_metadata`, which
    torch keeps and MONAI does not read; :func:`made_by` gives them back.
    """
    own = model.state_dict()
    state = OrderedDict((name, tensor.cpu().contiguous()) for name, tensor in own.items())
    state._metadata = own._metadata
    state._metadata[""] |= {"patch_merging": merging_of(model), "made_by": dict(note or {})}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def training_note(checkpoint: str | os.PathLike) -> dict:
    """Return how the weights in a file came about, as :func:`save_weights` noted it; empty for weights from elsewhere.

    Raises CheckpointError if the file can't be read.
    """
    file = _existing(checkpoint)
    entries, _, _ = _unwrap(file, _read(file))
    return dict(_note(entries, "made_by") or {})


def find_checkpoint(name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the path of a checkpoint; the short name "ssl_50k" is downloaded once, and checked each time.

    cache_dir: where the download is kept; None means `checkpoints` in the folder of torch.hub.
    Raises CheckpointError if there is no such file, it cannot be fetched, or its sha256 is wrong.
    """
    if str(name_or_path) != SSL_50K:
        return _existing(name_or_path)
    file = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints")).expanduser() / SSL_50K_FILE
    if not file.exists():
        _download_ssl_50k(file)
    elif not check_hash(file, SSL_50K_SHA256, "sha256"):
        raise refusal(file, "a half or changed file", f"sha256 {SSL_50K_SHA256}", f"Delete it, or fetch {SSL_50K_URL}")
    return file


def _download_ssl_50k(file: Path) -> None:
    """Fetch into a folder beside `file`, then rename: download_url copies across disks, and may stop half-way."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder, SSL_50K_FILE)
            download_url(SSL_50K_URL, part, hash_val=SSL_50K_SHA256, hash_type="sha256", progress=True)
            os.replace(part, file)
    except (OSError, RuntimeError, ValueError) as error:  # a wrong hash is one or the other, by MONAI's version
        expected = f"{SSL_50K_FILE}, about 719 MB, sha256 {SSL_50K_SHA256}"
        remedy = f"Fetch {SSL_50K_URL} where there is a network, and put it there."
        raise refusal(file, f"a file that could not be downloaded ({error})", expected, remedy) from error
