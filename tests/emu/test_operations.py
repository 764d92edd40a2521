"""Operations and element types by nki.language's names: values, engines, generations, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from machine import new_core

UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


@pytest.mark.parametrize("name", UNARY)
def test_operations_of_one_operand(name: str) -> None:
    core = new_core()
    values = np.random.default_rng(0).uniform(0.5, 4, (4, 64)).astype(np.float32)
    x, y = core.sbuf("float32", 4, 64), core.sbuf("float32", 4, 64)
    x.write(-values if name == "abs" else values)
    core.tensor_scalar(y, x, name, None)
    np.testing.assert_allclose(y.read(), UNARY[name](values), rtol=2e-7)
    core.tensor_scalar(y, x, "multiply", 2.0, op1=name)
    np.testing.assert_allclose(y.read(), UNARY[name](2 * values), rtol=2e-7)
    with pytest.raises(RuntimeError, match=r"\[tensor_scalar\] an operation of two has an operand; got none for add"):
        core.tensor_scalar(y, x, "add")


def test_rsqrt_is_gpsimds() -> None:
    core = new_core()
    x, y = core.sbuf("float32", 4, 64), core.sbuf("float32", 4, 64)
    x.write(np.ones((4, 64)))
    core.tensor_scalar(y, x, "rsqrt", 0.0, engine="gpsimd")
    core.tensor_scalar(y, x, "rsqrt")
    timeline = core._shared.timeline()
    assert {timeline["engines"][engine] for engine in timeline["engine"]} == {"gpsimd"}
    with pytest.raises(RuntimeError, match="rsqrt runs on GpSimdE; got vector"):
        core.tensor_scalar(y, x, "rsqrt", engine="vector")
    with pytest.raises(RuntimeError, match="operands lie in SBUF; got psum"):
        core.tensor_scalar(core.psum("float32", 4, 64), x, "rsqrt")
    with pytest.raises(RuntimeError, match="an engine has the instruction; got tensor"):
        core.tensor_tensor(y, x, x, "add", engine="tensor")


DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "erf_dx": lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x),
    "gelu_apprx_sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu_apprx_sigmoid_dx": lambda x: (s := 1 / (1 + np.exp(-1.702 * x))) * (1 + 1.702 * x * (1 - s)),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_activations_by_nki_languages_names(name: str) -> None:
    core = new_core()
    values = np.linspace(-4, 4, 256, dtype=np.float32).reshape(4, 64)
    x, y = core.sbuf("float32", 4, 64), core.sbuf("float32", 4, 64)
    x.write(values)
    core.activation(y, name, x)
    np.testing.assert_allclose(y.read(), DERIVATIVES[name](values.astype(np.float64)), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["left_shift", "right_shift", "invert"])
def test_bit_operations_by_nki_languages_names(name: str) -> None:
    core = new_core()
    x, y = core.sbuf("int32", 1, 3), core.sbuf("int32", 1, 3)
    values = np.array([[1, 12, 77]], np.int32)
    x.write(values)
    core.tensor_scalar(y, x, name, None if name == "invert" else 2)
    expected = np.invert(values) if name == "invert" else getattr(np, name)(values, 2)
    np.testing.assert_array_equal(y.read(), expected)


def test_errors_name_the_instruction() -> None:
    core = new_core()
    x = core.sbuf("float32", 1, 4)
    x.write(np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"\[tensor_scalar\] an operation .*got plus\. Use one of add"):
        core.tensor_scalar(x, x, "plus", 1.0)
    with pytest.raises(ValueError, match=r"\[activation\] an operation .*got cosine"):
        core.activation(x, "cosine", x)
    with pytest.raises(ValueError, match=r"\[tensor_copy\] an engine .*got cpu"):
        core.tensor_copy(x, x, engine="cpu")
    with pytest.raises(ValueError, match=r"\[activation\] reduce_cmd is idle, .*got sum"):
        core.activation(x, "copy", x, reduce_cmd="sum")


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "complex64"])
def test_no_tile_has_64_bits(dtype: str) -> None:
    with pytest.raises(RuntimeError, match=rf"\[sbuf\] an element on the chip has at most 32 bits; got {dtype}"):
        new_core().sbuf(dtype, 2, 2)
    if dtype == "int64":
        new_core(native_int64=True).sbuf(dtype, 2, 2)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"])
def test_dtypes_of_later_generations(dtype: str) -> None:
    for target in ("trn1", "trn2"):
        with pytest.raises(RuntimeError, match=rf"{dtype} exists from NeuronCore-v4 on; got NeuronCore-v[23]"):
            new_core(target).sbuf(dtype, 2, 2)
    new_core("trn3").sbuf(dtype, 2, 2)


@pytest.mark.parametrize("engine", ["tensor", "vector", "scalar", "gpsimd", "sync", "dma"])
def test_semaphores_cost_no_cycles_on_any_engine(engine: str) -> None:
    core = new_core()
    core.semaphore_increment(0, engine=engine)
    core.semaphore_wait(0, 1, engine=engine)
    counts = core.counts()
    assert counts["instructions"][engine] == 2
    assert counts["busy_cycles"][engine] == 0
