"""Segmentation of scans with trained weights: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import torch
from tqdm.auto import tqdm

from swinunetr.data.checks import image_faults
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
from swinunetr.scans.dicom import write_nifti
from swinunetr.scans.dicom_seg import Origin
from swinunetr.scans.finding import Scan, find_scans, read_content
from swinunetr.scans.results_folder import Results
from swinunetr.scans.writers import SegmentedScan, Writer, asked_writers
from swinunetr.threads import read_ahead
from swinunetr.training.settings import noted_training, require_one_setup

MOST_LINES = 6  # of a list in a message


class SomeLeftOut(InputError):
    """Some scans were left out, or have no DICOM segmentation object; the message names each and says why."""


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
        SomeLeftOut: Some scans could not be segmented or have no DICOM segmentation object, which the message lists
            after all others were.
        InputError: No scan can be segmented, a file or folder is missing, the weights do not store their training or
            do not fit together, ``scans`` is a folder of results, ``output`` contains the scans, other predictions or
            those of other scans of the same name, or the disk is full.
    """
    # What is asked for: weights, options, scans.
    root, output = (Path(path).expanduser().resolve() for path in (scans, output))
    training = _read_training([weights] if isinstance(weights, str | Path) else weights, flips, largest_component)
    writers = asked_writers(outputs)
    modality = modality or training.modality
    listed, problems = find_scans(root, output, modality)
    if not listed:
        raise _none_segmented(problems)
    for writer in writers:
        writer.require_scans(listed, root)

    # What the output folder has already.
    hashes = [sha256(file) for file in training.files]
    results = _open_results(output, training, hashes, modality)
    results.require_own(listed, writers)
    save_label_names(output, training.classes)

    # One scan after another.
    done, left_out, incomplete = _segment_all(listed, _load(training, hashes), results, writers, modality)
    problems += left_out
    if not done:
        raise _none_segmented(problems)
    if problems or incomplete:
        raise SomeLeftOut(_describe_problems(problems, incomplete, len(done) + len(problems)))
    return done


class Training(NamedTuple):
    """What the notes of weights say that were trained alike."""

    files: list[Path]  # of the weights
    recipe: Recipe
    classes: tuple[str, ...]
    modality: str


class Trained(NamedTuple):
    """A trained network or an ensemble, on its device."""

    network: torch.nn.Module
    ensemble: Sequence[Weights]  # empty for one network
    recipe: Recipe
    classes: tuple[str, ...]
    hardware: Hardware
    origin: Origin


def _read_training(weights: Sequence[str | Path], flips: bool, largest_component: Sequence[str]) -> Training:
    """Return how weights were trained, with the options of inference in the recipe."""
    files = [find_checkpoint(file) for file in weights]
    notes = {file: noted_training(file)[0] for file in files}
    classes, modality = tuple(notes[files[0]]["classes"]), notes[files[0]]["modality"]
    recipe = replace(require_one_setup(notes, flips), largest_component=tuple(largest_component))
    organ_labels(recipe.largest_component, classes[1:], "largest_component")  # raises an error for unknown organs
    return Training(files, recipe, classes, modality)


def _open_results(folder: Path, training: Training, hashes: Sequence[str], modality: str) -> Results:
    """Return what the output folder has, after noting there what its segmentations are made with.

    Raises:
        InputError: It has those of other weights or options.
    """
    flips, reduced = training.recipe.test_time_flips, training.recipe.largest_component
    settings = {"weights_sha256": hashes[0] if len(hashes) == 1 else list(hashes), "test_time_flips": flips}
    settings |= {"modality": modality} | ({"largest_component": list(reduced)} if reduced else {})
    organs = training.classes[1:]
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


def _load(training: Training, hashes: Sequence[str]) -> Trained:
    """Return the network of the weights, placed on the device; of several, the states of all on the CPU."""
    files, recipe, classes, _ = training
    hardware = find_hardware()
    network = build_swinunetr(len(classes), files[0])
    ensemble = read_ensemble(files, classes) if len(files) > 1 else ()
    if not ensemble:  # else its weights are loaded for each scan
        load_pretrained(network, files[0], classes=classes)
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest() if len(hashes) > 1 else hashes[0]
    origin = Origin(" + ".join(file.name for file in files), joined)
    return Trained(place_network(network, hardware), ensemble, recipe, classes, hardware, origin)


