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


def test_integers_keep_every_bit_where_they_do_not_pass_through_float32() -> None:
    core = new_core(integers_through_fp32=False)
    x = np.array([[2**24 + 1, 2**31 - 1, -(2**31), -5]])
    y = np.array([[2, 3, -1, 7]])

    def of(instruction: Callable[[Any], None], dtype: str = "int32") -> Array:
        return result(core, x.shape, instruction, dtype)

    a, b = tile(core, x, "int32"), tile(core, y, "int32")

    def wrap(values: Array) -> Array:
        return values.astype(np.int64).astype(np.int32)

    np.testing.assert_array_equal(of(lambda d: core.tensor_scalar(d, a, "add", 0.0)), x)
    for alu, expected in (("add", x + y), ("subtract", x - y), ("multiply", x * y)):
        np.testing.assert_array_equal(of(lambda d, alu=alu: core.tensor_tensor(d, a, b, alu)), wrap(expected))
    np.testing.assert_array_equal(of(lambda d: core.tensor_tensor(d, a, b, "maximum")), np.maximum(x, y))
    np.testing.assert_array_equal(of(lambda d: core.tensor_scalar(d, a, "less", float(2**24)), "uint8"), x < 2**24)
    np.testing.assert_array_equal(
        of(lambda d: core.scalar_tensor_tensor(d, a, "multiply", 3.0, "add", b)), wrap(3 * x + y)
    )
    np.testing.assert_array_equal(of(lambda d: core.activation(d, "copy", a)), x)
    total = core.sbuf("int32", 1, 1)
    core.tensor_reduce(total, "add", a, axis=1)
    assert total.read()[0, 0] == wrap(x.sum())
    # No integer form: through fp32.
    np.testing.assert_array_equal(of(lambda d: core.tensor_scalar(d, a, "divide", 1.0))[0, :1], [2**24])


def test_products_of_integers_that_do_not_pass_through_float32() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-(2**20), 2**20, (40, 20)), rng.integers(-(2**20), 2**20, (40, 30))
    core = new_core(integers_through_fp32=False)
    psum = core.psum("int32", 20, 30)
    for accumulate, factor in ((False, 1), (True, 2)):
        core.nc_matmul(psum, tile(core, x, "int32"), tile(core, y, "int32"), accumulate=accumulate)
        np.testing.assert_array_equal(psum.read(), (factor * (x.T @ y)).astype(np.int32))
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] TensorE multiplies floating types; got int32\."):
        core = new_core()
        core.nc_matmul(core.psum("int32", 20, 30), tile(core, x, "int32"), tile(core, y, "int32"))


def test_native_64_bit_integers() -> None:
    x, y = np.array([[2**40 + 1, -(2**53) - 1]]), np.array([[3, 5]])

    core = new_core(native_int64=True)
    a, b = tile(core, x, "int64"), tile(core, y, "int64")
    small = result(core, (1, 1), lambda d: core.tensor_scalar(d, tile(core, [[2**24 + 1]], "int32"), "add", 0.0))
    assert small[0, 0] == 2**24  # 32-bit tiles pass through fp32 as before
    total = result(core, x.shape, lambda d: core.tensor_tensor(d, a, b, "add"), "int64")
    np.testing.assert_array_equal(total, x + y)


# Low end, high end: AWS's table of activation functions.
DOMAINS = {
    "log": (2.0**-64, 2.0**64, np.log),
    "sqrt": (2.0**-116, 2.0**118, np.sqrt),
    "rsqrt": (2.0**-87, 2.0**97, lambda x: 1 / np.sqrt(x)),
    "reciprocal": (2.0**-42, 2.0**42, lambda x: 1 / x),
    "arctan": (0.0, math.pi / 2, np.arctan),
}


