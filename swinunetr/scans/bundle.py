"""A MONAI bundle of a trained model: a folder that plain MONAI runs without this project.

Source: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from monai.networks.nets import SwinUNETR
from torch.export import Dim

from swinunetr.data.geometry import NiftiReader
from swinunetr.data.organs import save_label_names
from swinunetr.data.preprocessing import intensity_window
from swinunetr.errors import InputError
from swinunetr.network.checkpoints import build_swinunetr, find_checkpoint, load_pretrained, save_weights
from swinunetr.network.design import traits_of
from swinunetr.network.merging import LegacyPatchMerging, merging_of
from swinunetr.recipe import Recipe
from swinunetr.results import resampling
from swinunetr.results.inference import evaluating
from swinunetr.results.resampling import LabelsOnScand
from swinunetr.training.settings import noted_training

LICENSE = Path(__file__).parents[2] / "LICENSE"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
RUNNERS = {"pytorch-ignite": "0.4.11", "fire": "0.5.0"}  # what `monai.bundle run` needs and this project does not
LABEL_PACKAGES = ("pydicom<3", "dicomweb-client<0.60", "pynetdicom<3")  # which MONAI Label does not bound
LABEL_TRIED = """The server was tried on 2026-11-28 with MONAI Label 0.8.5, MONAI 1.6.1 and PyTorch 2.15 on Python 3.11:
no voxel differed from `segment.py` of the project that wrote the bundle. 3D Slicer was not tried."""
KEPT_NOTES = ("recipe", "classes", "modality")  # in model.pt; without the names of cases, which may be private

INTENDED_USE = "Research only, not for clinical use"
REFERENCES = (
    "Hatamizadeh, A. et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images. "
    "https://arxiv.org/abs/2201.01266",
    "Tang, Y. et al.: Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis. "
    "https://arxiv.org/abs/2111.14791",
)
MERGING_FILE = "legacy_patch_merging.py"
MERGING_HEADER = '''"""Patch merging in the order with which the weights were trained; MONAI 1.5 changed it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor


'''
READER_FILE = "nifti_reader.py"
READER_HEADER = '''"""Reader of NIfTI files whose affine is nibabel's: the sform if it is set, else the qform."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import nibabel as nib
from monai.data import NibabelReader
from monai.utils import ensure_tuple


'''
README = """# SwinUNETR for {count} structures in {modality}

A MONAI bundle: a trained network with all that it takes to segment scans. {use}.

| id | class |
|---|---|
{classes}

## Run it

In this bundle's folder, for a folder of NIfTI files:

```bash
pip install "monai>={monai},<1.7" nibabel einops {packages}
python -m monai.bundle run --config_file configs/inference.json --dataset_dir /data/scans --output_dir /data/labels
```

`scan.nii.gz` gives `scan_seg.nii.gz` with the ids above, on the scan's own voxels. From another folder, add
`--bundle_root` with the path of this one. A GPU is used if PyTorch finds one; the network computes in float32.

Main memory must hold the class probabilities on the grid of step 1 below, 4 bytes per class and voxel, and the scan
several times.

## What it computes

1. The axes are turned to right, anterior, superior, and the scan is interpolated to voxels of {spacing} mm.
2. Intensities: {scaling}. The air around the body is cropped.
3. A window of {crop} voxels slides over the scan; logits are averaged where windows overlap.
4. Class probabilities are interpolated to the scan's voxels. Each voxel gets the most probable class; voxels outside
   the cropped part are background.

## Training

Data: {data}. Start: {start}. Settings:

| setting | value |
|---|---|
{settings}

## Files

| file | content |
|---|---|
| `configs/inference.json` | preprocessing, network, sliding window and postprocessing |
| `configs/metadata.json` | versions, classes, format of input and output |
| `models/model.pt` | state dict of MONAI's `SwinUNETR` |
| `models/model.pt2` | the same network as a `torch.export` program |
| `scripts/nifti_reader.py` | MONAI's reader of NIfTI without its corrections of headers |
| `scripts/resampling.py` | step 4 above, in slabs of the scan, which saves memory |
| `scripts/legacy_patch_merging.py` | if present: the network's order of patch merging, not in MONAI 1.5 and later |
| `docs/labels.ctbl`, `docs/labels_itksnap.txt` | names and colours of the classes for 3D Slicer and ITK-SNAP |

