"""`segment.py` from the command line: status, errors, interruption."""

import json
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
from conftest import PROJECT
from scan_files import write_body, write_scans, write_weights

import segment as command_line
from swinunetr.scans import segmentation
from swinunetr.scans.dicom_seg import kind_of
from swinunetr.scans.segmentation import segment


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "best_model.pth")


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path / "scans")


def test_the_command_line_shows_a_short_error(tmp_path):
    command = [sys.executable, "segment.py", str(tmp_path / "none.pth"), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.pth" in done.stderr and "Traceback" not in done.stderr


def test_the_command_line_says_by_its_status_whether_all_were_segmented(weights, tmp_path, monkeypatch, capsys):
    write_body(tmp_path / "scans/good")
    command = ["segment.py", str(weights), str(tmp_path / "scans"), str(tmp_path / "out"), "--dicom-seg"]
    monkeypatch.setattr(sys, "argv", command)
    assert command_line.main() == 0
    assert "good/series3" in capsys.readouterr().out and kind_of(tmp_path / "out/good/series3.dcm") == "LABELMAP"
    write_body(tmp_path / "scans/gap", "1.2.3.7")[4].unlink()
    assert command_line.main() == 3 and "gap/series3" in capsys.readouterr().err


def test_a_command_whose_output_nobody_reads_shows_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segment.py", "best_model.pth", "scans", "out"])
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # tests need their output
    monkeypatch.setattr(segmentation, "segment", Mock(side_effect=BrokenPipeError))
    assert command_line.main() == 1
    assert capsys.readouterr().err.startswith("Stopped, as nothing reads the output of this command.")
    monkeypatch.setattr(segmentation, "segment", Mock(return_value=[]))
    monkeypatch.setattr(sys, "stdout", None)
    assert command_line.main() == 0
    sys.stdout.close()  # which the command opened


def test_an_interrupted_command_ends_in_one_line_and_leaves_whole_files(weights, scans, tmp_path, monkeypatch, capsys):
    label, labelled = segmentation.label_case, []

    def interrupted(*args):
        if labelled:
            raise KeyboardInterrupt
        labelled.append(label(*args))
        return labelled[0]

    monkeypatch.setattr(segmentation, "label_case", interrupted)
    monkeypatch.setattr(sys, "argv", ["segment.py", str(weights), str(scans), str(tmp_path / "out")])
    assert command_line.main() == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Interrupted; what was written is complete.")
    assert [file.name for file in tmp_path.glob("out/**/*.nii.gz")] == ["first.nii.gz"]
    assert list(json.loads((tmp_path / "out/scans.json").read_text())) == ["first"]
    monkeypatch.undo()
    kept = (tmp_path / "out/first.nii.gz").stat().st_mtime_ns
    assert len(segment(weights, scans, tmp_path / "out")) == 2
    assert (tmp_path / "out/first.nii.gz").stat().st_mtime_ns == kept
