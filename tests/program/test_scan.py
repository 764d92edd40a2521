"""Cumulative programs on the emulated engines: values against numpy, traffic against closed forms."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from programs import BYTES, EPSILON, Array, access, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]
RUNNING: dict[str, Callable[[Array], Array]] = {
    "add": lambda x: np.cumsum(x, 1),
    "multiply": lambda x: np.cumprod(x, 1),
    "maximum": lambda x: np.maximum.accumulate(x, 1),
    "minimum": lambda x: np.minimum.accumulate(x, 1),
}


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def scan_part(rows: int, cols: int, alu: str, src: str, dst: str, positions: bool = False) -> dict[str, Any]:
    outputs = [access(dst, rows * cols)] + ([access("int64", rows * cols)] if positions else [])
    return {
        "family": "scan",
        "rows": rows,
        "cols": cols,
        "alu": alu,
        "inputs": [access(src, rows * cols)],
        "outputs": outputs,
    }


def some_rows(rng: random.Random) -> tuple[int, int]:
    """Rows of a few columns, of hundreds, and of more than SBUF has room for."""
    if rng.random() < 0.1:
        return rng.randint(1, 3), rng.randint(20_000, 60_000)
    cols = some_size(rng, 700)
    return some_size(rng, max(1, min(1000, 60_000 // cols))), cols


def execute(target: Any, part: dict[str, Any], values: Array) -> tuple[Array, list[Array]]:
    """Exact values of the stored input, and what came out."""
    src = part["inputs"][0]["dtype"]
    stored = to_device(values, src)
    outputs = [empty(one["elements"], one["dtype"]) for one in part["outputs"]]
    counts = run(part, target, [stored], outputs)
    assert counts["hbm_read_bytes"] == values.size * BYTES[src], part
    assert counts["hbm_write_bytes"] == sum(values.size * BYTES[one["dtype"]] for one in part["outputs"]), part
    shape = (part["rows"], part["cols"])
    exact = from_device(stored, src).reshape(shape)
    exact = exact.astype(np.float32).astype(np.float64) if src == "float64" else exact
    return exact, [from_device(o, one["dtype"]).reshape(shape) for o, one in zip(outputs, part["outputs"], strict=True)]


@pytest.mark.parametrize("seed", range(60))
def test_sums_and_products(target: Any, seed: int) -> None:
    """n fp32 roundings of partial sums, one of the store, and one where a row is carried to its next chunk."""
    rng = random.Random(seed)
    (rows, cols), alu = some_rows(rng), rng.choice(["add", "multiply"])
    src = rng.choice(FLOATS)
    dst = src if rng.random() < 0.7 else rng.choice(["float32", "float64"])
    values = np.random.default_rng(seed)
    x = values.standard_normal(rows * cols) if alu == "add" else values.uniform(0.97, 1.03, rows * cols)
    if alu == "multiply":
        cols, rows = min(cols, 300), 1 + rows * cols // 1000
        x = values.uniform(0.97, 1.03, rows * cols) * values.choice([-1, 1], rows * cols)
    exact, (got,) = execute(target, scan_part(rows, cols, alu, src, dst), x)
    expected = RUNNING[alu](exact)
    magnitude = np.cumsum(np.abs(exact), 1) if alu == "add" else np.abs(expected)
    chunks = 1 + np.arange(cols) // 4096
    bound = (np.arange(1, cols + 1) * 2.0**-24 + chunks * EPSILON[dst]) * magnitude * 1.01
    assert np.all(np.abs(got - expected) <= bound + (2**-24 if dst == "float16" else 1e-30))


@pytest.mark.parametrize("seed", range(40))
def test_extremes_and_where_they_stand(target: Any, seed: int) -> None:
    """Exact; of equals the last one counts, and a NaN is there to stay."""
    rng = random.Random(seed)
    (rows, cols), alu = some_rows(rng), rng.choice(["maximum", "minimum"])
    dtype = rng.choice([*FLOATS, "int32", "int64", "uint8"])
    values = np.random.default_rng(seed)
    x = values.integers(0, 100, rows * cols).astype(np.float64)
    if dtype in FLOATS:
        x = np.where(values.random(x.size) < 0.001, np.nan, x * 0.5 - 20)
        x = np.where(values.random(x.size) < 0.01, values.choice([-np.inf, np.inf], x.size), x)
    exact, (got, places) = execute(target, scan_part(rows, cols, alu, dtype, dtype, positions=True), x)
    expected = RUNNING[alu](exact)
    assert np.array_equal(got, expected, equal_nan=True)
    is_new = (exact == expected) | np.isnan(exact)
    assert np.array_equal(places, np.maximum.accumulate(np.where(is_new, np.arange(cols), 0), 1))


@pytest.mark.parametrize("seed", range(20))
def test_whole_numbers(target: Any, seed: int) -> None:
    """Exact up to 2^24, in fp32 as they are."""
    rng = random.Random(seed)
    rows, cols = some_rows(rng)
    src = rng.choice(["int32", "int64", "uint8", "bool", "int8", "int16"])
    x = np.random.default_rng(seed).integers(0, 2 if src == "bool" else 100, rows * cols)
    exact, (got,) = execute(target, scan_part(rows, cols, "add", src, "int64"), x)
    assert np.array_equal(got, np.cumsum(exact, 1))


def test_infinities_and_nans(target: Any) -> None:
    x = np.array([[1, np.inf, 2, -np.inf, 3], [0, -1, np.nan, 1, 1], [-0.0, 2, 0, np.inf, 1]])
    for alu in ("add", "multiply"):
        _, (got,) = execute(target, scan_part(3, 5, alu, "float32", "float32"), x)
        with np.errstate(invalid="ignore"):
            expected = RUNNING[alu](x)
        assert np.array_equal(got, expected, equal_nan=True)
        assert alu == "add" or np.array_equal(np.signbit(got[2, :3]), np.signbit(expected[2, :3]))


@pytest.mark.parametrize("cols", [8_192, 50_257])
def test_infinities_and_nans_of_long_rows(target: Any, cols: int) -> None:
    """Over all partitions, where no value reaches an element before it."""
    x = np.zeros((4, cols))
    x[0, [5, 300, cols - 2]] = 1, np.inf, -np.inf
    x[1, 4000] = np.nan
    x[2, 77] = -np.inf
    x[3] = -1
    for alu in RUNNING:
        _, (got,) = execute(target, scan_part(4, cols, alu, "float32", "float32"), x)
        with np.errstate(invalid="ignore"):
            expected = RUNNING[alu](x)
        assert np.array_equal(got, expected, equal_nan=True), alu


def test_a_product_does_not_overflow_on_its_way(target: Any) -> None:
    x = np.ones((1, 50_000))
    x[0, 0], x[0, 20_000:20_003] = 1e-30, 1e20
    _, (got,) = execute(target, scan_part(1, 50_000, "multiply", "float32", "float32"), x)
    np.testing.assert_allclose(got, np.cumprod(x, 1), rtol=1e-6)


@pytest.mark.parametrize("alu", RUNNING)
def test_threads_agree(target: Any, alu: str) -> None:
    part = scan_part(3000, 100, alu, "float32", "float32", positions=alu == "maximum")
    stored = to_device(np.random.default_rng(0).standard_normal(300_000), "float32")
    results = []
    for num_threads in (1, 3):
        outputs = [empty(300_000, one["dtype"]) for one in part["outputs"]]
        _C.execute(part, target, [stored], outputs, num_threads=num_threads)
        results.append([out.tobytes() for out in outputs])
    assert results[0] == results[1]


def test_errors(target: Any) -> None:
    one = scan_part(2, 3, "add", "float32", "float32")
    for fields, reason in (
        ({"alu": "logical_or"}, r"running values of this operation are counted, not executed; got logical_or\."),
        ({"outputs": []}, r"other operands .* are counted, not executed; got 1 inputs and 0 outputs\."),
        ({"inputs": [access("float32", 1)]}, r"operands of another size than the rows are counted"),
        ({"inputs": [access("complex64", 6)]}, r"complex elements are counted"),
    ):
        with pytest.raises(NotImplementedError, match=r"\[scan\] " + reason):
            _C.execute(one | fields, target, [], [])
