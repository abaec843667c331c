"""Check and measure this project on a CUDA GPU, in about five minutes.

Each check prints what it found; one that fails prints its error, and the others go on. On a machine without a GPU,
``--tiny`` runs the same checks on a CPU with a small network; those that need a GPU are then left out.
Run from the project's root:
    .venv/bin/python -m benchmarks.gpu_checks [--json FILE] [--tiny]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_setup import Setup, measured, memory_limit, relative_error, seconds, wait
from benchmarks.step import Training
from swinunetr.errors import InputError
from swinunetr.files import write_json
from swinunetr.hardware import Hardware, find_hardware, versions
from swinunetr.network import fast as fast_swin
from swinunetr.network.placement import training_bytes
from swinunetr.recipe import Recipe
from swinunetr.results import inference
from swinunetr.results.resampling import resample_labels
from swinunetr.training.augmentation import augmentation
from swinunetr.training.batches import training_batch, training_batches
from swinunetr.training.run_folder import RunFolder

CHECKS: dict[str, Callable[[Setup], dict]] = {}
GPU_ONLY = ("attention_kernels", "float16", "little_memory")


def check(function: Callable[[Setup], dict]) -> Callable[[Setup], dict]:
    """Add a function to the checks, which run in the order of this file."""
    CHECKS[function.__name__] = function
    return function


@check
def software(setup: Setup) -> dict:
    """Versions, and what they are known to do wrong."""
    gpu = {"name": setup.hardware.name, "precision": str(setup.hardware.autocast_dtype)}
    figures = {**versions(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return figures | gpu | {"warnings": list(setup.hardware.warnings)}


@check
def convolution(setup: Setup) -> dict:
    """Speed of the network's largest convolution by layout, and with cuDNN's own search for the fastest kernel."""
    channels, figures = setup.recipe.feature_size, {}
    dtype = setup.hardware.autocast_dtype or torch.float32
    shape = (setup.recipe.crops_per_volume, channels, *setup.recipe.crop_size)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = torch.randn(shape, device=setup.hardware.device, dtype=dtype).to(memory_format=layout)
        w = torch.randn(channels, channels, 3, 3, 3, device=x.device, dtype=dtype).to(memory_format=layout)
        for search in (False, True):
            with torch.backends.cudnn.flags(enabled=True, benchmark=search):
                taken = seconds(lambda x=x, w=w: F.conv3d(x, w, padding=1), setup.steps)
            tflop_s = 2 * channels**2 * 27 * math.prod((shape[0], *shape[2:])) / taken / 1e12
            figures[f"{layout}, search={search}"] = {"ms": taken * 1e3, "tflop_s": tflop_s}
    return figures


@check
def attention_kernels(setup: Setup) -> dict:
    """Kernels that PyTorch ran for attention, in training and in validation."""
    training, (images, labels), figures = setup.training(), setup.batch(), {}
    model = training.model
    with profile(activities=[ProfilerActivity.CPU]) as both:
        training.step(images, labels)
    with profile(activities=[ProfilerActivity.CPU]) as forward, inference.evaluating(model), setup.hardware.autocast():
        model(images)
    for name, profiled in (("training", both), ("validation", forward)):
        counts = {event.key: event.count for event in profiled.key_averages() if "_attention" in event.key}
        figures[name] = {key: count for key, count in counts.items() if key.startswith("aten::_scaled_dot_product")}
    return figures


@check
def attention_is_right(setup: Setup) -> dict:
    """Relative errors of fused attention and of its gradients against float64, for one mask and for one per window."""
    tokens, channels, figures = (343, 16, {}) if setup.on_gpu else (64, 8, {})
    types = (torch.float32, torch.bfloat16, torch.float16) if setup.on_gpu else (torch.float32, torch.bfloat16)
    for dtype in types:
        for windows in (1, 8):
            torch.manual_seed(0)
            q, k, v = torch.randn(3, 2, windows, 3, tokens, channels, device=setup.hardware.device).unbind()
            bias = fast_swin.with_aligned_rows(torch.randn(windows * 3, tokens, tokens, device=q.device))
            bias = bias.unflatten(0, (windows, 3))
            results = []
            for function, kind in ((fast_swin.attend, torch.float64), (fast_swin.attend_fused, dtype)):
                parts = [part.to(kind).requires_grad_() for part in (q * 0.25, k, v, bias)]
                out = function(*parts[:3], parts[3][..., :tokens])
                gradients = torch.autograd.grad(out.square().sum(), parts)
                results.append([part.detach().double() for part in (out, *gradients)])
            names = ("out", "dq", "dk", "dv", "dbias")
            figures[f"{dtype}, {windows} window(s)"] = dict(zip(names, map(relative_error, *results), strict=True))
    return figures


@check
def agrees_with_the_cpu(setup: Setup) -> dict:
    """Relative difference of logits and gradients from those of the CPU, both in float32 without TF32."""
    small = replace(setup.recipe, crops_per_volume=1, crop_size=(64, 64, 32))
    figures = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in ("cpu", setup.hardware.device):
            side = replace(setup, recipe=small, hardware=Hardware(torch.device(device), None, "float32"))
            training, (images, labels) = side.training(), side.batch()
            logits = training.network(images)
            training.loss_function(logits, labels).backward()
            gradients = torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
            figures.append([part.detach().cpu().double() for part in (logits, gradients)])
    return dict(zip(("logits", "gradients"), map(relative_error, *figures), strict=True))


@check
def step(setup: Setup) -> dict:
    """Time and memory of a step, with the estimate of the memory, and with the step's kernels alone."""
    training = setup.training()
    figures = measured(setup, training)
    figures["estimated_peak_gb"] = training_bytes(training.model, setup.batch()[0].numel(), setup.hardware) / 1e9
    if setup.on_gpu:
        batch = setup.batch()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            training.step(*batch)
            wait()
        kernels = [event for event in profiled.events() if str(event.device_type).endswith("CUDA")]
        figures |= {"kernels": len(kernels), "gpu_busy_ms": sum(event.device_time for event in kernels) / 1e3}
        slowest = Counter()
        for event in kernels:
            slowest[event.name[:80]] += event.device_time / 1e3
        figures["slowest_kernels_ms"] = dict(slowest.most_common(12))
    return figures


