"""The house: imports run down its floors, no room hides one, tests and benchmarks stand apart, lint and format hold."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import PROJECT

import ssl_helpers

PACKAGE = PROJECT / "swinunetr"
# Folders from below; a room may import from its own floor and from those below, of which two stand side by side.
BELOW = {
    "": set(),
    "data": {""},
    "network": {""},
    "results": {"", "data", "network"},
    "training": {"", "data", "network", "results"},
    "scans": {"", "data", "network", "results", "training"},
}


def room_of(file: Path) -> str:
    """Return the name of a module below the package: `files`, `data.lists`, `data.dicom` for its __init__.py."""
    return ".".join(part for part in file.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def floor_of(room: str) -> str:
    """Return the folder that a room is in; empty for the ground floor."""
    return room.split(".")[0] if room.split(".")[0] in BELOW else ""


FILES = {room_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
ROOMS = {room: file for room, file in FILES.items() if room not in BELOW}


@cache
def imported(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_below(room: str) -> set[str]:
    return {other for other in ROOMS if f"swinunetr.{other}" in imported(ROOMS[room])}


def circles(below: dict[str, set[str]]) -> list[str]:
    """Return the rooms that are left when those that stand on nothing left are taken away, again and again."""
    left = dict(below)
    while free := [room for room, others in left.items() if not others & left.keys()]:
        for room in free:
            del left[room]
    return sorted(left)


def test_rooms_are_those_of_packages_too():
    assert {"errors", "data.lists", "data.dicom", "data.dicom.headers"} <= ROOMS.keys()
    assert "data.dicom.voxels" in rooms_below("data.dicom") and "data.dicom" in rooms_below("scans.segmentation")


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_imports_run_one_way():
    assert circles({room: rooms_below(room) for room in ROOMS}) == []


def test_imports_run_down_the_floors():
    assert BELOW.keys() - {""} == {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert {floor_of(room) for room in ROOMS} == BELOW.keys()
    upwards = [(room, other) for room in ROOMS for other in rooms_below(room) if not _is_below(other, room)]
    assert upwards == []


def _is_below(other: str, room: str) -> bool:
    return floor_of(other) in BELOW[floor_of(room)] | {floor_of(room)}


def test_the_folder_of_a_floor_imports_nothing():
    """Whoever imports one room does not load the others of its floor."""
    assert [floor for floor in BELOW if floor and imported(FILES[floor])] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_from_above_the_package(room):
    names = imported(ROOMS[room])
    assert not {name.split(".")[0] for name in names} & {"ssl_helpers", "segment", "tests", "benchmarks", "conftest"}
    assert "TYPE_CHECKING" not in ROOMS[room].read_text()


def test_tests_import_no_benchmarks_and_benchmarks_no_tests():
    """But for the module that runs and kills notebooks, which the tests of these and a benchmark share."""
    for folder, other in (("tests", "benchmarks"), ("benchmarks", "tests")):
        for file in (PROJECT / folder).rglob("*.py"):
            names = {name for name in imported(file) if not f"{name}.".startswith("tests.notebook_runs.")}
            assert other not in {name.split(".")[0] for name in names} - {folder}, file.name


def foreign_private_names(file: Path) -> list[str]:
    """Return the private names that a file takes from modules of the project."""
    tree = ast.parse(file.read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [node for node in froms if node.module.split(".")[0] in ("swinunetr", "benchmarks", "ssl_helpers")]
    names = {alias.asname or alias.name for node in own for alias in node.names}
    read = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    found = names | {node.attr for node in read if node.value.id in names}
    return sorted(name for name in found if name.startswith("_") and not name.startswith("__"))


def test_private_names_stay_in_their_file():
    """Whoever changes a private function looks for its callers in its file only."""
    files = [file for folder in ("swinunetr", "benchmarks", "docs", ".") for file in (PROJECT / folder).glob("*.py")]
    files += [file for file in ROOMS.values() if file not in files]
    assert len(files) > len(ROOMS)
    assert not {str(file): names for file in files if (names := foreign_private_names(file))}


def test_a_private_name_is_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from swinunetr.data import cache\nfrom swinunetr.network.fast import _mask\ncache._file(cache.read)\n"
    )
    assert foreign_private_names(file) == ["_file", "_mask"]


# The rooms of a package within a floor are tested through its public names, in one file or in a folder.
TESTED = [room for room in ROOMS if "." not in room.removeprefix(f"{floor_of(room)}.")]


@pytest.mark.parametrize("room", [*TESTED, "notebooks", "imports"])
def test_every_room_has_its_tests(room):
    *folders, name = room.split(".")
    tests = PROJECT.joinpath("tests", *folders)
    assert (tests / f"test_{name}.py").is_file() or any((tests / name).glob("test_*.py"))


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_lint_and_format(command):
    ran = subprocess.run([sys.executable, "-m", "ruff", *command.split(), str(PROJECT)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_annotations():
    ran = subprocess.run([sys.executable, "-m", "mypy"], cwd=PROJECT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# Other projects import these.
NAMES = """CommonRecipe DEMO Dataset InputError LEAST LoadReport MOST_CENTRES NOT_A_LIST RECIPES Recipe SECTIONS
SYNAPSE_FOLDERS augmentation build_swinunetr case_name check_dataset choose_recipe class_weights confusion_matrix
dice_per_organ evaluate find_checkpoint find_volumes intensity_window learning_rate_at load_pretrained locate made_by
mean_dice next_case prepare_cases preprocessing read_dataset read_json replacing run_settings trained_recipe
training_batch without_metadata write_phantoms"""


def test_names_that_others_import_stay_in_ssl_helpers():
    assert not [name for name in NAMES.split() if not hasattr(ssl_helpers, name)]
    lines = (PROJECT / "ssl_helpers.py").read_text().splitlines()
    assert len(lines) < 150
    assert all(room.split(".")[-1] in ssl_helpers.__doc__ for room in TESTED)
