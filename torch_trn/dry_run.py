"""`torch_trn.dry_run()`: operators infer shapes; memory, launches and time are accounted, values are not computed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

from torch_trn import _C
from torch_trn import strict as _strict
from torch_trn.libraries import LIBRARIES

P = ParamSpec("P")
R = TypeVar("R")


class NoValueError(RuntimeError):
    """The host read a value that a dry run does not have."""


@dataclass(frozen=True)
class Read:
    """A read that a dry run has no values for: what a callable given as `values` is called with.

    Attributes:
        op: "item" (also `float(t)`, `bool(t)`, `if t:`), "copy to host" (`.cpu()`, `.tolist()`, printing), or the
            operator whose result's size depends on values ("nonzero", "masked_select", "index.Tensor", ...).
        shape: of the tensor that is read.
        dtype: of the tensor that is read.
        line: the user's source line, "path/to/train.py:31", or "" where Python runs none.
    """

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    line: str


Answer = float | int | bool | complex | torch.Tensor | None
Values = Answer | Callable[[Read], Any] | Mapping[str, Any]


class dry_run:
    """Runs a `with` block, or a decorated function, without values: capacity planning on one device.

    Every operator is launched, counted and timed and its memory is allocated as in a run with values, but no kernel
    computes: results have their shape, strides and dtype, and HBM is never touched. What the host copies or fills into
    tensors of up to 1 MiB is kept until an operator overwrites it, and operators over at most 64 such elements, or over
    1 MiB of such integers and bools, are computed: step counters, positions, masks, GradScaler's scale. GradScaler
    finds no overflow, and `torch.nn.init.trunc_normal_` takes its first draw.

    Args:
        values: what the host gets where it reads a value that there is none of. None: NoValueError, with the operator
            and the line. A number fills the tensor that is read. A callable gets a `Read` and returns a number, a
            tensor of that shape, or None. A mapping has such answers under a source line ("train.py:31", any tail of
            the path), the operator ("item") or "*".

    Nested blocks are answered by the innermost one that has an answer. Tensors written in a dry run hold no values
    afterwards: reading them, or computing with them, raises; copying values over the whole tensor gives it some.
    """

    def __init__(self, values: Values = None) -> None:
        _check(values)
        self.values = values

    def __enter__(self) -> dry_run:
        _active.append(self)
        _switch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in _active:
            _active.remove(self)
        _switch()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def dry(*args: P.args, **kwargs: P.kwargs) -> R:
            with dry_run(self.values):
                return function(*args, **kwargs)

        return dry


_active: list[dry_run] = []


def is_dry_run() -> bool:
    """Whether a dry run is on."""
    return bool(_C.dry_run())


def _switch() -> None:
    on = bool(_active)
    _C.set_dry_run(on)
    if _strict.is_poisoning():
        _C.set_poison(not on)  # fresh memory stays untouched


def _check(values: Values) -> None:
    if not (values is None or callable(values) or isinstance(values, int | float | complex | torch.Tensor | Mapping)):
        raise TypeError(
            "[dry_run] values are a number, a tensor, a callable, a mapping from lines or operators, or None; "
            f"got {type(values).__name__}."
        )


def _answer(op: str, tensor: torch.Tensor) -> torch.Tensor:
    """What `_C` asks for values: a CPU tensor of the same shape and dtype."""
    read = Read(op, tuple(tensor.shape), tensor.dtype, source_line())
    with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
        reader = _reader()
        for block in () if _is_protocol(reader) else reversed(_active):
            answer = _look_up(block.values, read)
            if answer is not None:
                return _as_tensor(answer, read)
        if _draws_until_accepted(reader):
            return _as_tensor(False, read)
    at = f" at {read.line}" if read.line else ""
    if not _active:
        raise NoValueError(
            f"[dry_run] {read.op}{at} reads a tensor that a dry run has written and that holds no values; got "
            f"{read.dtype} {list(read.shape)}. Copy values over it first."
        )
    raise NoValueError(
        f"[dry_run] a dry run computes no values; got {read.op}{at} of {read.dtype} {list(read.shape)}. Supply one: "
        f'dry_run(values=0.0), dry_run(values={{"{_tail(read.line) or read.op}": 0.0}}) or a callable.'
    )


# What ranks tell each other about sizes and shapes: a made-up answer would only fail later.
_PROTOCOLS = tuple(
    os.path.join(os.path.dirname(torch.__file__), "distributed", name) for name in ("distributed_c10d.py", "pipelining")
)


def _is_protocol(reader: FrameType) -> bool:
    return reader.f_code.co_filename.startswith(_PROTOCOLS)


_DEVICE_CONTEXT = os.path.join(os.path.dirname(torch.__file__), "utils", "_device.py")


def _reader() -> FrameType:
    """Who reads: the caller of `_answer`, behind `with torch.device(...)`, which hands on every call."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == _DEVICE_CONTEXT and frame.f_back is not None:
        frame = frame.f_back
    return frame


_INIT = os.path.join(os.path.dirname(torch.__file__), "nn", "init.py")


def _draws_until_accepted(reader: FrameType) -> bool:
    """torch.nn.init.trunc_normal_ asks whether a draw lies outside of its bounds, and then draws again."""
    return reader.f_code.co_filename == _INIT and reader.f_code.co_name == "_no_grad_trunc_normal_"


def _look_up(values: Any, read: Read) -> Any:
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == read.op or (read.line and (read.line == key or read.line.endswith("/" + str(key)))):
                return _look_up(value, read)
        return _look_up(values.get("*"), read)
    if callable(values) and not isinstance(values, torch.Tensor):
        return values(read)
    return values


def _as_tensor(answer: Any, read: Read) -> torch.Tensor:
    if not isinstance(answer, torch.Tensor):
        return torch.full((), answer, dtype=read.dtype, device="cpu").expand(read.shape)
    if tuple(answer.shape) != read.shape or answer.device.type != "cpu":
        raise ValueError(
            f"[dry_run] a supplied tensor lies on the CPU and has the shape that is read; got {list(answer.shape)} on "
            f"{answer.device}, limit {list(read.shape)}, for {read.op} at {read.line or 'no line'}."
        )
    return answer.detach().to(read.dtype)


def _tail(line: str) -> str:
    return line.rpartition("/")[2]


def source_line() -> str:
    """The line of the user's that runs now: the innermost frame outside of torch, this package and Python's library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(LIBRARIES) and not path.startswith("<frozen"):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def parse_values(text: str) -> float | None:
    """`--values` and TORCH_TRN_DRY_RUN_VALUES: a number, or nothing for an error at each read."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise ValueError(
            f"[dry_run] values are a number here; got {text!r}. Use dry_run(values=...) for more."
        ) from None


def apply_environment() -> None:
    """TORCH_TRN_DRY_RUN=1 makes the whole process a dry run; TORCH_TRN_DRY_RUN_VALUES is its `values`, a number."""
    _C.set_value_source(_answer)
    if os.environ.get("TORCH_TRN_DRY_RUN", "").strip() not in ("", "0"):
        dry_run(parse_values(os.environ.get("TORCH_TRN_DRY_RUN_VALUES", ""))).__enter__()
