"""--auto-cast as switches of set_numerics: values of cast operands, counts in both modes, what a profile shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import regression_losses
from torch import nn
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor


pytestmark = pytest.mark.usefixtures("hardware")


def cast(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().double()


def test_products_round_their_operands_and_keep_their_sums() -> None:
    x, w, bias = torch.randn(70, 300), torch.randn(90, 300), torch.randn(90)
    d = [t.to("trn") for t in (x, w, bias)]
    exact = F.linear(x.double(), w.double(), bias.double())
    expected = F.linear(cast(x), cast(w), bias.double())
    plain = F.linear(*d).cpu()
    torch.testing.assert_close(plain.double(), exact, rtol=1e-5, atol=1e-4)
    for auto_cast in ("matmult", "all"):
        with torch_trn.set_numerics("hardware", auto_cast=auto_cast):
            for _ in range(2):
                got = F.linear(*d).cpu().double()
                # all: the bias and the result are operands too
                bound = 1e-4 if auto_cast == "matmult" else 2.0**-8 * (expected.abs() + bias.abs())
                assert ((got - expected).abs() <= bound).all()
    assert torch.equal(F.linear(*d).cpu(), plain)
    assert not torch_trn.reference_operators()


@pytest.mark.parametrize("auto_cast_type,epsilon", [("bf16", 2**-8), ("fp16", 2**-11), ("tf32", 2**-11)])
def test_types(auto_cast_type: str, epsilon: float) -> None:
    x = torch.full((4, 64), 1 + 2 * epsilon + epsilon / 2)  # rounds down
    with torch_trn.set_numerics("hardware", auto_cast="matmult", auto_cast_type=auto_cast_type):
        got = (x.to("trn") @ torch.ones(64, 8, device="trn")).cpu()
    torch.testing.assert_close(got, torch.full((4, 8), 64 * (1 + 2 * epsilon)), rtol=1e-7, atol=0)


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "conv": lambda x: F.conv2d(x.view(4, 8, 8, 8), torch.ones(6, 8, 3, 3, dtype=x.dtype, device=x.device)),
    "attention": lambda x: F.scaled_dot_product_attention(*x[: 3 * 2 * 2 * 10 * 16].view(3, 2, 2, 10, 16)),
    "softmax": lambda x: x.view(32, 64).softmax(1),
    "layer_norm": lambda x: F.layer_norm(x.view(32, 64), (64,)),
    "batch_norm": lambda x: F.batch_norm(x.view(4, 8, 64), None, None, training=True),
    "sum_rows": lambda x: x.view(32, 64).sum(1),
    "sum_columns": lambda x: x.view(32, 64).sum(0),
    "gelu": F.gelu,
    "avg_pool": lambda x: F.avg_pool2d(x.view(4, 8, 8, 8), 2),
}
FORWARD_ONLY: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda x: x.view(32, 64).amax(1),
    "cumsum": lambda x: x.view(32, 64).cumsum(1),
    "max_pool": lambda x: F.max_pool2d(x.view(4, 8, 8, 8), 2),
}


@pytest.mark.parametrize("name", [*CASES, *FORWARD_ONLY])
def test_all_families(name: str) -> None:
    """Within a few roundings to bf16 of float64."""
    function = {**CASES, **FORWARD_ONLY}[name]
    x = torch.randn(2048)
    wide = x.double().requires_grad_()
    exact = function(wide)
    cotangent = torch.randn(exact.shape)
    exact.backward(cotangent.double())
    torch_trn.reference_operators(clear=True)
    with torch_trn.set_numerics("hardware", auto_cast="all"):
        for _ in range(2):
            d = x.to("trn").requires_grad_(name in CASES)
            out = function(d)
            if name in CASES:
                out.backward(cotangent.to("trn"))
    assert wide.grad is not None and not torch.equal(out.detach().cpu(), exact.float())
    pairs = [(out, exact)] + ([(d.grad, wide.grad)] if d.grad is not None else [])
    for got, expected in pairs:
        got, expected = got.detach().cpu().double(), expected.detach()
        assert ((got - expected).abs() <= 2.0**-8 * 4 * expected.abs().max()).all()
    assert not torch_trn.reference_operators()


def profiled(mode: str, **switches: Any) -> Any:
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).to("trn")
    x = torch.randn(512, 256, device="trn")
    with torch_trn.set_numerics(mode, **switches):
        for _ in range(2):
            with torch_trn.profile() as prof:
                model(x).square().mean().backward()
    return prof


def test_counts_follow_the_options_and_not_the_mode() -> None:
    seen = {}
    for auto_cast in ("none", "matmult", "all"):
        pair = [profiled(mode, auto_cast=auto_cast) for mode in ("reference", "hardware")]
        reference, on_engines = (
            (p.launches, p.hardware_flops_by_dtype, p.hbm_read_bytes, p.device_seconds, p.flops_by_dtype) for p in pair
        )
        assert reference == on_engines
        seen[auto_cast] = pair[0]
    assert seen["none"].flops == seen["matmult"].flops
    assert list(seen["none"].flops_by_dtype) == ["float32"] and list(seen["all"].flops_by_dtype) == ["bfloat16"]
    assert seen["none"].hbm_read_bytes == seen["matmult"].hbm_read_bytes == seen["all"].hbm_read_bytes


def test_a_recording_keeps_the_precision_it_was_made_in() -> None:
    x = torch.randn(1024, 4096, device="trn")

    def product(**switches: Any) -> Any:
        with torch_trn.set_numerics("reference", **switches), torch_trn.profile() as prof:
            x @ x.t()
        return prof

    plain, cast = product(), product(auto_cast="matmult")
    for target in ("trn1", "trn2", "trn3"):
        # Four passes or one; what else it takes is the same.
        assert cast.on(target).device_seconds < 0.6 * plain.on(target).device_seconds
    assert 0.1 < cast.mfu <= 1


def test_training_in_bf16_operands_is_close() -> None:
    def losses(**switches: Any) -> list[float]:
        with torch_trn.set_numerics("hardware", **switches):
            return regression_losses(20)

    plain, matmult = losses(), losses(auto_cast="matmult")
    assert matmult != plain
    assert matmult[-1] == pytest.approx(plain[-1], rel=0.02)
    assert losses(auto_cast="matmult", auto_cast_type="tf32")[-1] == pytest.approx(plain[-1], rel=2e-3)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[numerics\] auto_cast is one of none, matmult, all; got 'conv'"):
        torch_trn.set_numerics("hardware", auto_cast="conv")
    with pytest.raises(ValueError, match=r"\[numerics\] auto_cast_type is one of bf16, fp16, tf32, fp8_e4m3; got 'f'"):
        torch_trn.set_numerics("reference", auto_cast="all", auto_cast_type="f")
