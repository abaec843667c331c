"""What a process on each of two machines does with the same and with different data, folders and settings.

``test_hardware.py`` starts both on this machine, with data and folders in places of their own.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from conftest import SMALL, write_small_data
from torch import distributed

from swinunetr import hardware as devices
from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import read_dataset
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import ShortError
from swinunetr.hardware import Hardware, find_hardware
from swinunetr.training.run_folder import RunFolder, state

SETTINGS = {"recipe": {"max_steps": 9, "learning_rate": 1e-3}, "seed": 0}


def outcome(action: Callable[[], object]) -> object:
    """Return the result of an action, or the message of its error."""
    try:
        return action()
    except ShortError as error:
        return f"{type(error).__name__}: {error}"


def checks(hardware: Hardware, place: Path) -> dict[str, object]:
    """Check data that are the same on both machines, then data that differ in one way each."""
    json_path, root = write_small_data(place / f"machine{hardware.rank}")
    dataset = read_dataset(json_path, root)

    def check(training: list[dict] = dataset.training) -> dict[str, str]:
        return check_dataset(
            replace(dataset, training=training), SMALL.spacing_mm, workers=1, hardware=hardware
        ).fingerprint

    found = {"same": outcome(check)}
    second = hardware.rank == 1
    found["shorter list"] = outcome(lambda: check(dataset.training[: 2 - second]))
    link = Path(dataset.training[1]["label"])
    if not second:  # one file on the first machine, two of the same content on the second
        link.unlink()
        link.symlink_to(dataset.training[0]["label"])
    else:
        shutil.copy(dataset.training[0]["label"], link)
    found["link and copy"] = outcome(check)
    if second:
        Path(dataset.training[0]["image"]).unlink()
    found["missing"] = outcome(check)
    shutil.copy(dataset.validation[0]["image"], dataset.training[0]["image"])
    if second:
        shutil.copy(dataset.training[1]["image"], dataset.training[0]["image"])
    found["other file"] = outcome(lambda: check(dataset.training[:1]))
    only = {"cache_dir": place / "cache" if second else "", "hardware": hardware}
    prepared = prepare_cases(dataset.validation, SMALL, "CT", description="", **only)
    return found | {"a cache on one": [case["name"] for case in prepared]}


def folders(hardware: Hardware, place: Path) -> dict[str, object]:
    """Open run folders that are shared or not, with the same settings and state or with others."""
    second = hardware.rank == 1

    def open_run(name: str, settings: dict = SETTINGS, **options: object) -> str:
        return f"opened at step {RunFolder(place / name, settings, hardware, **options).step}"

    found = {"not shared": outcome(lambda: open_run(f"machine{hardware.rank}/run"))}
    other = {"recipe": SETTINGS["recipe"] | {"learning_rate": 1e-4 if second else 1e-3}}
    found["other settings"] = outcome(lambda: open_run("other", SETTINGS | other))
    found["bad on one"] = outcome(lambda: open_run("bad", save_every=-1 if second else 15))
    model = torch.nn.Linear(1, 1)
    run = RunFolder(place / "shared", SETTINGS, hardware)
    run.restore(model=model)
    run.keep(4, True, model=model)
    found["same state"] = outcome(lambda: open_run("shared"))
    found["refused by rank 0"] = outcome(lambda: open_run("shared", resume=False))
    read = state._read
    state._read = lambda file: read(file) | ({"step": 1} if second else {})
    found["other state"] = outcome(lambda: open_run("shared"))
    return found


def hardwares(hardware: Hardware) -> dict[str, object]:
    """Look for the hardware where a package differs, and wait for a rank that does not come."""
    versions = devices.versions
    devices.versions = lambda: versions() | ({"monai": "1.0"} if hardware.rank else {})
    found = {"other version": outcome(lambda: find_hardware().rank)}
    impatient = distributed.new_group(backend="gloo", timeout=timedelta(seconds=1))
    devices._patient_group = lambda: impatient
    if hardware.rank:
        time.sleep(2)
    return found | {"late": outcome(lambda: hardware.gather([1]))}


def main(place: Path) -> None:
    """Do all of it, and write what this machine found."""
    torch.set_num_threads(1)
    hardware = find_hardware()
    waits = [
        group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
        for group in (distributed.group.WORLD, devices._patient_group())
    ]
    found = {"waits": waits} | checks(hardware, place) | folders(hardware, place) | hardwares(hardware)
    (place / f"found.{hardware.rank}.json").write_text(json.dumps(found))
    os._exit(0)  # without waiting for the other rank, with which the connection is broken


if __name__ == "__main__":
    main(Path(sys.argv[1]))
