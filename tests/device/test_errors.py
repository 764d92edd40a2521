"""Errors: devices never mix silently, bad arguments raise what the CPU raises."""

import re

import pytest
import torch
from torch.nn import functional as F

trn = torch.trn


def two_sources():
    yield torch.randn(4, 4)
    if trn.device_count() > 1:
        yield torch.randn(4, 4, device="trn:1")


MIXED = {
    "add": lambda a, b: a + b,
    "mul_": lambda a, b: a.clone().mul_(b),
    "mm": lambda a, b: a @ b,
    "addmm": lambda a, b: torch.addmm(a, a, b),
    "bmm": lambda a, b: torch.bmm(a[None], b[None]),
    "linear": lambda a, b: F.linear(a, b),
    "cat": lambda a, b: torch.cat([a, b]),
    "stack": lambda a, b: torch.stack([a, b]),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "gather": lambda a, b: a.gather(0, b.long().clamp(0, 1)),
    "index_select": lambda a, b: a.index_select(0, b[0].long().clamp(0, 1)),
    "embedding": lambda a, b: F.embedding(b.long().clamp(0, 1), a),
    "conv": lambda a, b: F.conv2d(a[None, None], b[None, None, :2, :2]),
    "layer_norm": lambda a, b: F.layer_norm(a, (4,), b[0]),
    "cross_entropy": lambda a, b: F.cross_entropy(a, b[0].long().clamp(0, 1)),
    "sdpa": lambda a, b: F.scaled_dot_product_attention(a[None, None], b[None, None], b[None, None]),
    "lerp": lambda a, b: a.lerp(a, b),
    "out": lambda a, b: torch.add(a, a, out=b),
    "foreach": lambda a, b: torch._foreach_add([a], [b]),
    "batch_norm": lambda a, b: F.batch_norm(a, b[0].clone(), b[0].abs()),
    "cdist": lambda a, b: torch.cdist(a, b),
    "searchsorted": lambda a, b: torch.searchsorted(a.sort().values, b),
    "solve": lambda a, b: torch.linalg.solve(a, b),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_raise(name):
    a = torch.randn(4, 4, device="trn")
    for b in two_sources():
        with pytest.raises(RuntimeError, match=r"device|trn"):
            MIXED[name](a, b)
        with pytest.raises(RuntimeError, match=r"device|trn"):
            MIXED[name](b, a)


def test_cpu_scalars_mix_as_on_cuda():
    x = torch.ones(3, device="trn")
    scalar = torch.tensor(2.0)
    assert (x * scalar).tolist() == [2, 2, 2]
    assert torch.where(x > 0, x, scalar).tolist() == [1, 1, 1]
    assert x.index_select(0, torch.tensor([1], device="trn")).tolist() == [1]
    assert x[torch.tensor([0, 1])].tolist() == [1, 1]
    x[torch.tensor([0])] = torch.tensor(5.0)
    assert x.tolist() == [5, 1, 1]


def same_error(make) -> None:
    with pytest.raises(Exception) as cpu:
        make("cpu")
    with pytest.raises(type(cpu.value)) as device:
        make("trn")
    assert str(device.value).split("\n")[0].replace("trn:0", "cpu") == str(cpu.value).split("\n")[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.ones(2, 3, device=d) @ torch.ones(2, 3, device=d),
        lambda d: torch.ones(2, device=d) + torch.ones(3, device=d),
        lambda d: torch.ones(2, device=d)[5],
        lambda d: torch.ones(2, device=d).view(3),
        lambda d: torch.ones(2, device=d).sum(4),
        lambda d: torch.ones(2, device=d, dtype=torch.long).mean(),
        lambda d: torch.cat([]),
        lambda d: F.embedding(torch.tensor([9], device=d), torch.ones(3, 2, device=d)),
        lambda d: torch.linalg.cholesky(-torch.eye(2, device=d)),
        lambda d: torch.ones(2, device=d).item(),
        lambda d: torch.ones(2, device=d, requires_grad=True).add_(1),
        lambda d: F.cross_entropy(torch.ones(2, 3, device=d), torch.tensor([0, 7], device=d)),
        lambda d: torch.ones(3, device=d).index_select(0, torch.tensor([7], device=d)),
        lambda d: torch.ones(1, 3, device=d).addr_(torch.ones(2, device=d), torch.ones(3, device=d)),
        lambda d: torch.ones(3, device=d).addr_(torch.ones(2, device=d), torch.ones(3, device=d)),
        lambda d: torch.ones(2, 3, device=d).addr_(torch.ones(2, 1, device=d), torch.ones(3, device=d)),
    ],
)
def test_bad_arguments_raise_as_on_cpu(make):
    same_error(make)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.ones(2, device=d, dtype=torch.bool).topk(1),
        lambda d: torch.linalg.lu_factor(torch.eye(2, device=d), pivot=False),
        lambda d: torch.nansum(torch.ones(2, dtype=torch.complex64, device=d)),
        lambda d: torch.sort(torch.ones(2, dtype=torch.complex64, device=d)),
    ],
)
def test_kernels_that_refuse_name_the_device(make):
    with pytest.raises(Exception) as cpu:
        make("cpu")
    with pytest.raises(type(cpu.value)) as device:
        make("trn")
    words = str(cpu.value).split("\n")[0]
    assert "CPU" in words
    assert str(device.value).split("\n")[0] == re.sub("(the )?CPU", "trn", words)


@pytest.mark.parametrize("name", ["_foreach_addcmul", "_foreach_addcdiv", "_foreach_addcmul_", "_foreach_addcdiv_"])
def test_scalars_of_a_list_lie_on_the_host(name):
    """As other accelerators have it: kernels take them as arguments."""
    scalars = torch.tensor([1.0, 2.0])
    on_cpu, on_device = (
        [[torch.full((3,), float(i), device=d) for i in (1, 2)] for _ in range(3)] for d in ("cpu", "trn")
    )
    with pytest.raises(RuntimeError, match="Expected scalars to be on CPU, got trn:0 instead"):
        getattr(torch, name)(*on_device, scalars.to("trn"))
    expected, got = getattr(torch, name)(*on_cpu, scalars), getattr(torch, name)(*on_device, scalars)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, got, strict=True))
