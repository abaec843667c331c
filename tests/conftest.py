"""Fixtures of several test files: a small data set in BTCV's layout, and small networks without equal tensors."""

import json
import os
from pathlib import Path

# Before PyTorch looks for GPUs and cores, so that tests do the same on every machine. For so little work several
# threads only wait for each other.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

import nibabel as nib
import numpy as np
import pytest
import torch
from checkpoint_files import known_network

from swinunetr.data.lists import Dataset, read_dataset
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.recipe import Recipe
from swinunetr.training.parameters import choose_recipe

PROJECT = Path(__file__).parent.parent
SMALL = choose_recipe("demo", crops_per_volume=2, crop_size=64, spacing_mm=(1.5, 1.5, 2.0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that neither of the two processes ends long before the other."""
    items.sort(key=lambda item: "notebook" not in item.path.name)


def write_case(folder: Path, number: int, shape=(70, 72, 68), affine=None) -> dict[str, str]:
    """Write a noisy block of soft tissue in air with two box-shaped organs; return its entry for the JSON."""
    rng = np.random.default_rng(number)
    image = np.full(shape, -1000, np.int16)
    image[2:-2, 2:-2, 2:-2] = rng.normal(0, 20, np.subtract(shape, 4))
    label = np.zeros(shape, np.uint8)
    label[10:30, 12:40, 10:30], label[40:60, 20:40, 30:50] = 1, 2
    image[label == 1], image[label == 2] = 100, 180
    affine = np.diag([1.5, 1.5, 2.0, 1.0]) if affine is None else affine
    names = {"image": f"imagesTr/img{number:04d}.nii.gz", "label": f"labelsTr/label{number:04d}.nii.gz"}
    for key, array in (("image", image), ("label", label)):
        (folder / names[key]).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / names[key])
    return names


@pytest.fixture
def small_data(tmp_path: Path) -> tuple[Path, Path]:
    """Return the JSON and the folder of a small data set."""
    return write_small_data(tmp_path)


def write_small_data(folder: Path) -> tuple[Path, Path]:
    """Write two training cases and one validation case with two organs each; return the JSON and the folder."""
    entries = [write_case(folder, number) for number in (1, 2, 3)]
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "left box", "2": "right box"},
        "training": entries[:2],
        "validation": entries[2:],
    }
    json_path = folder / "dataset.json"
    json_path.write_text(json.dumps(content))
    return json_path, folder


@pytest.fixture
def scans(tmp_path):
    """Return a folder of three volumes, with label files that cannot be read."""
    for number in (1, 2, 3):
        names = write_case(tmp_path, number)
        (tmp_path / names["label"]).write_bytes(b"not a volume")
    return tmp_path


def prepared(small_data: tuple[Path, Path], recipe: Recipe = SMALL) -> tuple[Dataset, list[dict]]:
    """Return the data set and its preprocessed training cases."""
    dataset = read_dataset(*small_data)
    return dataset, prepare_cases(dataset.training, recipe, dataset.modality)


@pytest.fixture(scope="session")
def originals() -> dict[str, torch.nn.Module]:
    """Return the networks that are stored in the test checkpoints."""
    return {
        "v1": known_network(),
        "v2": known_network(use_v2=True),
        "four channels": known_network(classes=3, in_channels=4),
        "current": known_network(downsample="merging"),
    }
