"""Copies on the emulated engines: bits, casts, broadcasts and transposes against torch."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import BYTES, Array, access, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

# Which are the same after a cast to them and back, and small enough for all.
SMALL = ["float32", "bfloat16", "float16", "float64", "int8", "int16", "int32", "int64", "uint8"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def copy_part(src: dict[str, Any], dst: dict[str, Any], **fields: Any) -> dict[str, Any]:
    part = {
        "family": "copy",
        "elements": dst["elements"],
        "src": src,
        "dst": dst,
        "transpose": False,
        "rows": 0,
        "cols": 0,
        "repeated_elements": 0,
    }
    return part | fields


def bits(rng: random.Random, elements: int, dtype: str) -> Array:
    """Any bit pattern, those of NaNs and of large integers too."""
    values = np.random.default_rng(rng.randrange(2**32))
    return values.integers(0, 2 if dtype == "bool" else 256, elements * BYTES[dtype], np.uint8)


def assert_traffic(counts: dict[str, Any], part: dict[str, Any]) -> None:
    for side, counter in (("src", "hbm_read_bytes"), ("dst", "hbm_write_bytes")):
        assert counts[counter] == part[side]["elements"] * BYTES[part[side]["dtype"]], part


def cast(values: Array, src: str, dst: str) -> Array:
    """Stored bytes of stored bytes: torch's conversion."""
    tensor = torch.from_numpy(values).view(getattr(torch, src)).to(getattr(torch, dst))
    return tensor.view(torch.uint8).numpy()


def some_values(rng: random.Random, elements: int, src: str, dst: str) -> Array:
    """Bits where they are kept; whole numbers that both types hold where there is a cast."""
    if src == dst:
        return bits(rng, elements, src)
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 100, elements).astype(np.float64)
    return to_device(values, src)


