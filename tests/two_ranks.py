"""Train a few steps under torchrun and write the losses to a file; ``test_devices.py`` starts this and reads them."""

import json
import sys
from pathlib import Path

import torch
from monai.losses import DiceCELoss

from swinunetr.checkpoints import build_swinunetr
from swinunetr.devices import Hardware, find_hardware, parallel

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    hardware = find_hardware()
    losses = train(hardware, samples_per_step=1)
    shared = hardware.gather([(number, hardware.rank) for number in hardware.share(range(5))])
    if hardware.rank == 0:
        result = {"ranks": hardware.ranks, "losses": losses, "shared": sorted(shared)}
        Path(sys.argv[1]).write_text(json.dumps(result))
