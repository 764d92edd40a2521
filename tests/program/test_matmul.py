"""Matrix products on the emulated engines: values against numpy in float64, traffic against closed forms."""

import random
import time
from typing import Any

import numpy as np
import pytest
from programs import BYTES, EPSILON, empty, from_device, load_target, matmul_part, run, some_size, to_device

from torch_trn import _C


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("trn2")


@pytest.fixture(scope="module")
def small_target() -> Any:
    """SBUF of 24 KiB per partition: products of a few hundred need several blocks."""
    fields = load_target("trn2").to_dict()
    fields["core"]["sbuf_bytes_per_partition"] = 24 * 1024
    return _C.Target(fields)


def check_values(part: dict[str, Any], target: Any, seed: int = 0) -> dict[str, Any]:
    """Executes a product of random matrices; the error stays within fp32 accumulation and the result's rounding."""
    rng = np.random.default_rng(seed)
    batch, m, n, k = part["batch"], part["m"], part["n"], part["k"]
    a = rng.standard_normal((part["a_batch"], m, k))
    b = rng.standard_normal((part["b_batch"], k, n))
    a_stored = to_device(a.transpose(0, 2, 1) if part["a_k_major"] else a, part["a_dtype"])
    b_stored = to_device(b if part["b_k_major"] else b.transpose(0, 2, 1), part["b_dtype"])
    bias = rng.standard_normal(part["bias"] or [0])
    bias_stored = to_device(bias, part["out_dtype"])
    inputs = [a_stored, b_stored] + ([bias_stored] if bias.size else [])
    out = empty(batch * m * n, part["out_dtype"])
    counts = run(part, target, inputs, [out])

    exact_a = from_device(a_stored.ravel(), part["a_dtype"])
    exact_b = from_device(b_stored.ravel(), part["b_dtype"])
    exact_a = exact_a.reshape(-1, k, m).transpose(0, 2, 1) if part["a_k_major"] else exact_a.reshape(-1, m, k)
    exact_b = exact_b.reshape(-1, k, n) if part["b_k_major"] else exact_b.reshape(-1, n, k).transpose(0, 2, 1)
    alpha, beta = part["alpha"], part["beta"]
    expected = alpha * np.broadcast_to(exact_a @ exact_b, (batch, m, n))
    scale = abs(alpha) * np.broadcast_to(np.abs(exact_a) @ np.abs(exact_b), (batch, m, n))
    if bias.size:
        added = beta * from_device(bias_stored.ravel(), part["out_dtype"]).reshape(part["bias"])
        expected += added
        scale += np.abs(added)
    got = from_device(out, part["out_dtype"]).reshape(batch, m, n)
    # An fp32 operand that was float64 is rounded first; k additions; two scales; one store.
    bound = (k + 6) * 2**-24 * scale + EPSILON[part["out_dtype"]] * np.abs(expected) + 2**-24
    assert np.all(np.abs(got - expected) <= bound), part
    return counts


def closed_form(part: dict[str, Any], target: Any) -> tuple[int, int]:
    """HBM bytes read and written. A b that serves all batches makes the stacked rows one product."""
    batch, m, n, k = part["batch"], part["m"], part["n"], part["k"]
    plan = _C.matmul_plan(part, target)
    stacked = batch > 1 and part["b_batch"] == 1 and part["a_batch"] == batch and not part["a_k_major"]
    if stacked and (not part["bias"] or part["bias"][:2] == [1, 1]):
        batch, m = 1, batch * m
    a = m * k * BYTES[part["a_dtype"]] * plan["a_reads"]
    b = n * k * BYTES[part["b_dtype"]] * plan["b_reads"]
    read_bias = 0
    if part["bias"]:
        _, rows, columns = part["bias"]
        read_bias = batch * (m if rows > 1 else plan["num_m_blocks"]) * (n if columns > 1 else plan["num_n_blocks"])
    size = BYTES[part["out_dtype"]]
    return batch * (a + b) + read_bias * size, batch * m * n * size


