"""Segmentation of scans with trained weights: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from tqdm.auto import tqdm

from swinunetr.data.checks import image_faults
from swinunetr.data.geometry import voxel_volume_mm3
from swinunetr.data.lists import organ_labels
from swinunetr.data.modality import dicom_modality
from swinunetr.data.organs import save_label_names
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.data.transforms import intensity_window
from swinunetr.errors import Fault, InputError, WriteError
from swinunetr.files import NOTE, claim_folder, replacing, require_note, sha256
from swinunetr.hardware import Hardware, find_hardware
from swinunetr.network.checkpoints import Weights, build_swinunetr, find_checkpoint, load_pretrained, read_ensemble
from swinunetr.network.swinunetr import place_network
from swinunetr.recipe import Recipe
from swinunetr.results import plots
from swinunetr.results.inference import Labelled, label_case, largest_components, save_prediction
from swinunetr.results.metrics import organ_volumes
from swinunetr.scans.dicom import write_nifti
from swinunetr.scans.dicom_seg import KINDS, Model, kind_of, write_segmentation
from swinunetr.scans.finding import Scan, find_scans, read_content
from swinunetr.scans.results_folder import UNCERTAINTY, Results
from swinunetr.threads import read_ahead
from swinunetr.training.settings import noted_training, require_one_setup

MOST_LINES = 6  # of a list in a message


class SomeLeftOut(InputError):
    """Some scans were left out, or have no DICOM segmentation object; the message names each and says why."""


class Prepared(NamedTuple):
    """What was read of a scan."""

    content: str  # hash of its content
    case: dict | None  # preprocessed; None if its results are there


class Segmented(NamedTuple):
    """A scan with what the network found in it, on the scan's own grid."""

    scan: Scan
    source: str  # NIfTI file of the scan
    labels: np.ndarray  # uint8, as they are written
    uncertainty: np.ndarray | None  # in steps of 1/255; None if not asked for


class Writer(NamedTuple):
    """One kind of file that is written for each scan, beside its segmentation."""

    ending: str
    write: Callable[[Segmented, Path], None]
    is_done: Callable[[Scan, Path], bool] = lambda scan, file: file.is_file()


@dataclass(frozen=True)
class Trained:
    """A trained network or an ensemble, with what its training notes."""

    network: torch.nn.Module
    ensemble: Sequence[Weights]  # empty for one network
    recipe: Recipe
    classes: tuple[str, ...]
    hardware: Hardware


