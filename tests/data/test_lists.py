"""Lists of cases from a JSON file."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import PROJECT, SMALL, write_case

from swinunetr.data.checks import check_dataset
from swinunetr.data.label_maps import IGNORED
from swinunetr.data.lists import (
    find_volumes,
    organ_labels,
    read_dataset,
    read_json,
    read_unlabelled,
)
from swinunetr.errors import InputError


def test_btcv_lists_are_nested_and_have_the_same_validation_cases():
    lists = [json.loads((PROJECT / f"json_files/btcv_{n}.json").read_text()) for n in (6, 12, 24)]
    ids = [{case["image"] for case in content["training"]} for content in lists]
    assert [len(i) for i in ids] == [6, 12, 24] == [content["numTraining"] for content in lists]
    assert ids[0] < ids[1] < ids[2]
    validation = [f"imagesTr/img{n:04d}.nii.gz" for n in range(35, 41)]
    for content in lists:
        assert [case["image"] for case in content["validation"]] == validation
        assert len(content["test"]) == 20 and len(content["labels"]) == 14
        assert all(
            case["label"]
            == case["image"].replace("img", "label").replace("imagesTr", "labelsTr").replace("labelagesTr", "labelsTr")
            for case in content["training"]
        )
    assert not ids[2] & set(validation)


def test_classes_are_read_from_the_json_and_missing_test_images_are_skipped(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    json_path.write_text(json.dumps(content | {"test": ["imagesTr/img0001.nii.gz", "imagesTs/img0099.nii.gz"]}))
    dataset = read_dataset(json_path, root)
    assert dataset.organs == ("left box", "right box")
    assert [case["name"] for case in dataset.test] == ["img0001"]
    assert dataset.test_listed == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "an object"),
        ("{}", '"labels"'),
        ('{"labels": {"0": "background", "2": "liver"}}', "without gaps"),
        ('{"labels": {"0": "b", "1": "liver"}, "training": []}', '"training"'),
        ('{"labels": {"0": "b", "1": "liver"}, "training": [{"image": "a"}]}', '"image" and "label"'),
        ('{"labels": {"0": "b", "1": "l"}, "training": [{"image": "a", "label": "b"}]}', '"validation"'),
    ],
)
def test_error_for_a_malformed_json_says_what_was_expected(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(tmp_path / "list.json", tmp_path)
    assert "list.json" in str(caught.value)


def with_changes(small_data, **changes) -> Path:
    """Change keys of the JSON and return its path; None removes a key."""
    json_path, _ = small_data
    content = json.loads(json_path.read_text()) | changes
    json_path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return json_path


MALFORMED = {
    "ignore that is a class": ({"ignore": 1}, "ignore: expected an id that is no class, found 1"),
    "unknown class of a map": ({"label_maps": {"a": {"1": "heart"}}}, "label_maps: 'a': .* found 'heart'"),
    "257 classes": ({"labels": {str(i): f"organ {i}" for i in range(257)}}, "labels: at most 256 classes, found 257"),
    "two classes of one name": ({"labels": {"0": "b", "1": "liver", "2": "liver"}}, "found 'liver' twice"),
    "class name that is a number": ({"labels": {"0": "b", "1": 5}}, 'a name for each id in "labels", found 5'),
    "empty class name": ({"labels": {"0": "b", "1": " "}}, "a name for each id in \"labels\", found ' '"),
    "name of another column": ({"labels": {"0": "b", "1": "mean_dice"}}, "'mean_dice' is the name of another column"),
    "list of classes": ({"labels": ["b", "liver"]}, r"found \['b', 'liver'\]"),
    "modality in a list": ({"modality": ["CT"]}, r"\"modality\" in .* found \['CT'\]"),
    "modality that is a number": ({"modality": 1}, '"modality" in .* found 1'),
    "modality that is a number in a mapping": ({"modality": {"0": 1}}, "\"modality\" in .* found {'0': 1}"),
    "modality of two": ({"modality": {"0": "PET/CT"}}, "'PET/CT' names two modalities"),
    "empty modality": ({"modality": ""}, "\"modality\" in .* found ''"),
    "channel that is a number": ({"modality": {}, "channel_names": {"0": 1}}, '"channel_names" in '),
    "test that is not a list": ({"test": {"image": "a.nii.gz"}}, 'a list of cases under "test"'),
    "training that is not a list": ({"training": "a.nii.gz"}, 'a list of cases under "training"'),
    "test entry without image": (
        {"test": [{"label": "a"}]},
        "\"image\" in each case of \"test\", found {'label': 'a'}",
    ),
    "test entry with an empty image": ({"test": [{"image": ""}]}, 'in each case of "test", found'),
    "test entry that is empty": ({"test": [""]}, "in each case of \"test\", found ''"),
    "test entry that is a number": ({"test": [7]}, 'in each case of "test", found 7'),
    "test entry with a label that is a number": ({"test": [{"image": "a", "label": 7}]}, 'in each case of "test"'),
    "training entry with an empty label": ({"training": [{"image": "a", "label": ""}]}, 'in each case of "training"'),
    "training entry without a label": ({"training": ["a.nii.gz"]}, '"image" and "label" in each case of "training"'),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_error_names_the_malformed_part_of_the_json(small_data, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(with_changes(small_data, **changes), small_data[1])
    assert "dataset.json" in str(caught.value) and len(str(caught.value).splitlines()) == 1


REPEATED = {
    "two training lists": ('{"training": [], "labels": {"0": "b"}, "training": []}', "training"),
    "an id": ('{"labels": {"0": "b", "1": "liver", "1": "spleen"}}', "1"),
    "an id of a map": ('{"label_maps": {"a": {"1": "liver", "1": "ignore"}}}', "1"),
    "the image of a case": ('{"training": [{"image": "a", "image": "b"}]}', "image"),
}


@pytest.mark.parametrize(("content", "key"), REPEATED.values(), ids=REPEATED)
def test_a_key_that_stands_twice_is_named(tmp_path, content, key):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=f'list.json.*the key "{key}" stands twice'):
        read_json(tmp_path / "list.json")


def test_each_case_has_its_map_of_labels(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    content["training"][0]["label_map"] = "a"
    maps = {"label_maps": {"a": {"0": "ignore", "7": "right box"}}}
    changes = maps | {"training": content["training"], "test": ["imagesTr/img0001.nii.gz"]}
    dataset = read_dataset(with_changes(small_data, **changes), root)
    assert dataset.training[0]["label_map"].classes == ((0, IGNORED), (7, 2)) and dataset.ignores
    assert not any("label_map" in case for case in (*dataset.training[1:], *dataset.validation, *dataset.test))

    dataset = read_dataset(with_changes(small_data, ignore=255), root)
    assert dataset.training[0]["label_map"].name == "a"
    assert {case["label_map"].classes for case in (dataset.training[1], *dataset.validation)} == {
        ((0, 0), (1, 1), (2, 2), (255, IGNORED))
    }
    assert "label_map" not in dataset.test[0]  # it has no label


@pytest.mark.parametrize("name", ["b", 7, ["a"]])
def test_an_unknown_map_of_a_case_and_a_map_without_cases_are_errors(small_data, name):
    json_path, root = small_data
    training = json.loads(json_path.read_text())["training"]
    maps = {"label_maps": {"a": {"1": "left box"}}}
    with pytest.raises(InputError, match='label_maps: no case names \'a\'. Add "label_map": "a"'):
        read_dataset(with_changes(small_data, **maps), root)
    training[1]["label_map"] = name
    with pytest.raises(InputError, match=r"label_map of 'imagesTr/img0002.nii.gz': .* \(a\), found"):
        read_dataset(with_changes(small_data, training=training, **maps), root)


def test_256_classes_are_read(small_data):
    labels = {str(i): f"organ {i}" for i in range(256)}
    assert read_dataset(with_changes(small_data, labels=labels), small_data[1]).classes[255] == "organ 255"


@pytest.mark.parametrize(
    ("changes", "modality"),
    [
        ({"modality": "MRI"}, "MRI"),
        ({"modality": {"0": "MRI"}}, "MRI"),
        ({"modality": {}}, "CT"),
        ({"modality": None}, "CT"),
        ({"modality": None, "channel_names": {"0": "MRI"}}, "MRI"),
        ({"modality": "CT", "channel_names": {"0": "MRI"}}, "CT"),
    ],
)
def test_modality_is_read_from_each_way_of_writing_it(small_data, changes, modality):
    json_path = with_changes(small_data, **changes)
    assert read_dataset(json_path, small_data[1]).modality == modality
    assert read_unlabelled(small_data[1], json_path).modality == modality


def test_missing_modality_of_unlabelled_volumes_is_the_given_one(small_data):
    assert read_unlabelled(small_data[1], with_changes(small_data, modality={}), "MRI").modality == "MRI"


def test_missing_test_list_is_an_empty_one(small_data):
    root = small_data[1]
    content = json.loads(small_data[0].read_text())
    for test in ({"test": None}, {}):
        small_data[0].write_text(json.dumps(content | test))
        assert read_dataset(small_data[0], root).test == []


def test_test_label_that_is_null_is_left_out(small_data):
    entry = {"image": "imagesTr/img0001.nii.gz", "label": None}
    (case,) = read_dataset(with_changes(small_data, test=[entry]), small_data[1]).test
    assert set(case) == {"name", "image"}


def test_keys_of_auto3dseg_are_named(small_data, capsys):
    content = json.loads(small_data[0].read_text())
    training = [entry | {"fold": number} for number, entry in enumerate(content["training"])]
    json_path = with_changes(small_data, training=training, testing=[{"image": "imagesTs/img0061.nii.gz"}])
    read_dataset(json_path, small_data[1])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('note: The "fold" of a case is not read') and second.startswith('note: The list "testing"')
    plain = {name: content[name] for name in ("training", "validation")} | {"testing": None}
    with pytest.raises(InputError, match='under "validation".*list the cases of one fold under "validation" instead'):
        read_dataset(with_changes(small_data, training=training, validation=None), small_data[1])
    read_dataset(with_changes(small_data, **plain), small_data[1])
    assert capsys.readouterr().out == ""


NNUNET = {"channel_names": {"0": "MRI"}, "numTraining": 2, "file_ending": ".nii.gz"}


@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1}, {"background": 0, "a": [1, 2]}, {"0": "b", "1": "a"}]
)
def test_dataset_json_of_nnunet_is_recognised(tmp_path, labels):
    (tmp_path / "dataset.json").write_text(json.dumps(NNUNET | {"labels": labels}))
    for read in (lambda file: read_dataset(file, tmp_path), lambda file: read_unlabelled(tmp_path, file)):
        with pytest.raises(InputError, match='nnU-Net.*map ids to names under "labels".*list the files'):
            read(tmp_path / "dataset.json")


def test_names_that_map_to_ids_are_refused_although_files_are_listed(small_data):
    json_path = with_changes(small_data, **NNUNET, labels={"background": 0, "liver": 1})
    with pytest.raises(InputError, match="nnU-Net"):
        read_dataset(json_path, small_data[1])


def test_json_with_a_byte_order_mark_and_names_in_any_script_is_read(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text()) | {
        "labels": {"0": "background", "1": "肝臓", "2": "Nebenniere rechts ä"}
    }
    json_path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    assert read_dataset(json_path, root).organs == ("肝臓", "Nebenniere rechts ä")


def test_folder_and_unreadable_file_in_place_of_the_json_are_named(small_data, monkeypatch):
    json_path, root = small_data
    with pytest.raises(InputError, match="json_path: expected a JSON file, found the folder"):
        read_dataset(root, root)
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError("denied")))
    with pytest.raises(InputError, match="json_path: .*dataset.json' cannot be read"):
        read_dataset(json_path, root)


def test_home_folder_is_expanded_in_each_path(small_data, monkeypatch):
    json_path, root = small_data
    monkeypatch.setenv("HOME", str(root))
    assert read_dataset("~/dataset.json", "~") == read_dataset(json_path, root)
    assert read_unlabelled("~", "~/dataset.json") == read_unlabelled(root, json_path)
    assert find_volumes("~/imagesTr") == find_volumes(root / "imagesTr")


def test_absolute_file_names_work_with_a_relative_data_root(small_data, monkeypatch):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    for entry in content["training"]:
        entry["label"] = str(root / entry["label"])
    json_path.write_text(json.dumps(content))
    monkeypatch.chdir(root.parent)
    dataset = read_dataset(json_path, root.name)
    assert dataset.training[0]["label"] == str(root / "labelsTr/label0001.nii.gz")
    assert not os.path.isabs(dataset.training[0]["image"])
    images = check_dataset(dataset, SMALL.spacing_mm).images
    assert [image.split for image in images] == ["training", "training", "validation"]


@pytest.mark.parametrize("image", ["/", "//", "."])
def test_name_of_a_folder_in_place_of_an_image_is_named(small_data, image):
    dataset = read_dataset(with_changes(small_data, training=[{"image": image, "label": image}]), small_data[1])
    with pytest.raises(InputError, match="a folder, not a file"):
        check_dataset(dataset, SMALL.spacing_mm)


def test_error_names_the_missing_json_or_folder(small_data):
    json_path, root = small_data
    with pytest.raises(InputError, match="json_path.*nowhere.json"):
        read_dataset(root / "nowhere.json", root)
    with pytest.raises(InputError, match="data_root.*nowhere"):
        read_dataset(json_path, root / "nowhere")


def test_images_of_a_json_are_listed_and_its_validation_list_is_kept(scans):
    entries = [f"imagesTr/img{n:04d}.nii.gz" for n in (1, 2)]
    held_out = [{"image": "imagesTr/img0003.nii.gz", "label": "labelsTr/label0003.nii.gz"}]
    content = {"modality": {"0": "MR"}, "training": entries, "validation": held_out}
    (scans / "list.json").write_text(json.dumps(content))
    dataset = read_unlabelled(scans, scans / "list.json")
    assert [entry["name"] for entry in dataset.training] == ["img0001", "img0002"]
    assert [set(entry) for entry in dataset.validation] == [{"name", "image"}] and dataset.modality == "MR"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ([{"label": "a.nii.gz"}], '"image" in each case of "training"'),
        ([3], '"image" in each case of "training"'),
        ([""], '"image" in each case of "training"'),
        ({"image": "a.nii.gz"}, 'a list of cases under "training"'),
    ],
)
def test_malformed_list_is_an_error(scans, training, message):
    (scans / "list.json").write_text(json.dumps({"training": training}))
    with pytest.raises(InputError, match=f"list.json.*{message}"):
        read_unlabelled(scans, scans / "list.json")


def test_missing_folder_and_too_few_volumes_are_errors(tmp_path):
    with pytest.raises(InputError, match="data_root: no folder"):
        read_unlabelled(tmp_path / "none")
    write_case(tmp_path, 1)
    with pytest.raises(InputError, match="at least two volumes in .*, found 1"):
        read_unlabelled(tmp_path)


def test_organs_are_found_by_name_in_any_case():
    organs = ("spleen", "Right Kidney", "liver")
    assert organ_labels(["LIVER", "right kidney", "liver"], organs, "x") == [2, 3]
    assert organ_labels(["all"], organs, "x") == [1, 2, 3] and organ_labels([], organs, "x") == []
    with pytest.raises(InputError, match="x: expected organs.*unknown: heart. The organs are spleen"):
        organ_labels(["liver", "heart"], organs, "x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["liver\nand", "spleen"], "names of one line without tabs, found 'liver\\\\nand'"),
        (["a\tb", "spleen"], "without tabs"),
        (["\udcfc", "spleen"], "found '\\\\udcfc'"),
        (["All", "spleen"], "'All' is not a name.*largest_component.*Rename"),
        (["ignore", "spleen"], "'ignore' is not a name"),
        (["Liver", "liver"], "found 'Liver' and 'liver'. Rename one"),
        (["caf\u00e9", "cafe\u0301"], "differ in more than case, Unicode form"),
        (["left_kidney", "left kidney"], "found 'left_kidney' and 'left kidney'"),
    ],
)
def test_names_of_classes_that_files_or_words_cannot_tell_apart_are_refused(small_data, names, message):
    json_path = with_changes(small_data, labels=dict(enumerate(["background", *names])))
    with pytest.raises(InputError, match=message):
        read_dataset(json_path, small_data[1])


def test_background_has_the_id_0_and_another_name_of_it_is_noted(small_data, capsys):
    moved = with_changes(small_data, labels=dict(enumerate(["liver", "spleen", "Background"])))
    with pytest.raises(InputError, match="'Background' has the id 2, but the id 0 is the background here"):
        read_dataset(moved, small_data[1])
    read_dataset(with_changes(small_data, labels=dict(enumerate(["liver", "left box", "right box"]))), small_data[1])
    assert "note: The id 0, 'liver', is taken for the background" in capsys.readouterr().out


def test_names_of_classes_may_hold_signs_and_any_script(small_data):
    names = ["background", 'the "left", $1 | box', "\u809d\u81d3 (liver)"]
    assert read_dataset(with_changes(small_data, labels=dict(enumerate(names))), small_data[1]).classes == tuple(names)


def test_an_organ_is_found_in_any_unicode_form():
    assert organ_labels(["CAFE\u0301"], ("liver", "caf\u00e9"), "largest_component") == [2]
