"""Make `docs/finetune_demo.ipynb`, the fine-tuning notebook with its outputs, and the README's picture.

Run from the project's root, after every change of the notebook; takes seven minutes on two CPU cores:
    .venv/bin/python docs/make_demo.py
In a fresh copy of the project, as a new user has it, the demo pre-trains, then fine-tunes from these weights. Where
only text cells have changed, --text takes them over and keeps the outputs.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image  # which matplotlib brings

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOK = "swinunetr_finetune.ipynb"
PARAMETERS = {"pretrained_checkpoint": "runs/pretrain/ssl_pretrained_weights.pth", "pretrained_decoder": "False"}
EXECUTED = PROJECT / "docs/finetune_demo.ipynb"
COMMENT = "# This run starts from weights of three minutes of pre-training on phantoms, made by ssl_train.ipynb."
PROGRESS_BAR = "application/vnd.jupyter.widget-view+json"  # without a kernel it shows as a bar at 0%


def copy_project(folder: Path) -> None:
    """Copy what belongs to the project, without its environment, data and results."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (PROJECT / name).is_file():  # a deleted file is listed until its deletion is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)


def papermill(folder: Path, *arguments: str) -> None:
    """Run papermill in ``folder``."""
    subprocess.run([sys.executable, "-m", "papermill", *arguments], cwd=folder, check=True)


def run_demo(folder: Path) -> nbformat.NotebookNode:
    """Pre-train and fine-tune in ``folder``, and return the fine-tuning notebook with its outputs."""
    papermill(folder, "ssl_train.ipynb", "runs/pretrain.ipynb")
    given = [word for name, value in PARAMETERS.items() for word in ("-p", name, value)]
    papermill(folder, NOTEBOOK, "runs/demo.ipynb", *given)
    return nbformat.read(folder / "runs/demo.ipynb", as_version=4)


def with_fewer_colours(png: str) -> str:
    """Return a PNG picture (base64) with at most 256 colours, which halves its size and changes none by much."""
    picture, smaller = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        smaller, "PNG", optimize=True
    )
    return base64.b64encode(smaller.getvalue()).decode()


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove progress bars and what papermill noted about this machine, make pictures smaller; return the notebook."""
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.source = cell.source.rstrip()  # papermill ends the parameters' cell with a line break
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace("# Parameters", COMMENT, 1)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if PROGRESS_BAR not in output.get("data", {})]
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                data["image/png"] = with_fewer_colours(data["image/png"])
    return notebook


def take_over_text() -> nbformat.NotebookNode:
    """Return the executed notebook with the text cells of the notebook, if their code cells agree."""
    executed, notebook = (nbformat.read(file, as_version=4) for file in (EXECUTED, PROJECT / NOTEBOOK))
    (injected,) = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    executed.cells.remove(injected)
    code = [[cell.source for cell in book.cells if cell.cell_type == "code"] for book in (executed, notebook)]
    if code[0] != code[1]:
        raise SystemExit("Code cells have changed. Run the demo again, without --text.")
    outputs = iter([cell for cell in executed.cells if cell.cell_type == "code"])
    executed.cells = [next(outputs) if cell.cell_type == "code" else cell for cell in notebook.cells]
    executed.cells.insert([cell.id for cell in executed.cells].index("parameters") + 1, injected)
    return executed


def main() -> None:
    """Write the notebook, and the picture if the demo is run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="store_true", help="only take over changed text cells")
    if parser.parse_args().text:
        nbformat.write(take_over_text(), EXECUTED)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        copy_project(folder)
        nbformat.write(clean(run_demo(folder)), EXECUTED)
        shutil.copy(folder / "runs/finetune/best_organ.png", PROJECT / "docs/segmentation.png")


if __name__ == "__main__":
    main()
