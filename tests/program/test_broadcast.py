"""Pointwise programs whose operands repeat along any axes: values against numpy, traffic within its bounds."""

import math
import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, access, empty, from_device, load_target, pointwise_part, run, step, to_device

from torch_trn import _C

DTYPES = ["float32", "bfloat16", "float16", "float64", "int32", "int64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def bits(repeated: set[int]) -> int:
    return sum(1 << axis for axis in repeated)


def broadcast_part(axes: list[int], repeated: list[set[int]], dtypes: list[str], out: str, alu: str) -> dict[str, Any]:
    kept = [math.prod(size for axis, size in enumerate(axes) if axis not in one) for one in repeated]
    inputs = [access(dtype, n) for dtype, n in zip(dtypes, kept)]
    steps = [step("tensor_tensor", alu)] * (len(inputs) - 1) or [step("tensor_copy")]
    part = pointwise_part(math.prod(axes), inputs, [access(out, math.prod(axes))], steps)
    return part | {"axes": axes, "repeats": [bits(one) for one in repeated]}


def check(target: Any, axes: list[int], repeated: list[set[int]], dtypes: list[str], num_threads: int = 1) -> int:
    """Small whole numbers, so that sums are exact; the bytes that inputs took."""
    rng = np.random.default_rng(math.prod(axes))
    part = broadcast_part(axes, repeated, dtypes, "float32", "add")
    expected = np.zeros(axes)
    stored = []
    for one, dtype in zip(repeated, dtypes):
        values = rng.integers(0, 50, [1 if axis in one else size for axis, size in enumerate(axes)]).astype(float)
        stored.append(to_device(values, dtype))
        expected = expected + values
    out = empty(expected.size, "float32")
    if num_threads == 1:
        counts = run(part, target, stored, [out])
    else:
        _C.execute(part, target, stored, [out], num_threads=num_threads)
        counts = _C.cost([part], target)["counts"]
    assert np.array_equal(from_device(out, "float32"), expected.ravel()), part
    assert counts["hbm_write_bytes"] == 4 * expected.size
    distinct = sum(one["elements"] * BYTES[one["dtype"]] for one in part["inputs"])
    assert distinct <= counts["hbm_read_bytes"] <= sum(expected.size * BYTES[dtype] for dtype in dtypes), part
    return int(counts["hbm_read_bytes"])


def random_axes(rng: random.Random) -> list[int]:
    most, axes = 200_000, []
    for _ in range(rng.randint(1, 5)):
        near = rng.choice([2, 3, 5, 64, 127, 128, 129, 300, 513, 1000, 5000])
        axes.append(max(1, min(near, most)))
        most //= axes[-1]
    rng.shuffle(axes)
    return axes


@pytest.mark.parametrize("seed", range(150))
def test_random_axes(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    axes = random_axes(rng)
    num_inputs = rng.randint(1, 3)
    repeated = [{axis for axis in range(len(axes)) if rng.random() < 0.4} for _ in range(num_inputs)]
    check(target, axes, repeated, [rng.choice(DTYPES) for _ in range(num_inputs)])


@pytest.mark.parametrize(
    ("axes", "repeated"),
    [
        ([300, 700], [{1}, set()]),  # [N, 1] against [N, M]
        ([300_000, 3], [{1}, set()]),
        ([8, 200_000], [{1}, set()]),
        ([12, 40, 500], [{1}, set()]),  # [N, 1, M] against [N, K, M]
        ([64, 96, 50], [{0, 2}, set()]),  # a bias of channels
        ([3, 400, 30], [{0}, {2}, set()]),
    ],
)
def test_what_repeats_beside_a_dense_operand_is_read_once(
    target: Any, axes: list[int], repeated: list[set[int]]
) -> None:
    read = check(target, axes, repeated, ["float32"] * len(repeated))
    part = broadcast_part(axes, repeated, ["float32"] * len(repeated), "float32", "add")
    assert read == 4 * sum(one["elements"] for one in part["inputs"])


def test_threads_agree(target: Any) -> None:
    for axes, repeated in (([500, 3, 700], [{1}, {0, 2}]), ([2000, 300], [{1}, {0}])):
        check(target, axes, repeated, ["float32", "bfloat16"], num_threads=3)


def test_errors(target: Any) -> None:
    part = broadcast_part([2, 3], [{0}, set()], ["float32"] * 2, "float32", "add")
    for fields, reason in (
        ({"axes": [2, 4]}, r"axes hold the iteration space; got 8, limit 6\."),
        ({"axes": [1] * 33}, r"the iteration space has few axes; got 33, limit 32\."),
        ({"repeats": [1]}, r"each input says where it repeats; got 1, limit 2\."),
        ({"repeats": [2, 0]}, r"an input has the elements of the axes .*; got 3, limit 2\."),
        ({"outputs": [access("float32", 3)]}, r"a result has every element .*; got 3, limit 6\."),
        ({"outputs": []}, r"a function has results; got 0, limit 1\."),
    ):
        with pytest.raises(ValueError, match=r"\[pointwise\] " + reason):
            _C.cost([part | fields], target)
