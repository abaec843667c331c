"""How each public checkpoint names the tensors of a SwinUNETR, and which checkpoints belong to other networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from swinunetr.errors import CheckpointError
from swinunetr.words import named

# The checkpoint that has a short name and can be downloaded.
SSL_50K = "ssl_50k"
SSL_50K_FILE = "ssl_pretrained_weights.pth"

# Parts of a SwinUNETR. The dots matter: `encoder.` is a pre-training encoder, `encoder1.` a block of SwinUNETR.
PARTS = {
    "swinViT": r"swinViT\.(patch_embed|layers[1-4])\.",
    "v2 blocks": r"swinViT\.layers[1-4]c\.",
    "encoder": r"encoder(1|2|3|4|10)\.",
    "decoder": r"decoder[1-5]\.",
    "head": r"out\.",
}


@dataclass(frozen=True)
class Family:
    """Names of the tensors in one kind of checkpoint. All patterns match at the start of a name."""

    name: str
    title: str  # for messages
    covers: set[str]  # parts of a SwinUNETR that the checkpoint fills completely
    renames: tuple[tuple[str, str], ...] = ()  # pairs of (pattern, replacement) that give the name in SwinUNETR
    drops: tuple[tuple[str, str], ...] = ()  # pairs of (pattern, reason) for tensors that SwinUNETR does not use


# Sets of parts that checkpoints cover.
SWIN = {"swinViT"}
ENCODERS_V2 = {"swinViT", "v2 blocks", "encoder"}
BODY = {"swinViT", "encoder", "decoder"}
WHOLE = BODY | {"head"}

# Tensors that SwinUNETR does not use, with the reason.
PRETEXT_HEADS = (r"(rotation_head|contrastive_head|convTrans3d|conv|proj_head)\.", "head of a pre-training task")
TEXT_HEADS = (r"(precls_conv|GAP|controller|text_to_vision)\.|organ_embedding$", "text-driven head, not in SwinUNETR")
LAST_NORM = (r"(encoder\.)?norm\.", "last norm of the pre-training encoder, not in SwinUNETR")
MASK_TOKEN = (r"encoder\.mask_token$", "token of masked patches, used in pre-training only")
RECONSTRUCTION = (r"out\.", "1-channel reconstruction head of pre-training, not a segmentation head")

# Names of the Swin encoder in pre-training code, and in SwinUNETR.
ENCODER_NAMES = (
    (r"encoder\.patch_embed\.", "swinViT.patch_embed."),
    (r"encoder\.(layers\d)\.0\.0\.", r"swinViT.\1.0."),
)
BARE_NAMES = ((r"(patch_embed|layers\d)\.", r"swinViT.\1."),)

# A checkpoint belongs to the first family that covers exactly its parts and leaves none of its tensors unmatched.
FAMILIES = (
    Family("swinunetr", "a whole SwinUNETR (BTCV, BraTS, model zoo, or your own)", WHOLE),
    Family("swinunetr_v2", "a whole SwinUNETR v2 (VoComni, or your own)", WHOLE | {"v2 blocks"}),
    Family("universal", "a supervised SuPreM or CLIP-driven Universal Model", BODY, drops=(TEXT_HEADS,)),
    Family(
        SSL_50K,
        f"{SSL_50K_FILE}, pre-trained on about 50,000 CT and MR",
        BODY,
        renames=ENCODER_NAMES,
        drops=(MASK_TOKEN, LAST_NORM, RECONSTRUCTION),
    ),
    Family("ssl_head", "a self-supervised Swin encoder (SSLHead, BrainSegFounder)", SWIN, drops=(PRETEXT_HEADS,)),
    Family(
        "swinvit_5k",
        "model_swinvit.pt, pre-trained on 5,050 CT",
        SWIN,
        renames=BARE_NAMES,
        drops=(PRETEXT_HEADS, LAST_NORM),
    ),
    Family("voco", "the encoders of a SwinUNETR v2, pre-trained by VoCo", ENCODERS_V2, drops=(PRETEXT_HEADS,)),
)

# Prefixes that training code adds to a part of the tensors, and older spellings; any family can have them.
COMMON_RENAMES = (
    (r"((module|student|backbone)\.)+", ""),
    (r"swin_vit\.", "swinViT."),
    (r"(.+\.mlp)\.fc([12])\.", r"\1.linear\2."),
)

# Tensors that training code stores beside those of any family, with the reason.
COMMON_DROPS = (
    (r"(.+\.)?n_averaged$", "counter of averaged weights"),
    (r"(loss|criterion)\w*\.", "tensor of a loss function"),
)

# Wrappers of PyTorch, which add their names anywhere in a tensor's name.
WRAPPED = r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
# The one tensor that every Swin encoder has: what stands before it is the prefix of the whole network.
EMBEDDING = r"(?P<prefix>.*?)((swinViT|swin_vit|encoder)\.)?patch_embed\.proj\.weight$"

# Other networks, recognised by names that no SwinUNETR has.
OTHER_NETWORKS = (
    (r"encoder\.patch_embed\.proj\.conv\d", "Disruptive Autoencoders; SwinUNETR lacks their patch embedding and norms"),
    (r"vit\.", "a UNETR"),
    (r"patch_embedding\.|blocks\.\d+\.attn\.", "a plain vision transformer (ViT)"),
    (r"layers\.\d+\.blocks\.", "a 2D Swin transformer"),
    (r"(encoder|decoder)\.stages\.|conv_blocks_context\.", "an nnU-Net"),
    (r"input_block\.", "a DynUNet"),
    (r"convInit\.", "a SegResNet"),
    (r"layer1\.\d+\.|conv1\.weight$", "a ResNet"),
)

# Parts of error messages.
SWINUNETR_WEIGHTS = "the weights of a SwinUNETR, written by torch.save"
GET_AGAIN = "Copy, download or export it again."
first_few = partial(named, most=4, counted=True)  # of many names


@lru_cache(maxsize=8)
def recognise(file: Path, names: tuple[str, ...]) -> tuple[Family, Mapping[str, str], Mapping[str, str]]:
    """Recognise a checkpoint by the names of all its tensors; the name of the file has no effect.

    Returns:
        The family, ``{name in the file: name in SwinUNETR}`` and ``{name in the file: reason why it is dropped}``.

    Raises:
        CheckpointError: The tensors belong to another network or to no known family.
    """
    # The names of one network, without what training code adds to them.
    plain = {name: re.sub(WRAPPED, "", name) for name in names}
    prefixes = _prefixes(plain.values())
    if len(prefixes) > 1:
        remedy = f"Write a file with one of them alone: the tensors whose names start with '{max(prefixes)}'."
        shown = " and ".join(f"'{prefix}'" for prefix in prefixes)
        raise refusal(file, f"several networks, with the prefixes {shown}", remedy=remedy)
    prefix = prefixes[0] if prefixes else ""
    common = {name: _rename(short.removeprefix(prefix), COMMON_RENAMES) for name, short in plain.items()}
    for pattern, network in OTHER_NETWORKS:
        if any(re.match(pattern, name) for name in common.values()):
            raise refusal(file, f"the weights of {network}", remedy="Choose another file.")

    # The family that accounts for all of them, or a refusal that names the nearest one.
    attempts = [(family, *_match(family, common)) for family in FAMILIES]
    for family, placed, dropped, unmatched in attempts:
        if not unmatched and {part_of(target) for target in placed.values()} == family.covers:
            return family, placed, dropped
    nearest, placed, _, unmatched = min(attempts, key=lambda attempt: len(attempt[3]))
    kind = f"similar to {nearest.title}" if placed else "another network"
    parts = dict.fromkeys(part_of(target) for target in placed.values())
    reason = f"with these parts only: {first_few(parts) or 'none'}"
    if unmatched:
        reason = f"with unmatched tensors: {first_few(unmatched)}"
    raise refusal(file, f"{kind}, {reason}", remedy="Choose weights of MONAI's SwinUNETR, or of its Swin encoder.")


def holds_swin(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are of a network with a Swin encoder."""
    return bool(_prefixes(re.sub(WRAPPED, "", name) for name in names))


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return what stands before the names of each network with a Swin encoder."""
    return list(dict.fromkeys(match["prefix"] for name in names if (match := re.match(EMBEDDING, name))))


def _match(family: Family, common: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return placed ``{name: name in SwinUNETR}``, dropped ``{name: reason}`` and unmatched names, from common ones."""
    placed: dict[str, str] = {}
    dropped, unmatched = {}, []
    for name, short in common.items():
        target = _rename(short, family.renames)
        reason = next((reason for pattern, reason in family.drops + COMMON_DROPS if re.match(pattern, short)), None)
        if reason:
            dropped[name] = reason
        elif part_of(target) and target not in placed.values():
            placed[name] = target
        else:
            unmatched.append(name)
    return placed, dropped, unmatched


def _rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def part_of(name: str) -> str | None:
    """Return the part of a SwinUNETR that a tensor belongs to, a key of ``PARTS``; None if it is in no part."""
    return next((part for part, pattern in PARTS.items() if re.match(pattern, name)), None)


def refusal(file: Path, kind: str, expected: str = SWINUNETR_WEIGHTS, remedy: str = GET_AGAIN) -> CheckpointError:
    """Return the error that refuses a file because of its ``kind``; the caller raises it. ``remedy`` is a sentence."""
    return CheckpointError(f"{file}: this seems to be {kind}. Expected {expected}. {remedy}")
