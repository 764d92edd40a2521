"""The current device: which device an argument names, selecting one, and the contexts that do so for a block."""

from __future__ import annotations

from typing import Any, Literal

import torch

from torch_trn import _C

__all__ = [
    "current_device",
    "device",
    "device_count",
    "device_of",
    "exchange_device",
    "init",
    "is_available",
    "is_initialized",
    "maybe_exchange_device",
    "set_device",
    "synchronize",
]

DeviceLike = torch.device | int | str | None


def device_type() -> str:
    """Name of the backend: `trn`, or what TORCH_TRN_DEVICE_NAME says."""
    return torch._C._get_privateuse1_backend_name()


def _is_compiled() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return bool(_C.is_in_bad_fork())


def is_available() -> bool:
    """True when there is a device to use. Never initialises."""
    return device_count() > 0


def device_count() -> int:
    """Number of devices; each is what TorchNeuron shows as one (on trn2 a logical core of two NeuronCores)."""
    return int(_C.device_count())


def is_initialized() -> bool:
    """True once the runtime serves this process."""
    return bool(_C.is_initialized()) and not _is_in_bad_fork()


def init() -> None:
    """Starts the runtime; does nothing when it runs already. Any use of the device does this by itself."""
    _lazy_init()


def _lazy_init() -> None:
    if _is_in_bad_fork():
        raise RuntimeError(
            f"[{device_type()}] Cannot re-initialize the device in a forked subprocess. "
            "Use the 'spawn' or 'forkserver' start method of multiprocessing."
        )
    _C.init()


def _get_device_index(device: DeviceLike, optional: bool = False, allow_cpu: bool = False) -> int:
    """Index of the device that `device` names; -1 for the CPU where allowed.

    With `optional`, None and a device without index mean the current device; otherwise they raise ValueError.
    """
    if isinstance(device, int):
        return device
    if isinstance(device, str):
        device = torch.device(device)
    if device is not None and not isinstance(device, torch.device):
        raise TypeError(
            f"[{device_type()}] a device is a torch.device, an index, a name or None; got {type(device).__name__}. "
            f'Pass "{device_type()}:0" or 0.'
        )
    if device is not None:
        if allow_cpu and device.type == "cpu":
            return -1
        if device.type != device_type():
            raise ValueError(f"Expected a {device_type()} device, but got: {device}")
        if device.index is not None:
            return int(device.index)
    if not optional:
        raise ValueError(f"Expected a torch.device with a specified index or an integer, but got: {device}")
    return current_device()


def _checked_index(device: DeviceLike) -> int:
    """As _get_device_index(optional=True), of a device that exists."""
    index = _get_device_index(device, optional=True)
    if not 0 <= index < device_count():
        raise RuntimeError(
            f"[{device_type()}] a device index must name a device; got {index}, limit {device_count() - 1}. "
            f"Use an index below torch.{device_type()}.device_count()."
        )
    return index


def current_device() -> int:
    """Index of the current device of this thread."""
    _lazy_init()
    return torch._C._accelerator_getDeviceIndex()


def set_device(device: DeviceLike) -> None:
    """Makes a device current; a negative index changes nothing."""
    index = _get_device_index(device)
    if index >= 0:
        torch._C._accelerator_setDeviceIndex(_checked_index(index))


def exchange_device(device: int) -> int:
    """Makes a device current and returns the previous one; a negative index changes nothing and returns -1."""
    if device < 0:
        return -1
    return torch._C._accelerator_exchangeDevice(_checked_index(device))


# On CUDA it avoids making a context; there is none here.
maybe_exchange_device = exchange_device
_exchange_device = exchange_device
_maybe_exchange_device = maybe_exchange_device


class device:
    """Context that makes a device current; None and negative indices change nothing."""

    def __init__(self, device: DeviceLike) -> None:
        self.idx = -1 if device is None else _get_device_index(device, optional=True)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx = exchange_device(self.idx)

    def __exit__(self, *_: object) -> Literal[False]:
        self.idx = maybe_exchange_device(self.prev_idx)
        return False


_DeviceGuard = device


class device_of(device):
    """Context that makes the device of a tensor or storage current; changes nothing for one on another device type."""

    def __init__(self, obj: Any) -> None:
        super().__init__(obj.get_device() if obj.device.type == device_type() else -1)


def synchronize(device: DeviceLike = None) -> None:
    """Waits until every stream of the device is done; the simulated host clock moves there."""
    _lazy_init()
    torch._C._accelerator_synchronizeDevice(_checked_index(device))
