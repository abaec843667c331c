"""Segmentation of NIfTI files and DICOM series with only trained weights."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from conftest import PROJECT, SMALL, write_case
from dicom_files import slice_positions, write_series
from scipy.ndimage import label as scipy_label

import segment as command_line
from swinunetr.data.folders import case_name
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError
from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained, save_weights
from swinunetr.network.swinunetr import place_network
from swinunetr.results import inference
from swinunetr.results.evaluation import read_labels
from swinunetr.results.inference import predict
from swinunetr.scans import results_folder, segmentation
from swinunetr.scans.dicom_seg import kind_of
from swinunetr.scans.segmentation import SomeLeftOut, segment

CLASSES = ("background", "left box", "right box")
RECIPE = replace(SMALL, crop_size=(64, 32, 32), spacing_mm=(3.0, 3.0, 3.0), overlap=0.0)  # few, small windows


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a ``best_model.pth`` like that of a fine-tuning run, with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "best_model.pth"
    noted = {"recipe": asdict(RECIPE), "classes": CLASSES, "modality": "CT"}
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), file, note=noted)
    return file


@pytest.fixture
def scans(tmp_path):
    """Return a folder of two scans, one in a subfolder, and their labels, which must not be segmented."""
    for number, affine in ((1, None), (2, np.diag([-2.0, -1.5, 3.0, 1.0]))):
        write_case(tmp_path / "scans", number, affine=affine)
    shutil.move(tmp_path / "scans/imagesTr/img0001.nii.gz", tmp_path / "scans/first.nii.gz")
    return tmp_path / "scans"


def test_scans_are_segmented_with_the_settings_of_training(weights, scans, tmp_path, capsys):
    written = segment(weights, scans, tmp_path / "out")
    report = capsys.readouterr().out
    assert "2 test" in report and "warning" not in report and "caching" not in report
    assert written == [tmp_path / "out/first.nii.gz", tmp_path / "out/imagesTr/img0002.nii.gz"]
    for file, scan in zip(written, [scans / "first.nii.gz", scans / "imagesTr/img0002.nii.gz"], strict=True):
        np.testing.assert_array_equal(nib.load(file).affine, nib.load(scan).affine)
    assert {"made_by.json", "labels.ctbl", "labels_itksnap.txt"} <= {f.name for f in (tmp_path / "out").iterdir()}

    entry = {"name": "first", "image": str(scans / "first.nii.gz")}
    (case,) = prepare_cases([entry], RECIPE, "CT")
    model = place_network(build_swinunetr(3, weights), find_hardware())
    load_pretrained(model, weights)
    probabilities = predict(model, case["image"], RECIPE, find_hardware()).softmax(0)
    expected = inference.to_source_grid(probabilities, case["image"])
    assert len(np.unique(expected)) == 3 and (read_labels(written[0]) != expected).mean() < 1e-4


def test_a_second_run_segments_only_the_remaining_scans(weights, scans, tmp_path):
    first, second = segment(weights, scans, tmp_path / "out")
    second.unlink()
    kept = first.stat().st_mtime_ns
    assert segment(weights, scans, tmp_path / "out") == [first, second]
    assert first.stat().st_mtime_ns == kept and second.is_file()


def test_a_folder_with_predictions_of_other_weights_is_refused(weights, scans, tmp_path):
    segment(weights, scans / "first.nii.gz", tmp_path / "out")
    before = (tmp_path / "out/first.nii.gz").read_bytes()
    other = tmp_path / "other.pth"
    noted = {"recipe": asdict(replace(RECIPE, seed=1)), "classes": CLASSES, "modality": "CT"}
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), other, note=noted)
    with pytest.raises(InputError, match="weights_sha256"):
        segment(other, scans / "first.nii.gz", tmp_path / "out")
    assert (tmp_path / "out/first.nii.gz").read_bytes() == before


def test_segmentations_in_a_subfolder_of_the_scans_are_not_segmented(weights, scans):
    first = segment(weights, scans, scans / "out")
    assert segment(weights, scans, scans / "out") == first and len(first) == 2


@pytest.mark.parametrize("place", ["scans", "."])
def test_the_folder_of_the_scans_is_refused_as_output(weights, scans, place):
    with pytest.raises(InputError, match="holds the scans"):
        segment(weights, scans, scans.parent / place)
    with pytest.raises(InputError, match="holds the scans"):
        segment(weights, scans / "first.nii.gz", scans.parent / place)


def test_scans_of_one_name_in_two_formats_have_results_of_their_own(weights, tmp_path):
    names = write_case(tmp_path, 1)
    scan = nib.load(tmp_path / names["image"])
    (tmp_path / "scans").mkdir()
    for file in ("ct.nii.gz", "ct.nii", "CT.nii"):
        nib.save(scan, tmp_path / "scans" / file)
    written = segment(weights, tmp_path / "scans", tmp_path / "out")
    assert len({file.name.lower() for file in written}) == 3 and all(
        file.parent == tmp_path / "out" for file in written
    )
    assert segment(weights, tmp_path / "scans", tmp_path / "out") == written


def test_a_folder_whose_name_is_not_utf8_is_segmented(weights, scans, tmp_path):
    folder = os.fsencode(tmp_path) + b"/new/J\xfcrgen"
    os.makedirs(folder)
    os.rename(os.fsencode(scans / "first.nii.gz"), folder + b"/ct.nii.gz")
    for _ in range(2):
        assert segment(weights, tmp_path / "new", tmp_path / "out") == [tmp_path / "out/J_rgen/ct.nii.gz"]
    assert "J_rgen/ct,left box" in (tmp_path / "out/volumes.csv").read_text()
    assert segment(weights, tmp_path / os.fsdecode(folder), tmp_path / os.fsdecode(b"\xfc")) != []


def test_earlier_results_are_named_and_are_not_scans(weights, scans, capsys):
    for output in ("out", "sub/other"):
        written = segment(weights, scans, scans / output, uncertainty=True, modality="MR")
        assert len(written) == 2
    assert f"results of this project: '{scans / 'out'}'" in capsys.readouterr().out
    for place in ("out", "out/imagesTr", "sub/other/first.nii.gz"):
        with pytest.raises(InputError, match="holds results of this project, not scans. Give the folder of the scans"):
            segment(weights, scans / place, scans / "new")
    with pytest.raises(InputError, match="found none.\n.*results of this project: .*sub/other"):
        segment(weights, scans / "sub", scans / "new")


def test_a_full_disk_stops_at_the_first_scan(weights, scans, tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference.nib, "save", full)
    with pytest.raises(InputError, match=r"first\.nii\.gz' could not be written .*No space left.*Free disk space"):
        segment(weights, scans, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.nii.gz"))


def test_two_processes_with_one_output_folder_keep_the_rows_of_both(weights, scans, tmp_path):
    segment(weights, scans / "first.nii.gz", tmp_path / "out")
    results = results_folder.Results(tmp_path / "out")  # of a process that starts now, and ends after the other
    scan = segmentation.Scan("mine", scans / "first.nii.gz", None)
    shutil.copy(tmp_path / "out/first.nii.gz", results.file(scan))
    (other,) = segment(weights, scans / "imagesTr", tmp_path / "out")
    results.add(scan, "content", [{"organ": "left box", "ml": 1.0, "touches_border": False}])
    names = {"first", "mine", case_name(other)}
    with open(tmp_path / "out/volumes.csv", newline="") as table:
        assert {row["scan"] for row in csv.DictReader(table)} == names
    assert json.loads((tmp_path / "out/scans.json").read_text()).keys() == names


@pytest.mark.parametrize(
    "content", ["scan;organ;ml;touches_border\nfirst;left box;1,5;WAHR\n", "scan,organ\na,b\n", "{"]
)
@pytest.mark.parametrize("file", ["volumes.csv", "scans.json"])
def test_tables_that_another_program_changed_are_named(weights, scans, tmp_path, file, content):
    segment(weights, scans / "first.nii.gz", tmp_path / "out")
    table = tmp_path / "out" / file
    written = table.read_text()
    table.write_text(content, encoding="utf-16")
    with pytest.raises(InputError, match=f"{file}' cannot be read"):
        segment(weights, scans / "first.nii.gz", tmp_path / "out")
    table.write_text(content)
    with pytest.raises(InputError, match="delete it"):
        segment(weights, scans / "first.nii.gz", tmp_path / "out")
    table.unlink()  # as the message says
    segment(weights, scans / "first.nii.gz", tmp_path / "out")
    assert table.read_text() == written


def test_a_segmentation_that_was_corrected_by_hand_is_not_replaced(weights, scans, tmp_path):
    (file,) = segment(weights, scans / "first.nii.gz", tmp_path / "out")
    nib.save(nib.load(file).slicer[::-1], file)
    corrected = file.read_bytes()
    with pytest.raises(InputError, match="was changed since it was written"):
        segment(weights, scans / "first.nii.gz", tmp_path / "out", pictures=True)
    assert segment(weights, scans / "first.nii.gz", tmp_path / "out") == [file] and file.read_bytes() == corrected
    file.rename(tmp_path / "corrected.nii.gz")
    assert segment(weights, scans / "first.nii.gz", tmp_path / "out", pictures=True) == [file]


@pytest.mark.parametrize("taken", ["imagesTr", "imagesTr/img0002.png/a"])
def test_a_name_in_the_output_folder_that_is_taken_ends_in_one_line(weights, scans, tmp_path, taken):
    file = tmp_path / "out" / taken
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(InputError, match="choose another folder"):
        segment(weights, scans, tmp_path / "out", pictures=True)


def test_options_in_other_words_continue_in_their_folder(weights, scans, tmp_path):
    same = ((["all"], None), (["right box", "Left Box"], "Computed Tomography"), (["left box", "right box"], "ct"))
    for organs, modality in same:
        written = segment(weights, scans, tmp_path / "out", modality=modality, largest_component=organs)
        assert len(written) == 2
    with pytest.raises(InputError, match="other settings .largest_component"):
        segment(weights, scans, tmp_path / "out", largest_component=["left box"])


def test_flips_are_refused_if_training_did_not_flip(weights, scans, tmp_path):
    with pytest.raises(InputError, match="test_time_flips.*right kidney"):
        segment(weights, scans, tmp_path / "out", flips=True)


def test_weights_that_do_not_note_their_training_are_refused(scans, tmp_path):
    torch.save(build_swinunetr(3, feature_size=12).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"no note of how it was trained.*best_model\.pth"):
        segment(tmp_path / "plain.pth", scans, tmp_path / "out")


def test_damaged_scans_are_left_out_and_the_others_segmented(weights, scans, tmp_path, capsys):
    whole = (scans / "first.nii.gz").read_bytes()
    (scans / "first.nii.gz").write_bytes(whole[: len(whole) // 2])  # its header is whole
    (scans / "page.nii.gz").write_bytes(b"<html>Not found")
    with pytest.raises(SomeLeftOut, match="2 of 3 scans were left out") as error:
        segment(weights, scans, tmp_path / "out")
    _, page, first = str(error.value).splitlines()
    assert page.startswith("page: a web page, not a scan; log in") and first.startswith("first: file is truncated")
    assert [file.name for file in tmp_path.glob("out/**/*.nii.gz")] == ["img0002.nii.gz"]
    (scans / "first.nii.gz").write_bytes(whole)
    with pytest.raises(SomeLeftOut, match="1 of 3"):
        segment(weights, scans, tmp_path / "out")
    assert (tmp_path / "out/first.nii.gz").is_file()
    for number in range(20):
        shutil.copy(scans / "page.nii.gz", scans / f"page{number}.nii.gz")
    with pytest.raises(SomeLeftOut) as error:
        segment(weights, scans, tmp_path / "out")
    assert len(str(error.value).splitlines()) == 8 and str(error.value).endswith("... and 15 more, named above.")
    assert capsys.readouterr().out.count("left out: page") >= 21
    for name, bad in (("page", True), ("first", False)):
        content = b"<html>" if bad else whole[: len(whole) // 2]
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
        with pytest.raises(InputError, match=f"none can be segmented:\n{name}: ") as error:
            segment(weights, tmp_path / f"{name}.nii.gz", tmp_path / name)
        assert not isinstance(error.value, SomeLeftOut)


def test_missing_scans_stop_before_the_network_runs(weights, tmp_path):
    with pytest.raises(InputError, match="no file or folder at"):
        segment(weights, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected NIfTI files \(\.nii, \.nii\.gz\) or DICOM series"):
        segment(weights, tmp_path / "empty", tmp_path / "out")


def test_the_command_line_shows_a_short_error(tmp_path):
    command = [sys.executable, "segment.py", str(tmp_path / "none.pth"), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.pth" in done.stderr and "Traceback" not in done.stderr


def test_another_scan_under_the_same_name_is_segmented_again(weights, scans, tmp_path):
    first, second = segment(weights, scans, tmp_path / "out")
    kept, before = second.stat().st_mtime_ns, first.read_bytes()
    image = nib.load(scans / "first.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), scans / "first.nii.gz")
    segment(weights, scans, tmp_path / "out")
    assert first.read_bytes() != before and second.stat().st_mtime_ns == kept
    shutil.copytree(scans, tmp_path / "moved")
    times = first.stat().st_mtime_ns
    segment(weights, tmp_path / "moved", tmp_path / "out")
    assert first.stat().st_mtime_ns == times


def test_patients_with_scans_of_one_name_do_not_share_a_folder(weights, tmp_path):
    for patient in ("a", "b"):
        write_case(tmp_path / patient, ord(patient))
        (tmp_path / patient / f"imagesTr/img{ord(patient):04d}.nii.gz").rename(tmp_path / patient / "ct.nii.gz")
        write_body(tmp_path / patient / "dicom", f"1.2.{ord(patient)}", RescaleIntercept=-1000 - ord(patient) // 5)
    for scan, written in (("ct.nii.gz", "ct"), ("dicom", "series3")):
        segment(weights, tmp_path / "a" / scan, tmp_path / "out")
        files = tmp_path / f"out/{written}.nii.gz", tmp_path / "out/volumes.csv"
        before = [file.read_bytes() for file in files]
        with pytest.raises(InputError, match=f"scans of the same name, from another folder: {written}.*folder above"):
            segment(weights, tmp_path / "b" / scan, tmp_path / "out")
        assert [file.read_bytes() for file in files] == before
    assert tmp_path.name not in (tmp_path / "out/scans.json").read_text()


def test_the_place_of_a_linked_or_moved_scan_is_known(weights, tmp_path):
    for number in (1, 2):
        write_case(tmp_path / "store", number)
        (tmp_path / f"p{number}").mkdir()
        (tmp_path / f"p{number}/ct.nii.gz").symlink_to(tmp_path / f"store/imagesTr/img000{number}.nii.gz")
    segment(weights, tmp_path / "p1", tmp_path / "out")
    notes = tmp_path / "out/scans.json"
    notes.write_text(json.dumps({name: one["content"] for name, one in json.loads(notes.read_text()).items()}))
    segment(weights, tmp_path / "p1", tmp_path / "out")  # recognised from the note of an earlier version
    with pytest.raises(InputError, match="from another folder: ct"):
        segment(weights, tmp_path / "p2", tmp_path / "out")
    (tmp_path / "p1").rename(tmp_path / "moved")
    segment(weights, tmp_path / "moved", tmp_path / "out")
    before = (tmp_path / "out/ct.nii.gz").read_bytes()
    (tmp_path / "moved/ct.nii.gz").unlink()
    (tmp_path / "moved/ct.nii.gz").symlink_to(tmp_path / "store/imagesTr/img0002.nii.gz")  # changed in its place
    segment(weights, tmp_path / "moved", tmp_path / "out")
    assert (tmp_path / "out/ct.nii.gz").read_bytes() != before


def test_a_changed_scan_does_not_take_away_the_segmentation_of_another(weights, scans, tmp_path):
    shutil.copy(scans / "first.nii.gz", scans / "first_uncertainty.nii.gz")
    segment(weights, scans, tmp_path / "out")
    image = nib.load(scans / "first.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), scans / "first.nii.gz")
    segment(weights, scans / "first.nii.gz", tmp_path / "out")
    assert (tmp_path / "out/first_uncertainty.nii.gz").is_file()
    with pytest.raises(InputError, match="uncertainty: it would replace first_uncertainty.nii.gz"):
        segment(weights, scans / "first.nii.gz", tmp_path / "out", uncertainty=True)


def test_the_home_folder_is_understood_in_every_path(weights, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(weights, tmp_path / "best_model.pth")
    written = segment("~/best_model.pth", "~/scans/first.nii.gz", "~/out")
    assert written == [tmp_path / "out/first.nii.gz"] and written[0].is_file()


# ---------------------------------------------------------------------------------------------------- DICOM series


def body(slices=12):
    """Return stored voxels (slices, rows, columns) of a block of soft tissue in air, with two brighter boxes."""
    voxels = np.full((slices, 40, 48), 24, np.int16)  # -1000 HU, with an intercept of -1024
    voxels[:, 4:36, 4:44] = 1064
    voxels[2:8, 10:20, 8:24], voxels[5:10, 22:32, 26:40] = 1124, 1204
    return voxels


def write_body(folder, uid="1.2.3.4", **tags):
    """Write the block as a DICOM series of 3 x 3 x 3 mm."""
    positions = slice_positions(12, step_mm=3)
    geometry = {"PixelSpacing": [3, 3], "FrameOfReferenceUID": "1.2.9"}
    return write_series(folder, uid, voxels=body(), positions=positions, **(geometry | tags))


def as_nifti(files, path):
    """Write a series to a NIfTI file with SimpleITK."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(reader.Execute(), str(path))
    return path


