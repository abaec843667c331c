"""Export trained weights as a MONAI bundle, which plain MONAI runs without this project.

Run from the project's root; the folder must not exist:
    .venv/bin/python export.py runs/finetune/best_model.pth BUNDLE_FOLDER
"""

from __future__ import annotations

import argparse
import sys

from swinunetr.bundle import write_bundle
from swinunetr.errors import InputError


def main() -> None:
    """Run :func:`swinunetr.bundle.write_bundle` from the command line."""
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
