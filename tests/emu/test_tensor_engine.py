"""TensorE's formats, modes and generations against numpy."""

from typing import Any

import numpy as np
import pytest
from machine import Array, new_core, tile, uniform


def product(
    target: str, dtype: str, m: int = 100, n: int = 130, k: int = 70, out: str = "float32"
) -> tuple[Array, Array]:
    core = new_core(target)
    a, b = tile(core, uniform(k, m), dtype), tile(core, uniform(k, n, seed=1), dtype)
    psum = core.psum(out, m, n)
    core.nc_matmul(psum, a, b)
    core.nc_matmul(psum, a, b, accumulate=True)
    return psum.read(), 2 * (a.read().astype(np.float64).T @ b.read().astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3", "float8_e3m4"])
@pytest.mark.parametrize("shape", [(100, 130, 70), (128, 512, 128), (1, 1, 1), (7, 33, 128)])
def test_formats(dtype: str, shape: tuple[int, int, int]) -> None:
    got, expected = product("trn2", dtype, *shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_newest_generation() -> None:
    got, expected = product("trn3", "float8_e4m3fn")
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    got, expected = product("trn3", "bfloat16", out="bfloat16")
    np.testing.assert_allclose(got, expected, rtol=2**-7, atol=0.1)
    core = new_core("trn3")
    a, b = tile(core, uniform(64, 8), "bfloat16"), tile(core, uniform(64, 2048, seed=1), "bfloat16")
    psum = core.psum("float32", 8, 2048)
    core.nc_matmul(psum, a, b)
    np.testing.assert_allclose(psum.read(), a.read().T @ b.read(), rtol=1e-4, atol=1e-4)


def test_double_row() -> None:
    core = new_core("trn2")
    a, b = tile(core, uniform(128, 2 * 60), "float8_e5m2"), tile(core, uniform(128, 2 * 200, seed=1), "float8_e4m3")
    psum = core.psum("float32", 60, 200)
    core.nc_matmul(
        psum, a.pattern(128, 0, [(60, 2), (1, 60)]), b.pattern(128, 0, [(200, 2), (1, 200)]), perf_mode="double_row"
    )
    expected = np.einsum("krm,krn->mn", a.read().reshape(128, 2, 60), b.read().reshape(128, 2, 200))
    np.testing.assert_allclose(psum.read(), expected, rtol=1e-4, atol=1e-3)


def test_strided_operands() -> None:
    core = new_core("trn2")
    a, b = tile(core, uniform(64, 40)), tile(core, uniform(64, 90, seed=1))
    psum = core.psum("float32", 20, 60)
    core.nc_matmul(psum.pattern(20, 0, [(2, 30)]), a.pattern(64, 0, [(2, 20)]), b.pattern(64, 1, [(3, 30)]))
    expected = a.read()[:, ::2].T @ b.read()[:, 1::3]
    np.testing.assert_allclose(psum.read()[:, ::2], expected, rtol=1e-4, atol=1e-4)


def test_transpose_spreads_nan_before_v3() -> None:
    x = uniform(4, 3)
    x[1, 2] = np.nan
    for target, spreads in (("trn1", True), ("trn2", False)):
        core = new_core(target)
        psum = core.psum("float32", 3, 4)
        core.nc_transpose(psum, tile(core, x))
        expected = x.T.copy()
        if spreads:
            expected[2] = np.nan
        np.testing.assert_array_equal(psum.read(), expected)


def rejects(words: str, call: Any) -> None:
    with pytest.raises(RuntimeError, match=words):
        call()


def test_rules() -> None:
    trn1, trn2, trn3 = (new_core(name) for name in ("trn1", "trn2", "trn3"))

    def matmul(core: Any, a: str, b: str, m: int = 8, n: int = 8, k: int = 32, **options: Any) -> Any:
        psum = core.psum("float32", 8, 8)
        return lambda: core.nc_matmul(psum, core.sbuf(a, k, m), core.sbuf(b, k, n), **options)

    rejects(
        r"float8_e4m3fn exists from NeuronCore-v4 on; got NeuronCore-v3\. Use float8_e4m3",
        matmul(trn2, "float8_e4m3fn", "bfloat16"),
    )
    rejects(
        r"the two e4m3 formats do not pair; got float8_e4m3fn and float8_e4m3\.",
        matmul(trn3, "float8_e4m3fn", "float8_e4m3"),
    )
    rejects(
        r"float32 and tfloat32 pair only with each other; got float32 and bfloat16\.",
        matmul(trn2, "float32", "bfloat16"),
    )
    rejects(
        r"\[nc_matmul double_row\] the instruction exists from NeuronCore-v3 on; got NeuronCore-v2",
        matmul(trn1, "float8_e5m2", "float8_e5m2", perf_mode="double_row"),
    )
    rejects(
        r"both tiles are float8_e4m3 or float8_e5m2; got bfloat16",
        matmul(trn2, "bfloat16", "bfloat16", perf_mode="double_row"),
    )
    rejects(
        r"the first free dimension holds the two rows; got 0, limit 2\.",
        matmul(trn2, "float8_e5m2", "float8_e5m2", perf_mode="double_row"),
    )
    rejects(
        r"K fits the array's rows; got 128, limit 64\.",
        matmul(trn2, "bfloat16", "bfloat16", k=128, tile_position=(0, 0), tile_size=(64, 128)),
    )
    rejects(
        r"a tile starts at a multiple of its size; got 16, limit a multiple of 32\.",
        matmul(trn2, "bfloat16", "bfloat16", tile_size=(32, 32), tile_position=(16, 0)),
    )
    rejects(
        r"the array splits into tiles of 32 .*; got 32\.",
        matmul(trn1, "bfloat16", "bfloat16", tile_position=(0, 0), tile_size=(32, 128)),
    )
    rejects(
        r"\[nc_matmul_mx\] the instruction exists from NeuronCore-v4 on",
        lambda: trn2.nc_matmul_mx(*[trn2.sbuf("uint8", 32, 8)] * 5),
    )
    packed, scale = trn3.sbuf("float8_e5m2_x4", 32, 7), trn3.sbuf("uint8", 4, 7)
    rejects(
        r"the stationary tile has an even number of columns; got 7, limit a multiple of 2\.",
        lambda: trn3.nc_matmul_mx(trn3.psum("float32", 7, 7), packed, packed, scale, scale),
    )


def test_fp4_values() -> None:
    core = new_core("trn3")
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = np.random.default_rng(0).integers(0, 16, (2, 32, 10, 4))
    packed = (codes << (4 * np.arange(4))).sum(-1).astype(np.uint16)
    tiles = []
    for half in packed:
        made = core.sbuf("float4_e2m1fn_x4", 32, 10)
        core.load(made, np.ascontiguousarray(half))
        tiles.append(made)
    scale = tile(core, np.full((4, 10), 128), "uint8")
    psum = core.psum("float32", 10, 10)
    core.nc_matmul_mx(psum, *tiles, scale, scale)
    a, b = 2 * levels[codes]
    np.testing.assert_array_equal(psum.read(), np.einsum("kmv,knv->mn", a, b))
