"""Unlabelled volumes, their views, and the tasks."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PROJECT, write_case

import pretraining
from hardware import Hardware
from pretraining import PRETRAINING_DEMO, RECIPES, PretrainingNetwork, Views, pretraining_batch
from ssl_helpers import check_dataset, choose_recipe, prepare_cases
from swinunetr_weights import build_swinunetr
from user_errors import InputError

RECIPE = replace(PRETRAINING_DEMO, spacing_mm=(1.5, 1.5, 2.0))
CPU = Hardware(torch.device("cpu"), None, "CPU")


@pytest.fixture
def scans(tmp_path):
    """Return a folder of three volumes, with labels beside them that nobody must read."""
    for number in (1, 2, 3):
        names = write_case(tmp_path, number)
        (tmp_path / names["label"]).write_bytes(b"not a volume")
    return tmp_path


def prepared(root, recipe=RECIPE, modality="CT"):
    dataset = pretraining.read_unlabelled(root, modality=modality)
    return prepare_cases(dataset.training, recipe, dataset.modality)


# ------------------------------------------------------------------------------------------------------------- data


def test_a_folder_is_searched_and_its_labels_are_left_alone(scans):
    dataset = pretraining.read_unlabelled(scans)
    assert [e["name"] for e in dataset.validation + dataset.training] == [f"imagesTr/img{n:04d}" for n in (1, 2, 3)]
    assert all(set(entry) == {"name", "image"} for entry in dataset.training)
    assert check_dataset(dataset, RECIPE.spacing_mm).cases == {"training": 2, "validation": 1}


def test_of_a_json_the_images_are_read_and_its_validation_is_held_out(scans):
    entries = [f"imagesTr/img{n:04d}.nii.gz" for n in (1, 2)]
    held_out = [{"image": "imagesTr/img0003.nii.gz", "label": "labelsTr/label0003.nii.gz"}]
    content = {"modality": {"0": "MR"}, "training": entries, "validation": held_out}
    (scans / "list.json").write_text(json.dumps(content))
    dataset = pretraining.read_unlabelled(scans, scans / "list.json")
    assert [entry["name"] for entry in dataset.training] == ["img0001", "img0002"]
    assert [set(entry) for entry in dataset.validation] == [{"name", "image"}] and dataset.modality == "MR"


@pytest.mark.parametrize("training", [[{"label": "a.nii.gz"}], [3], {"image": "a.nii.gz"}])
def test_a_malformed_list_is_refused(scans, training):
    (scans / "list.json").write_text(json.dumps({"training": training}))
    with pytest.raises(InputError, match='list.json.*"image" in each case of "training"'):
        pretraining.read_unlabelled(scans, scans / "list.json")


def test_no_folder_and_too_few_volumes_are_refused(tmp_path):
    with pytest.raises(InputError, match="data_root: no folder"):
        pretraining.read_unlabelled(tmp_path / "none")
    write_case(tmp_path, 1)
    with pytest.raises(InputError, match="at least two volumes in .*, found 1"):
        pretraining.read_unlabelled(tmp_path)


def test_a_constant_volume_is_refused_and_a_small_one_is_padded(scans):
    write_case(scans, 4, shape=(40, 44, 32))
    batch = pretraining_batch(prepared(scans), RECIPE, 1)
    assert batch.masked.shape == (4, 1, *RECIPE.crop_size)
    nib.save(nib.Nifti1Image(np.full((40, 40, 40), -1000, np.int16), np.eye(4)), scans / "imagesTr/constant.nii.gz")
    with pytest.raises(InputError, match="all voxels are -1000"):
        check_dataset(pretraining.read_unlabelled(scans), RECIPE.spacing_mm)


def test_other_modalities_are_scaled_by_percentiles(tmp_path):
    for number in (1, 2, 3):
        values = np.random.default_rng(number).gamma(2, 300, (70, 70, 70)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 2.0, 1.0])), tmp_path / f"mr{number}.nii.gz")
    (image, *_) = (case["image"].float() for case in prepared(tmp_path, modality="MR"))
    assert 0.15 < image.mean() < 0.35 and image.max() == 1  # as CT, nearly all would be 1


def test_phantoms_are_none_of_those_that_fine_tuning_uses(tmp_path):
    used = {
        int("".join(filter(str.isdigit, entry["image"].split("/")[-1].removesuffix(".nii.gz"))))
        for file in (PROJECT / "json_files").iterdir()
        for entry in [*json.loads(file.read_text())["training"], *json.loads(file.read_text())["validation"]]
    }
    assert max(used) < pretraining.FIRST_PHANTOM
    folder = pretraining.write_unlabelled_phantoms(tmp_path, 2)
    one, other = (nib.load(file).get_fdata() for file in sorted(folder.iterdir()))
    assert one.shape != other.shape or not np.array_equal(one, other)


# ------------------------------------------------------------------------------------------------------------ views


def test_a_batch_is_a_function_of_seed_and_number(scans):
    cases = prepared(scans)
    one, again, other = (pretraining_batch(cases, RECIPE, number) for number in (3, 3, 4))
    assert torch.equal(one.masked, again.masked) and torch.equal(one.whole, again.whole)
    assert not torch.equal(one.whole, other.whole)
    seeded = pretraining_batch(cases, replace(RECIPE, seed=1), 3)
    assert not torch.equal(one.whole, seeded.whole)


def test_both_views_of_a_crop_are_the_scan_turned_and_only_the_input_is_masked(scans):
    cases = prepared(scans)
    before = [case["image"].clone() for case in cases]
    for number in range(1, 9):
        views = pretraining_batch(cases, RECIPE, number)
        back = [torch.rot90(w, -int(t), (1, 2)) for w, t in zip(views.whole, views.turns, strict=True)]
        assert torch.equal(back[0], back[2]) and torch.equal(back[1], back[3])
        changed = (views.masked != views.whole).float().mean((1, 2, 3, 4))
        assert (changed > 0.4).all() and (changed < 0.8).all()
    assert all(torch.equal(a, case["image"]) for a, case in zip(before, cases, strict=True))


def test_what_is_not_a_task_is_not_made(scans):
    cases, recipe = prepared(scans), choose_recipe("demo", RECIPES, tasks="reconstruction", crop_size=RECIPE.crop_size)
    views = pretraining_batch(cases, recipe, 1)
    assert views.masked.shape == (2, 1, *recipe.crop_size) and not views.turns.any()
    model = PretrainingNetwork(build_swinunetr(1, feature_size=12, window_size=4), recipe.tasks)
    assert set(pretraining.task_losses(model(views.masked), views, recipe)) == {"reconstruction"}
    assert not list(model.heads.parameters())


def test_mask_ratio_is_about_what_is_hidden(scans):
    cases, hidden = prepared(scans), []
    for ratio in (0.15, 0.6):
        views = [pretraining_batch(cases, replace(RECIPE, mask_ratio=ratio), number) for number in range(1, 13)]
        hidden.append(float(np.mean([(v.masked != v.whole).float().mean() for v in views])))
    assert hidden == pytest.approx([0.15, 0.6], abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 1}, "mask_ratio: expected"),
        ({"mask_block": 65}, "mask_block: expected 2 voxels up to 32"),
        ({"tasks": "rotation"}, "tasks: expected reconstruction"),
        ({"tasks": "reconstruction, jigsaw"}, "tasks: expected reconstruction"),
        ({"temperature": 0}, "temperature: expected"),
        ({"volumes_per_step": 1}, "at least two crops"),
        ({"volumes_per_step": 0}, "volumes_per_step: expected"),
        ({"crop_size": (64, 96, 64)}, "must agree"),
        ({"crop_size": 33}, "multiples of 32"),
    ],
)
def test_a_wrong_value_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        choose_recipe("demo", RECIPES, **changes)


# ------------------------------------------------------------------------------------------------------------ tasks


def test_losses_are_those_of_the_paper_on_answers_worked_out_by_hand():
    whole = torch.rand(4, 1, 4, 4, 4)
    masked = whole.clone()
    masked[..., :2] = 2  # the other half is in plain sight, so that its painting does not count
    views = Views(masked, whole, torch.tensor([0, 1, 2, 3]), "")
    codes = torch.eye(2).repeat(2, 1)  # two views of each of two crops: alike within, at right angles across
    painted = torch.cat([whole[..., :2] + 0.5, whole[..., 2:] + 9], dim=-1)
    answers = {"reconstruction": painted, "rotation": torch.zeros(4, 4), "contrast": codes}
    losses = pretraining.task_losses(answers, views, replace(RECIPE, temperature=0.5))
    assert float(losses["reconstruction"]) == pytest.approx(0.5)
    assert float(losses["rotation"]) == pytest.approx(math.log(4))
    assert float(losses["contrast"]) == pytest.approx(math.log(math.exp(2) + 2) - 2, rel=1e-5)
    told = answers | {"rotation": torch.eye(4) * 50, "contrast": codes.roll(1, 0)[[0, 0, 1, 1]]}
    unlike = pretraining.task_losses(told, views, RECIPE)
    assert float(unlike["rotation"]) < 1e-6 and unlike["contrast"] > losses["contrast"]


def test_all_of_the_network_learns_and_its_names_are_a_plain_swinunetrs(scans, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT_BATCHES", 2)
    cases = prepared(scans)
    torch.manual_seed(0)
    swinunetr = build_swinunetr(1, feature_size=12, window_size=4)
    names = set(swinunetr.state_dict())
    model = PretrainingNetwork(swinunetr)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        views = pretraining_batch(cases, RECIPE, 1)
        found = pretraining.task_losses(model(views.masked), views, RECIPE)
        optimizer.zero_grad()
        sum(found.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(found["reconstruction"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert set(swinunetr.state_dict()) == names
    scores = pretraining.evaluate_tasks(model, cases, RECIPE, CPU)
    assert set(scores) == {"reconstruction", "rotation", "contrast", "rotation_accuracy"}
    assert model.training and scores == pretraining.evaluate_tasks(model, cases, RECIPE, CPU)
