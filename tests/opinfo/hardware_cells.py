"""One operator in hardware numerics: forward and backward through its programs, against float64 on the CPU."""

from typing import Any

import torch
from opinfo import cells
from opinfo.cells import Cell, Outcome
from opinfo.op_cells import UNINITIALIZED, call, samples_of
from opinfo.placement import Sample
from opinfo.run_both import CPU, run
from torch.utils._pytree import tree_leaves, tree_map

NUM_SAMPLES = 8
# The samples are views into larger tensors, which a float64 copy of them is not.
NOT_WIDENED = {"as_strided.partial_views"}

# Of the largest element of a result. A program rounds each operand and each intermediate to fp32 (2^-24) or,
# between operators, to the dtype; op_db's samples have up to a few hundred terms, of a condition of up to about ten.
TOLERANCE = {"float32": 2.0**-24 * 4096, "bfloat16": 2.0**-9 * 32}


def _wide(tree: Any) -> Any:
    def widened(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf.detach().double().requires_grad_(leaf.requires_grad)
        return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf

    return tree_map(widened, tree)


def _gradients(result: Any, inputs: Any, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """Under cotangents that both precisions represent."""
    results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = list({id(t): t for t in tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.requires_grad}.values())
    if not results or not leaves or any(t.layout != torch.strided or t.is_nested for t in results):
        return []
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=generator).to(dtype).to(t.device, t.dtype) for t in results]
    return list(torch.autograd.grad(results, leaves, cotangents, allow_unused=True))


def _forward_and_backward(op: Any, sample: Sample, device: torch.device, dtype: torch.dtype, wide: bool) -> Any:
    args, kwargs = sample.on(device)
    if wide:
        args, kwargs = _wide(args), _wide(kwargs)
    result = call(op, sample, args, kwargs, device)
    return result, _gradients(sample.process(result), (args, kwargs), dtype)


def _error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Of the largest element; infinite where NaN or infinity lie in other places."""
    exact = exact.to(got.dtype).double()  # what is past the dtype's range is infinite
    got = got.cpu().double()
    finite = exact.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return torch.inf
    if not finite.any():
        return 0.0
    return ((got - exact)[finite].abs().max() / exact[finite].abs().max().clamp_min(1e-3)).item()


def _problem(got: torch.Tensor, exact: torch.Tensor, on_cpu: torch.Tensor, tolerance: float) -> str | None:
    if got.shape != exact.shape:
        return f"shape {tuple(got.shape)}, float64 has {tuple(exact.shape)}"
    if not got.is_floating_point():
        return None if exact.is_floating_point() or torch.equal(got.cpu(), exact) else "values differ"
    # Where the CPU's own kernels lose more in this dtype, the sample is ill-conditioned.
    error, limit = _error(got, exact), max(tolerance, 4 * _error(on_cpu, exact))
    return None if error <= limit else f"error {error:.1e} of the largest element, limit {limit:.1e}"


def check_hardware(cell: Cell, device: torch.device) -> Outcome:
    """`notes["executed"]`: samples whose launches all ran as programs; only these are compared."""
    import torch_trn

    outcome = Outcome(notes={"executed": 0, "without_program": []})
    if cell.name in UNINITIALIZED or cell.name in NOT_WIDENED:
        return outcome
    op, dtype = cells.ops()[cell.name], getattr(torch, cell.dtype)
    differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    without: set[str] = set()
    for i, sample in enumerate(samples_of(op, dtype, differentiable)[:NUM_SAMPLES]):
        want = run(lambda: _forward_and_backward(op, sample, CPU, dtype, True))  # noqa: B023
        if want.error is not None or want.drew:
            continue
        torch_trn.reference_operators(clear=True)
        with torch_trn.set_numerics("hardware"):
            got = run(lambda: _forward_and_backward(op, sample, device, dtype, False))  # noqa: B023
        missing = torch_trn.reference_operators(clear=True)
        without |= set(missing)
        if missing and got.error is None:
            continue
        outcome.notes["executed"] += 1
        outcome.checks += 1
        if got.error is not None:
            outcome.fail(f"sample {i}: {type(got.error).__name__}: {' '.join(str(got.error).split()):.160}")
            continue
        cpu = run(lambda: _forward_and_backward(op, sample, CPU, dtype, False))  # noqa: B023
        leaves = (tree_leaves(ran.value) for ran in (got, want, cpu))
        for mine, exact, on_cpu in zip(*leaves, strict=True):
            if isinstance(mine, torch.Tensor) and mine.layout == torch.strided and not mine.is_nested:
                problem = _problem(mine.detach(), exact.detach(), on_cpu.detach(), TOLERANCE[cell.dtype])
                if problem:
                    outcome.fail(f"sample {i}: {problem}")
    outcome.notes["without_program"] = sorted(without)
    return outcome
