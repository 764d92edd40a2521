"""A backward pass that fails lets go of the tensors that it still held.

Backward runs on the thread that calls it. There, a failed pass leaves the tasks that it had yet to run in the thread's
queue, each with the tensors that its node saved; later passes end before they come to them, since newer tasks come
first. An accelerator with a thread of its own drops them at once, and a training loop that answers an out-of-memory
error with a smaller batch relies on that. So after a failure one more pass is run, whose only task is older than all.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

_autograd: Any = torch.autograd
_run = _autograd._engine_run_backward
_oldest: list[torch.Tensor] = []  # a leaf, what follows from it, and its gradient


class _Same(torch.autograd.Function):
    """Runs no operator in its backward, which may have to run in any mode."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


@functools.wraps(_run)
def _run_backward(*args: Any, **kwargs: Any) -> Any:
    try:
        return _run(*args, **kwargs)
    except BaseException:
        leaf, root, gradient = _oldest
        _run((root,), (gradient,), True, False, (leaf,), allow_unreachable=True, accumulate_grad=False)
        raise


def install() -> None:
    """At import, before there is a graph; a second call changes nothing."""
    if _oldest:
        return
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.ones((), device="cpu", requires_grad=True)
        root: torch.Tensor = _Same.apply(leaf)  # type: ignore[no-untyped-call]
        _oldest.extend((leaf, root, torch.ones((), device="cpu")))
    _autograd._engine_run_backward = _run_backward
