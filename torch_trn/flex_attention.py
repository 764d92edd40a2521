"""FlexAttention, whose list of devices is closed: here its products and softmax run operator by operator."""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from torch_trn.on_import import on_import


def _accept_device(module: ModuleType) -> None:
    original = module._validate_device

    @functools.wraps(original)
    def validate_device(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        if query.device.type != torch._C._get_privateuse1_backend_name():
            original(query, key, value)

    module._validate_device = validate_device  # type: ignore[attr-defined]


def install() -> None:
    """Once PyTorch's own is imported."""
    on_import("torch.nn.attention.flex_attention", _accept_device)
