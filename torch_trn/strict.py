"""Strict modes: what the hardware would do slowly or leave undefined becomes an error or a NaN."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from torch_trn import _C

_state: dict[str, Any] = {"fallback": False, "uninitialized": False, "pointers": False}
_POINTER_OWNERS: tuple[Any, ...] = (torch.Tensor, torch.UntypedStorage, torch.storage.TypedStorage)
_data_ptr: dict[Any, Callable[[Any], int] | None] = {}  # of a guarded class: its own; None: it inherits one


def _refusing(original: Callable[[Any], int]) -> Callable[[Any], int]:
    def data_ptr(self: Any) -> int:
        # torch itself uses addresses to tell storages apart; only other code could follow one.
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        # TypedStorage.device warns that the class is deprecated.
        device = self._untyped_storage.device if isinstance(self, torch.storage.TypedStorage) else self.device
        if device.type == torch._C._get_privateuse1_backend_name() and caller.split(".")[0] != "torch":
            raise RuntimeError(
                f"[strict] a device pointer means nothing to host code; got data_ptr() of memory on {device}, "
                f"called from {caller or 'unknown code'}. Copy the tensor with .cpu() first."
            )
        return original(self)

    return data_ptr


def _guard_pointers(guard: bool) -> None:
    for owner in _POINTER_OWNERS:
        if guard and owner not in _data_ptr:
            _data_ptr[owner] = owner.__dict__.get("data_ptr")
            owner.data_ptr = _refusing(owner.data_ptr)
        elif not guard and owner in _data_ptr:
            own = _data_ptr.pop(owner)
            if own is None:
                del owner.data_ptr
            else:
                owner.data_ptr = own


def is_poisoning() -> bool:
    """Whether fresh memory reads as NaN, outside of dry runs."""
    return bool(_state["uninitialized"])


def _apply(state: dict[str, Any]) -> None:
    _state.update(state)
    if _C.is_in_bad_fork():
        return  # a forked child has no device to be strict about
    _C.set_strict_fallback(_state["fallback"])
    if _C.is_initialized() or _state["uninitialized"]:
        _C.set_poison(is_poisoning() and not _C.dry_run())
    _C.set_raises_uninitialized(_state["uninitialized"] == "raise")
    _guard_pointers(_state["pointers"])


class strict:
    """Turns strict modes on at once, or for a `with` block.

    Args:
        fallback: an operator that TorchNeuron would run on the host raises NotImplementedError, naming it.
        uninitialized: fresh device memory reads as NaN (integers as -1). "raise": besides, a program that reads such a
            NaN raises RuntimeError, naming the operator; programs run in hardware numerics.
        pointers: `data_ptr()` of a device tensor raises RuntimeError outside of torch itself.
    """

    def __init__(self, fallback: bool = False, uninitialized: bool | str = False, pointers: bool = False) -> None:
        for name, flag in (("fallback", fallback), ("pointers", pointers)):
            if not isinstance(flag, bool):
                raise TypeError(f"[strict] {name} is True or False; got {flag!r}.")
        if uninitialized not in (False, True, "raise"):
            raise ValueError(f'[strict] uninitialized is False, True or "raise"; got {uninitialized!r}.')
        self._previous = dict(_state)
        _apply({"fallback": fallback, "uninitialized": uninitialized, "pointers": pointers})

    def __enter__(self) -> strict:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _apply(self._previous)


def apply_environment() -> None:
    """TORCH_TRN_STRICT: "1" for all modes, or their names, separated by commas; also `uninitialized=raise`."""
    text = os.environ.get("TORCH_TRN_STRICT", "").strip()
    if not text or text == "0":
        return
    known: dict[str, dict[str, Any]] = {name: {name: True} for name in _state}
    known["uninitialized=raise"] = {"uninitialized": "raise"}
    parts = list(_state) if text == "1" else sorted(part.strip() for part in text.split(","))
    unknown = [part for part in dict.fromkeys(parts) if part not in known]
    if unknown:
        raise ValueError(
            f"[strict] TORCH_TRN_STRICT takes 1, {', '.join(_state)} or uninitialized=raise; got {', '.join(unknown)}."
        )
    modes: dict[str, Any] = {}
    for part in parts:
        modes.update(known[part])
    strict(**modes)
