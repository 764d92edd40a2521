"""Streams and events on the simulated clock."""

from __future__ import annotations

from typing import Any, Self

import torch

from torch_trn import _C

from .index import DeviceLike, _checked_index, _lazy_init, device, device_type
from .properties import get_device_properties

__all__ = [
    "Event",
    "Stream",
    "StreamContext",
    "current_stream",
    "default_stream",
    "get_sync_debug_mode",
    "is_current_stream_capturing",
    "set_stream",
    "set_sync_debug_mode",
    "stream",
]


class Stream(torch.Stream):
    """A queue whose launches run in order, on a simulated clock of its own.

    Args:
        device: device of the stream, the current one by default.
        priority: accepted for compatibility; every stream has the same.
    """

    def __new__(cls, device: DeviceLike = None, priority: int = 0, **kwargs: Any) -> Self:
        if "stream_id" in kwargs:
            return super().__new__(cls, **kwargs)
        target = torch.device(device_type(), _checked_index(device))
        return super().__new__(cls, device=target, priority=priority)

    def __init__(self, *_: Any, **__: Any) -> None:
        """State is made in __new__."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._times_entered = getattr(self, "_times_entered", 0) + 1
        return self

    def __exit__(self, *error: Any) -> None:
        # torch's own reads what __enter__ left, whether it is there or not.
        if not getattr(self, "_times_entered", 0):
            raise RuntimeError("[Stream] a stream is left after it was entered; got one that was not. Use `with`.")
        self._times_entered -= 1
        super().__exit__(*error)

    @classmethod
    def _of(cls, other: torch.Stream) -> Stream:
        return cls(stream_id=other.stream_id, device_index=other.device_index, device_type=other.device_type)

    def record_event(self, event: torch.Event | None = None) -> torch.Event:
        """Records an event here, a new one by default, and returns it."""
        if event is None:
            event = Event()
        event.record(self)
        return event

    def wait_stream(self, stream: torch.Stream) -> None:
        """Everything launched here from now on starts after what `stream` holds now."""
        self.wait_event(stream.record_event())

    @property
    def priority(self) -> int:
        return 0

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """(least, greatest) priority."""
        return 0, 0

    def __repr__(self) -> str:
        return f"torch.{device_type()}.Stream(device={self.device}, stream_id={self.stream_id})"


class _EventType(type):
    """Events are plain torch.Event objects: torch's elapsed_time takes no subclass."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.Event) and instance.device.type == device_type()


class Event(torch.Event, metaclass=_EventType):
    """A point on a stream's simulated clock; elapsed_time gives simulated milliseconds.

    Args:
        enable_timing: whether elapsed_time may be asked for.
        blocking, interprocess: accepted for compatibility; interprocess events are refused.
    """

    def __new__(cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> torch.Event:  # type: ignore[misc]
        if interprocess:
            raise RuntimeError(
                f"[{device_type()}.Event] an event belongs to one process; got interprocess=True. "
                "Exchange values through torch.distributed instead."
            )
        return torch.Event(torch.device(device_type()), enable_timing=enable_timing, blocking=blocking)


def current_stream(device: DeviceLike = None) -> Stream:
    """The stream that launches on a device go to."""
    _lazy_init()
    return Stream._of(torch._C._accelerator_getStream(_checked_index(device)))


def default_stream(device: DeviceLike = None) -> Stream:
    """Stream 0 of a device."""
    _lazy_init()
    current = torch._C._accelerator_getStream(_checked_index(device))
    return Stream(stream_id=0, device_index=current.device_index, device_type=current.device_type)


def set_stream(stream: torch.Stream | None) -> None:
    """Sends the launches of this thread to a stream, and makes its device current; None changes nothing."""
    if stream is not None:
        torch._C._accelerator_setStream(stream)


def _set_stream_by_id(stream_id: int, device_index: int, device_type: int) -> None:
    set_stream(Stream(stream_id=stream_id, device_index=device_index, device_type=device_type))


class StreamContext:
    """Context that selects a stream and its device, and puts both back; None changes nothing."""

    def __init__(self, stream: torch.Stream | None) -> None:
        self.stream = stream
        self._previous_on_target: Stream | None = None
        self._previous: Stream | None = None

    def __enter__(self) -> None:
        if self.stream is None:
            return
        self._previous = current_stream()
        if self._previous.device != self.stream.device:
            with device(self.stream.device):
                self._previous_on_target = current_stream()
        set_stream(self.stream)

    def __exit__(self, *_: object) -> None:
        if self.stream is None:
            return
        set_stream(self._previous_on_target)
        set_stream(self._previous)
        self._previous_on_target = None


def stream(stream: torch.Stream | None) -> StreamContext:
    """Context that selects a stream and its device; None changes nothing."""
    return StreamContext(stream)


def is_current_stream_capturing() -> bool:
    """False: launches are never captured into a graph."""
    return False


_SYNC_DEBUG_MODES = ("default", "warn", "error")


def set_sync_debug_mode(debug_mode: int | str) -> None:
    """What becomes of operations that make the host wait for the device: `.item()`, copies to the host, nonzero.

    Args:
        debug_mode: "default" or 0 lets them pass, "warn" or 1 warns, "error" or 2 raises RuntimeError after the wait.
    """
    modes: tuple[int | str, ...] = (*_SYNC_DEBUG_MODES, *range(len(_SYNC_DEBUG_MODES)))
    if debug_mode not in modes:
        raise RuntimeError(f"[set_sync_debug_mode] the mode must be one of {modes}; got {debug_mode!r}.")
    _C.set_sync_debug_mode(modes.index(debug_mode) % len(_SYNC_DEBUG_MODES))


def get_sync_debug_mode() -> int:
    """0 for "default", 1 for "warn", 2 for "error"."""
    return int(_C.sync_debug_mode())


def _sleep(cycles: int) -> None:
    """Occupies the current stream for that many TensorE cycles of simulated time."""
    _lazy_init()
    _C.sleep(cycles / get_device_properties().clock_hz)
