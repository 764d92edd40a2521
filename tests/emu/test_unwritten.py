"""Strict mode: what nothing wrote is not read, whatever its dtype and value; and what was written is."""

from collections.abc import Callable

import numpy as np
import pytest
from machine import new_core

DTYPES = ["float32", "bfloat16", "float16", "float8_e4m3", "int32", "uint8", "bool"]


def refuses(instruction: Callable[[], None], what: str = "sbuf") -> None:
    with pytest.raises(RuntimeError, match=rf"written before they are read \(strict mode\); got fresh .*{what}"):
        instruction()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fresh_tiles_of_every_dtype(dtype: str) -> None:
    core = new_core(strict=True)
    x, y = core.sbuf(dtype, 4, 8), core.sbuf(dtype, 4, 8)
    refuses(lambda: core.tensor_copy(y, x))
    x.write(np.zeros((4, 8)))
    core.tensor_copy(y, x)
    core.tensor_copy(x, y)


@pytest.mark.parametrize(("dtype", "value"), [("int32", -1), ("uint8", 255), ("int16", -1)])
def test_all_ones_are_a_value(dtype: str, value: int) -> None:
    core = new_core(strict=True)
    x, y = core.sbuf(dtype, 2, 4), core.sbuf(dtype, 2, 4)
    x.write(np.full((2, 4), value))
    core.tensor_copy(y, x)
    assert (y.read() == value).all()


def test_a_nan_is_a_value() -> None:
    core = new_core(strict=True)
    x, y = core.sbuf("float32", 2, 4), core.sbuf("float32", 2, 4)
    x.write(np.full((2, 4), 0xFFFFFFFF, np.uint32).view(np.float32))
    core.tensor_copy(y, x)
    assert np.isnan(y.read()).all()


def test_each_element_is_told_apart() -> None:
    core = new_core(strict=True)
    x, y = core.sbuf("float32", 4, 8), core.sbuf("float32", 4, 8)
    core.memset(x.part(4, 0, 3), 1)
    core.memset(x.part(4, 4, 4), 1)
    core.tensor_copy(y.part(4, 0, 3), x.part(4, 0, 3))
    core.tensor_copy(y.part(4, 0, 4), x.part(4, 4, 4))
    refuses(lambda: core.tensor_copy(y, x))
    refuses(lambda: core.tensor_copy(y.pattern(4, 0, [[1, 2]]), x.pattern(4, 1, [[2, 2]])))
    core.tensor_copy(y.pattern(4, 0, [[1, 2]]), x.pattern(4, 0, [[2, 2]]))


def test_predicated_copies_write_where_the_predicate_says() -> None:
    core = new_core(strict=True)
    dst, src, chosen = core.sbuf("float32", 1, 4), core.sbuf("float32", 1, 4), core.sbuf("uint8", 1, 4)
    src.write(np.ones((1, 4)))
    refuses(lambda: core.tensor_copy_predicated(dst, src, chosen))
    chosen.write(np.array([[1, 1, 0, 0]]))
    core.tensor_copy_predicated(dst, src, chosen)
    core.tensor_copy(src.part(1, 0, 2), dst.part(1, 0, 2))
    refuses(lambda: core.tensor_copy(src, dst))
    core.tensor_copy_predicated(dst, 2.0, chosen, reverse_pred=True)
    core.tensor_copy(src, dst)


def test_gathers_write_the_rows_that_they_find() -> None:
    core = new_core(strict=True)
    rows, index = core.hbm(np.ones((4, 2), np.float32)), core.sbuf("int32", 3, 1)
    dst, out = core.sbuf("float32", 3, 2), core.sbuf("float32", 3, 2)
    index.write(np.array([[0], [9], [2]]))
    core.dma_gather(dst, rows, index, oob_mode="skip")
    core.tensor_copy(out.part(1, 0, 2), dst.part(1, 0, 2))
    refuses(lambda: core.tensor_copy(out, dst))


