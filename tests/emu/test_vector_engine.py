"""VectorE's instructions against numpy."""

from typing import Any

import numpy as np
import pytest
from machine import Array, new_core, result, tile, uniform


@pytest.fixture
def core() -> Any:
    return new_core()


X, Y = uniform(128, 40), uniform(128, 40, seed=1)
V, W = uniform(128, 1, seed=2), uniform(128, 1, seed=3)
OPS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("reverse", [False, True])
def test_operands_of_one_element_per_partition(core: Any, op: str, reverse: bool) -> None:
    def tensor_scalar(dst: Any) -> None:
        core.tensor_scalar(dst, tile(core, X), op, tile(core, V), reverse, "add", tile(core, W))

    def scalar_tensor_tensor(dst: Any) -> None:
        core.scalar_tensor_tensor(dst, tile(core, X), op, tile(core, V), "subtract", tile(core, Y), reverse, True)

    first = OPS[op](V, X) if reverse else OPS[op](X, V)
    np.testing.assert_allclose(result(core, X.shape, tensor_scalar), first + W, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result(core, X.shape, scalar_tensor_tensor), Y - first, rtol=1e-6, atol=1e-6)


def test_bits(core: Any) -> None:
    a, b = (np.random.default_rng(s).integers(0, 1 << 31, (128, 9)) for s in (0, 1))
    for op, expected in {"bitwise_and": a & b, "bitwise_or": a | b, "bitwise_xor": a ^ b}.items():
        got = result(
            core,
            a.shape,
            lambda d, op=op: core.tensor_tensor(d, tile(core, a, "int32"), tile(core, b, "int32"), op),
            "int32",
        )
        np.testing.assert_array_equal(got, expected)
    got = result(core, a.shape, lambda d: core.tensor_scalar(d, tile(core, a, "int32"), "right_shift", 3.0), "int32")
    np.testing.assert_array_equal(got, a >> 3)


