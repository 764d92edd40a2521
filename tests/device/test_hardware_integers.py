"""Operations that keep integers above 2^24 in hardware numerics, and those that go through fp32: docs/numerics.md."""

from collections.abc import Callable

import pytest
import torch

import torch_trn

B = 2**24
Make = Callable[..., torch.Tensor]
Operation = Callable[[Make], torch.Tensor]

EXACT: dict[str, Operation] = {
    "tril": lambda t: t(B + 1, B + 3, B + 5, B + 7).reshape(2, 2).tril(),
    "triu": lambda t: t(B + 1, B + 3, B + 5, B + 7).reshape(2, 2).triu(),
    "clone": lambda t: t(B + 1, B + 3).clone(),
    "transpose": lambda t: t(B + 1, B + 3, B + 5, B + 7).reshape(2, 2).t().contiguous(),
    "expand": lambda t: t(B + 1, B + 3)[:, None].expand(2, 3).contiguous(),
    "cat": lambda t: torch.cat([t(B + 1), t(B + 3)]),
    "flip": lambda t: t(B + 1, B + 3).flip(0),
    "roll": lambda t: t(B + 1, B + 3).roll(1),
    "repeat": lambda t: t(B + 1, B + 3).repeat(2),
    "index_select": lambda t: t(B + 1, B + 3).index_select(0, t(1, 0).long()),
    "gather": lambda t: t(B + 1, B + 3).gather(0, t(1, 0).long()),
    "take": lambda t: t(B + 1, B + 3).take(t(1, 0).long()),
    "index": lambda t: t(B + 1, B + 3)[t(1, 0).long()],
    "scatter": lambda t: t(0, 0).scatter(0, t(1, 0).long(), t(B + 1, B + 3)),
    "index_put": lambda t: t(0, 0).index_put((t(1, 0).long(),), t(B + 1, B + 3)),
    "to int64": lambda t: t(B + 1).long(),
    "to float": lambda t: t(B + 1).float(),
    "to bool": lambda t: t(B + 1, 0).bool(),
    "bitwise_and": lambda t: t(B + 1, B + 3) & 255,
    "bitwise_or": lambda t: t(B + 1, B + 3) | t(4, 8),
    "bitwise_xor": lambda t: t(B + 1, B + 3) ^ t(4, 8),
    "bitwise_not": lambda t: ~t(B + 1, B + 3),
    "left shift": lambda t: t(B + 1, B + 3) << 1,
    "right shift": lambda t: t(B + 1, B + 3) >> 1,
    "sign": lambda t: t(B + 1, -B - 1).sign(),
    "logical_not": lambda t: t(B + 1, 0).logical_not(),
}
WITH_INTEGER_FORM: dict[str, Operation] = {
    "add": lambda t: t(B + 1, B + 3) + 2,
    "sub": lambda t: t(B + 1, B + 3) - 2,
    "neg": lambda t: -t(B + 1),
    "mul": lambda t: t(B + 1) * 1,
    "addcmul": lambda t: torch.addcmul(t(B + 1), t(1), t(1)) - 1,
    "sum": lambda t: t(B + 1, 2).sum(),
    "prod": lambda t: t(B + 1, 1).prod(),
    "amax": lambda t: t(B, B + 1).amax(),
    "amin": lambda t: t(B + 3, B + 1).amin(),
    "maximum": lambda t: torch.maximum(t(B + 1), t(B)),
    "minimum": lambda t: torch.minimum(t(B + 1), t(B + 3)),
    "max": lambda t: t(B, B + 1).max(),
    "min": lambda t: t(B + 3, B + 1).min(),
    "aminmax": lambda t: t(B + 1, B + 3).aminmax()[1],
    "mm": lambda t: t(B + 1, B + 3, B + 5, B + 7).reshape(2, 2) @ t(1, 0, 0, 1).reshape(2, 2),
    "scatter_add": lambda t: t(B, 0).scatter_add(0, t(0, 1).long(), t(1, 2)),
    "index_add": lambda t: t(B, 0).index_add(0, t(0, 1).long(), t(1, 2)),
    "eq": lambda t: t(B, B + 1) == t(B + 1, B),
    "lt": lambda t: t(B, B + 1) < t(B + 1, B),
    "where": lambda t: torch.where(t(0, 1) > 0, t(B + 1, B + 3), t(B + 5, B + 7)),
    "masked_fill": lambda t: t(B + 1, B + 3).masked_fill(t(0, 1) > 0, 5),
    "clamp": lambda t: t(B + 1, B + 3).clamp(-5, None),
    "arange": lambda t: torch.arange(B, B + 9, dtype=t(0).dtype, device=t(0).device),
    "to int16": lambda t: t(B + 5).to(torch.int16),
}
THROUGH_FP32: dict[str, Operation] = {
    "abs": lambda t: t(-B - 1).abs(),
    "relu": lambda t: t(B + 1).relu(),
    "square": lambda t: t(4097).square(),
    "gcd": lambda t: torch.gcd(t(B + 1), t(B + 1)),
    "floor_divide": lambda t: t(B + 1) // 1,
    "remainder": lambda t: t(B + 1) % 2,
    "max with places": lambda t: t(B + 1, B + 3).max(0)[0],
    "min with places": lambda t: t(B + 1, B + 3).min(0)[0],
    "argmax": lambda t: t(B, B + 1, B).argmax(),
    "sort": lambda t: t(B + 1, B).sort()[0],
    "argsort": lambda t: t(B + 1, B).argsort(),
    "topk": lambda t: t(B + 1, B).topk(1)[0],
    "median": lambda t: t(B + 1).median(),
    "cumsum": lambda t: t(B + 1, 2).cumsum(0),
    "cumprod": lambda t: t(B + 1, 1).cumprod(0),
    "cummax": lambda t: t(B + 1, B + 3).cummax(0)[0],
    "searchsorted": lambda t: torch.searchsorted(t(B, B + 1, B + 2), t(B + 1)),
    "bucketize": lambda t: torch.bucketize(t(B + 1), t(B, B + 1, B + 2)),
    "isin": lambda t: torch.isin(t(B, B + 1), t(B + 1)),
}


