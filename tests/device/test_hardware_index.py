"""Gathers, scatters and embeddings by their programs: values against the CPU in any layout, and nothing left out."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor


pytestmark = pytest.mark.usefixtures("hardware")


def check(function: Callable[..., Tensor], *arguments: Tensor, atol: float = 0) -> None:
    """The same as on the CPU, three times over: the first launch computes for the layout, the others do not."""
    expected = function(*[a.clone() for a in arguments])
    for _ in range(3):
        on_device = [a.to("trn") for a in arguments]
        torch_trn.reference_operators(clear=True)
        out = function(*on_device)
        assert torch_trn.reference_operators() == {}
        torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_reads(dtype: torch.dtype) -> None:
    x = torch.randint(-(2**31), 2**31, (60, 70, 8)).to(dtype)
    row, column = torch.randint(0, 60, (33, 5)), torch.randint(0, 70, (90,))
    check(lambda x, i: x[i], x, row)
    check(lambda x, i: x[i], x, row - 60)
    check(lambda x, i: x[:, i], x, column)
    check(lambda x, i: x[..., i], x, torch.randint(-8, 8, (3,)))
    check(lambda x, i: x.transpose(0, 1)[i], x, column)
    check(lambda x, i: x.index_select(1, i), x, column.int())
    check(lambda x, i: x[:, :, ::2].index_select(2, i), x, torch.randint(0, 4, (9,)))
    check(lambda x, i: x[0, 0].index_select(0, i), x, torch.randint(0, 8, (9,)))
    for dim in range(3):
        sizes = [20, 30, 5]
        check(lambda x, i: x.gather(dim, i), x, torch.randint(0, x.size(dim), sizes))  # noqa: B023
        check(lambda x, i: x.transpose(0, 2).gather(2 - dim, i.transpose(0, 2)), x, torch.randint(0, 5, sizes))  # noqa: B023
    check(lambda x, i: x.take(i), x, torch.randint(-33_600, 33_600, (7, 9)))
    check(lambda x, i: torch.take_along_dim(x, i, 1), x, torch.randint(0, 70, (60, 1, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_several_lists(dtype: torch.dtype) -> None:
    x = torch.randint(-100, 100, (20, 33, 5, 4)).to(dtype)
    i, j, k = torch.randint(-20, 20, (7, 6)), torch.randint(-33, 33, (6,)), torch.randint(0, 5, (7, 1))
    check(lambda x, i, j: x[i, j], x, i, j)
    check(lambda x, j, k: x[:, j, k], x, j, k)
    check(lambda x, i, k: x[i, :, k], x, i, k)
    check(lambda x, i, j, k: x[i, j, k], x, i, j, k)
    check(lambda x, i, j: x.transpose(0, 1)[j, i], x, i, j)
    check(lambda x, i, j: x[i.int(), j.int()], x, i, j)
    rows, columns, values = torch.randperm(20)[:9], torch.arange(9), torch.randint(-100, 100, (9, 5, 4)).to(dtype)
    check(lambda x, i, j, v: x.index_put((i, j), v), x, rows, columns, values)
    check(lambda x, i, j, v: x.index_put_((i, j), v[:1]), x, rows, columns, values)
    apart = torch.randint(-100, 100, (5, 33, 4)).to(dtype)

    def assigned(x: Tensor, i: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x[i, :, k] = v
        return x

    check(assigned, x, rows[:5], columns[:5], apart)
    check(
        lambda x, i, k, v: assigned(x.transpose(1, 3), i, k, v),
        x.transpose(1, 3).contiguous(),
        rows[:5],
        columns[:5],
        apart,
    )
    if dtype != torch.bfloat16:
        check(lambda x, i, j: x.index_put((i, j), x[0, 0], accumulate=True), x, i, j)


def test_an_index_out_of_range_is_an_error_every_time() -> None:
    x, rows = torch.randn(4, 5, 6, device="trn"), torch.tensor([0, 1], device="trn")
    for _ in range(2):
        x[rows, rows]
        x.gather(1, torch.zeros(4, 5, 6, dtype=torch.int64, device="trn"))
    with pytest.raises(IndexError, match=r"index 5 is out of bounds for dimension 1 with size 5"):
        x[rows, torch.tensor([0, 5], device="trn")]
    with pytest.raises(RuntimeError, match=r"index 5 is out of bounds for dimension 1 with size 5"):
        x.gather(1, torch.full((4, 5, 6), 5, device="trn"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_writes(dtype: torch.dtype) -> None:
    x, rows = torch.randint(-50, 50, (40, 30, 6)).to(dtype), torch.randperm(40)[:25]
    values = torch.randint(-50, 50, (25, 30, 6)).to(dtype)
    check(lambda x, i, v: x.index_copy(0, i, v), x, rows, values)
    check(lambda x, i, v: x.index_copy_(0, i, v), x, rows, values)
    check(lambda x, i, v: x.index_put((i,), v), x, rows - 40, values)
    check(lambda x, i, v: x.index_put_((i,), v[:1]), x, rows, values)
    check(lambda x, i: x.index_fill(0, i, 3), x, rows)
    check(lambda x, i: x.t()[2:].index_fill_(1, i, 7), x[..., 0], rows)
    index = torch.stack([torch.randperm(30)[:20] for _ in range(240)], 1).view(20, 40, 6).transpose(0, 1)
    source = torch.randint(-50, 50, (40, 20, 6)).to(dtype)
    check(lambda x, i, v: x.scatter(1, i, v), x, index, source)
    check(lambda x, i, v: x.scatter_(1, i, v), x, index, source)
    check(lambda x, i: x.scatter(1, i, 5), x, index)
    check(lambda x, i, v: x.scatter_(1, i, v), x, index[:30, :, :5], source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_sums(dtype: torch.dtype) -> None:
    """Small whole numbers add up exactly in any order, where rows meet too."""
    x, rows = torch.randint(-3, 3, (10, 30, 6)).to(dtype), torch.randint(0, 10, (25,))
    values = torch.randint(-3, 3, (25, 30, 6)).to(dtype)
    check(lambda x, i, v: x.index_add(0, i, v), x, rows, values)
    check(lambda x, i, v: x.transpose(0, 1).index_add_(1, i, v.transpose(0, 1)), x, rows, values)
    check(lambda x, i, v: x.index_put((i,), v, accumulate=True), x, rows, values)
    index = torch.randint(0, 30, (10, 50, 6))
    source = torch.randint(-3, 3, (10, 50, 6)).to(dtype)
    check(lambda x, i, v: x.scatter_add(1, i, v), x, index, source)
    check(lambda x, i, v: x.scatter_add_(1, i, v[:, :50]), x, index, source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [None, 3])
def test_embedding_and_its_gradient(dtype: torch.dtype, padding: int | None) -> None:
    weight = torch.randint(-8, 8, (50, 130)).to(dtype)
    tokens, gradient = torch.randint(0, 50, (4, 17)), torch.randint(-3, 3, (4, 17, 130)).to(dtype)
    check(lambda w, i: F.embedding(i, w, padding_idx=padding), weight, tokens)

    def backward(weight: Tensor, tokens: Tensor, gradient: Tensor) -> Tensor:
        weight.requires_grad_()
        F.embedding(tokens, weight, padding_idx=padding).backward(gradient)
        assert weight.grad is not None
        return weight.grad

    check(backward, weight, tokens, gradient)
    check(backward, weight, tokens.t().contiguous().t(), gradient)


@pytest.mark.parametrize("function", [lambda x, i: x[i], lambda x, i: x.index_select(0, i)])
def test_gradients_of_reads(function: Callable[..., Tensor]) -> None:
    def backward(x: Tensor, index: Tensor, gradient: Tensor) -> Tensor:
        x.requires_grad_()
        function(x, index).backward(gradient)
        assert x.grad is not None
        return x.grad

    check(backward, torch.randn(20, 9), torch.randint(0, 20, (40,)), torch.randint(-3, 3, (40, 9)).float())


def test_a_gradient_of_random_rows_within_its_bound() -> None:
    """A row is rounded once for each that is added to it, by half a unit of the sum of magnitudes at most."""
    tokens, gradient = torch.randint(0, 30, (500,)), torch.randn(500, 64)
    weight = torch.zeros(30, 64, device="trn", requires_grad=True)
    F.embedding(tokens.to("trn"), weight).backward(gradient.to("trn"))
    exact = torch.zeros(30, 64, dtype=torch.float64).index_add_(0, tokens, gradient.double())
    magnitude = torch.zeros(30, 64, dtype=torch.float64).index_add_(0, tokens, gradient.double().abs())
    assert weight.grad is not None
    times = tokens.bincount(minlength=30)[:, None]
    assert ((weight.grad.cpu().double() - exact).abs() <= times * 2.0**-24 * magnitude).all()


def test_what_has_no_program_is_listed() -> None:
    x = torch.randn(6, 5, device="trn")
    torch_trn.reference_operators(clear=True)
    x[x > 0]
    index = torch.zeros(1, 5, dtype=torch.int64, device="trn")
    assert torch.equal(x.scatter(1, index, x[:1]).cpu()[1:], x.cpu()[1:])
    x.scatter_reduce(0, torch.zeros(1, 5, dtype=torch.int64, device="trn"), x[:1], "amax")
    listed = torch_trn.reference_operators(clear=True)
    assert {"scatter_reduce.two", "scatter.src"} <= set(listed)
