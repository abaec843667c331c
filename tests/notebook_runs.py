"""Runs of the notebooks for their tests and `benchmarks/kill_and_resume.py`: by papermill, killed, and cell by cell."""

import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import torch
from nbclient import NotebookClient

PROJECT = Path(__file__).parent.parent
NOTEBOOK, PRETRAINING = PROJECT / "swinunetr_finetune.ipynb", PROJECT / "ssl_train.ipynb"
SMALL_RUN = {"recipe_name": "demo", "max_steps": 2, "eval_every": 2, "save_every": 0}


def read(path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    return content


def command(output, notebook=NOTEBOOK, **parameters) -> list[str]:
    """Return the command that runs a notebook as the README does."""
    options = [text for name, value in parameters.items() for text in ("-p", name, str(value))]
    return [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(output), *options]


def papermill(output, notebook=NOTEBOOK, **parameters) -> subprocess.CompletedProcess:
    """Run a notebook in a process of its own."""
    call = command(output, notebook, **parameters)
    return subprocess.run(call, cwd=PROJECT, capture_output=True, text=True, timeout=500)


def start(output, notebook=NOTEBOOK, **parameters) -> subprocess.Popen:
    """Start a notebook in a process of its own."""
    return subprocess.Popen(command(output, notebook, **parameters), cwd=PROJECT, stderr=subprocess.DEVNULL)


def wait_for(file, process) -> None:
    """Wait until ``file`` is there, or the process has ended."""
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)


def kill(process) -> None:
    """Stop papermill and its kernel with SIGKILL, which no process can handle."""
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in processes:
        victim.kill()
    psutil.wait_procs(processes)
    process.wait()


def killed_after(file, output, notebook=NOTEBOOK, **parameters) -> None:
    """Start a notebook, and kill it as soon as ``file`` is there."""
    process = start(output, notebook, **parameters)
    wait_for(file, process)
    assert process.poll() is None
    kill(process)


def weights(file) -> dict[str, torch.Tensor]:
    content = torch.load(file, weights_only=True)
    networks = {part: content[part] for part in ("model", "heads", "averaged") if part in content} or {"": content}
    return {f"{part} {name}": tensor for part, network in networks.items() for name, tensor in network.items()}


def two_ranks(notebook: Path, folder: Path, parameters: dict[str, object]) -> None:
    """Run a notebook by papermill in two processes under torchrun, with its logdir in ``folder``."""
    words = command(f"{folder}/out.RANK.ipynb", notebook, logdir=folder / "run", **parameters)
    each = shlex.join(words).replace("RANK", "$RANK")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run([*launcher, "bash", "-c", each], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@contextmanager
def kernel(path, **parameters):
    """Yield the code cells of a notebook, with parameters set as papermill does, and a function that runs one."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    chosen = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    chosen.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PROJECT)}})
    with client.setup_kernel():

        def run(cell) -> str:
            cell.outputs = []
            client.execute_cell(cell, notebook.cells.index(cell))
            return "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")

        yield cells, run


def results(folder, *weights_files) -> dict[str, bytes]:
    """Return what equal runs agree on by name: the bytes of tables and predictions, and of each tensor of weights."""
    files = [folder / "metrics.csv", *folder.glob("evaluation.csv"), *sorted(folder.glob("predictions/*.nii.gz"))]
    found = {file.name: file.read_bytes() for file in files}
    for file in weights_files:
        found |= {f"{file} {name}": tensor.numpy().tobytes() for name, tensor in weights(folder / file).items()}
    return found


def run_cells_again(
    path: Path, file: str, starts: tuple[str, ...], data: tuple[Path, Path], folder: Path, **more: object
) -> None:
    """Run the cells of a notebook, then each twice, then all again from some; the results must be equal.

    Args:
        path: The notebook.
        file: Name of its weights.
        starts: Ids of the cells from which all is run again.
        data: JSON and folder of the data set.
        folder: Where the runs are written.
        more: Further parameters.
    """
    json_path, root = data
    given = {"data_root": str(root), "json_path": str(json_path), "cache_dir": str(folder / "cache")}
    given |= SMALL_RUN | more
    with kernel(path, logdir=str(folder / "once"), **given) as (cells, run):
        for cell in cells:
            run(cell)
        expected = results(folder / "once", file)
        chosen = next(cell for cell in cells if cell.id == "parameters")
        chosen.source += f"\nlogdir = {str(folder / 'twice')!r}"
        for cell in cells:  # each twice
            run(cell)
            run(cell)
        assert results(folder / "twice", file) == expected
        numbers = [number for number, cell in enumerate(cells) if cell.id in starts]
        assert len(numbers) == len(starts)
        for number in numbers:  # and all again from there
            for cell in cells[number:]:
                run(cell)
            assert results(folder / "twice", file) == expected
