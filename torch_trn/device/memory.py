"""Memory of a device: statistics under torch.cuda's and TorchNeuron's names, summary, snapshot, limits."""

from __future__ import annotations

import collections
import gc
import pickle
import sys
from typing import Any

import torch

from torch_trn import _C

from .index import DeviceLike, _checked_index, _lazy_init, device_type, is_initialized

__all__ = [
    "device_memory_used",
    "empty_cache",
    "get_allocator_backend",
    "get_per_process_memory_fraction",
    "host_memory_stats",
    "host_memory_stats_as_nested_dict",
    "ipc_collect",
    "max_memory_allocated",
    "max_memory_cached",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_by_category",
    "memory_cached",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_stats_as_nested_dict",
    "memory_summary",
    "memory_usage",
    "reset_accumulated_host_memory_stats",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_host_memory_stats",
    "reset_peak_memory_stats",
    "set_per_process_memory_fraction",
]

# c10's name of a statistic that torch.cuda calls otherwise.
_CUDA_NAMES = {"allocated": "allocation"}
_NEURON_STATS = ("allocated_bytes", "reserved_bytes", "active_bytes")
_STAT_FIELDS = ("current", "peak", "allocated", "freed")
# torch.cuda's; segments and snapshots leave no event here.
_HISTORY_ACTIONS = ("alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "oom", "snapshot")


def memory_stats_as_nested_dict(device: DeviceLike = None) -> dict[str, Any]:
    """The statistics of memory_stats as c10 nests them: stats["allocated_bytes"]["all"]["current"]."""
    if not is_initialized():
        return {}
    stats = torch._C._accelerator_getDeviceStats(_checked_index(device))
    return {**stats, **{new: stats[old] for old, new in _CUDA_NAMES.items() if old in stats}}


def _flattened(nested: dict[str, Any]) -> dict[str, int]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, int] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": entry for inner, entry in _flattened(value).items()})
        else:
            flat[key] = value
    return flat


def memory_stats(device: DeviceLike = None) -> dict[str, int]:
    """Statistics of the allocator by name, each a non-negative integer.

    torch.cuda's keys `<stat>.{all,large_pool,small_pool}.{current,peak,allocated,freed}`, and TorchNeuron's:
    `{allocated,reserved,active}_bytes.{current,peak,allocated,freed}`, `num_alloc_retries`, `num_ooms`,
    `num_tensor_frees`, `allocation_requests`. Empty before the first use of the device.
    """
    flat = _flattened(memory_stats_as_nested_dict(device))
    if flat:
        for stat in _NEURON_STATS:
            for field in _STAT_FIELDS:
                flat[f"{stat}.{field}"] = flat[f"{stat}.all.{field}"]
        flat["num_tensor_frees"] = flat["allocation.all.freed"]
        flat["allocation_requests"] = flat["allocation.all.allocated"]
    return collections.OrderedDict(sorted(flat.items()))


def memory_allocated(device: DeviceLike = None) -> int:
    """Bytes that tensors hold now."""
    return memory_stats(device).get("allocated_bytes.all.current", 0)


def max_memory_allocated(device: DeviceLike = None) -> int:
    """Most bytes that tensors held since the start or reset_peak_memory_stats."""
    return memory_stats(device).get("allocated_bytes.all.peak", 0)


def memory_reserved(device: DeviceLike = None) -> int:
    """Bytes of the segments that the allocator holds now."""
    return memory_stats(device).get("reserved_bytes.all.current", 0)


def max_memory_reserved(device: DeviceLike = None) -> int:
    """Most bytes of segments since the start or reset_peak_memory_stats."""
    return memory_stats(device).get("reserved_bytes.all.peak", 0)


memory_cached = memory_reserved
max_memory_cached = max_memory_reserved


def _tag_owners() -> None:
    """Tells the allocator whose memory is whose, from the modules, parameters and optimizers that are alive.

    The allocator itself only knows activations from temporaries. Costs a walk over Python's objects, so it runs when
    somebody asks.
    """

    def tag(tensor: Any, category: str) -> None:
        if isinstance(tensor, torch.Tensor):
            local = getattr(tensor, "_local_tensor", tensor)
            if local.device.type == device_type():
                _C.memory_tag(local, category)

    for owner in gc.get_objects():
        kind = type(owner)
        if issubclass(kind, torch.nn.Parameter):
            tag(owner, "parameters")
            tag(owner.grad, "gradients")
        elif issubclass(kind, torch.nn.Module):
            for buffer in owner.__dict__.get("_buffers", {}).values():
                tag(buffer, "parameters")
        elif issubclass(kind, torch.optim.Optimizer):
            for state in owner.__dict__.get("state", {}).values():
                for value in state.values() if isinstance(state, dict) else ():
                    tag(value, "optimizer_state")


