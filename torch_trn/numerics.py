"""Whose arithmetic the values are: the CPU's own kernels, or the tile programs on the emulated NeuronCore."""

from __future__ import annotations

import os
import shlex
import warnings
from types import TracebackType
from typing import Any

from torch_trn import _C

_DEPARTURES: dict[str, Any] = dict(_C.default_departures())
_NUM_SEEDS = 2**64
_SPELLINGS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
_state: dict[str, Any] = {"mode": "reference", "departures": _DEPARTURES}


class NarrowingWarning(UserWarning):
    """An operator in hardware numerics held 64-bit elements in 32 bits: once per process, operator and dtype."""


def _checked(name: str, value: Any) -> Any:
    default = _DEPARTURES[name]
    if isinstance(default, bool):
        if isinstance(value, (bool, int)) and value in (0, 1):
            return bool(value)
        raise ValueError(f"[set_numerics] {name} is True or False; got {value!r}.")
    if isinstance(default, int):
        if isinstance(value, int) and 0 <= value < _NUM_SEEDS:
            return int(value)
        raise ValueError(f"[set_numerics] {name} is an integer from 0 on; got {value!r}, limit {_NUM_SEEDS - 1}.")
    if not isinstance(value, str):
        raise ValueError(f"[set_numerics] {name} is a string; got {value!r}.")
    return value


def _apply(mode: str, departures: dict[str, Any]) -> None:
    _C.set_numerics(mode == "hardware", departures)
    _state.update(mode=mode, departures=departures)


class set_numerics:
    """Sets the numerics of every later operator, at once or for a `with` block. Counts and time are the same in both.

    Args:
        mode: "reference": values are CPU PyTorch's. "hardware": an operator's values come from executing its program:
            tiles of 128 over K accumulated in FP32, engine arithmetic in FP32, 64-bit types narrowed to 32 bits. An
            operator without an executable program runs in reference numerics and is listed by `reference_operators()`.
        departures: switches, each documented in docs/numerics.md with its default and source. Those of values act in
            hardware numerics. The compiler's options auto_cast, auto_cast_type and native_int64 change programs, and so
            the counts of both modes.

    Raises:
        ValueError: an unknown mode, switch or value; native_int64 on a NeuronCore-v2.
    """

    def __init__(self, mode: str, **departures: Any) -> None:
        if mode not in ("reference", "hardware"):
            raise ValueError(f'[set_numerics] the mode is "reference" or "hardware"; got {mode!r}.')
        unknown = sorted(set(departures) - set(_DEPARTURES))
        if unknown:
            raise ValueError(
                f"[set_numerics] no such switch; got {', '.join(unknown)}, limit {', '.join(_DEPARTURES)}."
            )
        self._previous = dict(_state)
        chosen = {**_DEPARTURES, **_from_environment(), **departures}
        _apply(mode, {name: _checked(name, chosen[name]) for name in _DEPARTURES})

    def __enter__(self) -> set_numerics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _apply(self._previous["mode"], self._previous["departures"])


def numerics() -> str:
    """The mode in force: "reference" or "hardware"."""
    return str(_state["mode"])


def departures_in_force() -> dict[str, Any]:
    """The switches that hardware numerics have, or would have, now."""
    return dict(_state["departures"])


def reference_operators(clear: bool = False) -> dict[str, int]:
    """Launches, by operator, that ran in reference numerics while hardware numerics were in force."""
    launches = dict(_C.reference_launches())
    if clear:
        _C.clear_reference_launches()
    return launches


def narrowed_operators(clear: bool = False) -> dict[str, dict[str, int]]:
    """Launches in hardware numerics whose programs held 64-bit elements in 32 bits, by operator and dtype."""
    launches = {op: dict(by_dtype) for op, by_dtype in _C.narrowed_launches().items()}
    if clear:
        _C.clear_narrowed_launches()
    return launches


def _warn(op: str, dtype: str) -> None:
    keep = "Keep integers below 2**31, or set native_int64." if "int" in dtype else "Use float32."
    warnings.warn(
        f"[numerics] engines hold 64-bit elements in 32 bits; got {dtype} in aten::{op}. {keep}",
        NarrowingWarning,
        stacklevel=2,
    )


def _from_environment() -> dict[str, Any]:
    """The runtime's and the compiler's own variables."""
    found: dict[str, Any] = {}
    enabled = os.environ.get("NEURON_RT_STOCHASTIC_ROUNDING_EN", "").strip()
    if enabled:
        if enabled.lower() not in _SPELLINGS:
            raise ValueError(
                f"[set_numerics] NEURON_RT_STOCHASTIC_ROUNDING_EN is one of {', '.join(_SPELLINGS)}; got {enabled!r}."
            )
        found["stochastic_rounding"] = _SPELLINGS[enabled.lower()]
    seed = os.environ.get("NEURON_RT_STOCHASTIC_ROUNDING_SEED", "").strip()
    if seed:
        try:
            found["seed"] = int(seed, 0)
        except ValueError:
            raise ValueError(
                f"[set_numerics] NEURON_RT_STOCHASTIC_ROUNDING_SEED is an integer; got {seed!r}."
            ) from None
    found.update(_compiler_options(os.environ.get("NEURON_CC_FLAGS", "")))
    return found


def _compiler_options(flags: str) -> dict[str, Any]:
    """Of neuronx-cc's options those that are switches here; the others say nothing about numerics."""
    try:
        words = [part for word in shlex.split(flags) for part in word.split("=", 1)]
    except ValueError as error:
        raise ValueError(f"[set_numerics] NEURON_CC_FLAGS is a command line; got {flags!r}: {error}.") from None
    found: dict[str, Any] = {}
    for word, value in zip(words, [*words[1:], ""]):
        if word == "--auto-cast":
            found["auto_cast"] = value
        elif word == "--auto-cast-type":
            found["auto_cast_type"] = value
        elif word == "--native-int64":
            found["native_int64"] = value.startswith("enable")
        elif word == "--enable-saturate-infinity":
            found["saturate_infinity"] = True
    return found


def apply_environment() -> None:
    """TORCH_TRN_NUMERICS: "reference" or "hardware". NEURON_CC_FLAGS changes programs in both."""
    _C.set_narrowing_handler(_warn)
    set_numerics(os.environ.get("TORCH_TRN_NUMERICS", "").strip() or "reference")
