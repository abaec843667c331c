"""The published recipe in plain MONAI, with which ``benchmarks/speed.py`` compares this project.

It computes in float32 with activation checkpointing, finds crop centres in every step, and scores one-hot volumes.
Source: the BTCV notebook for SwinUNETR in https://github.com/Project-MONAI/tutorials.
"""

from __future__ import annotations

import numpy as np
import torch
from monai import transforms
from monai.data import CacheDataset, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SwinUNETR

from benchmarks.step import CLASSES
from swinunetr.recipe import Recipe

KEYS = ("image", "label")


class PublishedRecipe:
    """Network, data and training; of ``recipe``, only the sizes of network and crops and the spacing are used."""

    def __init__(self, recipe: Recipe) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.crop_size = recipe.crop_size
        size = {"feature_size": recipe.feature_size, "window_size": recipe.window_size}
        self.model = SwinUNETR(in_channels=1, out_channels=CLASSES, use_checkpoint=True, **size).to(self.device)
        self.loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=1e-5)
        self.preprocessing = [
            transforms.LoadImaged(KEYS),
            transforms.EnsureChannelFirstd(KEYS),
            transforms.Orientationd(KEYS, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            transforms.Spacingd(KEYS, pixdim=recipe.spacing_mm, mode=("bilinear", "nearest")),
            transforms.ScaleIntensityRanged("image", -175, 250, 0.0, 1.0, clip=True),
            transforms.CropForegroundd(KEYS, source_key="image"),
        ]
        crops = {"spatial_size": recipe.crop_size, "pos": 1, "neg": 1, "num_samples": 4}
        self.augmentation = [
            transforms.RandCropByPosNegLabeld(KEYS, "label", image_key="image", image_threshold=0, **crops),
            *(transforms.RandFlipd(KEYS, prob=0.1, spatial_axis=axis) for axis in range(3)),
            transforms.RandRotate90d(KEYS, prob=0.1, max_k=3),
            transforms.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]

    def prepare_case(self, entry: dict[str, str]) -> None:
        """Preprocess the training case."""
        transform = transforms.Compose(self.preprocessing + self.augmentation).set_random_state(seed=0)
        self.training = CacheDataset([entry], transform, num_workers=1, progress=False)

    def prepare_validation(self, entry: dict[str, str]) -> list[np.ndarray]:
        """Return image and label of a preprocessed case, both (1, X, Y, Z), float32."""
        case = transforms.Compose(self.preprocessing)(entry)
        return [case[key].as_tensor().float().numpy() for key in KEYS]

    def sample_step(self) -> None:
        """Make the batch of the next step."""
        self.batch = list_data_collate([self.training[0]])

    def train_step(self, crops: int) -> None:
        """Train on the first crops of the batch."""
        images, labels = (self.batch[key][:crops].to(self.device) for key in KEYS)
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss_function(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        loss.item()  # for the progress bar

    def logits(self, image: np.ndarray) -> torch.Tensor:
        """Return the logits (classes, X, Y, Z) of an image (1, X, Y, Z)."""
        self.model.eval()
        batch = torch.as_tensor(image, device=self.device)[None]
        with torch.no_grad():
            return sliding_window_inference(batch, self.crop_size, 4, self.model, overlap=0.25)[0]

    def dice(self, logits: torch.Tensor | np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return the Dice of each organ; NaN where the label lacks it."""
        logits = torch.as_tensor(logits)
        prediction = transforms.AsDiscrete(argmax=True, to_onehot=CLASSES)(logits)
        ground_truth = transforms.AsDiscrete(to_onehot=CLASSES)(torch.as_tensor(label, device=logits.device))
        return DiceMetric(include_background=False)(y_pred=[prediction], y=[ground_truth])[0].cpu().numpy()

    def validate_case(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Segment a case and return the Dice of each organ."""
        return self.dice(self.logits(image), label)
