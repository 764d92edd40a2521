"""GpSimdE's, SyncE's and the DMA's instructions against numpy."""

from typing import Any

import numpy as np
import pytest
from machine import new_core, result, tile, uniform


@pytest.fixture
def core() -> Any:
    return new_core()


def test_iota_and_affine_select(core: Any) -> None:
    index = 5 + 7 * np.arange(16)[:, None] + (100 * np.arange(3)[:, None] + 2 * np.arange(4)).reshape(-1)
    pattern = [(100, 3), (2, 4)]
    np.testing.assert_array_equal(result(core, (16, 12), lambda d: core.iota(d, pattern, 5, 7), "int32"), index)
    np.testing.assert_array_equal(result(core, (16, 12), lambda d: core.iota(d, pattern, 5, 7)), index)
    x = uniform(16, 12)
    for op, holds in {"greater": index - 150 > 0, "less_equal": index - 150 <= 0, "equal": index == 150}.items():
        got = result(core, x.shape, lambda d, op=op: core.affine_select(d, pattern, 7, tile(core, x), -9.0, op, -145))
        np.testing.assert_array_equal(got, np.where(holds, x, np.float32(-9)))


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_local_gather(core: Any, width: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, index = rng.integers(0, 200, (32, 64)), rng.integers(0, 65 - width, (32, 3))
    num_valid = 45
    expected = []
    for group in range(2):
        flat = index[16 * group : 16 * group + 16].T.reshape(-1)[:num_valid]
        columns = (flat[:, None] + np.arange(width)).reshape(-1)  # runs begin at any element
        expected.append(x[16 * group : 16 * group + 16][:, columns])
    got = result(
        core,
        (32, num_valid * width),
        lambda d: core.local_gather(d, tile(core, x, dtype), tile(core, index, "uint16"), width, num_valid),
        dtype,
    )
    np.testing.assert_array_equal(got, np.concatenate(expected))


def test_gather_within_partitions(core: Any) -> None:
    x, index = uniform(128, 30), np.random.default_rng(0).integers(0, 30, (128, 50))
    got = result(core, (128, 50), lambda d: core.nc_n_gather(d, tile(core, x), tile(core, index, "uint32")))
    np.testing.assert_array_equal(got, np.take_along_axis(x, index, 1))


def test_across_partitions(core: Any) -> None:
    x, bits = uniform(100, 7), np.random.default_rng(0).integers(0, 255, (100, 7))
    got = result(core, (1, 7), lambda d: core.tensor_partition_reduce(d, "add", tile(core, x)))
    np.testing.assert_allclose(got[0], x.sum(0), rtol=1e-4, atol=1e-4)
    got = result(core, (1, 7), lambda d: core.tensor_partition_reduce(d, "maximum", tile(core, x)))
    np.testing.assert_array_equal(got[0], x.max(0))
    got = result(
        core, (1, 7), lambda d: core.tensor_partition_reduce(d, "bitwise_and", tile(core, bits, "uint8")), "uint8"
    )
    np.testing.assert_array_equal(got[0], np.bitwise_and.reduce(bits, 0))


def test_sequence_bounds(core: Any) -> None:
    ids = np.array([[1, 1, 2, 2, 2, 0, 0, 3]])
    got = result(core, (1, 16), lambda d: core.sequence_bounds(d, tile(core, ids, "int32")), "int32")
    np.testing.assert_array_equal(got.reshape(2, 8), [[0, 0, 2, 2, 2, 8, 8, 7], [2, 2, 5, 5, 5, -1, -1, 8]])


def test_random_bits(core: Any) -> None:
    core.set_rng_seed(tile(core, [[42]], "uint32"))
    first = result(core, (128, 100), core.rng, "uint32")
    second = result(core, (128, 100), core.rng, "uint32")
    core.set_rng_seed(tile(core, [[42]], "uint32"))
    np.testing.assert_array_equal(result(core, (128, 100), core.rng, "uint32"), first)
    assert not np.array_equal(first, second)
    assert abs(first.mean() / 2**32 - 0.5) < 0.01
    with pytest.raises(RuntimeError, match=r"\[rng\] an engine has the instruction; got scalar\."):
        core.rng(core.sbuf("uint32", 128, 8), "scalar")


def xorwow(states: Any, count: int) -> Any:
    """`count` numbers of each generator, states of [..., 6] words: Marsaglia's, in unbounded integers."""
    words = [states[..., i].astype(object) for i in range(6)]
    drawn = []
    for _ in range(count):
        x, y, z, w, v, d = words
        t = x ^ (x >> 2)
        last = (v ^ (v << 4) ^ t ^ (t << 1)) % 2**32
        words = [y, z, w, v, last, (d + 362437) % 2**32]
        drawn.append((last + words[5]) % 2**32)
    return np.stack(drawn, -1).astype(np.uint32), np.stack(words, -1).astype(np.uint32)


@pytest.mark.parametrize(("engine", "generators"), [("gpsimd", 1), ("vector", 4)])
def test_generators_are_xorwow(engine: str, generators: int) -> None:
    core = new_core("trn3")
    words = np.random.default_rng(0).integers(1, 2**32, (64, generators, 6), dtype=np.uint64).astype(np.uint32)
    core.rand_set_state(tile(core, words.reshape(64, -1), "uint32"), engine)
    got = result(core, (64, 8 * generators), lambda d: core.rng(d, engine), "uint32")
    drawn, after = xorwow(words, 8)  # generators take turns
    np.testing.assert_array_equal(got, drawn.transpose(0, 2, 1).reshape(64, -1))
    left = result(core, (64, 6 * generators), lambda d: core.rand_get_state(d, engine), "uint32")
    np.testing.assert_array_equal(left, after.reshape(64, -1))


def test_uniform_values() -> None:
    core = new_core("trn3")
    low, high = uniform(128, 1, low=-3, high=-1), uniform(128, 1, low=2, high=5, seed=1)
    got = result(core, (128, 2000), lambda d: core.rand2(d, tile(core, low), tile(core, high)))
    assert (got >= low).all() and (got <= high).all()
    unit = (got - low) / (high - low)
    np.testing.assert_allclose(unit.mean(1), 0.5, atol=0.03)
    np.testing.assert_allclose(unit.std(1), 12**-0.5, atol=0.02)
    assert np.unique(got[0]).size > 1990


def test_nonzero_with_count(core: Any) -> None:
    x = np.where(uniform(64, 40) > 0.5, uniform(64, 40, seed=1), 0).astype(np.float32)
    before = np.full((64, 41), 7)
    dst = tile(core, before, "int32")
    core.nonzero_with_count(dst, tile(core, x), index_offset=16, padding_val=-5)
    expected = before.copy()
    for p in range(0, 64, 16):
        (places,) = np.nonzero(x[p])
        expected[p] = [*(places + 16), *[-5] * (40 - places.size), places.size]
    np.testing.assert_array_equal(dst.read(), expected)


def test_registers_and_semaphores(core: Any) -> None:
    core.register_load(3, tile(core, [[-77]], "int32"))
    assert core.register_value(3) == -77
    core.register_move(4, 2**31 - 1)
    assert core.register_value(4) == 2**31 - 1
    np.testing.assert_array_equal(result(core, (1, 1), lambda d: core.register_store(d, 3), "int32"), [[-77]])
    core.semaphore_increment(5, 2)
    core.semaphore_wait(5, 2)
    with pytest.raises(RuntimeError, match=r"\[semaphore_wait\] an earlier instruction .*; got 3, limit 2\."):
        core.semaphore_wait(5, 3)


def test_dma_adds(core: Any) -> None:
    x, y = uniform(64, 33), uniform(64, 33, seed=1)
    hbm = y.copy()
    core.dma_copy(core.hbm(hbm), tile(core, x), dst_rmw_op="add")
    np.testing.assert_array_equal(hbm, x + y)
    core.dma_copy(core.hbm(hbm), tile(core, x, "bfloat16"))
    np.testing.assert_allclose(hbm, x, rtol=2**-8)
    got = result(
        core, x.shape, lambda d: core.dma_compute(d, [core.hbm(x), tile(core, y), core.hbm(y)], "add", [1, 1, 1])
    )
    np.testing.assert_array_equal(got, x + y + y)


def test_dma_transposes(core: Any) -> None:
    x = uniform(60, 120)
    np.testing.assert_array_equal(result(core, (120, 60), lambda d: core.dma_transpose(d, core.hbm(x))), x.T)
    np.testing.assert_array_equal(result(core, (120, 60), lambda d: core.dma_transpose(d, tile(core, x))), x.T)
    with pytest.raises(RuntimeError, match=r"\[dma_transpose\] the result lies in SBUF; got hbm"):
        core.dma_transpose(core.hbm(np.empty((120, 60), np.float32)), tile(core, x))
    cube = uniform(6, 35).reshape(6, 5, 7)
    got = result(core, (7, 30), lambda d: core.dma_transpose(d, core.hbm(cube)))
    np.testing.assert_array_equal(got, cube.transpose(2, 1, 0).reshape(7, 30))
    four = uniform(6, 70).reshape(6, 5, 7, 2)
    got = result(core, (2, 210), lambda d: core.dma_transpose(d, core.hbm(four), [3, 1, 2, 0]))
    np.testing.assert_array_equal(got, four.transpose(3, 1, 2, 0).reshape(2, 210))


@pytest.mark.parametrize("index_dtype", ["int32", "int64", "uint32"])
def test_rows_by_index(index_dtype: str) -> None:
    core = new_core(native_int64=index_dtype == "int64")
    table, index = uniform(50, 12), np.random.default_rng(0).integers(0, 50, (40, 3))
    picks = tile(core, index, index_dtype)
    got = result(core, (40, 36), lambda d: core.dma_gather(d, core.hbm(table), picks))
    np.testing.assert_array_equal(got, table[index].reshape(40, 36))
    rows, sums = uniform(40, 36, seed=1), table.copy()
    core.dma_scatter(core.hbm(sums), tile(core, rows), picks, "add")
    expected = table.copy()
    np.add.at(expected, index.reshape(-1), rows.reshape(-1, 12))
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)
    core.dma_scatter(core.hbm(sums), tile(core, np.ones((40, 36))), picks)
    assert np.all(sums[np.unique(index)] == 1)


def test_rows_out_of_bounds(core: Any) -> None:
    table, picks = uniform(5, 4), tile(core, [[2], [9]], "int32")
    dst = tile(core, np.zeros((2, 4)))
    core.dma_gather(dst, core.hbm(table), picks, "skip")
    np.testing.assert_array_equal(dst.read(), np.stack([table[2], np.zeros(4)]))
    with pytest.raises(RuntimeError, match=r"\[dma_gather\] an index names a row of the tensor; got 9, limit 4\."):
        core.dma_gather(dst, core.hbm(table), picks)
