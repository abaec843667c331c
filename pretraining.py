"""Self-supervised pre-training: unlabelled volumes, masked and turned views of them, and the tasks that they pose.

The tasks are those of Tang et al., "Self-supervised pre-training of Swin transformers for 3D medical image analysis",
CVPR 2022: paint in what was masked, tell by how much a view was turned, and recognise two views of the same crop. Here
the whole SwinUNETR solves them, decoder included, so that all of it can be fine-tuned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from monai.networks.nets import SwinUNETR
from monai.transforms import Compose, RandCoarseDropout, RandCoarseShuffle, RandSpatialCrop
from torch import Tensor, nn
from tqdm.auto import tqdm

import ct_phantoms
from hardware import Hardware
from inference import evaluating
from ssl_helpers import (
    DEMO,
    NOT_A_LIST,
    CommonRecipe,
    Dataset,
    find_volumes,
    locate,
    next_case,
    read_json,
    without_metadata,
)
from user_errors import InputError

TASKS = ("reconstruction", "rotation", "contrast")
TURNS = 4  # by 0, 90, 180 and 270 degrees about the axial axis
CODE_SIZE = 512  # numbers that stand for a view in the contrastive task
FIRST_PHANTOM = 1001  # unlabelled phantoms count from here; BTCV's ids, which fine-tuning uses, end at 80
MOST_HELD_OUT = 24  # volumes
HELD_OUT_BATCHES = 8  # in each look at the held-out volumes


# ----------------------------------------------------------------------------------------------------------- recipe


@dataclass(frozen=True)
class PretrainingRecipe(CommonRecipe):
    """Hold every choice of a pre-training run; the losses of all ``tasks`` weigh 1, as in the paper.

    What it shares with fine-tuning means the same there; ``schedule`` is the cosine by default. ``tasks`` may also be a
    string of names with commas between them.

    Raises:
        InputError: a value that the network or the training loop can't take, naming the parameter.
    """

    learning_rate: float = 4e-4
    schedule: str = "cosine"
    tasks: tuple[str, ...] = TASKS
    crops_per_volume: int = 2  # each of which is seen in two views for the contrastive task, in one without it
    volumes_per_step: int = 1
    mask_ratio: float = 0.3  # of a view's voxels, about
    mask_block: int = 24  # edge of a masked block in voxels
    temperature: float = 0.5  # of the contrastive task: how much the most alike of the other crops count

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise InputError("max_steps: expected at least one step, found 0.")
        names = self.tasks.split(",") if isinstance(self.tasks, str) else self.tasks
        object.__setattr__(self, "tasks", tuple(name.strip() for name in names))
        if "reconstruction" not in self.tasks or not set(self.tasks) <= set(TASKS):
            raise InputError(
                "tasks: expected reconstruction, which trains the decoder, alone or with rotation and contrast, "
                f"found {', '.join(self.tasks)!r}."
            )
        if not isinstance(self.mask_block, int) or not 2 <= self.mask_block <= min(self.crop_size):
            raise InputError(f"mask_block: expected 2 voxels up to {min(self.crop_size)}, found {self.mask_block!r}.")
        if not isinstance(self.mask_ratio, int | float) or not 0 < self.mask_ratio < 0.95:
            raise InputError(f"mask_ratio: expected a number above 0 and below 0.95, found {self.mask_ratio!r}.")
        if not isinstance(self.temperature, int | float) or self.temperature <= 0:
            raise InputError(f"temperature: expected a number above 0, found {self.temperature!r}.")
        if "contrast" in self.tasks and self.volumes_per_step * self.crops_per_volume < 2:
            raise InputError(
                "volumes_per_step and crops_per_volume: expected at least two crops a step, since the contrastive task "
                f"tells them apart, found {self.volumes_per_step} x {self.crops_per_volume}."
            )
        if "rotation" in self.tasks:
            self._require_square("views")


PRETRAINING_DEMO = PretrainingRecipe(
    max_steps=180,
    eval_every=45,
    learning_rate=2e-3,
    crops_per_volume=1,
    volumes_per_step=2,
    mask_ratio=0.6,
    mask_block=8,
    crop_size=DEMO.crop_size,
    spacing_mm=DEMO.spacing_mm,
    feature_size=DEMO.feature_size,
    window_size=DEMO.window_size,
)


RECIPES = {"published": PretrainingRecipe(), "demo": PRETRAINING_DEMO}


# ------------------------------------------------------------------------------------------------------------- data


def read_unlabelled(data_root: str | Path, json_path: str | Path = "", modality: str = "CT") -> Dataset:
    """Return the volumes of a folder, or those that a Decathlon-style JSON lists, without their labels.

    Without ``json_path`` every ``.nii`` and ``.nii.gz`` below ``data_root`` is taken, but for folders whose name
    begins with "label". Of the JSON, ``training`` and, held out, ``validation`` are read, and its ``modality``. Where
    no volume is held out yet, every twentieth is, at least one and at most ``MOST_HELD_OUT``.

    Raises:
        InputError: the folder or the JSON is missing or malformed, or there are fewer than two volumes.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"data_root: no folder at '{root}'. Give a folder of NIfTI files.")
    if json_path:
        content = read_json(Path(json_path))
        modality = next(iter(content.get("modality", {"0": modality}).values()))
        training, held_out = (_listed(content, name, root, json_path) for name in ("training", "validation"))
    else:
        training, held_out = find_volumes(root), []
    if len(training) + bool(held_out) < 2:
        where = f"'{json_path}' under \"training\"" if json_path else f"'{root}'"
        raise InputError(f"data_root: expected at least two volumes in {where}, found {len(training)}.")
    if not held_out:
        every = max(20, math.ceil(len(training) / MOST_HELD_OUT))
        held_out = training[::every]
        training = [entry for number, entry in enumerate(training) if number % every]
    return Dataset(("background",), modality, training, held_out, test=[])


def _listed(content: dict, section: str, root: Path, json_path: str | Path) -> list[dict[str, str]]:
    """Return the volumes of one section of a Decathlon-style JSON."""
    entries = content.get(section, [])
    images = [e.get("image") if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else [None]
    if not all(isinstance(image, str) for image in images):
        raise InputError(NOT_A_LIST.format(json_path) + f'Expected file names or "image" in each case of "{section}".')
    return [locate(image, root) for image in images]


def write_unlabelled_phantoms(root: str | Path, count: int = 40) -> Path:
    """Write ``count`` synthetic CTs without labels where ``root`` lacks them, and return ``root``."""
    files = {number: Path(root, f"phantom{number}.nii.gz") for number in range(FIRST_PHANTOM, FIRST_PHANTOM + count)}
    missing = {number: file for number, file in files.items() if not file.is_file()}
    for number, file in tqdm(missing.items(), desc="Making CT phantoms", disable=not missing):
        ct_phantoms.write_phantom(number, file)
    return Path(root)


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
