"""Fused attention in hardware numerics: forward and backward through autograd, against float64 on the CPU."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn

EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float64: 2.0**-24}
FUSED = {
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_fused_attention_overrideable_backward",
}


pytestmark = pytest.mark.usefixtures("hardware")


def executed() -> bool:
    return not FUSED & set(torch_trn.reference_operators(clear=True))


def leaves(*tensors: torch.Tensor, device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [tensor.to(device=device, dtype=dtype).requires_grad_() for tensor in tensors]


class Sizes:
    """What rounding errors are relative to: the sums of absolute values behind each element of result and gradients."""

    def __init__(self, tensors: list[torch.Tensor], grad: torch.Tensor, arguments: dict[str, Any]) -> None:
        q, k, v = (x.detach() for x in tensors)
        kv_heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        scale = arguments.get("scale", q.shape[-1] ** -0.5)
        scores = scale * (q @ k.mT)
        mask = arguments.get("attn_mask")
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if arguments.get("is_causal"):
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        p = scores.softmax(-1).nan_to_num()
        self.score = scores.abs().nan_to_num(posinf=0).max().item()
        self.out = p @ v.abs()
        size = grad.abs() @ v.abs().mT + (grad.abs() * self.out).sum(-1, keepdim=True)
        ds = abs(scale) * p * size

        def of_heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(1, (kv_heads, groups)).sum(2)

        self.grads = [ds @ k.abs(), of_heads(ds.mT @ q.abs()), of_heads(p.mT @ grad.abs())]


def assert_within(actual: torch.Tensor, expected: torch.Tensor, size: torch.Tensor, relative: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.detach().cpu().double() - expected.detach()).abs()
    tiny = 2.0**-18 if actual.dtype == torch.float16 else 1e-30  # sums of numbers below the normal ones
    assert (error <= relative * size + tiny).all()


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dtype: torch.dtype, **arguments: Any) -> None:
    """Values and gradients of SDPA; the operands are rounded to `dtype` on both sides."""
    exact = leaves(*(x.to(dtype) for x in (q, k, v)))
    device = leaves(q, k, v, device="trn", dtype=dtype)
    mask = arguments.pop("attn_mask", None)
    exact_mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    expected = F.scaled_dot_product_attention(*exact, attn_mask=exact_mask, **arguments)
    grad = torch.randn_like(expected).to(dtype)
    expected.backward(grad.double())
    sizes = Sizes(exact, grad.double(), arguments | {"attn_mask": exact_mask})
    # Rounded to 16 bits: probabilities, the result, the scores' gradient, each gradient. In fp32: the products' sums,
    # and exp() of the scores twice.
    relative = 5 * EPSILON[dtype] + (2 * (q.shape[-1] + q.shape[-2] + k.shape[-2]) + 8 * sizes.score) * 2.0**-24
    for _ in range(2):  # the first launch computes for the layout, the others do not
        for x in device:
            x.grad = None
        on_device = mask if mask is None else mask.to("trn")
        actual = F.scaled_dot_product_attention(*device, attn_mask=on_device, **arguments)
        actual.backward(grad.to("trn"))
        assert executed()
        assert_within(actual, expected, sizes.out, relative)
        for x, reference, size in zip(device, exact, sizes.grads):
            assert x.grad is not None and reference.grad is not None
            assert_within(x.grad, reference.grad, size, relative)


@pytest.mark.parametrize("dtype", list(EPSILON))
@pytest.mark.parametrize("causal", [False, True])
def test_forward_and_backward(dtype: torch.dtype, causal: bool) -> None:
    q, k, v = torch.randn(2, 3, 130, 64), torch.randn(2, 3, 200, 64), torch.randn(2, 3, 200, 64)
    check(q, k, v, dtype, is_causal=causal)
    check(k, q, v[:, :, :130], dtype, is_causal=causal, scale=0.3)


MASKS: dict[str, torch.Tensor] = {
    "scores": torch.linspace(-3, 3, 2 * 4 * 70 * 90).reshape(2, 4, 70, 90),
    "heads": torch.linspace(-3, 3, 4 * 70 * 90).reshape(1, 4, 70, 90),
    "expanded": torch.linspace(-3, 3, 70 * 90).reshape(70, 90).expand(2, 4, 70, 90),
    "matrix": torch.linspace(-3, 3, 70 * 90).reshape(90, 70).t(),
    "rows": torch.linspace(-3, 3, 2 * 70).reshape(2, 1, 70, 1),
    "padding": torch.where(torch.arange(90) < 80, 0.0, -math.inf).expand(2, 1, 1, 90),
    "boolean": (torch.arange(90) * torch.arange(1, 71)[:, None] % 7 < 4).expand(2, 1, 70, 90),
    "nothing": torch.arange(70)[:, None].expand(70, 90) % 9 > 0,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, dtype: torch.dtype) -> None:
    q, k, v = torch.randn(2, 4, 70, 32), torch.randn(2, 4, 90, 32), torch.randn(2, 4, 90, 32)
    mask = MASKS[name]
    check(q, k, v, dtype, attn_mask=mask)
    if mask.is_floating_point():
        check(q, k, v, dtype, attn_mask=mask.bfloat16() if dtype == torch.bfloat16 else mask)


def test_heads_that_share_keys() -> None:
    q, k, v = torch.randn(2, 6, 40, 16), torch.randn(2, 2, 50, 16), torch.randn(2, 2, 50, 16)
    check(q, k, v, torch.float32, enable_gqa=True)
    check(q, k, v, torch.float32, enable_gqa=True, is_causal=True)


def test_operands_in_any_layout() -> None:
    """Heads of a projection, slices, expanded keys, and gradients that lie otherwise than the results."""
    qkv = torch.randn(2, 60, 3 * 4 * 16)
    exact, device = leaves(qkv), leaves(qkv, device="trn", dtype=torch.float32)

    def loss(x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.view(2, 60, 4, 16).transpose(1, 2) for part in x.split(64, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 60, 64)
        shared = F.scaled_dot_product_attention(q[:, :, ::2], k[:, :1].expand(2, 4, 60, 16), v)
        return mixed.square().sum() + shared.transpose(2, 3).contiguous().sin().sum()

    expected, actual = loss(exact[0]), loss(device[0])
    expected.backward()
    actual.backward()
    assert executed()
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    assert exact[0].grad is not None and device[0].grad is not None
    torch.testing.assert_close(device[0].grad.cpu().double(), exact[0].grad, rtol=1e-4, atol=1e-5)


def test_results_lie_as_those_of_reference_numerics() -> None:
    q = torch.randn(2, 4, 30, 16, device="trn")
    arguments = (q, q, q, None, 0.0, True)
    results = torch.ops.aten._scaled_dot_product_fused_attention_overrideable(*arguments)
    with torch_trn.set_numerics("reference"):
        references = torch.ops.aten._scaled_dot_product_fused_attention_overrideable(*arguments)
    for result, reference in zip(results, references):
        if isinstance(result, torch.Tensor):
            assert result.shape == reference.shape and result.stride() == reference.stride()
            torch.testing.assert_close(result.cpu(), reference.cpu())
        else:
            assert result == reference


def test_the_kernel_of_the_cpu_by_its_name() -> None:
    q, mask = torch.randn(2, 4, 30, 16), torch.randn(30, 30)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    expected = forward(q, q, q, attn_mask=mask)
    expected_grads = backward(q, q, q, q, *expected, 0.0, False, attn_mask=mask)
    x, m = q.to("trn"), mask.to("trn")
    torch_trn.reference_operators(clear=True)
    actual = forward(x, x, x, attn_mask=m)
    grads = backward(x, x, x, x, *actual, 0.0, False, attn_mask=m)
    assert not torch_trn.reference_operators(clear=True)
    for result, reference in zip((*actual, *grads), (*expected, *expected_grads)):
        torch.testing.assert_close(result.cpu(), reference, rtol=1e-4, atol=1e-5)


def test_dropout_takes_the_composed_path() -> None:
    q = torch.randn(2, 4, 30, 16, device="trn")
    out = F.scaled_dot_product_attention(q, q, torch.ones_like(q), dropout_p=0.5)
    assert not FUSED & set(torch_trn.reference_operators())
    assert out.mean().item() == pytest.approx(1, abs=0.1)


def test_an_encoder_layer_trains() -> None:
    def gradients(device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(1)
        layer = nn.MultiheadAttention(32, 4, batch_first=True).to(device)
        x = torch.randn(2, 50, 32).to(device)
        out, _ = layer(x, x, x, need_weights=False)
        out.square().sum().backward()
        return out, [p.grad for p in layer.parameters() if p.grad is not None]

    expected, expected_grads = gradients("cpu")
    actual, actual_grads = gradients("trn")
    assert executed()
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    for x, y in zip(actual_grads, expected_grads):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-4, atol=1e-4)