def memory_by_category(device: DeviceLike = None) -> dict[str, int]:
    """Bytes held now by parameters, gradients, optimizer_state, activations and temporaries."""
    index = _checked_index(device)
    if not is_initialized():
        return {}
    _tag_owners()
    return dict(_C.memory_by_category(index))


def reset_peak_memory_stats(device: DeviceLike = None) -> None:
    """Sets every peak to the present value."""
    if is_initialized():
        torch._C._accelerator_resetPeakStats(_checked_index(device))


def reset_accumulated_memory_stats(device: DeviceLike = None) -> None:
    """Sets the historical totals to zero."""
    if is_initialized():
        torch._C._accelerator_resetAccumulatedStats(_checked_index(device))


def host_memory_stats_as_nested_dict() -> dict[str, Any]:
    """The statistics of host_memory_stats, nested: stats["active_bytes"]["peak"]."""
    return dict(_C.host_memory_stats()) if is_initialized() else {}


def host_memory_stats() -> dict[str, int]:
    """Statistics of pinned host memory by name, each a non-negative integer; torch.cuda's keys, less its wall times.

    `{allocations,allocated_bytes,active_requests,active_bytes}.{current,peak,allocated,freed}`, blocks and bytes that
    the allocator holds and that are in use; `num_host_alloc`, `num_host_free`. Empty before the device's first use.
    """
    return dict(sorted(_flattened(host_memory_stats_as_nested_dict()).items()))


def reset_accumulated_host_memory_stats() -> None:
    """Sets the historical totals of pinned memory to zero."""
    _C.reset_accumulated_host_memory_stats()


def reset_peak_host_memory_stats() -> None:
    """Sets the peaks of pinned memory to the present values."""
    _C.reset_peak_host_memory_stats()


def get_allocator_backend() -> str:
    """The name "native", torch.cuda's of a caching allocator; there is no other."""
    return "native"


reset_max_memory_allocated = reset_peak_memory_stats
reset_max_memory_cached = reset_peak_memory_stats


def empty_cache() -> None:
    """Gives segments without a live tensor back to the device."""
    if is_initialized():
        torch._C._accelerator_emptyCache()


def ipc_collect() -> None:
    """Does nothing: device memory is never shared between processes."""


def mem_get_info(device: DeviceLike = None) -> tuple[int, int]:
    """(free, total) bytes of the device's HBM."""
    _lazy_init()
    free, total = torch._C._accelerator_getMemoryInfo(_checked_index(device))
    return free, total


def memory_usage(device: DeviceLike = None) -> int:
    """Percent of the HBM that is taken."""
    free, total = mem_get_info(device)
    return round(100 * (total - free) / total)


def device_memory_used(device: DeviceLike = None) -> int:
    """Bytes of the HBM that are taken."""
    free, total = mem_get_info(device)
    return total - free


def set_per_process_memory_fraction(fraction: float, device: DeviceLike = None) -> None:
    """Limits the allocator to a fraction of the HBM; beyond it is out of memory."""
    if not isinstance(fraction, (int, float)):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    _lazy_init()
    _C.set_memory_fraction(float(fraction), _checked_index(device))


def get_per_process_memory_fraction(device: DeviceLike = None) -> float:
    """Fraction of the HBM that the allocator may use."""
    _lazy_init()
    return float(_C.get_memory_fraction(_checked_index(device)))


def memory_snapshot(device: DeviceLike = None) -> list[dict[str, Any]]:
    """The allocator's segments and their blocks, of every device where none is given; keys as torch.cuda's."""
    if not is_initialized():
        return []
    indices = range(_C.device_count()) if device is None else [_checked_index(device)]
    return [segment for index in indices for segment in _C.memory_snapshot(index)]


