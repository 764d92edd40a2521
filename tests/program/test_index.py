"""Gathers and scatters on the emulated engines: values against numpy, traffic against closed forms."""

import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, EPSILON, Array, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def index_part(kind: str, num_rows: int, row_elements: int, num_indices: int, **fields: Any) -> dict[str, Any]:
    part = {
        "family": "index",
        "kind": kind,
        "num_rows": num_rows,
        "row_elements": row_elements,
        "dtype": "float32",
        "index_dtype": "int64",
        "num_indices": num_indices,
        "base_elements": 0,
        "table_rows": 0,
        "num_tables": 1,
        "columns": 0,
        "wraps": False,
        "axes": [],
        "scales": False,
    }
    return part | fields


def bits(rng: random.Random, elements: int, dtype: str) -> Array:
    """Any bit pattern, those of NaNs and of large integers too."""
    size = elements * BYTES[dtype]
    values = np.random.default_rng(rng.randrange(2**32))
    return values.integers(0, 2, size, np.uint8) if dtype == "bool" else values.integers(0, 256, size, np.uint8)


def assert_traffic(counts: dict[str, Any], part: dict[str, Any]) -> None:
    """The closed forms of docs/counters.md."""
    size = BYTES[part["dtype"]]
    rows, base = part["num_rows"] * part["row_elements"] * size, part["base_elements"] * size
    indices = part["num_indices"] * BYTES[part["index_dtype"]]
    assert counts["hbm_read_bytes"] == rows * (2 if part["kind"] == "scatter_add" else 1) + indices + base, part
    assert counts["hbm_write_bytes"] == rows + base, part


