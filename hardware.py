"""What a run computes on: device and precision, found out once and passed on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hardware:
    """Hold what the run computes on, found out once; ``autocast_dtype`` None means plain float32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    name: str

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs; the loss stays outside it, in float32."""
        dtype = self.autocast_dtype or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.autocast_dtype is not None)


def find_hardware() -> Hardware:
    """Return the GPU if there is one, else the CPU, with bfloat16 where the hardware computes in it."""
    if torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        return Hardware(torch.device("cuda"), dtype, torch.cuda.get_device_name())
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Hardware(torch.device("cpu"), torch.bfloat16 if has_bf16 else None, f"{os.cpu_count()} CPU cores")


def place_network(model: torch.nn.Module, hardware: Hardware) -> torch.nn.Module:
    """Move a SwinUNETR to the device, ready to train in the precision of ``hardware``, and return it.

    On a CPU in bfloat16 the bottleneck block stays in float32: there a crop of 64 voxels is 2 voxels wide, and oneDNN's
    bfloat16 weight gradient of a 3x3x3 convolution on so few reads memory that it never wrote (seen with PyTorch 2.13
    on AVX512-BF16: NaN or 1e38 every few steps). ``tests/test_ssl_helpers.py`` holds the case.
    """
    if hardware.device.type == "cpu" and hardware.autocast_dtype is torch.bfloat16:
        block = model.encoder10
        block.register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))
        block.forward = torch.autocast("cpu", enabled=False)(block.forward)
        model = model.to(memory_format=torch.channels_last_3d)  # a fifth faster here
    return model.to(hardware.device)
