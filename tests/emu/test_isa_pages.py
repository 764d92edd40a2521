"""What nki.isa's pages say of defaults, exactness and accumulator registers, one claim each."""

from typing import Any

import numpy as np
import pytest
from machine import new_core, result, tile, uniform

BIG = 2**24 + 1  # the first integer that fp32 has not
LOWEST = np.finfo(np.float32).min


def durations(core: Any, name: str) -> list[float]:
    columns = core._shared.timeline()
    wanted = columns["opcodes"].index(name)
    spans = zip(columns["opcode"], columns["start_seconds"], columns["end_seconds"], strict=True)
    return [float(end - start) for opcode, start, end in spans if opcode == wanted]


def test_the_first_product_overwrites_and_later_ones_accumulate() -> None:
    core = new_core()
    a, b = uniform(64, 16), uniform(64, 32, seed=1)
    psum = core.psum("float32", 16, 32)
    for half in (slice(0, 32), slice(32, 64)):
        core.nc_matmul(psum, tile(core, a[half]), tile(core, b[half]))
    np.testing.assert_allclose(psum.read(), a.T @ b, rtol=1e-5, atol=1e-5)
    core.nc_matmul(psum, tile(core, a), tile(core, b), accumulate=False)
    np.testing.assert_allclose(psum.read(), a.T @ b, rtol=1e-5, atol=1e-5)
    partly = core.psum("float32", 16, 32)
    core.nc_matmul(partly.part(16, 0, 16), tile(core, a), tile(core, b[:, :16]))
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] .* got one written in part\. Pass accumulate="):
        core.nc_matmul(partly, tile(core, a), tile(core, b))


def test_transpose_mode_is_exact_from_v3_on() -> None:
    x = uniform(32, 16)
    x[3, 4] = np.nan
    identity = np.eye(32, dtype=np.float32)
    core = new_core("trn2")
    psum = core.psum("float32", 16, 32)
    core.nc_matmul(psum, tile(core, x), tile(core, identity), is_transpose=True)
    np.testing.assert_array_equal(psum.read(), x.T)
    with pytest.raises(RuntimeError, match=r"the moving tile is the identity; got 2\.0"):
        core.nc_matmul(psum, tile(core, x), tile(core, 2 * identity), is_transpose=True)


def test_fp8_is_twice_as_fast_in_double_row_only() -> None:
    core = new_core("trn2")
    for dtype in ("bfloat16", "float8_e4m3"):
        x = tile(core, uniform(128, 128), dtype)
        core.nc_matmul(core.psum("float32", 128, 128), x, x)
    double = core.sbuf("float8_e4m3", 128, 256)
    double.write(uniform(128, 256))
    pairs = double.pattern(128, 0, [(128, 2), (1, 128)])
    core.nc_matmul(core.psum("float32", 128, 128), pairs, pairs, perf_mode="double_row")
    single, plain, doubled = durations(core, "nc_matmul")
    assert single == plain and doubled == pytest.approx(plain, rel=0.05)  # of twice the contraction


def test_integers_that_are_not_cast_stay_as_they_are() -> None:
    core = new_core("trn2")
    x, keep = tile(core, [[BIG, 1]], "int32"), tile(core, [[1, 0]], "uint32")
    y = tile(core, [[5, BIG]], "int32")
    core.tensor_copy_predicated(y, x, keep)
    np.testing.assert_array_equal(y.read(), [[BIG, BIG]])
    core.tensor_copy_predicated(y, BIG + 2, keep, reverse_pred=True)
    np.testing.assert_array_equal(y.read(), [[BIG, BIG + 2]])
    np.testing.assert_array_equal(result(core, (1, 2), lambda d: core.memset(d, BIG), "int32"), [[BIG, BIG]])
    got = result(core, (1, 2), lambda d: core.affine_select(d, [(1, 2)], 0, x, 7.0), "int32")
    np.testing.assert_array_equal(got, [[BIG, 7]])
    got = result(core, (1, 2), lambda d: core.tensor_copy(d, x, engine="scalar"), "int32")
    np.testing.assert_array_equal(got, [[BIG, 1]])


def test_int32_arithmetic_is_gpsimds_and_exact() -> None:
    core = new_core("trn2")
    x, y = tile(core, [[BIG, 2**31 - 1]], "int32"), tile(core, [[2, 1]], "int32")
    got = result(core, (1, 2), lambda d: core.tensor_tensor(d, x, y, "add"), "int32")
    np.testing.assert_array_equal(got, [[BIG + 2, -(2**31)]])
    rounded = result(core, (1, 2), lambda d: core.tensor_tensor(d, x, y, "add", engine="vector"), "int32")
    assert rounded[0, 0] != BIG + 2
    psum = result(core, (1, 2), lambda d: core.tensor_tensor(d, x, y, "add"), "int32", "psum")
    np.testing.assert_array_equal(psum, rounded)  # GpSimdE does not reach PSUM
    columns = core._shared.timeline()
    assert [columns["engines"][e] for e in columns["engine"]] == ["gpsimd", "vector", "vector"]


