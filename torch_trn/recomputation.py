"""Tells `_C` where activation checkpointing runs a forward pass again: that work is no progress of the model.

Both kinds of `torch.utils.checkpoint` are marked where they run the function again, on the thread of the backward pass.
Nothing else can tell: a forward pass inside a backward one is also a higher derivative, or a custom function's formula.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from torch_trn import _C
from torch_trn.on_import import on_import


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    begin, end = _C.profiler_begin_recompute, _C.profiler_end_recompute

    @functools.wraps(function)
    def recompute(*args: Any, **kwargs: Any) -> Any:
        begin()
        try:
            return function(*args, **kwargs)
        finally:
            end()

    return recompute


def _mark(checkpoint: Any) -> None:
    disable_dynamo: Any = torch._disable_dynamo  # type: ignore[attr-defined]
    # One function for all calls, as the original: a closure made by each would keep its tensors alive.
    checkpoint._run_fn_with_dynamo_disabled = disable_dynamo(_marked(checkpoint._run_fn_with_dynamo_disabled))
    reentrant = checkpoint.CheckpointFunction
    backward = reentrant.backward

    @functools.wraps(backward)
    def backward_with_mark(ctx: Any, *args: Any) -> Any:
        run_function = ctx.run_function
        ctx.run_function = _marked(run_function)
        try:
            return backward(ctx, *args)
        finally:
            ctx.run_function = run_function

    reentrant.backward = staticmethod(backward_with_mark)


def install() -> None:
    """At import, once: a profile may begin between a forward pass and its repetition."""
    on_import("torch.utils.checkpoint", _mark)
