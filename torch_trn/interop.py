"""Where torch does not ask the backend: DLPack's device code, and tensors sent to another process."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.overrides import has_torch_function_unary

_original_dlpack_device = torch.Tensor.__dlpack_device__


@functools.wraps(_original_dlpack_device)
def _dlpack_device(self: torch.Tensor) -> tuple[enum.IntEnum, int]:
    # torch compares with the literal "privateuse1", which a renamed backend never is.
    if not has_torch_function_unary(self) and self.device.type == torch._C._get_privateuse1_backend_name():
        from torch.utils.dlpack import DLDeviceType

        return DLDeviceType.kDLExtDev, self.device.index or 0
    return _original_dlpack_device(self)


def _refusing(reduce: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The reducer, which raises for what lives on the device."""

    @functools.wraps(reduce)
    def checked(value: Any) -> Any:
        # TypedStorage.device warns that the class is deprecated.
        place = value._untyped_storage.device if isinstance(value, torch.storage.TypedStorage) else value.device
        if place.type == torch._C._get_privateuse1_backend_name():
            raise RuntimeError(
                f"[multiprocessing] device memory is never shared between processes; got a {type(value).__name__} on "
                f"'{place}', limit 'cpu'. Send value.cpu() and move it to the device in the other process."
            )
        return reduce(value)

    return checked


def install() -> None:
    """Patches both places; a second call changes nothing."""
    if torch.Tensor.__dlpack_device__ is _dlpack_device:
        return
    torch.Tensor.__dlpack_device__ = _dlpack_device  # type: ignore[method-assign]
    reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    for kind in (torch.Tensor, torch.nn.Parameter, torch.UntypedStorage, torch.storage.TypedStorage):
        if kind in reducers:
            reducers[kind] = _refusing(reducers[kind])
