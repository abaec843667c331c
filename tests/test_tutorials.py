"""The tutorials of docs/: the blocks of "Your first six CTs" run from the first to the last, on small phantoms."""

import csv
import re
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PROJECT
from nibabel.affines import from_matvec
from notebook_runs import NOTEBOOK, read
from scipy import ndimage

from swinunetr.data.phantoms import make_phantom
from swinunetr.data.phantoms.writing import write_nifti
from swinunetr.training.parameters import read_parameters

PAGE = PROJECT / "docs/tutorials/first_six_cts.md"
# Blocks of other languages need other programs (dcm2niix), the network (pip), or show what one sees.
TYPED = ("bash", "json")
OF_READERS = ("ct", "data", "runs", "scans", "segmentations")  # folders that a clone does not have
LIVER, SPLEEN = 6, 1  # in the labels of phantoms
# The real run is made smaller: no download, the demo's network and grid, two steps, few windows.
SMALLER = {
    "-p recipe_name tuned": """-p recipe_name demo -p other_settings '{"overlap": 0, "calibration_cases": 0}'""",
    "-p pretrained_checkpoint ssl_50k ": "",
    "-p max_steps 5000": "-p max_steps 2",
}


def write_patients(folder: Path) -> None:
    """Write what a reader brings: six scans with the liver as 1 and the spleen as 2, and a seventh scan.

    Scans end 6 voxels beyond the two organs, so that validation is fast.
    """
    for number in range(1, 8):
        phantom = make_phantom(number)
        label = (1 * (phantom.label == LIVER) + 2 * (phantom.label == SPLEEN)).astype(np.uint8)
        (box,) = ndimage.find_objects(label.clip(max=1))
        box = tuple(slice(max(0, side.start - 6), side.stop + 6) for side in box)
        affine = phantom.affine @ from_matvec(np.eye(3), [side.start for side in box])
        image = folder / ("ct/images" if number < 7 else "scans") / f"patient{number}.nii.gz"
        write_nifti(phantom.image[box], affine, image)
        if number < 7:
            write_nifti(label[box], affine, folder / "ct/labels" / image.name)


def link_project(folder: Path) -> None:
    """Link the project's files and its environment into an empty folder, as a clone has them."""
    for path in PROJECT.iterdir():
        if not path.name.startswith(".") and path.name not in OF_READERS:
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "runs").mkdir()


def typed_blocks(page: str) -> list[tuple[str, str, str]]:
    """Return language, content and the text above of each block that is typed."""
    blocks = re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)\n```", page, re.DOTALL)
    return [(language, content, above) for above, language, content in blocks if language in TYPED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder in which the page was typed."""
    folder = tmp_path_factory.mktemp("clone")
    link_project(folder)
    kinds = []
    for language, content, above in typed_blocks(PAGE.read_text(encoding="utf-8")):
        kinds.append(language)
        if language == "json":
            (folder / re.search(r"`(\S+\.json)`", above)[1]).write_text(content)
            continue
        if "ssl_50k" in content:
            for words, fewer in SMALLER.items():
                assert words in content
                content = content.replace(words, fewer)
        done = subprocess.run(["bash", "-ec", content], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{content}\n{done.stderr[-3000:]}"
        if content.startswith("mkdir"):  # where the reader puts the files
            write_patients(folder)
        if "check_dataset" in content:
            (folder / "report.txt").write_text(done.stdout)
    assert kinds == ["bash", "json", *["bash"] * 4]
    return folder


def test_the_check_shows_what_the_page_shows(folder):
    shown = re.search(r"```text\n(organ .*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert shown in "\n".join(line.rstrip() for line in (folder / "report.txt").read_text().splitlines())


def test_the_smoke_run_learns(folder):
    rows = list(csv.DictReader((folder / "runs/smoke/metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["30", "60"]
    assert float(rows[1]["mean_dice"]) > 0.8 and min(float(rows[1][organ]) for organ in ("liver", "spleen")) > 0.7


def test_the_seventh_scan_is_segmented(folder):
    assert (folder / "runs/first/summary.json").is_file() and (folder / "segmentations/patient7.png").is_file()
    segmentation, scan = (nib.load(folder / name / "patient7.nii.gz") for name in ("segmentations", "scans"))
    assert segmentation.shape == scan.shape
    rows = list(csv.DictReader((folder / "segmentations/volumes.csv").read_text().splitlines()))
    assert [(row["scan"], row["organ"]) for row in rows] == [("patient7", "liver"), ("patient7", "spleen")]


def test_the_page_of_colab_sets_parameters_as_the_notebook_has_them():
    page = (PROJECT / "docs/tutorials/colab.md").read_text(encoding="utf-8")
    cells = [cell for cell in read(NOTEBOOK).cells if "parameters" in cell.metadata.get("tags", [])]
    declared = set(re.findall(r"^(\w+: \w+) =", cells[0].source, re.MULTILINE))
    set_there = dict(re.findall(r"^(\w+: \w+) = (.*)$", page, re.MULTILINE))
    assert len(set_there) == 7 and set_there.keys() <= declared
    values = {name.split(":")[0]: literal_eval(value) for name, value in set_there.items()}
    assert values.pop("pretrained_checkpoint") == "ssl_50k"  # which would be downloaded
    read_parameters(values)
    assert ".venv" not in page
