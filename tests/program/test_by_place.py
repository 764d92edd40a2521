"""Taps, bands and ranks: values against numpy in float64, bytes against the closed forms, counts as executed."""

import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, EPSILON, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

Part = dict[str, Any]
FLOATS = ["float32", "bfloat16", "float16"]
COMPARISONS = {"equal": np.equal, "less": np.less, "less_equal": np.less_equal, "greater": np.greater}


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def run_of_taps(rng: random.Random, size_in: int, size_out: int) -> dict[str, Any]:
    to, source = rng.randrange(size_out), rng.randrange(size_in)
    to_step, from_step = rng.choice([1, 1, 2, 5]), rng.choice([0, 1, 1, 3])
    room = (size_out - 1 - to) // to_step
    room = min(room, (size_in - 1 - source) // from_step) if from_step else room
    weight = rng.choice([1.0, 0.25, -1.5, 0.1])
    count = rng.randint(1, room + 1)
    return {"to": to, "to_step": to_step, "from": source, "from_step": from_step, "count": count, "weight": weight}


def random_taps(rng: random.Random, largest: int = 60_000) -> Part:
    size_in, size_out = some_size(rng, 300), some_size(rng, 300)
    inner = rng.choice([1, 1, 2, 17, 129, 600])
    outer = some_size(rng, max(1, min(600, largest // (max(size_in, size_out) * inner))))
    dtype = rng.choice(FLOATS)
    return {
        "family": "taps",
        "outer": outer,
        "in": size_in,
        "out": size_out,
        "inner": inner,
        "src_dtype": dtype,
        "dst_dtype": rng.choice([dtype, "float32"]),
        "runs": [run_of_taps(rng, size_in, size_out) for _ in range(rng.randint(0, 8))],
    }


@pytest.mark.parametrize("seed", range(80))
def test_taps_add_up(target: Any, seed: int) -> None:
    """Of k taps, k products and sums in fp32, and the rounding of the store."""
    part = random_taps(random.Random(seed))
    shape = (part["outer"], part["in"], part["inner"])
    stored = to_device(np.random.default_rng(seed).standard_normal(np.prod(shape)), part["src_dtype"])
    x = from_device(stored, part["src_dtype"]).reshape(shape)
    out = empty(part["outer"] * part["out"] * part["inner"], part["dst_dtype"])
    counts = run(part, target, [stored], [out])
    expected = np.zeros((part["outer"], part["out"], part["inner"]))
    magnitude = expected.copy()
    for one in part["runs"]:
        for i in range(one["count"]):
            term = np.float32(one["weight"]) * x[:, one["from"] + i * one["from_step"]]
            expected[:, one["to"] + i * one["to_step"]] += term
            magnitude[:, one["to"] + i * one["to_step"]] += abs(term)
    got = from_device(out, part["dst_dtype"]).reshape(expected.shape)
    bound = 20 * 2.0**-24 * magnitude + 1.01 * EPSILON[part["dst_dtype"]] * abs(expected) + 2.0**-24
    assert np.all(abs(got - expected) <= bound), part
    assert counts["hbm_read_bytes"] == x.size * BYTES[part["src_dtype"]]
    assert counts["hbm_write_bytes"] == expected.size * BYTES[part["dst_dtype"]]


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool"])
def test_single_taps_keep_bits(target: Any, dtype: str) -> None:
    runs = [{"to": 1, "to_step": 2, "from": 0, "from_step": 1, "count": 40, "weight": 1.0}]
    part = {"family": "taps", "outer": 3, "in": 50, "out": 90, "inner": 7, "runs": runs}
    part |= {"src_dtype": dtype, "dst_dtype": dtype}
    x = np.random.default_rng(0).integers(0, 2, 3 * 50 * 7).astype(np.float64)
    out = empty(3 * 90 * 7, dtype)
    run(part, target, [to_device(x, dtype)], [out])
    expected = np.zeros((3, 90, 7))
    expected[:, 1:81:2] = x.reshape(3, 50, 7)[:, :40]
    assert np.array_equal(from_device(out, dtype).reshape(expected.shape), expected)


def test_runs_lie_within_their_axes(target: Any) -> None:
    part = random_taps(random.Random(0)) | {"in": 4, "out": 4}
    one = {"to": 2, "to_step": 1, "from": 0, "from_step": 1, "count": 3, "weight": 1.0}
    with pytest.raises(ValueError, match=r"\[taps\] a run of taps lies within its axis; got 2 to 4, limit 4"):
        _C.cost([part | {"runs": [one]}], target)
    with pytest.raises(ValueError, match=r"\[taps\] a run gives each output one tap; got to_step 0"):
        _C.cost([part | {"runs": [one | {"to": 0, "to_step": 0}]}], target)


def random_band(rng: random.Random) -> Part:
    rows, cols = some_size(rng, 400), some_size(rng, 400)
    highest = rows + cols - 2
    return {
        "family": "band",
        "matrices": some_size(rng, max(1, min(400, 60_000 // (rows * cols)))),
        "rows": rows,
        "cols": cols,
        "least": rng.choice([0, 0, rng.randint(0, highest + 1)]),
        "most": rng.choice([highest, highest, rng.randint(0, highest)]),
        "dtype": rng.choice([*FLOATS, "int32", "bool"]),
        "has_input": rng.random() < 0.8,
    }


@pytest.mark.parametrize("seed", range(80))
def test_bands(target: Any, seed: int) -> None:
    part = random_band(random.Random(seed))
    matrices, rows, cols, dtype = part["matrices"], part["rows"], part["cols"], part["dtype"]
    x = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 100, (matrices, rows, cols))
    x = x.astype(np.float64) if part["has_input"] else np.ones((matrices, rows, cols))
    out = empty(x.size, dtype)
    counts = run(part, target, [to_device(x, dtype)] if part["has_input"] else [], [out])
    place = np.arange(cols) - np.arange(rows)[:, None] + rows - 1
    expected = np.where((place >= part["least"]) & (place <= part["most"]), x, 0)
    assert np.array_equal(from_device(out, dtype).reshape(x.shape), expected), part
    size = x.size * BYTES[dtype]
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == (size * part["has_input"], size)


def random_rank(rng: random.Random) -> Part:
    tables, length = rng.choice([1, 1, 2, 5]), some_size(rng, 2000)
    dtype = rng.choice([*FLOATS, "int32"])
    return {
        "family": "rank",
        "tables": tables,
        "length": length,
        "queries": some_size(rng, max(1, min(3000, 400_000 // (tables * length)))),
        "key_dtype": dtype,
        "query_dtype": dtype,
        "out_dtype": rng.choice(["int64", "int32"]),
        "alu": rng.choice(list(COMPARISONS)),
        "any": rng.random() < 0.3,
    }


@pytest.mark.parametrize("seed", range(60))
def test_ranks(target: Any, seed: int) -> None:
    part = random_rank(random.Random(seed))
    tables, length, queries, dtype = part["tables"], part["length"], part["queries"], part["key_dtype"]
    values = np.random.default_rng(seed)
    keys, asked = (values.integers(-50, 50, (tables, n)).astype(np.float64) for n in (length, queries))
    out = empty(tables * queries, part["out_dtype"])
    run(part, target, [to_device(keys, dtype), to_device(asked, dtype)], [out])
    matches = COMPARISONS[part["alu"]](asked[:, :, None], keys[:, None])
    expected = matches.any(-1) if part["any"] else (~matches).sum(-1)
    assert np.array_equal(from_device(out, part["out_dtype"]).reshape(tables, queries), expected), part


def test_few_keys_and_few_queries_take_little(target: Any) -> None:
    """Keys that are scalars of a stream of queries; queries that are scalars of a stream of keys."""
    part = random_rank(random.Random(0)) | {"tables": 1, "any": False, "key_dtype": "float32", "query_dtype": "float32"}
    many = _C.cost([part | {"length": 10, "queries": 1 << 20}], target)["counts"]
    assert many["busy_cycles"]["vector"] < 30 * (1 << 20) / 128
    few = _C.cost([part | {"length": 1 << 16, "queries": 64}], target)["counts"]
    assert few["busy_cycles"]["vector"] < 4 * (1 << 16)


def test_what_only_counts(target: Any) -> None:
    band = random_band(random.Random(0)) | {"dtype": "complex64", "has_input": False}
    with pytest.raises(NotImplementedError, match=r"\[band\] complex elements are counted"):
        _C.execute(band, target, [], [])
    rank = random_rank(random.Random(0)) | {"alu": "add"}
    with pytest.raises(NotImplementedError, match=r"\[rank\] keys are compared; got add"):
        _C.execute(rank, target, [], [])
    taps = random_taps(random.Random(0)) | {"src_dtype": "int32", "dst_dtype": "int32"}
    one = {"to": 0, "to_step": 1, "from": 0, "from_step": 1, "count": 1, "weight": 0.5}
    with pytest.raises(NotImplementedError, match=r"\[taps\] sums are of real floating-point elements"):
        _C.execute(taps | {"runs": [one]}, target, [], [])
