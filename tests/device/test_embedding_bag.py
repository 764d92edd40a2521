"""Embedding bags in reference numerics: every pair of index types, forward and backward, bit-equal to the CPU's."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

Tensor = torch.Tensor

INDEX_DTYPES = list(itertools.product([torch.int32, torch.int64], repeat=2))


@pytest.mark.parametrize(("index_dtype", "offset_dtype"), INDEX_DTYPES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighed"])
def test_bags(mode: str, sparse: bool, index_dtype: torch.dtype, offset_dtype: torch.dtype) -> None:
    if sparse and mode == "max":
        pytest.skip("PyTorch has no sparse gradient of maxima")  # nor one scaled by frequency
    table, weights = torch.randn(7, 3), torch.randn(13)
    index, offsets = torch.randint(0, 7, (13,)).to(index_dtype), torch.tensor([0, 0, 4, 9], dtype=offset_dtype)

    def run(device: str, **options: Any) -> list[Tensor]:
        leaves = [t.detach().clone().to(device).requires_grad_() for t in (table, weights)]
        if mode == "weighed":
            options |= {"mode": "sum", "per_sample_weights": leaves[1]}
        else:
            options |= {"mode": mode}
            leaves.pop()
        out = F.embedding_bag(index.to(device), leaves[0], offsets.to(device), sparse=sparse, **options)
        (out * torch.arange(12.0, device=device).reshape(4, 3)).sum().backward()
        gradients = (leaf.grad for leaf in leaves)
        return [out.detach().cpu(), *(g.cpu().to_dense() for g in gradients if g is not None)]

    for options in ({}, {"padding_idx": 1}, {"scale_grad_by_freq": True}):
        if "scale_grad_by_freq" in options and (sparse or mode in ("max", "weighed")):
            continue
        on_cpu, on_device = run("cpu", **options), run("trn", **options)
        assert len(on_cpu) == len(on_device) == (3 if mode == "weighed" else 2)
        assert all(torch.equal(a, b) for a, b in zip(on_cpu, on_device, strict=True)), options
