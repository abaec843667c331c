"""How each public checkpoint names the tensors of a SwinUNETR, and which checkpoints belong to other networks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swinunetr.errors import CheckpointError

SSL_50K = "ssl_50k"
SSL_50K_FILE = "ssl_pretrained_weights.pth"
WEIGHTS, AGAIN = "the weights of a SwinUNETR, written by torch.save", "Download or export it again."


def refusal(file: Path, found: str, expected: str = WEIGHTS, remedy: str = AGAIN) -> CheckpointError:
    return CheckpointError(f"{file}: this seems to be {found}. Expected {expected}. {remedy}")


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


def recognise(file: Path, names: list[str]) -> tuple[Family, dict[str, str], dict[str, str]]:
    """Return the family, and what it places and drops, from all tensor names: neither the first nor the file's own."""
    bare = [rename(name, COMMON_RENAMES) for name in names]
    for pattern, title in STRANGERS:
        if any(re.match(pattern, name) for name in bare):
            raise refusal(file, f"the weights of {title}", remedy="Choose another file.")
    tried = [(family, *_convert(family, names)) for family in FAMILIES]
    for family, placed, dropped, homeless in tried:
        if not homeless and set(map(part_of, placed.values())) == family.covers:
            return family, placed, dropped
    nearest, placed, _, homeless = min(tried, key=lambda attempt: len(attempt[3]))
    found = f"nearest to {nearest.title}" if placed else "another network, or a SwinUNETR with an unknown prefix"
    odd = f"no place for {some(homeless)}" if homeless else f"no more than {some(map(part_of, placed.values()), 1)}"
    raise refusal(file, f"{found}, but there is {odd}", remedy="Rename its tensors as MONAI's SwinUNETR names them.")


def _convert(family: Family, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Sort source names into placed {source: model name}, dropped {source: reason} and those without a place."""
    placed, dropped, homeless = {}, {}, []
    for source in names:
        bare = rename(source, COMMON_RENAMES)
        target = rename(bare, family.renames)
        reason = next((reason for pattern, reason in family.drops if re.match(pattern, bare)), None)
        if reason:
            dropped[source] = reason
        elif part_of(target) and target not in placed.values():
            placed[source] = target
        else:
            homeless.append(source)
    return placed, dropped, homeless


def rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def part_of(name: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.match(pattern, name)), None)


def some(names: Iterable[object], limit: int = 4) -> str:
    names = list(map(str, names))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
