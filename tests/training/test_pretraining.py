"""Views of unlabelled volumes, and the tasks of pre-training."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PROJECT, write_case

from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import read_unlabelled
from swinunetr.data.phantoms import FIRST_UNLABELLED, write_unlabelled_phantoms
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError
from swinunetr.hardware import Hardware
from swinunetr.network.checkpoints import build_swinunetr
from swinunetr.network.placement import place_network
from swinunetr.recipe import PRETRAINING_DEMO
from swinunetr.training import pretraining
from swinunetr.training.pretraining import PretrainingNetwork, Views, pretraining_batch

RECIPE = replace(PRETRAINING_DEMO, spacing_mm=(1.5, 1.5, 2.0))
CPU = Hardware(torch.device("cpu"), None, "CPU")


def prepared(root, recipe=RECIPE, modality="CT"):
    """Return the preprocessed training cases of a folder."""
    dataset = read_unlabelled(root, modality=modality)
    return prepare_cases(dataset.training, recipe, dataset.modality)


def test_a_small_volume_is_padded_and_a_constant_one_raises_input_error(scans):
    write_case(scans, 4, shape=(40, 44, 32))
    batch = pretraining_batch(prepared(scans), RECIPE, 1)
    assert batch.masked.shape == (4, 1, *RECIPE.crop_size)
    nib.save(nib.Nifti1Image(np.full((40, 40, 40), -1000, np.int16), np.eye(4)), scans / "imagesTr/constant.nii.gz")
    with pytest.raises(InputError, match="all voxels are -1000"):
        check_dataset(read_unlabelled(scans), RECIPE.spacing_mm)


def test_other_modalities_are_scaled_by_percentiles(tmp_path):
    for number in (1, 2, 3):
        values = np.random.default_rng(number).gamma(2, 300, (70, 70, 70)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 2.0, 1.0])), tmp_path / f"mr{number}.nii.gz")
    (image, *_) = (case["image"].float() for case in prepared(tmp_path, modality="MR"))
    assert 0.15 < image.mean() < 0.35 and image.max() == 1  # in the window of CT, almost all voxels would be 1


def test_unlabelled_phantoms_are_not_those_of_fine_tuning(tmp_path):
    used = {
        int("".join(filter(str.isdigit, entry["image"].split("/")[-1].removesuffix(".nii.gz"))))
        for file in (PROJECT / "json_files").iterdir()
        for entry in [*json.loads(file.read_text())["training"], *json.loads(file.read_text())["validation"]]
    }
    assert max(used) < FIRST_UNLABELLED
    folder = write_unlabelled_phantoms(tmp_path, 2)
    one, other = (nib.load(file).get_fdata() for file in sorted(folder.glob("*.nii.gz")))
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_a_batch_depends_only_on_seed_and_number(scans):
    cases = prepared(scans)
    one, again, other = (pretraining_batch(cases, RECIPE, number) for number in (3, 3, 4))
    assert torch.equal(one.masked, again.masked) and torch.equal(one.whole, again.whole)
    assert not torch.equal(one.whole, other.whole)
    seeded = pretraining_batch(cases, replace(RECIPE, seed=1), 3)
    assert not torch.equal(one.whole, seeded.whole)


def test_both_views_of_a_crop_are_rotated_and_only_the_input_is_masked(scans):
    cases = prepared(scans)
    before = [case["image"].clone() for case in cases]
    for number in range(1, 9):
        views = pretraining_batch(cases, RECIPE, number)
        back = [torch.rot90(w, -int(t), (1, 2)) for w, t in zip(views.whole, views.rotations, strict=True)]
        assert torch.equal(back[0], back[2]) and torch.equal(back[1], back[3])
        changed = (views.masked != views.whole).float().mean((1, 2, 3, 4))
        assert (changed > 0.4).all() and (changed < 0.8).all()
    assert all(torch.equal(a, case["image"]) for a, case in zip(before, cases, strict=True))


def test_an_unused_task_has_no_views_no_head_and_no_loss(scans):
    cases, recipe = prepared(scans), replace(RECIPE, tasks="reconstruction")
    views = pretraining_batch(cases, recipe, 1)
    assert views.masked.shape == (2, 1, *recipe.crop_size) and not views.rotations.any()
    model = PretrainingNetwork(build_swinunetr(1, feature_size=12, window_size=4), recipe.tasks)
    assert set(pretraining.task_losses(model(views.masked), views, recipe)) == {"reconstruction"}
    assert not list(model.heads.parameters())


def test_mask_ratio_is_about_the_share_of_masked_voxels(scans):
    cases, masked = prepared(scans), []
    for ratio in (0.15, 0.6):
        views = [pretraining_batch(cases, replace(RECIPE, mask_ratio=ratio), number) for number in range(1, 13)]
        masked.append(float(np.mean([(v.masked != v.whole).float().mean() for v in views])))
    assert masked == pytest.approx([0.15, 0.6], abs=0.1)


def test_losses_agree_with_values_computed_by_hand():
    whole = torch.rand(4, 1, 4, 4, 4)
    masked = whole.clone()
    masked[..., :2] = 2  # the other half stays visible and does not count in the loss
    views = Views(masked, whole, torch.tensor([0, 1, 2, 3]), "")
    embeddings = torch.eye(2).repeat(2, 1)  # two views of two crops: the same for one crop, orthogonal otherwise
    reconstruction = torch.cat([whole[..., :2] + 0.5, whole[..., 2:] + 9], dim=-1)
    outputs = {"reconstruction": reconstruction, "rotation": torch.zeros(4, 4), "contrast": embeddings}
    losses = pretraining.task_losses(outputs, views, replace(RECIPE, temperature=0.5))
    assert float(losses["reconstruction"]) == pytest.approx(0.5)
    assert float(losses["rotation"]) == pytest.approx(math.log(4))
    assert float(losses["contrast"]) == pytest.approx(math.log(math.exp(2) + 2) - 2, rel=1e-5)
    others = {"rotation": torch.eye(4) * 50, "contrast": embeddings.roll(1, 0)[[0, 0, 1, 1]]}
    changed = pretraining.task_losses(outputs | others, views, RECIPE)
    assert float(changed["rotation"]) < 1e-6 and changed["contrast"] > losses["contrast"]


def test_all_of_the_network_learns_and_keeps_the_tensor_names_of_swinunetr(scans, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT_BATCHES", 2)
    recipe = replace(RECIPE, crop_size=(32, 32, 64))  # small, for speed
    cases = prepared(scans)
    torch.manual_seed(0)
    swinunetr = build_swinunetr(1, feature_size=12, window_size=4)
    names = set(swinunetr.state_dict())
    model = PretrainingNetwork(place_network(swinunetr, CPU))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(4):
        views = pretraining_batch(cases, recipe, 1)
        found = pretraining.task_losses(model(views.masked), views, recipe)
        optimizer.zero_grad()
        sum(found.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(found["reconstruction"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert set(swinunetr.state_dict()) == names
    scores = pretraining.evaluate_tasks(model, cases, recipe, CPU)
    assert set(scores) == {"reconstruction", "rotation", "contrast", "rotation_accuracy"}
    assert model.training and scores == pretraining.evaluate_tasks(model, cases, recipe, CPU)


def test_crops_of_air_have_a_finite_loss_and_gradient(scans):
    air = torch.zeros(4, 1, 32, 32, 64)
    views = Views(air, air.clone(), torch.tensor([0, 1, 2, 3]), "air")
    torch.manual_seed(0)
    model = PretrainingNetwork(build_swinunetr(1, feature_size=12, window_size=4))
    losses = pretraining.task_losses(model(views.masked), views, RECIPE)
    assert losses["reconstruction"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
