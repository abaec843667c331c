"""Segmentation of scans with trained weights: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from tqdm.auto import tqdm

from swinunetr import plots
from swinunetr.checkpoints import (
    Weights,
    build_swinunetr,
    find_checkpoint,
    load_pretrained,
    read_ensemble,
)
from swinunetr.checks import check_headers, check_image, describe_images, fingerprints, image_faults
from swinunetr.colours import save_label_names
from swinunetr.dataset import case_name, is_nifti, list_volumes, organ_labels
from swinunetr.devices import Hardware, find_hardware
from swinunetr.dicom import LeftOut, Series, find_series, fingerprint, write_nifti
from swinunetr.dicom_seg import KINDS, Model, kind_of, write_segmentation
from swinunetr.errors import Fault, InputError, WriteError
from swinunetr.files import (
    NOTE,
    claim_folder,
    distinct_names,
    folded,
    holds_results,
    locked,
    not_written,
    replacing,
    require_note,
    sha256,
    write_csv,
    write_json,
)
from swinunetr.geometry import voxel_volume_mm3
from swinunetr.inference import Labelled, label_case, largest_components, save_prediction
from swinunetr.label_maps import named
from swinunetr.metrics import organ_volumes
from swinunetr.modality import dicom_modality
from swinunetr.network import place_network
from swinunetr.preprocessing import intensity_window, prepare_cases
from swinunetr.recipe import Recipe
from swinunetr.settings import noted_training, require_one_setup
from swinunetr.tables import Table
from swinunetr.threads import read_ahead

MOST_LINES = 6  # of a list in a message
COLUMNS = ("scan", "organ", "ml", "touches_border")  # of volumes.csv
UNCERTAINTY = "_uncertainty.nii.gz"  # ending of its file


class SomeLeftOut(InputError):
    """Some scans were left out, or have no DICOM segmentation object; the message names each and says why."""


@dataclass(frozen=True)
class Scan:
    """A scan to segment.

    Attributes:
        name: Path-like name of its results, without an ending.
        file: NIfTI file; for a DICOM series, None.
        series: DICOM series; for a NIfTI file, None.
    """

    name: str
    file: Path | None
    series: Series | None

    @property
    def place(self) -> str:
        """Hash of the path of the scan's folder, which may name the patient; the scan itself may be a link."""
        folder = (self.file or self.series.files[0]).parent.resolve()
        return hashlib.sha256(os.fsencode(folder)).hexdigest()


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
    scans, output = (Path(path).expanduser().resolve() for path in (scans, output))
    files = [find_checkpoint(file) for file in ([weights] if isinstance(weights, str | Path) else weights)]
    notes = {file: noted_training(file)[0] for file in files}
    classes, trained_on = tuple(notes[files[0]]["classes"]), notes[files[0]]["modality"]
    recipe = replace(require_one_setup(notes, flips), largest_component=tuple(largest_component))
    reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
    if dicom_seg and dicom_seg not in KINDS:
        raise InputError(f"dicom_seg: expected one of {', '.join(KINDS)}, found {dicom_seg!r}.")
    modality = modality or trained_on
    found, problems = _find(scans, output, modality)
    if not found:
        raise InputError("\n".join(["scans: none can be segmented:", *_first(problems)]))
    if dicom_seg and not any(scan.series for scan in found):
        raise InputError(
            f"dicom_seg: expected DICOM series in '{scans}', found NIfTI files only. Leave out --dicom-seg."
        )

    # What the output folder has already.
    hashes = [sha256(file) for file in files]
    settings = {"weights_sha256": hashes[0] if len(hashes) == 1 else hashes, "test_time_flips": flips}
    settings |= {"modality": modality} | ({"largest_component": list(largest_component)} if largest_component else {})
    output = claim_folder(output, _plain(settings, classes[1:]), as_now=lambda noted: _plain(noted, classes[1:]))
    results = Results(output)
    results.require_own(found, uncertainty)
    save_label_names(output, classes)

    # One scan after another.
    model = _load(files, classes, recipe)
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest()
    origin = Model(" + ".join(file.name for file in files), joined if len(hashes) > 1 else hashes[0])
    writers = _writers(model, modality, origin, dicom_seg, pictures, uncertainty)
    total = len(found) + len(problems)
    done, left_out, without_object = _segment_all(found, model, results, writers, modality, reduced)
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
    found: Sequence[Scan],
    model: Trained,
    results: Results,
    writers: Sequence[Writer],
    modality: str,
    reduced: Sequence[int],
) -> tuple[list[Path], list[str], list[str]]:
    """Segment the scans that have no results yet, one after another, and write what was found.

    Returns:
        The segmentations, a line for each scan that cannot be segmented, and one for each without an asked file.
    """
    done, left_out, incomplete = [], [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # threads may write when interrupted
        for scan, prepared, labelled in _labelled(found, model, results, writers, modality, Path(temporary)):
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
        what = f"{len(without_object)} of {scans} scans have no DICOM segmentation object:"
        lines += [what, *_first(without_object, most=3 if problems else MOST_LINES)]
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


def _find(scans: Path, output: Path, modality: str) -> tuple[list[Scan], list[str]]:
    """Return the scans in a file or folder, without earlier results, and a line for each scan that is left out.

    Only headers are read; tables show what was found.
    """
    if not scans.exists():
        raise InputError(f"scans: no file or folder at '{scans}'.")
    if output in (scans, *scans.parents):
        raise InputError(f"output: '{output}' holds the scans. Choose a separate folder, so that no scan is replaced.")
    if folder := next((folder for folder in (scans, *scans.parents) if holds_results(folder)), None):
        raise InputError(f"scans: '{folder}' holds results of this project, not scans. Give the folder of the scans.")
    notes: list[str] = []
    if scans.is_file() and is_nifti(scans):
        entries = [{"name": case_name(scans), "image": str(scans)}]
    else:
        entries, notes = ([], []) if scans.is_file() else list_volumes(scans, without=output)
    series, left_out = ([], []) if scans.is_file() and entries else find_series(scans, modality, without=output)
    if not entries and not series and not left_out:
        what = f"scans: expected NIfTI files (.nii, .nii.gz) or DICOM series in '{scans}', found none."
        raise InputError("\n".join([what, *notes]))
    names = distinct_names(
        {e["image"]: e["name"] for e in entries} | {f"series {one.name}": one.name for one in series}
    )
    series = [replace(one, name=names[f"series {one.name}"]) for one in series]

    images = check_headers([{"name": names[entry["image"]], "image": entry["image"]} for entry in entries])
    problems = [
        f"{image.case}: {fault.what}; {fault.remedy}" for image in images for fault in image.faults if fault.stops
    ]
    problems += [f"{one.name}: {one.reason}" for one in left_out]
    valid = [image for image in images if image.valid]
    if valid:
        print(describe_images(valid, modality))
    if series or left_out:
        print(_describe_series(series, left_out))
    for note in (*notes, *(f"left out: {line}" for line in problems[: len(problems) - len(left_out)])):
        print(note)
    found = [Scan(image.case, Path(image.path), None) for image in valid]
    return found + [Scan(one.name, None, one) for one in series], problems


def _describe_series(series: Sequence[Series], left_out: Sequence[LeftOut]) -> Table:
    rows = [
        (one.name, "; ".join([f"{len(one.frames) or len(one.files)} slices of {one.modality}", *one.notes]))
        for one in series
    ]
    rows += [(one.name, f"left out: {one.reason}") for one in left_out]
    return Table(("DICOM series", "found"), rows)


def _labelled(
    found: Sequence[Scan],
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

    prepared = read_ahead(prepare, found, model.hardware, threads=2)
    return tqdm(read_ahead(label, prepared, model.hardware), desc="Segmenting", total=len(found))


def _prepare(
    scan: Scan, recipe: Recipe, results: Results, writers: Sequence[Writer], modality: str, temporary: Path
) -> Prepared:
    """Return a scan as it is read just before it is segmented; the voxels of a series are written to a NIfTI file.

    Raises:
        InputError: The scan cannot be read, or its voxels cannot be of this modality.
    """
    content, faults = _read_content(scan, modality)
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


def _read_content(scan: Scan, modality: str) -> tuple[str, list[Fault]]:
    """Return a hash of what a scan holds, wherever and however it is stored, and the problems of a NIfTI file."""
    if scan.series:
        return fingerprint(scan.series), []
    image = check_image(scan.file, modality)
    return "".join(fingerprints([image]).values()), image.faults


def _require_valid(faults: Sequence[Fault]) -> None:
    if errors := [f"{fault.what}; {fault.remedy}" for fault in faults if fault.stops]:
        raise InputError(errors[0])


class Results:
    """What a folder holds: content and place of the scan of each segmentation (``scans.json``), and ``volumes.csv``.

    Several processes may segment different scans to one folder.

    Raises:
        InputError: Another program has changed one of the two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes, self.table = folder / "scans.json", folder / "volumes.csv"
        self.scans, self.rows = _read_notes(self.notes), _read_volumes(self.table)
        self.segmentations: set[str] = set()  # files of all scans, in folded form

    def file(self, scan: Scan, ending: str = ".nii.gz") -> Path:
        """Return the file of a scan with this ending."""
        return self.folder / f"{scan.name}{ending}"

    def require_own(self, scans: Sequence[Scan], uncertainty: bool) -> None:
        """Check that no file of these scans would replace one of another scan.

        Raises:
            InputError: The folder has segmentations of other scans of the same name, from another folder; or a scan has
                the name of the uncertainty of another.
        """
        if others := [scan.name for scan in scans if self._has_other(scan)]:
            raise InputError(
                f"output: '{self.folder}' holds segmentations of other scans of the same name, from another folder: "
                f"{named(others)}. Choose another output folder. "
                "To segment several patients, give the folder above theirs as scans: names then hold the subfolder."
            )
        self.segmentations = {folded(f"{name}.nii.gz") for name in self.scans.keys() | {scan.name for scan in scans}}
        files = [f"{scan.name}{UNCERTAINTY}" for scan in scans]
        if uncertainty and (replaced := [file for file in files if folded(file) in self.segmentations]):
            raise InputError(f"uncertainty: it would replace {named(replaced)} of another scan. Rename that scan.")

    def _has_other(self, scan: Scan) -> bool:
        noted = self.scans.get(scan.name, {})
        if noted.get("place", scan.place) == scan.place or not self.file(scan).is_file():
            return False
        try:
            content, _ = _read_content(scan, modality="")
        except InputError:  # it is left out later
            return False
        return content != noted["content"]

    def has(self, scan: Scan, content: str) -> bool:
        """Return whether the segmentation of a scan is there, and is of its present content."""
        known = self.scans.get(scan.name, {}).get("content") == content and scan.name in self.rows
        return known and self.file(scan).is_file()

    def require_unchanged(self, scan: Scan) -> None:
        """Raise an error if the segmentation of a scan is not as it was written: someone may have corrected it."""
        written, file = self.scans.get(scan.name, {}).get("result"), self.file(scan)
        if written and file.is_file() and sha256(file) != written:
            raise InputError(f"'{file}' was changed since it was written, and would be replaced; move it away first")

    def clear(self, scan: Scan) -> None:
        """Remove the note of a scan, and the files beside its segmentation, which are of the scan as it was before."""
        with self._updating():
            if self.scans.pop(scan.name, None):
                write_json(self.scans, self.notes)
        for ending in (".dcm", ".png", UNCERTAINTY):
            if folded(f"{scan.name}{ending}") not in self.segmentations:
                try:
                    self.file(scan, ending).unlink(missing_ok=True)
                except OSError as error:  # a file has the name of its folder, or a folder that of the file
                    raise not_written(self.file(scan, ending), error) from error

    def add(self, scan: Scan, content: str, volumes: list[dict]) -> None:
        """Note that a scan has been segmented, and the volumes of its organs."""
        with self._updating():
            self.rows[scan.name] = [{"scan": scan.name, **row} for row in volumes]
            write_csv([row for name in sorted(self.rows) for row in self.rows[name]], self.table)
            self.scans[scan.name] = {"content": content, "place": scan.place, "result": sha256(self.file(scan))}
            write_json(self.scans, self.notes)

    def note_place(self, scan: Scan) -> None:
        """Note the present place of a scan whose segmentation is there."""
        if self.scans[scan.name].get("place") != scan.place:
            noted = self.scans[scan.name] | {"place": scan.place}
            with self._updating():
                self.scans[scan.name] = noted
                write_json(self.scans, self.notes)

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """Read both files again, with what other processes wrote, and keep those out while they are changed."""
        with locked(self.folder):
            self.scans, self.rows = _read_notes(self.notes), _read_volumes(self.table)
            yield


def _read_notes(file: Path) -> dict[str, dict[str, str]]:
    """Return ``scans.json``: by the name of a scan, hashes of its ``content``, its ``place`` and its ``result``."""
    try:
        noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        # An earlier version noted the content alone.
        scans = {
            name: {"content": one} if isinstance(one, str) else {"content": "", **one} for name, one in noted.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _changed(file) from error
    return scans


def _read_volumes(file: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of ``volumes.csv`` by the name of their scan."""
    rows: dict[str, list[dict[str, str]]] = {}
    if not file.is_file():
        return rows
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:  # a spreadsheet may add a byte order mark
            table = list(csv.reader(opened))
        for row in table[1:]:
            named = dict(zip(COLUMNS, row, strict=True))
            rows.setdefault(named["scan"], []).append(named)
    except (OSError, ValueError, csv.Error) as error:
        raise _changed(file) from error
    if table and table[0] != list(COLUMNS):
        raise _changed(file)
    return rows


def _changed(file: Path) -> InputError:
    """Return the error for a file of the results that another program has saved in another form."""
    return InputError(
        f"'{file}' cannot be read: it is damaged, or another program saved it in another form, as spreadsheets do. "
        "Restore it, or delete it: its scans are then segmented again."
    )