def random_part(rng: random.Random, largest: int) -> dict[str, Any]:
    m, n, k = (some_size(rng, largest) for _ in range(3))
    dtype = rng.choice(["float32", "bfloat16", "float16", "float64"])
    batch = rng.choice([1, 1, 1, 2, 3])
    part = matmul_part(m, n, k, dtype, batch=batch, a_k_major=rng.random() < 0.4, b_k_major=rng.random() < 0.6)
    if rng.random() < 0.3:
        part["out_dtype"] = rng.choice(["float32", "bfloat16"])
    if batch > 1:
        part["a_batch"], part["b_batch"] = rng.choice([(batch, batch), (batch, 1), (1, batch)])
    sizes = [1, 1, n], [1, m, 1], [1, m, n], [batch, 1, n], [batch, m, 1], [batch, m, n], [batch, 1, 1], [1, 1, 1]
    part["bias"] = rng.choice(sizes) if rng.random() < 0.5 else []
    if rng.random() < 0.5:
        part["alpha"], part["beta"] = rng.choice([1.0, 0.5, -3.0]), rng.choice([1.0, 2.5])
    return part


@pytest.mark.parametrize("seed", range(120))
def test_values_and_counts(target: Any, small_target: Any, seed: int) -> None:
    rng = random.Random(seed)
    part = random_part(rng, 520 if seed % 4 == 0 else 260)
    for on in (target, small_target):
        counts = check_values(part, on, seed)
        assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part, on), part


BLOCKED = [
    # KiB of SBUF per partition, m, n, k, a_k_major, and what it is to meet: (m_outer, partial sums in SBUF)
    (20, 2100, 1100, 1030, True, (False, True)),
    (16, 400, 1030, 2100, True, (True, True)),
    (32, 520, 520, 520, True, (False, False)),
    (24, 130, 1030, 300, True, (True, False)),
]


@pytest.mark.parametrize(("kib", "m", "n", "k", "a_k_major", "kind"), BLOCKED)
def test_blocks_in_both_directions(kib: int, m: int, n: int, k: int, a_k_major: bool, kind: tuple[bool, bool]) -> None:
    fields = load_target("trn2").to_dict()
    fields["core"]["sbuf_bytes_per_partition"] = kib * 1024
    target = _C.Target(fields)
    part = matmul_part(m, n, k, a_k_major=a_k_major)
    plan = _C.matmul_plan(part, target)
    assert (plan["m_outer"], plan["k_block"] < k) == kind
    assert plan["num_m_blocks"] * plan["num_n_blocks"] > 1
    counts = check_values(part, target)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part, target)


# m, n, k, batch, a_k_major, b_k_major; every short row a descriptor of its own would be the second number.
SHORT_ROWS = [
    ((8192, 64, 64, 1, False, True), 2 * 8192 + 64),
    ((8192, 16, 16, 1, True, False), 16 + 16 + 8192),
    ((512, 512, 64, 16, False, True), 16 * (512 + 64 + 512)),
    ((512, 64, 512, 16, True, True), 16 * (512 + 512 + 512)),
    ((512, 24, 2048, 4, False, True), 4 * (512 + 2048 + 512)),
]


@pytest.mark.parametrize(("shape", "rows"), SHORT_ROWS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_short_rows_go_together(target: Any, shape: tuple[Any, ...], rows: int, dtype: str) -> None:
    m, n, k, batch, a_k_major, b_k_major = shape
    part = matmul_part(m, n, k, dtype, batch=batch, a_k_major=a_k_major, b_k_major=b_k_major, bias=[1, m, 1])
    counts = check_values(part, target)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part, target)
    without_bias = part | {"bias": []}
    assert _C.cost([without_bias], target)["counts"]["dma_descriptors"] < rows / 2


