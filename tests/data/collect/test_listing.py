"""Lists of found collections: ids become the classes of a table written out, and what is read again trains."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PROJECT
from nifti_files import ct, write

from swinunetr.data.checks import check_dataset
from swinunetr.data.collect.cases import FoundCase, FoundCollection
from swinunetr.data.collect.listing import make_list
from swinunetr.data.label_maps import to_classes
from swinunetr.data.lists import read_datalist, read_dataset
from swinunetr.errors import DatasetError, InputError

BTCV = read_datalist(PROJECT / "json_files/btcv_24.json")[1]
SHAPE = (16, 16, 16)
AMOS = "background|spleen|right kidney|left kidney|gall bladder|esophagus|liver|stomach|arota|postcava|pancreas"
AMOS += "|right adrenal gland|left adrenal gland|duodenum|bladder|prostate/uterus"
MSD = {0: "background", 1: "liver", 2: "cancer"}


def blocks(ids) -> np.ndarray:
    """Return a label map with a block of eight voxels of each id."""
    voxels = np.zeros(SHAPE, np.uint8)
    for number, i in enumerate(ids):
        x, y, z = np.unravel_index(number, (7, 7, 7))
        voxels[2 * x + 1 : 2 * x + 3, 2 * y + 1 : 2 * y + 3, 2 * z + 1 : 2 * z + 3] = i
    return voxels


def labelled(folder: Path, layout: str, count: int, ids, names=None, patient="{}", **more) -> FoundCollection:
    """Return a collection of label files, each with a block of every id."""
    folder.mkdir()
    cases = []
    for n in range(count):
        image, label = folder / f"{layout.lower()}_{n}.nii.gz", folder / f"{layout.lower()}_{n}_seg.nii.gz"
        write(str(image), ct(seed=n + hash_of(layout)))
        write(str(label), blocks(ids))
        cases.append(FoundCase(f"case{n}", patient.format(n), image, label))
    return FoundCollection(layout, "its names", folder, "CT", tuple(cases), names or {}, **more)


def hash_of(text: str) -> int:
    return sum(map(ord, text)) * 100


def structured(folder: Path, count: int, structures) -> FoundCollection:
    """Return a collection of files per structure, each of a block of its own."""
    cases, voxels = [], blocks(range(1, len(structures) + 1))
    for n in range(count):
        below = folder / f"s{n:04d}"
        (below / "segmentations").mkdir(parents=True)
        write(str(below / "ct.nii.gz"), ct(seed=n))
        files = {name: below / "segmentations" / f"{name}.nii.gz" for name in structures}
        for number, file in enumerate(files.values(), start=1):
            write(str(file), (voxels == number).astype(np.uint8))
        cases.append(FoundCase(below.name, below.name, below / "ct.nii.gz", structures=files))
    return FoundCollection("TotalSegmentator", "its folders", folder, "CT", tuple(cases))


def read(content: dict, root: Path, **folds):
    """Return a data set as it is read from a file with the content of a list."""
    path = root / "list.json"
    path.write_text(json.dumps(content))
    return read_dataset(path, root, **folds)


def classes_in(case: dict) -> np.ndarray:
    return to_classes(np.asarray(nib.load(case["label"]).dataobj), case.get("label_map"))


def test_ids_become_the_classes_of_a_table_written_out(tmp_path):
    amos = labelled(tmp_path / "amos", "AMOS22", 3, range(1, 16), dict(enumerate(AMOS.split("|"))))
    btcv = labelled(tmp_path / "btcv", "BTCV", 3, range(1, 14), dict(enumerate(BTCV)))
    content, report = make_list([amos, btcv], BTCV)
    assert tuple(content["labels"].values()) == BTCV
    # AMOS22 lacks the portal and splenic veins, which lie in its background.
    expected = (
        "ignore|spleen|right kidney|left kidney|gallbladder|esophagus|liver|stomach|aorta|inferior vena cava|pancreas"
    )
    expected += "|right adrenal gland|left adrenal gland|ignore|ignore|ignore"
    assert content["label_maps"] == {"amos22": {str(i): name for i, name in enumerate(expected.split("|"))}}
    dataset = read(content, tmp_path)
    assert [case["label_map"].name for case in dataset.training if "label_map" in case] == ["amos22"] * 3
    (other,) = {classes_in(case).tobytes() for case in dataset.training if "label_map" in case}
    wanted = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9, 10: 11, 11: 12, 12: 13}
    table = np.array([wanted.get(i, 255) for i in range(16)], np.uint8)
    assert other == table[blocks(range(1, 16))].tobytes()
    assert "portal and splenic veins" in str(report) and "AMOS22" in str(report)
    assert [len(dataset.training), len(dataset.validation)] == [5, 1]  # BTCV's cases label all classes
    check_dataset(dataset, (2, 2, 2), workers=1)


def test_a_list_of_one_collection_has_its_own_names(tmp_path):
    content, report = make_list([labelled(tmp_path / "a", "Decathlon", 3, (1, 2), MSD)])
    assert content["labels"] == {"0": "background", "1": "liver", "2": "cancer"} and "label_maps" not in content
    assert content["training"][0] == {"image": "decathlon_0.nii.gz", "label": "decathlon_0_seg.nii.gz"}
    assert "warning" not in str(report)
    check_dataset(read(content, tmp_path / "a"), (2, 2, 2), workers=1)


def test_classes_that_no_collection_labels_are_dropped_and_findings_in_an_organ_are_ignored(tmp_path):
    content, report = make_list([labelled(tmp_path / "a", "Decathlon", 3, (1, 2), MSD)], BTCV)
    assert content["labels"] == {"0": "background", "1": "liver"}
    assert content["label_maps"] == {"decathlon": {"0": "background", "1": "liver", "2": "ignore"}}
    assert "No collection labels spleen" in str(report) and "no class of the list, ignored: cancer." in str(report)
    assert [set(np.unique(classes_in(case))) for case in read(content, tmp_path / "a").training] == [{0, 1, 255}] * 2


def test_an_id_that_the_collection_ignores_is_ignored(tmp_path):
    content, _ = make_list([labelled(tmp_path / "a", "nnU-Net", 3, (1, 2), {0: "background", 1: "liver"}, ignore=2)])
    assert content["labels"] == {"0": "background", "1": "liver"}
    assert content["label_maps"] == {"nnu_net": {"0": "background", "1": "liver", "2": "ignore"}}


def test_structures_are_joined_with_the_ids_of_the_list(tmp_path):
    names = ["kidney_right", "kidney_cyst_left", "portal_vein_and_splenic_vein", "kidney_left", "heart", "spleen"]
    found = structured(tmp_path / "total", 3, names)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "total").rglob("*")}
    content, report = make_list([found], BTCV, tmp_path / "joined")
    assert list(content["labels"].values()) == [
        "background",
        "spleen",
        "right kidney",
        "left kidney",
        "portal and splenic veins",
    ]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "total").rglob("*")} == before
    dataset = read(content, tmp_path / "total")
    expected = np.array([0, 2, 255, 4, 3, 0, 1], np.uint8)[blocks(range(1, 7))]
    for case in dataset.training + dataset.validation:
        assert np.array_equal(classes_in(case), expected)
    assert "ignored: kidney_cyst_left." in str(report) and "background: heart." in str(report)
    check_dataset(dataset, (2, 2, 2), workers=1)
    assert make_list([found], BTCV, tmp_path / "joined")[0] == content


def test_a_case_in_which_no_class_is_in_view_is_left_out_and_named(tmp_path):
    found = structured(tmp_path / "total", 4, ["liver", "spleen", "heart"])
    for name in ("liver", "spleen"):
        write(str(found.cases[1].structures[name]), np.zeros(SHAPE, np.uint8))
    write(str(found.cases[2].structures["spleen"]), np.zeros(SHAPE, np.uint8))
    content, report = make_list([found], BTCV, tmp_path / "joined")
    listed = [entry["image"] for part in ("training", "validation") for entry in content[part]]
    assert sorted(listed) == ["s0000/ct.nii.gz", "s0002/ct.nii.gz", "s0003/ct.nii.gz"]
    assert "s0001/ct.nii.gz: none of the classes has a voxel in it" in str(report)
    assert [row[1:3] for table in report.tables() for row in table.rows if row[1] in ("spleen", "liver")] == [
        ("spleen", 2),
        ("liver", 3),
    ]
    for case in found.cases:
        write(str(case.structures["liver"]), np.zeros(SHAPE, np.uint8))
        write(str(case.structures["spleen"]), np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match="expected voxels of the classes in some cases, found none in 4"):
        make_list([found], BTCV, tmp_path / "joined")


def test_a_case_that_lacks_a_structure_ignores_its_background(tmp_path):
    found = structured(tmp_path / "total", 4, ["liver", "spleen"])
    del found.cases[1].structures["liver"]
    content, report = make_list([found], labels=tmp_path / "joined", validation=0.2)
    assert content["label_maps"] == {"totalsegmentator_partial": {"0": "ignore", "1": "liver", "2": "spleen"}}
    entries = {entry["image"]: entry.get("label_map") for entry in content["training"] + content["validation"]}
    assert [entries[f"s000{n}/ct.nii.gz"] for n in range(4)] == [None, "totalsegmentator_partial", None, None]
    assert "background of 1 cases ignored, as files of structures are missing" in str(report)
    check_dataset(read(content, tmp_path / "total"), (2, 2, 2), workers=1)


def test_collections_of_three_layouts_share_classes_by_name(tmp_path):
    collections = [
        labelled(tmp_path / "msd", "Decathlon", 3, (1,), {0: "background", 1: "Spleen"}),
        structured(tmp_path / "total", 3, ["liver", "spleen"]),
        labelled(tmp_path / "plain", "plain pairs", 4, (7, 45), patient="p{}"),
    ]
    content, report = make_list(collections, labels=tmp_path / "joined", names={"7": "liver", "45": "spleen"})
    assert content["labels"] == {"0": "background", "1": "Spleen", "2": "liver"}
    assert content["label_maps"] == {
        "decathlon": {"0": "ignore", "1": "Spleen"},
        "plain_pairs": {"0": "background", "7": "liver", "45": "Spleen"},
    }
    assert content["training"][0]["image"] == "msd/decathlon_0.nii.gz"
    dataset = read(content, tmp_path)
    assert [len(dataset.training), len(dataset.validation)] == [9, 1]
    check_dataset(dataset, (2, 2, 2), workers=1)
    for case in dataset.training + dataset.validation:
        assert set(np.unique(classes_in(case))) <= {0, 1, 2, 255}


def test_ids_without_names_are_read_from_the_files(tmp_path):
    content, _ = make_list([labelled(tmp_path / "a", "plain pairs", 2, (1, 4))])
    assert content["labels"] == {"0": "background", "1": "label 1", "2": "label 4"}
    assert content["label_maps"] == {"plain_pairs": {"0": "background", "1": "label 1", "4": "label 4"}}
    content, _ = make_list([labelled(tmp_path / "b", "plain pairs", 2, (1, 4))], names={"1": "liver", "4": "liver"})
    assert content["label_maps"] == {"plain_pairs": {"0": "background", "1": "liver", "4": "liver"}}


def test_patients_with_several_scans_are_named_and_stay_together(tmp_path):
    found = labelled(tmp_path / "a", "plain pairs", 6, (1,))
    cases = [FoundCase(c.name, f"p{n // 2}", c.image, c.label) for n, c in enumerate(found.cases)]
    found = FoundCollection("plain pairs", "pairs", found.root, "CT", tuple(cases))
    content, _ = make_list([found], folds=3)
    assert [entry["patient"] for entry in content["training"]] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert content["validation"] == []
    for fold in range(3):
        dataset = read(content, tmp_path / "a", fold=fold, folds=3)
        assert len({case["patient"] for case in dataset.validation}) == 1 and len(dataset.validation) == 2


def test_images_without_labels_are_listed_or_named(tmp_path):
    found = labelled(
        tmp_path / "a", "Decathlon", 3, (1,), {0: "background", 1: "liver"}, unpaired=("x.nrrd: other format",)
    )
    more = [
        FoundCase("t", "t", tmp_path / "a/decathlon_0.nii.gz", part="test"),
        FoundCase("u", "u", tmp_path / "a/unlabelled.nii.gz"),
    ]
    found = FoundCollection(
        "Decathlon", "g", found.root, "CT", (*found.cases, *more), found.names, None, found.unpaired
    )
    content, report = make_list([found])
    assert content["test"] == [{"image": "decathlon_0.nii.gz"}]
    assert "In no list, 2 files" in str(report) and "x.nrrd: other format" in str(report)
    assert "unlabelled.nii.gz: it has no label" in str(report)


def changed(found: FoundCollection, **changes) -> FoundCollection:
    return FoundCollection(**{**vars(found), **changes})


def test_what_does_not_fit_together_is_an_error(tmp_path):
    liver = {0: "background", 1: "liver"}
    ct_scans = labelled(tmp_path / "a", "Decathlon", 2, (1,), liver)
    mr_scans = changed(labelled(tmp_path / "b", "AMOS22", 2, (1,), liver), modality="MRI")
    kits = labelled(tmp_path / "c", "KiTS23", 2, (1, 2), {0: "background", 1: "kidney", 2: "tumour"})
    plain = labelled(tmp_path / "d", "plain pairs", 2, (1,))
    for collections, options, message in (
        ([ct_scans, mr_scans], {}, "modality: expected one for all scans, found CT of '.*a', MRI of '.*b'"),
        ([mr_scans], {"modality": "CT"}, "modality: expected one"),
        (
            [kits],
            {"classes": BTCV},
            "labels no class of the list .*but kidney, tumour. 'kidney' is not one of right kidney, left kidney",
        ),
        (
            [plain],
            {"classes": BTCV},
            "expected a class of the list for each of the labels 1 in '.*d'.*--names '1=CLASS'",
        ),
        (
            [plain],
            {"names": {"3": "liver"}},
            "names: expected labels of the collections, found '3'. The labels are 0, 1",
        ),
        (
            [kits],
            {"names": {"tumor": "x"}},
            "names: expected labels .*found 'tumor'. The labels are background, kidney, tumour",
        ),
        (
            [kits],
            {"classes": BTCV, "names": {"kidney": "lung"}},
            "expected a class of the list for each of the labels 1",
        ),
        ([changed(ct_scans, names=liver | {2: "Liver"})], {}, "several labels for 'liver': '1', '2'"),
        ([ct_scans, ct_scans], {}, "found '.*a' twice"),
        ([changed(ct_scans, cases=ct_scans.cases[:1])], {}, "at least 2 patients, found 1"),
    ):
        with pytest.raises(InputError, match=message):
            make_list(collections, **options)


def test_names_join_labels_of_one_organ(tmp_path):
    kits = labelled(tmp_path / "c", "KiTS23", 2, (1, 2), {0: "background", 1: "kidney", 2: "tumour"})
    content, _ = make_list([kits], names={"Tumour": "kidney"})
    assert content["label_maps"] == {"kits23": {"0": "background", "1": "kidney", "2": "kidney"}}


def test_two_structures_of_one_name_are_an_error_that_names_the_case(tmp_path):
    found = structured(tmp_path / "total", 2, ["kidney_right", "Right Kidney", "liver"])
    with pytest.raises(InputError, match="case 's0000' of .* several labels for 'Right Kidney'"):
        make_list([found], labels=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_all_faulty_structures_and_label_files_are_named(tmp_path):
    found = structured(tmp_path / "total", 3, ["spleen"])
    for case in found.cases[1:]:
        case.structures["spleen"].write_bytes(b"<html>")
    with pytest.raises(DatasetError, match=r"2 files cannot be used(.|\n)*s0001.*a web page(.|\n)*s0002.*a web page"):
        make_list([found], labels=tmp_path / "joined")
    for case in found.cases:
        write(str(case.structures["spleen"]), np.ones((16, 16, 15), np.uint8))
    with pytest.raises(DatasetError, match=r"3 files(.|\n)*s0002.*shape 16 x 16 x 15, its image has 16 x 16 x 16"):
        make_list([found], labels=tmp_path / "joined")
    plain = labelled(tmp_path / "plain", "plain pairs", 3, (1,))
    for case in plain.cases[1:]:
        write(str(case.label), np.full(SHAPE, 0.5, np.float32))
    with pytest.raises(InputError, match=r"2 of 3 label files(.|\n)*_1_seg.nii.gz': label ids 0.5(.|\n)*_2_seg"):
        make_list([plain])


def test_files_that_a_broken_download_leaves_are_named_before_work(tmp_path):
    found = labelled(tmp_path / "a", "Decathlon", 4, (1,), {0: "background", 1: "liver"})
    found.cases[0].image.write_bytes(b"")
    found.cases[1].label.unlink()
    found.cases[1].label.symlink_to(tmp_path / "gone.nii.gz")
    found.cases[2].label.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DatasetError) as caught:
        make_list([found])
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 files cannot be used:" and len(lines) == 5
    for line, words in zip(lines[2:], ("an empty file", "cannot be read", "a Git LFS pointer"), strict=True):
        assert words in line


def test_broken_images_and_labels_without_names_are_named_together(tmp_path):
    found = labelled(tmp_path / "a", "pairs", 4, (1,))
    found.cases[0].image.write_bytes(b"<html>")
    found.cases[1].label.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"2 files cannot be used:(.|\n)*a web page(.|\n)*an empty file"):
        make_list([found])


def test_too_few_patients_name_the_files_that_are_in_no_case(tmp_path):
    found = labelled(tmp_path / "a", "Decathlon", 1, (1,), {0: "background", 1: "liver"}, unpaired=("b.nii.gz: alone",))
    with pytest.raises(InputError, match="at least 2 patients, found 1.* In no list: b.nii.gz: alone"):
        make_list([found])
    with pytest.raises(InputError, match="found 2.$"):  # which files do not help
        make_list([found], validation=2)


def test_joined_labels_stay_outside_the_collection_and_apart_from_those_of_other_classes(tmp_path):
    found = structured(tmp_path / "total", 2, ["spleen", "liver"])
    with pytest.raises(InputError, match="labels: expected a folder outside"):
        make_list([found], labels=tmp_path / "total" / "joined")
    make_list([found], labels=tmp_path / "joined")
    with pytest.raises(InputError, match="holds results of other settings"):
        make_list([found], ("background", "spleen"), tmp_path / "joined")


def test_a_class_in_no_validation_case_is_a_warning(tmp_path):
    found = structured(tmp_path / "total", 4, ["spleen", "liver"])
    parts = ("training", "training", "training", "validation")
    cases = [
        FoundCase(c.name, c.patient, c.image, None, c.structures, p) for c, p in zip(found.cases, parts, strict=True)
    ]
    write(str(cases[3].structures["liver"]), np.zeros(SHAPE, np.uint8))
    _, report = make_list([changed(found, cases=tuple(cases))], labels=tmp_path / "joined")
    assert "warning: no validation case has liver." in str(report)


def test_files_outside_the_root_have_absolute_names(tmp_path):
    found = labelled(tmp_path / "a", "Decathlon", 2, (1,), {0: "background", 1: "liver"})
    content, _ = make_list([found], root=tmp_path / "other")
    assert content["training"][0]["image"] == str(tmp_path / "a" / "decathlon_0.nii.gz")
