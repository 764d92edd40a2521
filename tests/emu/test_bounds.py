"""What a tile may address: within its buffer, its memory and its core, whatever the sizes, starts and strides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from machine import new_core, tile

CASES: list[tuple[str, Callable[[Any], Any]]] = [
    (
        "must start within its buffer; got -8191, limit 0",
        lambda c: c.sbuf("float32", 4, 8192).pattern(1, 0, [(-1, 8192)]),
    ),
    ("a tile starts at a partition; got -128, limit 0", lambda c: c.sbuf("float32", 128, 64).part(128, 0, 64, -128)),
    ("a tile starts at a partition; got -4096, limit 0", lambda c: c.psum("float32", 128, 512).part(32, 0, 512, -4096)),
    ("every dimension of a tile has elements; got -4, limit 1", lambda c: c.sbuf("float32", 4, -4)),
    ("a tile has partitions; got -1, limit 1", lambda c: c.sbuf("float32", -1, 4)),
    ("a tile has partitions; got 0, limit 1", lambda c: c.psum("float32", 0, 4)),
    ("must end within its buffer; got 288230376151711745, limit 16", lambda c: strided(c, (1 << 60, 16))),
    ("must start within its buffer", lambda c: strided(c, (-(1 << 60), 16))),
    ("must start within its buffer; got -1, limit 0", lambda c: strided(c, (3, 4), (-1, 2))),
    ("must end within its buffer; got 17, limit 16", lambda c: strided(c, (3, 4), (-1, 2), start=7)),
    ("a partition of a tile has 32-bit indices", lambda c: strided(c, (0, 1 << 40), (0, 1 << 40))),
    ("every dimension has elements; got 0, limit 1", lambda c: strided(c, (1, 0))),
    ("every dimension has elements; got -2, limit 1", lambda c: strided(c, (1, -2), (1, -4))),
    ("a tile has at most 128 partitions", lambda c: c.sbuf("float32", (1 << 63) - 1, 4, start_partition=(1 << 63) - 1)),
    ("must end within its buffer", lambda c: c.sbuf("float32", 4, 16).part(4, (1 << 63) - 1, 16)),
    (
        "every dimension has elements; got 0",
        lambda c: c.tensor_reduce(strided(c), "add", strided(c, (1, 0), (1, 4)), axis=2),
    ),
    (
        "every dimension has elements; got 0",
        lambda c: c.tensor_reduce(c.sbuf("float32", 4, 4).part(4, 0, 0), "add", strided(c), 1),
    ),
    ("every dimension has elements; got -2", lambda c: c.iota(c.sbuf("int32", 4, 8), [(1, -2), (1, -4)], 0)),
]


def strided(core: Any, *pairs: tuple[int, int], start: int = 0) -> Any:
    return core.sbuf("float32", 4, 16).pattern(4, start, list(pairs))


@pytest.mark.parametrize("message,make", CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_a_tile_lies_within_its_buffer(message: str, make: Callable[[Any], Any], target: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        make(new_core(target, strict=True))


@pytest.mark.parametrize("memory", ["sbuf", "psum"])
@pytest.mark.parametrize("elements", [1 << 61, 1 << 62, (1 << 62) + 4, (1 << 63) - 1])
def test_a_size_past_every_capacity_does_not_wrap(memory: str, elements: int) -> None:
    with pytest.raises(MemoryError, match=rf"\[{memory}\] a tile must fit beside the others"):
        getattr(new_core(), memory)("float32", 4, elements)


def test_a_reversed_pattern_that_stays_inside() -> None:
    core = new_core()
    x = tile(core, np.arange(32.0).reshape(2, 16))
    np.testing.assert_array_equal(x.pattern(2, 15, [(-1, 16)]).read(), x.read()[:, ::-1])
    reversed_pairs = x.pattern(2, 1, [(2, 8), (-1, 2)])
    np.testing.assert_array_equal(reversed_pairs.read(), x.read().reshape(2, 8, 2)[:, :, ::-1].reshape(2, 16))


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_a_product_lies_where_its_pattern_says(target: str) -> None:
    """Columns in another order than memory's, and from the last one backwards, in the middle of a bank."""
    core = new_core(target)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 4)).astype(np.float32), rng.standard_normal((8, 16)).astype(np.float32)
    psum = core.psum("float32", 4, 16)
    core.nc_matmul(psum.pattern(4, 0, [(1, 4), (4, 4)]), tile(core, a), tile(core, b))
    expected = (a.T @ b).reshape(4, 4, 4).transpose(0, 2, 1).reshape(4, 16)
    np.testing.assert_allclose(psum.read(), expected, rtol=1e-5, atol=1e-5)
    core.nc_matmul(psum.pattern(4, 15, [(-1, 16)]), tile(core, a), tile(core, b), accumulate=False)
    np.testing.assert_allclose(psum.read(), (a.T @ b)[:, ::-1], rtol=1e-5, atol=1e-5)