# m, n, k, batch. Stacks that are and are not whole steps; extents that are prime, whole tiles, and smaller than one.
STACKS = [
    (197, 197, 64, 37),
    (197, 64, 197, 64),
    (128, 128, 64, 66),
    (50, 50, 64, 131),
    (24, 40, 33, 70),
    (3, 5, 2, 99),
]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("a_k_major", "b_k_major"), [(False, True), (False, False), (True, True)])
def test_small_products_of_a_stack_go_together(
    target: Any, stack: tuple[int, ...], dtype: str, a_k_major: bool, b_k_major: bool
) -> None:
    m, n, k, batch = stack
    part = matmul_part(m, n, k, dtype, batch=batch, a_k_major=a_k_major, b_k_major=b_k_major)
    for bias in ([], [batch, m, n], [1, 1, n]):
        counts = check_values(part | {"bias": bias}, target)
        assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part | {"bias": bias}, target)


@pytest.mark.parametrize("name", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("stack", [(197, 197, 64, 768), (197, 64, 197, 768), (128, 128, 64, 768), (50, 50, 64, 768)])
def test_rows_of_a_stack_share_descriptors(name: str, stack: tuple[int, ...]) -> None:
    target = _C.Target(load_target(name).to_dict())
    m, n, k, batch = stack
    part = matmul_part(m, n, k, "bfloat16", batch=batch, a_k_major=False)
    assert _C.cost([part], target)["counts"]["dma_descriptors"] < batch * (m + k + m) / 2


@pytest.mark.parametrize(
    "bias", [[1, 1, 8], [1, 8, 1], [8, 1, 1], [8, 1, 8], [8, 8, 1], [1, 8, 8], [8, 8, 8], [1, 1, 1]]
)
def test_equal_extents_do_not_make_an_addend_ambiguous(target: Any, bias: list[int]) -> None:
    for fields in ({}, {"b_batch": 1}, {"a_batch": 1}):
        check_values(matmul_part(8, 8, 5, batch=8, bias=bias, beta=2.0, **fields), target)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "bfloat16", "float16", "float32"])
def test_dtypes_of_operands(target: Any, dtype: str) -> None:
    check_values(matmul_part(100, 90, 300, dtype, out_dtype="float32"), target)


def test_integers_go_through_fp32(target: Any) -> None:
    a = np.arange(-30, 30, dtype=np.int64).reshape(6, 10)
    b = np.arange(40, dtype=np.int64).reshape(10, 4)
    out = np.zeros((6, 4), dtype=np.int64)
    run(matmul_part(6, 4, 10, "int64"), target, [a, b], [out])
    assert np.array_equal(out, a @ b)


def test_one_pass_when_everything_fits(target: Any) -> None:
    for layout in [(False, True), (True, True), (False, False), (True, False)]:
        part = matmul_part(1000, 600, 700, "bfloat16", a_k_major=layout[0], b_k_major=layout[1])
        counts = _C.cost([part], target)["counts"]
        assert counts["hbm_read_bytes"] == 2 * 700 * (1000 + 600)
        assert counts["hbm_write_bytes"] == 2 * 1000 * 600


def test_rereads_are_bounded(target: Any) -> None:
    part = matmul_part(8192, 8192, 8192, "bfloat16")
    counts = _C.cost([part], target)["counts"]
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part, target)
    # Fewer bytes per FLOP than the machine balance of 725 GB/s and 157 TF.
    assert counts["hbm_read_bytes"] * 157e12 / 725e9 < 2 * 8192**3


def test_hardware_flops(target: Any) -> None:
    """Whole arrays of 128 x 128, for each moving column; transposes apart."""
    counts = _C.cost([matmul_part(200, 300, 100, "bfloat16", a_k_major=True)], target)["counts"]
    assert counts["hardware_flops"] == {"bfloat16": 2 * 128 * 128 * 2 * 300}
    assert counts["transpose_flops"] == 0
    counts = _C.cost([matmul_part(200, 300, 100, "bfloat16")], target)["counts"]
    assert counts["transpose_flops"] == 2 * 128 * 128 * 200
    assert counts["hardware_flops"] == {"bfloat16": 2 * 128 * 128 * (2 * 300 + 200)}


@pytest.mark.parametrize(("dtype", "tflops"), [("bfloat16", 149.42), ("float32", 37.67)], ids=["bfloat16", "float32"])
def test_rate_of_a_large_product(target: Any, dtype: str, tflops: float) -> None:
    """The best GEMM measured on one trn2 logical core (docs/contract.md), within 5%."""
    best = max(
        2 * size**3 / _C.cost([matmul_part(size, size, size, dtype, a_k_major=True)], target)["seconds"]
        for size in (2048, 4096, 8192)
    )
    assert best / 1e12 == pytest.approx(tflops, rel=0.05)


