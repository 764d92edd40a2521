"""Single instructions on the emulated NeuronCore: values against numpy, and the rules that it enforces."""

from typing import Any

import numpy as np
import pytest

import torch_trn
from torch_trn.emu import NeuronCore


@pytest.fixture
def core() -> Any:
    return NeuronCore("trn2")


def loaded(core: Any, array: Any) -> Any:
    tile = core.sbuf("float32", *array.shape)
    core.load(tile, array)
    return tile


def test_a_load_takes_an_array_that_cannot_be_written(core: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    values.flags.writeable = False
    tile = core.sbuf("float32", 2, 3)
    core.load(tile, values)
    assert np.array_equal(tile.read(), values)
    with pytest.raises(ValueError, match="a result is written; got a read-only array"):
        core.store(values, tile)
    with pytest.raises(ValueError, match="dense and in C order; got another one"):
        core.load(tile, np.zeros((3, 2), np.float32).T)


def test_fresh_hbm_is_nan_until_written(core: Any) -> None:
    tensor = core.hbm((2, 3), "bfloat16")
    assert tensor.memory == "hbm" and tensor.shape == (2, 3) and np.isnan(tensor.read()).all()
    source = core.sbuf("bfloat16", 2, 3)
    source.write(np.arange(6.0))
    core.dma_copy(tensor, source)
    assert tensor.read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensor.array.dtype == np.uint16 and tensor.array[0, 1] == 0x3F80
    assert core.hbm((4,), "int32").array.tolist() == [-1] * 4
    with pytest.raises(ValueError, match="sizes are not negative; got -2"):
        core.hbm((3, -2))


def test_strict_reads_of_fresh_hbm_raise() -> None:
    core = torch_trn.emu.NeuronCore("trn2", strict=True)
    tensor, tile = core.hbm((2, 3)), core.sbuf("float32", 2, 3)
    for read in (
        lambda: core.dma_copy(tile, tensor),
        lambda: core.load(tile, tensor.array),
        lambda: core.dma_compute(core.hbm(np.zeros((2, 3), np.float32)), [tensor], "add", [1.0]),
    ):
        with pytest.raises(RuntimeError, match=r"written before they are read .strict mode.; got fresh memory in hbm"):
            read()
    tensor.array[:] = 1
    tensor.array[1, 2] = np.nan
    core.dma_copy(tile, tensor)
    assert np.isnan(tile.read()).sum() == 1


def stored(core: Any, tile: Any, shape: tuple[int, int]) -> Any:
    array = np.empty(shape, np.float32)
    core.store(array, tile)
    return array


def test_matmul_accumulates_in_psum(core: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 128, 64)).astype(np.float32), rng.standard_normal((2, 128, 200)).astype(np.float32)
    psum, out = core.psum("float32", 64, 200), core.sbuf("float32", 64, 200)
    for i in range(2):
        core.nc_matmul(psum, loaded(core, a[i]), loaded(core, b[i]), accumulate=i > 0)
    core.tensor_copy(out, psum)
    np.testing.assert_allclose(stored(core, out, (64, 200)), sum(a[i].T @ b[i] for i in range(2)), rtol=1e-4, atol=1e-4)


def test_transpose_is_exact(core: Any) -> None:
    x = np.array([[np.nan, np.inf, -0.0], [1e-40, 3.0, -np.inf]], np.float32)
    psum, out = core.psum("float32", 3, 2), core.sbuf("float32", 3, 2)
    core.nc_transpose(psum, loaded(core, x))
    core.tensor_copy(out, psum)
    assert stored(core, out, (3, 2)).tobytes() == np.ascontiguousarray(x.T).tobytes()


def test_fresh_memory_is_nan(core: Any) -> None:
    assert np.all(np.isnan(stored(core, core.sbuf("float32", 128, 10), (128, 10))))
    psum, out = core.psum("float32", 4, 4), core.sbuf("float32", 4, 4)
    core.tensor_copy(out, psum)
    assert np.all(np.isnan(stored(core, out, (4, 4))))


def test_activation_scales_and_adds_first(core: Any) -> None:
    x = np.linspace(-2, 2, 64, dtype=np.float32).reshape(4, 16)
    out = core.sbuf("float32", 4, 16)
    core.activation(out, "exp", loaded(core, x), scale=2.0, bias=-1.0)
    np.testing.assert_allclose(stored(core, out, (4, 16)), np.exp(2 * x - 1), rtol=1e-6)


