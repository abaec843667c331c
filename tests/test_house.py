"""One place for each thing: how many files a new one of its kind touches, tried in a copy of the project."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT

# What is added: by file, a line and what takes its place.
LOSS = {
    "swinunetr_finetune.ipynb": [
        ("import DeepSupervisionLoss, DiceCELoss", "import DeepSupervisionLoss, DiceFocalLoss"),
        ("= DiceCELoss(to_onehot_y=True", "= DiceFocalLoss(to_onehot_y=True"),
    ]
}
OUTPUT = {
    "swinunetr/scans/writers.py": [
        (
            "\nWRITERS: tuple[type[Writer], ...] = (",
            """
class Report(Writer):
    ending = ".txt"
    option = "report"
    argument = {"action": "store_true", "help": "write a report"}

    def write(self, segmented, file):
        file.write_text(segmented.scan.name)


WRITERS: tuple[type[Writer], ...] = (Report, """,
        )
    ]
}
FAMILY = {
    "swinunetr/network/layouts.py": [
        ("FAMILIES = (", 'FAMILIES = (\n    Family("new", "a new kind", WHOLE, renames=((r"new\\.", ""),)),')
    ]
}
AUGMENTATION = {
    "swinunetr/recipe.py": [
        (
            "    noise_probability: float",
            '    blur_probability: float = setting(0.0, "of a blur", A_PROBABILITY)\n    noise_probability: float',
        )
    ],
    "swinunetr/training/augmentation.py": [
        (
            "    if recipe.noise_probability:",
            "    from monai.transforms import RandGaussianSmoothd\n\n"
            '    transforms.append(RandGaussianSmoothd("image", prob=recipe.blur_probability))\n'
            "    if recipe.noise_probability:",
        )
    ],
}
ORGAN = {
    "swinunetr/data/organs.py": [
        (
            '    "left adrenal gland": Organ(',
            '    "heart": Organ("#123456", Concept("80891009", "Heart")),\n    "left adrenal gland": Organ(',
        ),
    ]
}
ADDED = {"loss": LOSS, "output": OUTPUT, "family": FAMILY, "augmentation": AUGMENTATION, "organ": ORGAN}
FILES = {"loss": 1, "output": 1, "family": 1, "augmentation": 2, "organ": 1}

USE = """
import json, sys, tempfile
from pathlib import Path
from types import SimpleNamespace

import monai.losses
import torch
from checkpoint_files import known_network, prefixed
from scan_files import write_scans, write_weights
from monai.losses import DeepSupervisionLoss

from swinunetr.data.organs import ORGANS, organ_colours
from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained
from swinunetr.recipe import DEMO
from swinunetr.scans.dicom_seg import organ_code
from swinunetr.scans.segmentation import segment
from swinunetr.training.augmentation import augmentation
from swinunetr.training.parameters import read_parameters

folder, found = Path(tempfile.mkdtemp()), {}
lines = [line for cell in json.loads(Path("swinunetr_finetune.ipynb").read_text())["cells"] for line in cell["source"]]
names = {"hardware": find_hardware(), "weight": None, "dataset": SimpleNamespace(ignores=False)}
for line in lines:
    if line.startswith(("from monai.losses import", "loss_function =")):
        exec(line, names)
found["loss"] = type(names["loss_function"].loss).__name__

segment(write_weights(folder / "best_model.pth"), write_scans(folder / "scans"), folder / "out", report=True)
found["output"] = (folder / "out/first.txt").read_text()

torch.save(prefixed(known_network().state_dict(), "new."), folder / "weights.pt")
found["family"] = load_pretrained(build_swinunetr(14, folder / "weights.pt"), folder / "weights.pt").family

_, recipe = read_parameters({"other_settings": {"blur_probability": 0.5}})
found["augmentation"] = [type(transform).__name__ for transform in augmentation(recipe).transforms]

found["organ"] = [organ_code(ORGANS["heart"].code).meaning, organ_colours(14)]
print(json.dumps(found))
"""
FOUND = {
    "loss": lambda found: found == "DiceFocalLoss",
    "output": lambda found: found == "first",
    "family": lambda found: found == "new",
    "augmentation": lambda found: "RandGaussianSmoothd" in found,
    "organ": lambda found: found[0] == "Heart" and "#123456" in found[1],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, object]:
    """Return what a copy of the project does with one more of each kind."""
    copy = tmp_path_factory.mktemp("house") / "project"
    copy.mkdir()
    shutil.copytree(PROJECT / "swinunetr", copy / "swinunetr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "swinunetr_finetune.ipynb", copy)
    for changes in ADDED.values():
        for name, replacements in changes.items():
            text = (copy / name).read_text()
            for line, added in replacements:
                assert line in text, (name, line)
                text = text.replace(line, added)
            (copy / name).write_text(text)
    path = f"import sys; sys.path[:0] = [{str(copy)!r}, {str(PROJECT / 'tests')!r}]\n"
    done = subprocess.run([sys.executable, "-c", path + USE], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ADDED)
def test_a_new_one_of_a_kind_touches_few_files(kind, found):
    assert len(ADDED[kind]) == FILES[kind]
    assert FOUND[kind](found[kind]), found[kind]