def test_a_series_gets_the_voxels_of_the_same_series_as_nifti(weights, tmp_path):
    files = write_body(tmp_path / "scans/ct")
    as_nifti(files, tmp_path / "nifti/ct.nii.gz")
    (found,) = segment(weights, tmp_path / "scans", tmp_path / "out")
    (expected,) = segment(weights, tmp_path / "nifti", tmp_path / "expected")
    assert found == tmp_path / "out/ct/series3.nii.gz"
    np.testing.assert_array_equal(read_labels(found), read_labels(expected))
    np.testing.assert_allclose(nib.load(found).affine, nib.load(expected).affine, atol=1e-4)
    assert len(np.unique(read_labels(found))) > 1
    kept = found.stat().st_mtime_ns
    for file in files:
        file.rename(file.with_name(f"again_{file.name}"))
    assert segment(weights, tmp_path / "scans", tmp_path / "out") == [found] and found.stat().st_mtime_ns == kept


def test_series_that_cannot_be_used_are_named_and_the_others_segmented(weights, tmp_path):
    write_body(tmp_path / "scans/good")
    write_body(tmp_path / "scans/mixed", "1.2.3.5", number=1)
    write_body(tmp_path / "scans/mixed", "1.2.3.6", number=2, names=[f"x{n}" for n in range(12)])
    write_body(tmp_path / "scans/gap", "1.2.3.7")[4].unlink()
    write_body(tmp_path / "scans/bright", "1.2.3.8", RescaleIntercept=0)  # no HU
    write_case(tmp_path / "scans", 1)
    with pytest.raises(SomeLeftOut, match="2 of 6 scans were left out") as error:
        segment(weights, tmp_path / "scans", tmp_path / "scans/out")
    lines = str(error.value).splitlines()
    assert any(line.startswith("gap/series3: ") and "missing" in line for line in lines)
    assert any(line.startswith("bright/series3: ") and "HU" in line for line in lines)
    names = {str(file.relative_to(tmp_path / "scans/out")) for file in tmp_path.glob("scans/out/**/*.nii.gz")}
    assert names == {"good/series3.nii.gz", "mixed/series1.nii.gz", "mixed/series2.nii.gz", "imagesTr/img0001.nii.gz"}
    with pytest.raises(SomeLeftOut, match="2 of 6"):  # what it wrote in a subfolder of the scans is no scan
        segment(weights, tmp_path / "scans", tmp_path / "scans/out")
    with pytest.raises(InputError, match="none can be segmented") as error:
        segment(weights, tmp_path / "scans/gap", tmp_path / "none")
    assert not isinstance(error.value, SomeLeftOut)


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
def test_a_segmentation_object_holds_the_labels_of_the_nifti_file(weights, tmp_path, kind):
    write_body(tmp_path / "scans")
    (file,) = segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg=kind)
    labels = read_labels(file)
    content = pydicom.dcmread(tmp_path / "out/series3.dcm")
    assert content.Modality == "SEG" and [s.SegmentLabel for s in content.SegmentSequence][-2:] == list(CLASSES[1:])
    volume = np.zeros(labels.shape, np.uint8)
    frames = content.pixel_array.reshape(-1, *labels.shape[1::-1])
    for frame, group in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        z = round((group.PlanePositionSequence[0].ImagePositionPatient[2] - 30) / 3)
        label = 1 if kind == "LABELMAP" else group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volume[:, :, z] += (label * frame.T).astype(np.uint8)
    np.testing.assert_array_equal(volume, labels)
    with pytest.raises(InputError, match="dicom_seg: expected DICOM series"):
        write_case(tmp_path / "nifti", 1)
        segment(weights, tmp_path / "nifti", tmp_path / "out2", dicom_seg=kind)