def test_limits_of_a_matmul(core: Any) -> None:
    tile = core.sbuf("float32", 128, 1024)
    psum = core.psum("float32", 128, 1024)

    def rejects(words: str, m: int, n: int, k: int = 128, moving_k: int = 128, start: int = 0) -> None:
        with pytest.raises(RuntimeError, match=words):
            dst = psum.part(min(m, 128), start, n)
            core.nc_matmul(dst, tile.part(k, 0, m), tile.part(moving_k, 0, n))

    rejects(r"\[nc_matmul\] the stationary tile has few columns; got 129, limit 128\. Split M\.", 129, 8)
    rejects(r"\[nc_matmul\] the moving tile has few columns; got 513, limit 512\. Split N\.", 128, 513)
    rejects(r"\[nc_matmul\] stationary and moving tiles share K; got 128, limit 64\.", 8, 8, k=64)
    rejects(r"\[nc_matmul\] the result lies in one PSUM bank; got 2052, limit 2048\.", 8, 512, start=1)
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] the result has a partition per stationary column; got 9"):
        core.nc_matmul(psum.part(9, 0, 8), tile.part(128, 0, 8), tile.part(128, 0, 8))
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] the result lies in PSUM; got sbuf\."):
        core.nc_matmul(tile.part(8, 512, 8), tile.part(128, 0, 8), tile.part(128, 0, 8))
    with pytest.raises(RuntimeError, match=r"\[nc_matmul\] stationary and moving tiles lie in SBUF; got psum\."):
        core.nc_matmul(psum.part(8, 0, 8), psum.part(128, 512, 8), tile.part(128, 0, 8))


def test_dtypes_of_a_matmul(core: Any) -> None:
    floats, halves, integers = (core.sbuf(d, 8, 8) for d in ("float32", "bfloat16", "int32"))
    psum = core.psum("float32", 8, 8)
    with pytest.raises(
        RuntimeError, match=r"float32 and tfloat32 pair only with each other; got float32 and bfloat16\."
    ):
        core.nc_matmul(psum, floats, halves)
    with pytest.raises(RuntimeError, match=r"TensorE multiplies floating types; got int32\. Cast to float32 first\."):
        core.nc_matmul(psum, integers, integers)
    with pytest.raises(RuntimeError, match=r"PSUM accumulates in float32; got bfloat16\."):
        core.nc_matmul(core.psum("bfloat16", 8, 8), halves, halves)
    with pytest.raises(RuntimeError, match=r"\[nc_transpose\] the result has the source's dtype; got float32 from"):
        core.nc_transpose(psum, halves)


def test_memories_end(core: Any) -> None:
    with pytest.raises(
        MemoryError, match=r"\[sbuf\] tile big must fit beside the others; got 229380 .* limit 229376\."
    ):
        core.sbuf("float32", 128, 229376 // 4 + 1, "big")
    core.psum("float32", 128, 512 * 7)
    with pytest.raises(MemoryError, match=r"\[psum\] tile more must fit beside the others; got 2 banks, limit 1\."):
        core.psum("float32", 128, 513, "more")
    with pytest.raises(RuntimeError, match=r"\[sbuf\] a tile has at most 128 partitions; got 129, limit 128\."):
        core.sbuf("float32", 129, 1)
    tile = core.sbuf("float32", 128, 10, "short")
    with pytest.raises(RuntimeError, match=r"\[sbuf\] tile short must end within its buffer; got 11, limit 10\."):
        tile.part(128, 1, 10)
    with pytest.raises(RuntimeError, match=r"\[sbuf\] tile short must start within its buffer; got -1, limit 0\."):
        tile.part(128, -1, 10)
    with pytest.raises(ValueError, match=r"\[load\] .*; got shape \(1279,\), the tile is \(128, 10\)"):
        core.load(tile, np.zeros(1279, np.float32))


def test_operands_have_one_shape(core: Any) -> None:
    tile = core.sbuf("float32", 128, 10)
    with pytest.raises(RuntimeError, match=r"\[tensor_tensor\] operands have as many partitions as the result; got 8"):
        core.tensor_tensor(tile, tile.part(8, 0, 10), tile, "add")
    with pytest.raises(RuntimeError, match=r"\[activation\] operands have as many elements per partition .* got 9"):
        core.activation(tile, "exp", tile.part(128, 0, 9))
