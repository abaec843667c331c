"""Segment scans with trained weights, with the preprocessing and the inference settings of their training.

The segmentations are on the scans' own grids. Run from the project's root; run again to continue after a stop:
    .venv/bin/python segment.py runs/finetune/best_model.pth SCANS OUTPUT [--flips]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from swinunetr.ahead import read_ahead
from swinunetr.checkpoints import build_swinunetr, find_checkpoint, load_pretrained, training_note
from swinunetr.checks import check_dataset
from swinunetr.colours import save_label_names
from swinunetr.dataset import Dataset, case_name, find_volumes
from swinunetr.devices import find_hardware
from swinunetr.errors import InputError
from swinunetr.files import claim_folder, replacing, sha256
from swinunetr.inference import label_case, save_prediction
from swinunetr.network import place_network
from swinunetr.preprocessing import prepare_cases
from swinunetr.settings import trained_recipe


def segment(
    weights: str | Path, scans: str | Path, output: str | Path, flips: bool = False, modality: str | None = None
) -> list[Path]:
    """Segment one scan or all scans in a folder, and return the paths of the segmentations.

    Scans that ``output`` already has a segmentation of, by their content and from the same weights, are not segmented
    again.

    Args:
        weights: ``best_model.pth`` of a fine-tuning run, which stores recipe, classes and modality.
        scans: NIfTI file, or folder that is searched with its subfolders.
        output: Folder for the segmentations, one file per scan.
        flips: Whether to average over all eight combinations of axis flips.
        modality: Modality of the scans; None means that of the training.

    Raises:
        InputError: A file or folder is missing, the weights do not store their training, ``output`` contains the scans
            or other predictions, or the disk is full; or some scans could not be segmented, which the message lists
            after all others were.
    """
    scans, output = (Path(path).expanduser().resolve() for path in (scans, output))
    weights = find_checkpoint(weights)
    noted, recipe = training_note(weights), trained_recipe(weights)
    if recipe is None:
        raise InputError(
            f"'{weights}' has no note of how it was trained. Expected the best_model.pth of a fine-tuning run. For "
            "other weights, run swinunetr_finetune.ipynb with evaluate_only, a JSON and the recipe that they need."
        )
    recipe = replace(recipe, test_time_flips=flips)
    entries = _entries(scans, output)
    modality = modality or noted["modality"]
    report = check_dataset(Dataset(("background",), modality, [], [], entries), recipe.spacing_mm)
    print(report)
    settings = {"weights_sha256": sha256(weights), "test_time_flips": flips, "modality": modality}
    output = claim_folder(output, settings)
    save_label_names(output, noted["classes"])
    done = Segmented(output / "scans.json")

    hardware = find_hardware()
    model = build_swinunetr(len(noted["classes"]), weights)
    load_pretrained(model, weights)
    model = place_network(model, hardware)
    files = {entry["name"]: output / f"{entry['name']}.nii.gz" for entry in entries}
    new = [
        entry
        for entry in entries
        if not (files[entry["name"]].is_file() and done.has(entry["name"], report.fingerprint[entry["name"]]))
    ]

    def prepare(entry: dict[str, str]) -> dict | InputError:
        try:
            return prepare_cases([entry], recipe, modality, description="")[0]
        except InputError as error:
            return error

    def label(case: dict | InputError) -> tuple[dict | InputError, np.ndarray | None]:
        return case, None if isinstance(case, InputError) else label_case(model, case, recipe, hardware)[1]

    # On a GPU the next scans are read, and the last one is written, while the network segments the present one.
    labelled = read_ahead(label, read_ahead(prepare, new, hardware, threads=2), hardware)
    problems = []
    for case, labels in tqdm(labelled, desc="Segmenting", total=len(new)):
        if isinstance(case, InputError):
            problems.append(case)
            continue
        save_prediction(labels, case["source"], files[case["name"]])
        done.add(case["name"], report.fingerprint[case["name"]])
    if problems:
        lines = "\n".join(map(str, problems))
        raise InputError(f"{len(problems)} of {len(entries)} scans could not be segmented:\n{lines}")
    return list(files.values())


class Segmented:
    """The scans that a folder holds segmentations of: hash of the content by name, kept in a JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.hashes = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def has(self, name: str, content: str) -> bool:
        """Return whether a segmentation is of this content; another scan may have had the same name."""
        return self.hashes.get(name) == content

    def add(self, name: str, content: str) -> None:
        """Note that a scan has been segmented."""
        self.hashes[name] = content
        with replacing(self.file) as temporary:
            temporary.write_text(json.dumps(self.hashes, indent=2) + "\n", encoding="utf-8")


def _entries(scans: Path, output: Path) -> list[dict[str, str]]:
    """Return name and file of each scan, without the segmentations of an earlier run in a subfolder."""
    if not scans.exists():
        raise InputError(f"scans: no file or folder at '{scans}'.")
    if output in (scans, *scans.parents):
        raise InputError(f"output: '{output}' holds the scans. Choose a separate folder, so that no scan is replaced.")
    if scans.is_file():
        return [{"name": case_name(scans), "image": str(scans)}]
    entries = [entry for entry in find_volumes(scans) if output not in Path(entry["image"]).parents]
    if not entries:
        raise InputError(f"scans: expected .nii or .nii.gz files below '{scans}', found none.")
    if twice := [name for name, count in Counter(entry["name"] for entry in entries).items() if count > 1]:
        raise InputError(f"scans: found {', '.join(twice)} both as .nii and as .nii.gz. Move one of the two away.")
    return entries


def main() -> None:
    """Run :func:`segment` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="best_model.pth of a fine-tuning run")
    parser.add_argument("scans", help="a NIfTI file, or a folder that is searched with its subfolders")
    parser.add_argument("output", help="folder for the segmentations")
    parser.add_argument("--flips", action="store_true", help="average over all axis flips; takes eight times as long")
    parser.add_argument("--modality", help="modality of the scans, if it differs from that of the training")
    args = parser.parse_args()
    try:
        written = segment(args.weights, args.scans, args.output, args.flips, args.modality)
    except InputError as error:
        sys.exit(str(error))
    print(f"Segmentations in '{args.output}': {len(written)}, with label names for 3D Slicer and ITK-SNAP")


if __name__ == "__main__":
    main()