The network alone, on a CPU, needs only PyTorch, {torch} or later:

```python
import torch

network = torch.export.load("models/model.pt2").module()
logits = network(crops)  # float32 (any number, 1, {shape}), with intensities as above
```

## 3D Slicer and MONAI Label

MONAI Label serves the model, and its module in 3D Slicer shows the result. It needs a virtual environment of its own,
with older packages for DICOM. In the folder that holds this bundle, here called `my_model`:

```bash
python3 -m venv server
source server/bin/activate
pip install "monai>={monai},<1.7" monailabel {label_packages}
monailabel apps --download --name monaibundle --output workspace
mkdir -p workspace/monaibundle/model
cp -r my_model workspace/monaibundle/model/
monailabel start_server --app workspace/monaibundle --studies /data/scans --host 127.0.0.1 \\
    --conf models my_model --conf zoo_source local --conf sam2 false
```

The server answers this machine only; `--host 0.0.0.0` opens it to all, without a password. The last two settings keep
it from downloading other models. Then install the extension MONAILabel in 3D Slicer, enter the server's address,
http://127.0.0.1:8000, load a scan and run the model.

{label_tried}

Without a server, run the command above and open the scan and its `_seg.nii.gz` as a segmentation in 3D Slicer. The
extension MONAIAuto3DSeg offers the models of its own list only.

## References

{references}
"""


def write_bundle(weights: str | Path, folder: str | Path) -> Path:
    """Write a MONAI bundle of a trained model, completely or not at all, and return its folder.

    The bundle segments as ``segment.py`` does without its options, in float32.

    Args:
        weights: ``best_model.pth`` of a fine-tuning run, which stores recipe, classes and modality.
        folder: Folder to make. It may exist if it is empty.

    Raises:
        InputError: The weights are missing or do not store their training, or the folder is in use or cannot be
            written.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"'{folder}' exists. Delete it or choose another folder; nothing was overwritten.")
    model, noted, recipe = _trained_model(weights)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
            new = Path(temporary, folder.name)
            _write_files(new, model, noted, recipe)
            os.replace(new, folder)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises its own on a full disk
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"'{folder}' could not be written ({cause.strerror or cause}). Nothing was left there. Free disk space or "
            "choose another folder."
        ) from error
    return folder


def _trained_model(weights: str | Path) -> tuple[SwinUNETR, dict, Recipe]:
    """Return the network with its weights, the note of its training, and the recipe."""
    weights = find_checkpoint(weights)
    noted, recipe = noted_training(weights)
    model = build_swinunetr(len(noted["classes"]), weights)
    if missing := load_pretrained(model, weights).left_random:
        raise InputError(
            f"'{weights}' has no weights for {next(iter(missing))} of a network with {len(noted['classes'])} classes, "
            "which its note names. Expected the best_model.pth of a fine-tuning run."
        )
    return model, noted, recipe