@pytest.mark.parametrize("op", ["add", "maximum", "minimum", "multiply"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensor_reduce(core: Any, op: str, dtype: str) -> None:
    x = tile(core, uniform(64, 24, low=0.5, high=1.5), dtype)
    fold = {"add": np.sum, "maximum": np.max, "minimum": np.min, "multiply": np.prod}[op]
    values = x.read().astype(np.float64)
    whole = result(core, (64, 1), lambda d: core.tensor_reduce(d, op, x, 1, negate=True))
    np.testing.assert_allclose(whole, -fold(values, axis=1, keepdims=True), rtol=1e-5)
    split = x.pattern(64, 0, [(6, 4), (1, 6)])
    inner = result(core, (64, 4), lambda d: core.tensor_reduce(d, op, split, [2]))
    np.testing.assert_allclose(inner, fold(values.reshape(64, 4, 6), axis=2), rtol=1e-5)
    across = x.pattern(64, 0, [(1, 6), (6, 4)])
    outer = result(core, (64, 6), lambda d: core.tensor_reduce(d, op, across, 2))
    np.testing.assert_allclose(outer, fold(values.reshape(64, 4, 6), axis=1), rtol=1e-5)


def test_tensor_reduce_of_bits(core: Any) -> None:
    x = np.random.default_rng(0).integers(0, 255, (8, 5))
    got = result(core, (8, 1), lambda d: core.tensor_reduce(d, "bitwise_or", tile(core, x, "uint8"), 1), "uint8")
    np.testing.assert_array_equal(got[:, 0], np.bitwise_or.reduce(x, axis=1))


def test_reductions_beside_a_result(core: Any) -> None:
    res = core.sbuf("float32", 128, 1)
    got = result(
        core, X.shape, lambda d: core.tensor_scalar_reduce(d, tile(core, X), "multiply", tile(core, V), "add", res)
    )
    np.testing.assert_allclose(got, X * V, rtol=1e-6)
    np.testing.assert_allclose(res.read(), (X * V).sum(1, keepdims=True), rtol=1e-4, atol=1e-4)
    mask = (X > 0).astype(np.int64)
    got = result(
        core,
        X.shape,
        lambda d: core.select_reduce(d, tile(core, mask, "uint8"), tile(core, X), tile(core, V), res, "reset_reduce"),
    )
    np.testing.assert_array_equal(got, np.where(X > 0, X, V))
    np.testing.assert_array_equal(res.read(), np.where(X > 0, X, V).max(1, keepdims=True))
    result(core, X.shape, lambda d: core.select_reduce(d, tile(core, mask, "uint8"), tile(core, Y), 9.0, res, "reduce"))
    np.testing.assert_array_equal(
        res.read(), np.maximum(np.where(X > 0, X, V), np.where(X > 0, Y, 9)).max(1, keepdims=True)
    )


def test_scans(core: Any) -> None:
    expected = np.empty_like(X)
    state = V[:, 0]
    for i in range(X.shape[1]):
        expected[:, i] = state = X[:, i] * state + Y[:, i]
    got = result(
        core,
        X.shape,
        lambda d: core.tensor_tensor_scan(d, tile(core, X), tile(core, Y), tile(core, V), "multiply", "add"),
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    state = np.float32(0.5)
    for i in range(X.shape[1]):
        expected[:, i] = state = Y[:, i] - np.maximum(X[:, i], state)
    got = result(
        core,
        X.shape,
        lambda d: core.tensor_tensor_scan(d, tile(core, X), tile(core, Y), 0.5, "maximum", "subtract", False, True),
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    got = result(core, X.shape, lambda d: core.tensor_scalar_cumulative(d, tile(core, X), "multiply", "add", 2.0))
    np.testing.assert_allclose(got, np.cumsum(2 * X, axis=1), rtol=1e-4, atol=1e-4)
    got = result(
        core,
        X.shape,
        lambda d: core.tensor_scalar_cumulative(d, tile(core, X), "add", "maximum", 0.0, tile(core, V), "load_reduce"),
    )
    np.testing.assert_array_equal(got, np.maximum(np.maximum.accumulate(X, axis=1), V))


@pytest.mark.parametrize("n", [512, 7, 1])
def test_batch_norm_statistics(core: Any, n: int) -> None:
    x = uniform(16, 2 * n, seed=4) + 3
    stats = core.sbuf("float32", 16, 12)
    for half in range(2):
        core.bn_stats(stats.part(16, 6 * half, 6), tile(core, x[:, half * n : half * n + n]))
    even = x[:, 0:n:2]
    np.testing.assert_allclose(
        stats.read()[:, :3],
        np.stack([np.full(16, even.shape[1]), even.mean(1), even.var(1) * even.shape[1]], 1),
        rtol=1e-4,
        atol=1e-5,
    )
    got = result(core, (16, 2), lambda d: core.bn_aggr(d, stats))
    np.testing.assert_allclose(got, np.stack([x.mean(1), x.var(1)], 1), rtol=1e-4)


def test_eights(core: Any) -> None:
    x = np.random.default_rng(0).permutation(64 * 100).reshape(64, 100).astype(np.float32)
    order = np.argsort(-x, axis=1)[:, :8]
    best = np.take_along_axis(x, order, 1)
    data = tile(core, x)
    vals = core.sbuf("float32", 64, 8)
    core.max8(vals, data)
    np.testing.assert_array_equal(vals.read(), best)
    np.testing.assert_array_equal(result(core, (64, 8), lambda d: core.nc_find_index8(d, data, vals), "uint32"), order)
    places = core.sbuf("uint16", 64, 8)
    expected = x.copy()
    np.put_along_axis(expected, order, -1, 1)
    np.testing.assert_array_equal(
        result(core, x.shape, lambda d: core.nc_match_replace8(d, data, vals, -1.0, places)), expected
    )
    np.testing.assert_array_equal(places.read(), order)


def test_equal_values_are_replaced_one_by_one(core: Any) -> None:
    x, vals = np.array([[5, 1, 5, 2, 5, 3, 4, 6]]), np.array([[6, 5, 5, 4, 3, 2, 1, 9]])
    got = result(core, x.shape, lambda d: core.nc_match_replace8(d, tile(core, x), tile(core, vals), 0.0))
    np.testing.assert_array_equal(got, [[0, 0, 0, 0, 5, 0, 0, 0]])


def test_range_select(core: Any) -> None:
    low, high = np.full((128, 1), 3.0), np.arange(128).reshape(-1, 1) % 40
    res = core.sbuf("float32", 128, 1)
    lowest = np.finfo(np.float32).min
    got = result(
        core,
        X.shape,
        lambda d: core.range_select(
            d,
            tile(core, X),
            "greater_equal",
            "less",
            tile(core, low),
            tile(core, high),
            "reset_reduce",
            res,
            range_start=2,
        ),
    )
    index = np.arange(40) + 2
    expected = np.where((index >= low) & (index < high), X, lowest)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(res.read(), expected.max(1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_predicated_copies(core: Any, dtype: str) -> None:
    x, y, mask = (np.random.default_rng(s).integers(-9, 9, (32, 6)) for s in range(3))
    predicate = tile(core, mask > 0, "uint8")
    for reverse in (False, True):
        chosen = (mask > 0) != reverse
        dst = tile(core, x, dtype)
        if not reverse:
            core.tensor_copy_predicated(dst, tile(core, y, dtype), predicate)
            np.testing.assert_array_equal(dst.read(), np.where(chosen, y, x))
        core.tensor_copy_predicated(dst, 7.0, predicate, reverse)
        np.testing.assert_array_equal(dst.read(), np.where(chosen, 7, x))
    got = result(core, x.shape, lambda d: core.select(d, predicate, tile(core, x, dtype), 3.0))
    np.testing.assert_array_equal(got, np.where(mask > 0, x, 3))


def test_transpose_and_shuffle(core: Any) -> None:
    x = uniform(32, 20)
    np.testing.assert_array_equal(result(core, (20, 32), lambda d: core.nc_transpose(d, tile(core, x), "vector")), x.T)
    y, mask = uniform(64, 5), [(7 * i) % 32 for i in range(31)] + [255]
    dst = tile(core, np.zeros_like(y))
    core.nc_stream_shuffle(dst, tile(core, y), mask)
    expected = y.reshape(2, 32, 5)[:, [m % 32 for m in mask]]
    expected[:, 31] = 0
    np.testing.assert_array_equal(dst.read(), expected.reshape(64, 5))


def test_dropout(core: Any) -> None:
    x = np.ones((128, 500), np.float32)
    probabilities = np.linspace(0, 1, 128).reshape(-1, 1)
    got = result(core, x.shape, lambda d: core.dropout(d, tile(core, x), tile(core, probabilities)))
    assert np.all(got[0] == 1) and np.all(got[-1] == 0)
    np.testing.assert_allclose(1 - got.mean(1), probabilities[:, 0], atol=0.12)
    other = new_core()
    again = result(other, x.shape, lambda d: other.dropout(d, tile(other, x), 0.5))
    assert not np.array_equal(again, got)


@pytest.mark.parametrize("max_value", ["scalar", "vector"])
def test_exponential(max_value: str) -> None:
    core = new_core("trn3")
    x, start = uniform(128, 300, low=-9, high=4), uniform(128, 1, low=0, high=3, seed=2)
    largest = x.max(1, keepdims=True) if max_value == "vector" else np.float32(4)
    subtracted = tile(core, largest) if max_value == "vector" else 4.0
    exact = np.exp(x.astype(np.float64) - largest)
    res = core.sbuf("float32", 128, 1)
    got = result(core, x.shape, lambda d: core.exponential(d, tile(core, x), subtracted, res, "reset_reduce"))
    np.testing.assert_allclose(got, exact, rtol=2e-6)
    np.testing.assert_allclose(res.read()[:, 0], exact.sum(1), rtol=1e-5)
    result(core, x.shape, lambda d: core.exponential(d, tile(core, x), subtracted, res, "reduce"), "bfloat16")
    np.testing.assert_allclose(res.read()[:, 0], 2 * exact.sum(1), rtol=1e-5)
    loaded = tile(core, start)
    core.exponential(core.sbuf("float32", *x.shape), tile(core, x), subtracted, res, "load_reduce", loaded)
    np.testing.assert_allclose(res.read()[:, 0], start[:, 0] + exact.sum(1), rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"\[exponential\] reduce_init goes with load_reduce"):
        core.exponential(core.sbuf("float32", *x.shape), tile(core, x), subtracted, res, "reduce", loaded)


def quantized(x: Array, largest: int) -> tuple[Array, Array]:
    """Scale codes [P / 8, F / 4], and values as they are after scaling, before the cast."""
    groups = np.abs(x.reshape(x.shape[0] // 8, 8, -1, 4)).max(axis=(1, 3))
    codes = np.floor(np.log2(groups)).astype(int) - (largest - 1) + 127
    scale = np.exp2(codes - 127.0)
    return codes, scale.repeat(8, 0).repeat(4, 1)


@pytest.mark.parametrize("dtype,largest,step", [("float8_e4m3fn_x4", 8, 2**-4), ("float8_e5m2_x4", 15, 2**-3)])
def test_microscaling(dtype: str, largest: int, step: float) -> None:
    core = new_core("trn3")
    rng = np.random.default_rng(0)
    tiles, exact = [], []
    for columns in (64, 96):
        source = tile(
            core, (rng.standard_normal((128, 4 * columns)) * 10.0 ** rng.integers(-3, 3, (128, 1))), "bfloat16"
        )
        packed, scales = core.sbuf(dtype, 128, columns), core.sbuf("uint8", 128, columns)
        core.quantize_mx(packed, source, scales)
        codes, scale = quantized(source.read(), largest)
        rows = [32 * q + g for q in range(4) for g in range(4)]
        np.testing.assert_array_equal(scales.read()[rows], codes)
        tiles += [packed, scales]
        exact.append((source.read().astype(np.float64), scale))
    psum = core.psum("float32", 64, 96)
    core.nc_matmul_mx(psum, tiles[0], tiles[2], tiles[1], tiles[3])
    (a, _), (b, _) = exact
    k = (128, -1, 4)
    product = np.einsum("kmv,knv->mn", a.reshape(k), b.reshape(k))
    size = np.einsum("kmv,knv->mn", np.abs(a).reshape(k), np.abs(b).reshape(k))
    assert np.all(np.abs(psum.read() - product) <= 2.1 * step * size + 1e-3)
    core.nc_matmul_mx(psum, tiles[0], tiles[2], tiles[1], tiles[3], accumulate=True)
    assert np.all(np.abs(psum.read() - 2 * product) <= 4.2 * step * size + 1e-3)
