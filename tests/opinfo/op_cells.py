"""One operator in one dtype: forward, backward, out=, in-place and error inputs on the device against CPU."""

from itertools import islice
from typing import Any

import torch
from opinfo import cells, compare
from opinfo.cells import Cell, Outcome
from opinfo.placement import Sample, place
from opinfo.run_both import Both, detached, gradients
from torch.utils._pytree import tree_leaves, tree_map

# Results hold whatever the memory held: metadata only.
UNINITIALIZED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
}
# A CPU run with the same inputs gives different values from run to run: out= leaves part of the memory unwritten.
UNINITIALIZED_OUT = {"fft.ihfft2", "fft.ihfftn"}


def remove_seeding() -> None:
    """OpInfo reseeds inside random operators, which would hide that they draw; the wrapper becomes a plain call."""
    from torch.testing._internal import common_methods_invocations as databases

    databases.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)


def remove_tracking() -> None:
    """OpInfo walks through the stack for each sample, to tell a unittest.TestCase of it, which none of these is."""
    from torch.testing._internal import common_utils
    from torch.testing._internal.opinfo import core

    common_utils.extract_test_fn = core.extract_test_fn = lambda: None


def samples_of(op: Any, dtype: torch.dtype, requires_grad: bool, most: int | None = None) -> list[Sample]:
    """All samples of an OpInfo, or the first `most`."""
    remove_tracking()
    torch.manual_seed(0)
    samples = op.sample_inputs("cpu", dtype, requires_grad=requires_grad, set_seed=False)
    return [Sample(op.name, sample) for sample in islice(samples, most)]


def call(op: Any, sample: Sample, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
    if not sample.names_device():
        try:
            return op.op(*args, **{**kwargs, "device": device})
        except TypeError:
            pass
    return op.op(*args, **kwargs)


def _forward(op: Any, sample: Sample, device: torch.device) -> Any:
    args, kwargs = sample.on(device, requires_grad=False)
    return call(op, sample, args, kwargs, device)


def _backward(op: Any, sample: Sample, device: torch.device) -> Any:
    args, kwargs = sample.on(device)
    result = call(op, sample, args, kwargs, device)
    return gradients(result, (args, kwargs), sample.process)


def _inplace(op: Any, sample: Sample, device: torch.device) -> Any:
    args, kwargs = sample.on(device, requires_grad=False)
    pointer = args[0].data_ptr()
    result = op.inplace_variant(*args, **kwargs)
    return result, result is args[0], pointer == args[0].data_ptr()


def _inplace_backward(op: Any, sample: Sample, device: torch.device) -> Any:
    args, kwargs = sample.on(device)
    changed = tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, args[0])
    result = op.inplace_variant(changed, *args[1:], **kwargs)
    return gradients(result, (args, kwargs), sample.process)


def _blank(like: torch.Tensor, shape: tuple[int, ...] | None, device: torch.device) -> torch.Tensor:
    if shape is None:
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).fill_(1)
    return torch.ones(shape, dtype=like.dtype, device=device)


def _out(op: Any, sample: Sample, device: torch.device, expected: Any, shapes: list[Any]) -> Any:
    args, kwargs = sample.on(device, requires_grad=False)
    leaves = [_blank(like, shape, device) for like, shape in zip(tree_leaves(expected), shapes, strict=True)]
    out = leaves[0] if isinstance(expected, torch.Tensor) else tuple(leaves)
    pointers = [t.data_ptr() for t in leaves]
    returned = op.op(*args, **kwargs, out=out)
    kept = all(a is b for a, b in zip(tree_leaves(returned), leaves, strict=True))
    same_memory = [p == t.data_ptr() for p, t in zip(pointers, leaves, strict=True)]
    return leaves, kept, same_memory if shapes[0] is None else None


def _wrong(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] + 1) if len(shape) else (2,)


def check_op(cell: Cell, device: torch.device) -> Outcome:
    outcome = Outcome()
    op, dtype = cells.ops()[cell.name], getattr(torch, cell.dtype)
    differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    both = Both(outcome, device, compare.WIDER.get(op.name, 1.0), op.name not in UNINITIALIZED)
    for i, sample in enumerate(samples_of(op, dtype, differentiable)):
        want, got = both.check(f"forward[{i}]", lambda d: _forward(op, sample, d))  # noqa: B023
        if want.error is not None or got.error is not None:
            continue
        if differentiable:
            both.check(f"backward[{i}]", lambda d: _backward(op, sample, d))  # noqa: B023
        expected = detached(want.value)
        leaves = tree_leaves(expected)
        if op.inplace_variant and not sample.broadcasts and isinstance(sample.args[0], torch.Tensor):
            both.check(f"inplace[{i}]", lambda d: _inplace(op, sample, d))  # noqa: B023
            if differentiable and op.supports_inplace_autograd:
                both.check(f"inplace backward[{i}]", lambda d: _inplace_backward(op, sample, d))  # noqa: B023
        if op.supports_out and leaves and all(isinstance(t, torch.Tensor) for t in leaves):
            outs = Both(outcome, device, both.widen, both.values and op.name not in UNINITIALIZED_OUT)
            right = [None] * len(leaves)
            wrong = [_wrong(t.shape) for t in leaves]
            empty = [(0,)] * len(leaves)
            for heading, shapes in (("out", right), ("out resized", wrong), ("out from empty", empty)):
                if heading != "out" and i >= 4:
                    break
                outs.check(f"{heading}[{i}]", lambda d: _out(op, sample, d, expected, shapes))  # noqa: B023
    outcome.notes["samples"] = i + 1
    return outcome


def check_error(cell: Cell, device: torch.device) -> Outcome:
    outcome = Outcome()
    op = cells.ops()[cell.name]
    both = Both(outcome, device, values=False)
    torch.manual_seed(0)
    for i, error in enumerate(op.error_inputs("cpu", set_seed=False)):
        sample = Sample(op.name, error.sample_input)
        both.check(
            f"error[{i}]",
            lambda d: call(op, sample, *sample.on(d), d),  # noqa: B023
            where=False,
            message=error.error_regex,
            must_raise=True,
        )
    return outcome


def check_foreach(cell: Cell, device: torch.device) -> Outcome:
    """Foreach operators, functional and in-place; scalars and lists of scalars as the samples bring them."""
    outcome = Outcome()
    op, dtype = cells.foreach_ops()[cell.name], getattr(torch, cell.dtype)
    both = Both(outcome, device)
    torch.manual_seed(0)
    for i, sample in enumerate(op.sample_inputs("cpu", dtype, noncontiguous=False, same_size=False)):
        args, kwargs = [sample.input, *sample.args], dict(sample.kwargs)
        kwargs.pop("disable_fastpath", None)

        def functional(d: torch.device) -> Any:
            placed, named = place((args, kwargs), d, False)  # noqa: B023
            return op.method_variant(*placed, **named)

        def inplace(d: torch.device) -> Any:
            placed, named = place((args, kwargs), d, False)  # noqa: B023
            op.inplace_variant(*placed, **named)
            return placed[0]

        if op.method_variant is not None:
            both.check(f"forward[{i}]", functional)
        if op.inplace_variant is not None:
            both.check(f"inplace[{i}]", inplace)
    return outcome
