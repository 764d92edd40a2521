"""Programs under the compiler's options: --auto-cast, --native-int64, and integers that do not pass through fp32."""

from typing import Any

import numpy as np
import pytest
import torch
from programs import access, empty, from_device, load_target, matmul_part, pointwise_part, step, to_device

from torch_trn import _C

TYPES = {"bfloat16": 2**-8, "float16": 2**-11, "tfloat32": 2**-11}


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("trn2")


def precise(part: dict[str, Any], auto_cast: str = "float32", casts_all: bool = False, native: bool = False) -> Any:
    return {**part, "precision": {"auto_cast": auto_cast, "casts_all": casts_all, "native_int64": native}}


def run(part: dict[str, Any], target: Any, inputs: Any, outputs: Any) -> Any:
    executed = _C.execute(part, target, inputs, outputs)
    counted = _C.cost([part], target)["counts"]
    assert executed == counted, part
    return counted


def rounded(values: Any, dtype: str) -> Any:
    if dtype == "tfloat32":
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.rint(mantissa * 2**11) / 2**11, exponent)
    return torch.from_numpy(values).to(getattr(torch, dtype)).double().numpy()


@pytest.mark.parametrize("dtype", [*TYPES, "float8_e4m3"])
@pytest.mark.parametrize("k_major", [(False, True), (True, False), (False, False)])
def test_products_of_cast_operands(target: Any, dtype: str, k_major: tuple[bool, bool]) -> None:
    m, n, k = 130, 520, 300
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    part = matmul_part(m, n, k, a_k_major=k_major[0], b_k_major=k_major[1])
    inputs = [to_device(a.T if k_major[0] else a, "float32"), to_device(b if k_major[1] else b.T, "float32")]
    out = empty(m * n, "float32")
    counts = run(precise(part, dtype), target, inputs, [out])
    got = from_device(out, "float32").reshape(m, n)
    if dtype == "float8_e4m3":  # as e4m3fn within +-240
        x, y = rounded(a, "float8_e4m3fn"), rounded(b, "float8_e4m3fn")
    else:
        x, y = rounded(a, dtype), rounded(b, dtype)
    np.testing.assert_allclose(got, x @ y, atol=(k + 4) * 2**-24 * np.max(np.abs(x) @ np.abs(y)))
    assert np.max(np.abs(got - a.astype(np.float64) @ b)) > 1e-4  # and not the fp32 product

    plain = _C.cost([part], target)
    cast = _C.cost([precise(part, dtype)], target)
    assert cast["flops_dtype"] == dtype and plain["flops_dtype"] == "float32"
    assert counts["hbm_read_bytes"] == plain["counts"]["hbm_read_bytes"] == 4 * (m * k + k * n)


def test_passes_of_cast_products(target: Any) -> None:
    part = matmul_part(512, 512, 512, a_k_major=True)
    cycles = {
        dtype: _C.cost([precise(part, dtype)], target)["counts"]["busy_cycles"]["tensor"]
        for dtype in ("float32", "bfloat16", "float16", "tfloat32", "float8_e4m3")
    }
    one = 4 * 4 * 512  # tiles of K and M, 512 columns each
    assert cycles == {
        "float32": 4 * one,
        "bfloat16": one,
        "float16": one,
        "tfloat32": one,
        "float8_e4m3": one // 2,
    }
    assert _C.cost([precise(part)], target) == _C.cost([part], target)


def conv_part(direction: str, **fields: Any) -> dict[str, Any]:
    part = {
        "family": "conv",
        "direction": direction,
        "batch": 2,
        "in_channels": 12,
        "out_channels": 20,
        "groups": 1,
        "in": [14, 15],
        "out": [12, 13],
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "dtype": "float32",
        "bias": False,
    }
    return {**part, **fields}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("direction", ["forward", "input_gradient", "weight_gradient"])
