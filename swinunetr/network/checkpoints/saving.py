"""Weights of a network in a file that plain MONAI loads, with notes that this project reads again."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping

import torch
from monai.networks.nets import SwinUNETR

from swinunetr.files import replacing
from swinunetr.network.merging import merging_of


def save_weights(model: SwinUNETR, path: str | os.PathLike, note: Mapping | None = None) -> None:
    """Write the state dict of a network, on the CPU; the file is written completely or not at all.

    Plain MONAI can load it: ``SwinUNETR(...).load_state_dict(torch.load(path, weights_only=True))``. The order of patch
    merging and ``note`` are in ``_metadata`` of the state dict, which torch saves and MONAI does not read.

    Args:
        model: The network, on any device.
        path: File to write.
        note: How the weights were trained, as plain values; ``training_note`` returns it.
    """
    tensors = model.state_dict()
    state = OrderedDict((name, tensor.cpu().contiguous()) for name, tensor in tensors.items())
    state._metadata = tensors._metadata
    state._metadata[""] |= {"patch_merging": merging_of(model), "made_by": dict(note or {})}
    with replacing(path) as temporary, open(temporary, "wb") as file:  # by its path, the file would hold its name
        torch.save(state, file)
