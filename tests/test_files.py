"""Files that are written completely or not at all, and folders of results."""

import hashlib
import json
import math
import os
import resource
import shutil
from unittest.mock import Mock

import pytest
import torch

from swinunetr.errors import InputError, WriteError
from swinunetr.files import (
    claim_folder,
    replacing,
    require_note,
    sha256,
    stand_in,
    what_is_there,
    write_csv,
    write_json,
)


def test_folder_is_used_again_with_the_same_settings_only(tmp_path):
    folder = claim_folder(tmp_path / "p", {"seed": 1, "split": ("a", "b")})
    assert json.loads((folder / "made_by.json").read_text()) == {"seed": 1, "split": ["a", "b"]}
    claim_folder(folder, {"seed": 1, "split": ("a", "b")})
    with pytest.raises(InputError, match=r"of other settings \(seed; .*nothing was overwritten"):
        claim_folder(folder, {"seed": 2, "split": ("a", "b")})


def test_folder_with_a_name_that_is_too_long_is_an_error(tmp_path):
    with pytest.raises(WriteError, match="Choose a shorter path"):
        claim_folder(tmp_path / ("x" * 300), {})


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


def test_what_lies_where_a_file_was_looked_for_is_named(tmp_path):
    assert what_is_there(tmp_path / "ct.json") == f"The folder '{tmp_path}' holds nothing."
    for name in ("ct.json.txt", "images", ".hidden"):
        (tmp_path / name).touch()
    assert what_is_there(tmp_path / "ct.json") == f"The folder '{tmp_path}' holds ct.json.txt, images."
    assert what_is_there(tmp_path / "a/b/ct.json") == f"There is no folder '{tmp_path}/a/b' either."


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


def test_a_file_that_cannot_be_written_is_named_with_the_reason_and_what_to_do(tmp_path, monkeypatch):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for write in (lambda file: file.write(b"x" * 2000), lambda file: torch.save(torch.zeros(1000), file)):
            with pytest.raises(WriteError, match=r"a.txt' could not be written \(.*; [\d.]+ MB .*Free disk space"):  # noqa: SIM117
                with replacing(tmp_path / "a.txt") as temporary, open(temporary, "wb") as file:
                    write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(WriteError, match=r"b.txt' could not be written \(Not a directory.*choose another folder"):
        write_json({}, tmp_path / "a.txt/sub/b.txt")
    with pytest.raises(WriteError, match=r"could not be written \(File name too long"):
        write_json({}, tmp_path / ("b" * 250))
    monkeypatch.setattr(shutil, "disk_usage", Mock(side_effect=OSError(2, "gone")))
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(30, "Read-only file system")))
    with pytest.raises(WriteError, match=r"c.json' could not be written \(Read-only file system\). Ask for write acc"):
        write_json({}, tmp_path / "c.json")
    with pytest.raises(RuntimeError, match="of the caller"), replacing(tmp_path / "d.txt"):
        raise RuntimeError("of the caller")


def test_a_folder_that_was_removed_is_not_filled_again(tmp_path):
    folder = claim_folder(tmp_path / "p", {"seed": 1})
    require_note(folder / "made_by.json")
    shutil.rmtree(folder)
    with pytest.raises(WriteError, match=r"p' has lost its 'made_by.json' since the start.*Bring it back"):
        require_note(folder / "made_by.json")


def test_the_hash_of_a_file_is_that_of_its_present_content(tmp_path):
    hashes = []
    for content in (b"a", b"b", b"a"):
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", tmp_path / "file")
        hashes += [sha256(tmp_path / "file"), sha256(str(tmp_path / "file"))]
    assert hashes == [hashlib.sha256(content).hexdigest() for content in (b"a", b"a", b"b", b"b", b"a", b"a")]
