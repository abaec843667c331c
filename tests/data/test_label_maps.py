"""Partial labels, and label files that number organs otherwise: read from the JSON, and followed to the scores."""

import json
from dataclasses import replace
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, write_case
from monai.transforms import MapLabelValue

from swinunetr.data.checks import check_dataset
from swinunetr.data.label_maps import (
    IGNORED,
    LabelMap,
    class_counts,
    clear_ignored,
    merged_ids,
    read_label_maps,
    to_classes,
    unlabelled_organs,
    whole_ids,
)
from swinunetr.data.lists import Dataset, read_dataset
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError
from swinunetr.hardware import find_hardware
from swinunetr.results.evaluation import evaluate, score_case
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batch

CLASSES = ("background", "liver", "spleen")
MAPS = {
    "msd_spleen": {"0": "ignore", "1": "spleen"},
    "totalsegmentator": {"5": "liver", "1": "spleen", "other": "background"},
}
TOTAL = LabelMap("totalsegmentator", ((1, 2), (5, 1)), other=0)


def test_maps_are_read_by_name_and_cases_without_one_have_their_own():
    maps = read_label_maps({"ignore": 9, "label_maps": MAPS}, CLASSES, "")
    assert maps == {
        "": LabelMap("", ((0, 0), (1, 1), (2, 2), (9, IGNORED))),
        "msd_spleen": LabelMap("msd_spleen", ((0, IGNORED), (1, 2))),
        "totalsegmentator": TOTAL,
    }
    assert read_label_maps({}, CLASSES, "") == {}
    assert read_label_maps({"ignore": 255}, CLASSES, "")[""].targets == {0, 1, 2, IGNORED}


MALFORMED = {
    "ignore that is a class": (
        {"ignore": 1},
        r"ignore: .* found 1, which is 'liver'\. To ignore a class .* label_maps",
    ),
    "ignore as text": ({"ignore": "255"}, "ignore: expected a whole number from 0 to 65535, found '255'"),
    "ignore true": ({"ignore": True}, "ignore: expected a whole number .* found True"),
    "ignore with a fraction": ({"ignore": 2.5}, "found 2.5"),
    "negative ignore": ({"ignore": -1}, "found -1"),
    "ignore too large": ({"ignore": 65536}, "found 65536"),
    "maps in a list": ({"label_maps": [MAPS]}, "label_maps: expected maps by name"),
    "no map": ({"label_maps": {}}, "label_maps: expected maps by name, .* found {}"),
    "map without a name": ({"label_maps": {"": {"1": "liver"}}}, "label_maps: expected maps by name"),
    "empty map": ({"label_maps": {"a": {}}}, "label_maps: 'a': expected a class for each id .* found {}"),
    "map that is a list": ({"label_maps": {"a": ["liver"]}}, "label_maps: 'a': expected a class for each id"),
    "unknown class": (
        {"label_maps": {"a": {"1": "Liver"}}},
        r"""'a': expected for id 1 a class of "labels" \(background, liver, spleen\) or "ignore", found 'Liver'""",
    ),
    "class by number": ({"label_maps": {"a": {"1": 2}}}, "'a': expected for id 1 a class .* found 2"),
    "names to ids, as nnU-Net": ({"label_maps": {"a": {"liver": 5}}}, "before the colon, .* found 'liver'"),
    "id with a fraction": ({"label_maps": {"a": {"1.0": "liver"}}}, "whole numbers from 0 to 65535 .* found '1.0'"),
    "negative id": ({"label_maps": {"a": {"-1": "liver"}}}, "found '-1'"),
    "id with a leading zero": ({"label_maps": {"a": {"01": "liver"}}}, "found '01'"),
    "id too large": ({"label_maps": {"a": {"65536": "liver"}}}, "found '65536'"),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_error_names_the_malformed_part(content, message):
    with pytest.raises(InputError, match=f"^list.json: .*{message}"):
        read_label_maps(content, CLASSES, "list.json: ")


@pytest.mark.parametrize("content", [{"ignore": 300}, {"label_maps": {"a": {"1": "organ 1"}}}])
def test_one_value_of_uint8_is_kept_for_ignored_voxels(content):
    names = [f"organ {number}" for number in range(256)]
    assert read_label_maps(content, names[:255], "")
    with pytest.raises(InputError, match="at most 255 classes, .* found 256"):
        read_label_maps(content, names, "")
    assert read_label_maps({}, names, "") == {}


def test_a_class_named_ignore_as_in_nnunet_is_refused():
    with pytest.raises(InputError, match="labels: 'Ignore' is not a class. Remove it, and give its id"):
        read_label_maps({}, (*CLASSES, "Ignore"), "")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64, ">i2"])
