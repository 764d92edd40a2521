"""Each switch of hardware numerics that operators show: its default, and what the other position gives."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import torch_trn
from torch_trn.numerics import _compiler_options, departures_in_force

INF, NAN = float("inf"), float("nan")


pytestmark = pytest.mark.usefixtures("hardware")


def executed() -> bool:
    return not torch_trn.reference_operators(clear=True)


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0, equal_nan=True)


def test_narrowing_is_counted() -> None:
    i, x = torch.arange(5, device="trn"), torch.ones(4, dtype=torch.float64, device="trn")
    torch_trn.narrowed_operators(clear=True)
    for _ in range(3):
        i + 1
    x * 2
    assert torch_trn.narrowed_operators() == {"add.Tensor": {"int64": 3}, "mul.Tensor": {"float64": 1}}
    i.clone()  # moves keep all bits
    torch.ones(3, device="trn") + 1
    assert set(torch_trn.narrowed_operators(clear=True)) == {"add.Tensor", "mul.Tensor"}
    assert torch_trn.narrowed_operators() == {}
    with torch_trn.set_numerics("reference"):
        i + 1
    assert torch_trn.narrowed_operators() == {}


def test_narrowing_warns_once_per_operator_and_dtype() -> None:
    script = """
import warnings, torch, torch_trn
i, x = torch.arange(5, device="trn"), torch.ones(4, dtype=torch.float64, device="trn")
torch_trn.set_numerics("hardware")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        i + 1
        x + 1
        i - 1
for one in caught:
    print(one.category.__name__, one.filename == __file__, one.message)
warnings.simplefilter("error")
try:
    i.mul_(2)
except torch_trn.NarrowingWarning as error:
    print("raised", error)
