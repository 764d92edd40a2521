"""Whose arithmetic the values are: the CPU's own kernels, or the tile programs on the emulated NeuronCore."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from torch_trn import _C

_DEPARTURES: dict[str, Any] = {
    "stochastic_rounding": False,
    "seed": 0,
    "activation_domains": True,
    "relu_nan_is_zero": True,
    "rsqrt_zero_is_nan": True,
    "sign_nan_is_nan": True,
    "flush_denormals": False,
}
_state: dict[str, Any] = {"mode": "reference", "departures": {}}


def _apply(mode: str, departures: dict[str, Any]) -> None:
    _C.set_numerics(mode == "hardware", departures)
    _state.update(mode=mode, departures=departures)


class set_numerics:
    """Sets the numerics of every later operator, at once or for a `with` block. Counts and time are the same in both.

    Args:
        mode: "reference": values are CPU PyTorch's. "hardware": an operator's values come from executing its program:
            tiles of 128 over K accumulated in FP32, engine arithmetic in FP32, 64-bit types narrowed to 32 bits. An
            operator without an executable program runs in reference numerics and is listed by `reference_operators()`.
        departures: switches of hardware numerics, each documented in docs/contract.md: stochastic_rounding, seed,
            activation_domains, relu_nan_is_zero, rsqrt_zero_is_nan, sign_nan_is_nan, flush_denormals.

    Raises:
        ValueError: an unknown mode or switch.
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
        _apply(mode, {name: type(default)(chosen[name]) for name, default in _DEPARTURES.items()})

    def __enter__(self) -> set_numerics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _apply(self._previous["mode"], self._previous["departures"])


def numerics() -> str:
    """The mode in force: "reference" or "hardware"."""
    return str(_state["mode"])


def reference_operators(clear: bool = False) -> dict[str, int]:
    """Launches, by operator, that ran in reference numerics while hardware numerics were in force."""
    launches = dict(_C.reference_launches())
    if clear:
        _C.clear_reference_launches()
    return launches


def _from_environment() -> dict[str, Any]:
    """The runtime's own variables."""
    found: dict[str, Any] = {}
    enabled = os.environ.get("NEURON_RT_STOCHASTIC_ROUNDING_EN", "").strip()
    if enabled:
        found["stochastic_rounding"] = enabled not in ("0", "false", "False")
    seed = os.environ.get("NEURON_RT_STOCHASTIC_ROUNDING_SEED", "").strip()
    if seed:
        try:
            found["seed"] = int(seed, 0)
        except ValueError:
            raise ValueError(
                f"[set_numerics] NEURON_RT_STOCHASTIC_ROUNDING_SEED is an integer; got {seed!r}."
            ) from None
    return found


def apply_environment() -> None:
    """TORCH_TRN_NUMERICS: "reference" or "hardware"."""
    mode = os.environ.get("TORCH_TRN_NUMERICS", "").strip()
    if mode:
        set_numerics(mode)