def is_exact(operation: Operation, dtype: torch.dtype, through_fp32: bool) -> bool:
    expected = operation(lambda *values: torch.tensor(values, dtype=dtype))
    with torch_trn.set_numerics("hardware", integers_through_fp32=through_fp32):
        torch_trn.reference_operators(clear=True)
        got = operation(lambda *values: torch.tensor(values, dtype=dtype).to("trn")).cpu()
        assert not torch_trn.reference_operators(clear=True)
    return torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore::torch_trn.NarrowingWarning")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("operations", "by_default", "switched"),
    [(EXACT, True, True), (WITH_INTEGER_FORM, False, True), (THROUGH_FP32, False, False)],
    ids=["moves and bits", "with an integer form", "through fp32"],
)
def test_integers_above_2_to_the_24(
    operations: dict[str, Operation], by_default: bool, switched: bool, dtype: torch.dtype
) -> None:
    found = {
        name: (is_exact(operation, dtype, True), is_exact(operation, dtype, False))
        for name, operation in operations.items()
    }
    assert {name: exact for name, exact in found.items() if exact != (by_default, switched)} == {}


def test_casts_to_integers_drop_the_fraction_and_saturate() -> None:
    x = torch.tensor([3.5, -3.5, 2.9, 3e9, -3e9, torch.nan, torch.inf])
    lowest = -(2**31)
    expected = {
        torch.int8: [3, -3, 2, 127, -128, -128, 127],
        torch.int16: [3, -3, 2, 32767, -32768, -32768, 32767],
        torch.int32: [3, -3, 2, lowest, lowest, lowest, lowest],
        torch.uint8: [3, 0, 2, 255, 0, 0, 255],
        torch.uint32: [3, 0, 2, 3_000_000_000, 0, 0, 2**32 - 1],
    }
    with torch_trn.set_numerics("hardware"):
        assert {dtype: x.to("trn").to(dtype).cpu().tolist() for dtype in expected} == expected
