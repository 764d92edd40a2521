"""Every call that the Python surface makes into the extension `torch_trn._C`, which is imported on first use."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch_trn.target_files import load as load_target_file


@functools.cache
def extension() -> Any:
    """The compiled module."""
    return importlib.import_module("torch_trn._C")


@dataclass(frozen=True)
class Target:
    """A target file as Python reads it: `record` holds its fields by name, `handle` is what `_C.cost` takes."""

    record: Mapping[str, Any]
    handle: Any = None

    @property
    def name(self) -> str:
        return str(self.record["name"])


def load_target(name: str | None = None) -> Target:
    """The target of that name or TOML path; the current one where none is given."""
    c = extension()
    if name is None:
        handle = c.current_target()
        return Target(handle.to_dict(), handle)
    record = load_target_file(name)
    return Target(record, c.Target(record))


def target_for(name: str) -> Target:
    """The current target where it has that name (it may be a file of the user's own), else the one loaded by name."""
    if extension().current_target_name() == name:
        return load_target()
    return load_target(name)


def cost(spec: list[dict[str, Any]], target: Target) -> dict[str, Any]:
    """Counts and device seconds of one launch."""
    result: dict[str, Any] = extension().cost(spec, target.handle)
    return result


def collective_model(target: Target, placement: Mapping[str, Any]) -> Any:
    """Costs of collectives on a target, ranks placed as said (`torch_trn.placement`)."""
    return extension().CollectiveModel(target.handle, dict(placement))


def op_status(name: str) -> str:
    """What TorchNeuron does with an operator: `native`, `host` or `absent`."""
    return str(extension().op_status(name))


def op_table() -> list[dict[str, Any]]:
    """Rows of the operator table: name, family, engines, and overloads with what TorchNeuron does with each."""
    return [dict(row) for row in extension().op_table()]


def build_settings() -> dict[str, Any]:
    """How the extension was compiled: compiler, build_type, cxx_standard, torch_version."""
    return dict(extension().build_settings())


def progress(handle: int) -> tuple[int, int, float]:
    """Steps, launches and simulated seconds that a running recording holds so far."""
    steps, launches, seconds = extension().profiler_progress(handle)
    return int(steps), int(launches), float(seconds)