@check
def variants(setup: Setup) -> dict:
    """Time and memory of a step with what could make it faster; one that fails says why."""

    def searched() -> dict:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return measured(setup, setup.training())

    def channels_last() -> dict:
        return measured(setup, setup.training(setup.network().to(memory_format=torch.channels_last_3d)))

    def compiled(**options: object) -> dict:
        torch._dynamo.reset()
        model, start = setup.network(), time.perf_counter()
        model.compile(**options)
        return measured(setup, setup.training(model)) | {"with_compilation_s": time.perf_counter() - start}

    tried = {"cudnn search": searched, "channels-last": channels_last}
    if setup.on_gpu:
        tried["compiled"] = compiled
        tried["compiled, CUDA graphs"] = lambda: compiled(mode="reduce-overhead")
    return {name: _found_or_error(function) for name, function in tried.items()}


def _found_or_error(function: Callable[[], dict]) -> dict:
    try:
        return function()
    except Exception as error:  # what a compiler raises is not foreseen
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@check
def host_time(setup: Setup) -> dict:
    """Milliseconds of a step that the host waits for its batch, launches kernels, and waits for the GPU."""
    training, case, augment, figures = setup.training(), setup.case(), augmentation(setup.recipe), {}
    placed = setup.placed(training.model)
    for name, cases in {"cases on the device": [placed], "cases in main memory": [case]}.items():
        steps = range(1, setup.steps + 4)
        batches = training_batches(cases, augment, 0, steps, setup.hardware)
        took: list[tuple[float, float]] = []
        begin = time.perf_counter()
        for images, labels, _ in batches:
            ready = time.perf_counter()
            training.step(images, labels)
            took.append((ready - begin, time.perf_counter() - ready))
            begin = time.perf_counter()
        waited, trained = (sum(part) / setup.steps * 1e3 for part in zip(*took[3:], strict=True))
        figures[name] = {"waiting_for_batch_ms": waited, "step_ms": trained}
    alone = seconds(lambda: training_batch([case], augment, 0, 1), setup.steps)
    return figures | {"batch_alone_ms": alone * 1e3}


@check
def crops_are_the_same(setup: Setup) -> dict:
    """Whether crops made on the device equal those made on the CPU in every voxel."""
    recipe = replace(setup.recipe, flip_probability=0.5, rotate_probability=0.5)
    case, augment = setup.case(), augmentation(recipe)
    placed = setup.placed(setup.network())
    equal = 0
    for number in range(1, setup.steps + 1):
        there, here = (training_batch([volume], augment, 0, number)[:2] for volume in (placed, case))
        equal += all(torch.equal(a.cpu(), b) for a, b in zip(there, here, strict=True))
    return {"steps": setup.steps, "equal": equal, "made_on": str(there[0].device)}


@check
def float16(setup: Setup) -> dict:
    """A step in float16 with scaled gradients, as on GPUs without bfloat16."""
    half = replace(setup, hardware=replace(setup.hardware, autocast_dtype=torch.float16))
    training = half.training()
    return measured(half, training) | {"scale": training.scaler.get_scale()}