def _segment_all(
    scans: Sequence[Scan], trained: Trained, results: Results, writers: Sequence[Writer], modality: str
) -> tuple[list[Path], list[str], list[str]]:
    """Segment the scans that have no results yet, one after another, and write the results.

    On a GPU the next scans are read, and the last one is written, while the network segments the present one.

    Returns:
        The segmentations, a line for each scan that cannot be segmented, and one for each without an asked file.
    """
    done, left_out, incomplete = [], [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # threads may write when interrupted
        job = Job(trained, results, writers, modality, Path(temporary))
        scans_read = read_ahead(job.read, scans, trained.hardware, threads=2)
        scans_labelled = read_ahead(job.label, scans_read, trained.hardware)
        for read, labelled in tqdm(scans_labelled, desc="Segmenting", total=len(scans)):
            scan = read.scan
            if read.error:
                left_out.append(f"{scan.name}: {read.error}")
                tqdm.write(f"left out: {left_out[-1]}")
                continue
            if labelled:
                lines = [f"{scan.name}: {reason}" for reason in job.write(read, labelled)]
                incomplete += lines
                for line in lines:
                    tqdm.write(f"not written: {line}")
            else:
                results.note_place(scan)
            done.append(results.file(scan))
    return done, left_out, incomplete


class ReadScan(NamedTuple):
    """A scan as it was read."""

    scan: Scan
    content: str = ""  # hash of its content
    case: Case | None = None  # preprocessed; None if its results are there
    error: InputError | None = None  # why it cannot be segmented


@dataclass(frozen=True)
class Job:
    """What is done for a scan: it is read, labelled and written, each in a thread of its own on a GPU."""

    trained: Trained
    results: Results
    writers: Sequence[Writer]
    modality: str
    temporary: Path  # folder of the voxels of series

    def read(self, scan: Scan) -> ReadScan:
        """Read, check and preprocess a scan."""
        try:
            return self._read(scan)
        except WriteError:
            raise
        except InputError as error:
            return ReadScan(scan, error=error)

    def _read(self, scan: Scan) -> ReadScan:
        """Return a scan as it is read just before it is segmented.

        Raises:
            InputError: The scan cannot be read, or its voxels cannot be of this modality.
        """
        # Its content, by which its results are known.
        content, faults = read_content(scan, self.modality)
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
            faults = image_faults(source, self.modality, scan.series.padding)
            _require_valid(faults)
        for fault in faults:
            tqdm.write(f"warning: {scan.name}: {fault.what}; {fault.remedy}")
        entry = {"name": scan.name, "image": str(source)}
        return ReadScan(scan, content, prepare_cases([entry], self.trained.recipe, self.modality, "")[0])

    def label(self, read: ReadScan) -> tuple[ReadScan, Labelled | None]:
        """Return a scan with its labels; without, if its results are there or it cannot be segmented."""
        if read.case is None:
            return read, None
        trained, uncertainty = self.trained, any(writer.needs_uncertainty for writer in self.writers)
        return read, label_case(
            trained.network, read.case, trained.recipe, trained.hardware, trained.ensemble, uncertainty
        )

    def write(self, read: ReadScan, labelled: Labelled) -> list[str]:
        """Write the files of a scan, note that it has been segmented, and return why files are missing, if any are.

        Raises:
            WriteError: The disk is full, or the folder is gone.
        """
        scan, source, file = read.scan, read.case["source"], self.results.file(read.scan)
        recipe, classes = self.trained.recipe, self.trained.classes
        reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
        labels = largest_components(labelled.on_own_grid, reduced)

        # The segmentation, then what belongs to it.
        require_note(self.results.folder / NOTE)
        self.results.clear(scan)
        save_prediction(labels, source, file)
        window = intensity_window(recipe, self.modality)
        segmented = SegmentedScan(
            scan, source, file, labels, labelled.uncertainty, classes, window, self.trained.origin
        )
        missing = []
        for writer in self.writers:
            try:
                writer.write(segmented, self.results.file(scan, writer.ending))
            except WriteError:
                raise
            except InputError as error:
                missing.append(str(error))

        # Noted last, so that a scan whose files are not all there is segmented again.
        voxel_ml = voxel_volume_mm3(nib.load(file).affine) / 1000
        self.results.add(scan, read.content, organ_volumes(labels, voxel_ml, classes[1:]))
        if scan.series:
            Path(source).unlink()
        return missing


def _require_valid(faults: Sequence[Fault]) -> None:
    if errors := [f"{fault.what}; {fault.remedy}" for fault in faults if fault.stops]:
        raise InputError(errors[0])


def _none_segmented(problems: Sequence[str]) -> InputError:
    return InputError("\n".join(["scans: none can be segmented:", *_first(problems)]))


def _describe_problems(problems: Sequence[str], without_object: Sequence[str], scans: int) -> str:
    """Return a message that names the scans that were left out, and those without a DICOM segmentation object."""
    lines = [f"{len(problems)} of {scans} scans were left out:", *_first(problems)] if problems else []
    if without_object:
        heading = f"{len(without_object)} of {scans} scans have no DICOM segmentation object:"
        lines += [heading, *_first(without_object, most=3 if problems else MOST_LINES)]
    return "\n".join(lines)


def _first(lines: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """Return at most ``most`` lines, with a last one that counts the others."""
    more = [f"... and {len(lines) - most} more, named above."] if len(lines) > most else []
    return [*lines[:most], *more]
