"""The checks for a GPU, tried on a CPU with a small network; their times mean nothing here."""

import json

import pytest
import torch

from benchmarks import gpu_checks

NEEDS_A_GPU = {"attention_kernels", "float16", "little_memory"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what all checks found."""
    file = tmp_path_factory.mktemp("checks") / "checks.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so little work more only wait for each other
    assert gpu_checks.main(["--tiny", "--json", str(file)]) == 0
    torch.set_num_threads(threads)
    return json.loads(file.read_text())


def test_every_check_is_in_the_file(found):
    assert set(found) == {"date", *gpu_checks.CHECKS}
    assert {name for name, result in found.items() if "left out" in result} == NEEDS_A_GPU
    assert "error" not in json.dumps(found)


def test_the_same_device_agrees_with_itself(found):
    assert found["agrees_with_the_cpu"] == {"logits": 0, "gradients": 0}
    assert found["crops_are_the_same"]["equal"] == found["crops_are_the_same"]["steps"] > 0
    assert found["deterministic"]["same_weights"] and found["resume"]["largest_difference"] == 0
    assert found["validation"]["labels_differ_by_device"] == 0


def test_a_check_that_fails_is_named_and_the_others_run(monkeypatch, capsys, tmp_path):
    def fail(setup):
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setitem(gpu_checks.CHECKS, "convolution", fail)
    file = tmp_path / "checks.json"
    assert gpu_checks.main(["--tiny", "--only", "convolution", "software", "--json", str(file)]) == 1
    result = json.loads(file.read_text())
    assert "no kernel image" in result["convolution"]["error"] and "torch" in result["software"]
