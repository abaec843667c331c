"""SwinUNETR in both orders of patch merging, and placed on a device so that it trains fast there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor

from swinunetr.checkpoint_layouts import part_of
from swinunetr.devices import Hardware, keep_freed_memory, memory_bytes
from swinunetr.fast_swin import speed_up
from swinunetr.tables import Table


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


def traits_of(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Read the constructor's arguments back from a SwinUNETR's tensors."""
    feature_size, in_channels = tensors["swinViT.patch_embed.proj.weight"].shape[:2]
    offsets = len(tensors["swinViT.layers1.0.blocks.0.attn.relative_position_bias_table"])  # (2 * window_size - 1)^3
    return {
        "feature_size": feature_size,
        "in_channels": in_channels,
        "window_size": (round(offsets ** (1 / 3)) + 1) // 2,
        "use_v2": any(part_of(name) == "v2 blocks" for name in tensors),
    }


def merging_of(model: SwinUNETR) -> str:
    kind = type(model.swinViT.layers1[0].downsample)
    for name, merging in MERGING.items():
        if kind is merging:
            return name
    raise ValueError(f"expected a network whose patch merging is one of {list(MERGING)}, found {kind.__name__}")


def place_network(model: SwinUNETR, hardware: Hardware, batch_voxels: int = 0) -> SwinUNETR:
    """Move a SwinUNETR to the device, ready to train there fast on batches of ``batch_voxels`` voxels, and return it.

    Activations are worked out twice instead of being kept (activation checkpointing) only where they would not fit.

    On a CPU in bfloat16 the bottleneck block stays in float32: there a crop of 64 voxels is 2 voxels wide, and oneDNN's
    bfloat16 weight gradient of a 3x3x3 convolution on so few reads memory that it never wrote (seen with PyTorch 2.13
    on AVX512-BF16: NaN or 1e38 every few steps). ``tests/test_hardware.py`` holds the case.
    """
    keep = training_bytes(model, batch_voxels, hardware) < memory_bytes(hardware)
    for module in model.swinViT.modules():
        if hasattr(module, "use_checkpoint"):
            module.use_checkpoint = not keep
    if hardware.device.type == "cpu":
        keep_freed_memory()
    if hardware.device.type == "cpu" and hardware.autocast_dtype is torch.bfloat16:
        block = model.encoder10
        block.register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))
        block.forward = torch.autocast("cpu", enabled=False)(block.forward)
        model = model.to(memory_format=torch.channels_last_3d)  # a fifth faster here
    return speed_up(model).to(hardware.device)


def training_bytes(model: SwinUNETR, batch_voxels: int, hardware: Hardware) -> int:
    """Estimate the bytes that training takes when all activations are kept.

    Counted with PyTorch's saved-tensor hooks at feature size 48: 5.9 kB of activations a voxel in bfloat16, which grow
    with the feature size; float32 takes twice that. A quarter is added for what autograd does not keep. Weights,
    gradients and AdamW's two moments take 16 bytes a parameter.
    """
    feature_size = model.swinViT.patch_embed.proj.weight.shape[0]
    bytes_a_voxel = 123 * feature_size * (1 if hardware.autocast_dtype else 2)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return int(1.25 * bytes_a_voxel * batch_voxels + 16 * parameters)


def describe_speed(model: SwinUNETR, hardware: Hardware) -> Table:
    """Return what was switched on for a network that :func:`place_network` has placed, and why."""
    on_gpu = hardware.device.type == "cuda"
    precision = {
        torch.bfloat16: "bfloat16, which this hardware computes in; the loss in float32",
        torch.float16: "float16, as there is no bfloat16 here, with scaled gradients; the loss in float32",
        None: "float32, as this hardware computes in nothing shorter",
    }[hardware.autocast_dtype]
    kept = not any(getattr(module, "use_checkpoint", False) for module in model.swinViT.modules())
    activations = "kept, as they fit into memory" if kept else "worked out twice, as they don't fit into memory"
    rows = [
        ("device", f"{hardware.name}, {hardware.ranks} process(es)"),
        ("precision", precision),
        ("activations", activations),
        ("attention", "fused, with masks made once" if on_gpu else "with masks made once"),
    ]
    if not on_gpu:
        rows.append(("memory", "reused when freed, as asking the system for it again takes long"))
    if not on_gpu and hardware.autocast_dtype:
        rows.append(("layout", "channels-last, in which convolutions are faster here"))
    return Table(("on this hardware", "what is used"), rows)
