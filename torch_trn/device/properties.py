"""What a device is: name, sizes and rates, all read from the target file."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torch_trn import _C

from .index import DeviceLike, _checked_index

__all__ = [
    "can_device_access_peer",
    "clock_rate",
    "get_amp_supported_dtype",
    "get_arch_list",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "is_bf16_supported",
    "is_tf32_supported",
]


@dataclass(frozen=True)
class DeviceProperties:
    """One device in torch.cuda's words, and in Neuron's."""

    name: str
    total_memory: int  # bytes of HBM
    multi_processor_count: int  # physical NeuronCores of the logical core
    major: int  # NeuronCore generation
    minor: int
    target: str
    generation: str
    clock_hz: float
    hbm_bytes_per_second: float
    peak_bf16_flops_per_second: float
    num_partitions: int
    sbuf_bytes: int  # of one core
    psum_bytes: int  # of one core


def _generation_number(generation: str) -> int:
    """3 of `NeuronCore-v3`; 0 where a target of the user's own has no number."""
    digits = generation.rpartition("v")[2]
    return int(digits) if digits.isdigit() else 0


def get_device_properties(device: DeviceLike = None) -> DeviceProperties:
    """Properties of a device, the current one by default."""
    record = _C.device_properties(_checked_index(device))
    return DeviceProperties(
        name=record["name"],
        total_memory=record["total_memory"],
        multi_processor_count=record["num_cores"],
        major=_generation_number(record["generation"]),
        minor=0,
        target=record["target"],
        generation=record["generation"],
        clock_hz=record["clock_hz"],
        hbm_bytes_per_second=record["hbm_bytes_per_second"],
        peak_bf16_flops_per_second=record["peak_bf16_flops_per_second"],
        num_partitions=record["num_partitions"],
        sbuf_bytes=record["sbuf_bytes"],
        psum_bytes=record["psum_bytes"],
    )


def get_device_name(device: DeviceLike = None) -> str:
    """Name of a device, the current one by default."""
    return get_device_properties(device).name


def get_device_capability(device: DeviceLike = None) -> tuple[int, int]:
    """Generation of the NeuronCore as (major, minor): (3, 0) for NeuronCore-v3."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def get_arch_list() -> list[str]:
    """The generation that programs are built for, named as `neuronx-cc --target` names it."""
    return [get_device_properties(0).target]


def clock_rate(device: DeviceLike = None) -> int:
    """Clock of TensorE in MHz."""
    return round(get_device_properties(device).clock_hz / 1e6)


def can_device_access_peer(device: DeviceLike, peer_device: DeviceLike) -> bool:
    """True for two different devices: DMA engines reach the HBM of every device of the instance."""
    return _checked_index(device) != _checked_index(peer_device)


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """True: TensorE's native format on every generation."""
    return True


def is_tf32_supported() -> bool:
    """False: torch's TF32 switches have no effect on this device."""
    return False


def get_amp_supported_dtype() -> list[torch.dtype]:
    """dtypes that autocast takes."""
    return [torch.float32, torch.float16, torch.bfloat16]