def test_convolutions_of_cast_operands(target: Any, direction: str, groups: int) -> None:
    part = conv_part(direction, groups=groups)
    torch.manual_seed(0)
    x = torch.randn(2, 12, 14, 15)
    w = torch.randn(20, 12 // groups, 3, 3)
    g = torch.randn(2, 20, 12, 13)
    operands = {"forward": (x, w), "input_gradient": (g, w), "weight_gradient": (x, g)}[direction]

    def oracle(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if direction == "forward":
            return torch.nn.functional.conv2d(left, right, groups=groups)
        if direction == "input_gradient":
            return torch.nn.grad.conv2d_input(x.shape, right, left, groups=groups)
        return torch.nn.grad.conv2d_weight(left, w.shape, right, groups=groups)

    exact = oracle(*(t.double() for t in operands))
    cast = oracle(*(t.bfloat16().double() for t in operands))
    out = empty(exact.numel(), "float32")
    run(precise(part, "bfloat16"), target, [to_device(t.numpy(), "float32") for t in operands], [out])
    got = torch.from_numpy(from_device(out, "float32")).reshape(exact.shape)
    torch.testing.assert_close(got, cast, rtol=1e-5, atol=1e-4)
    assert (got - exact).abs().max() > 1e-3
    cycles = [
        _C.cost([precise(part, dtype)], target)["counts"]["busy_cycles"]["tensor"] for dtype in ("float32", "bfloat16")
    ]
    assert cycles[1] < cycles[0]


def test_pointwise_operands_are_cast_under_all(target: Any) -> None:
    n = 5000
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    part = pointwise_part(n, [access("float32", n)] * 2, [access("float32", n)], [step("tensor_tensor", "add")])
    inputs = [to_device(a, "float32"), to_device(b, "float32")]
    for casts_all in (False, True):
        out = empty(n, "float32")
        counts = run(precise(part, "bfloat16", casts_all), target, inputs, [out])
        x, y = (rounded(v, "bfloat16") if casts_all else v.astype(np.float64) for v in (a, b))
        expected = (x + y).astype(np.float32).astype(np.float64)
        got = from_device(out, "float32")
        np.testing.assert_array_equal(got, rounded(expected, "bfloat16") if casts_all else expected)
        plain = _C.cost([part], target)["counts"]
        assert counts["hbm_read_bytes"] == plain["hbm_read_bytes"]
        assert (counts["busy_cycles"]["vector"] < plain["busy_cycles"]["vector"]) == casts_all


def test_native_int64_takes_room(target: Any) -> None:
    n = 3000
    values = np.random.default_rng(0).integers(-(2**62), 2**62, n)
    part = pointwise_part(n, [access("int64", n)], [access("int64", n)], [step("tensor_scalar", "add", scalar=3)])
    out = empty(n, "int64")
    native = precise(part, native=True)
    counts = run(native, target, [to_device(values, "int64")], [out])
    np.testing.assert_array_equal(out.view(np.int64), values + 3)
    assert counts["sbuf_read_bytes"] == 2 * _C.cost([part], target)["counts"]["sbuf_read_bytes"]


def test_exact_integers_count_the_same(target: Any) -> None:
    m, n, k = 20, 30, 200
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**13), 2**13, (m, k)), rng.integers(-(2**13), 2**13, (k, n))
    part = matmul_part(m, n, k, "int64")
    inputs = [to_device(a, "int64"), to_device(b, "int64")]
    results = {}
    for through_fp32 in (True, False):
        out = empty(m * n, "int64")
        departures = {"integers_through_fp32": through_fp32}
        counts = _C.execute(part, target, inputs, [out], departures=departures)
        counted = _C.cost([part], target)["counts"]
        # TensorE's work has the name of its tiles' dtype.
        assert sum(counts.pop("hardware_flops").values()) == sum(counted.pop("hardware_flops").values())
        assert counts == counted
        results[through_fp32] = out.view(np.int64).reshape(m, n)
    np.testing.assert_array_equal(results[False], a @ b)
    assert not np.array_equal(results[True], a @ b)


def test_precision_is_checked(target: Any) -> None:
    part = matmul_part(8, 8, 8)
    with pytest.raises(ValueError, match=r"\[matmul.precision\] field 'casts_all' is required"):
        _C.cost([{**part, "precision": {"auto_cast": "bfloat16"}}], target)
    assert "precision" not in _C.normalize_spec([precise(part)])[0]
    assert _C.normalize_spec([precise(part, "bfloat16")])[0]["precision"]["auto_cast"] == "bfloat16"
