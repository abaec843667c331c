"""The folder of the results: what it knows of its scans, and whose files it refuses to replace."""

import json

import nibabel as nib
import numpy as np
import pytest

from swinunetr.errors import InputError
from swinunetr.scans.finding import Scan, read_content
from swinunetr.scans.results_folder import Results
from swinunetr.scans.writers import Uncertainty

VOLUMES = [{"organ": "liver", "ml": 1500.0, "touches_border": True}]


def scan_of(folder, name="ct", value=40):
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.full((24, 24, 24), -1000, np.int16)
    voxels[4:20, 4:20, 4:20] = value
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1])), folder / f"{name}.nii")
    return Scan(name, folder / f"{name}.nii", None)


def segmented(output, scan):
    """Return the results of a folder with the segmentation of one scan."""
    results = Results(output)
    output.mkdir(exist_ok=True)
    results.file(scan).write_bytes(b"labels")
    results.add(scan, read_content(scan, "CT")[0], VOLUMES)
    return results


def test_a_segmentation_is_known_by_its_content_in_the_next_start(tmp_path):
    scan = scan_of(tmp_path / "a")
    segmented(tmp_path / "out", scan)
    results, content = Results(tmp_path / "out"), read_content(scan, "CT")[0]
    assert results.has(scan, content) and not results.has(scan, "of another scan")
    assert (tmp_path / "out/volumes.csv").read_text() == "scan,organ,ml,touches_border\nct,liver,1500.0,True\n"
    results.file(scan).unlink()
    assert not results.has(scan, content)


def test_the_note_of_an_earlier_version_holds_the_content_alone(tmp_path):
    scan = scan_of(tmp_path / "a")
    content = read_content(scan, "CT")[0]
    segmented(tmp_path / "out", scan)
    (tmp_path / "out/scans.json").write_text(json.dumps({"ct": content}))
    results = Results(tmp_path / "out")
    assert results.has(scan, content)
    results.note_place(scan)
    assert json.loads((tmp_path / "out/scans.json").read_text()) == {"ct": {"content": content, "place": scan.place}}


def test_another_scan_of_the_same_name_is_refused_and_a_moved_one_is_not(tmp_path):
    results = segmented(tmp_path / "out", scan_of(tmp_path / "a"))
    results.require_own([scan_of(tmp_path / "moved")], [])
    with pytest.raises(InputError, match="scans of the same name, from another folder: ct. Choose another"):
        results.require_own([scan_of(tmp_path / "b", value=41)], [])


def test_files_beside_a_segmentation_are_removed_unless_they_are_segmentations(tmp_path):
    scan, other = scan_of(tmp_path / "a"), scan_of(tmp_path / "a", "ct_uncertainty")
    results = segmented(tmp_path / "out", scan)
    endings = (".dcm", ".png", "_uncertainty.nii.gz")
    for scans, kept in (([scan, other], ["_uncertainty.nii.gz"]), ([scan], [])):
        for ending in endings:
            results.file(scan, ending).write_bytes(b"")
        results.require_own(scans, [])
        results.clear(scan)
        assert [ending for ending in endings if results.file(scan, ending).exists()] == kept
    with pytest.raises(InputError, match="would replace ct_uncertainty.nii.gz"):
        results.require_own([scan, other], [Uncertainty(True)])
