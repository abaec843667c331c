"""The notebooks as files, and as a reader runs them: with papermill, on phantoms and on another data set."""

import ast
import csv
import json
import re
import subprocess
import sys
from ast import literal_eval
from dataclasses import asdict
from pathlib import Path
from statistics import median

import nbformat
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PROJECT, write_case
from IPython.core.interactiveshell import InteractiveShell
from monai.networks.nets import SwinUNETR
from nbclient.exceptions import CellExecutionError
from notebook_runs import (
    NOTEBOOK,
    PRETRAINING,
    SMALL_RUN,
    kernel,
    killed_after,
    papermill,
    read,
    run_cells_again,
    two_ranks,
    weights,
)
from papermill import inspect_notebook

from swinunetr.results.evaluation import COLUMNS
from swinunetr.training.parameters import read_parameters

# What a user of BTCV sets, and what the README and other tools rely on.
PARAMETERS = {
    *("data_root", "json_path", "pretrained_checkpoint", "logdir"),
    *("max_steps", "eval_every", "learning_rate", "crops_per_volume", "seed"),
}
WORD = re.compile(r"\w[\w'./:_-]*")
both_notebooks = pytest.mark.parametrize("path", [NOTEBOOK, PRETRAINING], ids=lambda path: path.stem)


def imports_of(source):
    """Return the import statements of a code cell."""
    python = re.sub(r"^( *)[!%].*", r"\1pass", source, flags=re.MULTILINE)
    return [node for node in ast.walk(ast.parse(python)) if isinstance(node, (ast.Import, ast.ImportFrom))]


