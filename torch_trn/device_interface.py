"""The device as torch._dynamo sees it. Importing this imports torch._dynamo: torch_trn.dynamo does so when needed."""

from __future__ import annotations

from typing import Any

import torch
from torch._dynamo import device_interface

from torch_trn import device as trn

_NAME = trn._utils.device_type()


class TrnInterface(device_interface.DeviceInterface):
    """Every member forwards to the device module."""

    device = trn.device
    Event = trn.Event
    Stream = trn.Stream

    class Worker:
        """What a compile worker asks; the answers are kept from the parent process."""

        @staticmethod
        def set_device(device: int) -> None:
            device_interface.caching_worker_current_devices[_NAME] = device

        @staticmethod
        def current_device() -> int:
            if _NAME in device_interface.caching_worker_current_devices:
                return device_interface.caching_worker_current_devices[_NAME]
            return trn.current_device()

        @staticmethod
        def get_device_properties(device: torch.types.Device = None) -> Any:
            if _NAME not in device_interface.caching_worker_device_properties:
                device_interface.caching_worker_device_properties[_NAME] = [
                    trn.get_device_properties(i) for i in range(trn.device_count())
                ]
            index = TrnInterface.Worker.current_device() if device is None else trn._utils._checked_index(device)
            return device_interface.caching_worker_device_properties[_NAME][index]

    current_device = staticmethod(trn.current_device)
    set_device = staticmethod(trn.set_device)
    device_count = staticmethod(trn.device_count)
    exchange_device = staticmethod(trn.exchange_device)
    maybe_exchange_device = staticmethod(trn.maybe_exchange_device)
    is_available = staticmethod(trn.is_available)
    stream = staticmethod(trn.stream)
    current_stream = staticmethod(trn.current_stream)
    set_stream = staticmethod(trn.set_stream)
    _set_stream_by_id = staticmethod(trn.streams._set_stream_by_id)
    synchronize = staticmethod(trn.synchronize)
    is_bf16_supported = staticmethod(trn.is_bf16_supported)
    memory_allocated = staticmethod(trn.memory_allocated)

    @staticmethod
    def get_raw_stream(device_idx: int) -> int:
        return int(trn.current_stream(device_idx).stream_id)

    @staticmethod
    def get_compute_capability(device: torch.types.Device = None) -> str:
        return trn.get_device_properties(device).generation
