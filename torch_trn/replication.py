"""What nn.DataParallel moves between devices: torch has it for CUDA builds only, under names of torch._C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import comm


def _place(index: int) -> torch.device:
    """The device of an index, as nn.parallel numbers them: -1 is the CPU."""
    return torch.device("cpu") if index < 0 else torch.device(torch._C._get_privateuse1_backend_name(), index)


def _checked_first(tensor: torch.Tensor, devices: Sequence[int]) -> None:
    if not devices or (tensor.device.type != "cpu" and tensor.device != _place(devices[0])):
        raise RuntimeError(
            f"[broadcast] a tensor is broadcast from the first of the devices; got one on '{tensor.device}', limit "
            f"{[str(_place(index)) for index in devices][:1]}. Move it there."
        )


def broadcast(tensor: torch.Tensor, devices: Sequence[int]) -> list[torch.Tensor]:
    """The tensor on each of the devices; itself where it is there."""
    _checked_first(tensor, devices)
    return [tensor.to(_place(index), non_blocking=True) for index in devices]


def broadcast_out(tensor: torch.Tensor, out: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensor copied into each of `out`."""
    for copied in out:
        if copied.shape != tensor.shape:
            raise RuntimeError(
                f"[broadcast] out tensors have the tensor's shape; got {list(copied.shape)}, limit "
                f"{list(tensor.shape)}."
            )
        copied.copy_(tensor, non_blocking=True)
    return list(out)


def broadcast_coalesced(
    tensors: Sequence[torch.Tensor], devices: Sequence[int], buffer_size: int
) -> list[list[torch.Tensor]]:
    """For each device, all tensors; on the first the tensors themselves. Copies need no buffer to share."""
    for tensor in tensors:
        _checked_first(tensor, devices)
    # A copy's version counter is its own: replicas are written side by side.
    copies = [[tensor.detach().to(_place(index), non_blocking=True) for tensor in tensors] for index in devices[1:]]
    return [list(tensors), *copies]


def scatter(
    tensor: torch.Tensor,
    devices: Sequence[int],
    chunk_sizes: Sequence[int] | None,
    dim: int,
    streams: Sequence[torch.Stream | None] | None,
) -> list[torch.Tensor]:
    """Chunks along `dim`, one to each device, on its stream where one is given; fewer where there are fewer rows."""
    if chunk_sizes is None:
        chunks = tensor.chunk(len(devices), dim)
    else:
        if len(chunk_sizes) != len(devices) or sum(chunk_sizes) != tensor.shape[dim]:
            raise RuntimeError(
                "[scatter] there is a chunk for each device, and they add up to the dimension; got "
                f"{list(chunk_sizes)}, limit {len(devices)} chunks of {tensor.shape[dim]}."
            )
        chunks = torch.split(tensor, list(chunk_sizes), dim)
    found = []
    for position, chunk in enumerate(chunks):
        place, stream = _place(devices[position]), streams[position] if streams else None
        if stream is None:
            found.append(chunk.to(place, non_blocking=True))
        else:
            with stream:
                found.append(chunk.to(place, non_blocking=True))
    return found


def scatter_out(
    tensor: torch.Tensor, out: Sequence[torch.Tensor], dim: int, streams: Sequence[torch.Stream | None] | None
) -> list[torch.Tensor]:
    """Chunks along `dim`, as long as each of `out` is, copied into them."""
    for copied, chunk in zip(out, torch.split(tensor, [each.shape[dim] for each in out], dim), strict=True):
        copied.copy_(chunk, non_blocking=True)
    return list(out)


def gather(tensors: Sequence[torch.Tensor], dim: int, index: int | None) -> torch.Tensor:
    """All of them one after another along `dim`, on a device: the current one where none is given."""
    place = _place(torch.accelerator.current_device_index() if index is None else index)
    return torch.cat([tensor.to(place, non_blocking=place.type != "cpu") for tensor in tensors], dim)


def gather_out(tensors: Sequence[torch.Tensor], out: torch.Tensor, dim: int) -> torch.Tensor:
    """The same into `out`."""
    return out.copy_(torch.cat([tensor.to(out.device) for tensor in tensors], dim))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_broadcast": broadcast,
    "_broadcast_out": broadcast_out,
    "_broadcast_coalesced": broadcast_coalesced,
    "_scatter": scatter,
    "_scatter_out": scatter_out,
    "_gather": gather,
    "_gather_out": gather_out,
}


def install() -> None:
    """Gives torch._C the functions that a build without CUDA lacks."""
    if hasattr(torch._C, "_broadcast_coalesced"):
        return
    for name, function in _FUNCTIONS.items():
        setattr(torch._C, name, function)
    # torch.cuda's warns that it is not there, at each sum.
    comm.nccl = SimpleNamespace(is_available=lambda _: False)  # type: ignore[attr-defined, assignment]
