"""Label files of viewers."""

import shlex

from swinunetr.data.organs import save_label_names


def test_label_files_list_every_class_in_the_format_of_each_viewer(tmp_path):
    save_label_names(tmp_path, ("background", "left kidney", "liver"))
    slicer = [line.split() for line in (tmp_path / "labels.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [row[:2] for row in slicer] == [["0", "background"], ["1", "left_kidney"], ["2", "liver"]]
    assert all(len(row) == 6 and all(0 <= int(n) <= 255 for n in row[2:]) for row in slicer)
    snap = (tmp_path / "labels_itksnap.txt").read_text().splitlines()
    assert snap[1].split(maxsplit=7)[0] == "1" and snap[1].split(maxsplit=7)[7] == '"left kidney"'
    assert snap[1].split()[1:4] == slicer[1][2:5]


def test_any_name_stays_one_field_of_the_label_files(tmp_path):
    save_label_names(tmp_path, ("not an organ", 'the "left"\tbox\n2', "\u809d\u81d3"))
    slicer = (tmp_path / "labels.ctbl").read_text(encoding="utf-8").splitlines()[2:]
    assert [len(line.split()) for line in slicer] == [6, 6, 6] and slicer[2].split()[1] == "\u809d\u81d3"
    snap = (tmp_path / "labels_itksnap.txt").read_text(encoding="utf-8").splitlines()
    assert [shlex.split(line)[7] for line in snap] == ["Clear Label", "the 'left' box 2", "\u809d\u81d3"]
