"""What nki.isa's pages say since SDK 2.30: values against numpy, rules, and cycles by their formulas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from machine import new_core, result, tile, uniform


def cycles(core: Any, instruction: Callable[[], None], engine: str) -> int:
    before = core.counts()["busy_cycles"][engine]
    instruction()
    return int(core.counts()["busy_cycles"][engine] - before)


def test_places_of_values_that_stand_there_twice() -> None:
    """The pages' example: eights from 4 on."""
    core = new_core("trn2")
    row = tile(core, [[1.0, 2.0, 3.0, 4.0, *[8.0] * 7]])
    values = tile(core, [[3.0, *[8.0] * 7]])
    where = core.sbuf("uint32", 1, 8)
    core.nc_match_replace8(core.sbuf("float32", 1, 11), row, values, 0.0, where)
    np.testing.assert_array_equal(where.read(), [[2, 10, 9, 8, 7, 6, 5, 4]])
    found = result(core, (1, 8), lambda d: core.nc_find_index8(d, row, values), "uint32")
    np.testing.assert_array_equal(found, [[2, 4, 5, 6, 7, 8, 9, 10]])
    absent = tile(core, [[8.0, 8.0, 5.0, *[1.0] * 5]])
    found = result(core, (1, 8), lambda d: core.nc_find_index8(d, row, absent), "uint32")
    np.testing.assert_array_equal(found, [[4, 5, 2**32 - 1, 0, *[2**32 - 1] * 4]])


def test_absolute_extremes_keep_the_sign() -> None:
    core = new_core("trn3")
    x, y = tile(core, [[-5.0, 3.0, 1.0, -1.0]]), tile(core, [[3.0, -5.0, -1.0, 1.0]])
    got = result(core, (1, 4), lambda d: core.tensor_tensor(d, x, y, "abs_max"))
    np.testing.assert_array_equal(got, [[-5.0, -5.0, -1.0, 1.0]])
    got = result(core, (1, 4), lambda d: core.tensor_tensor(d, x, y, "abs_min"))
    np.testing.assert_array_equal(got, [[3.0, 3.0, -1.0, 1.0]])
    for op, expected in [("square", [25.0, 9.0, 1.0, 1.0]), ("relu", [0.0, 3.0, 1.0, 0.0])]:
        got = result(core, (1, 4), lambda d, op=op: core.tensor_scalar(d, x, op))
        np.testing.assert_array_equal(got, [expected])
    old = new_core("trn2")
    x = tile(old, [[-5.0, 3.0]])
    for op in ("abs_max", "abs_min", "square", "relu"):
        operand = None if op in ("square", "relu") else 1.0
        with pytest.raises(RuntimeError, match=f"tensor_scalar {op}"):
            old.tensor_scalar(x, x, op, operand)


PIPELINES = [
    ("multiply", "add", lambda x, a, b: x * a + b),
    ("multiply", "subtract", lambda x, a, b: x * a - b),
    ("multiply", "bypass", lambda x, a, b: x * a),
    ("add", None, lambda x, a, b: x + a),
    ("subtract", "bypass", lambda x, a, b: x - a),
    (None, None, lambda x, a, b: x),
]


@pytest.mark.parametrize(("op0", "op1", "oracle"), PIPELINES)
def test_activate2_stages(op0: str | None, op1: str | None, oracle: Any) -> None:
    core = new_core("trn3")
    values, a = uniform(128, 40), uniform(128, 1, seed=1)
    x, vector = tile(core, values), tile(core, a)
    got = result(core, (128, 40), lambda d: core.activate2(d, "tanh", x, vector, 0.25, op0, op1))
    np.testing.assert_allclose(got, np.tanh(oracle(values, a, np.float32(0.25))), rtol=2e-6, atol=1e-6)


def test_activate2_reversed_and_its_slope() -> None:
    core = new_core("trn3")
    values, slope = uniform(16, 8), uniform(16, 1, seed=2)
    x = tile(core, values)
    got = result(core, (16, 8), lambda d: core.activate2(d, "copy", x, 3.0, 0.0, "subtract", None, reverse0=True))
    np.testing.assert_array_equal(got, np.float32(3) - values)
    got = result(core, (16, 8), lambda d: core.activate2(d, "copy", x, 2.0, 1.0, "multiply", "subtract", reverse1=True))
    np.testing.assert_array_equal(got, np.float32(1) - values * np.float32(2))
    slopes = tile(core, slope)
    got = result(core, (16, 8), lambda d: core.activate2(d, "prelu", x, 0.0, 0.0, None, None, relu_param=slopes))
    np.testing.assert_array_equal(got, np.where(values < 0, slope * values, values))


