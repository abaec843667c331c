"""A faster SwinUNETR with the same weights, names and results; see ``speed_up``.

PyTorch's profiler shows what is slow in MONAI's SwinUNETR:

- The attention matrices, 343 x 343 tokens per window and head, are copied for each addition and each change of dtype.
- The attention masks are computed again in every forward pass.
- On a CPU, instance norms convert channels-last activations to channels-first, and the next convolution converts them
  back.
- On a CPU in float32, PyTorch computes a convolution of a single small map by a slow function, not by oneDNN.
- On a GPU, the activation behind an instance norm copies the whole map in the backward pass.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, compute_mask, get_window_size
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

MIN_CHANNELS = 32  # of a channels-last norm, which processes neighbouring channels together; with fewer it is slower
# Kernels for attention on a GPU, the first that can compute it. Only the efficient one has a gradient for the bias;
# the math one takes what the first refuses, such as four channels a head in half precision (the demo's network).
KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ONEDNN_SIZE = 20_480  # channels x depth x height of a single float32 map from which PyTorch gives it to oneDNN
ALIGNMENT = 8  # of the rows of a bias, which the efficient kernel would otherwise copy to such rows


def speed_up(model: SwinUNETR) -> SwinUNETR:
    """Replace slow layers of a SwinUNETR by faster ones, in place, and return it.

    Parameters, buffers and their names stay the same, so checkpoints, optimizers, ``copy.deepcopy`` and
    DistributedDataParallel need no change. A second call has no effect. float32 results equal MONAI's up to rounding.
    Other layers (2D, Hyena, attention dropout) are not changed.
    """
    for module in model.modules():
        if type(module) in FASTER and not getattr(module, "use_hyena", False):
            module.__class__ = FASTER[type(module)]  # only the forward method changes
    return model


class FastBasicLayer(BasicLayer):
    """Stage of the encoder with a cached attention mask, and without a mask if its windows are not shifted."""

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
        x = x.permute(0, 2, 3, 4, 1).contiguous()  # (B, D, H, W, C); one copy here saves one per norm and addition
        for block in self.blocks:
            x = block(x, mask)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.permute(0, 4, 1, 2, 3)


@lru_cache(maxsize=16)
def shift_mask(
    dims: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return MONAI's attention mask (windows, tokens, tokens): 0 within a region, -100 between regions.

    ``dims`` are the voxels along each axis, padded to whole windows; ``window`` those of a window, which is shifted by
    ``shift``. On a GPU the rows are padded; see :func:`with_aligned_rows`. The largest mask that is cached, of the
    first stage of a 96^3 crop, takes 81 MB in bfloat16 and 161 MB in float32.
    """
    with torch.inference_mode(False):  # a tensor created in inference mode cannot be used in training
        mask = compute_mask(dims, window, shift, device).to(dtype)
        return with_aligned_rows(mask) if device.type == "cuda" else mask


class FastWindowAttention(WindowAttention):
    """Attention within windows, computed in the dtype of the queries."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B * windows, tokens, C) to the same shape; ``mask`` (windows, tokens, tokens) may be None."""
        if self.training and self.attn_drop.p > 0:
            return super().forward(x, mask)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index[:n, :n]]
        bias = bias.permute(2, 0, 1).to(q.dtype)  # (heads, tokens, tokens)
        if x.is_cuda:
            bias = with_aligned_rows(bias)
        bias = bias[None] if mask is None else bias + mask.to(q.dtype).unsqueeze(1)  # (windows, heads, tokens, tokens)
        q, k, v = (part.unflatten(0, (-1, len(bias))) for part in (q * self.scale, k, v))
        x = attend_fused(q, k, v, bias[..., :n]) if x.is_cuda else attend(q, k, v, bias)
        return self.proj_drop(self.proj(x.transpose(2, 3).reshape(b, n, c)))


