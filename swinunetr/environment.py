"""Packages that the project needs: which of them are missing, and how they are installed; it needs none of them itself.

`requirements.txt` is the list. What stands below the line `# To run` is not needed to use the project.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from swinunetr.errors import InputError

REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"
KEPT = ("torch", "numpy")  # never replaced: a running notebook may have loaded them
MOST_LINES = 5  # of what pip says, in an error message


def missing_packages() -> list[str]:
    """Return the packages that are not installed for this Python, each with its bounds: ``monai>=1.6.1,<1.7``."""
    used = REQUIREMENTS.read_text(encoding="utf-8").partition("# To run")[0]
    packages = [line.partition("#")[0].strip() for line in used.splitlines() if line[:1].isalpha()]
    return [package for package in packages if not _installed(_name(package))]


def install_missing() -> None:
    """Install what is missing with pip, and leave PyTorch and NumPy in the versions that are there.

    Raises:
        InputError: pip could not install it; the message has the last lines of what it says.
    """
    missing = missing_packages()
    if not missing:
        return
    names = ", ".join(map(_name, missing))
    print(f"Installing {names}")
    kept = [f"{name}=={found}" for name in KEPT if (found := _installed(name))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *missing, *kept]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        said = "\n".join(ran.stderr.strip().splitlines()[-MOST_LINES:])
        raise InputError(f"pip could not install {names} for {sys.executable}:\n{said}")
    importlib.invalidate_caches()


def require_packages() -> None:
    """End the program with one line if packages are missing."""
    if missing := missing_packages():
        names = ", ".join(map(_name, missing))
        print(
            f"{sys.executable} lacks {names}. Install them with `{sys.executable} -m pip install -r {REQUIREMENTS}`, "
            "or start the command with the Python of the environment that has them.",
            file=sys.stderr,
        )
        sys.exit(1)


def _name(package: str) -> str:
    """Return the name of a package without its bounds."""
    return package.partition(">")[0]


def _installed(name: str) -> str:
    """Return the version of an installed package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