@pytest.mark.parametrize(
    ("reduce_op", "oracle"),
    [
        ("add", lambda x: x.sum(1)),
        ("maximum", lambda x: x.max(1)),
        ("minimum", lambda x: x.min(1)),
        ("abs_max", lambda x: x[np.arange(len(x)), np.abs(x).argmax(1)]),
        ("abs_min", lambda x: x[np.arange(len(x)), np.abs(x).argmin(1)]),
    ],
)
def test_activate2_reduces_across_tiles(reduce_op: str, oracle: Any) -> None:
    core = new_core("trn3")
    first, second = uniform(128, 33), uniform(128, 70, seed=5)
    x, y, res = tile(core, first), tile(core, second), core.sbuf("float32", 128, 1)
    core.activate2(x, "copy", x, 0.0, 0.0, None, None, reduce_op=reduce_op, reduce_cmd="reset_reduce")
    core.activate2(y, "copy", y, 0.0, 0.0, None, None, reduce_op=reduce_op, reduce_cmd="reduce", reduce_res=res)
    expected = oracle(np.concatenate([first, second], 1))[:, None]
    np.testing.assert_allclose(res.read(), expected, rtol=1e-5, atol=1e-5)


def test_activate2_rules() -> None:
    core = new_core("trn3")
    x = tile(core, uniform(16, 8))
    vector, half = tile(core, uniform(16, 1)), tile(core, uniform(16, 1), "bfloat16")
    psum, res = core.psum("float32", 16, 8), core.sbuf("float32", 16, 1)
    for error, how in [
        ("op0 and op1 are", {"op0": "add", "op1": "add"}),
        ("op0 and op1 are", {"op0": "bypass", "op1": "add"}),
        ("an operation is reversed", {"reverse1": True}),
        ("reduce_op is", {"reduce_op": "multiply", "reduce_cmd": "reset_reduce"}),
        ("reduce_cmd is idle", {"reduce_cmd": "load_reduce"}),
        ("imm0 and imm1 have one dtype", {"imm0": vector, "imm1": half, "op1": "add"}),
        ("ScalarE alone reduces", {"engine": "gpsimd", "reduce_res": res}),
        ("operands lie in SBUF", {"engine": "gpsimd", "dst": psum}),
        ("an engine has the instruction", {"engine": "vector"}),
    ]:
        call = {"dst": x, "op": "copy", "data": x, "imm0": 1.0, "imm1": 1.0, "op0": "multiply", "op1": None, **how}
        with pytest.raises((RuntimeError, ValueError), match=error):
            core.activate2(**call)
    old = new_core("trn2")
    with pytest.raises(RuntimeError, match="activate2"):
        old.activate2(tile(old, uniform(4, 4)), "copy", tile(old, uniform(4, 4)), 0.0, 0.0, None, None)


def test_functions_on_gpsimd_from_v4_on() -> None:
    core, values = new_core("trn3"), uniform(32, 64)
    x = tile(core, values)
    got = result(core, (32, 64), lambda d: core.activation(d, "exp", x, engine="gpsimd"))
    np.testing.assert_allclose(got, np.exp(values), rtol=2e-6)
    assert core.counts()["instructions"]["gpsimd"] == 1
    assert cycles(core, lambda: core.activation(x, "exp", x, engine="gpsimd"), "gpsimd") == 150 + 64
    old = new_core("trn2")
    with pytest.raises(RuntimeError, match="activation on GpSimdE"):
        old.activation(tile(old, values), "exp", tile(old, values), engine="gpsimd")


def test_scalar_engine_has_every_pair_from_v4_on() -> None:
    values = uniform(8, 16)
    core = new_core("trn3")
    x = tile(core, values)
    got = result(
        core, (8, 16), lambda d: core.tensor_scalar(d, x, "subtract", 1.0, op1="maximum", operand1=0.0, engine="scalar")
    )
    np.testing.assert_array_equal(got, np.maximum(values - np.float32(1), 0))
    old = new_core("trn2")
    x = tile(old, values)
    with pytest.raises(RuntimeError, match="ScalarE multiplies, adds"):
        old.tensor_scalar(x, x, "subtract", 1.0, engine="scalar")


