"""Embedding bags by their programs, forward and backward, against float64."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
INDEX = torch.tensor([3, 7, 7, 0, 19, 3, 4, 5, 5, 5, 11])
# An empty bag among them, and one at the end.
OFFSETS = torch.tensor([0, 2, 2, 6, 9, 11])
OPTIONS: dict[str, dict[str, Any]] = {
    "sum": {"mode": "sum"},
    "mean": {"mode": "mean"},
    "mean_of_real": {"mode": "mean", "padding_idx": 5},
    "sum_of_real": {"mode": "sum", "padding_idx": 5},
    "last": {"mode": "mean", "include_last_offset": True},
    "weighed": {"mode": "sum", "per_sample_weights": torch.linspace(-1, 2, 11)},
    "weighed_real": {"mode": "sum", "per_sample_weights": torch.linspace(-1, 2, 11), "padding_idx": 7},
}


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("width", [1, 16, 700])
@pytest.mark.parametrize("name", OPTIONS)
def test_bags(name: str, width: int, index_dtype: torch.dtype, dtype: torch.dtype) -> None:
    options = dict(OPTIONS[name])
    table = torch.randn(20, width).to(dtype)
    weights = options.pop("per_sample_weights", None)
    if weights is not None:
        weights = weights.to(dtype)
    upstream = torch.randn(6 - options.get("include_last_offset", False), width).to(dtype)

    def run(device: str, to: torch.dtype) -> list[Tensor]:
        leaves = [t.detach().to(device, to).requires_grad_() for t in (table, weights) if t is not None]
        own = {"per_sample_weights": leaves[1]} if len(leaves) > 1 else {}
        places = (t.to(device, index_dtype) for t in (INDEX, OFFSETS))
        out = F.embedding_bag(next(places), leaves[0], next(places), **options, **own)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(device, to))]

    exact = run("cpu", torch.float64)
    for _ in range(2):
        torch_trn.reference_operators(clear=True)
        with torch_trn.strict(uninitialized="raise"):
            got = run("trn", dtype)
        assert torch_trn.reference_operators() == {}
        for mine, oracle in zip(got, exact, strict=True):
            bound = BOUND[dtype] * oracle.abs().max().item()
            torch.testing.assert_close(mine.cpu().double(), oracle, rtol=0, atol=bound)


def test_what_the_forward_keeps() -> None:
    """The bag of each index and the bags' sizes, as the CPU has them."""
    table = torch.randn(20, 4)
    on_device = torch.embedding_bag(table.to("trn"), INDEX.to("trn"), OFFSETS.to("trn"), False, 1)
    on_host = torch.embedding_bag(table, INDEX, OFFSETS, False, 1)
    for got, expected in zip(on_device[1:3], on_host[1:3], strict=True):
        assert torch.equal(got.cpu(), expected)


def test_gradients_of_maxima() -> None:
    """The forward is counted alone; its places are the CPU's, and the gradient goes to them."""
    table = torch.randn(20, 4)

    def run(device: str) -> Tensor:
        leaf = table.to(device).requires_grad_()
        out = F.embedding_bag(INDEX.to(device), leaf, OFFSETS.to(device), mode="max")
        return torch.autograd.grad(out.square().sum(), leaf)[0]

    torch.testing.assert_close(run("trn").cpu(), run("cpu"))
    assert torch_trn.reference_operators() == {"_embedding_bag": 1}


def test_sparse_gradients() -> None:
    table = torch.randn(20, 4)

    def run(device: str) -> Tensor:
        leaf = table.to(device).requires_grad_()
        F.embedding_bag(INDEX.to(device), leaf, OFFSETS.to(device), mode="sum", sparse=True).square().sum().backward()
        assert leaf.grad is not None and leaf.grad.is_sparse
        return leaf.grad.cpu().to_dense()

    torch.testing.assert_close(run("trn"), run("cpu"))
