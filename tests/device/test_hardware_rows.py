"""Softmax and reductions in hardware numerics, through torch: layouts, dtypes, backward; against float64 on the CPU."""

import pytest
import torch

import torch_trn

REDUCTIONS = ["sum", "mean", "amax", "amin", "any", "all", "count_nonzero", "nansum", "norm"]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float64: 2e-6}
DTYPES = [*TOLERANCE, torch.int32, torch.bool]


pytestmark = pytest.mark.usefixtures("hardware")


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    return [x, x.transpose(0, 2), x[:, ::2], x[:1].expand(3, -1, -1)]


def reduce(name: str, x: torch.Tensor, dim: object) -> torch.Tensor:
    function = torch.linalg.vector_norm if name == "norm" else getattr(torch, name)
    return function(x) if dim is None else function(x, dim=dim)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [None, 0, 1, 2, (0, 2), (1, 2)])
def test_reductions(name: str, dtype: torch.dtype, dim: object) -> None:
    if name in ("mean", "norm") and not dtype.is_floating_point:
        pytest.skip("floating-point only")
    x = torch.randn(4, 70, 130, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    for value in layouts(x):
        result = reduce(name, value.to("trn"), dim).cpu()
        exact = reduce(name, value.double() if dtype.is_floating_point else value, dim)
        assert result.dtype == reduce(name, value, dim).dtype
        if result.dtype.is_floating_point:
            scale = value.double().abs().sum() / (value.numel() if name == "mean" else result.numel())
            assert torch.allclose(result.double(), exact, rtol=TOLERANCE[dtype], atol=1e-6 * scale.item())
        else:
            assert torch.equal(result, exact)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_softmax_and_its_backward(log: bool, dtype: torch.dtype, dim: int) -> None:
    function = torch.log_softmax if log else torch.softmax
    x, grad = torch.randn(2, 4, 70, 130, generator=torch.Generator().manual_seed(1)).to(dtype)
    for value, upstream in zip(layouts(x), layouts(grad), strict=True):
        mine, oracle = (t.detach().requires_grad_() for t in (value.to("trn"), value.double()))
        result, exact = function(mine, dim), function(oracle, dim)
        result.backward(upstream.to("trn"))
        exact.backward(upstream.double())
        bound = 4 * TOLERANCE[dtype]
        assert torch.allclose(result.cpu().double(), exact, rtol=bound, atol=bound)
        assert torch.allclose(mine.grad.cpu().double(), oracle.grad, rtol=bound, atol=bound * (8 if log else 1))
    assert torch_trn.reference_operators() == {}


def test_losses_and_norms() -> None:
    x, y = torch.randn(2, 50, 60, generator=torch.Generator().manual_seed(2))
    for reduction in ("mean", "sum"):
        loss = torch.nn.functional.mse_loss(x.to("trn"), y.to("trn"), reduction=reduction)
        exact = torch.nn.functional.mse_loss(x.double(), y.double(), reduction=reduction)
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for p in (0, 1, 2, 3, 0.5, float("inf"), -float("inf")):
        norm = torch.linalg.vector_norm(x.to("trn"), p, dim=1).cpu()
        # A power is the exponential of a logarithm: fp32's error times the exponent's.
        assert torch.allclose(norm.double(), torch.linalg.vector_norm(x.double(), p, dim=1), rtol=2e-5)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_extremes_and_their_places(dtype: torch.dtype, dim: int) -> None:
    x = torch.randint(-50, 50, (4, 70, 130), generator=torch.Generator().manual_seed(3)).to(dtype)
    for value in layouts(x):
        for function in (torch.argmax, torch.argmin):
            assert torch.equal(function(value.to("trn"), dim).cpu(), function(value, dim))
            assert torch.equal(function(value.to("trn")).cpu(), function(value))
        for pair in (torch.max, torch.min):
            got, exact = pair(value.to("trn"), dim, keepdim=True), pair(value, dim, keepdim=True)
            assert torch.equal(got[0].cpu(), exact[0]) and torch.equal(got[1].cpu(), exact[1])
    assert torch_trn.reference_operators() == {}


def test_a_nan_is_the_extreme_of_its_row() -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(4))
    x[3, 7] = x[3, 20] = torch.nan
    x[5], x[6] = -torch.inf, torch.inf
    for function in (torch.argmax, torch.argmin):
        assert torch.equal(function(x.to("trn"), 1).cpu(), function(x, 1))
    torch.testing.assert_close(x.to("trn").max(1).values.cpu(), x.max(1).values, equal_nan=True, rtol=0, atol=0)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [None, 0, 1, (0, 2)])
@pytest.mark.parametrize("correction", [0, 1, 2])
def test_variances_and_their_gradients(dtype: torch.dtype, dim: object, correction: int) -> None:
    x = (torch.randn(4, 70, 130, generator=torch.Generator().manual_seed(5)) + 2).to(dtype)
    for function in (torch.var, torch.std):
        mine, oracle = (t.detach().requires_grad_() for t in (x.to("trn"), x.double()))
        got, exact = (function(t, dim=dim, correction=correction) for t in (mine, oracle))
        got.sum().backward()
        exact.sum().backward()
        bound = 4 * TOLERANCE[dtype]
        torch.testing.assert_close(got.cpu().double(), exact, rtol=bound, atol=bound)
        if function is torch.var or dtype == torch.float32:  # the root of a small variance magnifies what bf16 rounds
            torch.testing.assert_close(mine.grad.cpu().double(), oracle.grad, rtol=4 * bound, atol=4 * bound)
    for function in (torch.var_mean, torch.std_mean):
        for value in layouts(x):
            got, exact = (function(t, dim=dim, correction=correction) for t in (value.to("trn"), value.double()))
            for one, other in zip(got, exact, strict=True):
                torch.testing.assert_close(one.cpu().double(), other, rtol=4 * TOLERANCE[dtype], atol=1e-6)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("order", [1, 2, float("inf")])
def test_norms_of_lists(order: float) -> None:
    """As clipping takes them: tensors of a few sizes, several of each."""
    generator = torch.Generator().manual_seed(6)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [torch.randn(n, 7, generator=generator).to(dtype) for n in (30, 1000, 30, 1, 1000, 20_000)]
        for _ in range(2):
            norms = torch._foreach_norm([t.to("trn") for t in tensors], order)
            for norm, tensor in zip(norms, tensors, strict=True):
                exact = torch.linalg.vector_norm(tensor.double(), order)
                torch.testing.assert_close(norm.cpu().double(), exact, rtol=4 * TOLERANCE[dtype], atol=0)
    parameters = [t.to("trn").requires_grad_() for t in tensors]
    for p in parameters:
        p.grad = p.detach() * 2
    total = torch.nn.utils.clip_grad_norm_(parameters, 1.0, norm_type=order)
    exact = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(2 * t.double(), order) for t in tensors]), order
    )
    assert total.item() == pytest.approx(exact.item(), rel=1e-2)
    assert torch_trn.reference_operators() == {}
