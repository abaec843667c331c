"""Recipe, data sets, preprocessing and batches."""

import json
import shutil
from dataclasses import replace

import psutil
import pytest
import torch
from conftest import PROJECT, SMALL, prepared, write_case

import ssl_helpers as helpers
from user_errors import InputError


def test_published_recipe_holds_the_published_values():
    recipe = helpers.choose_recipe("published")
    assert (recipe.max_steps, recipe.eval_every, recipe.learning_rate) == (30_000, 100, 1e-4)
    assert (recipe.crops_per_volume, recipe.crop_size, recipe.spacing_mm) == (4, (96, 96, 96), (1.5, 1.5, 2.0))
    assert (recipe.feature_size, recipe.weight_decay, recipe.hu_window) == (48, 1e-5, (-175, 250))


def test_a_given_parameter_wins_and_none_does_not():
    recipe = helpers.choose_recipe("demo", max_steps=7, learning_rate=None, crop_size=96)
    assert (recipe.max_steps, recipe.learning_rate, recipe.crop_size) == (7, helpers.DEMO.learning_rate, (96, 96, 96))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_size", 32),
        ("crop_size", 80),
        ("crop_size", (64, 96, 64)),
        ("crop_size", "large"),
        ("spacing_mm", [1.5, 1.5]),
        ("spacing_mm", 0),
        ("seed", -1),
        ("seed", "lucky"),
        ("max_steps", -1),
        ("max_steps", 2.5),
        ("eval_every", 0),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("crops_per_volume", 0),
        ("feature_size", 20),
        ("schedule", "linear"),
        ("clip_norm", 0),
    ],
)
def test_a_value_that_can_not_work_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        helpers.choose_recipe("published", **{name: value})


def test_cosine_rate_warms_up_peaks_and_ends_at_zero():
    recipe = replace(helpers.DEMO, max_steps=100, learning_rate=1.0e-2)
    rates = [helpers.learning_rate_at(step, recipe) for step in range(1, 101)]
    assert rates[0] == pytest.approx(2e-3) and rates[4] == max(rates) == 1e-2 and rates[-1] == pytest.approx(0)
    assert helpers.learning_rate_at(29_999, helpers.Recipe()) == 1e-4


def test_btcv_lists_are_nested_and_share_the_validation_cases():
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
def test_synapse_layout_is_accepted_from_each_of_its_folders(small_data, given):
    json_path, root = small_data
    training = root / "RawData/Training"
    training.mkdir(parents=True)
    shutil.move(root / "imagesTr", training / "img")
    shutil.move(root / "labelsTr", training / "label")
    dataset = helpers.read_dataset(json_path, root / given)
    assert dataset.training[0]["image"] == str(training / "img/img0001.nii.gz")
    assert dataset.validation[0]["label"] == str(training / "label/label0003.nii.gz")


