"""Pointwise programs on the emulated engines: values against numpy, traffic against closed forms."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from programs import (
    BYTES,
    EPSILON,
    Array,
    access,
    empty,
    from_device,
    load_target,
    pointwise_part,
    run,
    some_size,
    step,
    to_device,
)

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("trn2")


def execute(
    target: Any, elements: int, arrays: list[Array], dtypes: list[str], steps: list[dict[str, Any]], out: str
) -> tuple[list[Array], Array]:
    """Exact values of the stored inputs, and what came out."""
    stored = [to_device(a, d) for a, d in zip(arrays, dtypes)]
    result = empty(elements, out)
    inputs = [access(d, a.size) for a, d in zip(arrays, dtypes)]
    part = pointwise_part(elements, inputs, [access(out, elements)], steps)
    counts = run(part, target, stored, [result])
    assert counts["hbm_read_bytes"] == sum(a.size * BYTES[d] for a, d in zip(arrays, dtypes)), part
    assert counts["hbm_write_bytes"] == elements * BYTES[out], part
    exact = [from_device(s, d) for s, d in zip(stored, dtypes)]
    # float64 is narrowed on its way into SBUF.
    exact = [x.astype(np.float32).astype(np.float64) if d == "float64" else x for x, d in zip(exact, dtypes)]
    return exact, from_device(result, out)


def assert_close(got: Array, expected: Array, dtype: str, ulps: float = 4) -> None:
    """Within fp32 rounding of the steps and the rounding of one store."""
    bound = (ulps * 2**-24 + EPSILON[dtype]) * np.abs(expected) + (2**-24 if dtype == "float16" else 1e-30)
    assert np.all((np.abs(got - expected) <= bound) | (np.isnan(got) & np.isnan(expected)))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
erf = np.vectorize(math.erf, otypes=[float])
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "copy": lambda x: x,
    "square": np.square,
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": erf,
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_apprx_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "relu": lambda x: np.maximum(x, 0),
    "abs": np.abs,
    "sign": np.sign,
    "sin": np.sin,
    "arctan": np.arctan,
    "gelu_dx": lambda x: 0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "silu_dx": lambda x: (1 / (1 + np.exp(-x))) * (1 + x * (1 - 1 / (1 + np.exp(-x)))),
    "tanh_dx": lambda x: 1 - np.tanh(x) ** 2,
}


@pytest.mark.parametrize("alu", BINARY)
@pytest.mark.parametrize("dtype", FLOATS)
def test_binary(target: Any, alu: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for elements in (1, 127, 1000, 128 * 1024 + 77):
        a, b = rng.uniform(0.5, 2, (2, elements)) * rng.choice([-1, 1], (2, elements))
        (x, y), got = execute(target, elements, [a, b], [dtype] * 2, [step("tensor_tensor", alu)], dtype)
        assert_close(got, BINARY[alu](x, y), dtype)


@pytest.mark.parametrize("alu", COMPARE)
def test_comparisons_give_bools(target: Any, alu: str) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-2, 3, (2, 5000)).astype(np.float64)
    (x, y), got = execute(target, 5000, [a, b], ["float32"] * 2, [step("tensor_tensor", alu)], "bool")
    assert np.array_equal(got, COMPARE[alu](x, y))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(target: Any, function: str) -> None:
    x = np.random.default_rng(3).uniform(-3, 3, 3000)
    if function == "sqrt":
        x = np.abs(x)
    for dtype in ("float32", "bfloat16"):
        (exact,), got = execute(target, 3000, [x], [dtype], [step("activation", function=function)], dtype)
        expected = FUNCTIONS[function](exact)
        assert np.all(np.abs(got - expected) <= 4e-6 + 2 * EPSILON[dtype] * np.abs(expected)), function


def test_domains(target: Any) -> None:
    x = np.array([-1.0, 0.0, 1.0, np.inf, -np.inf, np.nan, 4.0])
    with np.errstate(all="ignore"):
        rsqrt = np.where(x == 0, np.nan, 1 / np.sqrt(x))  # as the hardware has it
        for function, expected in {"log": np.log(x), "rsqrt": rsqrt, "reciprocal": 1 / x}.items():
            _, got = execute(target, 7, [x], ["float32"], [step("activation", function=function)], "float32")
            np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_scalar_forms(target: Any, dtype: str) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 2000))
    for alu in ("add", "subtract", "multiply", "divide"):
        (x,), got = execute(target, 2000, [a], [dtype], [step("tensor_scalar", alu, scalar=2.5)], dtype)
        assert_close(got, BINARY[alu](x, np.array(2.5)), dtype)
    for alu in ("add", "subtract", "divide"):
        steps = [step("scalar_tensor_tensor", alu, scalar=0.5)]
        (x, y), got = execute(target, 2000, [a, b], [dtype] * 2, steps, dtype)
        expected = BINARY[alu](x, 0.5 * y)
        tolerance = EPSILON[dtype] * np.abs(expected) + 2**-22 * (np.abs(x) + np.abs(y)) + 2**-24
        assert np.all(np.abs(got - expected) <= tolerance + 2**-22 * np.abs(expected))


def test_a_chain_keeps_fp32_between_steps(target: Any) -> None:
    x = np.random.default_rng(5).standard_normal(4000)
    steps = [step("activation", function="sigmoid"), step("tensor_tensor", "multiply"), step("tensor_scalar", "add")]
    (exact,), got = execute(target, 4000, [x], ["bfloat16"], steps, "bfloat16")
    assert_close(got, exact / (1 + np.exp(-exact)), "bfloat16", ulps=16)


def test_the_last_steps_write_the_outputs(target: Any) -> None:
    """Momentum SGD in place: v = 0.5 v + g, p = p - 0.25 v."""
    rng = np.random.default_rng(6)
    v, g, p = rng.standard_normal((3, 3000)).astype(np.float32)
    new_v, new_p = np.empty_like(v), np.empty_like(p)
    steps = [
        step("tensor_scalar", "multiply", scalar=0.5),
        step("tensor_tensor", "add"),
        step("scalar_tensor_tensor", "add", scalar=-4.0),
    ]
    part = pointwise_part(3000, [access("float32", 3000)] * 3, [access("float32", 3000)] * 2, steps)
    run(part, target, [v, g, p], [new_v, new_p])
    np.testing.assert_allclose(new_v, 0.5 * v + g, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(new_p, new_v - 4 * p, rtol=1e-6, atol=1e-6)


def test_where_and_masked_fill(target: Any) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 2500))
    mask = rng.random(2500) < 0.4
    (_, x, y), got = execute(target, 2500, [mask, a, b], ["bool", "float32", "float32"], [step("select")], "float32")
    assert np.array_equal(got, np.where(mask, x, y))
    (_, x), got = execute(target, 2500, [mask, a], ["bool", "float32"], [step("select", scalar=-7)], "float32")
    assert np.array_equal(got, np.where(mask, x, -7))
    steps = [step("tensor_copy_predicated", scalar=3)]
    (x, _), got = execute(target, 2500, [a, mask], ["float32", "bool"], steps, "float32")
    assert np.array_equal(got, np.where(mask, 3, x))


@pytest.mark.parametrize("source", [*FLOATS, "float8_e5m2", "float8_e4m3fn", "int8", "int32", "int64", "uint8", "bool"])
def test_casts_round_as_torch_does(target: Any, source: str) -> None:
    """Every finite value of a cast, bit for bit."""
    x = np.random.default_rng(8).uniform(0, 100, 5000) * np.where(source in ("bool", "uint8"), 1, -1)
    for out in [*FLOATS, "float8_e5m2", "float8_e4m3fn", "int8", "int32", "int64", "bool"]:
        (exact,), got = execute(target, 5000, [x], [source], [step("tensor_copy")], out)
        assert np.array_equal(got, from_device(to_device(exact.astype(np.float32), out), out)), out


def test_small_floats_round_to_nearest_even_everywhere(target: Any) -> None:
    """All bf16 bit patterns to each small type, against torch."""
    bits = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    exact = from_device(bits, "bfloat16")
    for out in ("float16", "float8_e5m2", "float8_e4m3fn"):
        result = empty(2**16, out)
        part = pointwise_part(2**16, [access("bfloat16", 2**16)], [access(out, 2**16)], [step("tensor_copy")])
        run(part, target, [bits], [result])
        with np.errstate(all="ignore"):
            expected = from_device(to_device(exact.astype(np.float32), out), out)
        got = from_device(result, out)
        assert np.array_equal(got, expected, equal_nan=True), out


def test_integers(target: Any) -> None:
    rng = np.random.default_rng(9)
    a, b = rng.integers(-1000, 1000, (2, 700))
    _, got = execute(target, 700, [a, b], ["int64"] * 2, [step("tensor_tensor", "add")], "int64")
    assert np.array_equal(got, a + b)
    for alu, function in {
        "bitwise_and": np.bitwise_and,
        "bitwise_or": np.bitwise_or,
        "bitwise_xor": np.bitwise_xor,
    }.items():
        _, got = execute(target, 700, [a, b], ["int32"] * 2, [step("tensor_tensor", alu)], "int32")
        assert np.array_equal(got, function(a, b))
    # Arithmetic runs in fp32: exact up to 2^24 only. A copy keeps all 32 bits.
    big = np.array([2**24 + 1, 2**31 - 1])
    _, got = execute(target, 2, [big], ["int64"], [step("tensor_scalar", "add", scalar=0)], "int64")
    assert got[0] == 2**24
    _, got = execute(target, 2, [big], ["int64"], [step("tensor_copy")], "int64")
    assert np.array_equal(got, big)


def test_sources_without_input(target: Any) -> None:
    _, got = execute(target, 3333, [], [], [step("memset", scalar=1.5)], "bfloat16")
    assert np.all(got == 1.5)
    for out in ("int64", "float32"):
        _, got = execute(target, 200_000, [], [], [step("iota", scalar=10)], out)
        assert np.array_equal(got, np.arange(200_000) + 10)
    _, got = execute(target, 200_000, [], [], [step("rng")], "float32")
    assert got.min() >= 0 and got.max() < 1
    assert abs(got.mean() - 0.5) < 0.005 and abs(got.var() - 1 / 12) < 0.002
    _, again = execute(target, 150_000, [], [], [step("rng")], "float32")
    assert np.array_equal(again, got[:150_000])


@pytest.mark.parametrize(
    ("rows", "period"),
    [(7, 5), (300, 10), (1000, 768), (3, 40_000), (200, 20_000), (129, 8200), (2, 300_001), (5000, 1)],
)
def test_broadcast(target: Any, rows: int, period: int) -> None:
    """A short input serves every row and is read once."""
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal(rows * period), rng.standard_normal(period)
    for first in (True, False):
        arrays = [a, b] if first else [b, a]
        exact, got = execute(
            target, rows * period, arrays, ["float32"] * 2, [step("tensor_tensor", "subtract")], "float32"
        )
        grid = [x.reshape(-1, period) for x in exact]
        assert_close(got.reshape(rows, period), grid[0] - grid[1], "float32")


@pytest.mark.parametrize(
    ("elements", "length", "pitch", "period"),
    [(700, 1, 2, 1), (4200, 1, 3, 7), (9600, 8, 12, 24), (200_000, 4, 6, 10), (2400, 16, 17, 1)],
)
def test_operands_with_gaps(target: Any, elements: int, length: int, pitch: int, period: int) -> None:
    """Short gaps move with their runs, in and out, and what lies in the gaps of a result stays."""
    span = elements // length * pitch
    rng = np.random.default_rng(elements)
    x, bias, out = (rng.standard_normal(n).astype(np.float32) for n in (span, period, span))
    spaced = access("float32", elements, length, span)
    part = pointwise_part(elements, [spaced, access("float32", period)], [spaced], [step("tensor_tensor", "add")])
    expected = out.copy()
    sums = x.reshape(-1, pitch)[:, :length].reshape(-1, period) + bias
    expected.reshape(-1, pitch)[:, :length] = sums.reshape(-1, length)
    stored = to_device(out, "float32")
    counts = run(part, target, [to_device(a, "float32") for a in (x, bias)], [stored])
    assert np.array_equal(stored.view(np.float32), expected)
    assert counts["hbm_read_bytes"] == 4 * (2 * span + period)
    assert counts["hbm_write_bytes"] == 4 * span


@pytest.mark.parametrize("seed", range(120))
def test_traffic_and_counts(target: Any, seed: int) -> None:
    """Executed counts equal the closed form, and HBM bytes are the operands' own."""
    rng = random.Random(seed)
    elements = some_size(rng, 300_000)
    dtypes = [rng.choice(list(BYTES)) for _ in range(rng.randint(1, 3))]
    out = rng.choice(list(BYTES))
    steps = [step("tensor_tensor", "add")] * (len(dtypes) - 1)
    steps += [rng.choice([step("activation", function="relu"), step("tensor_copy"), step("tensor_scalar", "add")])]
    values = np.random.default_rng(seed)
    arrays = [values.integers(0, 2, elements).astype(np.float64) for _ in dtypes]
    exact, got = execute(target, elements, arrays, dtypes, steps, out)
    expected = np.add.reduce(exact)
    assert np.array_equal(got, expected != 0 if out == "bool" else expected)


