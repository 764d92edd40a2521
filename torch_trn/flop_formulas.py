"""FlopCounterMode's formulas for the fused attention that runs on the device."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from torch_trn.on_import import on_import


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two matmuls: scores and output. Shapes [batch, heads, sequence, dim]; not halved for causality."""
    batch, heads, query_length, dim = query
    return 2 * batch * heads * query_length * key[-2] * (dim + value[-1])


def attention_backward_flops(
    grad_out: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """The four gradient matmuls: of values, probabilities, queries and keys. The scores' recompute is no model FLOP."""
    return 2 * attention_flops(query, key, value)


def _register(flop_counter: ModuleType) -> None:
    ops = torch.ops.aten
    formulas = {
        ops._scaled_dot_product_fused_attention_overrideable: attention_flops,
        ops._scaled_dot_product_fused_attention_overrideable_backward: attention_backward_flops,
    }
    for op, formula in formulas.items():
        if op not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(op)(formula)


def install() -> None:
    """Registers the formulas when torch.utils.flop_counter is imported."""
    on_import("torch.utils.flop_counter", _register)
