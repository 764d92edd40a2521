"""What the tests of single instructions share: a core, tiles with values, and values back."""

from collections.abc import Callable
from typing import Any

import numpy as np

from torch_trn.emu import NeuronCore

Array = np.ndarray[Any, Any]


def new_core(target: str = "trn2", **switches: Any) -> Any:
    return NeuronCore(target, **switches)


def tile(core: Any, values: Any, dtype: str = "float32", memory: str = "sbuf") -> Any:
    """A tile of a two-dimensional array's values, rounded to the dtype."""
    array = np.asarray(values)
    made = getattr(core, memory)(dtype, *array.shape)
    made.write(array)
    return made


def result(
    core: Any,
    shape: tuple[int, int],
    instruction: Callable[[Any], None],
    dtype: str = "float32",
    memory: str = "sbuf",
) -> Array:
    """What `instruction(dst)` leaves in a fresh tile."""
    dst = getattr(core, memory)(dtype, *shape)
    instruction(dst)
    values: Array = dst.read()
    return values


def uniform(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
