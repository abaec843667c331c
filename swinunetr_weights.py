"""The SwinUNETR that a checkpoint belongs to, and every public checkpoint layout mapped onto it.

A checkpoint is read without running code, recognised by all of its tensor names, and loaded whole or not at all: every
tensor of file and network is accounted for, and what does not fit is refused with a :class:`CheckpointError`.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.apps.utils import check_hash, download_url
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor

from atomic_files import replacing
from user_errors import InputError

SSL_50K = "ssl_50k"
SSL_50K_FILE = "ssl_pretrained_weights.pth"
SSL_50K_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SSL_50K_FILE}"
SSL_50K_SHA256 = "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8"


class CheckpointError(InputError):
    """Refuse a file: the message names it, what it seems to be, what was expected and what to do."""


WEIGHTS, AGAIN = "the weights of a SwinUNETR, written by torch.save", "Download or export it again."


def _refusal(file: Path, found: str, expected: str = WEIGHTS, remedy: str = AGAIN) -> CheckpointError:
    return CheckpointError(f"{file}: this seems to be {found}. Expected {expected}. {remedy}")


# --- The network ------------------------------------------------------------------------------------------------------


class LegacyPatchMerging(PatchMerging):
    """Merge patches in the order of MONAI 0.9 to 1.4, with which the public checkpoints were trained.

    MONAI 1.5 changed slots 4 to 6 and kept names and shapes, so older weights load there and compute something else.
    Permuting weights cannot mend it, because the LayerNorm runs over the two slots that stand here twice.
    Source: https://github.com/Project-MONAI/MONAI/pull/8285
    """

    # Offsets along d, h, w of the eight sub-volumes, in the order in which their channels are concatenated.
    SLOTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Halve (B, D, H, W, C) to (B, D/2, H/2, W/2, 2C); odd sizes are padded with zeros at the end."""
        if x.ndim != 5:
            return super().forward(x)
        _, d, h, w, _ = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in self.SLOTS], -1)
        return self.reduction(self.norm(x))


MERGING = {"legacy": LegacyPatchMerging, "current": PatchMerging}


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


