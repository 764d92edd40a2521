"""Rounding, functions and the switches of hardware numerics."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from machine import Array, new_core, result, tile

erf = np.vectorize(math.erf, otypes=[float])


def apply(function: str, x: Array, **switches: Any) -> Array:
    core = new_core(**switches)
    return result(core, x.shape, lambda d: core.activation(d, function, tile(core, x)))


# Largest error in units of the last place, over a range of arguments.
FUNCTIONS: list[tuple[str, Callable[[Array], Array], float, float, float]] = [
    ("exp", np.exp, -87, 88, 1.0),
    ("exp", np.exp, -1, 1, 1.0),
    ("log", np.log, 1e-30, 1e30, 1.0),
    ("log", np.log, 0.5, 2, 1.0),
    ("tanh", np.tanh, -9, 9, 1.5),
    ("erf", erf, -4, 4, 1.5),
    ("sin", np.sin, -3.14159, 3.14159, 2.0),
    ("arctan", np.arctan, -20, 20, 2.0),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), -20, 20, 2.5),
    ("softplus", np.log1p, 0, 0, 2.0),
    ("sqrt", np.sqrt, 0, 1e9, 0.5),
]


@pytest.mark.parametrize("function,oracle,low,high,ulps", FUNCTIONS)
def test_functions_within_ulps(
    function: str, oracle: Callable[[Array], Array], low: float, high: float, ulps: float
) -> None:
    x = np.random.default_rng(0).uniform(low, high, (128, 400)).astype(np.float32)
    if function == "softplus":
        x = np.random.default_rng(0).uniform(-30, 30, (128, 400)).astype(np.float32)
        expected = np.logaddexp(0, x.astype(np.float64))
    else:
        expected = oracle(x.astype(np.float64))
    last_place = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(apply(function, x) - expected) / last_place) <= ulps


SPECIAL = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan]], np.float32)


@pytest.mark.parametrize(
    "function,expected",
    [
        ("exp", [1, 1, np.inf, 0, np.nan]),
        ("log", [-np.inf, -np.inf, np.inf, np.nan, np.nan]),
        ("tanh", [0, -0.0, 1, -1, np.nan]),
        ("erf", [0, -0.0, 1, -1, np.nan]),
        ("sigmoid", [0.5, 0.5, 1, 0, np.nan]),
        ("arctan", [0, -0.0, np.pi / 2, -np.pi / 2, np.nan]),
        ("sqrt", [0, -0.0, np.inf, np.nan, np.nan]),
        ("relu", [0, 0, np.inf, 0, 0]),
        ("sign", [0, 0, 1, -1, np.nan]),
        ("rsqrt", [np.nan, np.nan, 0, np.nan, np.nan]),
    ],
)
def test_special_values(function: str, expected: list[float]) -> None:
    np.testing.assert_allclose(apply(function, SPECIAL)[0], expected, rtol=1e-6)


def test_switches() -> None:
    np.testing.assert_allclose(apply("relu", SPECIAL, relu_nan_is_zero=False)[0], [0, 0, np.inf, 0, np.nan])
    np.testing.assert_allclose(apply("sign", SPECIAL, sign_nan_is_nan=False)[0], [0, 0, 1, -1, 0])
    np.testing.assert_allclose(
        apply("rsqrt", SPECIAL, rsqrt_zero_is_nan=False)[0], [np.inf, -np.inf, 0, np.nan, np.nan]
    )
    nine = np.array([[9.0, -9.0]], np.float32)
    np.testing.assert_allclose(apply("sin", nine)[0], [27.65, -27.65], rtol=1e-3)
    np.testing.assert_allclose(apply("sin", nine, activation_domains=False)[0], np.sin(nine[0]), rtol=1e-6)
    tiny = np.array([[1e-40, -1e-40, 1e-37]], np.float32)
    np.testing.assert_array_equal(apply("copy", tiny)[0], tiny[0])
    np.testing.assert_array_equal(apply("copy", tiny, flush_denormals=True)[0], [0, 0, tiny[0, 2]])


FORMATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


@pytest.mark.parametrize("dtype", FORMATS)
def test_round_to_nearest_even(dtype: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, (64, 500), dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = (rng.standard_normal((64, 500)) * 10.0 ** rng.uniform(-9, 6, (64, 500))).astype(np.float32)
    halves = (rng.integers(-300, 300, (64, 500)) / 128).astype(np.float32)
    x = np.concatenate([bits, near, halves], axis=1)
    core = new_core("trn3")
    got = result(core, x.shape, lambda d: core.tensor_copy(d, tile(core, x)), dtype)
    np.testing.assert_array_equal(got, torch.from_numpy(x).to(FORMATS[dtype]).float().numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_code_is_read(dtype: str) -> None:
    core, codes = new_core(), np.arange(1 << 16, dtype=np.uint16).reshape(128, 512)
    stored = core.sbuf(dtype, 128, 512)
    core.load(stored, codes)
    expected = torch.from_numpy(codes.view(np.int16)).view(FORMATS[dtype]).float().numpy()
    np.testing.assert_array_equal(result(core, (128, 512), lambda d: core.tensor_copy(d, stored)), expected)


@pytest.mark.parametrize(
    "dtype,step", [("bfloat16", 2**-7), ("float16", 2**-10), ("float8_e5m2", 2**-2), ("float8_e4m3", 2**-3)]
)
def test_stochastic_rounding(dtype: str, step: float) -> None:
    x = np.full((128, 512), 1 + 0.3 * step, np.float32)

    def rounded(seed: int) -> Array:
        core = new_core(seed=seed, stochastic_rounding=True)
        return result(core, x.shape, lambda d: core.tensor_copy(d, tile(core, x)), dtype)

    got = rounded(0)
    assert set(np.unique(got)) == {1, 1 + step}
    assert abs((got > 1).mean() - 0.3) < 0.01
    np.testing.assert_array_equal(rounded(0), got)
    assert not np.array_equal(rounded(1), got)


def test_small_sums_survive_stochastic_rounding() -> None:
    """AWS's example: 1024 + 2048 * 0.5 in fp16 stays 1024 to nearest even, and about doubles at random."""
    for stochastic, low, high in ((False, 1024, 1024), (True, 1900, 2200)):
        core = new_core(stochastic_rounding=stochastic)
        total = tile(core, np.full((1, 1), 1024), "float16")
        for _ in range(2048):
            core.tensor_scalar(total, total, "add", 0.5)
        assert low <= total.read()[0, 0] <= high


def test_integers_pass_through_float32() -> None:
    core = new_core()
    big = np.array([[2**24 + 1, 2**31 - 1, -(2**31)]])
    got = result(core, big.shape, lambda d: core.tensor_scalar(d, tile(core, big, "int32"), "add", 0.0), "int32")
    np.testing.assert_array_equal(got, [[2**24, -(2**31), -(2**31)]])
    kept = result(core, big.shape, lambda d: core.tensor_copy(d, tile(core, big, "int32")), "int32")
    np.testing.assert_array_equal(kept, big)
