"""Figures of scans, cases, crops and segmentations."""

from dataclasses import replace

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SMALL, prepared, write_case
from matplotlib.colors import to_hex
from monai.data import MetaTensor
from monai.transforms import Compose

from swinunetr.data.label_maps import IGNORED, LabelMap
from swinunetr.data.organs import organ_colours
from swinunetr.data.preprocessing import prepare_cases
from swinunetr.results import plots
from swinunetr.training.augmentation import augmentation

ORGANS = ("left box", "right box")


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


def legend(figure) -> list[str]:
    """Return the entries of the legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def numbers(ax) -> list:
    """Return the numbers of organs in a panel, which has letters too."""
    return [text for text in ax.texts if text.get_text().isdigit()]


def letters(ax) -> list[str]:
    """Return the letters at the edges of a panel."""
    return [text.get_text() for text in ax.texts if text.get_text() in tuple("RLAPSI")]


def written(folder, **options) -> tuple[dict, dict[str, str]]:
    """Return a preprocessed case with two boxes, and its entry in a list."""
    files = {key: str(folder / file) for key, file in write_case(folder, 1, **options).items()}
    entry = {"name": "img0001", **files}
    (case,) = prepare_cases([entry], SMALL, "CT")
    return case, entry


def fills_of(ax) -> np.ndarray:
    """Return the labels that cover a slice."""
    return np.unique(np.ma.concatenate([image.get_array().ravel() for image in ax.images[1:]]).compressed())


def test_outlines_are_solid_for_the_ground_truth_and_dashed_for_the_prediction(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    (case,) = prepare_cases([{"name": "img0001", **files}], SMALL, "CT")
    figure = plots.plot_contours(case, files["label"], "left box", ORGANS, (-175, 250))
    assert legend(figure)[:2] == ["1 left box", "2 right box"] and len(legend(figure)) == 4
    styles = [line.get_linestyle() for line in figure.legends[0].get_lines()]
    assert styles == ["-", "--"] and legend(figure)[2:] == ["ground truth", "prediction"]
    colours = {to_hex(c.get_edgecolor()[0]) for ax in figure.axes for c in ax.collections if len(c.get_edgecolor())}
    assert {colour.lower() for colour in organ_colours(1)} <= colours


def test_ignored_voxels_are_not_drawn_as_an_organ(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    label_map = LabelMap("a", ((0, IGNORED), (1, 2), (2, IGNORED)))
    entry = {"name": "img0001", **files, "label_map": label_map}
    (case,) = prepare_cases([entry], SMALL, "CT")
    crop = [{key: case[key][..., :40] for key in ("image", "label")}]  # the box is in its middle slice
    for figure in (plots.plot_scan(entry, ORGANS, None), plots.plot_augmentation(case, crop, crop, ORGANS)):
        assert legend(figure) == ["right box"]
    figure = plots.plot_contours(case, files["label"], "right box", ORGANS, (-175, 250))
    assert not numbers(figure.axes[0])
    (number,) = numbers(figure.axes[3])  # of the ground truth: the box with id 1 in the file
    assert number.get_text() == "2" and number.get_position()[0] == pytest.approx(19.5)


def test_a_segmentation_is_shown_on_three_planes_with_its_organs_alone(tmp_path):
    files = {key: str(tmp_path / file) for key, file in write_case(tmp_path, 1).items()}
    figure = plots.plot_segmentation("folder/scan", files["image"], files["label"], ORGANS, (-175, 250))
    assert figure.get_suptitle() == "folder/scan" and len(figure.axes) == 3
    assert legend(figure) == ["1 left box", "2 right box"]
    assert all(ax.collections for ax in figure.axes)


def test_a_scan_is_shown_with_its_organs_and_its_intensities(tmp_path):
    _, entry = written(tmp_path)
    figure = plots.plot_scan(entry, ORGANS, (-175, 250))
    *panels, bar, histogram = figure.axes
    assert [len(ax.images) for ax in panels] == [1, 1, 1, 2, 2, 2] and legend(figure) == list(ORGANS)
    assert [letters(ax) for ax in panels[:3]] == [["R", "L"], ["R", "L"], ["P", "A"]]
    assert bar.get_title() == "HU" and panels[0].images[0].get_clim() == (-175, 250)
    texts = {text.get_text().strip() for text in histogram.texts}
    assert {"air", "fat", "water", "soft tissue", "black: -175", "white: 250"} <= texts
    assert histogram.get_yscale() == "log"


def test_another_modality_has_no_hu(tmp_path):
    _, entry = written(tmp_path)
    figure = plots.plot_scan(entry, ORGANS, None)
    *_, bar, histogram = figure.axes
    assert bar.get_title() == "intensity"
    assert {text.get_text().split(":")[0].strip() for text in histogram.texts} == {"black", "white"}


def test_a_scan_without_a_label_has_one_row(tmp_path):
    _, entry = written(tmp_path)
    figure = plots.plot_scan({"name": "a", "image": entry["image"]}, ORGANS, (-175, 250))
    assert len(figure.axes) == 3 + 2 and not figure.legends


@pytest.mark.parametrize(("slices", "panels"), [(5, 3), (2, 2), (1, 1)])
def test_a_thin_scan_is_shown_on_slices_along_its_short_axis(tmp_path, slices, panels):
    """Other planes would be strips in white space."""
    entry = {"name": "a"}
    for key, file in write_case(tmp_path, 1).items():
        image = nib.load(tmp_path / file)
        entry[key] = str(tmp_path / f"{key}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, 20 : 20 + slices], image.affine), entry[key])
    titles = [ax.get_title() for ax in plots.plot_scan(entry, ORGANS, (-175, 250)).axes[:panels]]
    assert len(set(titles)) == panels and all(title.startswith("axial") for title in titles)
    figure = plots.plot_segmentation("a", entry["image"], entry["label"], ORGANS, None)
    assert len(figure.axes) == panels


@pytest.mark.parametrize("shape", [(70, 72, 68), (70, 72, 8)])
def test_panels_fill_the_width_of_the_figure(tmp_path, shape):
    image = np.zeros(shape, np.float32)
    for key in ("image", "label"):
        nib.save(nib.Nifti1Image(image, np.diag([1.5, 1.5, 2, 1])), tmp_path / f"{key}.nii.gz")
    figure = plots.plot_segmentation("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", ORGANS, (0, 1))
    boxes = [ax.get_position(original=True) for ax in figure.axes]
    drawn = [ax.get_position() for ax in figure.axes]
    figure.canvas.draw()
    assert sum(box.width for box in boxes) > 0.95
    assert all(abs(a.width - b.width) < 1e-6 for a, b in zip(boxes, drawn, strict=True))


def test_stages_are_drawn_as_they_are_stored(tmp_path):
    volume = torch.arange(4.0 * 5 * 6).reshape(1, 4, 5, 6)
    stages = {
        "LoadImaged": MetaTensor(volume, affine=torch.diag(torch.tensor([-2.0, -2, 3, 1]))),
        "Orientationd": MetaTensor(volume.flip(1, 2)[0], affine=torch.diag(torch.tensor([2.0, 2, 3, 1]))),
        "ScaleIntensityRanged": MetaTensor(volume / 120, affine=torch.diag(torch.tensor([2.0, 2, 3, 1]))),
    }
    figure = plots.plot_stages(stages, (-175, 250))
    loaded, _, turned, _, scaled, _ = figure.axes
    assert letters(loaded) == ["L", "R", "A", "P"] and letters(turned) == ["R", "L", "P", "A"]
    assert np.array_equal(loaded.images[0].get_array(), volume[0, :, :, 3].T)
    assert loaded.images[0].get_clim() == (-175, 250) and scaled.images[0].get_clim() == (0, 1)
    titles = [text.get_text() for text in figure.texts]
    assert titles[0] == "LoadImaged\naxes LPS, 4 x 5 x 6\n2 x 2 x 3 mm" and "axes RAS" in titles[1]


def test_panels_of_stages_have_one_scale():
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1]))
    stages = {
        "a": MetaTensor(torch.rand(80, 60, 40), affine=affine),
        "b": MetaTensor(torch.rand(40, 30, 20), affine=affine),
    }
    figure = plots.plot_stages(stages)
    sizes = [ax.get_position(original=True).size for ax in figure.axes]
    assert np.allclose(sizes[0], 2 * sizes[2]) and np.allclose(sizes[1], 2 * sizes[3])


def cut_and_changed(case, recipe):
    augment = augmentation(recipe)
    augment.set_random_state(0)
    cut, *changes = augment.transforms
    crops = cut(case)
    return crops, [Compose(changes)(crop) for crop in crops]


@pytest.mark.parametrize("count", [1, 6])
def test_boxes_of_crops_lie_where_the_crops_were_cut(tmp_path, count):
    case, _ = written(tmp_path)
    recipe = replace(SMALL, crop_size=(64, 32, 32), crops_per_volume=count, rotate_probability=0.0)
    crops, changed = cut_and_changed(case, recipe)
    before = [crop["image"].clone() for crop in crops]
    figure = plots.plot_augmentation(case, crops, changed, ORGANS)
    shown = min(count, 4)
    axial, coronal, *panels = figure.axes
    assert len(panels) == 2 * shown and [len(ax.patches) for ax in (axial, coronal)] == [shown] * 2
    for i, crop in enumerate(crops[:shown]):
        (left, front), (_, bottom) = axial.patches[i].get_xy(), coronal.patches[i].get_xy()
        x, y, z = (round(corner + 0.5) for corner in (left, front, bottom))
        cut = case["image"].as_tensor()[:, x : x + 64, y : y + 32, z : z + 32]
        assert torch.equal(cut, crop["image"].as_tensor())
        assert np.array_equal(panels[2 * i].images[0].get_array(), cut[0, :, :, 16].T)
        assert panels[2 * i].patches[0].get_edgecolor() == axial.patches[i].get_edgecolor()
    assert all(torch.equal(crop["image"], image) for crop, image in zip(crops, before, strict=True))


def test_a_validation_shows_the_prediction_filled_and_the_ground_truth_as_outlines(tmp_path):
    case, _ = written(tmp_path)
    labels = torch.zeros(case["label"].shape[1:], dtype=torch.int64)
    labels[15:25, 15:25, 15:25] = 2
    case["label"][case["label"] == 1] = IGNORED
    figure = plots.plot_validation(case, labels, ORGANS, "step 5: 100% & $")
    assert len(figure.axes) == 2 and max(figure.get_size_inches()) < 5 and plt.fignum_exists(figure.number)
    colours = {to_hex(c.get_edgecolor()[0]) for ax in figure.axes for c in ax.collections}
    assert colours == {organ_colours(2)[1].lower()}
    assert all(set(fills_of(ax)) <= {2} for ax in figure.axes)


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (5, [0, 2, 4]), (11, [0, 2, 4, 6, 8, 10])]
)
def test_pictures_fill_one_row_or_two(tmp_path, count, shown):
    files = [tmp_path / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        plt.imsave(file, np.full((20, 30, 3), i / 20))
    figure = plots.plot_side_by_side(files)
    values = [float(ax.images[0].get_array()[0, 0, 0]) for ax in figure.axes]
    assert np.allclose(values, [i / 20 for i in shown], atol=0.01)


def test_without_pictures_the_figure_says_so():
    figure = plots.plot_side_by_side([])
    assert "no pictures" in figure.texts[0].get_text()


def test_removed_pieces_are_shown_with_their_volume(tmp_path):
    case, entry = written(tmp_path)
    image = nib.load(entry["label"])
    labels = np.asarray(image.dataobj).copy()
    labels[50:60, 50:60, 50:60] = 1  # 1000 voxels of 4.5 mm3
    labels[0, 0, 0] = 1
    prediction = tmp_path / "prediction.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine), prediction)
    figure = plots.plot_components(case, prediction, "left box", ORGANS, (-175, 250))
    assert [ax.get_title() for ax in figure.axes] == [
        "before, from the front",
        "before, from the side",
        "after, from the front",
        "after, from the side",
    ]
    entries = legend(figure)
    assert entries[1] == "removed: 2 pieces, 4.5 ml" and entries[2].startswith("ground truth: ")
    assert [text.get_text() for text in figure.axes[0].texts if "ml" in text.get_text()] == ["4.5 ml", "0.0045 ml"]
    assert not [text for text in figure.axes[2].texts if "ml" in text.get_text()]
    removed = figure.axes[0].images[2].get_array()  # across x, up z; what is masked is not drawn
    assert removed.sum() == 101 and removed[55, 55] == 1 and len(figure.axes[2].images) == 2
    same = plots.plot_components(case, entry["label"], "right box", ORGANS, None)
    assert legend(same)[1] == "removed: 0 pieces, 0.0 ml"


def test_each_case_has_a_panel_in_radiological_convention_and_of_many_some_have(small_data):
    _, cases = prepared(small_data)
    figure = plots.plot_cases(cases, ORGANS)
    assert [ax.get_title() for ax in figure.axes] == [case["name"] for case in cases]
    assert all(ax.xaxis_inverted() for ax in figure.axes) and legend(figure) == list(ORGANS)
    many = plots.plot_cases(list(cases) * 20, ORGANS)
    assert len(many.axes) == 24 and many.axes[-1].get_title() == cases[-1]["name"]


def test_each_view_has_a_panel():
    volumes = torch.rand(3, 1, 8, 8, 4)
    assert len(plots.plot_views({"input": volumes, "target": volumes}).axes) == 6