def _traits(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Read the constructor's arguments back from a SwinUNETR's tensors."""
    feature_size, in_channels = tensors["swinViT.patch_embed.proj.weight"].shape[:2]
    offsets = len(tensors["swinViT.layers1.0.blocks.0.attn.relative_position_bias_table"])  # (2 * window_size - 1)^3
    return {
        "feature_size": feature_size,
        "in_channels": in_channels,
        "window_size": (round(offsets ** (1 / 3)) + 1) // 2,
        "use_v2": any(_part(name) == "v2 blocks" for name in tensors),
    }


def _merging_of(model: SwinUNETR) -> str:
    kind = type(model.swinViT.layers1[0].downsample)
    for name, merging in MERGING.items():
        if kind is merging:
            return name
    raise ValueError(f"expected a network whose patch merging is one of {list(MERGING)}, found {kind.__name__}")


# --- The layouts ------------------------------------------------------------------------------------------------------

# Parts of a SwinUNETR. The dots matter: `encoder.` is a pre-training encoder, `encoder1.` a block of SwinUNETR.
PARTS = {
    "swinViT": r"swinViT\.(patch_embed|layers[1-4])\.",
    "v2 blocks": r"swinViT\.layers[1-4]c\.",
    "encoder": r"encoder(1|2|3|4|10)\.",
    "decoder": r"decoder[1-5]\.",
    "head": r"out\.",
}
SWIN, ENCODERS_V2 = {"swinViT"}, {"swinViT", "v2 blocks", "encoder"}
BODY = {"swinViT", "encoder", "decoder"}
WHOLE = BODY | {"head"}


@dataclass(frozen=True)
class Family:
    """Say how one kind of checkpoint names a SwinUNETR's tensors; all patterns match at the start of a name.

    covers: the parts that it holds whole. renames: (pattern, replacement). drops: (pattern, reason), for tensors that
    SwinUNETR has no use for.
    """

    name: str
    title: str
    covers: set[str]
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[tuple[str, str], ...] = ()


PRETEXT_HEADS = (r"(rotation_head|contrastive_head|convTrans3d|conv|proj_head)\.", "head of a pre-training task")
TEXT_HEADS = (r"(precls_conv|GAP|controller|text_to_vision)\.|organ_embedding$", "text-driven head, not SwinUNETR's")
LAST_NORM = (r"(encoder\.)?norm\.", "last norm of the pre-training encoder, which SwinUNETR does without")
MASK_TOKEN = (r"encoder\.mask_token$", "stood for masked patches in pre-training")
RECONSTRUCTION = (r"out\.", "1-channel head of pre-training: it rebuilds the image and segments nothing")
UNWRAPPED = ((r"encoder\.patch_embed\.", "swinViT.patch_embed."), (r"encoder\.(layers\d)\.0\.0\.", r"swinViT.\1.0."))
UNNAMED = ((r"(patch_embed|layers\d)\.", r"swinViT.\1."),)

# A file belongs to the first family that covers the same parts and has a place for each of its tensors.
FAMILIES = (
    Family("swinunetr", "a whole SwinUNETR (BTCV, BraTS, model zoo, or your own)", WHOLE),
    Family("swinunetr_v2", "a whole SwinUNETR v2 (VoComni, or your own)", WHOLE | {"v2 blocks"}),
    Family("universal", "a supervised SuPreM or CLIP-driven Universal Model", BODY, drops=(TEXT_HEADS,)),
    Family(SSL_50K, f"{SSL_50K_FILE}, from about 50,000 CT", BODY, UNWRAPPED, (MASK_TOKEN, LAST_NORM, RECONSTRUCTION)),
    Family("ssl_head", "a self-supervised Swin encoder (SSLHead, BrainSegFounder)", SWIN, drops=(PRETEXT_HEADS,)),
    Family("swinvit_5k", "model_swinvit.pt, from 5,050 CT", SWIN, UNNAMED, (PRETEXT_HEADS, LAST_NORM)),
    Family("voco", "the encoders of a SwinUNETR v2 pre-trained by VoCo", ENCODERS_V2, drops=(PRETEXT_HEADS,)),
)

# What training code wraps around names, and older spellings: seen across the families.
COMMON_RENAMES = (
    (r"((module|_orig_mod|student|backbone)\.)+", ""),
    (r"swin_vit\.", "swinViT."),
    (r"(.+\.mlp)\.fc([12])\.", r"\1.linear\2."),
)

# Other networks, by names that no SwinUNETR has.
STRANGERS = (
    (r"encoder\.patch_embed\.proj\.conv\d", "Disruptive Autoencoders, whose patch embedding and norms SwinUNETR lacks"),
    (r"vit\.", "a UNETR"),
    (r"patch_embedding\.|blocks\.\d+\.attn\.", "a plain vision transformer (ViT)"),
    (r"layers\.\d+\.blocks\.", "a 2D Swin transformer"),
    (r"(encoder|decoder)\.stages\.|conv_blocks_context\.", "an nnU-Net"),
    (r"input_block\.", "a DynUNet"),
    (r"convInit\.", "a SegResNet"),
    (r"layer1\.\d+\.|conv1\.weight$", "a ResNet"),
)


def _part(name: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.match(pattern, name)), None)


def _rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def _convert(family: Family, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Sort source names into placed {source: model name}, dropped {source: reason} and those without a place."""
    placed, dropped, homeless = {}, {}, []
    for source in names:
        bare = _rename(source, COMMON_RENAMES)
        target = _rename(bare, family.renames)
        reason = next((reason for pattern, reason in family.drops if re.match(pattern, bare)), None)
        if reason:
            dropped[source] = reason
        elif _part(target) and target not in placed.values():
            placed[source] = target
        else:
            homeless.append(source)
    return placed, dropped, homeless


def _recognise(file: Path, names: list[str]) -> tuple[Family, dict[str, str], dict[str, str]]:
    """Return the family, and what it places and drops, from all tensor names: neither the first nor the file's own."""
    bare = [_rename(name, COMMON_RENAMES) for name in names]
    for pattern, title in STRANGERS:
        if any(re.match(pattern, name) for name in bare):
            raise _refusal(file, f"the weights of {title}", remedy="Choose another file.")
    tried = [(family, *_convert(family, names)) for family in FAMILIES]
    for family, placed, dropped, homeless in tried:
        if not homeless and set(map(_part, placed.values())) == family.covers:
            return family, placed, dropped
    nearest, placed, _, homeless = min(tried, key=lambda attempt: len(attempt[3]))
    found = f"nearest to {nearest.title}" if placed else "another network, or a SwinUNETR with an unknown prefix"
    odd = f"no place for {_some(homeless)}" if homeless else f"no more than {_some(map(_part, placed.values()), 1)}"
    raise _refusal(file, f"{found}, but there is {odd}", remedy="Rename its tensors as MONAI's SwinUNETR names them.")


def _some(names: Iterable[object], limit: int = 4) -> str:
    names = list(map(str, names))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# --- Reading a file ---------------------------------------------------------------------------------------------------

WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network_weights")
IMPOSTORS = (  # by their first bytes
    (rb"$", "an empty file"),
    (rb"(\xef\xbb\xbf)?\s*<", "a saved web page"),
    (rb"version https://git-lfs", "a Git LFS pointer, which only stands for the file"),
    (rb".{8}\s*\{", "a safetensors file"),  # eight bytes of length, then JSON
)


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
    family, placed, dropped = _recognise(file, list(tensors))
    try:
        traits = _traits({target: tensors[name] for name, target in placed.items()})
    except KeyError as absent:
        raise _refusal(file, f"{family.title} without {absent}") from absent
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
        raise _refusal(file, _tensorless(content), f"tensors by name, bare or in one of {WRAPPERS}")
    return entries, tensors, tuple(str(name) for name in content | entries if name not in tensors and name != wrapper)


def _existing(checkpoint: str | os.PathLike) -> Path:
    file = Path(checkpoint).expanduser()
    if file.is_file():
        return file
    found = "a folder" if file.is_dir() else "a path with no file at its end"
    raise _refusal(file, found, remedy=f"Give the path of a file, or find_checkpoint({SSL_50K!r}).")


def _impostor(file: Path) -> str | None:
    """Say what a file is that `torch.save` cannot have written; None if it may have."""
    with file.open("rb") as opened:
        head = opened.read(64)
    for pattern, found in IMPOSTORS:
        if re.match(pattern, head, re.DOTALL):
            return found
    if not head.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return "a PyTorch file that was cut off"
    members = {Path(name).name for name in zipfile.ZipFile(file).namelist()}
    if "constants.pkl" in members:
        return "a TorchScript program"
    return None if "data.pkl" in members else "a zip archive of something else"


def _read(file: Path) -> Mapping:
    """Return the dictionary in `file` without running code, its tensors mapped into memory where the format allows."""
    if found := _impostor(file):
        raise _refusal(file, found)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        raise _refusal(file, _unreadable(error)) from error
    if not isinstance(content, Mapping):
        raise _refusal(file, f"a saved {type(content).__name__}")
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
    return f"a dictionary without a network's tensors (it has {_some(content) or 'nothing'})"


# --- Loading, saving, finding -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadReport:
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

    def __str__(self) -> str:
        lines = [f"{self.file.name} seems to be {self.title}.", f"{'patch merging':<14}{self.merging}"]
        loaded, random = list(map(_part, self.loaded.values())), list(map(_part, self.left_random))
        for part in PARTS:
            if total := loaded.count(part) + random.count(part):
                lines.append(f"{part:<14}{loaded.count(part):>3} of {total:>3} tensors loaded")
        for label, reasons in (("dropped", self.dropped), ("stays random", self.left_random)):
            for reason in dict.fromkeys(reasons.values()):
                lines.append(f"{label:<14}{_some(name for name in reasons if reasons[name] == reason)}: {reason}")
        return "\n".join([*lines, f"{'ignored':<14}{_some(self.ignored)}"] if self.ignored else lines)


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
        raise _refusal(source.file, f"{report.title} with NaN or infinity in {_some(broken)}")
    own = model.state_dict()
    with torch.no_grad():
        for name, target in report.loaded.items():
            own[target].copy_(source.tensors[name])  # casts, and moves to the model's device
    return report


def _plan(source: _Source, model: SwinUNETR, decoder: bool = True) -> LoadReport:
    """Decide what happens to each tensor of file and model, and refuse what does not fit; change nothing."""
    own, family = model.state_dict(), source.family
    unwanted = set() if decoder else {"decoder", "head"}
    passed_by = {name: "not asked for" for name, target in source.placed.items() if _part(target) in unwanted}
    foreign = _foreign_head(source, own) | passed_by
    loaded = {name: target for name, target in source.placed.items() if name not in foreign}
    theirs = {target: tuple(source.tensors[name].shape) for name, target in loaded.items()}
    covered = (family.covers - {"head"} if foreign else family.covers) - unwanted
    ours = {name: tuple(own[name].shape) for name in own if name in theirs or _part(name) in covered}
    traits = _traits(own) | {"merging": _merging_of(model)}
    if wrong := _differences(source.traits, traits) or _differences(theirs, ours):
        remedy = f"Use build_swinunetr(classes, {str(source.file)!r}), with in_channels as in the file."
        raise _refusal(source.file, f"{family.title}, where {_some(wrong)}", "what the network has", remedy)
    random = {name: _why_random(name, unwanted) for name in own if name not in theirs}
    fate = loaded, source.dropped | foreign, random
    return LoadReport(source.file, family.name, family.title, source.traits["merging"], *fate, source.ignored)


def _foreign_head(source: _Source, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {source name: reason} for the head of a file that was made for another number of classes."""
    head = {name: target for name, target in source.placed.items() if _part(target) == "head" and target in own}
    classes = {name: (source.tensors[name].shape[0], own[target].shape[0]) for name, target in head.items()}
    reason = "made for {} classes, where the network has {}"
    return {name: reason.format(*both) for name, both in classes.items() if both[0] != both[1]}


def _differences(theirs: Mapping, ours: Mapping) -> list[str]:
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    return [f"{key} is {theirs.get(key, 'missing')}, not {ours.get(key, 'missing')}" for key in keys]


def _why_random(name: str, unwanted: set[str]) -> str:
    if _part(name) == "head":
        return "its classes are your own; fine-tuning teaches them"
    if _part(name) in unwanted:
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


def save_weights(model: SwinUNETR, path: str | os.PathLike, made_by: Mapping | None = None) -> None:
    """Write the state_dict of `model`, on the CPU, so that `path` holds either its old content or all of the new.

    Plain MONAI takes it: `SwinUNETR(...).load_state_dict(torch.load(path, weights_only=True))`. The patch merging order
    and `made_by`, plain values that say how the weights came about, are noted in the state_dict's `_metadata`, which
    torch keeps and MONAI does not read; :func:`made_by` gives them back.
    """
    own = model.state_dict()
    state = OrderedDict((name, tensor.cpu().contiguous()) for name, tensor in own.items())
    state._metadata = own._metadata
    state._metadata[""] |= {"patch_merging": _merging_of(model), "made_by": dict(made_by or {})}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def made_by(checkpoint: str | os.PathLike) -> dict:
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
        raise _refusal(file, "a half or changed file", f"sha256 {SSL_50K_SHA256}", f"Delete it, or fetch {SSL_50K_URL}")
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
        raise _refusal(file, f"a file that could not be downloaded ({error})", expected, remedy) from error
