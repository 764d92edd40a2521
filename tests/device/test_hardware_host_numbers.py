"""Hardware numerics where an operand is a number on the host: operators of op_db that take two to four tensors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from opinfo import cells, op_cells
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.usefixtures("hardware")
SAMPLES = 3
NO_VALUES = {"normal", "resize_as_"}  # draws, and memory that nobody wrote
NUMBERS = {torch.float32: 0.75, torch.int32: 3}


def calls(op: Any, dtype: torch.dtype) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Arguments with a number, or a tensor of one on the host, in the place of each tensor; alpha where it is one."""
    scales = [{}, {"alpha": 2 if dtype == torch.int32 else 0.5}] if op.name in ("add", "sub", "rsub") else [{}]
    for sample in op_cells.samples_of(op, dtype, False, SAMPLES):
        args, kwargs = sample.on(torch.device("cpu"), requires_grad=False)
        places = [i for i, value in enumerate(args) if isinstance(value, torch.Tensor) and value.dtype == dtype]
        simple = all(isinstance(value, torch.Tensor | int | float | None) for value in args)
        if not simple or not 2 <= len(places) <= 4:
            continue
        for place in places:
            for number in (NUMBERS[dtype], torch.tensor(NUMBERS[dtype], dtype=dtype)):
                for scale in scales:
                    yield [number if i == place else value for i, value in enumerate(args)], {**kwargs, **scale}


def on_device(value: Any) -> Any:
    return value.to("trn") if isinstance(value, torch.Tensor) and value.dim() > 0 else value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_a_number_in_the_place_of_a_tensor(dtype: torch.dtype) -> None:
    op_cells.remove_seeding()
    problems, checked = [], 0
    for name, op in cells.ops().items():
        if cells.JITERATOR in name or name in NO_VALUES or dtype not in op.supported_dtypes("cpu"):
            continue
        for args, kwargs in calls(op, dtype):
            try:
                expected = tree_leaves(op.op(*args, **kwargs))
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                continue  # tensors alone
            try:
                got = tree_leaves(op.op(*map(on_device, args), **{key: on_device(kwargs[key]) for key in kwargs}))
            except RuntimeError as error:
                assert "device" in str(error).lower(), error  # tensors of one device alone
                continue
            for want, tensor in zip(expected, got, strict=True):
                if not isinstance(want, torch.Tensor):
                    assert tensor == want
                    continue
                checked += 1
                tolerance = 1e-3 if want.is_floating_point() else 0
                if not torch.allclose(tensor.cpu(), want, rtol=tolerance, atol=tolerance, equal_nan=True):
                    problems.append((name, args, kwargs, want, tensor.cpu()))
    assert problems == []
    assert checked > (700 if dtype == torch.float32 else 300)
