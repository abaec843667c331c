"""A checkpoint is found by its path, or downloaded once by its short name."""

import hashlib
from pathlib import Path
from urllib.error import ContentTooShortError, URLError

import pytest

from swinunetr.errors import CheckpointError
from swinunetr.network.checkpoints import (
    find_checkpoint,
    finding,
)

COMPLETE_FILE = b"stands for 719 MB"


@pytest.fixture
def network(monkeypatch):
    """Replace the internet access of MONAI's ``download_url``; ``send`` is what a download does."""

    class Network:
        calls = 0

        def send(self, path):
            Path(path).write_bytes(COMPLETE_FILE)

    network = Network()

    def urlretrieve(url, path, reporthook=None):
        network.calls += 1
        network.send(path)

    monkeypatch.setattr("monai.apps.utils.urlretrieve", urlretrieve)
    monkeypatch.setattr(finding, "SSL_50K_SHA256", hashlib.sha256(COMPLETE_FILE).hexdigest())
    return network


def test_short_name_is_downloaded_once_into_the_cache(network, tmp_path):
    file = find_checkpoint("ssl_50k", tmp_path / "cache")
    assert file == tmp_path / "cache" / "ssl_pretrained_weights.pth" == find_checkpoint("ssl_50k", tmp_path / "cache")
    assert (file.read_bytes(), network.calls) == (COMPLETE_FILE, 1)


def offline(path):
    raise URLError("Name or service not known")


def interrupted(path):
    Path(path).write_bytes(COMPLETE_FILE[:8])
    raise ContentTooShortError("got 8 of 17 bytes", None)


def altered(path):
    Path(path).write_bytes(COMPLETE_FILE[:8])


@pytest.mark.parametrize("send", [offline, interrupted, altered])
def test_failed_download_says_what_to_download_and_leaves_no_file(send, network, tmp_path):
    network.send = send
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("ssl_50k", tmp_path)
    message = str(caught.value)
    assert finding.SSL_50K_URL in message and finding.SSL_50K_SHA256 in message
    assert str(tmp_path / "ssl_pretrained_weights.pth") in message
    assert list(tmp_path.iterdir()) == []


def test_incomplete_file_in_the_cache_is_refused(network, tmp_path):
    (tmp_path / "ssl_pretrained_weights.pth").write_bytes(COMPLETE_FILE[:8])
    with pytest.raises(CheckpointError, match="incomplete or changed file.*Delete it"):
        find_checkpoint("ssl_50k", tmp_path)
    assert network.calls == 0


def test_path_is_returned_unchanged_and_must_exist(tmp_path):
    file = tmp_path / "weights.pt"
    file.touch()
    assert find_checkpoint(str(file)) == file
    with pytest.raises(CheckpointError, match="no file.*ssl_50k"):
        find_checkpoint(tmp_path / "elsewhere.pt")
