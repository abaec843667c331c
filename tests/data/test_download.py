"""Public data sets by name, from a server on this machine: resumed, verified, unpacked whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from swinunetr.data import download
from swinunetr.data.download import DATA_SETS, PublicData, fetch
from swinunetr.errors import InputError, WriteError

NOISE = bytes(range(256)) * 400
TOTALSEGMENTATOR = {  # as its archive has them
    "meta.csv": b"image_id;split\ns0011;train\n",
    "s0011/ct.nii.gz": NOISE,
    "s0011/segmentations/liver.nii.gz": b"liver",
}
SPLEEN = {"Task09_Spleen/dataset.json": b"{}", "Task09_Spleen/imagesTr/._a.nii.gz": b"", "._Task09_Spleen": b""}


def as_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def as_tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Server(ThreadingHTTPServer):
    """A server of one file, which can break off and can know ranges or not."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.status = b"", True, 200
        self.breaks: list[int] = []  # after so many bytes each, in the first answers
        self.asked: list[str | None] = []  # header of each request
        self.sent = 0

    def publish(self, monkeypatch, content: bytes, name: str = "some.zip", md5: str = "") -> None:
        self.content = content
        url, md5 = f"http://127.0.0.1:{self.server_port}/files/{name}", md5 or hashlib.md5(content).hexdigest()
        data = PublicData("a few CT", url, md5, "https://example.org/page", "CC BY 4.0", "Who et al., 2023")
        monkeypatch.setitem(DATA_SETS, "some", data)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        first = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if server.status != 200:
            return self.send_error(server.status)
        if first >= len(server.content):
            return self.send_error(416)
        rest = server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.breaks:
            rest = rest[: server.breaks.pop(0)]
        self.wfile.write(rest)
        server.sent += len(rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT_S", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def left_over(folder: Path) -> list[str]:
    """Return what is in the folder of downloads, but for the lock, which stays."""
    return [file.name for file in (folder / download.WORK / "some").iterdir() if file.name != ".lock"]


def test_a_data_set_is_downloaded_once(server, monkeypatch, tmp_path, capsys):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    folder = fetch("some", tmp_path / "data")
    assert folder == tmp_path / "data/some" and files_in(folder) == TOTALSEGMENTATOR
    printed = capsys.readouterr().out
    assert "Licence: CC BY 4.0 (https://example.org/page). Please cite: Who et al., 2023." in printed
    assert left_over(tmp_path / "data") == []

    assert fetch("some", tmp_path / "data") == folder
    assert len(server.asked) == 1 and "Please cite" in capsys.readouterr().out


def test_the_folder_within_an_archive_of_the_decathlon_is_left_out(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_tar(SPLEEN), "Task09_Spleen.tar")
    assert files_in(fetch("some", tmp_path)) == {"dataset.json": b"{}", "imagesTr/._a.nii.gz": b""}
    assert left_over(tmp_path) == []


def test_a_connection_that_breaks_is_continued(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    server.breaks = [1000, 50_000]
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR
    assert server.asked == [None, "bytes=1000-", "bytes=51000-"]
    assert server.sent == len(server.content)


def test_a_server_without_ranges_sends_all_again(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    server.breaks, server.ranges = [1000], False
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR
    assert server.asked == [None, "bytes=1000-"] and server.sent == len(server.content) + 1000


def test_a_download_that_stopped_continues_in_the_next_run(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    server.breaks = [1000] * download.TRIES
    with pytest.raises(InputError, match="stopped 5 times, with 0.0 MB received. Run again: it continues from there"):
        fetch("some", tmp_path)
    assert not (tmp_path / "some").exists() and left_over(tmp_path) == ["some.zip.part"]
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR
    assert server.asked[-1] == "bytes=5000-" and left_over(tmp_path) == []


def test_a_file_that_was_received_before_a_kill_is_not_asked_for_again(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    work = tmp_path / download.WORK / "some"
    work.mkdir(parents=True)
    (work / "some.zip.part").write_bytes(server.content)
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR
    assert server.sent == 0


def test_another_file_than_expected_is_removed(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR), md5="0" * 32)
    with pytest.raises(InputError, match=r"is another file than expected \(md5 \w+, expected 0+\) and was removed"):
        fetch("some", tmp_path)
    assert not (tmp_path / "some").exists() and left_over(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_refusal_of_the_server_says_where_to_look(server, monkeypatch, tmp_path, status):
    server.publish(monkeypatch, b"")
    server.status = status
    with pytest.raises(InputError, match=rf"some.zip is refused by the server \(HTTP {status}, .*See https://example"):
        fetch("some", tmp_path)
    assert len(server.asked) == 1


def test_without_a_connection_there_is_one_message(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, b"")
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot be reached .*Check the connection and run again.*another computer"):
        fetch("some", tmp_path)


def test_a_name_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="one of totalsegmentator_small, .*msd_pancreas, found 'totalsegmenter'"):
        fetch("totalsegmenter")


@pytest.mark.parametrize("pack, name", [(as_zip, "some.zip"), (as_tar, "some.tar")])
@pytest.mark.parametrize("path", ["../outside.txt", "/outside.txt"])
def test_a_path_that_leaves_the_folder_is_refused(server, monkeypatch, tmp_path, pack, name, path):
    server.publish(monkeypatch, pack({"a.txt": b"a", path: b"b"}), name)
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch("some", tmp_path / "data")
    assert not (tmp_path / "data/some").exists() and left_over(tmp_path / "data") == []
    assert not list(tmp_path.rglob("outside.txt"))


def test_what_a_kill_left_of_unpacking_is_not_taken_for_the_data_set(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    unpacked = tmp_path / download.WORK / "some/unpacked"
    unpacked.mkdir(parents=True)
    (unpacked / "half.nii.gz").write_bytes(b"half")
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR


def test_too_little_space_is_said_before_the_download(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, int(1.5 * len(server.content))))
    with pytest.raises(WriteError, match="The archive and its content need 0.0 GB in .* are free. Free disk space"):
        fetch("some", tmp_path)
    assert left_over(tmp_path) == []


def test_a_disk_that_becomes_full_keeps_what_is_there(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))

    def full(archive, folder, **_):
        Path(folder).mkdir()
        Path(folder, "half.nii.gz").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="No space left.*Free disk space"):
        patch.setattr(download, "extractall", full)
        fetch("some", tmp_path)
    assert not (tmp_path / "some").exists() and left_over(tmp_path) == ["some.zip"]
    assert files_in(fetch("some", tmp_path)) == TOTALSEGMENTATOR
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_made_is_named(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, b"")
    (tmp_path / "data").write_text("a file")
    with pytest.raises(WriteError, match="A file has the name of the folder"):
        fetch("some", tmp_path / "data")


def test_two_at_a_time_download_once(server, monkeypatch, tmp_path):
    server.publish(monkeypatch, as_zip(TOTALSEGMENTATOR))
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch("some", tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "some"] * 2 and len(server.asked) == 1
    assert files_in(folders[0]) == TOTALSEGMENTATOR


def test_each_data_set_has_an_archive_that_can_be_unpacked_and_its_hash():
    for name, data in DATA_SETS.items():
        assert re.fullmatch(r"[a-z_]+", name) and re.fullmatch(r"[0-9a-f]{32}", data.md5)
        assert data.url.startswith("https://") and data.url.endswith((".zip", ".tar"))
        assert data.licence.startswith("CC BY") and data.citation and data.page.startswith("http")