@pytest.mark.parametrize("seed", range(60))
def test_dense(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    n, src = some_size(rng, 200_000), rng.choice(list(BYTES))
    dst = src if rng.random() < 0.5 else rng.choice(list(BYTES))
    part = copy_part(access(src, n, rng.choice([n, 1, max(1, n // 3)])), access(dst, n, rng.choice([n, 64])))
    values, out = some_values(rng, n, src, dst), empty(n, dst)
    counts = run(part, target, [values], [out])
    assert np.array_equal(out, cast(values, src, dst))
    assert_traffic(counts, part)


@pytest.mark.parametrize("seed", range(20))
def test_short_gaps(target: Any, seed: int) -> None:
    """Spans are moved, elements picked; what lies in the gaps of the result stays."""
    rng = random.Random(seed)
    run_from, run_to = rng.choice([(1, 1), (1, 3), (4, 1), (3, 6)])
    n = 12 * rng.randint(1, 20_000)
    src = rng.choice(list(BYTES))
    narrow = [dtype for dtype in BYTES if BYTES[dtype] < 8]  # SBUF would narrow what lies in the gaps
    dst = src if rng.random() < 0.5 else rng.choice(narrow)
    wide = [n // run_from * (run_from + 1), n // run_to * (run_to + 2)]
    part = copy_part(access(src, n, run_from, wide[0]), access(dst, n, run_to, wide[1]))
    values, before = some_values(rng, wide[0], src, dst), bits(rng, wide[1], dst)
    size, out = BYTES[dst], before.copy()
    counts = run(part, target, [values], [out])
    picked = values.reshape(-1, run_from + 1, BYTES[src])[:, :run_from].reshape(-1)
    expected = before.copy().reshape(-1, run_to + 2, size)
    expected[:, :run_to] = cast(picked.copy(), src, dst).reshape(-1, run_to, size)
    assert np.array_equal(out, expected.ravel())
    assert counts["hbm_read_bytes"] == values.size + before.size
    assert counts["hbm_write_bytes"] == before.size


@pytest.mark.parametrize("seed", range(60))
def test_transpose(target: Any, seed: int) -> None:
    """Every matrix in its turn. Whole numbers: a 2-byte or one-byte element, or one in fp32, is exact on its way."""
    rng = random.Random(seed)
    count, rows = rng.choice([1, 1, 2, 5]), some_size(rng, 700)
    cols = some_size(rng, max(1, min(1500, 300_000 // (count * rows))))
    src = rng.choice(SMALL)
    dst = src if rng.random() < 0.6 else rng.choice(SMALL)
    n = count * rows * cols
    part = copy_part(access(src, n), access(dst, n), transpose=True, rows=rows, cols=cols)
    values = to_device(np.random.default_rng(seed).integers(0, 100, n), src)
    out = empty(n, dst)
    counts = run(part, target, [values], [out])
    expected = cast(values, src, dst).reshape(count, rows, cols, BYTES[dst]).transpose(0, 2, 1, 3)
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "float16"])
def test_transposes_keep_bits(dtype: str) -> None:
    """From NeuronCore-v3 on; before, a float32 that is not finite makes NaNs of its row."""
    values = bits(random.Random(1), 300 * 170, dtype)
    part = copy_part(access(dtype, 51_000), access(dtype, 51_000), transpose=True, rows=300, cols=170)
    out = empty(51_000, dtype)
    run(part, load_target("trn2"), [values], [out])
    assert np.array_equal(out, values.reshape(300, 170, -1).transpose(1, 0, 2).ravel())


@pytest.mark.parametrize("seed", range(60))
def test_broadcast(target: Any, seed: int) -> None:
    """[runs, repeats, elements] of [runs, elements]: each element is read once and written as often as it appears."""
    rng = random.Random(seed)
    runs, repeats, elements = rng.choice(
        [
            (1, some_size(rng, 3000), some_size(rng, 100)),
            (some_size(rng, 1000), some_size(rng, 20), some_size(rng, 20)),
            (rng.randint(1, 4), rng.randint(2, 5), some_size(rng, 50_000)),
            (some_size(rng, 30), some_size(rng, 3000), 1),
        ]
    )
    src = rng.choice(list(BYTES))
    dst = src if rng.random() < 0.6 else rng.choice(list(BYTES))
    n = runs * elements
    part = copy_part(access(src, n), access(dst, n * repeats), repeated_elements=elements)
    values, out = some_values(rng, n, src, dst), empty(n * repeats, dst)
    counts = run(part, target, [values], [out])
    expected = np.repeat(cast(values, src, dst).reshape(runs, 1, -1), repeats, 1)
    assert np.array_equal(out, expected.ravel())
    assert_traffic(counts, part)


@pytest.mark.parametrize(
    "part",
    [
        copy_part(access("float32", 900_000), access("bfloat16", 900_000)),
        copy_part(access("float32", 900_000), access("float32", 900_000), transpose=True, rows=900, cols=1000),
        copy_part(access("bfloat16", 900_000), access("float32", 900_000), transpose=True, rows=300, cols=1000),
        copy_part(access("float32", 900), access("float16", 900_000), repeated_elements=30),
        copy_part(access("float32", 9), access("float32", 900_000), repeated_elements=3),
    ],
)
def test_threads_agree(target: Any, part: dict[str, Any]) -> None:
    values = np.random.default_rng(0).standard_normal(part["src"]["elements"])
    results = []
    for num_threads in (1, 3):
        out = empty(part["elements"], part["dst"]["dtype"])
        _C.execute(part, target, [to_device(values, part["src"]["dtype"])], [out], num_threads=num_threads)
        assert not np.isnan(from_device(out, part["dst"]["dtype"])).any()
        results.append(out.tobytes())
    assert results[0] == results[1]


def test_errors(target: Any) -> None:
    one, two = access("float32", 12), access("complex64", 12)
    for part, reason in (
        (copy_part(one, one, transpose=True), r"transposes of matrices of unknown size are"),
        (copy_part(two, one), r"casts and transposes of complex elements are counted.*got complex64 to float32\."),
        (copy_part(access("float32", 4), one), r"a source that repeats in no known order is counted"),
        (copy_part(one, access("float32", 12), elements=24), r"does not write every element once is counted"),
    ):
        with pytest.raises(NotImplementedError, match=r"\[copy\] .*" + reason):
            _C.execute(part, target, [], [])
