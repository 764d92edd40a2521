"""Automatic mixed precision under the device's name: torch.trn.amp.autocast and GradScaler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.amp import grad_scaler

from .index import device_type

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]


class autocast(torch.amp.autocast_mode.autocast):
    """torch.autocast for this device; the dtype defaults to torch.get_autocast_dtype of it."""

    def __init__(
        self, enabled: bool = True, dtype: torch.dtype | None = None, cache_enabled: bool | None = None
    ) -> None:
        super().__init__(device_type(), dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class GradScaler(grad_scaler.GradScaler):
    """torch.amp.GradScaler for this device."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        super().__init__(device_type(), init_scale, growth_factor, backoff_factor, growth_interval, enabled)


def custom_fwd(fwd: Callable[..., Any] | None = None, *, cast_inputs: torch.dtype | None = None) -> Callable[..., Any]:
    """torch.amp.custom_fwd for this device."""
    wrapped: Callable[..., Any] = torch.amp.custom_fwd(fwd, device_type=device_type(), cast_inputs=cast_inputs)
    return wrapped


def custom_bwd(bwd: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """torch.amp.custom_bwd for this device."""
    wrapped: Callable[..., Any] = torch.amp.custom_bwd(bwd, device_type=device_type())
    return wrapped
