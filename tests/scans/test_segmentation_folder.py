"""The output folder of `segment.py`: what is kept, made again or refused."""

import csv
import json
import os
import shutil
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from conftest import write_case
from scan_files import CLASSES, RECIPE, write_body, write_scans, write_weights

from swinunetr.data.folders import case_name
from swinunetr.errors import InputError
from swinunetr.network.checkpoints import build_swinunetr, save_weights
from swinunetr.scans import results_folder, segmentation
from swinunetr.scans.segmentation import segment


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "best_model.pth")


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path / "scans")


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
