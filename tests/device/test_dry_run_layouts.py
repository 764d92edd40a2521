"""op_db in a dry run, operator by operator: what each leaves, forward and backward, lies as in a real run, whatever the
layouts of its operands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from opinfo import cells, op_cells
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_trn import _C, NoValueError, dry_run

SAMPLES = 4
# Results of no elements, and sizes and orders that follow from values.
OTHER = {
    "aten._ctc_loss.Tensor",
    "aten._fused_rms_norm.default",
    "aten.linalg_solve_triangular.default",
    "aten.nonzero_static.default",
}


def reversed_order(tensor: torch.Tensor) -> torch.Tensor:
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() >= 2 else tensor


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format))


def as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


Layout = Callable[[torch.Tensor], torch.Tensor]
# Of the operands, and of the gradients of their results.
LAYOUTS: list[tuple[Layout, Layout]] = [
    (as_it_is, reversed_order),
    (reversed_order, reversed_order),
    (channels_last, channels_last),
    (turned, turned),
]


class Log(TorchDispatchMode):
    """Each operator below autograd: its name, how its tensors lay, and how its results do."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[str, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = [described(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        after = [described(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.entries.append((str(func), before, after))
        return result


def described(tensor: torch.Tensor) -> tuple[Any, ...]:
    size = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else 0
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, size


def entries_of(op: Any, sample: Any, device: torch.device, layouts: tuple[Layout, Layout], loses: bool) -> list[Any]:
    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_conj():
            return value
        return layouts[0](value.detach()).requires_grad_(value.requires_grad)

    args, kwargs = tree_map(placed, sample.on(device))
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if loses:
        for tensor in leaves:
            if tensor.device.type == device.type:
                _C.lose_values(tensor)
    with Log() as log:
        try:
            results = tree_leaves(op_cells.call(op, sample, args, kwargs, device))
            outputs = [t for t in results if isinstance(t, torch.Tensor) and t.requires_grad]
            inputs = [t for t in leaves if t.requires_grad]
            if outputs and inputs:
                grads = [layouts[1](torch.ones(t.shape, dtype=t.dtype, device=t.device)) for t in outputs]
                torch.autograd.grad(outputs, inputs, grads, allow_unused=True)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, NoValueError):
            pass  # the sample is none of this layout's, or needs values
    return log.entries


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_operators_results_lie_as_in_a_real_run(device: torch.device, dtype: torch.dtype) -> None:
    op_cells.remove_seeding()
    problems: dict[str, Any] = {}
    checked = 0
    for name, op in cells.ops().items():
        if cells.JITERATOR in name or dtype not in op.supported_dtypes("cpu"):
            continue
        differentiates = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        for number, sample in enumerate(op_cells.samples_of(op, dtype, differentiates, SAMPLES)):
            for layouts in LAYOUTS:
                real = entries_of(op, sample, device, layouts, False)
                with dry_run():
                    dry = entries_of(op, sample, device, layouts, True)
                for expected, got in zip(real, dry, strict=False):
                    if expected[:2] != got[:2]:
                        break  # another way, chosen by values
                    checked += 1
                    if expected != got and expected[0] not in OTHER:
                        problems[f"{expected[0]} {name}[{number}] {layouts[0].__name__}"] = (*expected, got[2])
    assert problems == {}
    assert checked > 10_000
