"""Numpy arrays as tensors in HBM: of the tile's dtype and shape, written only where numpy allows it, and alive."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from machine import new_core, tile


def mapped(folder: Path) -> Any:
    np.save(folder / "x.npy", np.ones((8, 8), np.float32))
    return np.load(folder / "x.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "make",
    [
        mapped,
        lambda _: np.frombuffer(bytes(256), np.float32).reshape(8, 8),
        lambda _: np.broadcast_to(np.ones(8, np.float32), (8, 8)),
    ],
    ids=["memory map", "bytes", "broadcast"],
)
def test_a_read_only_array_is_read_and_never_written(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    core, array = new_core(), make(tmp_path)
    before, x = array.copy(), tile(core, np.full((8, 8), 5.0))
    row = tile(core, np.zeros((8, 1)), "int32")
    tensor = core.hbm(array)
    for write in (
        lambda: core.dma_copy(tensor, x),
        lambda: core.dma_copy(tensor, x, dst_rmw_op="add"),
        lambda: core.dma_compute(tensor, [x], "add", [1.0]),
        lambda: core.dma_transpose(tensor, x),
        lambda: core.dma_scatter(tensor, x, row),
        lambda: tensor.write(np.zeros((8, 8))),
    ):
        with pytest.raises(ValueError, match=r"a result is written; got a read-only array\. Copy it first"):
            write()
    np.testing.assert_array_equal(array, before)
    core.dma_copy(x, tensor)
    np.testing.assert_array_equal(x.read(), before)


F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


@pytest.mark.parametrize("dtype", [F64, np.int32, np.uint32, np.complex64, F32.newbyteorder(">")], ids=str)
def test_an_array_of_another_dtype_is_refused(dtype: Any) -> None:
    core = new_core()
    x, array = tile(core, np.ones((4, 8))), np.zeros((4, 8), dtype)
    for name, use in {
        "load": lambda: core.load(x, array),
        "store": lambda: core.store(array, x),
        "hbm": lambda: core.hbm(array),
    }.items():
        with pytest.raises(ValueError, match=rf"\[{name}\] an array has the tile's dtype; got .*, the tile is float32"):
            use()
    with pytest.raises(
        ValueError, match=r"\[load\] .* got float64, the tile is bfloat16\. .* pass the codes as uint16"
    ):
        core.load(core.sbuf("bfloat16", 4, 8), np.zeros((4, 8)))


def test_codes_of_a_type_that_numpy_lacks() -> None:
    core = new_core()
    x = core.sbuf("bfloat16", 1, 2)
    core.load(x, np.array([[0x3F80, 0xC000]], np.uint16))
    assert x.read().tolist() == [[1, -2]]


def test_an_array_of_another_shape_is_refused() -> None:
    core = new_core()
    x = tile(core, np.ones((16, 8)))
    for shape in [(20, 16), (8, 16), (16, 9), (15, 8), (127,)]:
        array = np.zeros(shape, np.float32)
        for use in (lambda a=array: core.load(x, a), lambda a=array: core.store(a, x), lambda a=array: x.write(a)):
            with pytest.raises(
                ValueError, match=r"partitions as rows, and its elements; got shape .* tile is \(16, 8\)"
            ):
                use()
    for shape in [(16, 8), (128,), (4, 4, 8), (16, 2, 4)]:
        values = np.arange(128, dtype=np.float32).reshape(shape)
        core.load(x, values)
        np.testing.assert_array_equal(x.read(), values.reshape(16, 8))


def test_fields_of_records_have_no_element_stride() -> None:
    records = np.zeros((4, 8), np.dtype([("x", np.float32), ("y", np.uint8)]))
    with pytest.raises(ValueError, match=r"\[hbm\] strides are whole elements; got \d+ bytes for elements of 4"):
        new_core().hbm(records["x"])


@pytest.mark.parametrize(
    "dtype,value",
    [("uint8", 300), ("uint8", -1), ("int8", 128), ("int32", 2**31), ("uint16", np.nan), ("int16", np.inf)],
)
def test_values_that_an_integer_tile_cannot_hold(dtype: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"\[tile\] values fit the tile's dtype; got "):
        tile(new_core(), [[1, value]], dtype)


def test_a_tile_belongs_to_its_core() -> None:
    a, b = new_core(), new_core()
    own, others = tile(a, np.ones((8, 8))), [tile(b, np.ones((8, 8))) for _ in range(50)]
    message = r"\[activation\] tiles are of the core that runs the instruction; got tile of another core"
    for operands in [(own, others[-1]), (others[-1], own)]:
        with pytest.raises(ValueError, match=message):
            a.activation(operands[0], "exp", operands[1])
    with pytest.raises(ValueError, match=message):
        a.activation(own, "exp", own, bias=others[-1].part(8, 0, 1))
    with pytest.raises(ValueError, match=r"\[dma_copy\] tiles are of the core"):
        a.load(others[0], np.ones((8, 8), np.float32))


def test_an_address_that_serves_one_array_after_another_is_no_race() -> None:
    core = new_core(synchronization="semaphores")
    sources = [tile(core, np.ones((4, 4))) for _ in range(2)]
    for i in range(20):
        tensor = core.hbm((4, 4))
        core.dma_copy(tensor, sources[i % 2], queue=i % 2)
        del tensor
    kept = np.zeros((4, 4), np.float32)
    core.dma_copy(core.hbm(kept), sources[0], queue=0)
    with pytest.raises(RuntimeError, match="a semaphore orders instructions of different queues"):
        core.dma_copy(core.hbm(kept), sources[0], queue=1)
    tensor = torch.zeros(4, 4)
    core.dma_copy(core.hbm(tensor.numpy()), sources[0], queue=0)
    with pytest.raises(RuntimeError, match="a semaphore orders instructions of different queues"):
        core.dma_copy(core.hbm(tensor.numpy()), sources[0], queue=1)
