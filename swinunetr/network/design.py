"""The size and the design of a SwinUNETR, seen in the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinunetr.network.layouts import part_of

USUAL_DESIGN = "a 3D one with depths 2, 2, 2, 2, heads 3, 6, 12, 24, patches of 2 voxels and a cubic window"


def traits_of(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the arguments of the constructor that gave a SwinUNETR these tensors.

    Args:
        tensors: Tensors by their names in SwinUNETR.

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
    """Return what differs in a SwinUNETR of these tensors from ``USUAL_DESIGN``, the only one that is built here.

    Args:
        tensors: Tensors by their names in SwinUNETR, with the patch embedding.
    """
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
