"""Counting without walking: cost of a count, counts as closed forms, and the cycle rules of the NKI ISA."""

import time
from typing import Any

import pytest
from programs import access, load_target, matmul_part, pointwise_part, step

from torch_trn import _C


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("trn2")


def cycles(target: Any, engine: str, steps: list[dict[str, Any]], dtype: str, num_inputs: int = 1) -> int:
    """Cycles of one tile of 128 x 1000 elements."""
    n = 128 * 1000
    part = pointwise_part(n, [access(dtype, n)] * num_inputs, [access(dtype, n)], steps)
    counts = _C.cost([part], target)["counts"]
    assert counts["instructions"][engine] == len(steps)
    return int(counts["busy_cycles"][engine])


@pytest.mark.parametrize(
    ("engine", "opcode", "alu", "num_inputs", "fp32", "bf16"),
    [
        ("vector", "tensor_tensor", "add", 2, 2000, 500),
        ("vector", "tensor_tensor", "maximum", 2, 2000, 1000),
        ("vector", "tensor_tensor", "divide", 2, 8000, 1000),
        ("vector", "tensor_scalar", "multiply", 1, 1000, 250),
        ("vector", "tensor_copy", "none", 1, 1000, 250),
        ("vector", "scalar_tensor_tensor", "add", 2, 2000, 1000),
        ("vector", "select", "none", 2, 1000, 1000),
        ("vector", "reciprocal", "none", 1, 8000, 8000),
        ("vector", "tensor_tensor_scan", "add", 1, 2000, 2000),
        ("vector", "memset", "none", 0, 1000, 500),
        ("scalar", "activation", "none", 1, 1000, 1000),
        ("gpsimd", "iota", "none", 0, 1150, 1150),
        ("gpsimd", "affine_select", "none", 1, 1150, 1150),
    ],
)
def test_cycle_rules(target: Any, engine: str, opcode: str, alu: str, num_inputs: int, fp32: int, bf16: int) -> None:
    steps = [step(opcode, alu)]
    assert cycles(target, engine, steps, "float32", num_inputs) == fp32
    assert cycles(target, engine, steps, "bfloat16", num_inputs) == bf16


def test_performance_modes_follow_the_target() -> None:
    add = [step("tensor_tensor", "add")]
    assert cycles(load_target("trn1"), "vector", add, "bfloat16", 2) == 1000
    assert cycles(load_target("trn1"), "vector", [step("tensor_copy")], "bfloat16") == 1000
    assert cycles(load_target("trn3"), "scalar", [step("activation", function="relu")], "bfloat16") == 1000


def test_minimum_of_an_instruction(target: Any) -> None:
    part = pointwise_part(3, [access("float32", 3)], [access("float32", 3)], [step("activation", function="exp")])
    assert _C.cost([part], target)["counts"]["busy_cycles"]["scalar"] == 64


@pytest.mark.parametrize(("dtype", "passes"), [("float32", 4), ("bfloat16", 1), ("float8_e5m2", 0.5)])
def test_tensor_engine_cycles(target: Any, dtype: str, passes: float) -> None:
    """passes * max(min(64, M), N) for each 128 x 512 tile and K tile; out in float32."""
    part = matmul_part(256, 1024, 384, dtype, a_k_major=True, out_dtype="float32")
    counts = _C.cost([part], target)["counts"]
    assert counts["instructions"]["tensor"] == 2 * 2 * 3
    assert counts["busy_cycles"]["tensor"] == 2 * 2 * 3 * 512 * passes
    narrow = _C.cost([matmul_part(40, 10, 128, dtype, a_k_major=True, out_dtype="float32")], target)["counts"]
    assert narrow["busy_cycles"]["tensor"] == 40 * passes


def test_descriptors_are_contiguous_runs(target: Any) -> None:
    n = 128 * 1024
    for run, descriptors in [(n, 128), (1024, 128), (256, 512), (1, n)]:
        part = pointwise_part(n, [access("float32", n, run)], [access("float32", n)], [step("tensor_copy")])
        counts = _C.cost([part], target)["counts"]
        assert counts["dma_transfers"] == 2
        assert counts["dma_descriptors"] == descriptors + 128


def test_short_runs_take_longer(target: Any) -> None:
    n = 2**22
    seconds = [
        _C.cost(
            [pointwise_part(n, [access("float32", n, run)], [access("float32", n)], [step("tensor_copy")])], target
        )["seconds"]
        for run in (n, 256, 64, 8, 1)
    ]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 20 * seconds[0]


def test_bytes_on_the_chip(target: Any) -> None:
    n = 5000
    part = pointwise_part(n, [access("float64", n)] * 2, [access("bfloat16", n)], [step("tensor_tensor", "add")])
    counts = _C.cost([part], target)["counts"]
    assert counts["hbm_read_bytes"] == 2 * n * 8
    # Narrowed to fp32 by the DMA, read once by the add; the result is written by the add and read by the DMA.
    assert counts["sbuf_write_bytes"] == 2 * n * 4 + n * 2
    assert counts["sbuf_read_bytes"] == 2 * n * 4 + n * 2
    assert counts["psum_read_bytes"] == counts["psum_write_bytes"] == 0


def test_counting_does_not_walk(target: Any) -> None:
    """A product of 10^18 multiply-adds is counted exactly, about as fast as a small one."""
    part = matmul_part(10**6, 10**6, 10**6, "bfloat16", a_k_major=True)
    start = time.perf_counter()
    counts = _C.cost([part], target)["counts"]
    assert time.perf_counter() - start < 0.5
    assert counts["hbm_write_bytes"] == 2 * 10**12
    # 7812.5 K tiles by 7812.5 M tiles; a part of a tile occupies the whole array.
    assert counts["hardware_flops"]["bfloat16"] == 2 * 128 * 128 * 7813 * 7813 * 10**6


def test_counts_repeat(target: Any) -> None:
    part = matmul_part(777, 888, 999, "bfloat16", batch=3)
    assert _C.cost([part], target) == _C.cost([part], target)


def test_time_grows_with_work_and_shrinks_with_cores(target: Any) -> None:
    times = [_C.cost([matmul_part(s, s, s, "bfloat16")], target)["seconds"] for s in (256, 512, 1024, 2048, 4096)]
    assert times == sorted(times)
    fields = target.to_dict()
    fields["device"]["num_cores"] = 1
    alone = _C.cost([matmul_part(4096, 4096, 4096, "bfloat16")], _C.Target(fields))["seconds"]
    assert alone / times[-1] == pytest.approx(2, rel=0.05)


def test_a_small_launch_costs_two_dma_latencies(target: Any) -> None:
    part = pointwise_part(1, [access("float32", 1)], [access("float32", 1)], [step("tensor_copy")])
    seconds = _C.cost([part], target)["seconds"]
    fixed = 2 * target.to_dict()["core"]["dma_fixed_seconds"]
    assert fixed < seconds < fixed + 1e-6
