"""Files that are written completely or not at all, and folders of results."""

import json
import math

import pytest

from swinunetr.errors import InputError
from swinunetr.files import claim_folder, replacing, stand_in, write_csv


def test_folder_is_used_again_with_the_same_settings_only(tmp_path):
    folder = claim_folder(tmp_path / "p", {"seed": 1, "split": ("a", "b")})
    assert json.loads((folder / "made_by.json").read_text()) == {"seed": 1, "split": ["a", "b"]}
    claim_folder(folder, {"seed": 1, "split": ("a", "b")})
    with pytest.raises(InputError, match=r"of other settings \(seed; .*nothing was overwritten"):
        claim_folder(folder, {"seed": 2, "split": ("a", "b")})


def test_folder_with_unknown_predictions_is_an_error(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="holds results"):
        claim_folder(tmp_path, {"seed": 1})
    assert [f.name for f in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf <html>Not Found", "a web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\x5c\x01\x00\x00", None),
        (b"PK\x03\x04", None),
    ],
)
def test_files_without_data_are_recognised_by_their_first_bytes(tmp_path, content, found):
    (tmp_path / "file").write_bytes(content)
    stand = stand_in(tmp_path / "file")
    assert (stand and stand[0]) == found
    assert stand is None or stand[1]


def test_file_is_complete_or_unchanged(tmp_path):
    for text in ("one", "two"):
        with replacing(tmp_path / "new/file.txt") as temporary:
            temporary.write_text(text)
    with pytest.raises(RuntimeError), replacing(tmp_path / "new/file.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file.txt"]
    assert (tmp_path / "new/file.txt").read_text() == "two"


def test_a_table_has_the_columns_of_all_rows(tmp_path):
    file = tmp_path / "metrics.csv"
    write_csv([{"step": 1}, {"step": 2, "volume_ratio": 1.5}, {"step": 3, "volume_ratio": math.nan}], file)
    assert file.read_text().splitlines() == ["step,volume_ratio", "1,", "2,1.5", "3,"]


def test_two_writers_of_one_file_with_equal_process_ids_do_not_disturb_each_other(tmp_path):
    """As in two containers on a shared disk."""
    with replacing(tmp_path / "a.nii.gz") as first:
        first.write_text("one")
        with replacing(tmp_path / "a.nii.gz") as second:
            second.write_text("two")
        assert (tmp_path / "a.nii.gz").read_text() == "two"
    assert (tmp_path / "a.nii.gz").read_text() == "one"
    for temporary in (first, second):
        assert temporary.name.startswith(".") and temporary.name.endswith(".nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_temporary_file_that_a_kill_left_is_no_result(tmp_path):
    (tmp_path / ".1234.a.nii.gz").write_bytes(b"half a scan")
    assert claim_folder(tmp_path, {"seed": 1}) == tmp_path


@pytest.mark.parametrize("note", [b"", b"[]", b"\xff\xfe"])
def test_folder_with_a_damaged_note_holds_unknown_results(tmp_path, note):
    (tmp_path / "made_by.json").write_bytes(note)
    claim_folder(tmp_path, {"seed": 1})  # without results the note is written again
    (tmp_path / "a.nii.gz").write_bytes(b"a result")
    (tmp_path / "made_by.json").write_bytes(note)
    with pytest.raises(InputError, match="holds results"):
        claim_folder(tmp_path, {"seed": 1})


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with replacing("~/a.txt") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "a.txt").is_file()
