"""Export trained weights as a MONAI bundle, which plain MONAI runs without this project.

Run from the project's root; the folder must not exist:
    .venv/bin/python export.py runs/finetune/best_model.pth BUNDLE_FOLDER
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

INTERRUPTED = 130  # exit status


def main() -> None:
    """Run :func:`swinunetr.scans.bundle.write_bundle` from the command line."""
    try:
        _main()
    except KeyboardInterrupt:
        print("Interrupted; no bundle was written.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _main() -> None:
    from swinunetr.environment import require_packages  # which needs none of them itself

    require_packages()
    # Loading takes seconds, in which Ctrl-C as an exception would end in a traceback or in an abort of PyTorch.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from swinunetr.errors import InputError
    from swinunetr.scans.bundle import write_bundle

    signal.signal(signal.SIGINT, before)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="best_model.pth of a fine-tuning run")
    parser.add_argument("folder", help="folder of the bundle, which is made")
    args = parser.parse_args()
    try:
        folder = write_bundle(args.weights, args.folder)
    except InputError as error:
        sys.exit(str(error))
    print(f"MONAI bundle in '{folder}'; its docs/README.md says how to run it")


if __name__ == "__main__":
    main()