def test_sums_may_stay_in_the_registers() -> None:
    core = new_core("trn2")
    values = uniform(8, 16)
    x, res = tile(core, values), core.sbuf("float32", 8, 1)
    core.activation_reduce(core.sbuf("float32", 8, 16), "copy", x, "add")
    core.activation(x, "copy", x, reduce_op="add", reduce_cmd="reduce", reduce_res=res)
    np.testing.assert_allclose(res.read(), 2 * values.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)
    core.tensor_scalar_reduce(x, x, "multiply", 1.0, "add")
    core.tensor_scalar_reduce(x, x, "multiply", 1.0, "add", res, reduce_cmd="reduce", reduce_res_negate=True)
    np.testing.assert_allclose(res.read(), -2 * values.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)
    core.tensor_scalar_reduce(x, x, "multiply", 1.0, "add", res, reduce_cmd="reduce")
    np.testing.assert_allclose(res.read(), 3 * values.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_moving_tiles_as_wide_as_psum_on_v4() -> None:
    core = new_core("trn3")
    n = 1024
    stationary, moving = core.sbuf("float8_e4m3", 128, 256), core.sbuf("float8_e4m3", 128, 2 * n)
    weights, inputs = uniform(128, 256), uniform(128, 2 * n, seed=1)
    stationary.write(weights)
    moving.write(inputs)
    dst = core.psum("float32", 128, n)
    pattern = lambda t, columns: t.pattern(128, 0, [(columns, 2), (1, columns)])  # noqa: E731
    core.nc_matmul(dst, pattern(stationary, 128), pattern(moving, n), perf_mode="double_row")
    a, b = stationary.read().reshape(128, 2, 128), moving.read().reshape(128, 2, n)
    np.testing.assert_allclose(dst.read(), np.einsum("ktm,ktn->mn", a, b), rtol=1e-4, atol=1e-3)
    old = new_core("trn2")
    small, wide = old.sbuf("float8_e4m3", 128, 256), old.sbuf("float8_e4m3", 128, 2 * n)
    for operand in (small, wide):
        operand.write(np.zeros(operand.shape))
    with pytest.raises(RuntimeError, match="the moving tile has few columns"):
        old.nc_matmul(old.psum("float32", 128, 512), pattern(small, 128), pattern(wide, n), perf_mode="double_row")


def test_rules_of_dtypes() -> None:
    core = new_core("trn3")
    words, small = tile(core, [[1, 2]], "int32"), tile(core, [[1, 2]], "uint8")
    x, half = tile(core, [[1.0, 2.0]]), tile(core, [[1.0, 2.0]], "bfloat16")
    keep = tile(core, [[1, 0]], "uint8")
    for error, call in [
        ("an integer tile is set to an integer", lambda: core.memset(words, 2.5)),
        ("one dtype", lambda: core.dropout(half, x, 0.5)),
        ("the result is not uint32", lambda: core.exponential(core.sbuf("uint32", 1, 2), x)),
        ("GpSimdE has rsqrt only", lambda: core.tensor_scalar(x, x, "add", 1.0, engine="gpsimd")),
        ("reduce_op is add, multiply", lambda: core.tensor_scalar_reduce(x, x, "add", 1.0, "subtract")),
        ("reverse_pred goes with a scalar", lambda: core.tensor_copy_predicated(x, x, keep, reverse_pred=True)),
        ("hwdge keeps the dtype", lambda: core.dma_copy(half, x, dge_mode="hwdge")),
        ("elements have 2 or 4 bytes", lambda: core.dma_transpose(core.sbuf("uint8", 2, 1), small)),
    ]:
        with pytest.raises(RuntimeError, match=error):
            call()
    core.dma_copy(x, tile(core, [[3.0, 4.0]]), priority=2, dge_mode="none")


@pytest.mark.parametrize(("target", "speed_up"), [("trn1", 1), ("trn2", 1), ("trn3", 2)])
def test_the_scalar_engines_fast_mode_is_of_copies(target: str, speed_up: int) -> None:
    """trainium3_arch.rst names tensor_scalar and tensor_copy; the sums' reading out is an instruction of its own."""
    core = new_core(target)
    x, y, res = core.sbuf("bfloat16", 128, 512), core.sbuf("bfloat16", 128, 512), core.sbuf("float32", 128, 1)
    x.write(uniform(128, 512))
    assert cycles(core, lambda: core.activation(y, "exp", x), "scalar") == 512
    assert cycles(core, lambda: core.activation_reduce(y, "exp", x, "add", res), "scalar") == 512 + 64
    reduces = {"reduce_op": "add", "reduce_cmd": "reset_reduce"}
    assert cycles(core, lambda: core.activation(y, "exp", x, reduce_res=res, **reduces), "scalar") == 512 + 64
    assert cycles(core, lambda: core.activation(y, "exp", x, **reduces), "scalar") == 512
    scaled = cycles(core, lambda: core.tensor_scalar(y, x, "multiply", 2.0, engine="scalar"), "scalar")
    assert scaled == 512 // speed_up


def test_the_vector_engines_fast_modes() -> None:
    """trainium2_arch.rst: fourfold from SBUF to SBUF with a contiguous innermost dimension; twofold where that fails,
    or where one end lies in PSUM; none where both do, or both conditions fail."""
    core = new_core("trn2")
    n = 512
    x, y = core.sbuf("bfloat16", 128, 2 * n), core.sbuf("bfloat16", 128, 2 * n)
    x.write(uniform(128, 2 * n))
    p, q = core.psum("bfloat16", 128, n), core.psum("bfloat16", 128, n)
    dense = lambda t: t.part(128, 0, n)  # noqa: E731
    rows = lambda t: t.pattern(128, 0, [(512, 2), (1, 256)])  # noqa: E731
    spread = lambda t: t.pattern(128, 0, [(2, n)])  # noqa: E731

    def copied(dst: Any, src: Any) -> int:
        return cycles(core, lambda: core.tensor_copy(dst, src), "vector")

    assert copied(dense(y), dense(x)) == copied(rows(y), rows(x)) == n // 4
    assert copied(spread(y), dense(x)) == n // 2
    assert copied(p, dense(x)) == copied(dense(y), p) == n // 2
    assert copied(p, spread(x)) == copied(q, p) == n

    def added(dst: Any, a: Any, b: Any) -> int:
        return cycles(core, lambda: core.tensor_tensor(dst, a, b, "add"), "vector")

    assert added(dense(y), dense(x), dense(x)) == added(q, dense(x), dense(x)) == n // 2
    assert added(dense(y), dense(x), p) == n


def test_transposes_cost_one_pass() -> None:
    """is_transpose and nc_transpose are one instruction: max(P, min(64, F))."""
    core = new_core("trn2")
    x, identity = core.sbuf("float32", 128, 128), core.sbuf("float32", 128, 128)
    x.write(uniform(128, 128))
    identity.write(np.eye(128))
    dst = core.psum("float32", 128, 128)
    by_mode = cycles(core, lambda: core.nc_matmul(dst, x, identity, is_transpose=True), "tensor")
    assert by_mode == cycles(core, lambda: core.nc_transpose(dst, x), "tensor") == 128
    np.testing.assert_array_equal(dst.read(), x.read().T)


def dma_seconds(core: Any, instruction: Callable[[], None]) -> float:
    instruction()
    timeline = core.timeline()
    event = timeline[len(timeline) - 1]
    return event.end_seconds - event.start_seconds


def test_transposing_transfers_and_their_rate() -> None:
    """Up to 90 % of a copy's throughput from HBM, 50 % from SBUF (trainium2_arch.rst)."""
    core = new_core("trn2")
    source = core.hbm(uniform(128, 128))
    x, y = core.sbuf("float32", 128, 128), core.sbuf("float32", 128, 128)
    from_hbm = dma_seconds(core, lambda: core.dma_copy(x, source))
    on_chip = dma_seconds(core, lambda: core.dma_copy(y, x))
    assert dma_seconds(core, lambda: core.dma_transpose(y, source)) == pytest.approx(from_hbm / 0.9)
    assert dma_seconds(core, lambda: core.dma_transpose(y, x)) == pytest.approx(on_chip / 0.5)


@pytest.mark.parametrize(("target", "passes"), [("trn2", 2), ("trn3", 1)])
def test_sbuf_adds_by_itself_from_v4_on(target: str, passes: int) -> None:
    core = new_core(target)
    source, x = core.hbm(uniform(128, 512)), tile(core, uniform(128, 512))
    copied = dma_seconds(core, lambda: core.dma_copy(x, source))
    assert dma_seconds(core, lambda: core.dma_copy(x, source, dst_rmw_op="add")) == pytest.approx(passes * copied)


def test_gathers_of_512_and_vector_random_numbers() -> None:
    core = new_core("trn2")
    data, indices = tile(core, uniform(128, 64)), core.sbuf("uint32", 128, 1100)
    indices.write(np.zeros((128, 1100)))
    out = core.sbuf("float32", 128, 1100)
    assert cycles(core, lambda: core.nc_n_gather(out, data, indices), "gpsimd") == 3 * 150 + 1100
    words = core.sbuf("uint32", 128, 512)
    assert cycles(core, lambda: core.rng(words), "vector") == 512
    assert cycles(core, lambda: core.rng(words, engine="gpsimd"), "gpsimd") == 150 + 512
