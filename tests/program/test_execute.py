"""Execution on several host threads: the same bytes and the same counts as on one."""

import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, access, empty, load_target, matmul_part, pointwise_part, step, to_device

from torch_trn import _C


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def on_threads(part: dict[str, Any], target: Any, inputs: list[Any], out: Any, num_threads: int) -> tuple[bytes, Any]:
    result = out.copy()
    counts = _C.execute(part, target, inputs, [result], num_threads=num_threads)
    return result.tobytes(), counts


def assert_threads_agree(part: dict[str, Any], target: Any, inputs: list[Any], out: Any) -> None:
    alone = on_threads(part, target, inputs, out, 1)
    for num_threads in (2, 3, 8):
        assert on_threads(part, target, inputs, out, num_threads) == alone, (num_threads, part)
    assert alone[1] == _C.cost([part], target)["counts"]


@pytest.mark.parametrize("seed", range(12))
def test_matmul(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    m, n, k = rng.randint(1, 600), rng.randint(1, 1500), rng.randint(1, 700)
    dtype = rng.choice(["float32", "bfloat16"])
    bias = rng.choice([0, n])
    sizes = [1, 1, n] if bias else []
    part = matmul_part(m, n, k, dtype, bias=sizes, batch=1, a_k_major=rng.random() < 0.5)
    values = np.random.default_rng(seed)
    inputs = [to_device(values.standard_normal(size), dtype) for size in (m * k, k * n) + ((bias,) if bias else ())]
    assert_threads_agree(part, target, inputs, empty(m * n, dtype))


@pytest.mark.parametrize("seed", range(12))
def test_pointwise(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    period = rng.choice([1, 5, 768, 3000])
    elements = rng.randint(1, 2_000_000 // period) * period
    dtype, out = rng.choice(["float32", "bfloat16"]), rng.choice(list(BYTES))
    steps = [step("tensor_tensor", "multiply"), step("rng"), step("tensor_tensor", "add")]
    part = pointwise_part(elements, [access(dtype, elements), access(dtype, period)], [access(out, elements)], steps)
    values = np.random.default_rng(seed)
    inputs = [to_device(values.standard_normal(size), dtype) for size in (elements, period)]
    assert_threads_agree(part, target, inputs, empty(elements, out))
