"""A tree of DICOM as a collection: images, labels of both kinds, patients, and what is left out."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import PATIENT
from dicom_files import write_series as write_plain
from dicom_volumes import damage
from pydicom import dcmread
from segmentation_objects import (
    AXIAL,
    CLASSES,
    COLUMNS,
    KINDS,
    OBLIQUE,
    ORIGIN,
    ROWS,
    SLICES,
    affine,
    some_labels,
    write_enhanced,
    write_series,
)

from swinunetr.data.collect.command import collect
from swinunetr.data.collect.dicom_tree import collect_dicom
from swinunetr.data.label_maps import to_classes
from swinunetr.data.lists import read_dataset
from swinunetr.errors import InputError
from swinunetr.files import sha256, stamp
from swinunetr.scans.dicom_seg import write_segmentation

HU = {"RescaleSlope": 1, "RescaleIntercept": 0}


def write_patient(folder, number=1, kind="BINARY", labels=None, classes=CLASSES, orientation=AXIAL):
    """Write a series of a patient and its segmentation object, and return the series."""
    (folder / "scan").mkdir(parents=True)
    uids = {"SeriesInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.4.{number}", "PatientID": f"P{number}"}
    series = write_series(folder / "scan", orientation, **HU, **uids)
    write_segmentation(some_labels() if labels is None else labels, series, classes, folder / "seg.dcm", ORIGIN, kind)
    return series


def test_a_tree_becomes_a_list_of_what_is_written_beside_it(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / f"dicom/patient{number}", number)
    before = content(tmp_path / "dicom")
    report = collect([tmp_path / "dicom"], tmp_path / "lists/own.json")
    assert content(tmp_path / "dicom") == before and "DICOM" in str(report)
    dataset = read_dataset(tmp_path / "lists/own.json", tmp_path / "dicom")  # as the notebook does
    assert set(dataset.classes) == set(CLASSES) and (len(dataset.training), len(dataset.validation)) == (1, 1)
    for case in dataset.training + dataset.validation:
        label = to_classes(np.asarray(nib.load(case["label"]).dataobj), case.get("label_map"))
        for number, name in enumerate(CLASSES):
            assert (label == dataset.classes.index(name)).sum() == (some_labels() == number).sum()
        assert Path(case["image"]).is_relative_to(tmp_path / "lists/own_scans/dicom")


def content(folder):
    return {file.relative_to(folder): sha256(file) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_each_structure_has_the_voxels_that_were_segmented(tmp_path, kind, orientation):
    write_patient(tmp_path / "dicom", kind=kind, orientation=orientation)
    before = content(tmp_path / "dicom")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert content(tmp_path / "dicom") == before
    (case,) = found.cases
    assert (found.layout, found.modality, found.root, found.unpaired) == ("DICOM", "CT", tmp_path / "to", ())
    assert case.name == case.patient == "scan_series7" and case.image == tmp_path / "to/scan_series7/ct.nii.gz"
    image = nib.load(case.image)
    assert [image.dataobj[0, 0, k] for k in range(SLICES)] == list(range(SLICES))
    assert list(case.structures) == sorted(CLASSES[1:])
    for name, file in case.structures.items():
        mask = nib.load(file)
        np.testing.assert_array_equal(mask.get_fdata(), some_labels() == CLASSES.index(name))
        np.testing.assert_array_equal(mask.affine, image.affine)
    np.testing.assert_allclose(image.affine, affine(orientation), atol=1e-5)
    assert found.notes == ("1 of 1 segmentation objects say that a program made them: no ground truth.",)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_of_a_multi_frame_object_may_be_in_any_order(tmp_path, kind):
    (tmp_path / "dicom").mkdir()
    series = write_enhanced(tmp_path / "dicom", (3, 0, 2, 7, 4, 1, 6, 5), per_frame=False)
    write_segmentation(some_labels(), series, CLASSES, tmp_path / "dicom/seg.dcm", ORIGIN, kind)
    header = dcmread(tmp_path / "dicom/enhanced.dcm")
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    header.save_as(tmp_path / "dicom/enhanced.dcm")
    (case,) = collect_dicom(tmp_path / "dicom", tmp_path / "to").cases
    np.testing.assert_array_equal(nib.load(case.structures["liver"]).get_fdata(), some_labels() == 6)


def test_no_file_and_no_name_tells_who_the_patient_is(tmp_path):
    for number in (1, 2):
        write_plain(tmp_path / f"dicom/{number}", f"1.2.{number}", StudyInstanceUID=f"1.{number}")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    texts = [repr(found).encode(), *(str(file).encode() for file in (tmp_path / "to").rglob("*"))]
    for file in (tmp_path / "to").rglob("*.*"):
        texts.append(nib.load(file).header.binaryblock if file.name.endswith(".gz") else file.read_bytes())
    assert len(texts) == 11 and not any(value.encode() in text for text in texts for value in PATIENT.values())


def test_a_second_run_writes_nothing_and_keeps_what_someone_corrected(tmp_path):
    write_patient(tmp_path / "dicom")
    first = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    liver = first.cases[0].structures["liver"]
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), liver)
    before = {file: stamp(file) for file in (tmp_path / "to").rglob("*")}
    shutil.move(tmp_path / "dicom/seg.dcm", tmp_path / "dicom/renamed.dcm")  # of the same content
    assert collect_dicom(tmp_path / "dicom", tmp_path / "to") == first
    assert {file: stamp(file) for file in (tmp_path / "to").rglob("*")} == before

    # A new object does not replace a correction.
    (tmp_path / "dicom/renamed.dcm").unlink()
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert not found.cases and "was changed since it was written" in found.unpaired[0]
    assert stamp(liver) == before[liver]


def test_a_changed_object_is_read_again_and_an_interrupted_case_too(tmp_path):
    series = write_patient(tmp_path / "dicom")
    collect_dicom(tmp_path / "dicom", tmp_path / "to")
    (tmp_path / "dicom/seg.dcm").unlink()
    write_segmentation(some_labels() // 6, series, ("background", "tumor", "b"), tmp_path / "dicom/seg.dcm", ORIGIN)
    (tmp_path / "to/scan_series7/ct.nii.gz").unlink()
    (case,) = collect_dicom(tmp_path / "dicom", tmp_path / "to").cases
    assert list(case.structures) == ["b", "tumor"] and case.image.is_file()
    assert sorted(file.name for file in case.image.parent.rglob("*.nii.gz")) == [
        "b.nii.gz",
        "ct.nii.gz",
        "tumor.nii.gz",
    ]
    np.testing.assert_array_equal(nib.load(case.structures["tumor"]).get_fdata(), some_labels() // 6 == 1)


def test_objects_of_one_series_are_joined_unless_they_have_a_segment_of_one_name(tmp_path):
    series = write_patient(tmp_path / "dicom", classes=("background", "liver", "spleen"), labels=some_labels() // 6)
    shutil.copy(tmp_path / "dicom/seg.dcm", tmp_path / "dicom/copy.dcm")
    labels = (some_labels() > 0).astype(np.uint8)
    write_segmentation(labels, series, ("background", "body"), tmp_path / "dicom/other.dcm", ORIGIN)
    (case,) = collect_dicom(tmp_path / "dicom", tmp_path / "to").cases
    assert list(case.structures) == ["body", "liver", "spleen"]  # of which two share voxels
    np.testing.assert_array_equal(nib.load(case.structures["body"]).get_fdata(), labels)

    write_segmentation(labels, series, ("background", "Liver"), tmp_path / "dicom/second.dcm", ORIGIN)
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert list(found.cases[0].structures) == ["body"]
    assert [line.split(":")[0] for line in found.unpaired] == ["copy.dcm", "second.dcm"]
    assert "another object of scan_series7 has the segments liver too; keep one" in found.unpaired[0]


def test_an_object_that_does_not_fit_is_named_and_left_out(tmp_path):
    write_patient(tmp_path / "dicom/a", 1)
    write_patient(tmp_path / "dicom/b", 2)
    shutil.rmtree(tmp_path / "dicom/b/scan")
    header = dcmread(tmp_path / "dicom/a/seg.dcm")
    header.FrameOfReferenceUID = "1.2.99"
    header.save_as(tmp_path / "dicom/a/seg.dcm")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert [not case.structures for case in found.cases] == [True]
    first, second = found.unpaired
    assert first == "a/seg.dcm: it is in another frame of reference than the images (a/scan/series7)"
    assert second.startswith("b/seg.dcm: its images are not here")


def write_label(file, transform=None, shape=(COLUMNS, ROWS, SLICES)):
    transform = np.array(affine()) if transform is None else transform
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), transform), file)


@pytest.mark.parametrize(
    "name", ["scan.nii.gz", "scan/label.nii.gz", "scan/my_seg.nii", "mask.nii.gz", "scan_seg.nii.gz"]
)
def test_a_label_in_nifti_lies_beside_its_series(tmp_path, name):
    write_patient(tmp_path / "dicom/p")
    (tmp_path / "dicom/p/seg.dcm").unlink()
    write_label(tmp_path / "dicom/p" / name)
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert [case.label for case in found.cases] == [tmp_path / "dicom/p" / name] and not found.unpaired


def test_a_label_in_nifti_that_does_not_fit_is_named(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / f"dicom/{number}", number)
        (tmp_path / f"dicom/{number}/seg.dcm").unlink()
    write_label(tmp_path / "dicom/1/label.nii.gz", shape=(16, 12, 9))
    write_label(tmp_path / "dicom/2/label.nii.gz", np.diag([-0.9, -0.7, 2.5, 1]))
    write_label(tmp_path / "dicom/2/scan/other.nii.gz")
    write_label(tmp_path / "dicom/2/scan/label.nii.gz")
    write_label(tmp_path / "dicom/2/scan/mask.nii.gz")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert not any(case.label for case in found.cases)
    reasons = dict(line.split(": ", 1) for line in found.unpaired)
    assert reasons["1/label.nii.gz"].startswith("shape 16 x 12 x 9, its image has 16 x 12 x 8")
    assert reasons["2/label.nii.gz"].startswith("affine differs")
    assert reasons["2/scan/other.nii.gz"].startswith("neither in the folder of a series with a name")
    assert reasons["2/scan/mask.nii.gz"] == reasons["2/scan/label.nii.gz"]
    assert "several labels ('label.nii.gz', 'mask.nii.gz')" in reasons["2/scan/mask.nii.gz"]


def test_one_label_in_nifti_of_two_series_is_of_neither(tmp_path):
    (tmp_path / "dicom").mkdir()
    for uid in ("1.2.1", "1.2.2"):
        write_series(tmp_path / "dicom" / uid, SeriesInstanceUID=uid, **HU)
    write_label(tmp_path / "dicom/label.nii.gz")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert found.unpaired == ("label.nii.gz: on the grid of 2 series; keep it in the folder of one of them",)


def test_labels_without_names_are_not_mixed_with_segments(tmp_path):
    write_patient(tmp_path / "dicom/1", 1)
    write_patient(tmp_path / "dicom/2", 2)
    (tmp_path / "dicom/2/seg.dcm").unlink()
    write_label(tmp_path / "dicom/2/label.nii.gz")
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert [bool(case.structures) for case in found.cases] == [True, False] and not any(c.label for c in found.cases)
    assert found.unpaired[0].startswith("2/label.nii.gz: a label in NIfTI, whose ids have no names")


def write_visits(folder, visits):
    """Write a series for each (folder, patient ID, study)."""
    for number, (name, patient, study) in enumerate(visits, start=1):
        tags = {"PatientID": patient, "StudyInstanceUID": study}
        write_plain(folder / name, f"1.2.3.{number}", **tags)


@pytest.mark.parametrize(
    ("visits", "patients", "note"),
    [
        ([("a/1", "P1", "1.1"), ("b", "P1", "1.2"), ("c", "P2", "1.3")], ["a_1", "a_1", "c"], ""),
        ([("a/1", "X", "1.1"), ("a/2", "X", "1.2"), ("c", "X", "1.3")], ["a_1", "a_1", "c"], "each folder"),
        ([("a", "X", "1.1"), ("b", "X", "1.1"), ("c", "X", "1.3")], ["a", "a", "c"], "each study"),
        ([("a", "X", "1.1"), ("b", "X", "1.1")], ["a", "a"], ""),
        ([("a/1", "", "1.1"), ("a/2", "", "1.2"), ("c", "", "1.3")], ["a_1", "a_1", "c"], ""),
    ],
)
def test_patients_are_those_of_their_ids_or_folders(tmp_path, visits, patients, note):
    write_visits(tmp_path / "dicom", visits)
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert [case.patient.removesuffix("_series3") for case in found.cases] == patients
    assert len(found.notes) == bool(note) and all(note in sentence for sentence in found.notes)


def test_a_series_that_cannot_be_read_is_left_out(tmp_path):
    files = write_plain(tmp_path / "dicom/a", "1.2.1", rle=True)
    damage(files[2])
    write_plain(tmp_path / "dicom/b", "1.2.2")
    write_plain(tmp_path / "dicom/scout", "1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert [case.name for case in found.cases] == ["b_series3"]
    assert "cannot be decoded" in found.unpaired[0] and found.unpaired[1] == "scout/series3: a localiser"


def test_folders_are_apart_and_others_files_are_not_touched(tmp_path):
    write_plain(tmp_path / "dicom/a", "1.2.1")
    for to in ("dicom", "dicom/to", "."):
        with pytest.raises(InputError, match="to: expected a folder apart from"):
            collect_dicom(tmp_path / "dicom", tmp_path / to)
    (tmp_path / "to/a_series3").mkdir(parents=True)
    (tmp_path / "to/a_series3/ct.nii.gz").write_text("mine")
    with pytest.raises(InputError, match="was not written by this command"):
        collect_dicom(tmp_path / "dicom", tmp_path / "to")
    assert (tmp_path / "to/a_series3/ct.nii.gz").read_text() == "mine"
    with pytest.raises(InputError, match="no folder at"):
        collect_dicom(tmp_path / "absent", tmp_path / "to")


def test_a_tree_without_a_series_of_the_modality_is_an_error(tmp_path):
    (tmp_path / "dicom").mkdir()
    with pytest.raises(InputError, match=r"Expected DICOM series of CT that are volumes in .*, found no DICOM\."):
        collect_dicom(tmp_path / "dicom", tmp_path / "to")
    write_plain(tmp_path / "dicom/a", "1.2.1", Modality="MR")
    with pytest.raises(InputError, match="found a/series3: modality MR, expected CT"):
        collect_dicom(tmp_path / "dicom", tmp_path / "to")
    (case,) = collect_dicom(tmp_path / "dicom", tmp_path / "to", "MRI").cases
    assert case.image.name == "mr.nii.gz"
