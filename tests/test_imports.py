"""The structure: imports run one way, no room hides one, tests and benchmarks stand apart, and lint and format hold."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import PROJECT

import ssl_helpers

PACKAGE = PROJECT / "swinunetr"


def room_of(file: Path) -> str:
    """Return the name of a module below the package: `files`, `dicom` for dicom/__init__.py, `dicom.headers`."""
    return ".".join(part for part in file.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


ROOMS = {room_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if room_of(file)}


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
    assert {"errors", "dicom", "dicom.headers"} <= ROOMS.keys()
    assert "dicom.voxels" in rooms_below("dicom") and "dicom" in rooms_below("segmentation")


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_imports_run_one_way():
    assert circles({room: rooms_below(room) for room in ROOMS}) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_from_above_the_package(room):
    names = imported(ROOMS[room])
    assert not {name.split(".")[0] for name in names} & {"ssl_helpers", "segment", "tests", "benchmarks", "conftest"}
    assert "TYPE_CHECKING" not in ROOMS[room].read_text()


def test_tests_import_no_benchmarks_and_benchmarks_no_tests():
    for folder, other in (("tests", "benchmarks"), ("benchmarks", "tests")):
        for file in (PROJECT / folder).glob("*.py"):
            assert other not in {name.split(".")[0] for name in imported(file)} - {folder}, file.name


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
    file.write_text("from swinunetr import cache\nfrom swinunetr.loss import _loss\ncache._file(cache.read)\n")
    assert foreign_private_names(file) == ["_file", "_loss"]


# The rooms of a package are tested through its public names.
@pytest.mark.parametrize("room", [*(room for room in ROOMS if "." not in room), "notebooks", "imports"])
def test_every_room_has_its_tests(room):
    assert (PROJECT / f"tests/test_{room}.py").is_file()


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_lint_and_format(command):
    ran = subprocess.run([sys.executable, "-m", "ruff", *command.split(), str(PROJECT)], capture_output=True, text=True)
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
    assert all(room in ssl_helpers.__doc__ for room in ROOMS)
