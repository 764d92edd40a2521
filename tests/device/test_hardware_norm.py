"""Norms with hardware numerics: forward and backward of the torch-level operators against float64 on the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn

# Of a result whose elements are about 1: fp32 intermediates and sums over rows; one rounding of operands and results.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
DTYPES = list(TOLERANCE)


pytestmark = pytest.mark.usefixtures("hardware")


def executed() -> bool:
    return not [name for name in torch_trn.reference_operators(clear=True) if "norm" in name]


Function = Callable[..., torch.Tensor]


def gradients(function: Function, operands: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    """The result and the gradient of each operand."""
    leaves = [x.detach().requires_grad_() for x in operands]
    out = function(*leaves)
    torch.autograd.backward(out, grad)
    return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]


def check(function: Function, operands: list[torch.Tensor], on_device: list[torch.Tensor] | None = None) -> None:
    """On the device, twice (the second launch repeats a known one), against float64."""
    device = on_device or [x.to("trn") for x in operands]
    grad = torch.randn(function(*operands).shape).to(operands[0].dtype)
    expected = gradients(function, [x.double() for x in operands], grad.double())
    device_grad = grad.to("trn")
    torch_trn.reference_operators(clear=True)
    for _ in range(2):
        actual = gradients(function, device, device_grad)
        assert executed()
        assert len(actual) == len(expected)
        tolerance = TOLERANCE[operands[0].dtype]
        for got, exact in zip(actual, expected):
            scale = exact.abs().max().clamp(min=1)
            assert (got.cpu().double() - exact).abs().max() <= tolerance * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 64), (3, 40, 768), (130, 1), (2, 3, 1025)])
def test_layer_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(shape) + 1, torch.randn(shape[-1:]), torch.randn(shape[-1:])
    operands = [t.to(dtype) for t in (x, weight, bias)]
    check(lambda x, w, b: F.layer_norm(x, shape[-1:], w, b, 1e-3), operands)
    check(lambda x: F.layer_norm(x, shape[-1:]), operands[:1])
    check(lambda x, w: F.layer_norm(x, shape[-1:], w), operands[:2])


def test_layer_norm_of_bfloat16_with_float32_parameters() -> None:
    operands = [torch.randn(70, 96).bfloat16(), torch.randn(96), torch.randn(96)]
    check(lambda x, w, b: F.layer_norm(x, (96,), w, b), operands)


def test_layer_norm_over_several_axes() -> None:
    operands = [torch.randn(6, 4, 5, 7), torch.randn(4, 5, 7), torch.randn(4, 5, 7)]
    check(lambda x, w, b: F.layer_norm(x, (4, 5, 7), w, b), operands)


def test_operands_in_any_layout() -> None:
    base, weight = torch.randn(40, 30, 20), torch.randn(40)
    device = base.to("trn")
    layouts: list[Function] = [
        lambda t: t.transpose(1, 2),
        lambda t: t[:, ::2],
        lambda t: t[3:, :, 1::3],
        lambda t: t[:1].expand(9, 30, 20),
        lambda t: t.permute(2, 0, 1),
    ]
    for layout in layouts:
        x, y = layout(base), layout(device)
        n = x.shape[-1]
        w, dw = weight[:n], weight.to("trn")[:n]
        check(lambda x, w, n=n: F.layer_norm(x, (n,), w), [x, w], [y, dw])
        channels = x.shape[1]
        w, dw = weight[:channels], weight.to("trn")[:channels]
        check(lambda x, w: F.batch_norm(x, None, None, w, None, True), [x, w], [y, dw])


@pytest.mark.parametrize("eps", [None, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype: torch.dtype, eps: float | None) -> None:
    operands = [torch.randn(90, 200).to(dtype), torch.randn(200).to(dtype)]
    eps_value = torch.finfo(torch.float32).eps if eps is None else eps
    check(lambda x, w: torch.ops.aten._fused_rms_norm(x, [200], w, eps_value)[0], operands)
    check(lambda x: torch.ops.aten._fused_rms_norm(x, [200], None, eps_value)[0], operands[:1])
    tiny = (operands[0] * 1e-3).to("trn")
    got = torch.ops.aten._fused_rms_norm(tiny, [200], None, eps)[0].cpu()
    torch.testing.assert_close(got, F.rms_norm(tiny.cpu(), (200,), eps=eps))
    assert executed()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 2), (32, 32), (64, 8), (1040, 130)])
def test_group_norm(dtype: torch.dtype, channels: int, groups: int) -> None:
    for shape in ((5, channels), (3, channels, 4, 7), (1, channels, 33)):
        operands = [t.to(dtype) for t in (torch.randn(shape) + 0.5, torch.randn(channels), torch.randn(channels))]
        check(lambda x, w, b: F.group_norm(x, groups, w, b, 1e-2), operands)
        check(lambda x: F.group_norm(x, groups, eps=1e-2), operands[:1])


def test_group_norm_of_channels_last_and_instance_norm() -> None:
    x = torch.randn(4, 12, 5, 6).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(12), torch.randn(12)
    check(lambda x, w, b: F.group_norm(x, 3, w, b), [x, weight, bias])
    check(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [x.contiguous(), weight, bias])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(50, 7), (300, 130), (4, 10, 9), (3, 20, 8, 5), (1, 6, 40)])
def test_batch_norm(dtype: torch.dtype, training: bool, shape: tuple[int, ...]) -> None:
    channels = shape[1]
    mean, var = torch.randn(channels).to(dtype), (torch.rand(channels) + 0.5).to(dtype)

    def normalised(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        weight, bias = affine if affine else (None, None)
        running_mean, running_var = (t.to(x.device, x.dtype) for t in (mean, var))
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, 0.3, 1e-2)

    operands = [t.to(dtype) for t in (torch.randn(shape) * 2 + 1, torch.randn(channels), torch.randn(channels))]
    check(normalised, operands)
    check(normalised, operands[:1])


def test_batch_norm_of_channels_last() -> None:
    x = torch.randn(3, 20, 8, 5).to(memory_format=torch.channels_last)
    device = x.to("trn")
    weight, bias = torch.randn(20), torch.randn(20)
    on_device = [device, weight.to("trn"), bias.to("trn")]
    check(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [x, weight, bias], on_device)
    out = F.batch_norm(device, None, None, training=True)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_statistics_follow_the_batches(dtype: torch.dtype) -> None:
    """Several batches (the first launch computes for the layout, the others do not), then evaluation."""
    reference = nn.BatchNorm2d(6, momentum=0.2).double()
    model = nn.BatchNorm2d(6, momentum=0.2).to("trn")
    for _ in range(4):
        x = (torch.randn(5, 6, 4, 3) * 2 + 3).to(dtype)
        out, expected = model(x.to("trn")), reference(x.double())
        assert (out.cpu().double() - expected).abs().max() < TOLERANCE[dtype] * 4
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model, name).cpu().double(), getattr(reference, name), rtol=1e-5, atol=1e-5)
    model.eval(), reference.eval()
    out, expected = model(x.to("trn")), reference(x.double())
    assert (out.cpu().double() - expected).abs().max() < TOLERANCE[dtype] * 4
    assert executed()


def test_variants_of_batch_norm() -> None:
    """Statistics in and out, twice, so that a repeated launch updates them once too."""
    x, weight, bias = torch.randn(30, 7, 5) + 2, torch.randn(7), torch.randn(7)
    calls: list[Callable[..., tuple[torch.Tensor, ...]]] = [
        lambda x, w, b, m, v: torch.native_batch_norm(x, w, b, m, v, True, 0.3, 1e-2),
        lambda x, w, b, m, v: torch.native_batch_norm(x, w, b, m, v, False, 0.3, 1e-2),
        lambda x, w, b, m, v: torch.ops.aten._native_batch_norm_legit(x, w, b, m, v, True, 0.3, 1e-2),
        lambda x, w, b, m, v: torch.ops.aten._native_batch_norm_legit(x, w, b, m, v, False, 0.3, 1e-2),
        lambda x, w, b, m, v: torch.ops.aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.3, 1e-2),
        lambda x, w, b, m, v: torch.ops.aten._batch_norm_with_update(x, w, b, m, v, 0.3, 1e-2)[:3],
    ]
    for call in calls:
        expected_running = [torch.randn(7), torch.rand(7) + 0.5]
        running = [t.to("trn") for t in expected_running]
        for _ in range(3):
            got = call(*(t.to("trn") for t in (x, weight, bias)), *running)
            expected = call(x, weight, bias, *expected_running)
            for actual, exact in zip([*got, *running], [*expected, *expected_running]):
                torch.testing.assert_close(actual.cpu(), exact, rtol=1e-5, atol=1e-5)
    assert executed()


def test_results_that_are_given() -> None:
    x = torch.randn(20, 33)
    given = [torch.empty(33, 20, device="trn").t(), torch.empty(20, 1, device="trn"), torch.empty(20, 1, device="trn")]
    torch.ops.aten.native_layer_norm.out(
        x.to("trn"), [33], None, None, 1e-5, out0=given[0], out1=given[1], out2=given[2]
    )
    for actual, exact in zip(given, torch.native_layer_norm(x, [33], None, None, 1e-5)):
        torch.testing.assert_close(actual.cpu(), exact, rtol=1e-5, atol=1e-5)
    assert executed()


def test_one_value_per_channel_and_an_unused_affine_part() -> None:
    x = torch.randn(1, 8)
    got = torch.native_batch_norm(x.to("trn"), None, None, None, None, True, 0.1, 1e-5)
    assert got[0].cpu().abs().max() < 1e-3
    check(lambda x: F.batch_norm(x, None, None, training=True), [torch.randn(9, 1)])


def test_only_the_gradients_asked_for() -> None:
    x, weight, bias = torch.randn(30, 50), torch.randn(50), torch.randn(50)
    for asked in ([0], [1], [2], [0, 2], [1, 2]):
        operands = [x.clone(), weight.clone(), bias.clone()]
        device = [t.to("trn") for t in operands]
        for i in asked:
            operands[i].requires_grad_(), device[i].requires_grad_()
        for one in (operands, device):
            torch.autograd.backward(F.layer_norm(one[0], (50,), one[1], one[2]).square().sum())
        for i in range(3):
            got, expected = device[i].grad, operands[i].grad
            assert (got is not None) == (i in asked)
            if got is not None:
                torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_a_row_of_nan_stays_alone() -> None:
    x = torch.randn(200, 40)
    x[3, 7], x[9] = float("nan"), float("inf")
    got = F.layer_norm(x.to("trn"), (40,)).cpu()
    expected = F.layer_norm(x, (40,))
    assert torch.equal(got.isnan(), expected.isnan())
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_eps_is_the_launch_s_own() -> None:
    """Launches that differ in eps alone share their counts, not their values."""
    x = torch.randn(8, 16)
    y = x.to("trn")
    for eps in (1e-5, 1.0, 1e-5, 0.25):
        torch.testing.assert_close(F.layer_norm(y, (16,), eps=eps).cpu(), F.layer_norm(x, (16,), eps=eps))