@pytest.mark.parametrize("seed", range(40))
def test_traffic_of_what_only_counts(seed: int) -> None:
    """Strided, complex, ragged and segmented operands move their distinct bytes once, on every target."""
    rng = random.Random(seed)
    target = load_target(rng.choice(["trn1", "trn2", "trn3", "inf2"]))
    elements = some_size(rng, 3_000_000)
    sizes = dict(BYTES, complex64=8, complex128=16)

    def some_access() -> dict[str, Any]:
        count = rng.choice([elements, elements, 1, max(1, elements // 3), rng.randint(1, 2 * elements)])
        return access(rng.choice(list(sizes)), count, rng.choice([count, max(1, count // 7)]))

    inputs = [some_access() for _ in range(rng.randint(0, 4))]
    outputs = [some_access() for _ in range(rng.randint(1, 3))]
    steps = [step("tensor_tensor", "multiply")] * rng.randint(0, 5)
    part = pointwise_part(elements, inputs, outputs, steps, segments=rng.choice([1, 1, 2, 7, 100]))
    counts = _C.cost([part], target)["counts"]
    assert counts["hbm_read_bytes"] == sum(sizes[a["dtype"]] * a["elements"] for a in inputs), part
    assert counts["hbm_write_bytes"] == sum(sizes[a["dtype"]] * a["elements"] for a in outputs), part


@pytest.mark.parametrize(
    ("name", "steps", "num_inputs", "rates"),
    [
        ("add", [step("tensor_tensor", "add")], 2, {"float32": 601, "bfloat16": 600}),
        ("mul", [step("tensor_tensor", "multiply")], 2, {"float32": 599, "bfloat16": 600}),
        ("sqrt", [step("activation", function="sqrt")], 1, {"float32": 558, "bfloat16": 534}),
        ("div", [step("tensor_tensor", "divide")], 2, {"float32": 379, "bfloat16": 574}),
    ],
)
def test_streaming_rate(
    target: Any, name: str, steps: list[dict[str, Any]], num_inputs: int, rates: dict[str, float]
) -> None:
    """GB/s on one trn2 logical core (docs/contract.md), within 12%."""
    elements = 2**26
    for dtype, expected in rates.items():
        part = pointwise_part(elements, [access(dtype, elements)] * num_inputs, [access(dtype, elements)], steps)
        seconds = _C.cost([part], target)["seconds"]
        rate = (num_inputs + 1) * elements * BYTES[dtype] / seconds / 1e9
        assert rate == pytest.approx(expected, rel=0.12), (name, dtype)


def test_errors(target: Any) -> None:
    one = access("float32", 6)
    with pytest.raises(NotImplementedError, match=r"\[pointwise\] this step is counted, not executed; got bn_stats\."):
        _C.execute(pointwise_part(6, [one], [one], [step("bn_stats")]), target, [], [])
    with pytest.raises(NotImplementedError, match=r"\[pointwise\] complex elements are counted.*got complex64\."):
        _C.execute(pointwise_part(6, [access("complex64", 6)], [one], []), target, [], [])
    with pytest.raises(NotImplementedError, match=r"\[pointwise\] an operand has every element.*got 4 of 6\."):
        _C.execute(pointwise_part(6, [access("float32", 4)], [one], []), target, [], [])
    transfer = {"family": "transfer", "bytes": 8, "to_device": True, "from_device": False}
    with pytest.raises(NotImplementedError, match=r"\[execute\] programs of this family are counted.*got transfer\."):
        _C.execute(transfer, target, [], [])
