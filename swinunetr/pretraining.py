"""Self-supervised pre-training: unlabelled volumes, masked and turned views of them, and the tasks that they pose.

The tasks are those of Tang et al., "Self-supervised pre-training of Swin transformers for 3D medical image analysis",
CVPR 2022: paint in what was masked, tell by how much a view was turned, and recognise two views of the same crop. Here
the whole SwinUNETR solves them, decoder included, so that all of it can be fine-tuned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from monai.networks.nets import SwinUNETR
from monai.transforms import Compose, RandCoarseDropout, RandCoarseShuffle, RandSpatialCrop
from torch import Tensor, nn

from swinunetr.batches import next_case, without_metadata
from swinunetr.devices import Hardware
from swinunetr.inference import evaluating
from swinunetr.recipe import TASKS, PretrainingRecipe

TURNS = 4  # by 0, 90, 180 and 270 degrees about the axial axis
CODE_SIZE = 512  # numbers that stand for a view in the contrastive task
HELD_OUT_BATCHES = 8  # in each look at the held-out volumes


# ----------------------------------------------------------------------------------------------------------- recipe


# ------------------------------------------------------------------------------------------------------------- data


# ------------------------------------------------------------------------------------------------------------ views


@dataclass(frozen=True)
class Views:
    """Hold the views of a step's crops; if each has two, first those of one round, then, in this order, the others."""

    masked: Tensor  # (B, 1, X, Y, Z) float32, what the network sees
    whole: Tensor  # the same before it was masked, what it should paint
    turns: Tensor  # (B,) int64, how many times each was turned by 90 degrees
    names: str  # of the volumes

    def to(self, device: torch.device) -> Views:
        """Return the views on a device."""
        return Views(self.masked.to(device), self.whole.to(device), self.turns.to(device), self.names)


def masking(recipe: PretrainingRecipe) -> Compose:
    """Return the transform of a crop (1, X, Y, Z) that hides blocks of it and stirs the voxels of a few small ones.

    The blocks are filled with noise and hide about ``mask_ratio`` of the crop; they overlap.
    """
    block = (recipe.mask_block,) * 3
    share = math.prod(block) / math.prod(recipe.crop_size)
    holes = max(1, round(math.log(1 - recipe.mask_ratio) / math.log(1 - share)))
    return Compose(
        [
            RandCoarseShuffle(holes=8, spatial_size=[max(2, n // 12) for n in recipe.crop_size], prob=0.5),
            RandCoarseDropout(holes=holes, spatial_size=block, prob=1.0),
        ]
    )


def pretraining_batch(cases: list[dict], recipe: PretrainingRecipe, number: int) -> Views:
    """Return the views of batch ``number`` (from 1), as a pure function of the recipe's seed and ``number``."""
    crop, mask = RandSpatialCrop(recipe.crop_size, random_size=False), masking(recipe)
    rng = np.random.default_rng([recipe.seed, number, 2])
    samples = range((number - 1) * recipe.volumes_per_step + 1, number * recipe.volumes_per_step + 1)
    drawn = [next_case(cases, recipe.seed, sample) for sample in samples]
    crops, views = [], []
    with without_metadata():
        for case in drawn:
            for _ in range(recipe.crops_per_volume):
                crop.set_random_state(int(rng.integers(2**32)))
                crops.append(crop(case["image"].as_tensor()).float())
        for one in [*crops, *crops] if "contrast" in recipe.tasks else crops:
            turns = int(rng.integers(TURNS)) if "rotation" in recipe.tasks else 0
            whole = torch.rot90(one, turns, (1, 2))
            mask.set_random_state(int(rng.integers(2**32)))
            views.append((mask(whole.clone()), whole, torch.tensor(turns)))  # MONAI drops voxels in place
    tensors = (torch.stack(part) for part in zip(*views, strict=True))
    return Views(*tensors, names=", ".join(case["name"] for case in drawn))


# ------------------------------------------------------------------------------------------------ network and tasks


class PretrainingNetwork(nn.Module):
    """A SwinUNETR that paints one channel, and for the other tasks small heads on its encoder's deepest features."""

    def __init__(self, network: SwinUNETR, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        channels = 16 * network.swinViT.patch_embed.proj.weight.shape[0]
        self.network = network
        # Deep features of all views are nearly alike; without their mean taken off, the codes stayed so for 240 steps.
        heads = {
            "rotation": nn.Linear(channels, TURNS),
            "contrast": nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, CODE_SIZE)),
        }
        self.heads = nn.ModuleDict({task: head for task, head in heads.items() if task in tasks})
        network.swinViT.register_forward_hook(self._keep_deepest)

    def _keep_deepest(self, encoder: nn.Module, inputs: tuple, hidden: list[Tensor]) -> None:
        self._deepest = hidden[-1]

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Map views (B, 1, X, Y, Z) to what each task asks for: their painting, the logits of their turns, codes."""
        painting = self.network(views)
        pooled = self._deepest.mean((2, 3, 4))
        del self._deepest
        return {"reconstruction": painting} | {task: head(pooled) for task, head in self.heads.items()}


def task_losses(outputs: dict[str, Tensor], views: Views, recipe: PretrainingRecipe) -> dict[str, Tensor]:
    """Return the loss of each of the recipe's tasks in float32; ``views`` are on the outputs' device.

    Only hidden and stirred voxels count in the reconstruction, as in SimMIM (Xie et al., CVPR 2022): what is in plain
    sight would only teach the network to copy it.
    """
    answers = {task: output.float() for task, output in outputs.items()}
    hidden = views.masked != views.whole
    losses = {"reconstruction": F.l1_loss(answers["reconstruction"][hidden], views.whole[hidden])}
    if "rotation" in recipe.tasks:
        losses["rotation"] = F.cross_entropy(answers["rotation"], views.turns)
    if "contrast" in recipe.tasks:
        losses["contrast"] = ContrastiveLoss(recipe.temperature)(*answers["contrast"].chunk(2))
    return losses


def evaluate_tasks(
    model: PretrainingNetwork, cases: list[dict], recipe: PretrainingRecipe, hardware: Hardware
) -> dict[str, float]:
    """Return the mean loss of each task and the share of turns told right, on fixed views of held-out cases."""
    batches = []
    with evaluating(model):
        for number in range(1, HELD_OUT_BATCHES + 1):
            views = pretraining_batch(cases, recipe, number).to(hardware.device)
            with hardware.autocast():
                outputs = model(views.masked)
            scores = {name: float(loss) for name, loss in task_losses(outputs, views, recipe).items()}
            if "rotation" in recipe.tasks:
                scores["rotation_accuracy"] = float((outputs["rotation"].argmax(1) == views.turns).float().mean())
            batches.append(scores)
    return {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
