"""Counts of a training step on a CUDA GPU, in a process of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the counts that the command writes, by recipe."""
    if not (torch.version.cuda or shutil.which("c++")):
        pytest.skip("no C++ compiler for a PyTorch without CUDA")
    file = tmp_path_factory.mktemp("counts") / "counts.json"
    command = [sys.executable, "-m", "benchmarks.counted_step", "--recipe", "published", "tuned", "--json", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def counts(both):
    return both["published"]


def test_a_step_of_the_tuned_recipe_needs_at_most_a_twentieth_more(both):
    published, tuned = both["published"], both["tuned"]
    assert published["traffic_gb"] < tuned["traffic_gb"] < 1.05 * published["traffic_gb"]
    assert tuned["peak_gb"] < 1.05 * published["peak_gb"] and tuned["reads"] == 1
    assert tuned["attention_kernels"] == published["attention_kernels"]


def test_every_attention_block_is_fused_forward_and_backward(counts):
    name = "_scaled_dot_product_efficient_attention"
    assert counts["attention_kernels"] == {name: 8, f"{name}_backward": 8}


def test_a_step_stays_within_its_traffic_and_memory(counts):
    assert 80 < counts["traffic_gb"] <= 92
    assert 8 < counts["peak_gb"] <= 10.5
    assert counts["estimated_peak_gb"] == pytest.approx(counts["peak_gb"], rel=0.1)


def test_the_host_waits_for_the_gpu_once_per_step(counts):
    assert counts["reads"] == 1 and counts["transfers"] == 0


def test_crops_of_a_case_on_the_gpu_are_made_there(counts):
    assert counts["batch_device"] == "cuda, cuda"
    assert counts["batch_reads"] == 0 and counts["batch_transfers"] == 0