def test_objects_and_pictures_follow_the_options_and_the_scan(weights, tmp_path):
    write_body(tmp_path / "scans")
    results = [tmp_path / f"out/series3{ending}" for ending in (".nii.gz", ".dcm", ".png", "_uncertainty.nii.gz")]
    for kind in ("LABELMAP", "BINARY"):
        segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg=kind, pictures=True, uncertainty=True)
        assert kind_of(results[1]) == kind and all(file.is_file() for file in results)
    times = [file.stat().st_mtime_ns for file in results]
    segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg="BINARY")
    assert [file.stat().st_mtime_ns for file in results] == times
    write_body(tmp_path / "scans", RescaleIntercept=-1020)  # another scan of the same name
    segment(weights, tmp_path / "scans", tmp_path / "out")
    assert [file.is_file() for file in results] == [True, False, False, False]


def test_notes_on_a_series_are_in_the_table(weights, tmp_path, capsys):
    for number, file in enumerate(write_body(tmp_path / "scans")):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = f"1.2.{number}"
        dataset.save_as(file)
    segment(weights, tmp_path / "scans", tmp_path / "out")
    assert "12 slices of CT; each slice has a series instance UID of its own; joined" in capsys.readouterr().out


def test_a_series_that_allows_no_segmentation_object_has_a_nifti_file(weights, tmp_path, recwarn):
    write_body(tmp_path / "scans/good")
    write_body(tmp_path / "scans/invalid", "1.2.3.5", FrameOfReferenceUID="1.2.a")
    with pytest.raises(SomeLeftOut) as error:
        segment(weights, tmp_path / "scans", tmp_path / "out", dicom_seg="LABELMAP")
    headline, line = str(error.value).splitlines()
    assert headline == "1 of 2 scans have no DICOM segmentation object:" and line.startswith("invalid/series3")
    assert (tmp_path / "out/invalid/series3.nii.gz").is_file() and (tmp_path / "out/good/series3.dcm").is_file()
    assert "invalid/series3,left box" in (tmp_path / "out/volumes.csv").read_text()


