"""Label files of viewers."""

from swinunetr.colours import save_label_names


def test_label_files_list_every_class_in_the_format_of_each_viewer(tmp_path):
    save_label_names(tmp_path, ("background", "left kidney", "liver"))
    slicer = [line.split() for line in (tmp_path / "labels.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [row[:2] for row in slicer] == [["0", "background"], ["1", "left_kidney"], ["2", "liver"]]
    assert all(len(row) == 6 and all(0 <= int(n) <= 255 for n in row[2:]) for row in slicer)
    snap = (tmp_path / "labels_itksnap.txt").read_text().splitlines()
    assert snap[1].split(maxsplit=7)[0] == "1" and snap[1].split(maxsplit=7)[7] == '"left kidney"'
    assert snap[1].split()[1:4] == slicer[1][2:5]
