"""Self-supervised pre-training: masked and rotated views of unlabelled volumes, and the tasks that use them.

The tasks are those of Tang et al., "Self-supervised pre-training of Swin transformers for 3D medical image analysis",
CVPR 2022: masked reconstruction (inpainting), rotation prediction and contrastive learning. Here the decoder of the
SwinUNETR makes the reconstruction, so that the whole network is pre-trained and can be fine-tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from monai.networks.nets import SwinUNETR
from monai.transforms import Compose, RandCoarseDropout, RandCoarseShuffle, RandSpatialCrop
from torch import Tensor, nn

from swinunetr.data.preprocessing import Case
from swinunetr.hardware import Hardware
from swinunetr.recipe import TASKS, PretrainingRecipe
from swinunetr.results.inference import evaluating
from swinunetr.threads import read_ahead
from swinunetr.training.batches import next_case, send, without_metadata

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees in the axial plane
EMBEDDING_SIZE = 512  # numbers per view in contrastive learning
VIEW_STREAM = 2  # of random numbers; that of fine-tuning is 1
HELD_OUT_BATCHES = 8  # per evaluation on the held-out volumes


# ------------------------------------------------------------------------------------------------------------ views


@dataclass(frozen=True)
class Views:
    """The views of one training step; with two views per crop, the first views of all crops come before the second."""

    masked: Tensor  # (B, 1, X, Y, Z) float32, the input of the network
    whole: Tensor  # (B, 1, X, Y, Z) float32, the same before masking, the target of the reconstruction
    rotations: Tensor  # (B,) int64, number of rotations by 90 degrees
    names: str  # of the volumes

    def to(self, device: torch.device) -> Views:
        """Return the views on a device."""
        return Views(send(self.masked, device), send(self.whole, device), send(self.rotations, device), self.names)


def masking(recipe: PretrainingRecipe) -> Compose:
    """Return the transform that masks a crop (1, X, Y, Z) and shuffles the voxels in a few small blocks of it.

    The masked blocks are filled with noise. They may overlap; together they cover about ``recipe.mask_ratio`` of the
    crop.
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


def pretraining_batches(
    cases: list[Case], recipe: PretrainingRecipe, numbers: Iterable[int], hardware: Hardware
) -> Iterator[Views]:
    """Yield the views of each batch on the device; on a GPU, the next ones are made in a thread meanwhile.

    Args:
        cases: Preprocessed cases with ``image`` (1, X, Y, Z) and ``name``.
        recipe: Settings of the run.
        numbers: Numbers of the batches, from 1: the steps, if one rank trains.
        hardware: Device of the run.
    """
    return read_ahead(lambda number: pretraining_batch(cases, recipe, number).to(hardware.device), numbers, hardware)


def pretraining_batch(cases: list[Case], recipe: PretrainingRecipe, number: int) -> Views:
    """Return the views of one batch, as a pure function of ``recipe.seed`` and ``number``.

    Args:
        cases: Preprocessed cases with ``image`` (1, X, Y, Z) and ``name``.
        recipe: Settings of the run.
        number: Number of the batch, from 1.

    Returns:
        Two views per crop if contrastive learning is a task, else one.
    """
    crop, mask = RandSpatialCrop(recipe.crop_size, random_size=False), masking(recipe)
    rng = np.random.default_rng([recipe.seed, number, VIEW_STREAM])
    samples = range((number - 1) * recipe.volumes_per_step + 1, number * recipe.volumes_per_step + 1)
    drawn = [next_case(cases, recipe.seed, sample) for sample in samples]
    crops, views = [], []
    with without_metadata():
        for case in drawn:
            for _ in range(recipe.crops_per_volume):
                crop.set_random_state(int(rng.integers(2**32)))
                crops.append(crop(case["image"].as_tensor()).float())
        for view in [*crops, *crops] if "contrast" in recipe.tasks else crops:
            quarters = int(rng.integers(ROTATIONS)) if "rotation" in recipe.tasks else 0
            rotated = torch.rot90(view, quarters, (1, 2))
            mask.set_random_state(int(rng.integers(2**32)))
            views.append((mask(rotated.clone()), rotated, torch.tensor(quarters)))  # as MONAI masks in place
    masked, whole, rotations = (torch.stack(parts) for parts in zip(*views, strict=True))
    return Views(masked, whole, rotations, ", ".join(case["name"] for case in drawn))


