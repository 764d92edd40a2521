"""CPU scalars as operands, which ride in the instruction; constants and types that an instruction cannot hold."""

import pytest
import torch

import torch_trn

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin", "atan2", "hypot", "logaddexp", "pow", "eq"]
BINARY += ["lt", "ge", "remainder", "floor_divide", "heaviside", "copysign", "xlogy"]


def both(function, *operands):
    """The CPU's result, and the device's of the same function with tensors of more than no dimensions moved there."""
    moved = [o.to("trn") if isinstance(o, torch.Tensor) and o.dim() else o for o in operands]
    listed = torch_trn.reference_operators()
    with torch_trn.set_numerics("hardware"):
        ours = function(*moved)
    assert torch_trn.reference_operators() == listed
    return ours.cpu(), function(*operands)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY)
def test_either_operand(name, dtype):
    function = getattr(torch, name)
    x, number = torch.rand(7, dtype=dtype) + 0.5, torch.tensor(1.75, dtype=dtype)
    for operands in ((x, number), (number, x)):
        torch.testing.assert_close(*both(function, *operands))


@pytest.mark.parametrize(("name", "place"), [("addcmul", 1), ("addcmul", 2), ("addcdiv", 2), ("lerp", 2)])
def test_one_of_three_operands(name, place):
    operands = [torch.rand(7) + 0.5 for _ in range(3)]
    operands[place] = torch.tensor(0.75)
    torch.testing.assert_close(*both(getattr(torch, name), *operands))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64, torch.int32, torch.int64, torch.bool])
def test_where(dtype):
    mask = torch.tensor([True, False, True])
    x = torch.tensor([3, 0, 1]).to(dtype)
    one = torch.tensor(5).to(dtype)
    zero = torch.zeros((), dtype=dtype)
    with torch_trn.set_numerics("hardware"):
        for a, b in ((x, one), (one, x), (one, zero), (zero, one)):
            moved = [t.to("trn") if t.dim() else t for t in (a, b)]
            assert torch.equal(torch.where(mask.to("trn"), *moved).cpu(), torch.where(mask, a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int16, torch.float16])
def test_values_to_write(dtype):
    number = torch.tensor(5, dtype=dtype)
    with torch_trn.set_numerics("hardware"):
        x = torch.zeros(4, dtype=dtype, device="trn")
        x[0] = number
        x.masked_fill_(torch.tensor([False, True, False, False], device="trn"), number + 1)
        assert x.tolist() == [5, 6, 0, 0]
        assert x.clamp(min=torch.tensor(2, dtype=dtype)).tolist() == [5, 6, 2, 2]
        assert x.fill_(number).tolist() == [5] * 4


def test_a_number_does_not_decide_for_another():
    """A launch is found again by its key: powers that take different instructions are different launches."""
    x = torch.tensor([2.0, 3.0], device="trn")
    with torch_trn.set_numerics("hardware"):
        results = [x.pow(torch.tensor(float(n))).tolist() for n in (2, 3, 2, 1, 5)]
    assert results == [pytest.approx([2.0**n, 3.0**n], rel=1e-5) for n in (2, 3, 2, 1, 5)]


@pytest.mark.parametrize("name", ["atan2", "hypot", "fmax", "fmin", "logaddexp", "gcd", "heaviside"])
def test_reference_numerics(name):
    x, number = (torch.tensor([6, 4]), torch.tensor(4)) if name == "gcd" else (torch.rand(3), torch.tensor(5.0))
    function = getattr(torch, name)
    assert torch.equal(function(x.to("trn"), number).cpu(), function(x, number))


@pytest.mark.parametrize("value", [0x7FFFFFFF, 2**24 + 1, -(2**30) - 1, 12])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_bits_of_large_constants(value, dtype):
    x = torch.tensor([7, 2**24 + 1, -5], dtype=dtype)
    with torch_trn.set_numerics("hardware"):
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
            function = getattr(torch, name)
            assert torch.equal(function(x.to("trn"), value).cpu(), function(x, value))


def test_integers_as_integers():
    x = torch.tensor([7, 2**24 + 2, 2**30 + 1], dtype=torch.int32)
    with torch_trn.set_numerics("hardware", integers_through_fp32=False):
        ours = x.to("trn")
        assert torch.equal((ours + 16777217).cpu(), x + 16777217)
        assert torch.equal((ours == 2**30 + 1).cpu(), x == 2**30 + 1)
        assert torch.equal(ours.clamp(max=2**30 + 1).cpu(), x.clamp(max=2**30 + 1))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu])
def test_types_that_no_engine_has_are_listed(dtype):
    x = torch.tensor([1.0, 2.0, 0.5, 4.0])
    before = sum(torch_trn.reference_operators().values())
    with torch_trn.set_numerics("hardware"):
        ours = x.to("trn").to(dtype)
        assert torch.equal(ours.cpu().float(), x.to(dtype).float())
        assert torch.equal(ours.float().cpu(), x)
    assert sum(torch_trn.reference_operators().values()) > before
