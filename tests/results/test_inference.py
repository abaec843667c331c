"""Resampling to the scan's own grid, files of predictions, and sliding-window inference with axis flips."""

import copy
import gzip
import weakref
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import SMALL, write_case
from monai.networks.utils import one_hot
from nibabel.affines import voxel_sizes

from swinunetr.data.preprocessing import prepare_cases
from swinunetr.errors import InputError
from swinunetr.hardware import find_hardware
from swinunetr.results import inference, resampling
from swinunetr.results.metrics import confusion_matrix, dice_per_organ


def rotation(axis, degrees):
    angle, (a, b) = np.deg2rad(degrees), [i for i in range(3) if i != axis]
    matrix = np.eye(4)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


AFFINES = {
    "flipped": np.diag([-1.2, -1.3, 2.1, 1.0]),
    "permuted": np.array([[0, 0, 2.0, 4], [1.5, 0, 0, 5], [0, -1.5, 0, 6], [0, 0, 0, 1.0]]),
    "oblique": rotation(2, 12) @ rotation(0, -7) @ np.diag([-1.4, 1.5, 1.9, 1]) + np.eye(4, k=3) * 30,
}


def preprocessed_case(folder, **details):
    """Return one preprocessed case and the paths of its files."""
    files = {key: str(folder / file) for key, file in write_case(folder, 1, **details).items()}
    (case,) = prepare_cases([{"name": "c", **files}], SMALL, "CT")
    return case, files


def perfect(case):
    """Return the probabilities of a perfect prediction."""
    return one_hot(case["label"].as_tensor()[None].long(), 3)[0]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_ground_truth_resampled_to_the_training_grid_and_back_stays_in_place(tmp_path, affine):
    case, files = preprocessed_case(tmp_path, affine=affine)
    labels = inference.resample_labels(perfect(case), case["image"])[0]
    truth = np.asarray(nib.load(files["label"]).dataobj)
    assert labels.shape == truth.shape and labels.dtype == np.uint8
    assert dice_per_organ(confusion_matrix(torch.tensor(labels), torch.tensor(truth), 3)).min() > 0.93


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_resampling_in_slabs_gives_the_same_labels(tmp_path, affine, monkeypatch):
    case, _ = preprocessed_case(tmp_path, affine=affine)
    probabilities = torch.rand(4, *case["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    whole = inference.resample_labels(probabilities, case["image"])[0]
    monkeypatch.setattr(resampling, "SLAB_VOXELS", 3 * whole.shape[1] * whole.shape[2])
    slabs = inference.resample_labels(probabilities, case["image"])[0]
    assert len(np.unique(whole)) == 4
    assert (slabs != whole).mean() < 1e-4  # equal probabilities may be rounded differently


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_itk_reads_a_prediction_at_the_position_of_its_scan(tmp_path, affine):
    case, files = preprocessed_case(tmp_path, affine=affine)
    scan = nib.load(files["image"])
    scan.set_qform(scan.affine, code=1)
    nib.save(scan, files["image"])
    labels = inference.resample_labels(perfect(case), case["image"])[0]
    inference.save_prediction(labels, files["image"], tmp_path / "out/c.nii.gz")

    saved, source = (nib.load(file) for file in (tmp_path / "out/c.nii.gz", files["image"]))
    assert saved.get_data_dtype() == np.uint8
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-6)
    for form in ("sform_code", "qform_code"):
        assert saved.header[form] == source.header[form]
    itk, itk_scan = (sitk.ReadImage(str(file)) for file in (tmp_path / "out/c.nii.gz", files["image"]))
    assert itk.GetSize() == itk_scan.GetSize() == labels.shape
    np.testing.assert_allclose(itk.GetSpacing(), voxel_sizes(affine), atol=1e-4)
    for corner in [(0, 0, 0), (10, 20, 30), tuple(n - 1 for n in labels.shape)]:
        place = itk.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(place, itk_scan.TransformIndexToPhysicalPoint(corner), atol=1e-4)
        in_ras = np.multiply(place, [-1, -1, 1])  # x and y of ITK point to the patient's left and back
        # ITK uses the float32 quaternion of the header, which is off by 2e-4 mm at the last corner, also for the scan.
        np.testing.assert_allclose(in_ras, nib.affines.apply_affine(affine, corner), atol=5e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(itk).transpose(), labels)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["c.nii.gz"]


def test_the_segmentation_of_a_scan_with_one_slice_has_one_slice(tmp_path):
    image, label = np.full((70, 72, 1), 40, np.int16), np.zeros((70, 72, 1), np.uint8)
    label[20:50, 20:50] = 1
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 5, 1])), tmp_path / f"{name}.nii.gz")
    files = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
    (case,) = prepare_cases([{"name": "slice", **files}], SMALL, "CT")
    labels = inference.resample_labels(perfect(case), case["image"])[0]
    np.testing.assert_array_equal(labels, label)