def random_rows(rng: random.Random, kind: str) -> tuple[dict[str, Any], Array, Array]:
    """A part, the row of its table for each index, and the indices as the operator has them."""
    row, tables = rng.choice([1, 2, 5, 64, 128, 129, 513, 5000]), rng.choice([1, 1, 1, 3])
    table_rows = some_size(rng, 600)
    n = some_size(rng, max(1, min(1200, 200_000 // (row * tables))))
    index_dtype = rng.choice(["int32", "int64"]) if row > 1 else "int64"
    values = np.random.default_rng(rng.randrange(2**32))
    if kind == "scatter":
        n = min(n, table_rows)
        index = values.permutation(table_rows)[:n]
    else:
        index = values.integers(0, table_rows, n)
    wraps = rng.random() < 0.3
    given = np.where(values.random(n) < 0.5, index, index - table_rows) if wraps else index
    part = index_part(
        kind, n * tables, row, n, table_rows=table_rows, num_tables=tables, wraps=wraps, index_dtype=index_dtype
    )
    return part, index, given


@pytest.mark.parametrize("seed", range(60))
def test_gather_keeps_every_bit(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    part, index, given = random_rows(rng, "gather")
    part["dtype"] = dtype = rng.choice(list(BYTES))
    tables, rows, row = part["num_tables"], part["table_rows"], part["row_elements"]
    table = bits(rng, tables * rows * row, dtype)
    out = empty(part["num_rows"] * row, dtype)
    counts = run(part, target, [table, to_device(given, part["index_dtype"])], [out])
    expected = table.reshape(tables, rows, row * BYTES[dtype])[:, index]
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part)


@pytest.mark.parametrize("seed", range(40))
def test_scatter_keeps_every_bit_and_what_it_does_not_write(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    part, index, given = random_rows(rng, "scatter")
    part["dtype"] = dtype = rng.choice(list(BYTES))
    tables, rows, row = part["num_tables"], part["table_rows"], part["row_elements"]
    base, source = bits(rng, tables * rows * row, dtype), bits(rng, part["num_rows"] * row, dtype)
    inputs, out = [to_device(given, part["index_dtype"]), source], base.copy()
    if rng.random() < 0.5:
        part["base_elements"] = tables * rows * row
        inputs, out = [base, *inputs], empty(tables * rows * row, dtype)
    counts = run(part, target, inputs, [out])
    expected = base.copy().reshape(tables, rows, row * BYTES[dtype])
    expected[:, index] = source.reshape(tables, len(index), -1)
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part)


@pytest.mark.parametrize("seed", range(60))
def test_rows_that_meet_add_up(target: Any, seed: int) -> None:
    """A sum of n rows is rounded n times to the tensor's type, each time by half a unit of what it is then."""
    rng = random.Random(seed)
    part, index, given = random_rows(rng, "scatter_add")
    part["dtype"] = dtype = rng.choice(FLOATS)
    tables, rows, row = part["num_tables"], part["table_rows"], part["row_elements"]
    values = np.random.default_rng(seed)
    base, source = (values.standard_normal(n * row) for n in (tables * rows, part["num_rows"]))
    stored, added = to_device(base, dtype), to_device(source, dtype)
    inputs, out = [to_device(given, part["index_dtype"]), added], stored.copy()
    if rng.random() < 0.5:
        part["base_elements"] = tables * rows * row
        inputs, out = [stored, *inputs], empty(tables * rows * row, dtype)
    counts = run(part, target, inputs, [out])
    expected = from_device(stored, dtype).reshape(tables, rows, row)
    exact = from_device(added, dtype).reshape(tables, len(index), row)
    magnitude = np.abs(expected)
    for t in range(tables):
        np.add.at(expected[t], index, exact[t])
        np.add.at(magnitude[t], index, np.abs(exact[t]))
    times = np.bincount(index, minlength=rows)[None, :, None] + 1
    bound = times * EPSILON[dtype] * magnitude * 1.01 + times * (2**-24 if dtype == "float16" else 0)
    assert np.all(np.abs(from_device(out, dtype).reshape(expected.shape) - expected) <= bound)
    assert_traffic(counts, part)


def test_all_rows_in_one_place(target: Any) -> None:
    n = 1000
    out = np.zeros(4 * 3, np.float32)
    part = index_part("scatter_add", n, 3, n, table_rows=4)
    source = np.ones(n * 3, np.float32)
    run(part, target, [to_device(np.full(n, 2), "int64"), to_device(source, "float32")], [out])
    assert np.array_equal(out.reshape(4, 3), [[0] * 3, [0] * 3, [n] * 3, [0] * 3])


def random_elements(rng: random.Random) -> tuple[dict[str, Any], Array]:
    tables, columns = rng.choice([1, 1, 3, 128, 300, 700]), rng.choice([1, 1, 2, 50, 129, 3000])
    picks = some_size(rng, max(1, min(600, 100_000 // (tables * columns))))
    table_rows = some_size(rng, max(1, min(1000, 2_000_000 // (tables * columns))))
    index = np.random.default_rng(rng.randrange(2**32)).integers(0, table_rows, (tables, picks, columns))
    n = index.size
    return index_part("gather", n, 1, n, table_rows=table_rows, num_tables=tables, columns=columns), index


@pytest.mark.parametrize("seed", range(60))
def test_elements_along_an_axis(target: Any, seed: int) -> None:
    """gather, scatter and scatter_add of single elements, as numpy has them."""
    rng = random.Random(seed)
    part, index = random_elements(rng)
    tables, rows, columns = part["num_tables"], part["table_rows"], part["columns"]
    dtype = rng.choice(["float32", "bfloat16", "int32", "int64"])
    table = bits(rng, tables * rows * columns, dtype).reshape(tables, rows, columns, -1)
    out = empty(index.size, dtype)
    counts = run(part | {"dtype": dtype}, target, [table.ravel(), to_device(index, "int64")], [out])
    expected = np.take_along_axis(table, index[..., None], 1)
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part | {"dtype": dtype})
    # Whole numbers add up exactly.
    sums, source = np.zeros((tables, rows, columns)), rng.randint(1, 9) * np.ones(index.shape)
    stored = to_device(sums, "float32")
    adds = part | {"kind": "scatter_add"}
    counts = run(adds, target, [to_device(index, "int64"), to_device(source, "float32")], [stored])
    t, _, c = np.indices(index.shape)
    np.add.at(sums, (t, index, c), source)
    assert np.array_equal(from_device(stored, "float32"), sums.ravel())
    assert_traffic(counts, adds)


@pytest.mark.parametrize("seed", range(40))
def test_several_lists_of_indices(target: Any, seed: int) -> None:
    """An element of each list names a row by one axis of the table each, from the end too."""
    rng = random.Random(seed)
    axes = [rng.randint(1, 12) for _ in range(rng.randint(2, 4))]
    rows, row, tables = int(np.prod(axes)), rng.choice([1, 2, 64]), rng.choice([1, 1, 3])
    values = np.random.default_rng(seed)
    n = some_size(rng, 500)
    lists = np.stack([values.integers(-size, size, n) for size in axes])
    index_dtype, dtype = rng.choice(["int32", "int64"]), rng.choice(["float32", "bfloat16", "int64"])
    part = index_part("gather", n * tables, row, n * len(axes), table_rows=rows, num_tables=tables, wraps=True)
    part |= {"axes": axes, "dtype": dtype, "index_dtype": index_dtype}
    table = values.integers(0, 256, tables * rows * row * BYTES[dtype], np.uint8)
    out = empty(n * tables * row, dtype)
    counts = run(part, target, [table, to_device(lists, index_dtype)], [out])
    wrapped = [np.where(one < 0, one + size, one) for one, size in zip(lists, axes)]
    expected = table.reshape(tables, rows, -1)[:, np.ravel_multi_index(wrapped, axes)]
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part)


@pytest.mark.parametrize("kind", ["gather", "scatter", "scatter_add"])
@pytest.mark.parametrize("columns", [0, 7])
def test_threads_agree(target: Any, kind: str, columns: int) -> None:
    rng = np.random.default_rng(0)
    n, rows, row = (7 * 40_000, 60_000, 1) if columns else (9000, 9000, 30)
    index = rng.permutation(rows)[:n] if not columns else np.argsort(rng.random((rows, columns)), 0)[: n // columns]
    part = index_part(kind, n, row, n, table_rows=rows, columns=columns)
    table = to_device(rng.standard_normal(rows * row * max(columns, 1)), "float32")
    picked = to_device(rng.standard_normal(n * row), "float32")
    results = []
    for num_threads in (1, 3):
        out = picked.copy() if kind == "gather" else table.copy()
        inputs = [table, to_device(index, "int64")] if kind == "gather" else [to_device(index, "int64"), picked]
        _C.execute(part, target, inputs, [out], num_threads=num_threads)
        results.append(out.tobytes())
    assert results[0] == results[1]


def test_errors(target: Any) -> None:
    one = index_part("gather", 2, 4, 2, table_rows=3)
    table, out = empty(12, "float32"), empty(8, "float32")
    with pytest.raises(RuntimeError, match=r"\[dma_gather\] an index names a row of the tensor; got 3, limit 2\."):
        _C.execute(one, target, [table, to_device(np.array([0, 3]), "int64")], [out])
    for fields in ({"columns": 3}, {"num_tables": 0}):
        with pytest.raises(ValueError, match=r"\[index\] tables and columns share the rows evenly; got 2 rows"):
            _C.cost([one | fields], target)
    for fields, reason in (
        ({"table_rows": 0}, r"a tensor of unknown size are counted"),
        ({"index_dtype": "uint8"}, r"counted, not executed; got uint8\."),
        ({"row_elements": 1, "index_dtype": "int32"}, r"single elements by a 32-bit index are counted"),
        ({"dtype": "complex64", "kind": "scatter_add"}, r"sums of complex elements are counted"),
        ({"wraps": True, "table_rows": 2**25}, r"places that fp32 does not hold exactly are counted"),
        ({"kind": "scatter", "base_elements": 13}, r"copies of another size than what is written to are counted"),
        ({"axes": [2, 2], "num_indices": 4}, r"lists of indices for axes that are not the table's are counted"),
        ({"num_indices": 1}, r"rows without an index of their own are counted"),
    ):
        with pytest.raises(NotImplementedError, match=r"\[index\] .*" + reason):
            _C.execute(one | fields, target, [], [])