@both_notebooks
def test_notebook_is_committed_without_outputs(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@both_notebooks
def test_cells_are_short_enough_to_be_read(path):
    """The parameters need a line each, and the loop stays in one piece."""
    cells = read(path).cells
    words = {cell.id: len(WORD.findall(cell.source)) for cell in cells if cell.cell_type == "markdown"}
    lines = {cell.id: len(re.findall(r"^.*\S", cell.source, re.M)) for cell in cells if cell.cell_type == "code"}
    assert {name: count for name, count in words.items() if count > 120 and name != "references"} == {}
    assert median(words.values()) <= 60
    assert {name: count for name, count in lines.items() if count > 15}.keys() <= {"parameters", "train"}
    assert lines["train"] <= 50
    imports = [node for cell in cells if cell.cell_type == "code" for node in imports_of(cell.source)]
    assert max(len(node.names) for node in imports) <= 12


@both_notebooks
def test_the_first_picture_comes_early(path):
    cells = read(path).cells
    before = cells[: [cell.id for cell in cells].index("packages") + 1]
    assert "Image(" in before[-1].source
    assert sum(len(WORD.findall(cell.source)) for cell in before if cell.cell_type == "markdown") <= 250
    assert sum(len(cell.source.splitlines()) for cell in before if cell.cell_type == "code") <= 45


@both_notebooks
def test_notebook_has_one_parameters_cell_of_literals(path):
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = tagged[0].source.splitlines()
    assert all(line.count("=") == 1 for line in lines if not line.startswith("#"))
    first = lines[: next(number for number, line in enumerate(lines) if line.startswith("#"))]
    assert {line.partition(":")[0] for line in first} == {"data_root", "json_path", "pretrained_checkpoint", "logdir"}


@both_notebooks
def test_papermill_explains_every_parameter(path):
    parameters = inspect_notebook(str(path))
    assert set(parameters) >= PARAMETERS
    assert all(entry["help"] and entry["inferred_type_name"] != "None" for entry in parameters.values())


@both_notebooks
def test_every_heading_level_follows_from_the_one_above(path):
    headings = [line for cell in read(path).cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    levels = [line.index(" ") for line in headings if line.startswith("#")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_executed_demo_in_docs_is_of_this_notebook():
    file = PROJECT / "docs/finetune_demo.ipynb"
    executed = read(file)
    own = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    cells = [[(cell.id, cell.source) for cell in book] for book in (own, read(NOTEBOOK).cells)]
    assert cells[0] == cells[1] and len(executed.cells) == len(own) + 1, (
        "make it again: .venv/bin/python docs/make_demo.py"
    )
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12
    assert not [output for output in outputs if output.output_type == "error"]
    assert file.stat().st_size <= 2_000_000 and "/root" not in file.read_text() and "/work" not in file.read_text()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Return the parameters of a short demo: all that the full one does, with fewer steps and phantoms."""
    content = json.loads((PROJECT / "json_files/btcv_6.json").read_text())
    few = {name: content[name][:2] for name in ("training", "validation")}
    json_path = tmp_path_factory.mktemp("list") / "btcv_2.json"
    json_path.write_text(json.dumps(content | few))
    other_settings = '{"averaged_share": 0.5, "overlap": 0}'
    return {"json_path": json_path, "max_steps": 4, "eval_every": 3, "other_settings": other_settings}


@pytest.fixture(scope="module")
def demo(short, tmp_path_factory):
    """Return the folder of a short demo."""
    folder = tmp_path_factory.mktemp("demo")
    done = papermill(folder / "demo.ipynb", logdir=folder / "run", **short)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_demo_leaves_what_the_readme_lists(demo, short):
    run = demo / "run"
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["3", "4"]
    assert list(rows[0])[:5] == ["step", "train_loss", "mean_dice", "volume_ratio", "spleen"] and len(rows[0]) == 17
    summary = json.loads((run / "summary.json").read_text())
    defaults = {name: literal_eval(one["default"]) for name, one in inspect_notebook(str(NOTEBOOK)).items()}
    recipe = read_parameters(defaults | short)[1]  # which the benchmarks compare finished runs with
    assert summary["recipe"] == json.loads(json.dumps(asdict(recipe))) and summary["pretrained_sha256"] == ""
    assert summary["recipe"]["max_steps"] == 4 and len(summary["dice_per_organ"]) == 13
    rows = list(csv.DictReader((run / "evaluation.csv").read_text().splitlines()))
    assert list(rows[0]) == ["case", "organ", *COLUMNS] and len(rows) == 2 * 13
    liver = [float(row["dice"]) for row in rows if row["organ"] == "liver"]
    assert summary["dice_per_organ"]["liver"] == pytest.approx(sum(liver) / 2)
    assert all((run / f"{name}.png").is_file() for name in ("worst_organ", "best_organ", "organ_dice"))
    assert (run / "dice_curve.png").stat().st_size > 10_000
    assert list(run.glob("events.out.tfevents*"))
    assert {f.name for f in run.iterdir() if f.name.startswith(".")} == {".lock"}  # no temporary file is left


def test_best_model_loads_into_monai_s_network(demo):
    state = torch.load(demo / "run/best_model.pth", weights_only=True)
    SwinUNETR(in_channels=1, out_channels=14, feature_size=12, window_size=4).load_state_dict(state)


def test_predictions_lie_on_the_scans(demo):
    files = sorted((demo / "run/predictions").glob("*.nii.gz"))
    assert [f.name for f in files] == ["img0035.nii.gz", "img0036.nii.gz"]
    for file in files:
        prediction, scan = nib.load(file), nib.load(PROJECT / "data/phantoms/imagesTr" / file.name)
        assert prediction.shape == scan.shape and prediction.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(prediction.affine, scan.affine)


def test_demo_notebook_shows_pictures_and_says_that_it_is_synthetic(demo):
    executed = nbformat.read(demo / "demo.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    text = "".join(output.get("text", "") for output in outputs)
    assert "synthetic CT phantoms" in text
    assert "Warning" not in text


def test_a_finished_run_shows_its_results_and_does_not_train_again(demo, short):
    state = (demo / "run/state.pt").read_bytes()
    done = papermill(demo / "again.ipynb", logdir=demo / "run", **short)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (demo / "run/state.pt").read_bytes() == state
    assert "Resuming after step 4" in (demo / "again.ipynb").read_text()


def test_a_killed_run_continues_to_the_same_result(demo, short, tmp_path):
    parameters = short | {"save_every": 0, "logdir": tmp_path / "run"}
    killed_after(tmp_path / "run/state.pt", tmp_path / "killed.ipynb", **parameters)
    assert papermill(tmp_path / "again.ipynb", **parameters).returncode == 0
    for name in ("state.pt", "best_model.pth"):
        whole, killed = (weights(folder / "run" / name) for folder in (demo, tmp_path))
        assert whole.keys() == killed.keys() and all(torch.equal(whole[key], killed[key]) for key in whole)
    assert (tmp_path / "run/metrics.csv").read_bytes() == (demo / "run/metrics.csv").read_bytes()


def test_two_ranks_under_torchrun_make_one_run(short, tmp_path):
    two_ranks(NOTEBOOK, tmp_path, short | {"max_steps": 2, "eval_every": 2})
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 2
    assert len(list((tmp_path / "run/predictions").glob("*.nii.gz"))) == 2
    assert len((tmp_path / "run/evaluation.csv").read_text().splitlines()) == 1 + 2 * 13
    assert json.loads((tmp_path / "run/summary.json").read_text())["ranks"] == 2
    assert "2 steps; crops per step: 2, volumes: 2" in (tmp_path / "out.0.ipynb").read_text()


def test_another_data_set_brings_its_own_classes_and_weights(small_data, tmp_path):
    json_path, root = small_data
    unlabelled = write_case(root, 9, affine=np.diag([-1.5, 1.5, 2.0, 1.0]))["image"]
    content = json.loads(json_path.read_text()) | {"test": [unlabelled, "imagesTs/missing.nii.gz"]}
    json_path.write_text(json.dumps(content))
    weights = SwinUNETR(in_channels=1, out_channels=5, feature_size=12).state_dict()
    torch.save(weights, tmp_path / "pretrained.pth")
    done = papermill(
        tmp_path / "out.ipynb",
        data_root=root,
        json_path=json_path,
        pretrained_checkpoint=tmp_path / "pretrained.pth",
        logdir=tmp_path / "run",
        recipe_name="demo",
        other_settings='{"overlap": 0}',
        max_steps=1,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    assert header == "step,train_loss,mean_dice,volume_ratio,left box,right box"
    assert len(torch.load(tmp_path / "run/best_model.pth", weights_only=True)["out.conv.conv.bias"]) == 3
    assert {f.name for f in (tmp_path / "run/predictions").glob("*.nii.gz")} == {"img0003.nii.gz", "img0009.nii.gz"}

    done = papermill(  # its weights, evaluated without training, in their own recipe
        tmp_path / "again.ipynb",
        data_root=root,
        json_path=json_path,
        pretrained_checkpoint=tmp_path / "run/best_model.pth",
        logdir=tmp_path / "evaluated",
        max_steps=0,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("evaluation.csv", "predictions/img0009.nii.gz"):
        assert (tmp_path / "evaluated" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert not (tmp_path / "evaluated/best_model.pth").exists() and not (tmp_path / "evaluated/state.pt").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"json_path": "json_files/none.json"}, "json_path: no file at 'json_files/none.json'"),
        ({"data_root": "/nowhere"}, "data_root: no folder at '/nowhere'"),
        ({"crop_size": 40}, "crop_size: expected"),
        ({"evaluate_only": "true"}, "evaluate_only: expected weights"),
        ({"resume": "maybe"}, "resume: expected True or False"),
        ({"recipe_name": "best"}, "recipe_name: expected one of"),
        ({"test_time_flips": True}, "test_time_flips (--flips of segment.py): expected a recipe that flips"),
    ],
)
def test_a_wrong_parameter_ends_in_a_short_error(one_kernel, tmp_path, parameters, message):
    cells, run = one_kernel
    chosen = next(cell for cell in cells if cell.id == "parameters")
    plain, given = chosen.source, {"logdir": str(tmp_path / "run"), **parameters}
    chosen.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    try:
        with pytest.raises(CellExecutionError):
            for cell in cells:
                run(cell)
    finally:
        chosen.source = plain
    (error,) = [output for output in cell.outputs if output.output_type == "error"]
    assert message in error.evalue
    assert len("\n".join(error.traceback).splitlines()) <= 5
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def one_kernel():
    """Return the cells of the fine-tuning notebook and what runs them, in one kernel for several tests."""
    with kernel(NOTEBOOK) as found:
        yield found


@pytest.fixture
def setup(monkeypatch):
    """Return a function that runs the set-up cell of a notebook in a folder, with changes of its source."""
    shell = InteractiveShell.instance()
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(path, folder, changes):
        (cell,) = [cell for cell in read(path).cells if cell.id == "setup"]
        monkeypatch.chdir(folder)
        source = cell.source
        for old, new in changes.items():
            assert old in source
            source = source.replace(old, new)
        return shell.run_cell(source)

    return run


@both_notebooks
def test_setup_finds_the_project_above(path, setup):
    assert setup(path, PROJECT / "runs", {}).success  # where papermill's copy lies
    assert Path.cwd() == PROJECT and sys.path[0] == str(PROJECT)


@both_notebooks
def test_setup_clones_the_project_in_colab(path, setup, tmp_path):
    given, work, cloned = (tmp_path / name for name in ("owner/repo", "work", "cloned"))
    for folder in (given, work):
        folder.mkdir(parents=True)
    (given / "ssl_helpers.py").touch()
    git = ["git", "-C", str(given), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    here = {"/content/project": str(cloned), "https://github.com/{": f"file://{tmp_path}/{{"}

    def started_with(address):
        return setup(path, work, here | {'project_address = ""': f'project_address = "{address}"'})

    for address in ("", "https://github.com/owner/none"):
        error = started_with(address).error_in_exec
        assert isinstance(error, SystemExit) and f"No project at '{address}'. In Colab, paste" in str(error)
    cloned.mkdir()  # what is left of another project
    assert started_with(" https://github.com/owner/repo/blob/main/swinunetr_finetune.ipynb?tab=a ").success
    assert Path.cwd() == cloned and Path("ssl_helpers.py").is_file()


def test_cells_may_be_run_again(small_data, tmp_path):
    starts, few_windows = ("recipe", "network", "train"), {"other_settings": {"overlap": 0}}
    run_cells_again(NOTEBOOK, "best_model.pth", starts, small_data, tmp_path, **few_windows)


def test_cells_say_which_one_to_run_first(small_data, tmp_path):
    json_path, root = small_data
    given = {"data_root": str(root), "json_path": str(json_path), "logdir": str(tmp_path / "run"), **SMALL_RUN}
    with kernel(NOTEBOOK, **given) as (cells, run):
        by_id = {cell.id: cell for cell in cells}
        for cell in cells[: cells.index(by_id["train"])]:
            run(cell)
        with pytest.raises(
            CellExecutionError, match="step 0 of 2, and no validation yet. Run the cell that trains first"
        ):
            run(by_id["evaluate"])
        run(by_id["network"])
        with pytest.raises(CellExecutionError, match="optimizer: it belongs to an earlier network"):
            run(by_id["train"])
        run(by_id["optimizer"])
        run(by_id["train"])
        assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 2
        with pytest.raises(CellExecutionError, match="of step 2, have not been evaluated since"):
            run(by_id["test"])
