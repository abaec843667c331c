"""From logits on the training grid to labels on the scan's own, in bundles too."""

import numpy as np
import torch
from conftest import write_case
from monai.transforms import Activationsd, AsDiscreted, Compose, LoadImaged, ResampleToMatchd

from swinunetr.data.transforms import preprocessing
from swinunetr.results import resampling
from swinunetr.results.resampling import LabelsOnScand
from swinunetr.training.parameters import choose_recipe

OBLIQUE = np.array([[2.8, -0.9, 0.5, -30], [1.0, 2.8, 0, 20], [-0.5, 0.2, 2.9, 5], [0, 0, 0, 1]])


def test_the_labels_of_slabs_are_those_of_monais_transforms_on_the_whole_scan(tmp_path, monkeypatch):
    file = str(tmp_path / write_case(tmp_path, 1, shape=(40, 36, 30), affine=OBLIQUE)["image"])
    case = preprocessing(choose_recipe("demo"), "CT", ("image",))({"image": file})
    logits = torch.randn(4, *case["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    scan = LoadImaged("scan", image_only=True, ensure_channel_first=True)({"scan": file})["scan"]
    whole = Compose(
        [
            Activationsd("pred", softmax=True),
            ResampleToMatchd("pred", "scan", mode="bilinear", padding_mode="zeros", dtype=np.float32),
            AsDiscreted("pred", argmax=True),
        ]
    )
    on_grid = case["image"].clone()
    on_grid.set_array(logits)
    expected = whole({"pred": on_grid, "scan": scan})["pred"]
    monkeypatch.setattr(resampling, "SLAB_VOXELS", 7 * 36 * 30)
    found = LabelsOnScand("pred")({"pred": logits.clone(), "image": case["image"]})["pred"]
    assert found.shape == (1, 40, 36, 30) and found.dtype is torch.uint8 and len(found.unique()) == 4
    assert (found.as_tensor() == expected.as_tensor()).float().mean() > 0.9999
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-5)
