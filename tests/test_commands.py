"""`segment.py` and `export.py` where packages are missing: one line that says which, and how they are installed."""

import subprocess
import sys

import pytest
from conftest import PROJECT

both_commands = pytest.mark.parametrize("command", ["segment.py", "export.py"])
WITHOUT_PYDICOM = """
import importlib.metadata, runpy, sys

def version(name, installed=importlib.metadata.version):
    if name == "pydicom":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.version = version
sys.modules["pydicom"] = None  # so that its import fails too
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def last_words(*words: str) -> str:
    """Return the only line that a Python command writes before it ends with status 1."""
    ended = subprocess.run([sys.executable, *words], cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 1 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    return line


@both_commands
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(command):
    line = last_words("-c", WITHOUT_PYDICOM, command, "best_model.pth", "out")
    assert line.startswith(f"{sys.executable} lacks pydicom. Install")
    assert f"{sys.executable} -m pip install -r" in line and "requirements.txt" in line


@both_commands
def test_a_python_without_any_package_says_so_before_it_reads_arguments(command):
    assert "torch, monai" in last_words("-S", command, "--help")  # -S leaves out site-packages