def test_ids_become_classes_in_any_data_type(dtype):
    volume = np.array([[0, 5], [1, 117]], dtype)
    classes = to_classes(volume, TOTAL)
    assert classes.dtype == np.uint8 and classes.tolist() == [[0, 1], [2, 0]]
    listed = MapLabelValue([0, 1, 5, 117], [0, 2, 1, 0], dtype=np.uint8)
    np.testing.assert_array_equal(classes, listed(volume))
    np.testing.assert_array_equal(to_classes(volume, None), volume)


def test_values_that_a_slope_moved_are_rounded():
    assert to_classes(np.array([0.9999999, 4.9999999]), TOTAL).tolist() == [2, 1]


@pytest.mark.parametrize("values", [[0, 3], [0, -1], [0, 65536], [0, np.nan]])
def test_an_id_without_a_class_is_never_mapped(values):
    with pytest.raises(InputError, match="label_map 'a': no class for the ids"):
        to_classes(np.array(values), LabelMap("a", ((0, 0), (1, 1))))
    with pytest.raises(InputError, match='"labels" and "ignore": no class for the ids'):
        to_classes(np.array(values), LabelMap("", ((0, 0), (1, 1))))
    if values[1] != 3:
        with pytest.raises(InputError, match="no class for the ids"):
            to_classes(np.array(values), TOTAL)


def test_counts_are_added_by_class_without_ignored_voxels():
    label_map = LabelMap("a", ((0, IGNORED), (1, 1), (2, 1)), other=0)
    assert class_counts({0.0: 50, 1.0: 3, 2.0: 4, 7.0: 5, 8.0: 6}, label_map) == {1: 7, 0: 11}
    assert class_counts({0.0: 50, 255.0: 3}, None) == {0: 50, 255: 3}


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_ignored_voxels_become_background_in_truth_and_predictions(kind):
    truth, prediction = kind([0, 1, IGNORED, IGNORED]), kind([1, 1, 1, 0])
    assert [v.tolist() for v in clear_ignored(TOTAL, truth, prediction)] == [[0, 1, 0, 0], [1, 1, 0, 0]]
    assert clear_ignored(None, truth, prediction)[1] is prediction


def test_merged_ids_and_unlabelled_organs_are_named():
    label_map = LabelMap("msd_liver", ((0, 0), (1, 1), (2, 1)))
    assert merged_ids(label_map, CLASSES) == ["label_map 'msd_liver': the ids 1, 2 count as liver"]
    assert unlabelled_organs(label_map, CLASSES) == ["spleen"]
    assert merged_ids(LabelMap("a", ((1, 2), (3, 0), (4, 0)), other=2), CLASSES)[0].endswith("1, other count as spleen")
    partial = LabelMap("msd_spleen", ((0, IGNORED), (1, 2)))
    assert merged_ids(TOTAL, CLASSES) == unlabelled_organs(TOTAL, CLASSES) == unlabelled_organs(partial, CLASSES) == []


# ------------------------------------------------------------------------------------------- from files to the scores


def renumber(file, ids: dict[int, int], dtype=np.int16) -> None:
    """Replace the ids in a label file."""
    image = nib.load(file)
    labels = np.asarray(image.dataobj)
    new = np.zeros(labels.shape, dtype)
    for before, after in ids.items():
        new[labels == before] = after
    nib.save(nib.Nifti1Image(new, image.affine), file)