def test_classes_come_from_the_json_and_missing_test_images_are_left_out(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    json_path.write_text(json.dumps(content | {"test": ["imagesTr/img0001.nii.gz", "imagesTs/img0099.nii.gz"]}))
    dataset = helpers.read_dataset(json_path, root)
    assert dataset.organs == ("left box", "right box")
    assert [case["name"] for case in dataset.test] == ["img0001"]
    assert dataset.test_listed == 2


def test_cases_whose_files_have_one_name_are_told_apart_by_their_folders(small_data):
    json_path, root = small_data
    content = json.loads(json_path.read_text())
    for section, patients in (("training", ("a", "b")), ("validation", ("c",))):
        content[section] = [{"image": f"{p}/ct/scan.nii.gz", "label": f"{p}/ct/label.nii.gz"} for p in patients]
    json_path.write_text(json.dumps(content))
    dataset = helpers.read_dataset(json_path, root)
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
def test_a_malformed_json_is_refused_with_what_was_expected(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        helpers.read_dataset(tmp_path / "list.json", tmp_path)
    assert "list.json" in str(caught.value)


def test_missing_json_and_folder_are_named(small_data):
    json_path, root = small_data
    with pytest.raises(InputError, match="json_path.*nowhere.json"):
        helpers.read_dataset(root / "nowhere.json", root)
    with pytest.raises(InputError, match="data_root.*nowhere"):
        helpers.read_dataset(json_path, root / "nowhere")


def test_phantoms_need_btcv_organs(small_data):
    with pytest.raises(InputError, match="data_root"):
        helpers.write_phantoms(small_data[0], small_data[1])


def test_preprocessing_maps_the_hu_window_and_drops_the_air(small_data):
    _, (case, _) = prepared(small_data)
    assert case["image"].dtype == torch.float16 and case["label"].dtype == torch.uint8
    assert case["image"].shape == case["label"].shape == (1, 66, 68, 64)  # the block without its margin of two voxels
    assert case["image"][0, 10, 12, 10] == pytest.approx((100 + 175) / 425, abs=1e-3)
    assert torch.equal(case["image"].affine[:3, 3], torch.tensor([3.0, 3.0, 4.0], dtype=torch.float64))


def test_a_scan_smaller_than_a_crop_is_padded(tmp_path):
    entry = write_case(tmp_path, 1, shape=(62, 64, 60))
    entry = {"name": "small", **{key: str(tmp_path / file) for key, file in entry.items()}}
    (case,) = helpers.prepare_cases([entry], SMALL, "CT")
    assert case["image"].shape == (1, 64, 64, 64)
    images, _, _ = helpers.training_batch([case], helpers.augmentation(SMALL), seed=0, step=1)
    assert images.shape == (2, 1, 64, 64, 64)


def test_mr_is_scaled_by_percentiles(small_data):
    dataset = helpers.read_dataset(*small_data)
    (case,) = helpers.prepare_cases(dataset.training[:1], SMALL, "MRI")
    assert case["image"].max() == 1
    assert case["image"][0, 50, 30, 40] > 0.95  # the brighter box, which the HU window would put at 0.84


def test_an_unreadable_file_is_named(small_data):
    dataset = helpers.read_dataset(*small_data)
    with open(dataset.training[1]["image"], "rb+") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="Case 'img0002'"):
        helpers.prepare_cases(dataset.training, SMALL, "CT")


def test_crops_are_centred_on_organs_and_on_the_rest_of_the_body(small_data):
    _, (case, _) = prepared(small_data)
    organ, other = (set(case[name].tolist()) for name in ("organ_voxels", "other_voxels"))
    assert organ == set((case["label"].as_tensor().flatten() > 0).nonzero()[:, 0].tolist())  # fewer than the limit
    assert len(other) == helpers.MOST_CENTRES and not organ & other
    assert (case["image"].as_tensor().flatten()[case["other_voxels"].long()] > 0).all()


def cached(small_data, folder, recipe=SMALL) -> dict:
    dataset = helpers.read_dataset(*small_data)
    return helpers.prepare_cases(dataset.training[:1], recipe, "CT", cache_dir=folder)[0]


def test_a_cached_case_is_the_case(small_data, tmp_path):
    fresh, again = cached(small_data, tmp_path / "cache"), cached(small_data, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert fresh.keys() == again.keys() and again["name"] == "img0001"
    for key in ("image", "label", "organ_voxels", "other_voxels"):
        assert torch.equal(torch.as_tensor(fresh[key]), torch.as_tensor(again[key]))
    assert torch.equal(fresh["image"].affine, again["image"].affine)
    assert fresh["image"].meta["spatial_shape"] == again["image"].meta["spatial_shape"] == [70, 72, 68]
    assert torch.equal(fresh["image"].meta["original_affine"], again["image"].meta["original_affine"])


def test_a_changed_file_or_setting_makes_a_new_case(small_data, tmp_path):
    first = cached(small_data, tmp_path / "cache")
    assert cached(small_data, tmp_path / "cache", replace(SMALL, hu_window=(0, 100)))["image"].max() == 1
    names = write_case(small_data[1], 1, shape=(72, 72, 68))  # under the same name
    changed = cached(small_data, tmp_path / "cache")
    assert changed["image"].shape != first["image"].shape and names["image"] in changed["source"]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_case_mapped_from_the_disk_is_the_case(small_data, tmp_path):
    dataset, cases = prepared(small_data)
    for _ in range(2):  # once prepared and then mapped, once found
        mapped = helpers.prepare_cases(dataset.training, SMALL, "CT", cache_dir=tmp_path / "cache", in_memory=False)
        assert sum(item.path.endswith(".pt") for item in psutil.Process().memory_maps()) == 2
        for case, other in zip(cases, mapped, strict=True):
            assert torch.equal(case["image"], other["image"])


def test_a_damaged_cache_file_is_made_anew(small_data, tmp_path):
    first = cached(small_data, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(cached(small_data, tmp_path / "cache")["label"], first["label"])


def test_a_batch_is_a_function_of_seed_and_step(small_data):
    _, cases = prepared(small_data)
    augment = helpers.augmentation(replace(SMALL, flip_probability=0.5, rotate_probability=0.5))
    first = helpers.training_batch(cases, augment, seed=3, step=5)
    helpers.training_batch(cases, augment, seed=3, step=6)
    again = helpers.training_batch(
        cases, helpers.augmentation(replace(SMALL, flip_probability=0.5, rotate_probability=0.5)), seed=3, step=5
    )
    other = helpers.training_batch(cases, augment, seed=4, step=5)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2]
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (2, 1, 64, 64, 64) and first[0].dtype == torch.float32 and first[1].dtype == torch.uint8


def test_every_volume_is_seen_once_before_any_is_seen_again(small_data):
    _, cases = prepared(small_data)
    names = [helpers.training_batch(cases, helpers.augmentation(SMALL), seed=0, step=step)[2] for step in range(1, 9)]
    assert all({names[i], names[i + 1]} == {"img0001", "img0002"} for i in range(0, 8, 2))
