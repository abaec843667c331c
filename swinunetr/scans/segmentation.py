"""Segmentation of scans with trained weights: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import torch
from tqdm.auto import tqdm

from swinunetr.data.checks import image_faults
from swinunetr.data.dicom import write_nifti
from swinunetr.data.geometry import voxel_volume_mm3
from swinunetr.data.lists import organ_labels
from swinunetr.data.modality import dicom_modality
from swinunetr.data.organs import save_label_names
from swinunetr.data.preprocessing import Case, prepare_cases
from swinunetr.data.transforms import intensity_window
from swinunetr.errors import Fault, InputError, WriteError
from swinunetr.files import NOTE, claim_folder, require_note, sha256
from swinunetr.hardware import Hardware, find_hardware
from swinunetr.network.checkpoints import Weights, build_swinunetr, find_checkpoint, load_pretrained, read_ensemble
from swinunetr.network.placement import place_network
from swinunetr.recipe import Recipe
from swinunetr.results.inference import Labelled, label_case, largest_components, save_prediction
from swinunetr.results.metrics import organ_volumes
from swinunetr.scans.dicom_seg import Origin
from swinunetr.scans.finding import Scan, find_scans, read_content
from swinunetr.scans.results_folder import Results
from swinunetr.scans.writers import SegmentedScan, Writer, asked_writers
from swinunetr.threads import read_ahead
from swinunetr.training.settings import noted_training, require_one_setup

MOST_LINES = 6  # of a list in a message


class SomeLeftOut(InputError):
    """Some scans were left out, or lack a file that was asked for; the message names each and says why."""


def segment(
    weights: str | Path | Sequence[str | Path],
    scans: str | Path,
    output: str | Path,
    flips: bool = False,
    modality: str | None = None,
    *,
    largest_component: Sequence[str] = (),
    **outputs: str | bool,
) -> list[Path]:
    """Segment one scan or all scans in a folder, and return the paths of the segmentations.

    Scans that ``output`` already has a segmentation of, by their content and from the same weights and options, are not
    segmented again. A scan that has changed in its place is. ``volumes.csv`` lists the volume of each organ.

    Args:
        weights: ``best_model.pth`` of a fine-tuning run, which stores recipe, classes and modality; or several, whose
            probabilities are averaged.
        scans: NIfTI file, or folder of NIfTI files and DICOM series, which is searched with its subfolders.
        output: Folder for the results, ``<name>.nii.gz`` for each scan.
        flips: Whether to average over all eight combinations of axis flips.
        modality: Modality of the scans; None means that of the training.
        largest_component: Organs of which only the largest connected piece is kept; ``all`` means every organ.
        outputs: What else is written for each scan, by the ``option`` of its :class:`swinunetr.scans.writers.Writer`,
            such as ``pictures=True``.

    Raises:
        SomeLeftOut: Some scans could not be segmented, or lack a file that was asked for, such as a DICOM segmentation
            object; the message lists them after all others were segmented.
        InputError: No scan can be segmented, a file or folder is missing, the weights do not store their training or
            do not fit together, ``scans`` is a folder of results, ``output`` contains the scans, other predictions or
            those of other scans of the same name, or the disk is full.
    """
    # What is asked for: weights, options, scans.
    root, output = (Path(path).expanduser().resolve() for path in (scans, output))
    weights = [weights] if isinstance(weights, str | Path) else weights
    training = _read_training(weights, flips, modality, largest_component)
    writers = asked_writers(outputs)
    listed, problems = find_scans(root, output, training.modality)
    if not listed:
        raise _none_segmented(problems)
    for writer in writers:
        writer.require_scans(listed, root)

    # What the output folder has already.
    results = _open_results(output, training)
    results.require_own(listed, writers)
    save_label_names(output, training.classes)

    # One scan after another.
    done, left_out, incomplete = _segment_all(listed, training, results, writers)
    problems += left_out
    if not done:
        raise _none_segmented(problems)
    if problems or incomplete:
        raise SomeLeftOut(_describe_problems(problems, incomplete, len(done) + len(problems)))
    return done


class Training(NamedTuple):
    """Weights that were trained alike, and how scans are segmented with them."""

    files: list[Path]  # of the weights
    hashes: list[str]  # SHA-256 of each file
    recipe: Recipe  # with the options of inference
    classes: tuple[str, ...]
    modality: str  # of the scans

    @property
    def origin(self) -> Origin:
        """How DICOM names the weights."""
        joined = hashlib.sha256("".join(self.hashes).encode()).hexdigest() if len(self.files) > 1 else self.hashes[0]
        return Origin(" + ".join(file.name for file in self.files), joined)


def _read_training(
    weights: Sequence[str | Path], flips: bool, modality: str | None, largest_component: Sequence[str]
) -> Training:
    files = [find_checkpoint(file) for file in weights]
    trainings = {file: noted_training(file) for file in files}
    require_one_setup({file: note for file, (note, _) in trainings.items()}, flips)
    note, recipe = trainings[files[0]]
    recipe = replace(recipe, test_time_flips=flips, largest_component=tuple(largest_component))
    classes = tuple(note["classes"])
    organ_labels(recipe.largest_component, classes[1:], "largest_component")  # raises an error for unknown organs
    return Training(files, list(map(sha256, files)), recipe, classes, modality or note["modality"])


def _open_results(folder: Path, training: Training) -> Results:
    """Return what the output folder has, after noting there what its segmentations are made with."""
    recipe, hashes, organs = training.recipe, training.hashes, training.classes[1:]
    settings: dict[str, Any] = {"weights_sha256": hashes[0] if len(hashes) == 1 else hashes}
    settings |= {"test_time_flips": recipe.test_time_flips, "modality": training.modality}
    if recipe.largest_component:
        settings["largest_component"] = recipe.largest_component
    return Results(claim_folder(folder, _plain(settings, organs), as_now=lambda noted: _plain(noted, organs)))


def _plain(settings: Mapping, organs: Sequence[str]) -> dict:
    """Return settings in which each modality has one name, and organs are in the order of their labels."""
    plain = dict(settings)
    with suppress(InputError, KeyError):
        plain["modality"] = dicom_modality(settings["modality"])
    with suppress(InputError, KeyError):  # of other weights, whose organs these are not
        labels = organ_labels(settings["largest_component"], organs, "largest_component")
        plain["largest_component"] = [organs[label - 1] for label in labels]
    return plain


def _segment_all(
    scans: Sequence[Scan], training: Training, results: Results, writers: Sequence[Writer]
) -> tuple[list[Path], list[str], dict[str, list[str]]]:
    """Segment the scans that have no results yet, one after another, and write the results.

    On a GPU the next scans are read, and the last one is written, while the network segments the present one. Results
    are the segmentations, a line for each scan that is left out, and by ``Writer.noun`` one for each scan without it.
    """
    # The network of the weights; of several, the states of all, which are loaded for each scan.
    hardware = find_hardware()
    files, classes = training.files, training.classes
    network = build_swinunetr(len(classes), files[0])
    ensemble = read_ensemble(files, classes) if len(files) > 1 else ()
    if not ensemble:
        load_pretrained(network, files[0], classes=classes)
    network = place_network(network, hardware)

    # The scans.
    done, left_out = [], []
    incomplete: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # threads may write when interrupted
        job = Job(training, network, ensemble, hardware, results, writers, Path(temporary))
        scans_read = read_ahead(job.read, scans, hardware, threads=2)
        scans_labelled = read_ahead(job.label, scans_read, hardware)
        for read, labelled in tqdm(scans_labelled, desc="Segmenting", total=len(scans)):
            name = read.scan.name
            if read.error:
                left_out.append(f"{name}: {read.error}")
                tqdm.write(f"left out: {left_out[-1]}")
                continue
            if labelled:
                for noun, reason in job.write(read, labelled):
                    incomplete.setdefault(noun, []).append(f"{name}: {reason}")
                    tqdm.write(f"not written: {name}: {reason}")
            else:
                results.note_place(read.scan)
            done.append(results.file(read.scan))
    return done, left_out, incomplete


class ReadScan(NamedTuple):
    """A scan as it was read."""

    scan: Scan
    content: str = ""  # hash of its content
    source: str = ""  # NIfTI file of its voxels, for a DICOM series a temporary one
    case: Case | None = None  # preprocessed; None if its results are there
    error: InputError | None = None  # why it cannot be segmented


@dataclass(frozen=True)
class Job:
    """What is done for a scan: it is read, labelled and written, each in a thread of its own on a GPU."""

    training: Training
    network: torch.nn.Module
    ensemble: Sequence[Weights]  # empty for one network
    hardware: Hardware
    results: Results
    writers: Sequence[Writer]
    temporary: Path  # folder of the voxels of series

    def read(self, scan: Scan) -> ReadScan:
        """Read, check and preprocess a scan just before it is segmented."""
        try:
            return self._read(scan)
        except WriteError:
            raise
        except InputError as error:
            return ReadScan(scan, error=error)

    def _read(self, scan: Scan) -> ReadScan:
        # Its content, by which its results are known.
        modality = self.training.modality
        content, faults = read_content(scan, modality)
        _require_valid(faults)
        files = [(writer, self.results.file(scan, writer.ending)) for writer in self.writers]
        if self.results.has(scan, content) and all(writer.is_done(scan, file) for writer, file in files):
            return ReadScan(scan, content)
        self.results.require_unchanged(scan)

        # Its voxels, those of a series in a NIfTI file.
        source = scan.file
        if scan.series:
            source = self.temporary / f"{content}.nii"
            write_nifti(scan.series, source)
            faults = image_faults(source, modality, scan.series.padding)
            _require_valid(faults)
        for fault in faults:
            tqdm.write(f"warning: {scan.name}: {fault.what}; {fault.remedy}")
        entry = {"name": scan.name, "image": str(source)}
        return ReadScan(scan, content, str(source), prepare_cases([entry], self.training.recipe, modality, "")[0])

    def label(self, read: ReadScan) -> tuple[ReadScan, Labelled | None]:
        """Return a scan with its labels; without, if its results are there or it cannot be segmented."""
        if read.case is None:
            return read, None
        uncertainty = any(writer.needs_uncertainty for writer in self.writers)
        recipe = self.training.recipe
        return read, label_case(self.network, read.case, recipe, self.hardware, self.ensemble, uncertainty)

    def write(self, read: ReadScan, labelled: Labelled) -> list[tuple[str, str]]:
        """Write the files of a scan, note that it has been segmented, and return what is missing and why."""
        scan, source, file = read.scan, read.source, self.results.file(read.scan)
        recipe, classes = self.training.recipe, self.training.classes
        reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
        labels = largest_components(labelled.on_own_grid, reduced)

        # The segmentation, then what belongs to it.
        require_note(self.results.folder / NOTE)
        self.results.clear(scan)
        save_prediction(labels, source, file)
        window, origin = intensity_window(recipe, self.training.modality), self.training.origin
        segmented = SegmentedScan(scan, source, file, labels, labelled.uncertainty, classes, window, origin)
        missing = []
        for writer in self.writers:
            try:
                writer.write(segmented, self.results.file(scan, writer.ending))
            except WriteError:
                raise
            except InputError as error:
                missing.append((writer.noun, str(error)))

        # Noted last, so that a scan whose files are not all there is segmented again.
        voxel_ml = voxel_volume_mm3(nib.load(file).affine) / 1000  # type: ignore[attr-defined]  # of any format
        self.results.add(scan, read.content, organ_volumes(labels, voxel_ml, classes[1:]))
        if scan.series:
            Path(source).unlink()
        return missing


def _require_valid(faults: Sequence[Fault]) -> None:
    if errors := [f"{fault.what}; {fault.remedy}" for fault in faults if fault.stops]:
        raise InputError(errors[0])


def _none_segmented(problems: Sequence[str]) -> InputError:
    return InputError("\n".join(["scans: none can be segmented:", *_first(problems)]))


def _describe_problems(problems: Sequence[str], incomplete: Mapping[str, Sequence[str]], scans: int) -> str:
    """Return a message that names the scans that were left out, and those without a file that was asked for."""
    lines = [f"{len(problems)} of {scans} scans were left out:", *_first(problems)] if problems else []
    for noun, missing in incomplete.items():
        heading = f"{len(missing)} of {scans} scans have no {noun}:"
        lines += [heading, *_first(missing, most=3 if problems else MOST_LINES)]
    return "\n".join(lines)


def _first(lines: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """Return at most ``most`` lines, with a last one that counts the others."""
    more = [f"... and {len(lines) - most} more, named above."] if len(lines) > most else []
    return [*lines[:most], *more]
