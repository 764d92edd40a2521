"""`import torch_neuronx` where the device is called neuron: AWS's package, as far as a simulated device stands for it.

transformers, accelerate, trl and torchtitan take the device `neuron` where this module can be imported. It has the
operator tracking of TorchNeuron and the names that it shares with `torch.neuron`. What compiles or loads programs for
the hardware (`trace`, `nki_op`) is not here. Source: the package of that name in aws-neuron/torch-neuronx.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from torch_trn import _C

NAME, DEVICE_NAME = "torch_neuronx", "neuron"


def get_executed_ops() -> list[str]:
    """Operators that TorchNeuron runs on its device, each as often as it was called since `clear_op_tracking()`.

    Views and what a composite operator was made of count as PyTorch dispatched them: `aten::linear` is `aten::addmm`.
    """
    return _calls("native")


def get_fallback_ops() -> list[str]:
    """The same of operators that TorchNeuron runs on the host, on purpose or because it registers none."""
    return _calls("host") + _calls("absent")


def clear_op_tracking() -> None:
    """Both lists begin anew."""
    _C.clear_operator_calls()


def _calls(status: str) -> list[str]:
    calls: dict[str, int] = _C.operator_calls().get(status, {})
    return [name for name in sorted(calls) for _ in range(calls[name])]


def is_neuron_runtime_initialized() -> bool:
    return bool(torch.get_device_module(DEVICE_NAME).is_initialized())


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    module = getattr(torch, DEVICE_NAME, None)
    if module is None or (name != DEVICE_NAME and not hasattr(module, name)):
        raise AttributeError(
            f"[torch_neuronx] a simulated device has no hardware to compile for or load; got {name!r}, limit the "
            "operator tracking and the names of torch.neuron."
        )
    return module if name == DEVICE_NAME else getattr(module, name)


class _Finder:
    """Last on sys.meta_path: a package of that name that is installed comes first."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(NAME, __file__) if fullname == NAME else None


def install() -> None:
    sys.meta_path.append(_Finder)
