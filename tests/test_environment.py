"""What is missing is found in requirements.txt and installed; PyTorch and NumPy stay as they are."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from swinunetr import environment
from swinunetr.environment import install_missing, missing_packages, require_packages
from swinunetr.errors import InputError


@pytest.fixture
def gone(monkeypatch):
    """Make two packages look as if they were not installed."""
    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: "" if name in ("monai", "pydicom") else installed(name))


def test_an_environment_of_requirements_txt_lacks_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assert missing_packages() == []
    install_missing()
    require_packages()


def test_packages_for_tests_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(environment, "_installed", lambda name: "")
    names = {package.split(">")[0] for package in missing_packages()}
    assert {"torch", "monai", "scikit-image", "highdicom"} <= names and not names & {"pytest", "jupyter", "ruff"}


def test_what_is_missing_is_installed_and_torch_and_numpy_are_kept(gone, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    install_missing()
    ((*pip, monai, pydicom, torch, numpy),) = commands
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet"]
    assert monai == "monai>=1.6.1,<1.7" and pydicom == "pydicom>=3.0,<3.1"
    assert (torch, numpy) == (f"torch=={version('torch')}", f"numpy=={version('numpy')}")


def test_a_failure_of_pip_is_told_in_its_own_words(gone, monkeypatch):
    failed = subprocess.CompletedProcess((), 1, stderr="a\nERROR: No matching distribution found for monai\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"could not install monai, pydicom for .*[\s\S]*No matching distribution"):
        install_missing()


def test_a_command_ends_in_one_line_without_its_packages(gone, capsys):
    with pytest.raises(SystemExit) as ended:
        require_packages()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks monai, pydicom. Install them with" in line and "pip install -r" in line