def test_a_reversed_product_does_not_cross_banks() -> None:
    core = new_core("trn2")
    ones, psum = tile(core, np.ones((8, 4))), core.psum("float32", 4, 1024)
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] the result lies in one PSUM bank; got -8, limit 0"):
        core.nc_matmul(psum.pattern(4, 513, [(-1, 4)]), ones, ones)


def test_parts_are_of_the_tile_that_is_cut() -> None:
    core = new_core()
    x = core.sbuf("float32", 8, 16)
    x.write(np.arange(128).reshape(8, 16))
    half = x.part(4, 8, 8, start_partition=4)
    np.testing.assert_array_equal(half.read(), x.read()[4:, 8:])
    np.testing.assert_array_equal(half.part(2, 1, 3, start_partition=2).read(), x.read()[6:8, 9:12])
    np.testing.assert_array_equal(half.pattern(1, 7, [(-2, 4)]).read(), x.read()[4:5, 15:8:-2])
    for cut in (
        lambda: half.part(4, 1, 8),
        lambda: half.part(4, -1, 4),
        lambda: half.part(5, 0, 8),
        lambda: half.part(2, 0, 8, start_partition=3),
        lambda: x.part(32, 0, 16),
        lambda: x.part(8, 0, 16, start_partition=8),
    ):
        with pytest.raises(RuntimeError, match=r"its buffer|a tile has at most"):
            cut()


@pytest.mark.parametrize(("target", "most"), [("trn1", 4096), ("trn2", 4096), ("trn3", 8192)])
def test_a_partition_is_short(target: str, most: int) -> None:
    """64 Ki elements of SBUF, 4 Ki of PSUM (NeuronCore-v4: all of it); repeated elements count."""
    core = new_core(target)
    one = core.sbuf("int8", 4, 1)
    one.write(np.ones((4, 1)))
    core.tensor_reduce(core.sbuf("float32", 4, 1), "add", one.pattern(4, 0, [(0, 65536)]), axis=1)
    with pytest.raises(RuntimeError, match=r"\[tensor_reduce\] .* is short; got 65537, limit 65536"):
        core.tensor_reduce(core.sbuf("float32", 4, 1), "add", one.pattern(4, 0, [(0, 65537)]), axis=1)
    psum = core.psum("bfloat16", 4, 8192)
    core.memset(psum.part(4, 0, most), 1.0)
    if most < 8192:
        with pytest.raises(RuntimeError, match=r"\[memset\] .* in PSUM is short; got 4097, limit 4096"):
            core.memset(psum.part(4, 0, most + 1), 1.0)


def test_hbm_is_as_large_as_the_device() -> None:
    core = new_core("trn2")
    with pytest.raises(MemoryError, match=r"\[hbm\] arrays fit in the device's memory; got 26843545600 bytes"):
        core.hbm((25 * 1024, 262144))
    kept = core.hbm((1024, 1024))
    with pytest.raises(MemoryError, match=r"beside 4194304, limit 25765609472"):
        core.hbm((24 * 1024, 262144))
    assert kept.shape == (1024, 1024)
