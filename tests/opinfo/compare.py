"""Whether the device's result is CPU's result: structure, metadata and values, and whether to the last bit."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

# Different algorithms on the two sides (a fused kernel against the mathematical formula): tolerance times this.
WIDER = {"nn.functional.scaled_dot_product_attention": 10.0, "nn.functional.multi_head_attention_forward": 10.0}


@dataclass
class Verdict:
    problem: str | None = None
    bit_equal: bool = True
    strides_equal: bool = True


def _values(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        plain = tensor.detach()
        if plain.layout != torch.strided:
            plain = plain.to_dense()
        if plain.is_quantized:
            plain = plain.dequantize()
        plain = plain.cpu().resolve_conj().resolve_neg()
        return torch.view_as_real(plain) if plain.dtype == torch.complex32 else plain


def same_tensor(
    got: torch.Tensor, want: torch.Tensor, device: torch.device | None, values: bool, widen: float
) -> Verdict:
    """`device`: where `got` must live, None for wherever. `values=False` compares metadata only."""
    if device is not None and got.device.type != device.type:
        return Verdict(f"result on {got.device.type}, not on the device")
    for what in ("dtype", "layout", "requires_grad", "is_quantized"):
        if getattr(got, what) != getattr(want, what):
            return Verdict(f"{what} {getattr(got, what)}, CPU has {getattr(want, what)}")
    if got.is_nested or want.is_nested:
        parts = [same_tensor(g, w, device, values, widen) for g, w in zip(got.unbind(), want.unbind(), strict=True)]
        return next((p for p in parts if p.problem), Verdict())
    if got.shape != want.shape:
        return Verdict(f"shape {tuple(got.shape)}, CPU has {tuple(want.shape)}")
    strides = got.layout != torch.strided or got.numel() == 0 or got.stride() == want.stride()
    if not values:
        return Verdict(strides_equal=strides)
    a, b = _values(got), _values(want)
    if torch.equal(a, b):
        return Verdict(strides_equal=strides)
    options: dict[str, Any] = {"equal_nan": True, "check_stride": False}
    try:
        torch.testing.assert_close(a, b, rtol=0, atol=0, **options)
        return Verdict(strides_equal=strides)
    except AssertionError:
        pass
    try:
        if widen != 1.0 and a.dtype.is_floating_point:
            rtol, atol = torch.testing._comparison.default_tolerances(a, b)
            options.update(rtol=rtol * widen, atol=atol * widen)
        torch.testing.assert_close(a, b, **options)
    except AssertionError as error:
        return Verdict("values differ: " + " ".join(str(error).split())[:200], bit_equal=False)
    return Verdict(bit_equal=False, strides_equal=strides)


def same_leaf(got: Any, want: Any, device: torch.device | None) -> bool:
    if isinstance(want, torch.device) and isinstance(got, torch.device):
        return device is None or got.type == device.type
    if isinstance(want, float) and isinstance(got, float):
        return got == want or (math.isnan(got) and math.isnan(want))
    if isinstance(want, str) and isinstance(got, str):
        return neutral(got) == neutral(want)
    try:
        return type(got) is type(want) and bool(got == want)
    except (RuntimeError, ValueError):
        return type(got) is type(want)


def same(got: Any, want: Any, device: torch.device | None, values: bool = True, widen: float = 1.0) -> Verdict:
    got_leaves, got_spec = tree_flatten(got)
    want_leaves, want_spec = tree_flatten(want)
    if got_spec != want_spec:
        return Verdict(f"structure {got_spec}, CPU has {want_spec}")
    total = Verdict()
    for i, (g, w) in enumerate(zip(got_leaves, want_leaves, strict=True)):
        if isinstance(w, torch.Tensor) and isinstance(g, torch.Tensor):
            verdict = same_tensor(g, w, device, values, widen)
        elif values and not same_leaf(g, w, device):
            verdict = Verdict(f"got {g!r:.80}, CPU has {w!r:.80}")
        else:
            verdict = Verdict()
        if verdict.problem:
            verdict.problem = f"output {i}: {verdict.problem}" if len(want_leaves) > 1 else verdict.problem
            return verdict
        total.bit_equal &= verdict.bit_equal
        total.strides_equal &= verdict.strides_equal
    return total


def neutral(message: str) -> str:
    """A message with the names of devices, addresses and memory locations taken out."""
    text = str(message).split("\nException raised from")[0]
    name = torch._C._get_privateuse1_backend_name()
    text = re.sub(rf"\b({name}|cpu|privateuseone|privateuse1)(:\d+)?\b", "DEV", text, flags=re.IGNORECASE)
    text = re.sub(r"DEV([A-Z]\w*(Tensor|Type))", r"\1", text)
    text = re.sub(rf"\b(torch\.)?({name}|DEV)\.(\w+Tensor)", r"torch.\3", text, flags=re.IGNORECASE)
    text = re.sub(r",\s*device='DEV'", "", text)
    text = re.sub(r"0x[0-9a-f]+", "ADDR", text)
    return " ".join(text.split())