# ------------------------------------------------------------------------------------------------ network and tasks


class PretrainingNetwork(nn.Module):
    """A SwinUNETR with one output channel, and small heads on the deepest features of its encoder.

    The SwinUNETR reconstructs the masked voxels. The heads predict the rotation of a view and compute its embedding.

    Args:
        network: The SwinUNETR; it is trained in place.
        tasks: Names from ``recipe.TASKS``; a task that is not named has no head.
    """

    def __init__(self, network: SwinUNETR, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        channels = 2**4 * network.swinViT.patch_embed.proj.weight.shape[0]
        self.network = network
        # The deepest features of all views are almost the same. Without BatchNorm1d, which subtracts their mean, the
        # embeddings stayed almost the same for 240 steps.
        heads = {
            "rotation": nn.Linear(channels, ROTATIONS),
            "contrast": nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, EMBEDDING_SIZE)),
        }
        self.heads = nn.ModuleDict({task: head for task, head in heads.items() if task in tasks})
        network.swinViT.register_forward_hook(self._keep_deepest)

    def _keep_deepest(self, encoder: nn.Module, inputs: tuple, features: list[Tensor]) -> None:
        self._deepest = features[-1]

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Return the output per task for views (B, 1, X, Y, Z).

        ``reconstruction`` is (B, 1, X, Y, Z), ``rotation`` (B, 4) logits, ``contrast`` (B, 512) embeddings.
        """
        reconstruction = self.network(views)
        pooled = self._deepest.mean((2, 3, 4))
        del self._deepest
        return {"reconstruction": reconstruction} | {task: head(pooled) for task, head in self.heads.items()}


def task_losses(outputs: dict[str, Tensor], views: Views, recipe: PretrainingRecipe) -> dict[str, Tensor]:
    """Return the loss of each task of the recipe in float32.

    Only masked and shuffled voxels count in the reconstruction, as in SimMIM (Xie et al., CVPR 2022): from visible
    voxels the network would only learn to copy them.

    Args:
        outputs: From :class:`PretrainingNetwork`.
        views: The views that gave ``outputs``, on the same device.
        recipe: Settings of the run.
    """
    outputs = {task: output.float() for task, output in outputs.items()}
    changed = views.masked != views.whole
    distance = (outputs["reconstruction"] - views.whole).abs() * changed
    losses = {"reconstruction": distance.sum() / changed.sum().clamp(min=1)}  # crops of air have no such voxels
    if "rotation" in recipe.tasks:
        losses["rotation"] = F.cross_entropy(outputs["rotation"], views.rotations)
    if "contrast" in recipe.tasks:
        losses["contrast"] = ContrastiveLoss(recipe.temperature)(*outputs["contrast"].chunk(2))
    return losses


def evaluate_tasks(
    model: PretrainingNetwork, cases: list[Case], recipe: PretrainingRecipe, hardware: Hardware
) -> dict[str, float]:
    """Return the mean loss per task on held-out cases, and ``rotation_accuracy``, the share of correct predictions.

    The views are the same in every call. The model is in evaluation mode meanwhile.

    Args:
        model: The network in training, on the device.
        cases: Preprocessed held-out cases.
        recipe: Settings of the run.
        hardware: Device and precision.
    """
    batches = []
    with evaluating(model):
        for views in pretraining_batches(cases, recipe, range(1, HELD_OUT_BATCHES + 1), hardware):
            with hardware.autocast():
                outputs = model(views.masked)
            scores = {name: float(loss) for name, loss in task_losses(outputs, views, recipe).items()}
            if "rotation" in recipe.tasks:
                scores["rotation_accuracy"] = float((outputs["rotation"].argmax(1) == views.rotations).float().mean())
            batches.append(scores)
    return {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
