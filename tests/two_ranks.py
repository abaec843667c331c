"""What two processes do under torchrun: train, prepare cases, run out of memory; ``test_hardware.py`` starts this."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import SMALL
from monai.losses import DiceCELoss

from swinunetr.data import checks, preprocessing
from swinunetr.data.lists import read_dataset
from swinunetr.errors import TrainingStopped
from swinunetr.hardware import Hardware, find_hardware, parallel
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.training.run_folder import RunFolder
from swinunetr.training.stopping import require_finite

STEPS = 3


def sample(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crop and label of one position in the training order."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(0, 3, (1, 1, 64, 64, 32), generator=generator)
    return labels + torch.randn(labels.shape, generator=generator), labels


def train(hardware: Hardware, samples_per_step: int) -> list[float]:
    """Return the mean loss of each step, with ``samples_per_step`` samples per rank."""
    torch.manual_seed(0)
    model = build_swinunetr(3, feature_size=12, window_size=4)
    network = parallel(model, hardware)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    losses = []
    for step in range(1, STEPS + 1):
        first = (hardware.sample_number(step) - 1) * samples_per_step + 1
        batch = [sample(number) for number in range(first, first + samples_per_step)]
        loss = sum(loss_function(network(images), labels) for images, labels in batch) / samples_per_step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(hardware.mean(loss.item()))
    return losses


def prepare(hardware: Hardware, json_path: str, folder: Path) -> dict[str, object]:
    """Check and prepare the training cases; return what this rank read and preprocessed, and a sum of all voxels."""
    voxels = record(checks.dataset, "check_voxels", lambda file, *_: Path(file.path).name)
    cases = record(preprocessing, "_preprocess", lambda entry, recipe, modality: entry["name"])
    dataset = read_dataset(json_path, Path(json_path).parent)
    report = checks.check_dataset(dataset, SMALL.spacing_mm, hardware=hardware)
    prepared = preprocessing.prepare_cases(
        dataset.training, SMALL, "CT", description="", cache_dir=folder / "cache", hardware=hardware
    )
    total = sum(float(case["image"].as_tensor().float().sum()) for case in prepared)
    return {"voxels": voxels, "cases": cases, "total": total, "fingerprint": report.fingerprint}


def record(module: object, name: str, key: Callable[..., str]) -> list[str]:
    """Replace a function by one that also notes the key of its arguments, and return the list of keys."""
    keys, function = [], getattr(module, name)

    def noted(*arguments: object) -> object:
        keys.append(key(*arguments))
        return function(*arguments)

    setattr(module, name, noted)
    return keys


def run_out_of_memory(hardware: Hardware, logdir: Path) -> None:
    """Train until the memory of the second rank is full."""
    run = RunFolder(logdir, {"recipe": {"max_steps": 4, "learning_rate": 1e-3}}, hardware)
    model = torch.nn.Linear(3, 2)
    network, optimizer = parallel(model, hardware), torch.optim.AdamW(model.parameters())
    run.restore(model=model, optimizer=optimizer)
    with run.stopping_cleanly():
        for step in range(1, 5):
            if step == 3 and hardware.rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            loss = network(torch.randn(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            run.losses.append(require_finite(loss, model, step, "case", hardware, hardware.scaler()))
            optimizer.step()
            run.keep(step, step == 4, model=model, optimizer=optimizer)


def main(json_path: str, folder: Path) -> None:
    """Do all of it, and write what both ranks found."""
    torch.set_num_threads(1)
    hardware = find_hardware()
    losses = train(hardware, samples_per_step=1)
    shared = hardware.gather([(number, hardware.rank) for number in hardware.share(range(5))])
    prepared = hardware.gather([prepare(hardware, json_path, folder)])
    if hardware.rank == 0:
        result = {"ranks": hardware.ranks, "losses": losses, "shared": sorted(shared), "prepared": prepared}
        (folder / "out.json").write_text(json.dumps(result))
    try:
        run_out_of_memory(hardware, folder / "run")
    except TrainingStopped as error:
        (folder / f"stopped.{hardware.rank}.txt").write_text(str(error))
        os._exit(1)  # as after a message of papermill; without waiting for the other rank


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
