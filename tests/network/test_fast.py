"""The faster network has the names, outputs and gradients of MONAI's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import compute_mask

from swinunetr.network import fast as fast_swin
from swinunetr.network.fast import (
    FASTER,
    FastConv3d,
    FastInstanceNorm3d,
    attend,
    attend_fused,
    shift_mask,
    speed_up,
    with_aligned_rows,
)
from swinunetr.network.swinunetr import LegacyPatchMerging


def plain_and_fast(window: int = 4, **options) -> tuple[SwinUNETR, SwinUNETR]:
    """Return MONAI's network with position biases that are large enough to test, and its faster copy."""
    torch.manual_seed(0)
    plain = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, window_size=window, **options)
    for name, parameter in plain.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
    return plain, speed_up(copy.deepcopy(plain))


def outputs_and_gradients(network: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output in training, the output without gradients, and every gradient, by name."""

    def outputs() -> torch.Tensor:
        maps = network(x)
        return torch.cat([one.flatten() for one in (maps if isinstance(maps, list) else [maps])])

    output = outputs()
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        found = {"output": output.detach(), "without gradients": outputs()}
    return found | {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error, as the norm of the difference over the norm of ``expected``."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


CASES = {  # shape; options
    "whole windows": ((1, 1, 32, 32, 16), {}),
    "padded windows": ((1, 1, 24, 40, 16), {}),
    "large window": ((1, 1, 16, 18, 14), {"window": 7}),
    "two images that share masks": ((2, 1, 16, 32, 16), {}),
    "residual convolutions": ((1, 1, 32, 32, 32), {"use_v2": True}),
    "legacy merging": ((1, 1, 16, 32, 16), {"downsample": LegacyPatchMerging}),
    "other merging": ((1, 1, 16, 32, 16), {"downsample": "mergingv2"}),
    "activation checkpointing": ((1, 1, 16, 32, 16), {"use_checkpoint": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_encoder_and_its_gradients_equal_monai(case):
    shape, options = CASES[case]
    plain, fast = (
        model.swinViT.double() for model in plain_and_fast(**options)
    )  # float64, so that rounding errors are small
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, found = outputs_and_gradients(plain, x), outputs_and_gradients(fast, x)
    assert found.keys() == expected.keys()
    assert any(name.endswith("bias_table") for name in found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-9, msg=lambda text, n=name: n + text)


LAYOUTS = {"channels last": torch.channels_last_3d, "channels first": torch.contiguous_format}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("window, layout", [(4, "channels last"), (7, "channels first")])
def test_whole_network_equals_monai_in_float32(window, layout, batch):
    plain, fast = (model.to(memory_format=LAYOUTS[layout]) for model in plain_and_fast(window))
    x = torch.randn(batch, 1, 64, 32, 32, generator=torch.Generator().manual_seed(2))
    expected, found = outputs_and_gradients(plain, x), outputs_and_gradients(fast, x)
    assert found.keys() == expected.keys()
    assert error(found["output"], expected["output"]) < 1e-5
    assert error(found["without gradients"], expected["without gradients"]) < 1e-5
    wrong = {name: error(found[name], expected[name]) for name in expected if expected[name].norm() > 1e-3}
    assert max(wrong.values()) < 5e-3, wrong  # rounding changes the sign of single voxels before a leaky ReLU


def test_bfloat16_is_as_accurate_as_monai():
    plain, fast = plain_and_fast(window=7)
    x = torch.randn(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(2))
    exact = plain(x).detach()
    plain, fast = (model.to(memory_format=torch.channels_last_3d) for model in (plain, fast))
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = plain(x).detach(), fast(x).detach()
        with torch.no_grad():
            fused = fast(x)
    assert error(ours, exact) < 1.2 * error(theirs, exact) < 0.1
    assert error(fused, exact) < 1.2 * error(theirs, exact)


def test_names_are_unchanged_and_a_second_call_has_no_effect():
    plain, fast = plain_and_fast()
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert {type(module) for module in fast.modules()}.isdisjoint(FASTER)
    types = [type(module) for module in fast.modules()]
    assert [type(module) for module in speed_up(fast).modules()] == types
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_copy_uses_its_own_weights():
    fast = plain_and_fast()[1].eval()
    x = torch.randn(1, 1, 32, 32, 64)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        assert torch.equal(other(x), fast(x))
        other.swinViT.layers1[0].blocks[1].attn.relative_position_bias_table.mul_(-1)
        assert not torch.equal(other(x), fast(x))


def test_mask_equals_monai_and_is_cached():
    sizes = (16, 8, 8), (4, 4, 4), (2, 2, 0)
    with torch.inference_mode():
        mask = shift_mask(*sizes, torch.device("cpu"), torch.float32)
    assert torch.equal(mask, compute_mask(*map(list, sizes), "cpu"))
    assert set(mask.unique().tolist()) == {-100, 0}
    assert shift_mask(*sizes, torch.device("cpu"), torch.float32) is mask and not mask.is_inference()
    assert torch.equal(shift_mask(*sizes, torch.device("cpu"), torch.bfloat16).float(), mask)


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_on_a_gpu_gets_a_mask_that_its_kernel_takes(monkeypatch, shift):
    seen = []

    def kernel(q, k, v, attn_mask, scale):
        seen.append((attn_mask.stride(), *(part.stride(-1) for part in (q, k, v))))
        return torch.nn.functional.softmax(q @ k.transpose(-2, -1) + attn_mask, -1) @ v

    plain, fast = plain_and_fast(window=5)  # 125 tokens, which is no multiple of 8
    attention = fast.swinViT.layers1[0].blocks[0].attn
    x = torch.randn(8, 125, 12)
    mask = shift_mask((10, 10, 10), (5, 5, 5), (shift,) * 3, torch.device("cpu"), torch.float32) if shift else None
    expected = attention(x, mask)
    monkeypatch.setattr(fast_swin.F, "scaled_dot_product_attention", kernel)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    found = attention(x, None if mask is None else with_aligned_rows(mask))
    torch.testing.assert_close(found, expected)
    ((strides, *last),) = seen
    assert strides[-1] == 1 and not any(stride % 8 for stride in strides[:-1]) and last == [1, 1, 1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["first", "last"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_small_convolution_in_halves_equals_the_whole(layout, bias, monkeypatch):
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(3, 5, 3, padding=1, bias=bias).to(memory_format=layout)
    fast = copy.deepcopy(plain)
    fast.__class__ = FastConv3d
    x = torch.rand(1, 3, 6, 4, 8).to(memory_format=layout)
    given, conv3d = [], F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda x, *rest, **options: given.append(len(x)) or conv3d(x, *rest, **options))
    found, expected = outputs_and_gradients(fast, x), outputs_and_gradients(plain, x)
    assert given[:2] == [2, 2]  # so that PyTorch takes oneDNN
    assert found.keys() == expected.keys()
    assert all(error(found[name], expected[name]) < 1e-6 for name in expected)


@pytest.mark.parametrize("shape", [(2, 3, 6, 4, 8), (1, 3, 5, 4, 8), (1, 3, 2, 4, 8), (1, 3, 64, 128, 2)])
def test_other_convolutions_stay_whole(shape, monkeypatch):
    layer = FastConv3d(3, 5, 3, padding=1)
    monkeypatch.setattr(torch, "cat", None)
    assert layer(torch.rand(shape)).shape == (shape[0], 5, *shape[2:])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(1, 3, 6, 4, 8)).dtype is torch.bfloat16


def test_norm_on_a_gpu_equals_instance_norm():
    x = (3 + torch.randn(2, 6, 8, 5, 7)).requires_grad_()
    for affine in (True, False):
        norm = FastInstanceNorm3d(6, affine=affine)
        both = [function(x) for function in (norm.by_channel, torch.nn.InstanceNorm3d.forward.__get__(norm))]
        torch.testing.assert_close(*both)
        gradients = [torch.autograd.grad(y.square().sum() + y.sum(), x)[0] for y in both]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_fused_attention_equals_attention_with_the_gradient_of_the_bias():
    found = []
    for function in (attend, attend_fused):
        torch.manual_seed(0)
        parts = [torch.randn(2, 5, 3, 8, 4, requires_grad=True) for _ in range(3)]
        bias = torch.randn(5, 3, 8, 8, requires_grad=True)
        output = function(*parts, bias)
        found.append([output, *torch.autograd.grad(output.square().sum(), [*parts, bias])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype, allowed", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch, channels", [(1, 6), (2, 6), (1, 48), (2, 48)])
def test_instance_norm_and_its_gradient_are_correct_in_every_layout(
    batch, channels, layout, gradient_layout, dtype, allowed
):
    torch.manual_seed(0)
    norm = FastInstanceNorm3d(channels, affine=True).to(dtype)
    x = (3 + torch.randn(batch, channels, 8, 5, 7)).to(dtype).to(memory_format=LAYOUTS[layout]).requires_grad_()
    gradient = torch.randn(x.shape).to(dtype).to(memory_format=LAYOUTS[gradient_layout])
    y = norm(x)
    y.backward(gradient)
    exact = x.detach().double().contiguous().requires_grad_()
    centred = exact - exact.mean((2, 3, 4), keepdim=True)
    expected = centred / (centred.square().mean((2, 3, 4), keepdim=True) + norm.eps).sqrt()
    expected.backward(gradient.double())
    assert error(y, expected) < allowed and error(x.grad, exact.grad) < allowed