print(i.tolist(), i.mul_(2).tolist())
"""
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"narrowing_{os.getpid()}.py")
    with open(path, "w") as file:
        file.write(script)
    try:
        run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    finally:
        os.remove(path)
    integers = "Keep integers below 2**31, or set native_int64."
    words = "[numerics] engines hold 64-bit elements in 32 bits; got"
    assert run.stdout.splitlines() == [
        f"NarrowingWarning True {words} int64 in aten::add.Tensor. {integers}",
        f"NarrowingWarning True {words} float64 in aten::add.Tensor. Use float32.",
        f"NarrowingWarning True {words} int64 in aten::sub.Tensor. {integers}",
        f"raised {words} int64 in aten::mul_.Tensor. {integers}",
        "[0, 1, 2, 3, 4] [0, 2, 4, 6, 8]",
    ]


def test_native_int64() -> None:
    x = torch.tensor([2**40 + 5, -(2**62), 2**53 + 1, 7])
    y = torch.tensor([3, 2**61, 1, -7])
    d, e = x.to("trn"), y.to("trn")
    assert (d + e).cpu().tolist() != (x + y).tolist()
    torch_trn.narrowed_operators(clear=True)
    with torch_trn.set_numerics("hardware", native_int64=True):
        for _ in range(2):
            same(d + e, x + y)
            same(d * e, x * y)
            same(d - 1, x - 1)
            same(d > e, x > y)
            same(torch.where(d > 0, d, e), torch.where(x > 0, x, y))
            same(d.float(), x.float())
            same(torch.maximum(d, e), torch.maximum(x, y))
        assert executed()
    assert torch_trn.narrowed_operators() == {}
    with torch_trn.set_numerics("reference"), torch_trn.profile() as plain:
        d + e
    with torch_trn.set_numerics("reference", native_int64=True), torch_trn.profile() as native:
        d + e
    assert plain.hbm_read_bytes == native.hbm_read_bytes
    assert plain.narrowing and not native.narrowing
    torch_trn.set_target("trn1")
    try:
        with pytest.raises(ValueError, match=r"native_int64 exists from NeuronCore-v3 on; got NeuronCore-v2"):
            torch_trn.set_numerics("hardware", native_int64=True)
    finally:
        torch_trn.set_target("trn2")


def test_integers_through_fp32() -> None:
    big = 2**24 + 1
    a, ones = torch.full((3, 5), big), torch.ones(5, 4, dtype=torch.int64)
    table, index = torch.full((4,), big, dtype=torch.int64), torch.tensor([1, 1, 3])
    cases = {
        "mm": lambda x, y, t, i: x[:, :1].contiguous() @ y[:1],
        "mm_of_k": lambda x, y, t, i: x @ y,
        "sum": lambda x, y, t, i: x[0, :1].contiguous().sum(),
        "sum_rows": lambda x, y, t, i: x.sum(1),
        "sum_columns": lambda x, y, t, i: x.sum(0),
        "amax": lambda x, y, t, i: x.amax(1),
        "scatter_add": lambda x, y, t, i: t.scatter_add(0, i, t[:3]),
        "index_add": lambda x, y, t, i: t.index_add(0, i, t[:3]),
        "add": lambda x, y, t, i: t + t[:1],
    }
    arguments = (a, ones, table, index)
    on_device = [argument.to("trn") for argument in arguments]
    for name, function in cases.items():
        expected = function(*arguments)
        assert not torch.equal(function(*on_device).cpu(), expected), name
        with torch_trn.set_numerics("hardware", integers_through_fp32=False):
            for _ in range(2):
                torch_trn.reference_operators(clear=True)
                assert torch.equal(function(*on_device).cpu(), expected), name
                assert executed(), name


def test_exact_integer_products_of_many_tiles() -> None:
    x, y = torch.randint(-(2**12), 2**12, (200, 300)), torch.randint(-(2**12), 2**12, (300, 530))
    with torch_trn.set_numerics("hardware", integers_through_fp32=False):
        same(x.to("trn") @ y.to("trn"), x @ y)
        same(x.to("trn").t().contiguous().to("trn").t() @ y.to("trn"), x @ y)
        same(x.to("trn").sum(), x.sum())
        same(x.to("trn").sum(0), x.sum(0))
        same(x.to("trn").amin(1), x.amin(1))
        same(x.int().to("trn").sum(1), x.int().sum(1))
        assert executed()


@pytest.mark.parametrize("function", [torch.ceil, torch.trunc, torch.floor, torch.round])
def test_rounding_of_what_is_not_finite(function: torch._C._FunctionBase) -> None:
    x = torch.tensor([INF, -INF, NAN, 1.5, -1.5, 2.0**30, -(2.0**30) - 64, 0.0])
    expected = function(x)
    if function in (torch.ceil, torch.trunc):
        expected = torch.where(x.isfinite(), expected, torch.tensor(-(2.0**31)))
    same(function(x.to("trn")), expected)
    listed = torch._foreach_ceil if function is torch.ceil else torch._foreach_trunc
    same(listed([x.to("trn")])[0], torch.where(x.isfinite(), listed([x])[0], torch.tensor(-(2.0**31))))
    with torch_trn.set_numerics("hardware", rounding_through_int32=False):
        same(function(x.to("trn")), function(x))
    assert executed()


def test_floor_divide_by_zero() -> None:
    x, zero = torch.tensor([1.0, -1.0, 0.0, 7.0]), torch.tensor([0.0, 0.0, 0.0, 2.0])
    d, z = x.to("trn"), zero.to("trn")
    expected = torch.tensor([NAN, NAN, NAN, 3.0])
    for _ in range(2):
        same(torch.floor_divide(d, z), expected)
        same(torch.div(d, z, rounding_mode="floor"), expected)
    with torch_trn.set_numerics("hardware", floor_divide_zero_is_nan=False):
        for _ in range(2):
            same(torch.floor_divide(d, z), torch.floor_divide(x, zero))
            same(torch.floor_divide(d, 0.0), torch.floor_divide(x, 0.0))
            same(torch.floor_divide(d, 2.0), torch.floor_divide(x, 2.0))
    assert executed()


def test_integers_divided_by_zero_raise_every_time() -> None:
    x, y = torch.tensor([7, -7], device="trn"), torch.tensor([2, 2], device="trn")
    for function in (torch.floor_divide, torch.remainder, torch.fmod):
        function(x, y)
        assert function(x, y).tolist() == function(x.cpu(), y.cpu()).tolist()
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            function(x, torch.zeros_like(y))


def test_index_out_of_bounds() -> None:
    x, index = torch.randn(5, 3), torch.tensor([1, 9, 4])
    d, i = x.to("trn"), index.to("trn")
    for _ in range(2):
        with pytest.raises(IndexError):
            d.index_select(0, i)
        d.index_select(0, i.clamp(max=4))
    with torch_trn.set_numerics("hardware", out_of_bounds_is_nan=True):
        for _ in range(2):
            got = d.index_select(0, i).cpu()
            assert torch.equal(got[[0, 2]], x[[1, 4]]) and got[1].isnan().all()
            same(d.index_select(0, i.clamp(max=4)), x.index_select(0, index.clamp(max=4)))
        assert executed()
        assert F.embedding(i, d)[1].isnan().all()  # of which index_select is a part
        for _ in range(2):
            with pytest.raises(IndexError, match=r"out of bounds|names a row of the tensor; got 9, limit 4\."):
                d[i]
            d[i.clamp(max=4)]
            with pytest.raises(RuntimeError, match=r"out of bounds|names a row of the tensor; got 9, limit 4\."):
                d.gather(0, i[:, None])
            d.gather(0, i.clamp(max=4)[:, None])


def test_saturated_infinity_keeps_a_masked_row_finite() -> None:
    scores = torch.full((2, 4), -INF)
    d = scores.to("trn") + 0
    assert torch.softmax(d, 1).isnan().all()
    with torch_trn.set_numerics("hardware", saturate_infinity=True):
        d = scores.to("trn") + 0
        assert d.cpu()[0, 0] == torch.finfo(torch.float32).min
        same(torch.softmax(d, 1), torch.full((2, 4), 0.25))
        assert torch.exp(torch.full((3,), 200.0, device="trn")).cpu()[0] == torch.finfo(torch.float32).max


def test_outside_domains() -> None:
    x = torch.tensor([2.0**100, 0.0, 1.0])
    d = x.to("trn")
    torch.testing.assert_close(torch.log(d).cpu(), torch.log(x))
    with torch_trn.set_numerics("hardware", outside_domains="clamp"):
        torch.testing.assert_close(torch.log(d).cpu(), torch.log(x.clamp(2.0**-64, 2.0**64)))
    with torch_trn.set_numerics("hardware", outside_domains="nan"):
        assert torch.log(d).isnan().tolist() == [True, True, False]
    assert executed()
    with pytest.raises(ValueError, match=r"\[numerics\] outside_domains is one of exact, clamp, nan; got 'raise'"):
        torch_trn.set_numerics("hardware", outside_domains="raise")


def test_transposes_spread_nan_on_v2() -> None:
    x = torch.randn(200, 150)
    x[3, 5] = NAN
    torch_trn.set_target("trn1")
    try:
        with torch_trn.set_numerics("hardware"):
            assert x.to("trn").t().contiguous().isnan().sum().item() == 128
        with torch_trn.set_numerics("hardware", transpose_spreads_nan=False):
            same(x.to("trn").t().contiguous(), x.t().contiguous())
    finally:
        torch_trn.set_target("trn2")
    same(x.to("trn").t().contiguous(), x.t().contiguous())


def test_compiler_flags() -> None:
    assert _compiler_options("--model-type transformer -O1") == {}
    assert _compiler_options("--auto-cast=matmult --auto-cast-type tf32 --enable-saturate-infinity") == {
        "auto_cast": "matmult",
        "auto_cast_type": "tf32",
        "saturate_infinity": True,
    }
    assert _compiler_options("--auto-cast all --native-int64 enabled") == {"auto_cast": "all", "native_int64": True}
    with pytest.raises(ValueError, match=r"\[set_numerics\] NEURON_CC_FLAGS is a command line; got .*No closing"):
        _compiler_options("--auto-cast 'all")
    script = "import torch, torch_trn; x = torch.full((2, 2), 1 + 2**-10, device='trn'); print((x @ x)[0, 0].item())"
    for flags, expected in (("", 2 * (1 + 2**-10) ** 2), ("--auto-cast matmult", 2.0)):
        environment = {**os.environ, "NEURON_CC_FLAGS": flags, "TORCH_TRN_NUMERICS": "hardware"}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert float(run.stdout) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("switch", "value"),
    [("flush_denormals", "False"), ("stochastic_rounding", 2), ("seed", -1), ("seed", 2**64), ("auto_cast", None)],
)
def test_values_that_a_switch_does_not_take(switch: str, value: object) -> None:
    before = departures_in_force()
    with pytest.raises(ValueError, match=rf"\[set_numerics\] {switch} is .*; got {value!r}"):
        torch_trn.set_numerics("hardware", **{switch: value})
    assert departures_in_force() == before
    with torch_trn.set_numerics("hardware", seed=2**64 - 1, flush_denormals=1):
        assert departures_in_force()["seed"] == 2**64 - 1 and departures_in_force()["flush_denormals"] is True


@pytest.mark.parametrize(
    ("spelling", "expected"), [("1", True), ("on", True), ("off", False), ("no", False), ("FALSE", False), ("0", False)]
)
def test_stochastic_rounding_in_the_environment(monkeypatch: pytest.MonkeyPatch, spelling: str, expected: bool) -> None:
    monkeypatch.setenv("NEURON_RT_STOCHASTIC_ROUNDING_EN", spelling)
    with torch_trn.set_numerics("hardware"):
        assert departures_in_force()["stochastic_rounding"] is expected
    monkeypatch.setenv("NEURON_RT_STOCHASTIC_ROUNDING_EN", "perhaps")
    with pytest.raises(ValueError, match=r"NEURON_RT_STOCHASTIC_ROUNDING_EN is one of .*; got 'perhaps'"):
        torch_trn.set_numerics("hardware")
