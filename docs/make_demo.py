"""Make `docs/finetune_demo.ipynb`, the demo with its outputs, and the README's picture.

Run from the project's root, after every change of the notebook; takes as long as the demo:
    .venv/bin/python docs/make_demo.py
The notebook runs without parameters in a fresh copy of the project, as a new user runs it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOK = "swinunetr_finetune.ipynb"
PROGRESS_BAR = "application/vnd.jupyter.widget-view+json"  # without a kernel it shows as a bar at 0%


def copy_project(folder: Path) -> None:
    """Copy the project without its environment, data and results."""
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "data", "docs", "*.ipynb.*")
    shutil.copytree(PROJECT, folder, ignore=left_out)
    shutil.rmtree(folder / "runs")
    (folder / "runs").mkdir()


def run_demo(folder: Path) -> nbformat.NotebookNode:
    """Run the notebook in ``folder`` with papermill and return it with its outputs."""
    command = [sys.executable, "-m", "papermill", NOTEBOOK, "runs/demo.ipynb"]
    subprocess.run(command, cwd=folder, check=True)
    return nbformat.read(folder / "runs/demo.ipynb", as_version=4)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove progress bars and what papermill noted about this machine; return the notebook."""
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if PROGRESS_BAR not in output.get("data", {})]
    return notebook


def main() -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        copy_project(folder)
        nbformat.write(clean(run_demo(folder)), PROJECT / "docs/finetune_demo.ipynb")
        shutil.copy(folder / "runs/finetune/best_organ.png", PROJECT / "docs/segmentation.png")


if __name__ == "__main__":
    main()
