"""Segmentation of scans with trained weights: NIfTI files and DICOM series, in any mixture."""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
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
from swinunetr.checks import check_dataset, image_faults
from swinunetr.colours import save_label_names
from swinunetr.dataset import Dataset, case_name, find_volumes, is_nifti, organ_labels
from swinunetr.devices import Hardware, find_hardware
from swinunetr.dicom import LeftOut, Series, find_series, fingerprint, write_nifti
from swinunetr.dicom_seg import KINDS, Model, kind_of, write_segmentation
from swinunetr.errors import InputError
from swinunetr.files import claim_folder, replacing, sha256, write_csv, write_json
from swinunetr.geometry import voxel_volume_mm3
from swinunetr.inference import Labelled, label_case, largest_components, save_prediction
from swinunetr.label_maps import named
from swinunetr.metrics import organ_volumes
from swinunetr.network import place_network
from swinunetr.preprocessing import intensity_window, prepare_cases
from swinunetr.recipe import Recipe
from swinunetr.settings import noted_training, require_one_setup
from swinunetr.tables import Table
from swinunetr.threads import read_ahead

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
        content: Hash of its content.
    """

    name: str
    file: Path | None
    series: Series | None
    content: str

    @property
    def place(self) -> str:
        """Hash of the path of the scan's folder, which may name the patient; the scan itself may be a link."""
        folder = (self.file or self.series.files[0]).parent.resolve()
        return hashlib.sha256(str(folder).encode()).hexdigest()


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
        InputError: A file or folder is missing, the weights do not store their training or do not fit together,
            ``output`` contains the scans, other predictions or those of other scans of the same name, or the disk is
            full.
    """
    scans, output = (Path(path).expanduser().resolve() for path in (scans, output))
    files = [find_checkpoint(file) for file in ([weights] if isinstance(weights, str | Path) else weights)]
    notes = {file: noted_training(file)[0] for file in files}
    classes, trained_on = tuple(notes[files[0]]["classes"]), notes[files[0]]["modality"]
    recipe = replace(require_one_setup(notes, flips), largest_component=tuple(largest_component))
    reduced = organ_labels(recipe.largest_component, classes[1:], "largest_component")
    if dicom_seg and dicom_seg not in KINDS:
        raise InputError(f"dicom_seg: expected one of {', '.join(KINDS)}, found {dicom_seg!r}.")
    modality = modality or trained_on
    found, left_out = _find(scans, output, modality, recipe)
    problems = [f"{one.name}: {one.reason}" for one in left_out]
    if not found:
        raise InputError("\n".join(["scans: none can be segmented:", *problems]))
    if dicom_seg and not any(scan.series for scan in found):
        raise InputError(
            f"dicom_seg: expected DICOM series in '{scans}', found NIfTI files only. Leave out --dicom-seg."
        )

    hashes = [sha256(file) for file in files]
    settings = {"weights_sha256": hashes[0] if len(hashes) == 1 else hashes, "test_time_flips": flips}
    settings |= {"modality": modality} | ({"largest_component": list(largest_component)} if largest_component else {})
    output = claim_folder(output, settings)
    save_label_names(output, classes)
    results = Results(output)
    results.recognise(found)
    own = {f"{name}.nii.gz" for name in results.scans.keys() | {scan.name for scan in found}}
    if uncertainty and (replaced := own & {f"{scan.name}{UNCERTAINTY}" for scan in found}):
        raise InputError(f"uncertainty: it would replace {', '.join(replaced)} of another scan. Rename that scan.")
    model = _load(files, classes, recipe)
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest()
    origin = Model(" + ".join(file.name for file in files), joined if len(hashes) > 1 else hashes[0])

    endings = [".png"] * pictures + [UNCERTAINTY] * uncertainty

    def complete(scan: Scan) -> bool:
        of_kind = not (dicom_seg and scan.series) or kind_of(output / f"{scan.name}.dcm") == dicom_seg
        return results.has(scan) and of_kind and all((output / f"{scan.name}{one}").is_file() for one in endings)

    without_object: list[str] = []
    new = [scan for scan in found if not complete(scan)]
    with tempfile.TemporaryDirectory() as temporary:
        for scan, case, labelled in _labelled(new, model, uncertainty, modality, Path(temporary)):
            if isinstance(case, InputError):
                problems.append(f"{scan.name}: {case}")
                continue
            labels = largest_components(labelled.on_own_grid, reduced)
            file = output / f"{scan.name}.nii.gz"
            for name in {f"{scan.name}{ending}" for ending in (".dcm", ".png", UNCERTAINTY)} - own:
                (output / name).unlink(missing_ok=True)  # of the scan as it was before
            save_prediction(labels, case["source"], file)
            try:
                if dicom_seg and scan.series:
                    write_segmentation(labels, scan.series, classes, output / f"{scan.name}.dcm", origin, dicom_seg)
            except InputError as error:
                without_object.append(f"{scan.name}: {error}")
            if uncertainty:
                save_prediction(labelled.uncertainty, case["source"], output / f"{scan.name}{UNCERTAINTY}", 1 / 255)
            if pictures:
                _save_picture(scan.name, case["source"], file, model, modality)
            voxel_ml = voxel_volume_mm3(nib.load(file).affine) / 1000
            results.add(scan, organ_volumes(labels, voxel_ml, classes[1:]))
            if scan.series:
                Path(case["source"]).unlink()
    if problems or without_object:
        raise SomeLeftOut(_describe_problems(problems, without_object, len(found) + len(left_out)))
    return [output / f"{scan.name}.nii.gz" for scan in found]


def _describe_problems(problems: Sequence[str], without_object: Sequence[str], scans: int) -> str:
    """Return a message that names the scans that were left out, and those without a DICOM segmentation object."""
    lines = [f"{len(problems)} of {scans} scans were left out:", *problems] if problems else []
    if without_object:
        lines += [f"{len(without_object)} of {scans} scans have no DICOM segmentation object:", *without_object]
    return "\n".join(lines)


def _load(files: Sequence[Path], classes: tuple[str, ...], recipe: Recipe) -> Trained:
    """Return the network of the weights, placed on the device; of several, the states of all on the CPU."""
    hardware = find_hardware()
    network = build_swinunetr(len(classes), files[0])
    ensemble = read_ensemble(files, classes) if len(files) > 1 else ()
    if not ensemble:  # else its weights are loaded for each scan
        load_pretrained(network, files[0], classes=classes)
    return Trained(place_network(network, hardware), ensemble, recipe, classes, hardware)


def _find(scans: Path, output: Path, modality: str, recipe: Recipe) -> tuple[list[Scan], list[LeftOut]]:
    """Return the scans in a file or folder, without earlier results in a subfolder, and the series that are left out.

    The voxels of NIfTI files and the headers of DICOM series are checked; tables show what was found.
    """
    if not scans.exists():
        raise InputError(f"scans: no file or folder at '{scans}'.")
    if output in (scans, *scans.parents):
        raise InputError(f"output: '{output}' holds the scans. Choose a separate folder, so that no scan is replaced.")
    if scans.is_file() and is_nifti(scans):
        entries = [{"name": case_name(scans), "image": str(scans)}]
    else:
        entries = [] if scans.is_file() else find_volumes(scans, without=output)
    series, left_out = ([], []) if scans.is_file() and entries else find_series(scans, modality, without=output)
    if not entries and not series and not left_out:
        raise InputError(f"scans: expected NIfTI files (.nii, .nii.gz) or DICOM series in '{scans}', found none.")
    names = Counter(entry["name"] for entry in entries) + Counter(one.name for one in series)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"scans: found {', '.join(twice)} in two formats. Move one of the two away.")
    found = [Scan(one.name, None, one, fingerprint(one)) for one in series]
    if entries:
        report = check_dataset(Dataset(("background",), modality, [], [], entries), recipe.spacing_mm)
        print(report)
        files = [Scan(e["name"], Path(e["image"]), None, report.fingerprint[e["name"]]) for e in entries]
        found = files + found
    if series or left_out:
        print(_describe_series(series, left_out))
    return found, left_out


def _describe_series(series: Sequence[Series], left_out: Sequence[LeftOut]) -> Table:
    rows = [(one.name, f"{len(one.frames) or len(one.files)} slices of {one.modality}") for one in series]
    rows += [(one.name, f"left out: {one.reason}") for one in left_out]
    return Table(("DICOM series", "found"), rows)


def _labelled(new: Sequence[Scan], model: Trained, uncertainty: bool, modality: str, temporary: Path):
    """Yield each scan with its preprocessed case and its labels; with the error and None if it cannot be segmented.

    On a GPU the next scans are read, and the caller writes the last one, while the network segments the present one.
    """

    def prepare(scan: Scan) -> tuple[Scan, dict | InputError]:
        try:
            return scan, _prepare(scan, model.recipe, modality, temporary)
        except InputError as error:
            return scan, error

    def label(prepared: tuple[Scan, dict | InputError]) -> tuple[Scan, dict | InputError, Labelled | None]:
        scan, case = prepared
        if isinstance(case, InputError):
            return scan, case, None
        return scan, case, label_case(model.network, case, model.recipe, model.hardware, model.ensemble, uncertainty)

    prepared = read_ahead(prepare, new, model.hardware, threads=2)
    return tqdm(read_ahead(label, prepared, model.hardware), desc="Segmenting", total=len(new))


def _prepare(scan: Scan, recipe: Recipe, modality: str, temporary: Path) -> dict:
    """Return a preprocessed case; the voxels of a DICOM series are checked and written to a NIfTI file before.

    Raises:
        InputError: The scan cannot be read, or its voxels cannot be of this modality.
    """
    file = scan.file
    if scan.series:
        file = temporary / f"{scan.content}.nii"
        write_nifti(scan.series, file)
        for fault in image_faults(file, modality):
            if fault.stops:
                raise InputError(f"{fault.what}; {fault.remedy}")
            tqdm.write(f"warning: {scan.name}: {fault.what}; {fault.remedy}")
    return prepare_cases([{"name": scan.name, "image": str(file)}], recipe, modality, description="")[0]


def _save_picture(name: str, source: str, segmentation: Path, model: Trained, modality: str) -> None:
    window = intensity_window(model.recipe, modality)
    figure = plots.plot_segmentation(name, source, segmentation, model.classes[1:], window)
    with replacing(segmentation.with_name(segmentation.name.removesuffix(".nii.gz") + ".png")) as picture:
        figure.savefig(picture, dpi=110)
    plt.close(figure)


class Results:
    """What a folder holds: content and place of the scan of each segmentation (``scans.json``), and ``volumes.csv``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        notes, table = folder / "scans.json", folder / "volumes.csv"
        noted = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        # An earlier version noted the content alone.
        self.scans = {name: {"content": one} if isinstance(one, str) else one for name, one in noted.items()}
        self.rows: dict[str, list[dict]] = {}
        if table.is_file():
            with open(table, newline="", encoding="utf-8") as opened:
                for row in csv.DictReader(opened):
                    self.rows.setdefault(row["scan"], []).append(row)

    def has(self, scan: Scan) -> bool:
        """Return whether the segmentation of a scan is there, and is of its present content."""
        known = self.scans.get(scan.name, {}).get("content") == scan.content and scan.name in self.rows
        return known and (self.folder / f"{scan.name}.nii.gz").is_file()

    def recognise(self, scans: Sequence[Scan]) -> None:
        """Note the present place of the scans whose segmentation is there.

        Raises:
            InputError: The folder has segmentations of other scans of the same name, from another folder.
        """
        names = []
        for scan in scans:
            noted = self.scans.get(scan.name, {})
            elsewhere = noted.get("place", scan.place) != scan.place and noted["content"] != scan.content
            if elsewhere and (self.folder / f"{scan.name}.nii.gz").is_file():
                names.append(scan.name)
        if names:
            raise InputError(
                f"output: '{self.folder}' holds segmentations of other scans of the same name, from another folder: "
                f"{named(names)}. Choose another output folder. "
                "To segment several patients, give the folder above theirs as scans: names then hold the subfolder."
            )
        known = [scan for scan in scans if self.has(scan)]
        self.scans |= {scan.name: {"content": scan.content, "place": scan.place} for scan in known}
        if known:
            write_json(self.scans, self.folder / "scans.json")

    def add(self, scan: Scan, volumes: list[dict]) -> None:
        """Note that a scan has been segmented, and the volumes of its organs."""
        self.scans[scan.name] = {"content": scan.content, "place": scan.place}
        self.rows[scan.name] = [{"scan": scan.name, **row} for row in volumes]
        write_csv([row for name in sorted(self.rows) for row in self.rows[name]], self.folder / "volumes.csv")
        write_json(self.scans, self.folder / "scans.json")
