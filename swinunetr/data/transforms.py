"""Transforms of a case: one list in the form of MONAI's bundles, for training, for inference and for exported bundles.

Source of the form: https://docs.monai.io/en/stable/config_syntax.html
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Sequence
from threading import Lock

from monai.bundle import ComponentLocator, ConfigParser
from monai.transforms import Compose

from swinunetr.data.modality import is_ct
from swinunetr.data.nifti_reader import NiftiReader
from swinunetr.recipe import CommonRecipe

# Where pydicom is installed, MONAI warns for each file that one more decoder of DICOM, which nothing here uses, is not.
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

PERCENTILES = (0.5, 99.5)  # of a scan's intensities, which become 0 and 1; not for CT, which has a window in HU

# Where MONAI's classes are. The table is filled here, once: that goes through Python's list of modules, which must not
# grow meanwhile, and cases are preprocessed in threads, which may import some.
MONAI_CLASSES = ComponentLocator()
MONAI_CLASSES.get_component_module_name("Compose")
PARSING = Lock()  # Python 3.11 can raise a SystemError where two threads parse expressions, as of `dtype`


def case_transforms(recipe: CommonRecipe, modality: str, labelled: bool = True) -> list[dict]:
    """Return the transforms from the files of a case to tensors on the training grid, as values that JSON can store.

    ``_target_`` is the name of MONAI's transform, and the other items are its arguments. ``@nifti_reader`` stands for
    :class:`NiftiReader`, and a text with ``$`` for the value of a Python expression. A case that is ``labelled`` has a
    ``label`` beside its ``image``; the modality decides how intensities are scaled, see :func:`intensity_window`.
    """
    keys = ["image", "label"] if labelled else "image"
    mode = ["bilinear", "nearest"] if labelled else "bilinear"
    dtype = ["$torch.float16", "$torch.uint8"] if labelled else "$torch.float16"
    if window := intensity_window(recipe, modality):
        to_unit = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": window[0], "a_max": window[1]}
    else:
        low, high = PERCENTILES
        to_unit = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": low, "upper": high}
    spacing_mm, crop_size = list(recipe.spacing_mm), list(recipe.crop_size)
    axes = [["L", "R"], ["P", "A"], ["I", "S"]]
    return [
        {"_target_": "LoadImaged", "keys": keys, "reader": "@nifti_reader", "simple_keys": True},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        {"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": axes},
        {"_target_": "Spacingd", "keys": keys, "pixdim": spacing_mm, "mode": mode, "dtype": "$np.float32"},
        to_unit | {"b_min": 0.0, "b_max": 1.0, "clip": True},
        {"_target_": "CropForegroundd", "keys": keys, "source_key": "image"},  # removes the air around the body
        {"_target_": "SpatialPadd", "keys": keys, "spatial_size": crop_size},  # for scans smaller than a crop
        {"_target_": "CastToTyped", "keys": keys, "dtype": dtype},
    ]


def preprocessing(recipe: CommonRecipe, modality: str, keys: Collection[str] = ("image", "label")) -> Compose:
    """Return :func:`case_transforms` as one transform of a dictionary, which one thread may use at a time.

    The ``image`` becomes float16 in 0..1 and the ``label``, if it is in ``keys``, uint8, both (1, X, Y, Z) in RAS order
    with their affine.
    """
    transforms = case_transforms(recipe, modality, labelled="label" in keys)
    parser = ConfigParser({"nifti_reader": NiftiReader, "transforms": transforms})
    parser.locator = MONAI_CLASSES
    with PARSING:
        return Compose(parser.get_parsed_content("transforms"))


def intensity_window(recipe: CommonRecipe, modality: str) -> tuple[float, float] | None:
    """Return the intensities in HU that become 0 and 1; None for other modalities than CT, which use percentiles."""
    return recipe.hu_window if is_ct(modality) else None


def describe_scaling(window: Sequence[float] | None) -> str:
    """Return in words how intensities become 0 to 1; ``window`` is a result of :func:`intensity_window`."""
    low, high = (f"{hu:g} HU" for hu in window) if window else (f"the {share}th percentile" for share in PERCENTILES)
    return f"{low} to {high} scaled to 0 to 1 and clipped"