@check
def deterministic(setup: Setup) -> dict:
    """Whether two trainings in PyTorch's deterministic mode end with the same weights, and what a step takes then."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        ends = []
        for _ in range(2):
            training = setup.training()
            figures = measured(setup, training)
            ends.append([parameter.detach().cpu() for parameter in training.model.parameters()])
        return figures | {"same_weights": all(torch.equal(a, b) for a, b in zip(*ends, strict=True))}
    finally:
        torch.use_deterministic_algorithms(False)


@check
def resume(setup: Setup) -> dict:
    """Largest difference of the weights after a resumed training from those of an uninterrupted one."""
    images, labels = setup.batch()
    settings = {"recipe": {"max_steps": 4, "learning_rate": 1e-4}}

    def train(folder: Path, last: int) -> Training:
        training = setup.training()
        parts = {"model": training.model, "optimizer": training.optimizer, "scaler": training.scaler}
        run = RunFolder(folder, settings, setup.hardware)
        start = run.restore(**parts)
        training.model.train()
        for number in range(start + 1, last + 1):
            run.losses.append(training.step(images, labels))
            run.keep(number, number == last, **parts)
        return training

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "stopped", 2)
        ends = [train(Path(folder) / name, 4).model.parameters() for name in ("stopped", "whole")]
        difference = max(float((a - b).detach().abs().max()) for a, b in zip(*ends, strict=True))
    return {"largest_difference": difference}


@check
def validation(setup: Setup) -> dict:
    """Seconds to segment one case, to resample it to a grid of twice as many voxels per axis, and in main memory."""
    case, model = setup.case(), setup.network()
    fine = case["image"].clone()
    fine.meta["original_affine"] = torch.diag(torch.tensor([0.75, 0.75, 1.0, 1.0], dtype=torch.float64))
    fine.meta["spatial_shape"] = [2 * n for n in setup.scan]
    logits = inference.predict(model, case["image"], setup.recipe, setup.hardware)
    predict_s = seconds(lambda: inference.predict(model, case["image"], setup.recipe, setup.hardware), 1, warm_up=0)
    probabilities = logits.softmax(0)
    resample_s = seconds(lambda: resample_labels(probabilities, fine), 1)
    labels, from_cpu = (resample_labels(volume, fine)[0] for volume in (probabilities, probabilities.cpu()))
    on_cpu = inference.slide_window(model, case["image"][None], setup.recipe, setup.hardware, torch.device("cpu"))
    return {
        "logits_on": str(logits.device),
        "predict_s": predict_s,
        "resample_s": resample_s,
        "difference_in_main_memory": relative_error(logits.cpu(), on_cpu.cpu()),
        "labels_differ_by_device": float((labels != from_cpu).mean()),
    }


@check
def little_memory(setup: Setup) -> dict:
    """What happens when memory is short: where logits are collected, the message, and training within 16 GB."""
    case, model, figures = setup.case(), setup.network(), {}
    for gigabytes in (1.2, 1.6, 2.4, 3.2):
        with memory_limit(gigabytes):
            try:
                logits = inference.predict(model, case["image"], setup.recipe, setup.hardware)
                figures[f"prediction within {gigabytes} GB"] = f"logits on {logits.device}"
                del logits
            except InputError as error:
                figures[f"prediction within {gigabytes} GB"] = str(error)
    del model
    with memory_limit(16), patch.object(torch.cuda, "mem_get_info", lambda device=None: (16e9, 16e9)):
        figures["training within 16 GB"] = _found_or_error(lambda: measured(setup, setup.training()))
    return figures


def show(figures: dict, indent: str = "  ") -> Iterable[str]:
    """Yield what a check found as lines."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from show(value, indent + "  ")
        else:
            yield f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}"


def main(arguments: list[str] | None = None) -> int:
    """Run all checks; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for what was found")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try the checks on a CPU")
    parser.add_argument("--only", nargs="+", choices=CHECKS, help="checks to run; default: all")
    args = parser.parse_args(arguments)
    hardware = find_hardware()
    setup = Setup(Recipe(), hardware)
    if args.tiny:
        tiny = Recipe(feature_size=12, window_size=4, crop_size=(32, 32, 64), crops_per_volume=1)
        setup = Setup(tiny, hardware, scan=(40, 40, 80), steps=1)
    elif not setup.on_gpu:
        sys.exit("There is no GPU. To try the checks on a CPU, add --tiny.")
    results = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"}
    failed = 0
    for name in args.only or CHECKS:
        start = time.perf_counter()
        print(f"{name}: {CHECKS[name].__doc__}", flush=True)
        try:
            left_out = name in GPU_ONLY and not setup.on_gpu
            results[name] = {"left out": "there is no GPU"} if left_out else CHECKS[name](setup)
        except Exception as error:  # a check that fails must not keep the others from running
            failed += 1
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            traceback.print_exc(limit=-4, file=sys.stdout)
        print("\n".join(show(results[name])), f"\n  [{time.perf_counter() - start:.0f} s]", flush=True)
        if setup.on_gpu:
            torch.cuda.empty_cache()
    if args.json:
        write_json(results, args.json)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
