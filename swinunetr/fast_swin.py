"""The same SwinUNETR, faster: its weights, names and results stay; see :func:`speed_up`.

What is slow in MONAI's forward and backward, as PyTorch's profiler shows: attention matrices of 343 x 343 tokens for
each window and head, copied for each addend and each change of precision; masks that are built anew in every forward;
on a CPU, instance norms that turn channels-last activations round, so that the next convolution turns them back.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, compute_mask, get_window_size
from torch import Tensor, nn


def speed_up(model: SwinUNETR) -> SwinUNETR:
    """Make a SwinUNETR compute the same in less time, forward and backward, and return it.

    Parameters, buffers and their names stay, so checkpoints, optimizers, ``copy.deepcopy`` and DistributedDataParallel
    notice nothing; a second call does nothing. float32 results agree with MONAI's to rounding. Layers of other types
    (2-D, Hyena, attention dropout) stay as they are.
    """
    for module in model.modules():
        if type(module) in FASTER and not getattr(module, "use_hyena", False):
            module.__class__ = FASTER[type(module)]  # another forward over the very same state
    return model


@lru_cache(maxsize=16)
def shift_mask(
    dims: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return MONAI's attention mask (windows, tokens, tokens): 0 within a region, -100 between regions.

    ``dims`` are the voxels along each axis, padded to whole windows. The mask is kept for the next forward: 81 MB in
    bfloat16 and 161 MB in float32 for the first stage of a 96^3 crop, the largest. MONAI builds as much each time.
    """
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
        return compute_mask(dims, window, shift, device).to(dtype)


class FastBasicLayer(BasicLayer):
    """One stage, whose mask comes from :func:`shift_mask`, and is None where no block shifts its windows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, 2C, D/2, H/2, W/2), or to the same shape without ``downsample``."""
        if x.ndim != 5:
            return super().forward(x)
        spatial = tuple(x.shape[2:])
        window, shift = get_window_size(spatial, self.window_size, self.shift_size)
        mask = None
        if any(shift):
            dims = tuple(-(-size // step) * step for size, step in zip(spatial, window, strict=True))
            dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
            mask = shift_mask(dims, window, shift, x.device, dtype)
        x = x.permute(0, 2, 3, 4, 1).contiguous()  # (B, D, H, W, C); once here, else in each norm and addition
        for block in self.blocks:
            x = block(x, mask)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.permute(0, 4, 1, 2, 3)


class FastWindowAttention(WindowAttention):
    """Attention within windows, all of it in the precision of the queries."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B * windows, tokens, C) to the same shape; ``mask`` (windows, tokens, tokens) may be None."""
        if self.training and self.attn_drop.p > 0:
            return super().forward(x, mask)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        added = self.relative_position_bias_table[self.relative_position_index[:n, :n]]
        added = added.permute(2, 0, 1).to(q.dtype)[None]  # (1, heads, tokens, tokens)
        if mask is not None:
            added = added + mask.to(q.dtype).unsqueeze(1)  # (windows, heads, tokens, tokens)
        q, k, v = (part.unflatten(0, (-1, len(added))) for part in (q * self.scale, k, v))
        x = (attend_fused if x.is_cuda else attend)(q, k, v, added)
        return self.proj_drop(self.proj(x.transpose(2, 3).reshape(b, n, c)))


def attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
    """Return softmax(q k^T + added) v of scaled queries, all (B, windows, heads, tokens, channels).

    ``added`` is (windows, heads, tokens, tokens), or (1, heads, tokens, tokens) where all windows share it.
    """
    logits = q @ k.transpose(-2, -1)
    logits += added  # in place, and not through a view: either would copy the largest tensor of the network
    return logits.softmax(-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
    """Do what :func:`attend` does with PyTorch's fused attention, which never holds the logits of all windows.

    Windows become heads, since each may have its own addend. Only GPUs have a kernel with a gradient for the addend;
    on a CPU it was no faster.
    """
    heads = (part.flatten(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(*heads, attn_mask=added.flatten(0, 1)[None], scale=1.0).reshape(q.shape)


FEWEST_CHANNELS = 32  # of a channels-last norm: it computes on neighbouring channels at once, so fewer are slower


class FastInstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm that keeps bfloat16 activations on a CPU channels-last, as the convolutions there like them.

    PyTorch's copies them to channels-first. Batch norm of a batch of one is the same arithmetic and takes either
    layout; in float32 its channels-last sums are less exact (7e-5 at 96^3), so there PyTorch's own stays.

    PyTorch's has a fault (2.8 to 2.13, CPU): given a batch of one and a channels-last gradient, it returns a wrong
    gradient. Hence the hook; ``tests/test_fast_swin.py`` holds the case.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each image of (B, C, D, H, W)."""
        pays = x.device.type == "cpu" and x.dtype is torch.bfloat16 and x.shape[1] >= FEWEST_CHANNELS
        if not pays or self.track_running_stats:
            y = super().forward(x)
            if y.requires_grad:
                y.register_hook(Tensor.contiguous)
            return y
        images = x.contiguous(memory_format=torch.channels_last_3d).split(1)
        options = {"weight": self.weight, "bias": self.bias, "training": True, "eps": self.eps}
        normed = [F.batch_norm(image, None, None, **options) for image in images]
        return torch.cat(normed) if len(normed) > 1 else normed[0]


FASTER = {
    BasicLayer: FastBasicLayer,
    WindowAttention: FastWindowAttention,
    nn.InstanceNorm3d: FastInstanceNorm3d,
}