def segment(
    weights: str | Path | Sequence[str | Path],
    scans: str | Path,
    output: str | Path,
    flips: bool = False,
    modality: str | None = None,
    *,
    largest_component: Sequence[str] = (),
    dicom_seg: str = "",
    pictures: bool = False,
    uncertainty: bool = False,
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
        dicom_seg: Kind of the DICOM segmentation object ``<name>.dcm`` of each series, one of ``dicom_seg.KINDS``;
            empty means none.
        pictures: Whether to write ``<name>.png``, a picture of each scan with the outlines of the organs.
        uncertainty: Whether to write ``<name>_uncertainty.nii.gz``, from 0 to 1; see ``inference.resample_labels``.

    Raises:
        SomeLeftOut: Some scans could not be segmented or have no DICOM segmentation object, which the message lists
            after all others were.
        InputError: No scan can be segmented, a file or folder is missing, the weights do not store their training or
            do not fit together, ``scans`` is a folder of results, ``output`` contains the scans, other predictions or
            those of other scans of the same name, or the disk is full.
    """
    # What is asked for: weights, options, scans.
    root, output = (Path(path).expanduser().resolve() for path in (scans, output))
    files = [find_checkpoint(file) for file in ([weights] if isinstance(weights, str | Path) else weights)]
    notes = {file: noted_training(file)[0] for file in files}
    classes, trained_on = tuple(notes[files[0]]["classes"]), notes[files[0]]["modality"]
    recipe = replace(require_one_setup(notes, flips), largest_component=tuple(largest_component))
    reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
    if dicom_seg and dicom_seg not in KINDS:
        raise InputError(f"dicom_seg: expected one of {', '.join(KINDS)}, found {dicom_seg!r}.")
    modality = modality or trained_on
    listed, problems = find_scans(root, output, modality)
    if not listed:
        raise InputError("\n".join(["scans: none can be segmented:", *_first(problems)]))
    if dicom_seg and not any(scan.series for scan in listed):
        raise InputError(
            f"dicom_seg: expected DICOM series in '{root}', found NIfTI files only. Leave out --dicom-seg."
        )

    # What the output folder has already.
    hashes = [sha256(file) for file in files]
    settings = {"weights_sha256": hashes[0] if len(hashes) == 1 else hashes, "test_time_flips": flips}
    settings |= {"modality": modality} | ({"largest_component": list(largest_component)} if largest_component else {})
    output = claim_folder(output, _plain(settings, classes[1:]), as_now=lambda noted: _plain(noted, classes[1:]))
    results = Results(output)
    results.require_own(listed, uncertainty)
    save_label_names(output, classes)

    # One scan after another.
    model = _load(files, classes, recipe)
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest()
    origin = Model(" + ".join(file.name for file in files), joined if len(hashes) > 1 else hashes[0])
    writers = _writers(model, modality, origin, dicom_seg, pictures, uncertainty)
    total = len(listed) + len(problems)
    done, left_out, without_object = _segment_all(listed, model, results, writers, modality, reduced)
    problems += left_out
    if not done:
        raise InputError("\n".join(["scans: none can be segmented:", *_first(problems)]))
    if problems or without_object:
        raise SomeLeftOut(_describe_problems(problems, without_object, total))
    return done


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
    scans: Sequence[Scan],
    model: Trained,
    results: Results,
    writers: Sequence[Writer],
    modality: str,
    reduced: Sequence[int],
) -> tuple[list[Path], list[str], list[str]]:
    """Segment the scans that have no results yet, one after another, and write the results.

    Returns:
        The segmentations, a line for each scan that cannot be segmented, and one for each without an asked file.
    """
    done, left_out, incomplete = [], [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # threads may write when interrupted
        for scan, prepared, labelled in _labelled(scans, model, results, writers, modality, Path(temporary)):
            if isinstance(prepared, InputError):
                left_out.append(f"{scan.name}: {prepared}")
                tqdm.write(f"left out: {left_out[-1]}")
                continue
            if labelled:
                labels = largest_components(labelled.on_own_grid, reduced)
                segmented = Segmented(scan, prepared.case["source"], labels, labelled.uncertainty)
                volumes, missing = _write(segmented, writers, results, model.classes[1:])
                results.add(scan, prepared.content, volumes)
                incomplete += (lines := [f"{scan.name}: {why}" for why in missing])
                for line in lines:
                    tqdm.write(f"not written: {line}")
                if scan.series:
                    Path(segmented.source).unlink()
            else:
                results.note_place(scan)
            done.append(results.file(scan))
    return done, left_out, incomplete


def _writers(
    model: Trained, modality: str, origin: Model, dicom_seg: str, pictures: bool, uncertainty: bool
) -> list[Writer]:
    """Return what is written for each scan beside its segmentation."""

    def save_object(segmented: Segmented, file: Path) -> None:
        if segmented.scan.series:
            write_segmentation(segmented.labels, segmented.scan.series, model.classes, file, origin, dicom_seg)

    def has_object(scan: Scan, file: Path) -> bool:
        return not scan.series or kind_of(file) == dicom_seg

    def save_uncertainty(segmented: Segmented, file: Path) -> None:
        save_prediction(segmented.uncertainty, segmented.source, file, 1 / 255)

    def save_picture(segmented: Segmented, file: Path) -> None:
        window = intensity_window(model.recipe, modality)
        labels = file.with_name(f"{file.name.removesuffix('.png')}.nii.gz")
        figure = plots.plot_segmentation(segmented.scan.name, segmented.source, labels, model.classes[1:], window)
        with replacing(file) as picture:
            figure.savefig(picture, dpi=110)
        plt.close(figure)

    writers = [
        (dicom_seg, Writer(".dcm", save_object, has_object)),
        (uncertainty, Writer(UNCERTAINTY, save_uncertainty)),
        (pictures, Writer(".png", save_picture)),
    ]
    return [writer for asked, writer in writers if asked]


def _write(
    segmented: Segmented, writers: Sequence[Writer], results: Results, organs: Sequence[str]
) -> tuple[list[dict], list[str]]:
    """Write the files of a scan; return the volumes of its organs, and why files are missing, if any are.

    Raises:
        WriteError: The disk is full, or the folder is gone.
    """
    file, missing = results.file(segmented.scan), []
    require_note(results.folder / NOTE)
    results.clear(segmented.scan)
    save_prediction(segmented.labels, segmented.source, file)
    for writer in writers:
        try:
            writer.write(segmented, results.file(segmented.scan, writer.ending))
        except WriteError:
            raise
        except InputError as error:
            missing.append(str(error))
    voxel_ml = voxel_volume_mm3(nib.load(file).affine) / 1000
    return organ_volumes(segmented.labels, voxel_ml, organs), missing


def _describe_problems(problems: Sequence[str], without_object: Sequence[str], scans: int) -> str:
    """Return a message that names the scans that were left out, and those without a DICOM segmentation object."""
    lines = [f"{len(problems)} of {scans} scans were left out:", *_first(problems)] if problems else []
    if without_object:
        heading = f"{len(without_object)} of {scans} scans have no DICOM segmentation object:"
        lines += [heading, *_first(without_object, most=3 if problems else MOST_LINES)]
    return "\n".join(lines)


def _first(lines: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """Return at most ``most`` lines, with a last one that counts the others."""
    return [*lines[:most], *[f"... and {len(lines) - most} more, named above."] * (len(lines) > most)]


def _load(files: Sequence[Path], classes: tuple[str, ...], recipe: Recipe) -> Trained:
    """Return the network of the weights, placed on the device; of several, the states of all on the CPU."""
    hardware = find_hardware()
    network = build_swinunetr(len(classes), files[0])
    ensemble = read_ensemble(files, classes) if len(files) > 1 else ()
    if not ensemble:  # else its weights are loaded for each scan
        load_pretrained(network, files[0], classes=classes)
    return Trained(place_network(network, hardware), ensemble, recipe, classes, hardware)


def _labelled(
    scans: Sequence[Scan],
    model: Trained,
    results: Results,
    writers: Sequence[Writer],
    modality: str,
    temporary: Path,
) -> Iterator[tuple[Scan, Prepared | InputError, Labelled | None]]:
    """Yield each scan as it was read, with its labels; the error in place of a scan that cannot be segmented.

    A scan whose results are there has no labels. On a GPU the next scans are read, and the caller writes the last one,
    while the network segments the present one.
    """
    uncertainty = any(writer.ending == UNCERTAINTY for writer in writers)

    def prepare(scan: Scan) -> tuple[Scan, Prepared | InputError]:
        try:
            return scan, _prepare(scan, model.recipe, results, writers, modality, temporary)
        except WriteError:
            raise
        except InputError as error:
            return scan, error

    def label(read: tuple[Scan, Prepared | InputError]) -> tuple[Scan, Prepared | InputError, Labelled | None]:
        scan, prepared = read
        if isinstance(prepared, InputError) or prepared.case is None:
            return scan, prepared, None
        case = prepared.case
        labelled = label_case(model.network, case, model.recipe, model.hardware, model.ensemble, uncertainty)
        return scan, prepared, labelled

    prepared = read_ahead(prepare, scans, model.hardware, threads=2)
    return tqdm(read_ahead(label, prepared, model.hardware), desc="Segmenting", total=len(scans))


def _prepare(
    scan: Scan, recipe: Recipe, results: Results, writers: Sequence[Writer], modality: str, temporary: Path
) -> Prepared:
    """Return a scan as it is read just before it is segmented; the voxels of a series are written to a NIfTI file.

    Raises:
        InputError: The scan cannot be read, or its voxels cannot be of this modality.
    """
    content, faults = read_content(scan, modality)
    _require_valid(faults)
    if results.has(scan, content) and all(
        writer.is_done(scan, results.file(scan, writer.ending)) for writer in writers
    ):
        return Prepared(content, None)
    results.require_unchanged(scan)
    file = scan.file
    if scan.series:
        file = temporary / f"{content}.nii"
        write_nifti(scan.series, file)
        faults = image_faults(file, modality, scan.series.padding)
        _require_valid(faults)
    for fault in faults:
        tqdm.write(f"warning: {scan.name}: {fault.what}; {fault.remedy}")
    return Prepared(content, prepare_cases([{"name": scan.name, "image": str(file)}], recipe, modality, "")[0])


def _require_valid(faults: Sequence[Fault]) -> None:
    if errors := [f"{fault.what}; {fault.remedy}" for fault in faults if fault.stops]:
        raise InputError(errors[0])
