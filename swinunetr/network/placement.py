"""A network on its device, prepared for fast training there, within the memory that there is."""

from __future__ import annotations

import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor

from swinunetr.hardware import Hardware, gpu_memory, memory_bytes, versions
from swinunetr.machine import keep_freed_memory
from swinunetr.network.fast import speed_up
from swinunetr.tables import Table

SPARE = 1.2  # free memory over the estimate of training: for workspaces of convolutions, and gaps between tensors
FUSED_CHANNELS = 8  # per head; PyTorch's fused kernels take multiples of it in half precision


def place_network(model: SwinUNETR, hardware: Hardware, batch_voxels: int = 0) -> SwinUNETR:
    """Move a SwinUNETR to the device, prepare it for fast training there, and return it.

    Activation checkpointing is used only if the activations would not fit into memory.

    On a CPU in bfloat16 the two blocks of the lowest resolutions stay in float32. A crop of 64 voxels is 2 voxels wide
    in the first, one of 32 voxels in the second, and for so few voxels oneDNN's bfloat16 weight gradient of a 3x3x3
    convolution reads uninitialised memory (seen with PyTorch 2.13 on AVX512-BF16 in the first: NaN or 1e38 every few
    steps). ``tests/network/test_placement.py`` reproduces it.

    ``batch_voxels`` are the voxels of one training batch; 0 for inference only.

    Raises:
        InputError: The memory of the GPU is full.
    """
    keep_activations = SPARE * training_bytes(model, batch_voxels, hardware) < memory_bytes(hardware)
    for module in model.swinViT.modules():
        if hasattr(module, "use_checkpoint"):
            module.use_checkpoint = not keep_activations
    on_cpu = hardware.device.type == "cpu"
    if on_cpu:
        keep_freed_memory()
    if on_cpu and hardware.autocast_dtype is torch.bfloat16:
        model.encoder10.__class__, model.decoder5.__class__ = Float32Block, Float32UpBlock
    layout = torch.channels_last_3d if on_cpu else torch.preserve_format
    with gpu_memory():
        return speed_up(model).to(hardware.device, memory_format=layout)


def training_bytes(model: SwinUNETR, batch_voxels: int, hardware: Hardware) -> int:
    """Return an estimate of the peak memory of training, in bytes, without activation checkpointing.

    On a GPU a step needs 215 bytes per voxel, 22 more per class and 39 more per feature; weights and the two moments of
    AdamW need 12 bytes per parameter. This differs by at most 10% from what ``benchmarks/counted_step.py`` counts on
    fake tensors for 1 to 8 crops of 64 to 128 voxels, with 12 to 48 features and 2 to 50 classes.

    On a CPU, PyTorch's saved-tensor hooks count 5.9 kB of activations per voxel in bfloat16 at feature size 48. This
    grows in proportion to the feature size, and float32 needs twice as much. 4% is added for what autograd does not
    keep. Weights, gradients and the two moments need 16 bytes per parameter.
    """
    features = model.swinViT.patch_embed.proj.weight.shape[0]
    classes = model.out.conv.conv.weight.shape[0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if hardware.device.type == "cuda":
        return (215 + 22 * classes + 39 * features) * batch_voxels + 12 * parameters
    bytes_per_voxel = 128 * features * (1 if hardware.autocast_dtype else 2)
    return bytes_per_voxel * batch_voxels + 16 * parameters


def describe_speed(model: SwinUNETR, hardware: Hardware) -> Table:
    """Return a table of what ``place_network`` selected for a network, and why."""
    on_gpu = hardware.device.type == "cuda"
    precision = {
        torch.bfloat16: "bfloat16, which this hardware supports; loss in float32",
        torch.float16: "float16 with scaled gradients, as this hardware has no bfloat16; loss in float32",
        None: "float32, as this hardware supports no lower precision",
    }[hardware.autocast_dtype]
    checkpointing = any(getattr(module, "use_checkpoint", False) for module in model.swinViT.modules())
    activations = "computed twice, as they do not fit into memory" if checkpointing else "kept, as they fit into memory"
    rows = [
        ("software", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("device", f"{hardware.name}, {hardware.ranks} process(es)"),
        ("precision", precision),
        ("activations", activations),
        ("attention", _describe_attention(model) if on_gpu else "with masks computed once"),
    ]
    if not on_gpu:
        rows.append(("memory", "freed memory is reused, as requesting it from the system again takes long"))
        rows.append(("layout", "channels-last, which makes convolutions faster here"))
    return Table(("on this hardware", "what is used"), rows, hardware.warnings)


def _describe_attention(model: SwinUNETR) -> str:
    """Return whether PyTorch has a fused kernel on a GPU for the heads of a network in half precision."""
    channels = {
        module.qkv.in_features // module.num_heads
        for module in model.swinViT.modules()
        if isinstance(module, WindowAttention)
    }
    if any(n % FUSED_CHANNELS for n in channels):
        numbers = ", ".join(map(str, sorted(channels)))
        return f"not fused, as that needs a multiple of {FUSED_CHANNELS} channels per head, which here has {numbers}"
    return "fused, with masks computed once"


class Float32Block(UnetrBasicBlock):
    """A residual block that computes in float32 under autocast on a CPU."""

    def forward(self, inp: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to float32 (B, C', D, H, W)."""
        with torch.autocast("cpu", enabled=False):
            return super().forward(inp.float())


class Float32UpBlock(UnetrUpBlock):
    """A block of the decoder that computes in float32 under autocast on a CPU."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """Map (B, C, D, H, W) and the encoder's (B, C', 2D, 2H, 2W) to float32 of the latter's shape."""
        with torch.autocast("cpu", enabled=False):
            return super().forward(inp.float(), skip.float())