def test_a_prediction_of_background_only_stays_background(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    probabilities = torch.zeros(3, *case["image"].shape[1:])
    probabilities[0] = 1
    assert not inference.resample_labels(probabilities, case["image"])[0].any()


def test_a_prediction_of_another_shape_is_not_saved(tmp_path):
    names = write_case(tmp_path, 1)
    with pytest.raises(InputError, match="shape"):
        inference.save_prediction(np.zeros((2, 2, 2), np.uint8), tmp_path / names["image"], tmp_path / "p.nii.gz")
    assert not (tmp_path / "p.nii.gz").exists()


def test_a_full_disk_leaves_the_previous_prediction(tmp_path, monkeypatch):
    case, files = preprocessed_case(tmp_path)
    labels = inference.resample_labels(perfect(case), case["image"])[0]
    inference.save_prediction(labels, files["image"], tmp_path / "out/c.nii.gz")
    before = (tmp_path / "out/c.nii.gz").read_bytes()

    def full(image, path):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference.nib, "save", full)
    with pytest.raises(InputError, match="No space left on device.*Free disk space"):
        inference.save_prediction(labels, files["image"], tmp_path / "out/c.nii.gz")
    assert (tmp_path / "out/c.nii.gz").read_bytes() == before
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["c.nii.gz"]


class DependsOnDirection(torch.nn.Module):
    """A network with an output that depends on the direction of the first axis."""

    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[2]).reshape(1, 1, -1, 1, 1).expand_as(x)
        return torch.cat([ramp, 2 * x], dim=1)