def collections(folder, mapped: bool, **content) -> Dataset:
    """Write four cases and return their data set: two of them as of other collections, or with the classes' own ids.

    Case 2 is numbered as in TotalSegmentator and has another organ; case 3 has no background that counts.
    """
    folder.mkdir()
    entries = [write_case(folder, number) for number in (1, 2, 3, 4)]
    second, third = (folder / entry["label"] for entry in entries[1:3])
    for file, ids in ((second, {1: 5, 2: 1, 0: 90}), (third, {2: 1})) if mapped else ((third, {2: 2, 0: 255, 1: 255}),):
        renumber(file, ids)
    if mapped:
        entries[1]["label_map"], entries[2]["label_map"] = "totalsegmentator", "msd_spleen"
    content |= {"label_maps": MAPS} if mapped else {"ignore": 255}
    content |= {"labels": dict(zip("012", CLASSES, strict=True)), "training": entries[:3], "validation": entries[3:]}
    (folder / "list.json").write_text(json.dumps(content))
    return read_dataset(folder / "list.json", folder)


@pytest.fixture
def both(tmp_path) -> tuple[Dataset, Dataset]:
    """Return collections with maps, and the same cases relabelled by hand."""
    return collections(tmp_path / "mapped", True), collections(tmp_path / "relabelled", False)


def test_training_on_two_collections_equals_that_on_relabelled_files(both, tmp_path):
    mapped, relabelled = (prepare_cases(data.training, SMALL, "CT", cache_dir=tmp_path / "cache") for data in both)
    again = prepare_cases(both[0].training, SMALL, "CT", cache_dir=tmp_path / "cache")  # from the cache
    assert mapped[0]["label_map"] is None and both[0].ignores and both[1].ignores
    for case, other, cached in zip(mapped, relabelled, again, strict=True):
        for part in ("image", "label", "organ_voxels", "other_voxels"):
            assert torch.equal(torch.as_tensor(case[part]), torch.as_tensor(other[part])), part
            assert torch.equal(torch.as_tensor(case[part]), torch.as_tensor(cached[part])), part
        assert case["vanished_ids"] == other["vanished_ids"] == []
    assert mapped[2]["label"].unique().tolist() == [2, IGNORED]
    for step in range(1, 7):
        batch, other = (training_batch(cases, augmentation(SMALL), 0, step) for cases in (mapped, relabelled))
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1]) and batch[2] == other[2]


def test_reports_of_collections_and_of_relabelled_files_are_equal_but_for_the_maps(both):
    mapped, relabelled = (check_dataset(data, SMALL.spacing_mm) for data in both)
    assert mapped.organ_ml == relabelled.organ_ml and len(mapped.organ_ml["liver"]) == 3
    assert mapped.warnings == relabelled.warnings == [] and mapped.notes == []
    assert mapped.fingerprint["img0001"] != relabelled.fingerprint["img0001"]  # there it has the map of "ignore"
    assert mapped.fingerprint["img0002"] != relabelled.fingerprint["img0002"]


