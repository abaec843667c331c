"""Count what a training step does on a CUDA GPU, on fake tensors, which need no GPU.

A fake tensor has a shape, a type and a device but no values. So a whole step of the network runs on a CPU in seconds,
and counts the kernel of each attention block, the memory traffic, the peak of the memory and the values that the host
reads. How long a step takes cannot be counted; ``benchmarks/gpu_checks.py`` measures it on a GPU.
Run from the project's root; needs a C++ compiler where PyTorch is a build without CUDA:
    .venv/bin/python -m benchmarks.counted_step [--recipe published tuned] [--json FILE] [--recompute] [--crops N]
"""

# ruff: noqa: E402 - fake_cuda.load comes before the first import of torch

from __future__ import annotations

from benchmarks import fake_cuda

fake_cuda.load()

import argparse
import math
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.step import CLASSES, Training, batch_shape
from swinunetr.files import write_json
from swinunetr.hardware import Hardware
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.network.fast import shift_mask
from swinunetr.network.placement import place_network, training_bytes
from swinunetr.recipe import RECIPES, Recipe
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batch

SCAN = (250, 200, 200)  # voxels of a case of BTCV on the training grid
FREE = ("empty", "new_empty", "_unsafe_view")  # operations that neither read nor write values
# What PyTorch's memory-efficient attention asks of a mask (aten/src/ATen/native/transformers): its last stride is 1.
# Where its other strides are no multiples of 8 it is copied.
ALIGNMENT = 8


