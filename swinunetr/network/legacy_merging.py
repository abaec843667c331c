"""Patch merging in the order with which the weights were trained; MONAI 1.5 changed it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor


class LegacyPatchMerging(PatchMerging):
    """Patch merging in the order of MONAI 0.9 to 1.4, with which the public checkpoints were trained.

    MONAI 1.5 changed slots 4 to 6 but no names or shapes, so older weights load there without an error and compute a
    different result. Permuted weights cannot correct this, because two sub-volumes occur twice in this order and the
    LayerNorm normalises over all eight slots.

    Source: https://github.com/Project-MONAI/MONAI/pull/8285
    """

    # Offsets along d, h, w of the sub-volumes in slots 0 to 7, in the order in which their channels are concatenated.
    SLOTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W, C) to (B, D/2, H/2, W/2, 2C); odd sizes are padded with zeros at the end."""
        if x.ndim != 5:
            return super().forward(x)
        _, d, h, w, _ = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in self.SLOTS], -1)
        return self.reduction(self.norm(x))
