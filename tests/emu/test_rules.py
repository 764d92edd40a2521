"""Illegal operands raise errors that name the instruction, the rule, the value and what to do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from machine import new_core, tile

F, H, I32, U8, U16, U32 = "float32", "bfloat16", "int32", "uint8", "uint16", "uint32"


class Tiles:
    """Shorthand: s(dtype, partitions, elements) in SBUF, p(...) in PSUM; values are ones."""

    def __init__(self, target: str) -> None:
        self.core = new_core(target)

    def s(self, dtype: str = F, partitions: int = 32, elements: int = 8) -> Any:
        return tile(self.core, np.ones((partitions, elements)), dtype)

    def p(self, dtype: str = F, partitions: int = 32, elements: int = 8) -> Any:
        return tile(self.core, np.ones((partitions, elements)), dtype, "psum")


CASES: list[tuple[str, Callable[[Any, Tiles], Any]]] = [
    (
        r"\[tensor_tensor\] at most one of the two inputs lies in PSUM; got both\.",
        lambda c, t: c.tensor_tensor(t.s(), t.p(), t.p(), "add"),
    ),
    (r"\[tensor_tensor\] operands lie in SBUF; got psum\.", lambda c, t: c.tensor_tensor(t.p(), t.s(), t.s(), "power")),
    (
        r"\[tensor_tensor\] bitwise operations take integers; got float32\. Use integer tiles\.",
        lambda c, t: c.tensor_tensor(t.s(), t.s(), t.s(), "bitwise_or"),
    ),
    (
        r"\[tensor_scalar\] both operations are bitwise, or neither; got bitwise_or and add\.",
        lambda c, t: c.tensor_scalar(t.s(I32), t.s(I32), "bitwise_or", 1.0, op1="add", operand1=1.0),
    ),
    (
        r"\[tensor_scalar\] a per-partition operand has one element per partition; got 8, limit 1\.",
        lambda c, t: c.tensor_scalar(t.s(), t.s(), "add", t.s()),
    ),
    (
        r"\[tensor_scalar\] ScalarE multiplies, adds, or multiplies and adds; got maximum and none\.",
        lambda c, t: c.tensor_scalar(t.s(), t.s(), "maximum", 1.0, engine="scalar"),
    ),
    (
        r"\[scalar_tensor_tensor\] the operation is arithmetic; got bitwise_and\.",
        lambda c, t: c.scalar_tensor_tensor(t.s(), t.s(), "bitwise_and", 1.0, "add", t.s()),
    ),
    (
        r"\[tensor_tensor_scan\] at most one of the two inputs lies in PSUM",
        lambda c, t: c.tensor_tensor_scan(t.s(), t.p(), t.p(), 0.0, "add", "add"),
    ),
    (
        r"\[activation\] a vector scale is float32; got bfloat16\.",
        lambda c, t: c.activation(t.s(), "exp", t.s(), scale=t.s(H, 32, 1)),
    ),
    (
        r"\[activation\] a vector bias is not tfloat32; got tfloat32\.",
        lambda c, t: c.activation(t.s(), "exp", t.s(), bias=t.s("tfloat32", 32, 1)),
    ),
    (
        r"\[activation_reduce\] the operation is add; got maximum\.",
        lambda c, t: c.activation_reduce(t.s(), "exp", t.s(), "maximum", t.s(F, 32, 1)),
    ),
    (
        r"\[tensor_copy_predicated\] the predicate is an unsigned integer; got float32\.",
        lambda c, t: c.tensor_copy_predicated(t.s(), t.s(), t.s()),
    ),
    (
        r"\[tensor_copy_predicated\] source and result have one dtype; got bfloat16\.",
        lambda c, t: c.tensor_copy_predicated(t.s(), t.s(H), t.s(U8)),
    ),
    (
        r"\[tensor_reduce\] reduced axes are the innermost free ones; got axis 0\.",
        lambda c, t: c.tensor_reduce(t.s(F, 32, 1), "add", t.s(), 0),
    ),
    (
        r"\[tensor_reduce\] the result has the elements that are kept; got 2, limit 1\.",
        lambda c, t: c.tensor_reduce(t.s(F, 32, 2), "add", t.s(), 1),
    ),
    (
        r"\[tensor_scalar_reduce\] the reduction is add, .*; got divide\.",
        lambda c, t: c.tensor_scalar_reduce(t.s(), t.s(), "add", 1.0, "divide", t.s(F, 32, 1)),
    ),
    (
        r"\[tensor_scalar_cumulative\] 32-bit integers have no cumulative form; got int32\.",
        lambda c, t: c.tensor_scalar_cumulative(t.s(I32), t.s(I32), "add", "add", 1.0),
    ),
    (
        r"\[bn_stats\] a partition has few elements; got 513, limit 512\.",
        lambda c, t: c.bn_stats(t.s(F, 32, 6), t.s(F, 32, 513)),
    ),
    (
        r"\[bn_stats\] the result has six elements per partition; got 8, limit 6\.",
        lambda c, t: c.bn_stats(t.s(), t.s()),
    ),
    (
        r"\[bn_aggr\] a partition holds triples of bn_stats; got 8, limit a multiple of 3\.",
        lambda c, t: c.bn_aggr(t.s(F, 32, 2), t.s()),
    ),
    (r"\[max8\] a partition has at least eight elements; got 7\.", lambda c, t: c.max8(t.s(), t.s(F, 32, 7))),
    (
        r"\[max8\] a partition has few elements; got 16385, limit 16384\.",
        lambda c, t: c.max8(t.s(F, 2), t.s(F, 2, 16385)),
    ),
    (
        r"\[nc_find_index8\] indices are uint16 or uint32; got int32\.",
        lambda c, t: c.nc_find_index8(t.s(I32), t.s(), t.s()),
    ),
    (
        r"\[nc_match_replace8\] values and indices come in eights; got 9, limit 8\.",
        lambda c, t: c.nc_match_replace8(t.s(), t.s(), t.s(F, 32, 9), 0.0),
    ),
    (
        r"\[select_reduce\] the predicate is an integer of 8 or 16 bits; got int32\.",
        lambda c, t: c.select_reduce(t.s(), t.s(I32), t.s(), 0.0),
    ),
    (
        r"\[select_reduce\] the input is no 32-bit integer; got int32\.",
        lambda c, t: c.select_reduce(t.s(), t.s(U8), t.s(I32), 0.0),
    ),
    (
        r"\[range_select\] both operations compare: .*; got add\.",
        lambda c, t: c.range_select(t.s(), t.s(), "add", "less", t.s(F, 32, 1), t.s(F, 32, 1)),
    ),
    (
        r"\[range_select\] bounds are float32; got bfloat16\.",
        lambda c, t: c.range_select(t.s(), t.s(), "less", "less", t.s(F, 32, 1), t.s(H, 32, 1)),
    ),
    (
        r"\[range_select\] on_false_value is the lowest float32",
        lambda c, t: c.range_select(t.s(), t.s(), "less", "less", t.s(F, 32, 1), t.s(F, 32, 1), on_false_value=0.0),
    ),
    (r"\[dropout\] source and result have one dtype; got float32\.", lambda c, t: c.dropout(t.s(), t.s(I32), 0.5)),
    (
        r"\[nc_transpose\] VectorE transposes few columns; got 33, limit 32\.",
        lambda c, t: c.nc_transpose(t.s(F, 33, 32), t.s(F, 32, 33), "vector"),
    ),
    (
        r"\[nc_stream_shuffle\] a mask element names a partition of the quadrant, or is 255; got 32, limit 31\.",
        lambda c, t: c.nc_stream_shuffle(t.s(), t.s(), [32] * 32),
    ),
    (
        r"\[quantize_mx\] the instruction exists from NeuronCore-v4 on; got NeuronCore-v3\.",
        lambda c, t: c.quantize_mx(t.s(U8), t.s(H), t.s(U8)),
    ),
    (
        r"\[affine_select\] operands lie in SBUF; got psum\.",
        lambda c, t: c.affine_select(t.s(), [(1, 8)], 0, t.p(), 0.0),
    ),
    (
        r"\[affine_select\] cmp_op is a comparison; got add\.",
        lambda c, t: c.affine_select(t.s(), [(1, 8)], 0, t.s(), 0.0, "add"),
    ),
    (r"\[iota\] the index pattern has the result's shape; got 7, limit 8\.", lambda c, t: c.iota(t.s(), [(1, 7)], 0)),
    (r"\[rng\] random bits are integers; got float32\.", lambda c, t: c.rng(t.s())),
    (r"\[set_rng_seed\] a seed has 32 bits; got uint8\.", lambda c, t: c.set_rng_seed(t.s(U8, 1, 1))),
    (r"\[rng\] operands lie in SBUF; got psum\.", lambda c, t: c.rng(t.p(I32), "gpsimd")),
    (
        r"\[rand_set_state\] a partition has six words for each of the engine's generators; got 8, limit 6\.",
        lambda c, t: c.rand_set_state(t.s(U32)),
    ),
    (
        r"\[rand_get_state\] the instruction exists from NeuronCore-v4 on; got NeuronCore-v3\.",
        lambda c, t: c.rand_get_state(t.s(U32, 32, 24), "vector"),
    ),
    (
        r"\[rand2\] the instruction exists from NeuronCore-v4 on; got NeuronCore-v3\.",
        lambda c, t: c.rand2(t.s(), 0.0, 1.0),
    ),
    (
        r"\[exponential\] the instruction exists from NeuronCore-v4 on; got NeuronCore-v3\.",
        lambda c, t: c.exponential(t.s(), t.s()),
    ),
    (
        r"\[nonzero_with_count\] the result has an element more to a partition than the source; got 8, limit 9\.",
        lambda c, t: c.nonzero_with_count(t.s(I32), t.s()),
    ),
    (
        r"\[register_move\] a register holds 32 bits; got 2147483648\.",
        lambda c, t: c.register_move(0, 2**31),
    ),
    (
        r"\[local_gather\] indices are uint16; got int32\.",
        lambda c, t: c.local_gather(t.s(F, 32, 128), t.s(), t.s(I32)),
    ),
    (
        r"\[local_gather\] tiles have whole groups of 16 partitions; got 31, limit a multiple of 16\.",
        lambda c, t: c.local_gather(t.s(F, 31, 128), t.s(F, 31), t.s(U16, 31)),
    ),
    (
        r"\[local_gather\] an index stands for 1, 2, 4, 8, 16 or 32 elements; got 3\.",
        lambda c, t: c.local_gather(t.s(F, 32, 384), t.s(), t.s(U16), 3),
    ),
    (
        r"\[local_gather\] a core has few indices; got 4112, limit 4096\.",
        lambda c, t: c.local_gather(t.s(F, 32, 4112), t.s(), t.s(U16, 32, 257)),
    ),
    (r"\[nc_n_gather\] indices are uint32; got uint16\.", lambda c, t: c.nc_n_gather(t.s(), t.s(), t.s(U16))),
    (
        r"\[nc_n_gather\] an index lies within the row; got 8, limit 7\.",
        lambda c, t: c.nc_n_gather(t.s(), t.s(), tile(c, np.full((32, 8), 8), U32)),
    ),
    (
        r"\[tensor_partition_reduce\] the reduction is add, .*; got minimum\.",
        lambda c, t: c.tensor_partition_reduce(t.s(F, 1), "minimum", t.s()),
    ),
    (
        r"\[sequence_bounds\] tiles have one partition; got 32, limit 1\.",
        lambda c, t: c.sequence_bounds(t.s(F, 32, 16), t.s()),
    ),
    (r"\[dma_copy\] the operation is add; got maximum\.", lambda c, t: c.dma_copy(t.s(), t.s(), dst_rmw_op="maximum")),
    (
        r"\[dma_compute\] few tensors are summed; got 17, limit 16\.",
        lambda c, t: c.dma_compute(t.s(), [t.s()] * 17, "add", [1] * 17),
    ),
    (r"\[dma_compute\] scales are 1; got 2\.0", lambda c, t: c.dma_compute(t.s(), [t.s()], "add", [2])),
    (r"\[dma_transpose\] axes are \(1, 0\), ", lambda c, t: c.dma_transpose(t.s(), t.s(), [0, 1])),
    (
        r"\[dma_gather\] rows are picked in HBM; got sbuf\. Use local_gather on the chip\.",
        lambda c, t: c.dma_gather(t.s(), t.s(), t.s(I32)),
    ),
    (r"\[register_load\] a register holds one element; got 256, limit 1\.", lambda c, t: c.register_load(0, t.s())),
    (r"\[register\] an engine has few registers; got 64, limit 63\.", lambda c, t: c.register_value(64)),
    (r"\[register\] an engine has few registers; got -1, limit 0\.", lambda c, t: c.register_value(-1)),
    (r"\[semaphore_wait\] semaphores are numbered from 0; got -2, limit 0\.", lambda c, t: c.semaphore_wait(-2, 1)),
    (
        r"\[nc_stream_shuffle\] a mask element names .*; got -3, limit 0\.",
        lambda c, t: c.nc_stream_shuffle(t.s(), t.s(), [-3] * 32),
    ),
    (
        r"\[dma_gather\] an index names a row of the tensor; got -1, limit 0\.",
        lambda c, t: c.dma_gather(t.s(), c.hbm((10, 8)), tile(c, [[-1]] * 32, I32)),
    ),
    (r"\[dma_copy\] tiles lie in HBM or SBUF; got psum\.", lambda c, t: c.dma_copy(c.hbm((32, 8)), t.p())),
    (r"\[dma_copy\] tiles lie in HBM or SBUF; got psum\.", lambda c, t: c.dma_copy(t.p(), c.hbm((32, 8)))),
    (
        r"\[dma_gather\] tiles lie in HBM or SBUF; got psum\.",
        lambda c, t: c.dma_gather(t.p(), c.hbm((10, 8)), t.s(I32, 32, 1)),
    ),
    (r"\[iota\] operands lie in SBUF; got psum\.", lambda c, t: c.iota(t.p(I32), [(1, 8)], 0)),
    (
        r"\[dma_compute\] every source has a scale; got 1, limit 3\.",
        lambda c, t: c.dma_compute(t.s(), [t.s(), t.s(), t.s()], "add", [1]),
    ),
    (
        r"\[nc_matmul\] tile_position and tile_size are both given, .*; got 0 and 2 numbers\.",
        lambda c, t: c.nc_matmul(t.p(), t.s(), t.s(), perf_mode="double_row", tile_size=(32, 32)),
    ),
    (
        r"\[nc_matmul\] a tile starts within the array; got -32, limit 0\.",
        lambda c, t: c.nc_matmul(t.p(F, 8, 8), t.s(), t.s(), tile_position=(-32, 0), tile_size=(32, 32)),
    ),
    (
        r"\[tensor_copy\] operands lie in SBUF; got psum\. Copy them to SBUF first\.",
        lambda c, t: c.tensor_copy(t.s(), t.p(), engine="gpsimd"),
    ),
    (
        r"\[reciprocal\] a tile of 64 partitions starts at a multiple of 64; got 32\. Move the tile\.",
        lambda c, t: c.reciprocal(t.s(F, 64), t.s(F, 128).part(64, 0, 8, start_partition=32)),
    ),
    (
        r"\[reciprocal\] a tile of 65 partitions starts at a multiple of 128; got 32\.",
        lambda c, t: c.reciprocal(t.s(F, 65), t.s(F, 128).part(65, 0, 8, start_partition=32)),
    ),
]


@pytest.mark.parametrize("words,call", CASES, ids=[words[:40] for words, _ in CASES])
def test_refusals(words: str, call: Callable[[Any, Tiles], Any]) -> None:
    tiles = Tiles("trn2")
    with pytest.raises(RuntimeError, match=words):
        call(tiles.core, tiles)


def test_words_that_name_nothing() -> None:
    core = new_core()
    x = tile(core, np.ones((32, 8)))
    for words, call in [
        (r"\[tensor_tensor\] .*; got no_such\. Use one of .*add, ", lambda: core.tensor_tensor(x, x, x, "no_such")),
        (r"\[activation\] .*; got no_such\. Use one of .*exp", lambda: core.activation(x, "no_such", x)),
        (r"\[tensor_copy\] .*; got no_such\. Use one of tensor, ", lambda: core.tensor_copy(x, x, engine="no_such")),
        (r"\[nc_matmul\] none or double_row; got no_such\.", lambda: core.nc_matmul(x, x, x, perf_mode="no_such")),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_generations() -> None:
    tiles = Tiles("trn1")
    with pytest.raises(
        RuntimeError, match=r"\[range_select\] the instruction exists from NeuronCore-v3 on; got NeuronCore-v2"
    ):
        tiles.core.range_select(tiles.s(), tiles.s(), "less", "less", tiles.s(F, 32, 1), tiles.s(F, 32, 1))
    with pytest.raises(RuntimeError, match=r"\[tensor_copy on ScalarE\] the instruction exists from NeuronCore-v3 on"):
        tiles.core.tensor_copy(tiles.s(), tiles.s(), engine="scalar")


def test_start_partitions_are_where_values_land() -> None:
    core = new_core()
    whole = tile(core, np.zeros((128, 4)))
    core.memset(whole.part(32, 1, 2, start_partition=96), 5.0)
    expected = np.zeros((128, 4))
    expected[96:, 1:3] = 5
    np.testing.assert_array_equal(whole.read(), expected)


@pytest.mark.parametrize("memory", ["sbuf", "psum"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2"])
def test_strict_reads(memory: str, dtype: str) -> None:
    core = new_core(strict=True)
    fresh, out = getattr(core, memory)(dtype, 16, 8), core.sbuf(dtype, 16, 8)
    with pytest.raises(
        RuntimeError, match=r"\[reciprocal\] sources are written before they are read .*; got fresh memory in " + memory
    ):
        core.reciprocal(out, fresh)
    core.memset(fresh, 2.0)
    core.reciprocal(out, fresh)
    assert np.all(out.read() == 0.5)


def test_strict_reads_of_every_operand() -> None:
    core = new_core("trn3", strict=True)
    x, eight = tile(core, np.ones((32, 8))), core.sbuf("float32", 32, 8)
    bound, fresh_bound = tile(core, np.ones((32, 1))), core.sbuf("float32", 32, 1)
    fp8 = tile(core, np.ones((32, 16)), "float8_e5m2").pattern(32, 0, [(8, 2), (1, 8)])
    out = tile(core, np.ones((32, 8)))
    for name, call in {
        "nc_matmul": lambda: core.nc_matmul(core.psum("float32", 8, 8), x, x, accumulate=True),
        "nc_matmul double_row": lambda: core.nc_matmul(
            core.psum("float32", 8, 8), fp8, fp8, accumulate=True, perf_mode="double_row"
        ),
        "nc_find_index8": lambda: core.nc_find_index8(core.sbuf("uint32", 32, 8), x, eight),
        "nc_match_replace8": lambda: core.nc_match_replace8(out, x, eight, 0.0),
        "range_select": lambda: core.range_select(out, x, "less", "less", bound, fresh_bound),
    }.items():
        with pytest.raises(RuntimeError, match=rf"\[{name}\] sources are written before they are read"):
            call()
    core.nc_match_replace8(core.sbuf("float32", 32, 8), x, x, 0.0)  # a result may be fresh


def test_a_copy_on_gpsimd() -> None:
    core, values = new_core(), np.arange(32.0).reshape(4, 8)
    out = core.sbuf("bfloat16", 4, 8)
    core.tensor_copy(out, tile(core, values), engine="gpsimd")
    np.testing.assert_array_equal(out.read(), values)
    assert core.counts()["instructions"]["gpsimd"] == 1


def test_the_eight_largest_come_before_nan() -> None:
    core, rng = new_core(), np.random.default_rng(0)
    x = rng.permuted(np.tile(np.r_[np.arange(1.0, 10), np.inf, -np.inf, [np.nan] * 5], (64, 1)), axis=1)
    got = core.sbuf("float32", 64, 8)
    core.max8(got, tile(core, x))
    np.testing.assert_array_equal(got.read(), np.tile([np.inf, 9, 8, 7, 6, 5, 4, 3], (64, 1)))
    core.max8(got, tile(core, np.tile([np.nan, 2, np.nan, 1, np.nan, 3, np.nan, np.nan], (64, 1))))
    np.testing.assert_array_equal(got.read(), np.tile([3, 2, 1] + [np.nan] * 5, (64, 1)))


def test_a_shifted_copy_reads_before_it_writes() -> None:
    core = new_core()
    x = np.arange(8 * 100).reshape(8, 100).astype(np.float32)
    row = tile(core, x)
    core.tensor_copy(row.part(8, 1, 99), row.part(8, 0, 99))
    np.testing.assert_array_equal(row.read(), np.concatenate([x[:, :1], x[:, :-1]], 1))
    row = tile(core, x)
    core.tensor_scalar(row.part(8, 3, 97), row.part(8, 0, 97), "add", 1.0)
    np.testing.assert_array_equal(row.read()[:, 3:], x[:, :97] + 1)
