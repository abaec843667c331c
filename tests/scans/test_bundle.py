"""MONAI bundles of trained models: their files, and their segmentations in plain MONAI."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PROJECT, write_case
from monai.bundle import ConfigParser, verify_net_in_out

import export
from swinunetr.data.transforms import preprocessing
from swinunetr.errors import InputError
from swinunetr.network.checkpoints import build_swinunetr, load_pretrained, save_weights, training_note
from swinunetr.results.evaluation import read_labels
from swinunetr.scans import bundle
from swinunetr.scans.bundle import bundle_texts, write_bundle
from swinunetr.scans.segmentation import segment
from swinunetr.training.parameters import choose_recipe

RECIPE = choose_recipe("demo")
CLASSES = ("background", "left box", "right box")
NOTE = {
    "recipe": asdict(RECIPE),
    "classes": CLASSES,
    "modality": "CT",
    "split": {"training": ["secret0001", "secret0002"], "validation": ["secret0003"]},
    "data": {"secret0001": "3ca31e2ef45060ca"},
    "pretrained_checkpoint": "ssl.pth",
}
# Voxels of 3 mm, turned by about 20 degrees around two axes; and with the axes front, down, left.
OBLIQUE = np.array([[2.8, -0.9, 0.5, -30], [1.0, 2.8, 0, 20], [-0.5, 0.2, 2.9, 5], [0, 0, 0, 1]])
PERMUTED = np.array([[0, 0, -3.0, 50], [2.5, 0, 0, -40], [0, -3.5, 0, 10], [0, 0, 0, 1]])


def save_random_weights(file, merging="legacy", note=NOTE):
    """Write a ``best_model.pth`` like that of a fine-tuning run, with random weights."""
    torch.manual_seed(0)
    save_weights(build_swinunetr(3, feature_size=12, window_size=4, merging=merging), file, note=note)
    return file


def loaded(weights):
    """Return the network of a ``best_model.pth``."""
    model = build_swinunetr(3, weights)
    load_pretrained(model, weights)
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_weights(tmp_path_factory.mktemp("weights") / "best_model.pth")


@pytest.fixture(scope="module")
def written(weights, tmp_path_factory):
    """Return the folder of a bundle whose network has the older order of patch merging."""
    return write_bundle(weights, tmp_path_factory.mktemp("bundles") / "new" / "model")


@pytest.fixture
def no_export(monkeypatch):
    """Leave out the ``torch.export`` program, which takes the longest."""
    monkeypatch.setattr(bundle, "export_program", lambda *_: None)


def test_a_bundle_has_the_files_that_monai_expects(written):
    files = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
    assert files == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "docs/labels.ctbl",
        "docs/labels_itksnap.txt",
        "models/model.pt",
        "models/model.pt2",
        "scripts/legacy_patch_merging.py",
        "scripts/nifti_reader.py",
        "scripts/resampling.py",
    }
    readme = (written / "docs/README.md").read_text()
    assert (
        "| 2 | right box |" in readme and "2 training cases and 1 validation cases" in readme and "`ssl.pth`" in readme
    )
    assert "4.5 x 4.5 x 4.5 mm" in readme and "-175 HU to 250 HU" in readme and "{" not in readme
    assert [file.name for file in written.parent.iterdir()] == ["model"]


def test_metadata_has_the_fields_of_monais_schema(written):
    meta = json.loads((written / "configs/metadata.json").read_text())
    for name in ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"):
        assert isinstance(meta[name], str), name
    for name in ("authors", "copyright", "data_source", "data_type", "image_classes", "pred_classes", "intended_use"):
        assert isinstance(meta[name], str), name
    assert meta["required_packages_version"].keys() == {"nibabel", "einops", "pytorch-ignite", "fire"}
    assert isinstance(meta["changelog"], dict) and isinstance(meta["references"], list)
    (image,), (pred,) = (meta["network_data_format"][name].values() for name in ("inputs", "outputs"))
    assert image["spatial_shape"] == pred["spatial_shape"] == [64, 32, 32]
    assert (image["num_channels"], pred["num_channels"]) == (1, 3) and image["format"] == "hounsfield"
    assert pred["channel_def"] == {"0": "background", "1": "left box", "2": "right box"}
    for tensor in (image, pred):
        assert tensor["dtype"] == "float32" and isinstance(tensor["value_range"], list) and tensor["type"] == "image"


def test_names_and_hashes_of_cases_are_not_in_a_bundle(written):
    content = [file.read_bytes() for file in written.rglob("*") if file.is_file()]
    assert not any(word in part for part in content for word in (b"secret", b"3ca31e2e", bytes(PROJECT)))
    noted = training_note(written / "models/model.pt")
    assert noted == {name: NOTE[name] for name in ("recipe", "classes", "modality")}


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_bundles_preprocessing_is_that_of_training(weights, written, tmp_path, modality):
    names = write_case(tmp_path, 1, affine=OBLIQUE)
    stored = nib.load(tmp_path / names["image"])
    stored.header["pixdim"][1:4] = (3.002, 3.002, 3.002)  # not that of the sform, so that MONAI would take the qform
    stored.header["qform_code"] = 0
    nib.save(stored, tmp_path / "scan.nii")
    scan = {"image": str(tmp_path / "scan.nii"), "image_path": "a text, as MONAI Label has it"}
    files = bundle_texts(loaded(weights), NOTE | {"modality": modality}, RECIPE)
    config = ConfigParser(json.loads(files["configs/inference.json"]))
    config["bundle_root"] = str(written)
    expected = preprocessing(RECIPE, modality, ("image",))({"image": scan["image"]})["image"]
    found = config.get_parsed_content("preprocessing")(scan)["image"]
    assert found.dtype is torch.float32 and found.std() > 0.1
    np.testing.assert_array_equal(found.numpy(), expected.float().numpy())
    np.testing.assert_array_equal(found.affine, expected.affine)


@pytest.mark.parametrize("merging", ["legacy", "current"])
def test_the_config_builds_the_network_that_was_trained(tmp_path, no_export, merging):
    weights = save_random_weights(tmp_path / "best_model.pth", merging)
    folder = write_bundle(weights, tmp_path / "bundle")
    assert (folder / "scripts/legacy_patch_merging.py").exists() == (merging == "legacy")
    config = ConfigParser(json.loads((folder / "configs/inference.json").read_text()))
    config["bundle_root"] = str(folder)
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True))
    crop = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        expected = loaded(weights)(crop)
        torch.testing.assert_close(network(crop), expected, rtol=0, atol=0)
    verify_net_in_out(
        "network_def",
        str(folder / "configs/metadata.json"),
        str(folder / "configs/inference.json"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_the_exported_program_gives_the_same_logits(weights, written):
    program = torch.export.load(written / "models/model.pt2").module()
    for crops in (1, 3):
        x = torch.rand(crops, 1, 64, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(program(x), loaded(weights)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("problem", ["found a scan as .nii and as .nii.gz", "it is the folder of the scans"])
def test_scans_that_results_would_replace_stop_the_bundle(written, tmp_path, problem):
    (tmp_path / "scans").mkdir()
    names = ("a.nii", "a.nii.gz") if ".gz" in problem else ("a.nii", "b.nii.gz")
    for name in names:
        (tmp_path / "scans" / name).touch()
    parser = ConfigParser()
    parser.read_config(written / "configs/inference.json")
    parser["bundle_root"], parser["dataset_dir"] = str(written), str(tmp_path / "scans")
    parser["output_dir"] = str(tmp_path / ("scans/" if "folder" in problem else "out"))
    parser["run"] = parser["run"][:-1]  # without the network
    with pytest.raises((SystemExit, RuntimeError), match=problem):
        parser.get_parsed_content("run", eval_expr=True)


def test_plain_monai_gives_the_labels_of_segment(weights, written, tmp_path, monkeypatch):
    scans = tmp_path / "scans"
    for number, (name, affine) in enumerate((("oblique.nii.gz", OBLIQUE), ("permuted.nii", PERMUTED))):
        names = write_case(tmp_path, number, affine=affine)
        scans.mkdir(exist_ok=True)
        scan = nib.load(tmp_path / names["image"])
        voxels = np.asarray(scan.dataobj)[..., None] if name == "permuted.nii" else scan.dataobj  # one volume of "4D"
        nib.save(nib.Nifti1Image(voxels, scan.affine, scan.header), scans / name)
    elsewhere = tmp_path / "elsewhere" / "model"
    shutil.copytree(written, elsewhere)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = {"cwd": elsewhere, "env": clean, "capture_output": True, "text": True}
    assert "No module named 'swinunetr'" in subprocess.run([sys.executable, "-c", "import swinunetr"], **run).stderr
    command_line = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    options = ["--dataset_dir", str(scans), "--output_dir", str(tmp_path / "found")]
    done = subprocess.run([*command_line, *options], **run)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in scans.iterdir()) == ["oblique.nii.gz", "permuted.nii"]

    for lower_precision in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, lower_precision, lambda: False)
    expected = segment(weights, scans, tmp_path / "expected")
    assert {file.name for file in (tmp_path / "found").iterdir()} == {"oblique_seg.nii.gz", "permuted_seg.nii.gz"}
    for file in expected:
        found = tmp_path / "found" / file.name.replace(".nii", "_seg.nii")
        np.testing.assert_allclose(nib.load(found).affine, nib.load(file).affine, atol=1e-5)
        assert nib.load(found).get_data_dtype() == np.uint8
        labels = read_labels(file)
        assert all((labels == label).mean() > 0.01 for label in range(3))
        assert (read_labels(found) == labels).mean() > 0.9999


def test_an_existing_folder_is_left_alone(weights, tmp_path, no_export):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    for folder in (tmp_path / "taken", tmp_path / "taken/mine.txt"):
        with pytest.raises(InputError, match=r"exists\. Delete it or choose another folder"):
            write_bundle(weights, folder)
    assert (tmp_path / "taken/mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert (write_bundle(weights, tmp_path / "empty") / "models/model.pt").is_file()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_full_disk_leaves_nothing(weights, tmp_path, monkeypatch, hidden):
    def full(*_):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            if hidden:  # as torch.save does
                raise RuntimeError("unexpected pos 1 vs 2")  # noqa: B904
            raise

    monkeypatch.setattr(bundle, "export_program", full)
    with pytest.raises(InputError, match=r"could not be written .*No space left.*Nothing was left"):
        write_bundle(weights, tmp_path / "out" / "bundle")
    assert not list((tmp_path / "out").iterdir())


def test_weights_that_do_not_note_their_training_are_refused(tmp_path):
    torch.save(build_swinunetr(3, feature_size=12).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"no note of how it was trained.*best_model\.pth"):
        write_bundle(tmp_path / "plain.pth", tmp_path / "bundle")
    more = save_random_weights(tmp_path / "best_model.pth", note=NOTE | {"classes": [*CLASSES, "third box"]})
    with pytest.raises(InputError, match=r"no weights for out\.conv.* 4 classes"):
        write_bundle(more, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_command_line_shows_a_short_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export.py", str(tmp_path / "none.pth"), str(tmp_path / "bundle")])
    with pytest.raises(SystemExit, match="none.pth: expected a file of weights, found no file"):
        export.main()