def _record_memory_history(
    enabled: str | bool | None = "all",
    context: str | None = "all",
    stacks: str = "all",
    max_entries: int = sys.maxsize,
    device: DeviceLike = None,
    clear_history: bool = False,
    compile_context: bool = False,
    global_record_annotations: bool = False,
    skip_actions: list[str] | None = None,
) -> None:
    """Records what allocates and frees device memory, for `_snapshot()`; torch.cuda.memory's arguments.

    enabled: None stops, "state" keeps where held memory was allocated, "all" every allocation and free besides.
    context: whose Python frames are kept: None, "state", "alloc" (and allocations), "all" (and frees).
    stacks: "python", or "all" with C++ frames too. max_entries: of each device; the oldest go first.
    `device`, `compile_context` and `global_record_annotations` change nothing: all devices are recorded, with none.
    """
    if isinstance(enabled, bool):
        enabled = "all" if enabled else None
    _check_choice("enabled", enabled, (None, "state", "all"))
    _check_choice("context", context, (None, "state", "alloc", "all"))
    _check_choice("stacks", stacks, ("python", "all"))
    for action in skip_actions or ():
        _check_choice("skip_actions", action, _HISTORY_ACTIONS)
    if enabled is None:
        _C.stop_memory_history()
        return
    _lazy_init()
    _C.record_memory_history(
        enabled == "all", context, stacks == "all", max_entries, clear_history, set(skip_actions or ())
    )


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"[_record_memory_history] {name} must be one of {choices}; got {value!r}.")


def _snapshot(device: DeviceLike = None) -> dict[str, Any]:
    """The dictionary that torch.cuda.memory._snapshot() returns, for tools such as pytorch.org/memory_viz."""
    return {
        "segments": memory_snapshot(device),
        "device_traces": [_C.memory_trace(index) for index in range(_C.device_count())],
        "external_annotations": [],
        "allocator_settings": {},
    }


def _dump_snapshot(filename: str = "dump_snapshot.pickle") -> None:
    with open(filename, "wb") as file:
        pickle.dump(_snapshot(), file)


def _format_bytes(value: int) -> str:
    amount = float(value)
    for unit in ("B  ", "KiB", "MiB"):
        if amount < 10240:
            return f"{amount:6.0f} {unit}"
        amount /= 1024
    return f"{amount:6.0f} GiB"


def _format_count(value: int) -> str:
    return f"{value:10d}"


def memory_summary(device: DeviceLike = None, abbreviated: bool = False) -> str:
    """The statistics as a table: per metric (and pool), then what the categories hold now."""
    index = _checked_index(device)
    stats: collections.Counter[str] = collections.Counter(memory_stats(index))
    rule = "=" * 75
    lines = [
        rule,
        f"  {device_type()} memory summary, device {index}".ljust(75),
        "-" * 75,
        f"  OOMs: {stats['num_ooms']:<12d} | allocation retries: {stats['num_alloc_retries']:<12d}".ljust(75),
        rule,
        "        Metric         | Cur Usage  | Peak Usage | Tot Alloc  | Tot Freed  ",
    ]
    metrics = [
        ("allocated_bytes", "Allocated memory", _format_bytes),
        ("active_bytes", "Active memory", _format_bytes),
        ("requested_bytes", "Requested memory", _format_bytes),
        ("reserved_bytes", "Reserved memory", _format_bytes),
        ("inactive_split_bytes", "Non-releasable memory", _format_bytes),
        ("allocation", "Allocations", _format_count),
        ("active", "Active allocs", _format_count),
        ("segment", "Reserved segments", _format_count),
        ("inactive_split", "Non-releasable allocs", _format_count),
    ]
    for metric, title, form in metrics:
        lines.append("-" * 75)
        pools = [("all", title)]
        if not abbreviated:
            pools += [("large_pool", "      from large pool"), ("small_pool", "      from small pool")]
        for pool, label in pools:
            values = " | ".join(form(stats[f"{metric}.{pool}.{field}"]) for field in _STAT_FIELDS)
            lines.append(f" {label:<21} | {values} ")
    lines.append(rule)
    for category, held in memory_by_category(index).items():
        lines.append(f" {category.replace('_', ' '):<21} | {_format_bytes(held)} ".ljust(75))
    lines.append(rule)
    return "".join(f"|{line}|\n" for line in lines)
