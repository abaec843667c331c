"""Layouts of folders of scans with labels, each by small folders of empty files."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import PROJECT

from swinunetr.data.collect.cases import FoundCollection
from swinunetr.data.collect.layouts import is_dicom_tree, recognise
from swinunetr.data.collect.layouts.patients import patients_of
from swinunetr.errors import InputError

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}
SPLEEN = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
AMOS = ["imagesTr/amos_0001", "labelsTr/amos_0001", "imagesVa/amos_0008", "labelsVa/amos_0008"]
BTCV_NAMES = {
    int(i): name for i, name in json.loads((PROJECT / "json_files/btcv_24.json").read_text())["labels"].items()
}


def make(root: Path, *names: str, **jsons: dict | str) -> Path:
    """Make empty files, which end in .nii.gz unless they have an ending, and ``dataset`` or ``meta`` with content."""
    for name in names:
        file = root / (name if "." in Path(name).name else f"{name}.nii.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for name, content in jsons.items():
        file = root / ("meta.csv" if name == "meta" else f"{name}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def rows(found: FoundCollection) -> list[tuple]:
    """Return name, image, label or structures, and part of each case."""
    return [
        (
            case.name,
            str(case.image.relative_to(found.root)),
            str(case.label.relative_to(found.root)) if case.label else sorted(case.structures) or None,
            case.part,
        )
        for case in found.cases
    ]


def listed(*numbers: int) -> list[dict]:
    return [{"image": f"./imagesTr/spleen_{i}.nii.gz", "label": f"./labelsTr/spleen_{i}.nii.gz"} for i in numbers]


# Each layout


@pytest.mark.parametrize("given", [".", "RawData", "RawData/Training"])
def test_btcv_as_downloaded(given, tmp_path):
    make(tmp_path, "RawData/Training/img/img0001", "RawData/Training/label/label0001", "RawData/Testing/img/img0061")
    found = recognise(tmp_path / given)
    above = {".": "RawData/Training/", "RawData": "Training/", "RawData/Training": ""}[given]
    part = "" if given == "RawData/Training" else "training"
    assert rows(found)[0] == ("img0001", f"{above}img/img0001.nii.gz", f"{above}label/label0001.nii.gz", part)
    if given != "RawData/Training":
        assert rows(found)[1][0::2] == ("img0061", None) and rows(found)[1][3] == "test"
    assert (found.layout, found.modality, found.unpaired) == ("BTCV", "CT", ())
    assert (
        found.names == BTCV_NAMES and "img0001.nii.gz' with" in found.ground and "ids are those of BTCV" in found.ground
    )


def test_btcv_in_folders_of_the_decathlon(tmp_path):
    found = recognise(make(tmp_path, "imagesTr/img0001", "labelsTr/label0001", "imagesTs/img0061"))
    assert found.layout == "BTCV" and found.names == BTCV_NAMES
    assert [row[0::3] for row in rows(found)] == [("img0001", "training"), ("img0061", "test")]


def test_nnunet_2(tmp_path):
    root = make(tmp_path, "imagesTr/a_0000", "labelsTr/a", "imagesTr/b_0000", "imagesTs/c_0000", dataset=NNUNET)
    found = recognise(root)
    assert rows(found) == [
        ("a", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "training"),
        ("c", "imagesTs/c_0000.nii.gz", None, "test"),
    ]
    assert (found.layout, found.modality, found.ignore) == ("nnU-Net 2 raw", "CT", None)
    assert found.names == {0: "background", 1: "liver", 2: "spleen"}
    assert found.unpaired == ("imagesTr/b_0000.nii.gz: an image without a label",)


def test_nnunet_2_ignores_a_class_and_lists_files(tmp_path):
    content = NNUNET | {
        "labels": {"background": 0, "liver": [1], "ignore": 2},
        "channel_names": {"0": "T2"},
        "dataset": {
            "a": {"images": ["x/a.nii.gz"], "label": "y/a.nii.gz"},
            "b": {"images": ["x/b.nii.gz"], "label": "y/b.nii.gz"},
        },
    }
    found = recognise(make(tmp_path, "x/a", "y/a", "x/b", dataset=content))
    assert rows(found) == [("a", "x/a.nii.gz", "y/a.nii.gz", "training")]
    assert (found.names, found.ignore, found.modality) == ({0: "background", 1: "liver"}, 2, "MR")
    assert "y/b.nii.gz: listed in 'dataset.json', but not there" in found.unpaired


def test_nnunet_2_says_that_cases_are_missing(tmp_path):
    found = recognise(make(tmp_path, "imagesTr/a_0000", "labelsTr/a", dataset=NNUNET | {"numTraining": 50}))
    assert found.notes == ("'dataset.json' gives numTraining as 50; 1 cases with a label are there.",)


def test_names_of_a_known_collection_in_nnunet_2_are_those_of_its_json(tmp_path):
    root = make(
        tmp_path, "imagesTr/amos_0507_0000", "labelsTr/amos_0507", dataset=NNUNET | {"channel_names": {"0": "MR"}}
    )
    assert (recognise(root).layout, recognise(root).modality) == ("nnU-Net 2 raw", "MR")


@pytest.mark.parametrize("given", ["", "Task09_Spleen"])
def test_decathlon(given, tmp_path):
    root = tmp_path / "Task09_Spleen"
    content = SPLEEN | {"training": listed(2, 10), "test": ["./imagesTs/spleen_1.nii.gz"]}
    make(
        root, "imagesTr/spleen_2", "labelsTr/spleen_2", "imagesTr/spleen_10", "labelsTr/spleen_10", "imagesTs/spleen_1"
    )
    make(root, "imagesTr/._spleen_2", "labelsTr/._spleen_2", dataset=content)
    found = recognise(tmp_path / given)
    assert [row[0::3] for row in rows(found)] == [
        ("spleen_1", "test"),
        ("spleen_10", "training"),
        ("spleen_2", "training"),
    ]
    assert (found.layout, found.names, found.modality) == ("Decathlon", {0: "background", 1: "spleen"}, "CT")
    assert found.unpaired == () and "dataset.json' lists" not in found.ground and "dataset.json'" in found.ground


def test_what_a_decathlon_lists_and_what_is_there_may_differ(tmp_path):
    content = SPLEEN | {"training": listed(1, 2, 3), "validation": listed(4)}
    make(tmp_path, *(f"{kind}Tr/{name}" for kind in ("images", "labels") for name in ("spleen_1", "Spleen_4")))
    make(tmp_path, "imagesTr/spleen_2", "imagesTr/x", "labelsTr/x", dataset=content)
    found = recognise(tmp_path)
    assert [row[0::3] for row in rows(found)] == [("Spleen_4", "validation"), ("spleen_1", "training")]
    missing = "listed in 'dataset.json', but not there"
    assert found.unpaired == (
        "imagesTr/spleen_2.nii.gz: not listed in 'dataset.json'",
        f"imagesTr/spleen_3.nii.gz: {missing}",
        "imagesTr/x.nii.gz: not listed in 'dataset.json'",
        f"labelsTr/spleen_2.nii.gz: {missing}",
        f"labelsTr/spleen_3.nii.gz: {missing}",
        "labelsTr/x.nii.gz: not listed in 'dataset.json'",
    )


def test_nnunet_1(tmp_path):
    root = make(tmp_path, "imagesTr/spleen_2_0000", "labelsTr/spleen_2", dataset=SPLEEN | {"training": listed(2)})
    found = recognise(root)
    assert rows(found) == [("spleen_2", "imagesTr/spleen_2_0000.nii.gz", "labelsTr/spleen_2.nii.gz", "training")]
    assert found.layout == "nnU-Net 1 raw" and "without the _0000" in found.ground


META = "\ufeffimage_id;age;split\ns0001;50;train\ns0002;;val\ns0003;7;test\ns0009;7;train\n"


@pytest.mark.parametrize(("image", "modality"), [("ct", "CT"), ("mri", "MR")])
def test_totalsegmentator(image, modality, tmp_path):
    for case in ("s0001", "s0002", "s0003"):
        make(tmp_path / "T", f"{case}/{image}", f"{case}/segmentations/liver", f"{case}/segmentations/kidney_left")
    make(tmp_path / "T", "s0004/segmentations/liver", "s0005/ct", meta=META)
    found = recognise(tmp_path)
    organs = ["kidney_left", "liver"]
    assert rows(found) == [
        ("s0001", f"T/s0001/{image}.nii.gz", organs, "training"),
        ("s0002", f"T/s0002/{image}.nii.gz", organs, "validation"),
        ("s0003", f"T/s0003/{image}.nii.gz", organs, "test"),
    ]
    assert (found.layout, found.modality, found.names) == ("TotalSegmentator", modality, {})
    assert found.cases[0].structures["liver"] == tmp_path / "T/s0001/segmentations/liver.nii.gz"
    assert found.unpaired == (
        "T/s0004/segmentations/liver.nii.gz: a label without an image",
        "T/s0005/ct.nii.gz: an image without a label",
    )
    assert found.notes == ("'T/meta.csv' lists 4 cases; 1 are not there, such as s0009.",)
    assert found.ground == f"'T/s0001/{image}.nii.gz' beside 'T/s0001/segmentations/'"


def test_abdomenatlas(tmp_path):
    case = "BDMAP_00000001"
    make(
        tmp_path,
        f"{case}/ct",
        f"{case}/combined_labels",
        f"{case}/segmentations/postcava",
        f"{case}/segmentations/liver",
    )
    found = recognise(tmp_path)
    assert rows(found) == [(case, f"{case}/ct.nii.gz", ["liver", "postcava"], "")]
    assert found.layout == "AbdomenAtlas" and "combined_labels.nii.gz: not used" in found.unpaired[0]


def test_one_file_per_structure_in_folders_of_other_names(tmp_path):
    make(tmp_path, "site/p1/scan", "site/p1/masks/liver", "site/p2/scan", "site/p2/masks/liver")
    found = recognise(tmp_path)
    assert rows(found) == [("p1", "site/p1/scan.nii.gz", ["liver"], ""), ("p2", "site/p2/scan.nii.gz", ["liver"], "")]
    assert found.layout == "one file per structure"


def test_amos_with_its_json_and_without(tmp_path):
    """Whose JSON says CT, lists validation images without labels, and spells the aorta in its own way."""
    make(tmp_path, *AMOS, "imagesTs/amos_0003", "imagesTr/amos_0507", "labelsTr/amos_0507")
    expected = [
        ("amos_0001", "imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz", "training"),
        ("amos_0003", "imagesTs/amos_0003.nii.gz", None, "test"),
        ("amos_0008", "imagesVa/amos_0008.nii.gz", "labelsVa/amos_0008.nii.gz", "validation"),
    ]
    found = recognise(tmp_path)
    assert rows(found) == expected
    assert (found.layout, found.modality, found.names[15]) == ("AMOS22", "CT", "prostate or uterus")
    assert found.notes == ("The cases are of several modalities: those of CT are taken, and 1 of MR left out.",)
    assert found.unpaired == ()
    assert [row[0] for row in rows(recognise(tmp_path, "mr"))] == ["amos_0507"]
    content = SPLEEN | {
        "training": [
            {"image": f"./imagesTr/amos_{i}.nii.gz", "label": f"./labelsTr/amos_{i}.nii.gz"} for i in ("0001", "0507")
        ],
        "validation": [{"image": "./imagesVa/amos_0008.nii.gz"}],
        "test": [{"image": "./imagesTs/amos_0003.nii.gz"}],
        "labels": {"0": "background", "8": "arota"},
    }
    with_json = recognise(make(tmp_path, dataset=content))
    assert rows(with_json) == expected and with_json.names == {0: "background", 8: "arota"}
    assert (with_json.layout, with_json.modality, with_json.notes) == ("AMOS22", "CT", found.notes)


def test_flare22(tmp_path):
    make(tmp_path, "Training/images/FLARE22_Tr_0001_0000", "Training/labels/FLARE22_Tr_0001")
    make(tmp_path, "Validation/FLARETs_0001_0000", "Training/unlabelled/Case_00001_0000")
    found = recognise(tmp_path)
    assert [row[0] for row in rows(found)] == ["FLARE22_Tr_0001"]
    assert (found.layout, found.names[13]) == ("FLARE22", "left kidney")
    assert len(found.unpaired) == 2


def test_word(tmp_path):
    make(tmp_path / "W", "imagesTr/word_0002", "labelsTr/word_0002", "imagesVal/word_0001", "labelsVal/word_0001")
    found = recognise(make(tmp_path / "W", "imagesTs/word_0003"))
    assert [row[0::3] for row in rows(found)] == [
        ("word_0001", "validation"),
        ("word_0002", "training"),
        ("word_0003", "test"),
    ]
    assert (found.layout, found.names[16]) == ("WORD", "right head of femur")


def test_kits23(tmp_path):
    make(tmp_path, "dataset/case_00000/imaging", "dataset/case_00000/segmentation", "dataset/case_00001/segmentation")
    make(tmp_path, "dataset/case_00000/instances/kidney_instance-1_annotation-1")
    found = recognise(tmp_path)
    here = "dataset/case_00000"
    assert rows(found) == [("case_00000", f"{here}/imaging.nii.gz", f"{here}/segmentation.nii.gz", "")]
    assert (found.layout, found.names) == ("KiTS23", {0: "background", 1: "kidney", 2: "tumour", 3: "cyst"})
    assert found.unpaired[1] == "dataset/case_00001/segmentation.nii.gz: a label without an image"


# Pairs of other names


@pytest.mark.parametrize(
    ("image", "label", "name"),
    [
        ("images/x", "labels/x", "x"),
        ("Image/X", "label/x", "X"),
        ("imagesTr/x", "labelsTr/x", "x"),
        ("images/train/x", "labels/train/x", "x"),
        ("train/images/x", "train/masks/x", "x"),
        ("images/x_0000", "labels/x", "x"),
        ("images/x", "labels/x_seg", "x"),
        ("x", "labels/x_seg", "x"),
        *[("x", f"x{end}", "x") for end in ("_seg", "_label", "_labels", "_mask", "-seg", "_segmentation", "_SEG")],
        ("x.nii", "x_seg.nii.gz", "x"),
        ("IMG0101", "label0101.nii", "IMG0101"),
        ("volume-0.nii", "segmentation-0.nii", "volume-0"),
        ("scan_7", "mask_7", "scan_7"),
        ("p1/image", "p1/label", "p1"),
        ("p1/ct", "p1/seg", "p1"),
        ("p1/p1_ct", "p1/p1_seg", "p1_ct"),
        ("p1/anything", "p1/mask", "anything"),
        ("p1/ct", "p1/labels/label", "p1"),
        ("p1/x", "p1/labels/x", "x"),
        ("segmentation/images/x", "segmentation/labels/x", "x"),
        ("images/ct/x", "labels/ct/x", "x"),
        ("raw/x", "manual_masks/x", "x"),
        ("ct_train_1001_image", "ct_train_1001_label", "ct_train_1001_image"),
        ("p1/ct_image", "p1/ct_label", "p1"),
        ("Patient_01/Patient_01", "Patient_01/GT", "Patient_01"),
    ],
)
def test_a_pair(image, label, name, tmp_path):
    found = recognise(make(tmp_path, image, label))
    files = [file if "." in Path(file).name else f"{file}.nii.gz" for file in (image, label)]
    assert [row[:3] for row in rows(found)] == [(name, *files)]
    assert (found.layout, found.names, found.modality, found.unpaired) == ("pairs of image and label", {}, "", ())


def test_parts_and_what_has_no_partner(tmp_path):
    make(tmp_path, "train/images/a", "train/labels/a", "val/images/b", "val/labels/b", "test/images/c")
    make(tmp_path, "train/images/d", "val/labels/e", "train/images/f.mha", "train/._g", "notes.txt")
    found = recognise(tmp_path)
    assert [row[0::3] for row in rows(found)] == [("a", "training"), ("b", "validation"), ("c", "test")]
    assert found.unpaired == (
        "train/images/f.mha: another format; convert it to .nii.gz",
        "train/images/d.nii.gz: an image without a label",
        "val/labels/e.nii.gz: a label without an image",
    )


def test_files_that_are_not_unpacked_or_not_complete_are_told(tmp_path):
    make(tmp_path, "labelsTr/a", "imagesTr.zip", "b.nii.gz.part")
    refused(tmp_path, r"images: none; .* Not read: imagesTr.zip: an archive; unpack it")
    found = recognise(make(tmp_path, "imagesTr/a"))
    assert [line.split(": ")[0] for line in found.unpaired] == ["imagesTr.zip", "b.nii.gz.part"]


def test_an_exact_name_counts_before_a_similar_one(tmp_path):
    make(tmp_path, "images/a", "images/A", "labels/a", "labels/A", "images/b", "images/b_0000", "labels/b")
    found = recognise(tmp_path)
    labels = {case.image.name: case.label.name for case in found.cases}
    assert labels == {"a.nii.gz": "a.nii.gz", "A.nii.gz": "A.nii.gz", "b.nii.gz": "b.nii.gz"}
    assert len({case.name.lower() for case in found.cases}) == 3
    assert found.unpaired == ("images/b_0000.nii.gz: an image without a label",)


def test_two_candidates_are_no_pair(tmp_path):
    make(tmp_path, "images/a", "images/A", "labels/Á", "labels/a.nii", "labels/a.nii.gz", "images/b", "labels/b")
    found = recognise(tmp_path)
    assert [case.name for case in found.cases] == ["b"]
    assert found.unpaired[1] == "images/a.nii.gz: expected one image and one label of this name, found 2 and 2"


def test_names_are_distinct_and_those_of_files(tmp_path):
    make(tmp_path, *(f"{patient}/scan{i}/{kind}" for patient in "ab" for i in (1, 2) for kind in ("image", "label")))
    found = recognise(tmp_path)
    assert [case.name for case in found.cases] == ["a_scan1_image", "a_scan2_image", "b_scan1_image", "b_scan2_image"]


def test_the_order_on_disk_does_not_matter(tmp_path):
    names = [f"{kind}/p{i}" for kind in ("images", "labels") for i in (3, 1, 2)]
    first, second = make(tmp_path / "1", *names), make(tmp_path / "2", *reversed(names))
    assert rows(recognise(first)) == rows(recognise(second))


@pytest.mark.parametrize(
    ("paths", "patients"),
    [
        (["patient01_ct1", "patient01_scan2", "patient02_ct1"], ["patient01", "patient01", "patient02"]),
        (["sub-01/ses-1/x", "sub-01/ses-2/x", "sub-02/ses-1/x"], ["sub-01", "sub-01", "sub-02"]),
        (["TCGA-B9-A44B_ct1", "TCGA-B9-A44B-2", "TCGA-B9-A44C"], ["TCGA-B9-A44B", "TCGA-B9-A44B", "TCGA-B9-A44C"]),
        (["a17_ct1", "a17_ct2", "a18_visit1"], ["a17", "a17", "a18"]),
        (["patient1/ct", "patient10/ct", "patient1/mr"], ["patient1", "patient10", "patient1"]),
        (["volume-0", "volume-1"], None),
        (["img0001", "img0002"], None),
        (["liver_1", "liver_10"], None),
        (["study2020_ct_1", "study2020_ct_2"], None),  # all of one patient: a word of another meaning
        (["case_00000", "case_00001"], None),
        (["amos_0001", "s0011", "BDMAP_00000001", "word_0002", "FLARE22_Tr_0001"], None),
    ],
)
def test_patients(paths, patients):
    expected = dict(zip(paths, patients or paths, strict=True))
    assert patients_of({path: path for path in paths}) == expected


def test_patients_of_cases(tmp_path):
    make(tmp_path, *(f"{kind}/patient{i}_ct{j}" for kind in ("images", "labels") for i, j in ((1, 1), (1, 2), (2, 1))))
    assert [case.patient for case in recognise(tmp_path).cases] == ["patient1", "patient1", "patient2"]


# Faults


def test_nothing_is_changed(tmp_path):
    make(tmp_path, *AMOS)
    before = sorted(tmp_path.rglob("*"))
    recognise(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def refused(root: Path, message: str, **options: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        recognise(root, **options)
    assert str(root) in str(caught.value) and len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty. Was the download complete"),
        (["._a", ".b/c", "__MACOSX/d"], "is empty"),
        (["readme.txt"], "holds no such file, only readme.txt"),
        (["Task09_Spleen.tar"], "archives, such as 'Task09_Spleen.tar'. Unpack them first"),
        (["a.nrrd", "a_seg.nrrd"], "other formats, such as 'a.nrrd'. Convert them first"),
        (["p1/1.dcm", "p1/2.dcm"], "holds DICOM, such as 'p1/1.dcm'"),
        (["images/a", "images/b"], "no pair of them .images: 2, such as 'images/a.nii.gz'; labels: none"),
        (["labels/a"], "images: none; labels: 1, such as 'labels/a.nii.gz'"),
        (["images/a", "labels/b"], "images: 1, such as .*; labels: 1, such as "),
        (
            ["images/a.nii", "images/a.nii.gz", "labels/a"],
            "'images/a.nii': expected one image and one label of this name, found 2 and 1",
        ),
        (
            [*AMOS, "case_00000/imaging", "case_00000/segmentation"],
            "found 2: AMOS22 .*; KiTS23 .* give their folders one",
        ),
        (
            ["x/images/amos_0001", "x/labels/amos_0001", "y/a", "y/a_seg"],
            "AMOS22 .*; pairs .* collect /.*/x /.*/y LIST.json",
        ),
        (
            ["ct/s0001/ct", "ct/s0001/segmentations/liver", "mr/s0001/mri", "mr/s0001/segmentations/liver"],
            "found 2: Total",
        ),
        (["images/a_0000", "images/a_0001", "labels/a"], "'images/a_0001.nii.gz', channels of one case"),
        (
            ["s0001/ct", "s0001/segmentations/liver", "s0001/segmentations/Liver"],
            "one file of this name, found .*Liver",
        ),
        (["s0001/ct", "s0001/segmentations/liver", "s0001/segmentations/liver.nii"], "found .*liver.nii'"),
    ],
)
def test_a_faulty_folder(names, message, tmp_path):
    refused(make(tmp_path, *names), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NNUNET | {"channel_names": {"0": "T1", "1": "FLAIR"}}, "images of one channel, found 2: T1, FLAIR"),
        (NNUNET | {"labels": {"background": 0, "kidney": [1, 2]}}, "region 'kidney' with the ids 1, 2. Write"),
        (NNUNET | {"file_ending": ".mha"}, "found \"file_ending\": '.mha'"),
        (NNUNET | {"labels": {"background": 0, "liver": "a"}}, "whole number .* found 'a' for 'liver'"),
        (NNUNET | {"labels": {"background": 0, "liver": 1, "spleen": 1}}, "whole number of its own"),
        (NNUNET | {"labels": {"background": 0, "liver": 1, "Liver": 2}}, "expected a different name for each id"),
        (NNUNET | {"dataset": {"a": 1}}, 'expected "dataset" as'),
        ("{", "'.*dataset.json' is not valid JSON"),
        (SPLEEN | {"training": listed(1), "modality": {"0": "FLAIR", "1": "T1w"}}, "found 2: FLAIR, T1w"),
        (
            SPLEEN | {"training": [1]},
            'expected an "image" and a "label" of its own in each case of "training", found 1',
        ),
        (
            SPLEEN | {"training": listed(1), "validation": listed(1)},
            "expected each image once, found 'imagesTr/spleen_1",
        ),
        (
            SPLEEN
            | {
                "training": [{"image": f"imagesTr/{name}.nii.gz", "label": "labelsTr/spleen_1.nii.gz"} for name in "ab"]
            },
            "Expected one image per label; 'imagesTr/a.nii.gz' and 'imagesTr/b.nii.gz' both have 'labelsTr/spleen_1",
        ),
        (SPLEEN | {"training": listed(1), "label_maps": {}}, "has label_maps: it is a list for training"),
        (SPLEEN | {"training": [{"image": "a.nii", "label": "a.nii"}]}, 'a "label" of its own in each case'),
        (SPLEEN | {"training": listed(1), "modality": "PET/CT"}, "names two modalities"),
    ],
)
def test_a_faulty_dataset_json(content, message, tmp_path):
    make(tmp_path, "imagesTr/spleen_1", "labelsTr/spleen_1", "imagesTr/a", "imagesTr/b", dataset=content)
    refused(tmp_path, message)


def test_a_dataset_json_whose_files_are_all_missing(tmp_path):
    make(tmp_path, "imagesTs/spleen_9", dataset=SPLEEN | {"training": listed(1, 2)})
    refused(tmp_path, "of the files that 'dataset.json' names, none is a pair")


def test_two_data_sets_of_one_layout(tmp_path):
    for name in ("Task03", "Task09"):
        make(tmp_path / name, "imagesTr/spleen_1", "labelsTr/spleen_1", dataset=SPLEEN | {"training": listed(1)})
    refused(tmp_path, "found 2: Decathlon .*Task03/dataset.json.*; Decathlon .*collect /.*/Task03 /.*/Task09 LIST.json")


def test_an_unknown_part_in_meta_csv(tmp_path):
    make(tmp_path, "s0001/ct", "s0001/segmentations/liver", meta="image_id;split\ns0001;tune\n")
    refused(tmp_path, "'meta.csv': expected train, val or test as split, found 'tune'")


def test_a_modality_that_the_folder_lacks(tmp_path):
    refused(make(tmp_path, *AMOS), "modality: expected one of the folder's, CT; found MR", modality="MR")


@pytest.mark.parametrize("path", [".", "../{name}", "{root}/"])
def test_the_folder_may_be_given_in_any_form(path, tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "images/a", "labels/a"))
    found = recognise(path.format(name=tmp_path.name, root=tmp_path))
    assert rows(found) == [("a", "images/a.nii.gz", "labels/a.nii.gz", "")] and found.cases[0].image.is_file()


def test_paths_in_a_json_may_be_absolute(tmp_path):
    entry = {"image": f"{tmp_path}/x/a.nii.gz", "label": f"{tmp_path}/x/b.nii.gz"}
    make(tmp_path, "x/a", "x/b", dataset=SPLEEN | {"training": [entry]})
    assert rows(recognise(tmp_path)) == [("a", "x/a.nii.gz", "x/b.nii.gz", "training")]


def test_no_folder_and_a_file(tmp_path):
    refused(tmp_path / "none", "is not there. The folder .* holds nothing")
    refused(make(tmp_path, "a.zip") / "a.zip", "is a file; if it is an archive, unpack it")


def test_a_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    make(tmp_path, *AMOS)
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("labelsVa"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    refused(tmp_path, r"labelsVa': the folder cannot be opened \(Permission denied\); ask for access")


def test_links(tmp_path):
    store = make(tmp_path / "store", "a", "a_seg", "b_seg")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("a", "a_seg", "b", "b_seg"):
        (linked / f"{name}.nii.gz").symlink_to(store / f"{name}.nii.gz")
    (linked / "again").symlink_to(linked)
    found = recognise(linked)
    assert rows(found) == [("a", "a.nii.gz", "a_seg.nii.gz", "")]
    assert found.unpaired == ("b.nii.gz: a link to a missing file", "b_seg.nii.gz: a label without an image")
    for file in store.iterdir():
        file.unlink()
    refused(linked, "4 links to missing files, such as 'a.nii.gz'. Fetch the files")


def test_results_and_a_folder_of_joined_labels_are_left_out(tmp_path):
    make(tmp_path, "images/a", "labels/a", "joined/images/b", "joined/labels/b", "out/a_seg", "out/made_by.json")
    found = recognise(tmp_path, without=tmp_path / "joined")
    assert [case.name for case in found.cases] == ["a"] and "made_by.json" in found.notes[0]


def test_dicom_is_known_by_its_first_bytes(tmp_path):
    make(tmp_path, "p1/readme.txt")
    assert not is_dicom_tree(tmp_path) and not is_dicom_tree(tmp_path / "none")
    (tmp_path / "p1/IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert is_dicom_tree(tmp_path)
    refused(tmp_path, "holds DICOM, such as 'p1/IM0001'")


def test_many_files_of_one_folder_are_told_in_one_line(tmp_path):
    make(tmp_path, "images/a", "labels/a", *(f"images/{i}" for i in range(30)))
    assert re.fullmatch(
        r"images: 30 files, such as '0.nii.gz': an image without a label", recognise(tmp_path).unpaired[0]
    )


def test_names_of_btcv_that_are_used_for_other_data(tmp_path):
    """Of which img0041 is none, so that the ids need not be those of BTCV."""
    make(tmp_path, "imagesTr/img0040", "labelsTr/label0040", "imagesTr/img0041", "labelsTr/label0041")
    assert (recognise(tmp_path).layout, recognise(tmp_path).names) == ("pairs of image and label", {})


def test_names_of_kits_in_other_folders(tmp_path):
    make(tmp_path, "p1/imaging", "p1/segmentation")
    assert (recognise(tmp_path).layout, recognise(tmp_path).names) == ("pairs of image and label", {})


@pytest.mark.parametrize("labels", [{"0": "none", "1": "liver"}, {"none": 0, "liver": 1}])
def test_the_id_0_is_the_background_whatever_its_name(labels, tmp_path):
    """Else all that is no organ would be learned as one."""
    found = recognise(make(tmp_path, "imagesTr/a_0000", "labelsTr/a", dataset=NNUNET | {"labels": labels}))
    assert found.names == {0: "background", 1: "liver"}
    assert found.notes == ("'dataset.json': the id 0, 'none', is taken for the background.",)


def test_a_dataset_json_without_lists_names_the_ids(tmp_path):
    make(tmp_path, "imagesTr/word_0002", "labelsTr/word_0002", dataset={"labels": {"0": "background", "1": "organ"}})
    found = recognise(tmp_path)
    assert (found.layout, found.names) == ("WORD", {0: "background", 1: "organ"})
    assert found.ground.endswith("the ids are those of 'dataset.json'")