def test_nothing_that_names_the_patient_is_written_without_a_segmentation_object(weights, tmp_path, capsys):
    write_body(tmp_path / "scans")
    segment(weights, tmp_path / "scans", tmp_path / "out", pictures=True)
    printed = capsys.readouterr()
    contents = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    contents += [gzip.decompress(file.read_bytes()) for file in tmp_path.glob("out/**/*.nii.gz")]
    assert not [content for content in contents if b"Secret" in content or b"SECRET" in content]
    assert "Secret" not in printed.out + printed.err
    assert (tmp_path / "out/series3.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------- other results


def test_volumes_are_those_of_the_segmentations(weights, scans, tmp_path):
    written = segment(weights, scans, tmp_path / "out")
    for _ in range(2):
        rows = list(csv.DictReader((tmp_path / "out/volumes.csv").read_text().splitlines()))
        assert [(row["scan"], row["organ"]) for row in rows] == [
            (scan, organ) for scan in ("first", "imagesTr/img0002") for organ in CLASSES[1:]
        ]
        for file, own in zip(written, (rows[:2], rows[2:]), strict=True):
            image = nib.load(file)
            voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
            for label, row in enumerate(own, start=1):
                assert float(row["ml"]) == pytest.approx((read_labels(file) == label).sum() * voxel_ml, abs=1e-3)
        written[0].unlink()
        written = segment(weights, scans, tmp_path / "out")  # the rows of the other scan stay


def test_the_largest_component_is_kept_where_it_is_asked_for(weights, scans, tmp_path):
    (plain,) = segment(weights, scans / "first.nii.gz", tmp_path / "plain")
    (kept,) = segment(weights, scans / "first.nii.gz", tmp_path / "kept", largest_component=["Left Box"])
    pieces = [scipy_label(read_labels(file) == 1, np.ones((3, 3, 3)))[1] for file in (plain, kept)]
    assert pieces[0] > 1 and pieces[1] == 1
    np.testing.assert_array_equal(read_labels(plain) == 2, read_labels(kept) == 2)
    with pytest.raises(InputError, match="largest_component"):
        segment(weights, scans / "first.nii.gz", tmp_path / "plain", largest_component=["all"])
    with pytest.raises(InputError, match="largest_component: expected organs.*unknown: spleen. The organs are"):
        segment(weights, scans / "first.nii.gz", tmp_path / "other", largest_component=["spleen"])


def test_the_uncertainty_of_a_scan_can_be_read_from_0_to_1_in_its_place(weights, scans, tmp_path):
    segment(weights, scans, tmp_path / "out")  # a second run adds it
    for file in segment(weights, scans, tmp_path / "out", uncertainty=True):
        found = sitk.ReadImage(str(file).replace(".nii.gz", "_uncertainty.nii.gz"))
        labels = sitk.ReadImage(str(file))
        assert found.GetSize() == labels.GetSize() and found.GetDirection() == labels.GetDirection()
        np.testing.assert_allclose(found.GetOrigin(), labels.GetOrigin())
        values = sitk.GetArrayFromImage(found)
        assert 0 <= values.min() < 0.1 and 0.5 < values.max() <= 1  # random weights, and air outside the training grid
    shutil.copy(scans / "first.nii.gz", scans / "first_uncertainty.nii.gz")
    with pytest.raises(InputError, match="uncertainty: it would replace first_uncertainty.nii.gz"):
        segment(weights, scans, tmp_path / "new", uncertainty=True)


def test_several_weights_are_averaged(weights, scans, tmp_path):
    files = [weights]
    for seed in (1, 2):
        torch.manual_seed(seed)
        files.append(tmp_path / f"seed{seed}.pth")
        noted = {"recipe": asdict(replace(RECIPE, seed=seed)), "classes": CLASSES, "modality": "CT"}
        save_weights(build_swinunetr(3, feature_size=12, window_size=4), files[-1], note=noted)
    scan = scans / "first.nii.gz"
    ((found,), *alone) = [
        segment(one, scan, tmp_path / f"out{n}") for n, one in enumerate([files, *([file] for file in files)])
    ]
    (case,) = prepare_cases([{"name": "first", "image": str(scan)}], RECIPE, "CT")
    mean = 0
    for file in files:
        model = place_network(build_swinunetr(3, file), find_hardware())
        load_pretrained(model, file)
        mean = mean + predict(model, case["image"], RECIPE, find_hardware()).softmax(0) / 3
    expected = inference.to_source_grid(mean, case["image"])
    assert (read_labels(found) != expected).mean() < 1e-4
    assert all((read_labels(found) != read_labels(one)).any() for (one,) in alone)
    other = tmp_path / "other_grid.pth"
    noted = {"recipe": asdict(replace(RECIPE, spacing_mm=(2, 2, 2))), "classes": CLASSES, "modality": "CT"}
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), other, note=noted)
    with pytest.raises(InputError, match="other_grid.pth' was trained with other settings than.*spacing_mm"):
        segment([weights, other], scan, tmp_path / "none")