def _write_files(folder: Path, model: SwinUNETR, noted: Mapping, recipe: Recipe) -> None:
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir(parents=True)
    configs = {
        "metadata": metadata(noted, recipe),
        "inference": inference_config(model, noted["modality"], recipe),
    }
    for name, content in configs.items():
        (folder / f"configs/{name}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    scripts = {READER_FILE: READER_HEADER + inspect.getsource(NiftiReader)}
    if merging_of(model) == "legacy":
        scripts[MERGING_FILE] = MERGING_HEADER + inspect.getsource(LegacyPatchMerging)
    for name, code in scripts.items():
        (folder / "scripts" / name).write_text(code, encoding="utf-8")
    shutil.copy(resampling.__file__, folder / "scripts")
    save_weights(model, folder / "models/model.pt", note={name: noted[name] for name in KEPT_NOTES})
    export_program(model, recipe.crop_size, folder / "models/model.pt2")
    shutil.copyfile(LICENSE, folder / "LICENSE")
    (folder / "docs/README.md").write_text(readme(noted, recipe), encoding="utf-8")
    save_label_names(folder / "docs", noted["classes"])


def export_program(model: SwinUNETR, crop_size: Sequence[int], path: str | Path) -> None:
    """Write a network as a ``torch.export`` program, which needs only PyTorch.

    Its input is (B, C, X, Y, Z), float32, with the axes of the crop and any number B of crops, and its output are the
    logits (B, classes, X, Y, Z).

    Args:
        model: Network on the CPU.
        crop_size: Voxels along each axis.
        path: File to write, with the ending ``.pt2``.
    """
    channels = model.swinViT.patch_embed.proj.in_channels
    crops = torch.zeros(2, channels, *crop_size)  # two, as torch.export takes a size of 1 for a constant
    with evaluating(model):
        program = torch.export.export(model, (crops,), dynamic_shapes={"x_in": {0: Dim("crops")}}, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which has the paths of this machine
    content = io.BytesIO()  # torch.export.save aborts the process if it cannot write to a file
    torch.export.save(program, content)
    Path(path).write_bytes(content.getbuffer())


def inference_config(model: SwinUNETR, modality: str, recipe: Recipe) -> dict:
    """Return ``inference.json``: MONAI's classes and their arguments for segmenting the scans of a folder.

    The preprocessing is that of :func:`swinunetr.data.preprocessing.preprocessing`.
    """
    network = {
        "_target_": "SwinUNETR",
        "out_channels": model.out.conv.conv.out_channels,
        **traits_of(model.state_dict()),
        "downsample": "merging",
    }
    own_code = {
        "nifti_reader": _from_script(READER_FILE, NiftiReader),
        "labels_on_scan": _from_script(Path(resampling.__file__).name, LabelsOnScand),
    }
    if merging_of(model) == "legacy":
        own_code["patch_merging"] = _from_script(MERGING_FILE, LegacyPatchMerging)
        network["downsample"] = "@patch_merging"
    return {
        "imports": ["$import glob", "$import os", "$import sys", "$from pydoc import importfile as load_file"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(sum((glob.glob(os.path.join(glob.escape(str(@dataset_dir)), '*' + ending)) "
        "for ending in ('.nii', '.nii.gz')), []))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **own_code,
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(modality, recipe)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': file} for file in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(recipe.crop_size),
            "sw_batch_size": recipe.windows_per_batch,
            "overlap": recipe.overlap,
            "mode": recipe.window_weights,
            "device": "cpu",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "@labels_on_scan", "keys": "pred"},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "$str(@output_dir)",
                    "output_postfix": "seg",
                    "output_dtype": "$np.uint8",
                    "separate_folder": False,
                    "resample": False,
                },
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": [
            "$@datalist or sys.exit('dataset_dir: found no .nii or .nii.gz files in ' + str(@dataset_dir))",
            # Both kinds of file would be replaced in silence, or taken for scans in the next run.
            "$len({file.removesuffix('.gz') for file in @datalist}) == len(@datalist) or sys.exit('dataset_dir: found "
            "a scan as .nii and as .nii.gz, whose results would have the same name; rename one of them')",
            "$os.path.realpath(str(@output_dir)) != os.path.realpath(str(@dataset_dir)) or sys.exit('output_dir: it is "
            "the folder of the scans; choose another one')",
            "$@evaluator.run()",
        ],
    }


def _from_script(file: str, of: type) -> str:
    """Return the expression of a class in a file of ``scripts``.

    It has the file's path, since programs that run bundles do not always have the bundle's folder on Python's path.
    """
    return f"$load_file(@bundle_root + '/scripts/{file}').{of.__name__}"


def _preprocessing(modality: str, recipe: Recipe) -> list[dict]:
    """Return the transforms of an image from its file to float32 on the training grid, rounded to float16 first."""
    window = intensity_window(recipe, modality)
    to_unit = (
        {"_target_": "ScaleIntensityRanged", "a_min": window[0], "a_max": window[1]}
        if window
        else {"_target_": "ScaleIntensityRangePercentilesd", "lower": 0.5, "upper": 99.5}
    )
    to_spacing = {"_target_": "Spacing", "pixdim": list(recipe.spacing_mm), "mode": "bilinear", "dtype": "$np.float32"}
    transforms = [
        {"_target_": "LoadImaged", "reader": "@nifti_reader", "simple_keys": True},
        {"_target_": "EnsureChannelFirstd"},
        {"_target_": "Orientationd", "axcodes": "RAS", "labels": [["L", "R"], ["P", "A"], ["I", "S"]]},
        # Not Spacingd, which takes each key that begins with "image_" for a dictionary: MONAI Label has a path there.
        {"_target_": "Lambdad", "func": to_spacing},
        to_unit | {"b_min": 0.0, "b_max": 1.0, "clip": True},
        {"_target_": "CropForegroundd", "source_key": "image"},
        {"_target_": "SpatialPadd", "spatial_size": list(recipe.crop_size)},
        {"_target_": "CastToTyped", "dtype": "$torch.float16"},
        {"_target_": "CastToTyped", "dtype": "$torch.float32"},
    ]
    return [{"_target_": transform.pop("_target_"), "keys": "image", **transform} for transform in transforms]


def metadata(noted: Mapping, recipe: Recipe) -> dict:
    """Return ``metadata.json``, with the fields of MONAI's schema.

    Args:
        noted: Note of the training, with ``classes`` and ``modality``.
        recipe: Recipe of the training.
    """
    classes, modality = noted["classes"], noted["modality"]
    window = intensity_window(recipe, modality)
    crops = {"type": "image", "spatial_shape": list(recipe.crop_size), "dtype": "float32", "is_patch_data": True}
    image = {
        "format": "hounsfield" if window else "magnitude",
        "modality": modality,
        "num_channels": 1,
        "value_range": [0, 1],
        "channel_def": {"0": "image"},
    }
    logits = {
        "format": "segmentation",
        "num_channels": len(classes),
        "value_range": [],
        "channel_def": {str(number): name for number, name in enumerate(classes)},
    }
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": "first export"},
        "monai_version": _release("monai"),
        "pytorch_version": _release("torch"),
        "numpy_version": _release("numpy"),
        "required_packages_version": {name: _release(name) for name in ("nibabel", "einops")} | RUNNERS,
        "task": f"Segmentation of {len(classes) - 1} structures in {modality}",
        "description": f"A SwinUNETR that segments {', '.join(classes[1:])} in {modality} volumes",
        "authors": "Not stored with the weights",
        "copyright": "Code: Apache License 2.0, see LICENSE. Weights: not stored with them",
        "data_source": f"{_training_data(noted)}; their source is not stored with the weights",
        "data_type": "nibabel",
        "image_classes": f"one channel, {_scaling(window)}",
        "pred_classes": f"one channel of logits per class, {len(classes)} in all",
        "intended_use": INTENDED_USE,
        "references": list(REFERENCES),
        "network_data_format": {"inputs": {"image": crops | image}, "outputs": {"pred": crops | logits}},
    }


def _release(package: str) -> str:
    """Return the installed version of a package, without the name of its build (``+cpu``)."""
    return version(package).split("+")[0]


def _scaling(window: Sequence[float] | None) -> str:
    """Return in words how intensities become 0 to 1."""
    low, high = (f"{edge:g} HU" for edge in window) if window else ("the 0.5th percentile", "the 99.5th percentile")
    return f"{low} to {high} scaled to 0 to 1 and clipped"


def _training_data(noted: Mapping) -> str:
    """Return in words how many cases the weights were trained and selected with."""
    counts = [f"{len(cases)} {name} cases" for name, cases in noted.get("split", {}).items()]
    return " and ".join(counts) or "unknown number of cases"


def readme(noted: Mapping, recipe: Recipe) -> str:
    """Return ``docs/README.md``; the arguments are those of :func:`metadata`."""
    classes, modality = noted["classes"], noted["modality"]
    start = noted.get("pretrained_checkpoint")
    settings = "\n".join(f"| `{name}` | {value} |" for name, value in noted["recipe"].items())
    return README.format(
        modality=modality,
        classes="\n".join(f"| {number} | {name} |" for number, name in enumerate(classes)),
        count=len(classes) - 1,
        data=_training_data(noted),
        start=f"weights of `{start}`" if start else "random weights",
        settings=settings,
        spacing=" x ".join(f"{mm:g}" for mm in recipe.spacing_mm),
        scaling=_scaling(intensity_window(recipe, modality)),
        crop=" x ".join(map(str, recipe.crop_size)),
        shape=", ".join(map(str, recipe.crop_size)),
        packages=" ".join(f'"{name}>={least}"' for name, least in RUNNERS.items()),
        monai=_release("monai"),
        torch=_release("torch"),
        use=INTENDED_USE,
        label_packages=" ".join(f'"{package}"' for package in LABEL_PACKAGES),
        label_tried=LABEL_TRIED,
        references="\n".join(f"- {reference}" for reference in REFERENCES),
    )
