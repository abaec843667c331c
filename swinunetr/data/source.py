"""Where the cases of a run come from: phantoms, a list, a folder as it was downloaded, or a public data set by name."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from swinunetr.data.collect.command import collect
from swinunetr.data.download import DATA_SETS, fetch
from swinunetr.data.lists import read_json
from swinunetr.data.phantoms import write_phantoms
from swinunetr.errors import InputError
from swinunetr.files import what_is_there, write_json
from swinunetr.hardware import Hardware
from swinunetr.tables import Tables
from swinunetr.words import named

LISTS = Path(__file__).parents[2] / "json_files"
PHANTOM_LIST = LISTS / "btcv_6.json"
BTCV_LIST = LISTS / "btcv_24.json"  # whose classes are looked for where there is one file per structure
COLLECTED_LIST, COLLECTED_FROM = "cases.json", "cases_from.json"  # in logdir
RUN_NOTE = "settings.json"  # in logdir, once a run has started


class Source(NamedTuple):
    """The cases of a run."""

    root: Path  # folder of the files
    json_path: Path  # list of the cases


def find_data(data_root: str, json_path: str, logdir: str | Path, hardware: Hardware | None = None) -> Source:
    """Return the folder and the list of a run's cases; print what a reader should know of them.

    Without ``data_root`` they are phantoms, which are made. A ``data_root`` that is no folder, but the name of a public
    data set, is downloaded. Without ``json_path`` the list is made of the folder, and kept in ``logdir``: a later run
    with the same ``logdir`` and ``data_root`` has the same cases, whatever was added to the folder.

    Args:
        data_root: Folder, or one of ``DATA_SETS``; empty: phantoms.
        json_path: List of the cases; empty: it is made.
        logdir: Folder of the run.
        hardware: Ranks, of which the first makes the list. None: each process that calls this does.

    Raises:
        InputError: As from :func:`write_phantoms`, :func:`fetch` and :func:`collect`. All ranks raise it.
    """
    if not data_root:
        print(
            "No data_root was given, so this run uses synthetic CT phantoms. Its scores say nothing about real scans."
        )
        cases = Path(json_path or PHANTOM_LIST)
        return Source(write_phantoms(cases, "data/phantoms"), cases)
    folder = Path(logdir).expanduser()
    with hardware.failing_together() if hardware else nullcontext():
        root = _folder(data_root)
        if not json_path and (hardware is None or hardware.rank == 0):
            _make_list(root, folder)
    return Source(root, Path(json_path) if json_path else folder / COLLECTED_LIST)


def _folder(data_root: str) -> Path:
    """Return the folder of the data, which is downloaded if it is known by name."""
    root = Path(data_root).expanduser()
    if root.is_dir():
        return root
    if data_root in DATA_SETS:
        return fetch(data_root)
    raise InputError(
        f"data_root: no folder at '{root}', and no public data set of this name ({named(DATA_SETS)}). Give the folder "
        "of the scans; python -m swinunetr.data.collect makes one list of several folders. " + what_is_there(root)
    )


def _make_list(root: Path, logdir: Path) -> None:
    """Make the list of a folder in ``logdir``, and print the report; if it is there, a sentence that says so."""
    file, origin = logdir / COLLECTED_LIST, logdir / COLLECTED_FROM
    collected_from = {"data_root": str(root.resolve())}
    if file.is_file() and origin.is_file():
        if (earlier := read_json(origin)) == collected_from:
            print(f"The cases are those of '{file}'. Delete it to make the list of '{root}' again.")
            return
        if (logdir / RUN_NOTE).is_file():
            what = f"'{logdir}' holds a run on the cases of '{earlier.get('data_root')}', not of '{root}'"
            raise InputError(f"logdir: {what}. Choose another logdir, or delete '{file}' if the folder was only moved.")
    logdir.mkdir(parents=True, exist_ok=True)
    # Collections with one file per structure have many that no reader wants all of.
    report = collect([root], file, structures_as=BTCV_LIST)
    print(Tables(report.parts[:-1]))  # the last one says how to train, which this notebook does
    write_json(collected_from, origin)
