"""sort and topk on the emulated engines: values against numpy, places by what stands there."""

import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, Array, access, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def sort_part(rows: int, cols: int, k: int, dtype: str = "float32", ascending: bool = False) -> dict[str, Any]:
    return {
        "family": "sort",
        "rows": rows,
        "cols": cols,
        "k": k,
        "ascending": ascending,
        "inputs": [access(dtype, rows * cols)],
        "outputs": [access(dtype, rows * k), access("int64", rows * k)],
    }


def assert_sorts(target: Any, part: dict[str, Any], values: Array) -> None:
    """The values are exact; their places differ, and hold them."""
    rows, cols, k, dtype = part["rows"], part["cols"], part["k"], part["inputs"][0]["dtype"]
    stored = to_device(values, dtype)
    out, places = empty(rows * k, dtype), empty(rows * k, "int64")
    counts = run(part, target, [stored], [out, places])
    assert counts["hbm_read_bytes"] == rows * cols * BYTES[dtype], part
    assert counts["hbm_write_bytes"] == rows * k * (BYTES[dtype] + 8), part
    exact = from_device(stored, dtype).reshape(rows, cols)
    exact = exact.astype(np.float32).astype(np.float64) if dtype == "float64" else exact
    expected = np.sort(exact, 1) if part["ascending"] else -np.sort(-exact, 1)
    got, index = from_device(out, dtype).reshape(rows, k), places.view(np.int64).reshape(rows, k)
    assert np.array_equal(got, expected[:, :k]), part
    assert np.array_equal(np.take_along_axis(exact, index, 1), got), part
    assert np.all(np.diff(np.sort(index, 1), axis=1) > 0), part


def some_values(rng: random.Random, elements: int, dtype: str) -> Array:
    """With many that are equal, or few."""
    values = np.random.default_rng(rng.randrange(2**32))
    if dtype not in FLOATS:
        return values.integers(0, 2 if dtype == "bool" else 100, elements) * (-1 if dtype == "int32" else 1)
    return values.integers(-9, 9, elements) if rng.random() < 0.3 else values.standard_normal(elements)


@pytest.mark.parametrize("seed", range(60))
def test_the_first_few(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    cols = some_size(rng, 3000)
    rows = some_size(rng, max(1, min(400, 100_000 // cols)))
    dtype = rng.choice([*FLOATS, "int32", "int64", "uint8"])
    part = sort_part(rows, cols, rng.randint(1, min(cols, 20)), dtype, rng.random() < 0.5)
    assert_sorts(target, part, some_values(rng, rows * cols, dtype))


@pytest.mark.parametrize("seed", range(20))
def test_the_first_few_of_long_rows(target: Any, seed: int) -> None:
    """Each over all partitions, in rounds: many keys are equal, on one partition or on several."""
    rng = random.Random(seed)
    rows, cols = rng.choice([1, 1, 2, 5]), rng.choice([8192, 8193, 50_257, rng.randint(9_000, 60_000)])
    dtype = rng.choice([*FLOATS, "int32"])
    part = sort_part(rows, cols, rng.choice([1, 8, 9, 50, 64]), dtype, rng.random() < 0.5)
    assert_sorts(target, part, some_values(rng, rows * cols, dtype))


@pytest.mark.parametrize("seed", range(50))
def test_whole_rows(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    cols = some_size(rng, 1500)
    rows = some_size(rng, max(1, min(300, 60_000 // cols)))
    dtype = rng.choice([*FLOATS, "int32", "int64", "bool"])
    assert_sorts(target, sort_part(rows, cols, cols, dtype, rng.random() < 0.5), some_values(rng, rows * cols, dtype))


@pytest.mark.parametrize("cols", [300, 4000, 4096, 20_000, 50_001])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_over_all_partitions(target: Any, cols: int, dtype: str) -> None:
    rng = random.Random(cols)
    for k, ascending in ((cols, True), (cols // 3, False)):
        part = sort_part(2, cols, k, dtype, ascending)
        assert_sorts(target, part, some_values(rng, 2 * cols, dtype))


def test_the_first_of_equals_comes_first(target: Any) -> None:
    x = to_device(np.zeros((5, 100)), "float32")
    for ascending in (False, True):
        out, places = empty(5 * 10, "float32"), empty(5 * 10, "int64")
        run(sort_part(5, 100, 10, ascending=ascending), target, [x], [out, places])
        assert np.array_equal(places.view(np.int64).reshape(5, 10), np.tile(np.arange(10), (5, 1)))


@pytest.mark.parametrize(("rows", "cols", "k"), [(3000, 100, 5), (3000, 64, 64), (3, 8192, 8192)])
def test_threads_agree(target: Any, rows: int, cols: int, k: int) -> None:
    part = sort_part(rows, cols, k)
    stored = to_device(np.random.default_rng(0).standard_normal(rows * cols), "float32")
    results = []
    for num_threads in (1, 3):
        outputs = [empty(rows * k, "float32"), empty(rows * k, "int64")]
        _C.execute(part, target, [stored], outputs, num_threads=num_threads)
        results.append([out.tobytes() for out in outputs])
    assert results[0] == results[1]


@pytest.mark.parametrize(("rows", "cols", "k"), [(3, 40_000, 20), (130, 33_001, 1), (5, 50_257, 64)])
@pytest.mark.parametrize("ascending", [False, True])
def test_rows_that_pass_in_chunks(target: Any, rows: int, cols: int, k: int, ascending: bool) -> None:
    """A row longer than SBUF, or than the instructions search, gives the largest of its chunks' largest."""
    x = np.random.default_rng(rows).permutation(rows * cols).reshape(rows, cols)
    x[:, 5] = x[:, cols - 3]  # equals in two chunks
    assert_sorts(target, sort_part(rows, cols, k, ascending=ascending), x)


def test_the_cost_of_a_vocabulary_follows_its_length(target: Any) -> None:
    def seconds(cols: int) -> float:
        return float(_C.cost([sort_part(256, cols, 8)], target)["seconds"])

    assert seconds(50_257) < 4 * seconds(16_000)


def test_errors(target: Any) -> None:
    one = sort_part(2, 3, 1)
    for fields, reason in (
        ({"cols": 2**20}, r"rows that are merged through HBM are counted, not executed; got 1048576 elements\."),
        ({"outputs": []}, r"other operands .* are counted, not executed; got 1 inputs and 0 outputs\."),
        ({"inputs": [access("complex64", 6)]}, r"complex elements are counted"),
    ):
        with pytest.raises(NotImplementedError, match=r"\[sort\] " + reason):
            _C.execute(one | fields, target, [], [])
