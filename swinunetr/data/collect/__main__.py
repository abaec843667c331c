"""Make a list for training of folders of labelled scans, as they were downloaded.

Each folder is one collection, whose layout is recognised. Run from the project's root:
    .venv/bin/python -m swinunetr.data.collect FOLDER [FOLDER ...] LIST.json [--as json_files/btcv_24.json]
Exit status: 0 the list was written, 1 it was not, 2 the arguments are wrong, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys

INTERRUPTED = 130  # exit status


def main(arguments: list[str] | None = None) -> int:
    """Run :func:`swinunetr.data.collect.command.collect` from the command line, and return the exit status."""
    options = vars(_parser().parse_intermixed_args(arguments))
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("Interrupted; no list was written. Joined labels are complete. Run again to continue.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m swinunetr.data.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of one collection")
    parser.add_argument("list_path", metavar="LIST.json", help="list to write")
    parser.add_argument(
        "--as", dest="as_list", default="", metavar="JSON", help="list whose classes are wanted, by name"
    )
    parser.add_argument("--labels", default="", metavar="FOLDER", help="where labels go that are joined of structures")
    parser.add_argument("--validation", type=float, help="fraction of the patients to validate on, such as 0.2")
    parser.add_argument("--folds", type=int, help="number of folds that the list is for, in place of --validation")
    parser.add_argument(
        "--names",
        type=_names,
        metavar="OLD=NEW,...",
        help="names to use in place of a collection's, or for ids without names, such as '1=liver, 2=spleen'",
    )
    parser.add_argument(
        "--modality", default="", help="modality of the scans where folders do not say it, or hold several; else CT"
    )
    return parser


def _names(text: str) -> dict[str, str]:
    """Return the names in a text such as ``1=liver, 2=spleen``."""
    pairs = [tuple(map(str.strip, pair.split("="))) for pair in text.split(",") if pair.strip()]
    if not all(len(pair) == 2 and all(pair) for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
        raise argparse.ArgumentTypeError(f"expected OLD=NEW with commas between them, each OLD once, found '{text}'")
    return {old: new for old, new in pairs}


def _run(options: dict) -> int:
    from swinunetr.environment import require_packages  # which needs none of them itself

    require_packages()
    from swinunetr.data.collect.command import collect
    from swinunetr.errors import InputError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of folders that are not UTF-8
    try:
        report = collect(**options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        print(report)
    except BrokenPipeError:  # what read the lines has ended; the list is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
