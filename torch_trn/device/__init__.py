"""The module `torch.trn`: torch.cuda's names, and those of TorchNeuron's `torch.neuron`, for this device."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.parallel import comm

from . import amp, memory, nvtx, properties, random, streams
from . import index as _utils
from .amp import GradScaler, autocast
from .index import *  # noqa: F403
from .index import (  # noqa: F401  names that torch itself calls
    _DeviceGuard,
    _exchange_device,
    _is_compiled,
    _is_in_bad_fork,
    _lazy_init,
    _maybe_exchange_device,
)
from .memory import *  # noqa: F403
from .memory import _dump_snapshot, _record_memory_history, _snapshot  # noqa: F401
from .properties import *  # noqa: F403
from .random import *  # noqa: F403
from .streams import *  # noqa: F403
from .streams import _set_stream_by_id, _sleep  # noqa: F401

OutOfMemoryError = torch.OutOfMemoryError
has_half = True
has_magma = False

_SUBMODULES = {
    "amp": amp,
    "comm": comm,
    "memory": memory,
    "nvtx": nvtx,
    "properties": properties,
    "random": random,
    "streams": streams,
}


def register_submodules(name: str) -> None:
    """Makes `import torch.<name>.amp` (and memory, random, ...) find these modules, not second copies."""
    for child, module in _SUBMODULES.items():
        sys.modules.setdefault(f"torch.{name}.{child}", module)


def get_dynamo_metrics() -> dict[str, dict[str, int]]:
    """torch._dynamo's counters by group (frames, stats, graph_break, ...); empty before torch.compile is used."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return {}
    return {group: dict(counts) for group, counts in dynamo.counters.items()}


def reset_dynamo_metrics() -> None:
    """Sets torch._dynamo's counters to zero."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()


_TENSOR_TYPES = {
    "BFloat16Tensor": torch.bfloat16,
    "BoolTensor": torch.bool,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "DoubleTensor": torch.float64,
    "FloatTensor": torch.float32,
    "HalfTensor": torch.float16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "ShortTensor": torch.int16,
}


class _TensorType(type):
    """Metaclass of the legacy types: isinstance looks at device and dtype, a call makes a tensor."""

    dtype: torch.dtype

    def __instancecheck__(cls, instance: object) -> bool:
        return (
            isinstance(instance, torch.Tensor)
            and instance.device.type == _utils.device_type()
            and instance.dtype == cls.dtype
        )

    def __call__(cls, *args: Any, **kwargs: Any) -> torch.Tensor:
        place = kwargs.pop("device", _utils.device_type())
        if len(args) == 1 and not isinstance(args[0], (int, torch.Size)):
            return torch.tensor(args[0], dtype=cls.dtype, device=place, **kwargs)
        sizes = args if args else (0,)
        return torch.empty(*sizes, dtype=cls.dtype, device=place, **kwargs)


def __getattr__(name: str) -> Any:
    """`_initialized`, which activation checkpointing reads, and the legacy types (torch.trn.FloatTensor, ...)."""
    if name == "_initialized":
        return _utils.is_initialized()
    if name in _TENSOR_TYPES:
        module = f"torch.{_utils.device_type()}"
        body = {"dtype": _TENSOR_TYPES[name], "__module__": module, "__qualname__": name}
        made = _TensorType(f"{module}.{name}", (), body)  # torch reads the whole name, in x.type(torch.trn.HalfTensor)
        globals()[name] = made
        return made
    raise AttributeError(f"module 'torch.{_utils.device_type()}' has no attribute '{name}'")


__all__ = [
    "GradScaler",
    "OutOfMemoryError",
    "amp",
    "autocast",
    "get_dynamo_metrics",
    "memory",
    "nvtx",
    "properties",
    "random",
    "register_submodules",
    "reset_dynamo_metrics",
    "streams",
]
for _module in (_utils, memory, properties, random, streams):
    __all__ += _module.__all__
