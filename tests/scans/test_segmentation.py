"""Segmentation of scans with only trained weights: what is segmented, and with what."""

import csv
import shutil
from dataclasses import asdict, replace
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scan_files import CLASSES, RECIPE, write_scans, write_weights
from scipy.ndimage import label as scipy_label

from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError
from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained, save_weights
from swinunetr.network.placement import place_network
from swinunetr.results import inference
from swinunetr.results.evaluation import read_labels
from swinunetr.results.inference import predict
from swinunetr.scans import writers
from swinunetr.scans.segmentation import SomeLeftOut, segment


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "best_model.pth")


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path / "scans")


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
    expected = inference.resample_labels(probabilities, case["image"])[0]
    assert len(np.unique(expected)) == 3 and (read_labels(written[0]) != expected).mean() < 1e-4


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
    expected = inference.resample_labels(mean, case["image"])[0]
    assert (read_labels(found) != expected).mean() < 1e-4
    assert all((read_labels(found) != read_labels(one)).any() for (one,) in alone)
    other = tmp_path / "other_grid.pth"
    noted = {"recipe": asdict(replace(RECIPE, spacing_mm=(2, 2, 2))), "classes": CLASSES, "modality": "CT"}
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), other, note=noted)
    with pytest.raises(InputError, match="other_grid.pth' was trained with other settings than.*spacing_mm"):
        segment([weights, other], scan, tmp_path / "none")


def test_a_full_disk_stops_the_command_and_no_scan_is_called_bad(weights, scans, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.plots, "plot_segmentation", lambda *_: Mock(savefig=lambda file, dpi: full()))
    monkeypatch.setattr(writers.plt, "close", Mock())
    with pytest.raises(InputError, match=r"first\.png' could not be written .*No space left.*Free disk space") as error:
        segment(weights, scans, tmp_path / "out", pictures=True)
    assert not isinstance(error.value, SomeLeftOut) and not (tmp_path / "out/scans.json").exists()