def with_aligned_rows(bias: Tensor) -> Tensor:
    """Return a contiguous copy of a bias or mask whose last axis is padded with zeros to a multiple of ``ALIGNMENT``.

    PyTorch's fused attention only takes a mask whose last stride is 1, and computes in float32 without fusing for
    others. The bias has three axes, such as (heads, tokens, tokens): with four, ``F.pad`` would keep a permuted layout.
    """
    return F.pad(bias, (0, -bias.shape[-1] % ALIGNMENT)).contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the attention ``softmax(q k^T + bias) v``.

    Queries, which are already scaled, keys and values are (B, windows, heads, tokens, channels); the bias is (windows,
    heads, tokens, tokens), or (1, heads, tokens, tokens) if it is the same for all windows.
    """
    logits = q @ k.transpose(-2, -1)
    logits += bias  # out of place, or on a view, this would copy the largest tensor of the network
    return logits.softmax(-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the same as ``attend`` from PyTorch's fused attention, which does not store the logits of all windows.

    Windows are passed as heads, since each window may have its own bias. Only GPUs have a kernel with a gradient for
    the bias; on a CPU it was no faster. The kernel is not left to PyTorch: from version 2.11 it can choose that of
    cuDNN where no gradient is needed, which refuses rows of 343 tokens.
    """
    q_heads, k_heads, v_heads = (part.flatten(1, 2) for part in (q, k, v))
    mask = bias.flatten(0, 1)[None]
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(q_heads, k_heads, v_heads, attn_mask=mask, scale=1.0).reshape(q.shape)


class FastInstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm by the function that suits the device.

    On a GPU this is group norm with one channel a group, which computes the same: PyTorch's instance norm returns a
    view, and the in-place activation behind it then copies the whole map in the backward pass.

    On a CPU in bfloat16 it keeps activations channels-last, which is faster for convolutions. PyTorch's instance norm
    copies them to channels-first. Batch norm of a single image computes the same and accepts both layouts. In float32
    its channels-last sums are less exact (7e-5 at 96^3), so instance norm is used there.

    PyTorch's instance norm has a bug (2.8 to 2.13, CPU): for a single image and a channels-last gradient it returns a
    wrong gradient. The hook makes the gradient contiguous; ``tests/network/test_fast.py`` reproduces the bug.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image in (B, C, D, H, W)."""
        if x.is_cuda and not self.track_running_stats:
            return self.by_channel(x)
        faster = x.device.type == "cpu" and x.dtype is torch.bfloat16 and x.shape[1] >= MIN_CHANNELS
        if not faster or self.track_running_stats:
            y = super().forward(x)
            if y.requires_grad:
                y.register_hook(Tensor.contiguous)
            return y
        images = x.contiguous(memory_format=torch.channels_last_3d).split(1)
        weights = (None, None, self.weight, self.bias)
        normed = [F.batch_norm(image, *weights, training=True, eps=self.eps) for image in images]
        return torch.cat(normed) if len(normed) > 1 else normed[0]

    def by_channel(self, x: Tensor) -> Tensor:
        """Return the same by group norm, in the dtype of ``x``."""
        with torch.autocast(x.device.type, enabled=False):  # which would compute group norm in float32
            return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)


class FastConv3d(nn.Conv3d):
    """Convolution that gives oneDNN a single small map as a batch of two halves, on a CPU in float32.

    PyTorch (2.13) computes a batch of two by oneDNN whatever its size. The result is the same up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, C', D', H', W')."""
        if not self.is_slow(x):
            return super().forward(x)
        half = x.shape[2] // 2
        padded = F.pad(x, (0, 0, 0, 0, 1, 1))  # along the depth; each half then has the next slice of the other
        halves = torch.cat([padded[:, :, : half + 2], padded[:, :, half:]])
        y = F.conv3d(halves, self.weight, self.bias, padding=(0, 1, 1))
        return torch.cat([y[:1], y[1:]], dim=2)

    def is_slow(self, x: Tensor) -> bool:
        """Return whether PyTorch would not give this convolution to oneDNN, which could halve its map."""
        in_float32 = x.device.type == "cpu" and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
        batch, channels, depth, height, _ = x.shape
        small = batch == 1 and channels * depth * height <= ONEDNN_SIZE and depth % 2 == 0 and depth > 2
        shape = (self.kernel_size, self.padding, self.stride, self.dilation)
        return in_float32 and small and shape == ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))


# The faster class for each class of MONAI or PyTorch.
FASTER = {
    BasicLayer: FastBasicLayer,
    WindowAttention: FastWindowAttention,
    nn.InstanceNorm3d: FastInstanceNorm3d,
    nn.Conv3d: FastConv3d,
}