@pytest.mark.parametrize("function", DOMAINS)
def test_outside_of_activation_domains(function: str) -> None:
    low, high, oracle = DOMAINS[function]
    inside = np.array([[low * 1.5 if low else 0.25, math.sqrt(low * high) if low else 1.0, high * 0.75]], np.float32)
    outside = np.array([[low / 4, high * 4] if low else [high * 1.01, high * 4]], np.float32)
    for mode in ("exact", "clamp", "nan"):
        np.testing.assert_allclose(apply(function, inside, outside_domains=mode), oracle(inside), rtol=1e-6)
    np.testing.assert_allclose(apply(function, outside), oracle(outside), rtol=1e-6)
    ends = np.array([[low, high] if low else [high, high]], np.float32)
    np.testing.assert_allclose(apply(function, outside, outside_domains="clamp"), oracle(ends), rtol=1e-6)
    assert np.isnan(apply(function, outside, outside_domains="nan")).all()
    if function in ("reciprocal", "arctan"):
        np.testing.assert_allclose(apply(function, -outside, outside_domains="clamp"), -oracle(ends), rtol=1e-6)
        assert np.isnan(apply(function, -outside, outside_domains="nan")).all()
    # With a scale, it is the scaled argument that counts.
    core = new_core(outside_domains="clamp")
    scaled = result(core, outside.shape, lambda d: core.activation(d, function, tile(core, outside / 2), scale=2.0))
    np.testing.assert_allclose(scaled, oracle(ends), rtol=1e-6)


def test_infinity_saturates() -> None:
    x = np.array([[np.inf, -np.inf, np.nan, 3e38, 1.0]], np.float32)
    largest = {"float32": np.finfo(np.float32).max, "float16": 65504.0, "bfloat16": torch.finfo(torch.bfloat16).max}
    for dtype, limit in largest.items():
        core = new_core(saturate_infinity=True)
        got = result(core, x.shape, lambda d: core.tensor_scalar(d, tile(core, x), "multiply", 2.0), dtype)  # noqa: B023
        np.testing.assert_array_equal(got, np.array([[limit, -limit, np.nan, limit, 2.0]], np.float32))
    assert apply("exp", np.array([[100.0]], np.float32), saturate_infinity=True)[0, 0] == largest["float32"]
    assert apply("exp", np.array([[100.0]], np.float32))[0, 0] == np.inf


def test_transposes_spread_nan_by_a_switch() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x[1, 2] = np.inf
    for spreads in (True, False):
        core = new_core("trn1", transpose_spreads_nan=spreads)
        psum = core.psum("float32", 3, 4)
        core.nc_transpose(psum, tile(core, x))
        expected = x.T.copy()
        if spreads:
            expected[2] = [np.nan, np.inf, np.nan, np.nan]
        np.testing.assert_array_equal(psum.read(), expected)


def test_tf32_has_a_mantissa_of_ten_bits() -> None:
    x = (1 + np.arange(16, dtype=np.float32) / 2**12).reshape(1, 16)
    core = new_core()
    got = result(core, x.shape, lambda d: core.tensor_copy(d, tile(core, x)), "tfloat32")
    np.testing.assert_array_equal(got, np.rint(x * 2**10) / 2**10)  # to nearest even, as rint
    special = np.array([[np.inf, -np.inf, np.nan, np.finfo(np.float32).max]], np.float32)
    got = result(core, special.shape, lambda d: core.tensor_copy(d, tile(core, special)), "tfloat32")
    np.testing.assert_array_equal(got, [[np.inf, -np.inf, np.nan, np.inf]])
    a, b = np.full((8, 4), 1 + 2.0**-9, np.float32), np.ones((8, 5), np.float32)
    psum = core.psum("float32", 4, 5)
    core.nc_matmul(psum, tile(core, a, "tfloat32"), tile(core, b, "float32"))
    np.testing.assert_array_equal(psum.read(), 8 * (1 + 2.0**-9) * np.ones((4, 5)))


def test_out_of_bounds_gathers_may_give_nan() -> None:
    table, picks = np.arange(20, dtype=np.float32).reshape(5, 4), np.array([[3, 9]] * 2)
    core = new_core(out_of_bounds_is_nan=True)
    got = result(core, (2, 8), lambda d: core.dma_gather(d, core.hbm(table), tile(core, picks, "int32")))
    np.testing.assert_array_equal(got, [[*table[3], *[np.nan] * 4]] * 2)


def test_switches_are_known() -> None:
    with pytest.raises(ValueError, match=r"\[numerics\] no such switch; got rounding\."):
        new_core(rounding=True)
    with pytest.raises(ValueError, match=r"\[numerics\] outside_domains is one of exact, clamp, nan; got 'wrap'\."):
        new_core(outside_domains="wrap")
