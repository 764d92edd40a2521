"""RMS norm is one launch each way, with the values and gradients of the CPU, which takes it apart."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torch_trn

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [((8, 33, 64), (64,)), ((4, 5, 6), (5, 6)), ((3, 0, 8), (8,)), ((2, 7), (7,))]


def passes(device: str, x: torch.Tensor, weight: torch.Tensor | None, axes: tuple[int, ...], eps: Any) -> list[Any]:
    x = x.to(device).detach().requires_grad_()
    leaves = [x]
    if weight is not None:
        weight = weight.to(device).detach().requires_grad_()
        leaves.append(weight)
    y = F.rms_norm(x, axes, weight, eps)
    grad = torch.arange(y.numel()).reshape(y.shape).to(y.dtype) / (y.numel() + 1)
    y.backward(grad.to(device))
    return [y.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves if leaf.grad is not None)]


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("eps", [None, 1e-5])
@pytest.mark.parametrize("weight_dtype", [None, "same", torch.float32])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_values_and_gradients_are_the_cpus(
    shape: tuple[int, ...], axes: tuple[int, ...], dtype: torch.dtype, weight_dtype: Any, eps: Any
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype)
    weight = None if weight_dtype is None else torch.randn(axes).to(dtype if weight_dtype == "same" else weight_dtype)
    for expected, got in zip(passes("cpu", x, weight, axes, eps), passes("trn", x, weight, axes, eps), strict=True):
        assert expected.dtype == got.dtype
        assert expected.stride() == got.stride()
        assert torch.equal(expected, got)


def test_one_launch_each_way_and_no_more_memory_than_its_results() -> None:
    norm = nn.RMSNorm(1024, device="trn", dtype=torch.bfloat16)
    x = torch.randn(256, 1024, device="trn", dtype=torch.bfloat16, requires_grad=True)
    grad = torch.ones_like(x)
    norm(x).backward(grad)
    norm.weight.grad = x.grad = None
    before = torch.trn.memory_allocated()
    with torch_trn.profile() as prof:
        y = norm(x)
        y.backward(grad)
    assert {row.name: row.launches for row in prof.by_operator()} == {
        "_fused_rms_norm": 1,
        "_fused_rms_norm_backward": 1,
    }
    tile, rows = 256 * 1024 * 2, 256 * 4
    assert prof.peak_memory_bytes - before <= 2 * tile + 1024 * 2 + rows + 4096
    # x in and y out; the gradient, x and the reciprocals in, and the gradient of x out; weight and its gradient.
    assert prof.hbm_read_bytes + prof.hbm_write_bytes <= 1.1 * (5 * tile + 2 * rows + 4 * 1024 * 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_second_derivatives_and_transforms() -> None:
    values = torch.randn(3, 5, dtype=torch.float64)

    def second(device: str) -> Any:
        x = values.to(device).requires_grad_()
        weight = torch.ones(5, dtype=torch.float64, device=device, requires_grad=True)
        (grad,) = torch.autograd.grad((F.rms_norm(x, (5,), weight, 1e-3) ** 2).sum(), x, create_graph=True)
        return torch.autograd.grad((grad**2).sum(), (x, weight))

    for expected, got in zip(second("cpu"), second("trn"), strict=True):
        torch.testing.assert_close(got.cpu(), expected)
    x = values.to("trn")
    torch.testing.assert_close(torch.func.vmap(lambda t: F.rms_norm(t, (5,)))(x).cpu(), F.rms_norm(values, (5,)))
    _, tangent = torch.func.jvp(lambda t: F.rms_norm(t, (5,)), (x,), (torch.ones_like(x),))
    _, expected = torch.func.jvp(lambda t: F.rms_norm(t, (5,)), (values,), (torch.ones_like(values),))
    torch.testing.assert_close(tangent.cpu(), expected)
