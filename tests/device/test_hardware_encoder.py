"""nn.MultiheadAttention and nn.TransformerEncoder as single operators by their programs, against float64."""

from typing import Any

import pytest
import torch
from torch import nn

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")

# Of the largest element: of bfloat16 each part's result is rounded.
BOUND = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "causal": {"attn_mask": torch.ones(9, 9, dtype=torch.bool).triu(1)},
    "padding": {"key_padding_mask": torch.arange(9) >= torch.tensor([9, 4, 7])[:, None]},
}
MASKS["both"] = MASKS["causal"] | MASKS["padding"]


def on(device: str, values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}


def close(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(got.cpu().double(), exact, rtol=0, atol=BOUND[dtype] * exact.abs().max().item())


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("weights", [None, "mean", "heads"])
@pytest.mark.parametrize("mask", MASKS)
def test_multi_head_attention(mask: str, weights: str | None, dtype: torch.dtype) -> None:
    layer = nn.MultiheadAttention(24, 4, batch_first=True).eval().to(dtype)
    x = torch.randn(3, 9, 24).to(dtype)
    options: dict[str, Any] = {"need_weights": weights is not None, "average_attn_weights": weights != "heads"}
    with torch.inference_mode():
        exact = layer.double()(*[x.double()] * 3, **options, **MASKS[mask])
        layer.to("trn", dtype)
        for _ in range(2):
            torch_trn.reference_operators(clear=True)
            y = x.to("trn")
            got = layer(y, y, y, **options, **on("trn", MASKS[mask]))
            assert torch_trn.reference_operators() == {}
            close(got[0], exact[0], dtype)
            if weights is not None:
                close(got[1], exact[1], dtype)
    assert got[1] is None or weights is not None


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder(norm_first: bool, activation: str, dtype: torch.dtype) -> None:
    layer = nn.TransformerEncoderLayer(
        32, 2, 50, activation=activation, batch_first=True, norm_first=norm_first, layer_norm_eps=1e-3
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 12, 32).to(dtype)
    mask = {"mask": torch.ones(12, 12, dtype=torch.bool).triu(1)}
    with torch.inference_mode():
        exact = model.double()(x.double(), **mask)
        model.to("trn", dtype)
        for _ in range(2):
            torch_trn.reference_operators(clear=True)
            got = model(x.to("trn"), **on("trn", mask))
            assert torch_trn.reference_operators() == {}
            close(got, exact, dtype)


def test_attention_across_tensors_is_listed() -> None:
    """What is projected together is one tensor; the operator takes others too."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    arguments = (8, 2, layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias)

    def run(device: str) -> Tensor:
        moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
        key = memory.to(device)
        return torch._native_multi_head_attention(x.to(device), key, key, *moved, need_weights=False)[0]

    with torch.inference_mode():
        torch.testing.assert_close(run("trn").cpu(), run("cpu"))
    assert torch_trn.reference_operators() == {"_native_multi_head_attention": 1}
