"""topk of GpSimdE, against numpy: eight problems of 16 partitions at once, laid partition first."""

import re
from typing import Any

import numpy as np
import pytest
from machine import new_core, tile

from torch_trn.emu import NeuronCore


def snake(rows: np.ndarray, columns: int, fill: float = 0.0) -> np.ndarray:
    """[groups, n] as [16 groups, columns]: element i in column i // 16 of partition i % 16."""
    groups, n = rows.shape
    padded = np.full((groups, columns * 16), fill, rows.dtype)
    padded[:, :n] = rows
    return padded.reshape(groups, columns, 16).transpose(0, 2, 1).reshape(groups * 16, columns)


def unsnake(laid: np.ndarray, k: int) -> np.ndarray:
    groups = laid.shape[0] // 16
    return laid.reshape(groups, 16, -1).transpose(0, 2, 1).reshape(groups, -1)[:, :k]


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
@pytest.mark.parametrize(("groups", "n", "k"), [(1, 8, 8), (2, 42, 8), (8, 1000, 64), (3, 1600, 17), (8, 4096, 1)])
def test_largest_and_their_places(target: str, groups: int, n: int, k: int) -> None:
    core = new_core(target)
    rng = np.random.default_rng(n)
    rows = bfloat16(rng.permuted(np.tile(np.arange(n, dtype=np.float32) - n // 3, (groups, 1)), axis=1) / 8)
    columns = -(-n // 16) + 2
    source = tile(core, snake(rows, columns, fill=1e9), "bfloat16")  # what lies past n is ignored
    values, places = core.sbuf("bfloat16", 16 * groups, k), core.sbuf("uint32", 16 * groups, k)
    values.write(np.full((16 * groups, k), -7.0))
    places.write(np.full((16 * groups, k), 7))
    core.topk(values, places, source, n)
    got, where = unsnake(values.read(), k), unsnake(places.read(), k).astype(np.int64)
    np.testing.assert_array_equal(got, np.sort(rows, axis=1)[:, n - k :])
    np.testing.assert_array_equal(np.take_along_axis(rows, where, axis=1), got)
    assert all(len(set(row)) == k for row in where.tolist())
    used = -(-k // 16)
    assert (values.read()[:, used:] == -7).all() and (places.read()[:, used:] == 7).all()
    (start,), (end,) = core.timeline().to_dict()["start_seconds"], core.timeline().to_dict()["end_seconds"]
    assert (end - start) * 1.2e9 == pytest.approx(4 * n + k)


def test_equal_values_and_nan() -> None:
    core = new_core()
    rows = np.zeros((1, 32), np.float32)
    rows[0, [3, 20]] = np.nan, 5.0
    values, places = core.sbuf("bfloat16", 16, 4), core.sbuf("uint32", 16, 4)
    core.topk(values, places, tile(core, snake(rows, 2), "bfloat16"), 32)
    np.testing.assert_array_equal(unsnake(values.read(), 4), [[0, 0, 5, np.nan]])
    np.testing.assert_array_equal(unsnake(places.read(), 4), [[1, 0, 20, 3]])
    assert np.isnan(values.read()[4:, 0]).all() and (places.read()[4:, 0] == 2**32 - 1).all()


def tiles(core: Any, partitions: int = 16, k: int = 4, columns: int = 2, **dtypes: str) -> list[Any]:
    chosen = {"values": "bfloat16", "places": "uint32", "source": "bfloat16"} | dtypes
    shapes = {"values": k, "places": k, "source": columns}
    made = [core.sbuf(chosen[name], partitions, width) for name, width in shapes.items()]
    made[2].write(np.zeros((partitions, columns)))
    return made


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("whole groups of 16 partitions; got 24, limit a multiple of 16", lambda c: c.topk(*tiles(c, 24), 32)),
        ("the source is bfloat16; got float32", lambda c: c.topk(*tiles(c, source="float32"), 32)),
        ("values are bfloat16; got float32", lambda c: c.topk(*tiles(c, values="float32"), 32)),
        ("places are uint32; got int32", lambda c: c.topk(*tiles(c, places="int32"), 32)),
        ("a group has elements; got 7, limit 8", lambda c: c.topk(*tiles(c), 7)),
        ("a group's elements lie in the source; got 33, limit 32", lambda c: c.topk(*tiles(c), 33)),
        ("results are among the elements; got 9, limit 8", lambda c: c.topk(*tiles(c, k=9), 8)),
        ("a group has few elements; got 65536, limit 65535", lambda c: c.topk(*tiles(c, columns=4096), 65536)),
    ],
)
def test_rules(words: str, call: Any) -> None:
    with pytest.raises(RuntimeError, match=re.escape("[topk] ") + ".*" + re.escape(words)):
        call(new_core())


def test_generation_and_what_nobody_wrote() -> None:
    core = new_core("trn1")
    with pytest.raises(RuntimeError, match=r"\[topk\] the instruction exists from NeuronCore-v3 on"):
        core.topk(*tiles(core), 32)
    strict = NeuronCore("trn2", strict=True)
    values, places = strict.sbuf("bfloat16", 16, 40), strict.sbuf("uint32", 16, 40)
    source = strict.sbuf("bfloat16", 16, 4)
    with pytest.raises(RuntimeError, match=r"\[topk\] sources are written before they are read"):
        strict.topk(values, places, source, 48)
    source.part(16, 0, 3).write(np.zeros((16, 3)))
    strict.topk(values, places, source, 48)
    out = strict.sbuf("bfloat16", 16, 40)
    strict.tensor_copy(out.part(16, 0, 3), values.part(16, 0, 3))
    with pytest.raises(RuntimeError, match=r"\[tensor_copy\] sources are written before they are read"):
        strict.tensor_copy(out, values)  # K is 40: three columns hold it