@pytest.mark.parametrize("layout", [(True, True), (False, True), (False, False)])
def test_tensor_engine_stays_busy(target: Any, layout: tuple[bool, bool]) -> None:
    part = matmul_part(4096, 4096, 4096, "bfloat16", a_k_major=layout[0], b_k_major=layout[1])
    cost = _C.cost([part], target)
    assert cost["bound_by"] == "TensorE"
    assert cost["busy_seconds"]["tensor"] / cost["seconds"] > 0.9


def test_empty_extents(target: Any) -> None:
    out = np.full((3, 4), np.nan, dtype=np.float32)
    run(matmul_part(3, 4, 0), target, [], [out])
    assert np.array_equal(out, np.zeros((3, 4)))
    assert _C.cost([matmul_part(0, 4, 5)], target)["counts"]["hbm_read_bytes"] == 0


def test_uninitialised_is_not_read(target: Any) -> None:
    """SBUF and PSUM hold NaN until written: a finite result has read nothing else."""
    for m, n, k in [(1, 1, 1), (129, 513, 130), (5, 700, 300)]:
        out = np.zeros((m, n), dtype=np.float32)
        run(matmul_part(m, n, k), target, [np.ones((m, k), np.float32), np.ones((k, n), np.float32)], [out])
        assert np.array_equal(out, np.full((m, n), k))


def test_speed(target: Any) -> None:
    a = np.ones((512, 512), np.float32)
    start = time.perf_counter()
    _C.execute(matmul_part(512, 512, 512), target, [a, a], [np.empty_like(a)])
    assert time.perf_counter() - start < 1.0


def test_errors(target: Any) -> None:
    part = matmul_part(4, 4, 4)
    a = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match=r"\[execute\] the array of b must have its bytes; got 32, limit 64\."):
        _C.execute(part, target, [a, a[:2]], [a.copy()])
    with pytest.raises(ValueError, match=r"\[execute\] every tensor of the program needs an array; got 1\."):
        _C.execute(part, target, [a], [a.copy()])
    with pytest.raises(ValueError, match=r"\[execute\] arrays and tensors must pair up; got 3 inputs"):
        _C.execute(part, target, [a, a, a], [a.copy()])
    with pytest.raises(ValueError, match=r"\[execute\] arrays are dense and in C order; got strides in a\."):
        _C.execute(part, target, [a.T[::1].copy().T, a], [a.copy()])
    for bias in ([1, 1, 3], [4], [2, 4, 4]):
        with pytest.raises(ValueError, match=r"\[matmul\] a bias has the result's sizes.*limit \[1, 4, 4\]"):
            _C.cost([matmul_part(4, 4, 4, bias=bias)], target)
    with pytest.raises(NotImplementedError, match=r"\[matmul\] complex elements are counted, not executed"):
        _C.execute(matmul_part(4, 4, 4, "complex64"), target, [], [])


def test_sbuf_that_holds_no_block() -> None:
    fields = load_target("trn2").to_dict()
    fields["core"]["sbuf_bytes_per_partition"] = 1024
    with pytest.raises(RuntimeError, match=r"\[matmul\] one block of each operand must fit in SBUF; got limit 1024"):
        _C.cost([matmul_part(2048, 2048, 2048)], _C.Target(fields))


def test_complex_products_count_four_real_ones(target: Any) -> None:
    counts = _C.cost([matmul_part(256, 128, 512, "complex64", a_k_major=True)], target)["counts"]
    real = _C.cost([matmul_part(256, 128, 512, "float32", a_k_major=True)], target)["counts"]
    assert counts["hardware_flops"]["float32"] == 4 * real["hardware_flops"]["float32"]
    assert counts["hbm_read_bytes"] == 8 * 512 * (256 + 128)
    assert counts["hbm_write_bytes"] == 8 * 256 * 128
