"""torch._dynamo learns the device when it is first imported."""

from __future__ import annotations

from types import ModuleType

import torch

from torch_trn.on_import import on_import


def _register(device_interface: ModuleType) -> None:
    from torch_trn import device
    from torch_trn.device_interface import TrnInterface

    name = torch._C._get_privateuse1_backend_name()
    device_interface.register_interface_for_device(name, TrnInterface)
    for index in range(device.device_count()):
        device_interface.register_interface_for_device(f"{name}:{index}", TrnInterface)


def install() -> None:
    """Registers the device's interface when torch._dynamo.device_interface is imported."""
    on_import("torch._dynamo.device_interface", _register)
