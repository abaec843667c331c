"""Segmentation of scans with only trained weights."""

import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PROJECT, SMALL, write_case

from segment import segment
from swinunetr import inference
from swinunetr.checkpoints import build_swinunetr, load_pretrained, save_weights
from swinunetr.devices import find_hardware
from swinunetr.errors import InputError
from swinunetr.evaluation import read_labels
from swinunetr.inference import predict
from swinunetr.network import place_network
from swinunetr.preprocessing import prepare_cases

CLASSES = ("background", "left box", "right box")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a ``best_model.pth`` like that of a fine-tuning run, with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "best_model.pth"
    noted = {"recipe": asdict(SMALL), "classes": CLASSES, "modality": "CT"}
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
    (case,) = prepare_cases([entry], SMALL, "CT")
    model = place_network(build_swinunetr(3, weights), find_hardware())
    load_pretrained(model, weights)
    expected = predict(model, case["image"], SMALL, find_hardware()).argmax(0)
    share = [(expected == label).float().mean() for label in range(3)]
    found = read_labels(written[0])
    np.testing.assert_allclose([(found == label).mean() for label in range(3)], share, atol=0.1)


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
    noted = {"recipe": asdict(replace(SMALL, seed=1)), "classes": CLASSES, "modality": "CT"}
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


def test_a_scan_in_two_file_formats_is_refused(weights, scans, tmp_path):
    nib.save(nib.load(scans / "first.nii.gz"), scans / "first.nii")
    with pytest.raises(InputError, match=r"found first both as \.nii and as \.nii\.gz"):
        segment(weights, scans, tmp_path / "out")


def test_a_full_disk_stops_at_the_first_scan(weights, scans, tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference.nib, "save", full)
    with pytest.raises(InputError, match=r"first\.nii\.gz' could not be written .*No space left.*Free disk space"):
        segment(weights, scans, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.nii.gz"))


def test_flips_are_refused_if_training_did_not_flip(weights, scans, tmp_path):
    with pytest.raises(InputError, match="test_time_flips.*right kidney"):
        segment(weights, scans, tmp_path / "out", flips=True)


def test_weights_that_do_not_note_their_training_are_refused(scans, tmp_path):
    torch.save(build_swinunetr(3, feature_size=12).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"no note of how it was trained.*best_model\.pth"):
        segment(tmp_path / "plain.pth", scans, tmp_path / "out")


def test_damaged_and_missing_scans_stop_before_the_network_runs(weights, scans, tmp_path):
    whole = (scans / "first.nii.gz").read_bytes()
    (scans / "first.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="first"):
        segment(weights, scans, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.nii.gz"))
    with pytest.raises(InputError, match="no file or folder at"):
        segment(weights, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected \.nii or \.nii\.gz files"):
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


def test_the_home_folder_is_understood_in_every_path(weights, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(weights, tmp_path / "best_model.pth")
    written = segment("~/best_model.pth", "~/scans/first.nii.gz", "~/out")
    assert written == [tmp_path / "out/first.nii.gz"] and written[0].is_file()
