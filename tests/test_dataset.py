"""Lists of cases from a JSON file or a folder."""

import json
import shutil

import pytest
from conftest import PROJECT, SMALL, write_case

from swinunetr.checks import check_dataset
from swinunetr.dataset import read_dataset, read_unlabelled
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


@pytest.mark.parametrize("given", ["", "RawData", "RawData/Training"])
def test_synapse_layout_is_found_from_each_of_its_folders(small_data, given):
    json_path, root = small_data
    training = root / "RawData/Training"
    training.mkdir(parents=True)
    shutil.move(root / "imagesTr", training / "img")
    shutil.move(root / "labelsTr", training / "label")
    dataset = read_dataset(json_path, root / given)
    assert dataset.training[0]["image"] == str(training / "img/img0001.nii.gz")
    assert dataset.validation[0]["label"] == str(training / "label/label0003.nii.gz")


def test_classes_are_read_from_the_json_and_missing_test_images_are_skipped(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    json_path.write_text(json.dumps(content | {"test": ["imagesTr/img0001.nii.gz", "imagesTs/img0099.nii.gz"]}))
    dataset = read_dataset(json_path, root)
    assert dataset.organs == ("left box", "right box")
    assert [case["name"] for case in dataset.test] == ["img0001"]
    assert dataset.test_listed == 2


def test_case_names_include_folders_where_file_names_are_equal(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    for section, patients in (("training", ("a", "b")), ("validation", ("c",))):
        content[section] = [{"image": f"{p}/ct/scan.nii.gz", "label": f"{p}/ct/label.nii.gz"} for p in patients]
    json_path.write_text(json.dumps(content))
    dataset = read_dataset(json_path, root)
    assert [case["name"] for case in dataset.training + dataset.validation] == ["a_ct_scan", "b_ct_scan", "c_ct_scan"]


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


def test_error_names_the_missing_json_or_folder(small_data):
    json_path, root = small_data
    with pytest.raises(InputError, match="json_path.*nowhere.json"):
        read_dataset(root / "nowhere.json", root)
    with pytest.raises(InputError, match="data_root.*nowhere"):
        read_dataset(json_path, root / "nowhere")


@pytest.fixture
def scans(tmp_path):
    """Return a folder of three volumes, with label files that cannot be read."""
    for number in (1, 2, 3):
        names = write_case(tmp_path, number)
        (tmp_path / names["label"]).write_bytes(b"not a volume")
    return tmp_path


def test_volumes_of_a_folder_are_found_and_labels_are_skipped(scans):
    dataset = read_unlabelled(scans)
    assert [e["name"] for e in dataset.validation + dataset.training] == [f"imagesTr/img{n:04d}" for n in (1, 2, 3)]
    assert all(set(entry) == {"name", "image"} for entry in dataset.training)
    assert check_dataset(dataset, SMALL.spacing_mm).cases == {"training": 2, "validation": 1}


def test_images_of_a_json_are_listed_and_its_validation_list_is_kept(scans):
    entries = [f"imagesTr/img{n:04d}.nii.gz" for n in (1, 2)]
    held_out = [{"image": "imagesTr/img0003.nii.gz", "label": "labelsTr/label0003.nii.gz"}]
    content = {"modality": {"0": "MR"}, "training": entries, "validation": held_out}
    (scans / "list.json").write_text(json.dumps(content))
    dataset = read_unlabelled(scans, scans / "list.json")
    assert [entry["name"] for entry in dataset.training] == ["img0001", "img0002"]
    assert [set(entry) for entry in dataset.validation] == [{"name", "image"}] and dataset.modality == "MR"


@pytest.mark.parametrize("training", [[{"label": "a.nii.gz"}], [3], {"image": "a.nii.gz"}])
def test_malformed_list_is_an_error(scans, training):
    (scans / "list.json").write_text(json.dumps({"training": training}))
    with pytest.raises(InputError, match='list.json.*"image" in each case of "training"'):
        read_unlabelled(scans, scans / "list.json")


def test_missing_folder_and_too_few_volumes_are_errors(tmp_path):
    with pytest.raises(InputError, match="data_root: no folder"):
        read_unlabelled(tmp_path / "none")
    write_case(tmp_path, 1)
    with pytest.raises(InputError, match="at least two volumes in .*, found 1"):
        read_unlabelled(tmp_path)
