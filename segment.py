"""Segment scans with trained weights, with the preprocessing and the inference settings of their training.

Scans are NIfTI files or DICOM series. The segmentations are on the scans' own grids; `volumes.csv` lists the volume of
each organ. With several weights, their probabilities are averaged. Run from the project's root; run again to continue
after a stop:
    .venv/bin/python segment.py runs/finetune/best_model.pth SCANS OUTPUT [--dicom-seg] [--pictures]
Exit status: 0 all scans were segmented, 1 none was, 3 some were left out, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys

LEFT_OUT, INTERRUPTED = 3, 130  # exit status


def main() -> int:
    """Run :func:`swinunetr.scans.segmentation.segment` from the command line, and return the exit status."""
    try:
        return _main()
    except KeyboardInterrupt:
        print("Interrupted; what was written is complete. Run again to continue.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # what read the lines has ended, such as head; what remains must not be written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print("Stopped, as nothing reads the output of this command. Run again to continue.", file=sys.stderr)
        return 1


def _main() -> int:
    from swinunetr.environment import require_packages  # which needs none of them itself

    require_packages()
    # Loading takes seconds, in which Ctrl-C as an exception would end in a traceback or in an abort of PyTorch.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from swinunetr.errors import InputError
    from swinunetr.fields import names
    from swinunetr.scans.segmentation import SomeLeftOut, segment
    from swinunetr.scans.writers import WRITERS

    signal.signal(signal.SIGINT, before)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="best_model.pth of a fine-tuning run; several are averaged")
    parser.add_argument("scans", help="a scan, or a folder that is searched with its subfolders")
    parser.add_argument("output", help="folder for the segmentations")
    parser.add_argument("--flips", action="store_true", help="average over all axis flips; takes eight times as long")
    parser.add_argument("--modality", help="modality of the scans, if it differs from that of the training")
    parser.add_argument(
        "--largest-component",
        type=names,
        default=(),
        metavar="ORGANS",
        help="organs of which only the largest connected piece is kept, with commas between them; all: every organ",
    )
    for writer in WRITERS:
        parser.add_argument(f"--{writer.option.replace('_', '-')}", **writer.argument)
    options = vars(parser.parse_args())
    if sys.stdout is None:  # a scheduler may have closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of folders that are not UTF-8
    try:
        written = segment(**options)
    except InputError as error:
        print(error, file=sys.stderr)
        return LEFT_OUT if isinstance(error, SomeLeftOut) else 1
    print(f"Segmentations in '{options['output']}': {len(written)}, with label names for 3D Slicer and ITK-SNAP")
    return 0


if __name__ == "__main__":
    sys.exit(main())
