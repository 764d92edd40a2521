"""The grid: which (suite, entry, dtype) cells exist, and what a cell's check returns."""

import importlib
import warnings
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64)
JITERATOR = "jiterator"  # a CUDA-only feature of PyTorch


class Cell(NamedTuple):
    suite: str  # op, error, foreach, module, optim, honesty, hardware
    name: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.suite}-{self.name}-{self.dtype}"


@dataclass
class Outcome:
    """What one cell reports: empty `failures` means that it passed."""

    failures: list[str] = field(default_factory=list)
    checks: int = 0
    bit_equal: int = 0
    value_checks: int = 0
    stride_differences: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def fail(self, message: str) -> None:
        self.failures.append(message)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@cache
def _database(module: str) -> Any:
    """A module of torch.testing._internal; it warns of optional packages that are not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"torch.testing._internal.{module}")


@cache
def ops() -> dict[str, Any]:
    return {op.full_name: op for op in _database("common_methods_invocations").op_db}


@cache
def foreach_ops() -> dict[str, Any]:
    databases = _database("common_methods_invocations")
    names = ("unary", "binary", "pointwise", "reduce", "other")
    return {op.full_name: op for name in names for op in getattr(databases, f"foreach_{name}_op_db")}


@cache
def modules() -> dict[str, Any]:
    return {module.name: module for module in _database("common_modules").module_db}


@cache
def optimizers() -> dict[str, Any]:
    return {optimizer.optim_cls.__name__: optimizer for optimizer in _database("common_optimizers").optim_db}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _by_dtype(suite: str, entries: dict[str, Any], dtypes: tuple[torch.dtype, ...]) -> list[Cell]:
    return [
        Cell(suite, name, name_of(dtype))
        for name, op in entries.items()
        for dtype in dtypes
        if JITERATOR not in name and dtype in op.supported_dtypes("cpu")
    ]


def cells(suite: str) -> list[Cell]:
    """Every cell of a suite, in the databases' own order."""
    if suite == "op":
        return _by_dtype(suite, ops(), DTYPES)
    if suite == "error":
        return [Cell(suite, name) for name, op in ops().items() if op.error_inputs_func and JITERATOR not in name]
    if suite == "foreach":
        return _by_dtype(suite, foreach_ops(), (torch.float32,))
    if suite == "module":
        return [
            Cell(suite, name, name_of(dtype))
            for name, module in modules().items()
            for dtype in (torch.float32, torch.float64)
            if dtype in module.dtypes
        ]
    if suite == "optim":
        return [Cell(suite, name) for name in optimizers()]
    if suite == "hardware":
        return _by_dtype(suite, ops(), (torch.float32, torch.bfloat16))
    if suite == "honesty":
        return [
            Cell(suite, name, name_of(dtype))
            for name, op in ops().items()
            if JITERATOR not in name
            for dtype in [next(d for d in (*DTYPES, None) if d is None or d in op.supported_dtypes("cpu"))]
            if dtype is not None
        ]
    raise ValueError(f"unknown suite {suite}")