def test_cases_of_collections_without_another_organ_have_one_cache_file_per_map(both, tmp_path):
    entry = both[0].training[1]
    other = entry | {"label_map": LabelMap("x", ((1, 1), (5, 2)), other=0)}
    cases = prepare_cases([entry, other], SMALL, "CT", cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    swapped = torch.tensor([0, 2, 1], dtype=torch.uint8)[cases[0]["label"].as_tensor().long()]
    assert torch.equal(swapped, cases[1]["label"].as_tensor())


def test_crops_of_a_case_without_background_are_centred_on_its_organs(both):
    (case,) = prepare_cases(both[0].training[2:], SMALL, "CT")
    organ = set((case["label"].as_tensor().flatten() == 2).nonzero()[:, 0].tolist())
    assert set(case["organ_voxels"].tolist()) == set(case["other_voxels"].tolist()) == organ
    (case,) = prepare_cases([both[0].training[2] | {"label_map": LabelMap("x", ((0, 255), (1, 255)))}], SMALL, "CT")
    assert len(case["organ_voxels"]) == 0 and len(case["other_voxels"]) > 0  # where an organ vanished from the grid


def test_scores_with_ignored_voxels_equal_those_counted_by_hand(tmp_path):
    """The left box is 20 x 28 x 20 voxels of 1 ml; half of the right one and its surroundings do not count."""
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1, affine=np.eye(4) * 10).items()}
    image = nib.load(files["label"])
    labels = np.asarray(image.dataobj).copy()
    perfect = labels.copy()
    labels[50:] = 7
    nib.save(nib.Nifti1Image(labels, image.affine), files["label"])
    label_map = LabelMap("", ((0, 0), (1, 1), (2, 2), (7, IGNORED)))
    recipe = replace(SMALL, spacing_mm=(10.0, 10.0, 10.0))
    (case,) = prepare_cases([{"name": "c", **files, "label_map": label_map}], recipe, "CT")
    prediction = perfect.copy()
    prediction[60:, 60:, 60:] = 1  # ignored
    prediction[10:15, 12:40, 10:30] = 0  # a quarter of the left box
    kept = prediction.copy()
    coarse = case["label"].as_tensor()[0].clone().long()
    coarse[coarse == IGNORED] = 1  # costs nothing
    left, right = score_case(case, coarse, prediction, ("left box", "right box"))
    volume, half = 20 * 28 * 20, 10 * 20 * 20
    assert left["dice_own_grid"] == pytest.approx(2 * 0.75 / 1.75) and left["dice"] == right["dice"] == 1
    assert [left["volume_true_ml"], left["volume_predicted_ml"]] == pytest.approx([volume, 0.75 * volume])
    assert left["hd95_mm"] == pytest.approx(50)
    assert [right["volume_true_ml"], right["volume_predicted_ml"]] == pytest.approx([half, half])
    assert (right["dice_own_grid"], right["surface_dice"], right["hd95_mm"]) == (1, 1, 0)
    np.testing.assert_array_equal(prediction, kept)  # what is written stays


def test_ignored_voxels_do_not_lower_the_upper_bound_of_the_resolution(both):
    """Beside background, interpolation takes voxels from an organ at its border; beside ignored voxels it cannot."""
    ceilings = []
    for outside in (0, IGNORED):
        case = both[0].training[2] | {"label_map": LabelMap("x", ((0, outside), (1, 2)))}
        (case,) = prepare_cases([case], replace(SMALL, spacing_mm=(5.0, 5.0, 5.0)), "CT")
        prediction = np.zeros(case["image"].meta["spatial_shape"], np.uint8)
        rows = score_case(case, torch.zeros(case["image"].shape[1:], dtype=torch.int64), prediction, CLASSES[1:])
        ceilings.append({row["organ"]: row["dice_ceiling"] for row in rows})
    assert ceilings[0]["spleen"] < 0.97 and ceilings[1]["spleen"] == 1 and np.isnan(ceilings[1]["liver"])


def test_validation_counts_ignored_voxels_as_background(both, monkeypatch):
    (case,) = prepare_cases([both[0].training[2]], SMALL, "CT")
    truth = case["label"].as_tensor()[0]
    found = torch.full(truth.shape, 2)  # the spleen everywhere, which costs nothing where nothing is labelled
    found[truth == 2] = (torch.arange(int((truth == 2).sum())) % 2) * 2  # and half of it is missed
    logits = torch.nn.functional.one_hot(found, 3).movedim(-1, 0)
    monkeypatch.setattr("swinunetr.results.evaluation.predict", Mock(return_value=logits))
    organ = int((truth == 2).sum())
    counts = evaluate(Mock(), [case], SMALL, find_hardware())
    assert counts[0].tolist() == [[truth.numel() - organ, 0, 0], [0, 0, 0], [organ // 2, 0, organ // 2]]


def test_values_near_a_whole_number_are_whole():
    values = np.array([0.9995, 1.0005, 1.002, 0.5, -0.0, np.nan], np.float32)
    np.testing.assert_array_equal(whole_ids(values), np.array([1, 1, values[2], 0.5, 0, np.nan], np.float32))
    assert whole_ids(np.array([1.019]), slope=0.05).item() == 1
    assert whole_ids(np.array([1.3]), slope=0.7).item() == 1.3