class Counts(TorchDispatchMode):
    """Counts of the operations within its context: attention kernels, memory traffic and peak memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.kernels = Counter(), Counter()
        self.traffic_bytes, self.peak_bytes, self.transfers = 0, 0, 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        """Run one operation and count it."""
        result = function(*arguments, **(keywords or {}))
        name = function.overloadpacket.__name__
        self.transfers += _crosses_devices(name, arguments, result)
        if "attention" in name:
            self.kernels[name] += 1
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._watch(tensors)
        if not function.is_view and function.namespace != "prim" and not name.startswith(FREE):
            self.operations[name] += 1
            inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]
            self.traffic_bytes += sum(_bytes(tensor) for tensor in inputs + tensors)
        return result

    def _watch(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type == "cuda":
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: pair for key, pair in self.live.items() if not pair[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self.live.values()))


def _crosses_devices(name: str, arguments: tuple, result: object) -> bool:
    """Return whether an operation copies a tensor between the GPU and the host."""
    if name not in ("copy_", "_to_copy"):
        return False
    source = arguments[1] if name == "copy_" else arguments[0]
    return source.device.type != result.device.type


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's values; those of an expanded tensor count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def chosen_attention(q, k, v, attn_mask=None, scale=None):
    """Compute attention by the kernel that CUDA takes for these strides if efficient attention is the first choice."""
    aten, columns = torch.ops.aten, attn_mask.shape[-1]
    with torch.autocast("cuda", enabled=False):  # which scaled_dot_product_attention applies to its arguments
        attn_mask = attn_mask.to(q.dtype)
        if any(part.stride(-1) != 1 for part in (q, k, v, attn_mask)):
            return aten._scaled_dot_product_attention_math(q, k, v, attn_mask, 0.0, False, None, scale=scale)[0]
        if any(stride % ALIGNMENT for stride in attn_mask.stride()[:-1]):
            attn_mask = F.pad(attn_mask, (0, -columns % ALIGNMENT))[..., :columns]
        mask = attn_mask.expand(q.shape[0], -1, -1, -1)
        return aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, 0.0, False, scale=scale)[0]


@contextmanager
def fake_tensors():
    """Let tensors that are made within be fake, with CUDA as a device; yields the list of values that the host read."""
    reads: list[float] = []

    def read(tensor: FakeTensor) -> float:
        if tensor.device.type == "cuda":
            reads.append(1.0)
        return 1.0

    def read_all(tensor: FakeTensor) -> list[float]:
        if tensor.device.type == "cpu":  # the spatial axes, which MONAI's Dice loss makes by torch.arange
            return list(range(2, 2 + tensor.numel()))
        read(tensor)  # all at once
        return [1.0] * tensor.numel()

    changes = [
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch.object(torch.cuda, "is_bf16_supported", lambda *args, **options: True),
        patch.object(FakeTensor, "item", read),
        patch.object(FakeTensor, "__float__", read),
        patch.object(FakeTensor, "tolist", read_all),
        patch.object(torch.nn.Module, "to", lambda module, *args, **options: without_values(module)),
        patch.object(F, "scaled_dot_product_attention", chosen_attention),
        patch.object(torch.cuda, "mem_get_info", lambda device: (80 * 10**9, 80 * 10**9)),
    ]
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        stack.callback(shift_mask.cache_clear)  # its masks are fake
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        yield reads


def without_values(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the parameters and buffers of a network by fake ones on the GPU, and return it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                module._parameters[name] = torch.nn.Parameter(empty)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def count_step(recipe: Recipe, recompute: bool = False) -> dict[str, object]:
    """Return the counts of one training step in bfloat16.

    Args:
        recipe: Recipe with the sizes of network and crops, and with what a step consists of.
        recompute: Whether activations are computed twice to save memory.
    """
    hardware = Hardware(torch.device("cuda", 0), torch.bfloat16, "a CUDA GPU that computes in bfloat16")
    shape = batch_shape(recipe)
    model = build_swinunetr(CLASSES, feature_size=recipe.feature_size, window_size=recipe.window_size)
    with fake_tensors() as reads:
        model = place_network(model, hardware, math.prod(shape))
        for module in model.swinViT.modules():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = recompute
        training = Training(model, recipe, hardware)
        images = torch.empty(shape, device="cuda")
        labels = torch.empty(shape, dtype=torch.uint8, device="cuda")
        training.step(images, labels)  # makes the moments of the optimizer and the masks
        reads.clear()
        with Counts() as counts:
            training.step(images, labels)
        estimate = training_bytes(model, math.prod(shape), hardware)
    return {
        "operations": sum(counts.operations.values()),
        "attention_kernels": dict(counts.kernels),
        "traffic_gb": counts.traffic_bytes / 1e9,
        "peak_gb": counts.peak_bytes / 1e9,
        "estimated_peak_gb": estimate / 1e9,
        "reads": len(reads),
        "transfers": counts.transfers,
    }


def count_batch(recipe: Recipe) -> dict[str, object]:
    """Return the counts of making one batch from a case of BTCV's size that is on the GPU.

    Args:
        recipe: Recipe of the crops; each is flipped and rotated here.
    """
    recipe = replace(recipe, flip_probability=1.0, rotate_probability=1.0, shift_probability=1.0)
    with fake_tensors() as reads:
        types = {"image": torch.float16, "label": torch.uint8}
        volumes = {key: torch.empty((1, *SCAN), dtype=dtype, device="cuda") for key, dtype in types.items()}
        case = {key: SimpleNamespace(as_tensor=lambda v=volume: v) for key, volume in volumes.items()}
        centres = np.arange(math.prod(SCAN) // 2, dtype=np.int32)[-9:]
        case |= dict.fromkeys(("organ_voxels", "other_voxels", "balanced_voxels"), centres)
        with Counts() as counts:
            images, labels, _ = training_batch([case | {"name": "case"}], augmentation(recipe), 0, 1)
    return {
        "batch_device": f"{images.device.type}, {labels.device.type}",
        "batch_reads": len(reads),
        "batch_transfers": counts.transfers,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the counts of each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("published", "tuned")
    parser.add_argument("--recipe", nargs="+", choices=names, default=["published"], help="recipes to count")
    parser.add_argument("--crops", type=int, default=4, help="crops of a step")
    parser.add_argument("--recompute", action="store_true", help="compute activations twice, as on small GPUs")
    parser.add_argument("--json", type=Path, help="file for the counts by recipe")
    args = parser.parse_args(arguments)
    counts = {}
    for name in args.recipe:
        recipe = replace(RECIPES[name], crops_per_volume=args.crops)
        counts[name] = count_step(recipe, args.recompute) | count_batch(recipe)
        print(f"{name}:")
        for what, count in counts[name].items():
            print(f"  {what:20} {count:.4g}" if isinstance(count, float) else f"  {what:20} {count}")
    if args.json:
        write_json(counts, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
