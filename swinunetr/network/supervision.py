"""Deep supervision: a loss on coarser levels of the decoder beside that of the output, in training only."""

from __future__ import annotations

from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

BLOCKS = ("decoder2", "decoder3", "decoder4")  # of SwinUNETR, whose outputs have 1/2, 1/4 and 1/8 of the resolution


class DeepSupervision(nn.Module):
    """A SwinUNETR that returns the logits of its output and of coarser levels, for MONAI's ``DeepSupervisionLoss``.

    Each level has a head of its own, a convolution of one voxel that starts at random. The heads are part of training
    only: the network itself stays a plain SwinUNETR.

    Source: Lee et al., "Deeply-supervised nets", AISTATS 2015; in this form in nnU-Net (Isensee et al., 2021).

    Args:
        network: The network, which becomes the attribute ``network``.
        levels: Number of coarser levels, 0 to 3.
    """

    def __init__(self, network: SwinUNETR, levels: int) -> None:
        super().__init__()
        self.network = network
        output = network.out.conv.conv
        channels = [getattr(network, name).conv_block.conv1.conv.out_channels for name in BLOCKS[:levels]]
        self.heads = nn.ModuleList(nn.Conv3d(n, output.out_channels, 1) for n in channels).to(output.weight.device)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return the logits (B, classes, X, Y, Z) of images (B, C, X, Y, Z); in a list with those of coarser levels.

        They are float32 also under autocast, so that the loss is computed in it: sums over the voxels of a crop lose
        their digits in half precision.
        """
        if not self.heads:
            return self.network(images).float()
        features: list[Tensor] = []

        def keep(block: nn.Module, inputs: tuple, output: Tensor) -> None:
            features.append(output)

        hooks = [getattr(self.network, name).register_forward_hook(keep) for name in BLOCKS[: len(self.heads)]]
        try:
            logits = self.network(images)
        finally:
            for hook in hooks:  # so that inference and copies of the network have none
                hook.remove()
        levels = (head(level) for head, level in zip(self.heads, reversed(features), strict=True))
        return [logits.float(), *(level.float() for level in levels)]