def test_flips_average_over_all_flipped_volumes():
    image = torch.rand(1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = inference.predict(DependsOnDirection(), image, SMALL, find_hardware())
    flipped = inference.predict(DependsOnDirection(), image, SMALL, find_hardware(), flips=True)
    assert plain[0].std() > 0.2
    torch.testing.assert_close(flipped[0], torch.full_like(flipped[0], 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(flipped[1], plain[1], atol=0.01, rtol=0)  # this output is flipped with the volume


class FullMemory:
    """A sliding window whose calls fail as on a GPU without free memory; it keeps what it was called with."""

    def __init__(self, failing_calls):
        self.failing, self.calls, self.kept = failing_calls, [], []

    def __call__(self, model, batch, recipe, hardware, stitch_on):
        large = torch.zeros(3)  # stands for the tensors of an attempt
        freed = all(tensor() is None for tensor in self.kept)
        self.kept.append(weakref.ref(large))
        self.calls.append((recipe.windows_per_batch, str(stitch_on), freed))
        if len(self.calls) in self.failing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return batch[0].float() + len(self.calls)


def test_a_scan_that_does_not_fit_into_the_gpu_is_collected_in_main_memory(monkeypatch):
    slide = FullMemory({1})
    monkeypatch.setattr(inference, "slide_window", slide)
    image = torch.rand(1, 4, 4, 4)
    logits = inference.predict(torch.nn.Identity(), image, SMALL, find_hardware())
    assert torch.equal(logits, image + 2)
    # The second attempt begins when nothing keeps the tensors of the first one.
    assert slide.calls == [(SMALL.windows_per_batch, "cpu", True), (1, "cpu", True)]


def test_memory_that_fills_up_in_a_later_flip_changes_nothing(monkeypatch):
    image = torch.rand(1, 4, 4, 4)
    monkeypatch.setattr(inference, "slide_window", FullMemory({4}))
    logits = inference.predict(torch.nn.Identity(), image, SMALL, find_hardware(), flips=True)
    torch.testing.assert_close(logits, image + (1 + 2 + 3 + 5 + 6 + 7 + 8 + 9) / 8)


def test_a_gpu_too_small_for_one_window_is_one_message(monkeypatch):
    monkeypatch.setattr(inference, "slide_window", FullMemory({1, 2}))
    with pytest.raises(InputError, match="The GPU's memory is full. Lower crops_per_volume.*2 GiB"):
        inference.predict(torch.nn.Identity(), torch.rand(1, 4, 4, 4), SMALL, find_hardware())


def test_cases_are_segmented_one_after_another(tmp_path):
    case, files = preprocessed_case(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Conv3d(1, 3, 1)
    alone = inference.label_case(model, case, SMALL, find_hardware())
    inference.save_prediction(alone.on_own_grid, case["source"], tmp_path / "alone.nii.gz")
    cases = [case, case]
    for segmented in inference.segment_cases(model, cases, SMALL, find_hardware(), tmp_path / "out", "abc"):
        assert segmented.case is case and torch.equal(segmented.on_training_grid, alone.on_training_grid)
        np.testing.assert_array_equal(segmented.on_own_grid, alone.on_own_grid)
    assert (tmp_path / "out/c.nii.gz").read_bytes()[10:] == (tmp_path / "alone.nii.gz").read_bytes()[10:]


def test_the_largest_component_is_in_what_was_written_and_not_in_what_was_predicted(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    torch.manual_seed(0)
    model, recipe = torch.nn.Conv3d(1, 3, 1), replace(SMALL, largest_component=("b",))
    (segmented,) = inference.segment_cases(model, [case], recipe, find_hardware(), tmp_path / "out", "abc")
    assert segmented.file == tmp_path / "out/c.nii.gz" and (segmented.written != segmented.on_own_grid).any()
    np.testing.assert_array_equal(nib.load(segmented.file).dataobj, segmented.written)
    expected = inference.largest_components(segmented.on_own_grid, [1])
    np.testing.assert_array_equal(segmented.written, expected)


def test_an_ensemble_averages_the_probabilities_of_its_networks(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    networks = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        networks.append(torch.nn.Conv3d(1, 3, 1))
    probabilities = [
        inference.predict(network, case["image"], SMALL, find_hardware()).softmax(0) for network in networks
    ]
    expected = (sum(probabilities) / 3).argmax(0)
    assert not any(torch.equal(one.argmax(0), expected) for one in probabilities[:1])
    states = [network.state_dict() for network in networks]
    labels, on_own_grid, _ = inference.label_case(torch.nn.Conv3d(1, 3, 1), case, SMALL, find_hardware(), states)
    assert (labels != expected).float().mean() < 1e-4  # equal probabilities may be rounded differently
    same, *_ = inference.label_case(networks[0], case, SMALL, find_hardware(), states[:1] * 2)
    alone, *_ = inference.label_case(networks[0], case, SMALL, find_hardware())
    assert torch.equal(same, alone) and on_own_grid.dtype == np.uint8


def test_uncertainty_is_0_where_one_class_is_certain_and_1_where_all_are_equal(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    certain = perfect(case)
    labels, uncertainty = inference.resample_labels(certain, case["image"], uncertainty=True)
    inner = uncertainty[20:24, 20:24, 14:18]  # within the first box
    assert (labels[20:24, 20:24, 14:18] == 1).all() and not inner.any()
    equal = torch.full_like(certain, 1 / 3, dtype=torch.float32)
    assert (inference.resample_labels(equal, case["image"], uncertainty=True)[1][20:24, 20:24, 14:18] == 255).all()
    halves = torch.zeros_like(equal)
    halves[:2] = 0.5
    found = inference.resample_labels(halves, case["image"], uncertainty=True)[1]
    assert (found[20:24, 20:24, 14:18] == round(255 * np.log(2) / np.log(3))).all()
    assert inference.resample_labels(halves, case["image"])[1] is None


def test_networks_that_disagree_are_more_uncertain_together(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    states = []
    for favoured in (0, 1):  # each is sure of another class
        network = torch.nn.Conv3d(1, 3, 1)
        torch.nn.init.zeros_(network.weight)
        with torch.no_grad():
            network.bias.copy_(20 * torch.eye(3)[favoured])
        states.append(copy.deepcopy(network.state_dict()))
    run = {"model": network, "case": case, "recipe": SMALL, "hardware": find_hardware(), "uncertainty": True}
    alone = inference.label_case(**run)
    together = inference.label_case(**run, ensemble=states)
    middle = tuple(n // 2 for n in alone.uncertainty.shape)
    assert alone.uncertainty[middle] == 0 and together.uncertainty[middle] == round(255 * np.log(2) / np.log(3))


def test_a_certain_class_is_certain_at_the_edge_of_the_training_grid_too(tmp_path):
    case, _ = preprocessed_case(tmp_path)
    image = case["image"]
    image.meta["original_affine"] = np.diag([1.9, 1.9, 5.0, 1.0])  # ends between two voxels of the training grid
    image.meta["spatial_shape"] = [60, 60, 40]
    probabilities = torch.zeros(3, *image.shape[1:])
    probabilities[1] = 1
    labels, uncertainty = inference.resample_labels(probabilities, image, uncertainty=True)
    assert set(np.unique(labels)) == {0, 1} and uncertainty.max() == 0


def test_only_the_largest_piece_of_the_chosen_organs_is_kept():
    labels = np.zeros((8, 8, 3), np.uint8)
    labels[0:3, 0:3, 0], labels[3, 3, 1], labels[6, 6, 0] = 1, 1, 1  # the second touches the first at a corner
    labels[0:2, 5:7, 2], labels[7, 0, 2] = 2, 2
    before = labels.copy()
    kept = inference.largest_components(labels, [1])
    assert kept[3, 3, 1] == 1 and kept[6, 6, 0] == 0 and kept[7, 0, 2] == 2
    assert (kept == 1).sum() == 10
    assert inference.largest_components(labels, [1, 2])[7, 0, 2] == 0
    assert inference.largest_components(labels, []) is labels
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("axes", [3, 4])
def test_a_prediction_has_the_format_of_its_scan(tmp_path, form, axes):
    names = write_case(tmp_path, 1)
    scan = nib.load(tmp_path / names["image"])
    voxels = np.asarray(scan.dataobj).reshape(*scan.shape, *[1] * (axes - 3))
    nib.save(form(voxels, scan.affine), tmp_path / "scan.nii")
    (case,) = prepare_cases([{"name": "c", "image": str(tmp_path / "scan.nii")}], SMALL, "CT")
    labels = np.ones(tuple(case["image"].meta["spatial_shape"]), np.uint8)
    inference.save_prediction(labels, tmp_path / "scan.nii", tmp_path / "out.nii.gz")
    saved = nib.load(tmp_path / "out.nii.gz")
    assert type(saved) is form and saved.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(saved.dataobj, labels)
    np.testing.assert_allclose(saved.affine, scan.affine)


def test_free_text_of_the_scan_is_not_copied_into_a_prediction(tmp_path):
    case, files = preprocessed_case(tmp_path)
    scan = nib.load(files["image"])
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        scan.header[name] = b"Jane Doe"
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, born 1970"))
    nib.save(scan, tmp_path / "named.nii.gz")
    labels = inference.resample_labels(perfect(case), case["image"])[0]
    inference.save_prediction(labels, tmp_path / "named.nii.gz", tmp_path / "out.nii")
    assert b"Jane" in gzip.decompress((tmp_path / "named.nii.gz").read_bytes())
    assert b"Jane" not in (tmp_path / "out.nii").read_bytes()