def test_results_beside_the_first_are_written() -> None:
    core = new_core(strict=True)
    x, y, sums, out = (core.sbuf("float32", 4, n) for n in (8, 8, 1, 1))
    x.write(np.ones((4, 8)))
    core.activation_reduce(y, "copy", x, "add", sums)
    core.tensor_copy(out, sums)
    places, vals = core.sbuf("uint32", 4, 8), core.sbuf("float32", 4, 8)
    core.max8(vals, x)
    core.nc_match_replace8(y, x, vals, 0.0, dst_idx=places)
    core.tensor_copy(places, places)


def test_psum_accumulates_into_what_was_written() -> None:
    core = new_core(strict=True)
    a, b, dst = core.sbuf("bfloat16", 8, 4), core.sbuf("bfloat16", 8, 16), core.psum("float32", 4, 16)
    a.write(np.ones((8, 4)))
    b.write(np.ones((8, 16)))
    refuses(lambda: core.nc_matmul(dst, a, b, accumulate=True), "psum")
    core.nc_matmul(dst, a, b)
    core.nc_matmul(dst, a, b, accumulate=True)
    assert (dst.read() == 16).all()


def test_registers() -> None:
    core = new_core(strict=True)
    x = core.sbuf("int32", 1, 1)
    refuses(lambda: core.register_store(x, 3), "register 3")
    refuses(lambda: core.register_load(3, x))
    core.register_move(3, 7)
    core.register_store(x, 3)
    core.register_load(4, x)
    assert core.register_value(4) == 7
    x.write(np.array([[9]]))
    fresh, five, loaded = core.register_alloc(), core.register_alloc(5), core.register_alloc(x)
    assert [r.number for r in (fresh, five, loaded)] == [0, 1, 2] and int(five) == 5 and loaded.value == 9
    refuses(lambda: core.register_store(x, fresh), "register 0")
    refuses(lambda: core.register_move(five, fresh), "register 0")
    core.register_move(fresh, five)
    count = 0
    while fresh:
        core.register_move(fresh, int(fresh) - 1)
        count += 1
    assert count == 5 and core.register_value(fresh) == core.register_value(0) == 0
    with pytest.raises(RuntimeError, match=r"\[register\] a register is of the core .*; got another core's\."):
        new_core().register_store(x, five)
    for _ in range(61):
        core.register_alloc()
    with pytest.raises(RuntimeError, match=r"\[register_alloc\] an engine has few registers; got 65, limit 64"):
        core.register_alloc()
    loose = new_core()
    loose.register_store(loose.sbuf("int32", 1, 1), 3)


def test_an_illegal_instruction_writes_nothing() -> None:
    core = new_core(strict=True)
    x, y = core.sbuf("float32", 4, 8), core.sbuf("float32", 4, 8)
    refuses(lambda: core.activation(y, "exp", x))
    refuses(lambda: core.tensor_copy(x, y))


def test_without_strict_mode_fresh_tiles_are_nan() -> None:
    core = new_core()
    x, y = core.sbuf("float32", 2, 4), core.sbuf("float32", 2, 4)
    core.tensor_copy(y, x)
    assert np.isnan(y.read()).all()


def test_indices_that_nobody_wrote() -> None:
    core = new_core(strict=True)
    table = core.hbm(np.ones((8, 4), np.float32))
    rows, picks = core.sbuf("float32", 4, 4), core.sbuf("int32", 4, 1)
    core.memset(rows, 0.0)
    for call in (
        lambda: core.dma_gather(rows, table, picks, oob_mode="skip"),
        lambda: core.dma_gather(rows, table, picks),
        lambda: core.dma_scatter(table, rows, picks, oob_mode="skip"),
    ):
        with pytest.raises(RuntimeError, match="fresh memory in sbuf"):
            call()
    picks.write(np.arange(4).reshape(4, 1))
    core.dma_gather(rows, table, picks)
    fresh = core.sbuf("float32", 4, 4)
    with pytest.raises(RuntimeError, match=r"\[dma_scatter\] sources are written before they are read"):
        core.dma_scatter(table, fresh, picks)
