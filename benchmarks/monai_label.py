"""MONAI Label serves an exported bundle: its labels of a scan beside those of ``segment.py``.

Run from the project's root, with trained weights and a NIfTI file:
    .venv/bin/python -m benchmarks.monai_label runs/finetune/best_model.pth data/phantoms/imagesTr/img0035.nii.gz
The commands are those of the bundle's README: they make a virtual environment, install MONAI Label and start its server
on this machine. That takes two minutes after the packages are installed, 8 GB with PyTorch for a GPU.
``--folder`` keeps the environment for a second run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch

from swinunetr.hardware import Hardware
from swinunetr.scans import segmentation
from swinunetr.scans.bundle import write_bundle

SERVER = "http://127.0.0.1:8000"
LONGEST_S = 3600  # until the server answers; installing takes most of it


def readme_commands(bundle: Path, scans: Path) -> str:
    """Return the commands of a bundle's README for MONAI Label as one script, for the scans of a folder.

    The script becomes the server in the end, so that stopping one process stops both.
    """
    text = (bundle / "docs/README.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^## 3D Slicer and MONAI Label\n.*?^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = commands.replace("monailabel start_server", "exec monailabel start_server")
    return "set -e\n" + commands.replace("/data/scans", str(scans))


def labels_of_server(script: str, folder: Path, name: str) -> nib.Nifti1Image:
    """Run the script in a folder, ask its server for the labels of the scan ``name``, and stop it."""
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(["bash", "-c", script], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + LONGEST_S
        while not _answers():
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The server did not start:\n" + (folder / "server.log").read_text()[-3000:])
            time.sleep(1)
        request = urllib.request.Request(f"{SERVER}/infer/my_model?image={name}&output=image", method="POST")
        with urllib.request.urlopen(request, timeout=LONGEST_S) as answer:
            (folder / "answer.nii.gz").write_bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise SystemExit(f"The server answered {error}:\n" + (folder / "server.log").read_text()[-3000:]) from None
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    return nib.load(folder / "answer.nii.gz")


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"{SERVER}/info/", timeout=10):
            return True
    except OSError:
        return False


def compare(weights: Path, scan: Path, folder: Path) -> bool:
    """Print how many voxels differ between MONAI Label and ``segment.py``; return whether none does."""
    for name in ("my_model", "workspace", "scans", "expected"):  # of a run before in the same folder
        shutil.rmtree(folder / name, ignore_errors=True)
    bundle = write_bundle(weights, folder / "my_model")
    (folder / "scans").mkdir()
    shutil.copy(scan, folder / "scans")
    float32 = Hardware(torch.device("cpu"), None, "CPU")
    with patch.object(segmentation, "find_hardware", lambda: float32):  # as the bundle computes
        (file,) = segmentation.segment(weights, folder / "scans", folder / "expected")
    expected = nib.load(file)
    started = time.monotonic()
    served = labels_of_server(readme_commands(bundle, folder / "scans"), folder, scan.name.split(".nii")[0])
    differing = int((np.asanyarray(served.dataobj) != np.asanyarray(expected.dataobj)).sum())
    same_place = np.allclose(served.affine, expected.affine, atol=1e-4)
    affine = "the same" if same_place else "another"
    print(f"{differing} of {np.prod(served.shape)} voxels differ, the affine is {affine}.")
    print(f"Installing, starting the server and segmenting took {(time.monotonic() - started) / 60:.1f} minutes.")
    return differing == 0 and same_place


def main() -> None:
    """Run :func:`compare` from the command line; exit with 1 if the labels differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="best_model.pth of a fine-tuning run")
    parser.add_argument("scan", type=Path, help="NIfTI file")
    parser.add_argument("--folder", type=Path, help="folder to work in, which is kept; a temporary one without it")
    args = parser.parse_args()
    if _answers():
        raise SystemExit(f"{SERVER} is in use by another server; stop that first.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        raise SystemExit(0 if compare(args.weights, args.scan, folder) else 1)


if __name__ == "__main__":
    main()