def test_the_command_line_says_by_its_status_whether_all_were_segmented(weights, tmp_path, monkeypatch, capsys):
    write_body(tmp_path / "scans/good")
    command = ["segment.py", str(weights), str(tmp_path / "scans"), str(tmp_path / "out"), "--dicom-seg"]
    monkeypatch.setattr(sys, "argv", command)
    assert command_line.main() == 0
    assert "good/series3" in capsys.readouterr().out and kind_of(tmp_path / "out/good/series3.dcm") == "LABELMAP"
    write_body(tmp_path / "scans/gap", "1.2.3.7")[4].unlink()
    assert command_line.main() == 3 and "gap/series3" in capsys.readouterr().err


def test_a_command_whose_output_nobody_reads_shows_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segment.py", "best_model.pth", "scans", "out"])
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # tests need their output
    monkeypatch.setattr(segmentation, "segment", Mock(side_effect=BrokenPipeError))
    assert command_line.main() == 1
    assert capsys.readouterr().err.startswith("Stopped, as nothing reads the output of this command.")
    monkeypatch.setattr(segmentation, "segment", Mock(return_value=[]))
    monkeypatch.setattr(sys, "stdout", None)
    assert command_line.main() == 0


def test_an_interrupted_command_ends_in_one_line_and_leaves_whole_files(weights, scans, tmp_path, monkeypatch, capsys):
    label, labelled = segmentation.label_case, []

    def interrupted(*args):
        if labelled:
            raise KeyboardInterrupt
        labelled.append(label(*args))
        return labelled[0]

    monkeypatch.setattr(segmentation, "label_case", interrupted)
    monkeypatch.setattr(sys, "argv", ["segment.py", str(weights), str(scans), str(tmp_path / "out")])
    assert command_line.main() == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Interrupted; what was written is complete.")
    assert [file.name for file in tmp_path.glob("out/**/*.nii.gz")] == ["first.nii.gz"]
    assert list(json.loads((tmp_path / "out/scans.json").read_text())) == ["first"]
    monkeypatch.undo()
    kept = (tmp_path / "out/first.nii.gz").stat().st_mtime_ns
    assert len(segment(weights, scans, tmp_path / "out")) == 2
    assert (tmp_path / "out/first.nii.gz").stat().st_mtime_ns == kept


def test_a_full_disk_stops_the_command_and_no_scan_is_called_bad(weights, scans, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segmentation.plots, "plot_segmentation", lambda *_: Mock(savefig=lambda file, dpi: full()))
    monkeypatch.setattr(segmentation.plt, "close", Mock())
    with pytest.raises(InputError, match=r"first\.png' could not be written .*No space left.*Free disk space") as error:
        segment(weights, scans, tmp_path / "out", pictures=True)
    assert not isinstance(error.value, SomeLeftOut) and not (tmp_path / "out/scans.json").exists()


def test_a_full_temporary_disk_stops_the_command_and_no_series_is_called_bad(weights, tmp_path, monkeypatch):
    write_body(tmp_path / "scans/a")
    monkeypatch.setattr(inference.nib, "save", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"\.nii' could not be written .*No space left.*Free disk space") as error:
        segment(weights, tmp_path / "scans", tmp_path / "out")
    assert not str(error.value).startswith("scans: none can be segmented")