def test_range_select_reduces_before_the_cast() -> None:
    core = new_core("trn2")
    x = tile(core, uniform(4, 8))
    none, all_of = tile(core, np.full((4, 1), 100.0)), tile(core, np.full((4, 1), 200.0))
    found = core.sbuf("float32", 4, 1)
    for dtype, fill in (("float32", LOWEST), ("bfloat16", -np.inf)):
        got = result(
            core,
            (4, 8),
            lambda d: core.range_select(d, x, "greater_equal", "less", none, all_of, reduce_res=found),
            dtype,
        )
        np.testing.assert_array_equal(got, np.full((4, 8), fill))
        np.testing.assert_array_equal(found.read(), np.full((4, 1), LOWEST))


def test_registers_are_of_lanes() -> None:
    core = new_core("trn2")
    low, high = core.sbuf("float32", 32, 4), core.sbuf("float32", 32, 4, start_partition=32)
    low.write(np.ones((32, 4)))
    high.write(np.full((32, 4), 4.0))
    sums = core.sbuf("float32", 32, 1)
    core.activation(low, "copy", low, reduce_op="add", reduce_cmd="reset_reduce")
    core.activation(high, "copy", high, reduce_op="add", reduce_cmd="reset_reduce", reduce_res=sums)
    np.testing.assert_array_equal(sums.read(), np.full((32, 1), 16.0))
    core.activation(low, "copy", low, reduce_op="add", reduce_cmd="reduce", reduce_res=sums)
    np.testing.assert_array_equal(sums.read(), np.full((32, 1), 8.0))


def test_tensor_scalar_reduce_shares_the_registers() -> None:
    core = new_core("trn2")
    x, res = tile(core, uniform(4, 8)), core.sbuf("float32", 4, 1)
    sums = x.read().sum(1, keepdims=True)
    core.tensor_scalar_reduce(x, x, "multiply", 1.0, "add", res)
    np.testing.assert_allclose(res.read(), sums, rtol=1e-5)
    core.tensor_scalar_reduce(x, x, "multiply", 2.0, "add", res, reduce_cmd="reduce")
    np.testing.assert_allclose(res.read(), 3 * sums, rtol=1e-5)
    core.tensor_scalar_reduce(x, x, "abs", None, "maximum", res, reduce_cmd="load_reduce", reduce_init=100.0)
    np.testing.assert_array_equal(res.read(), np.full((4, 1), 100.0))
    with pytest.raises(RuntimeError, match=r"reduce_init goes with load_reduce; got load_reduce alone"):
        core.tensor_scalar_reduce(x, x, "add", 1.0, "add", res, reduce_cmd="load_reduce")


def test_what_was_put_in_is_not_matched_again() -> None:
    core = new_core("trn2")
    row = tile(core, [[5.0, 3.0, 5.0, 1.0, 0.0, 0.0, 0.0, 0.0, 9.0]])
    values = tile(core, [[5.0, 5.0, 3.0, -7.0, 1.0, 9.0, 8.0, 8.0]])
    where = core.sbuf("uint32", 1, 8)
    got = result(core, (1, 9), lambda d: core.nc_match_replace8(d, row, values, 3.0, where))
    np.testing.assert_array_equal(got, [[3.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(where.read(), [[2, 0, 1, 0, 3, 8, 0, 0]])


def test_dma_moves_between_shapes_and_pays_for_every_source() -> None:
    core = new_core("trn2")
    x = uniform(64, 8)
    got = result(core, (128, 4), lambda d: core.dma_copy(d, core.hbm(x)))
    np.testing.assert_array_equal(got, x.reshape(128, 4))
    many = [core.hbm(uniform(128, 2048, seed=i)) for i in range(8)]
    out = core.hbm(np.zeros((128, 2048), np.float32))
    core.dma_compute(out, many[:1], "add")
    core.dma_compute(out, many, "add")
    one, eight = durations(core, "dma_compute")
    assert eight > 4 * one


def test_hints_are_checked() -> None:
    core = new_core("trn1")
    x, y = core.hbm(uniform(4, 8)), core.sbuf("float32", 4, 8)
    core.dma_copy(y, x, dge_mode="swdge", engine="unknown")
    for words, hints in {
        "hwdge. the instruction exists from NeuronCore-v3": {"dge_mode": "hwdge"},
        "priority. the instruction exists from NeuronCore-v4": {"priority": 1},
        "an engine goes with dge_mode hwdge; got unknown": {"engine": "sync"},
        "dge_mode is unknown, none, swdge or hwdge; got fast": {"dge_mode": "fast"},
    }.items():
        with pytest.raises(RuntimeError, match=words):
            core.dma_copy(y, x, **hints)


def test_a_quantized_group_with_an_infinity() -> None:
    core = new_core("trn3")
    x = np.ones((32, 4), np.float32)
    x[0, 0] = np.inf
    packed, scale = core.sbuf("float8_e5m2_x4", 32, 1), core.sbuf("uint8", 32, 1)
    core.memset(packed, 0)
    core.quantize_mx(packed, tile(core, x, "bfloat16"), scale)
    assert scale.read()[0, 0] == 254
    for use in (
        lambda: core.tensor_scalar(packed, packed, "add", 1.0),
        lambda: core.activation(packed, "copy", packed),
        lambda: core.memset(packed, 1.0),
    ):
        with pytest.raises(RuntimeError, match="x4"):
            use()
