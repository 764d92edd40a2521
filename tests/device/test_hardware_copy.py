"""Copies, casts and concatenations by their programs: bits against the CPU in any layout, and nothing left out."""

from collections.abc import Callable

import pytest
import torch

import torch_trn

Tensor = torch.Tensor
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


pytestmark = pytest.mark.usefixtures("hardware")


def check(function: Callable[..., Tensor], *arguments: Tensor) -> None:
    """The same bits and strides as on the CPU, three times over."""
    expected = function(*arguments)
    for _ in range(3):
        on_device = [a.to("trn") for a in arguments]
        torch_trn.reference_operators(clear=True)
        out = function(*on_device)
        assert torch_trn.reference_operators() == {}
        assert out.stride() == expected.stride()
        assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype: torch.dtype) -> None:
    x = torch.randint(0, 100, (3, 20, 30, 8)).to(dtype)
    check(lambda x: x.clone(), x)
    check(lambda x: x.transpose(2, 3).contiguous(), x)
    check(lambda x: x.permute(3, 1, 0, 2).contiguous(), x)
    check(lambda x: x.permute(0, 2, 1, 3).contiguous(), x)
    check(lambda x: x.contiguous(memory_format=torch.channels_last), x)
    check(lambda x: x.contiguous(memory_format=torch.channels_last).contiguous(), x)
    check(lambda x: x[:, 1:, ::2].contiguous(), x)
    check(lambda x: x[..., ::2].contiguous(), x)
    check(lambda x: x[0, 0].t().contiguous(), x)
    check(lambda x: x[:, :1].expand(3, 7, 30, 8).contiguous(), x)
    check(lambda x: x[0, 0, 0, 0].expand(5, 6).contiguous(), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_casts(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (40, 50)).to(dtype)
    for other in DTYPES:
        check(lambda x: x.to(other), x)  # noqa: B023
        check(lambda x: x.t().to(other, memory_format=torch.contiguous_format), x)  # noqa: B023
        check(lambda x: x[:, ::2].to(other), x)  # noqa: B023


def test_bits_are_kept() -> None:
    wide = torch.randint(-(2**63), 2**63 - 1, (1000,))
    check(lambda x: x.clone(), wide)
    nans = torch.randint(-(2**31), 2**31, (999,)).int().view(torch.float32)
    torch_trn.reference_operators(clear=True)
    assert torch.equal(nans.to("trn").clone().cpu().view(torch.int32), nans.view(torch.int32))
    complex_values = torch.randn(30, 4, dtype=torch.complex64)
    check(lambda x: x.clone(), complex_values)
    assert torch_trn.reference_operators(clear=True) == {}


def test_writes_into_views_leave_the_rest() -> None:
    x, y = torch.randn(20, 30), torch.randn(10, 30)

    def write(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[::2].copy_(y)
        x[:, ::3] = y[0, 0]
        x[:, 1::3].copy_(y.t()[:20, :10])
        x[5:7] = y[3]
        return x

    check(write, x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_concatenations(dtype: torch.dtype) -> None:
    a, b, c = (torch.randint(0, 100, (n, 30, 4)).to(dtype) for n in (3, 3, 5))
    check(lambda a, b: torch.cat([a, b], 1), a, b)
    check(lambda a, b, c: torch.cat([a, b, c], 0), a, b, c)
    check(lambda a, b: torch.cat([a, b], -1), a, b)
    check(lambda a, b: torch.stack([a, b], 2), a, b)
    check(lambda a, b: torch.stack([a, b]), a, b)
    check(lambda a, b: torch.stack([a, b], -1), a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_concatenations_of_what_lies_differently(dtype: torch.dtype) -> None:
    """Dense tensors, slices of other strides and other dtypes: a part of the program each."""
    a, b = (torch.randint(0, 100, (6, n, 10)).to(dtype) for n in (8, 3))
    check(lambda a: torch.cat([-a[..., 5:], a[..., :5]], -1), a)  # rotary embedding
    check(lambda a, b: torch.cat([a[:, :, ::2], b[:, :, :5]], 1), a, b)
    check(lambda a, b: torch.cat([b, a[:, ::2], b, b], 1), a, b)
    check(lambda a, b: torch.cat([a[:, 0:4:2], b[:, :1], b], 1), a, b)
    check(lambda a, b: torch.stack([a[:, :3], b], 1), a, b)
    check(lambda a, b: torch.cat([a.new_zeros(0), a, b[:, 1:]], -2), a, b)  # a cache's first keys
    check(lambda a, b: torch.cat([a.half(), b], 1), a, b)
    check(lambda a, b: torch.cat([a[:, 1:].float(), b[:, 1:].bfloat16()], 1), a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_concatenations_of_what_repeats(dtype: torch.dtype) -> None:
    """As a class token that every sample of a batch has: it is read once."""
    a, token = torch.randint(0, 100, (6, 8, 10)).to(dtype), torch.randint(0, 100, (1, 1, 10)).to(dtype)
    check(lambda a, t: torch.cat([t.expand(6, -1, -1), a], 1), a, token)
    check(lambda a, t: torch.cat([a, t.expand(6, 3, 10), a[:, :1]], 1), a, token)
    check(lambda a, t: torch.cat([a, a[:, :, :1].expand(6, 8, 5)], 2), a, token)
    check(lambda a, t: torch.cat([a[:1].expand(6, 8, 10), a[:, :1].expand(6, 8, 10)], -1), a, token)
    check(lambda a, t: torch.stack([t.expand(6, 8, 10), a], 2), a, token)
    check(lambda a, t: torch.stack([a, a[:1, :, :1].expand(6, 8, 10)], -1), a, token)
    check(lambda a, t: torch.cat([a[:1, :, None].expand(6, 8, 3, 10), a[:, :, None]], 2), a, token)
    check(lambda a, t: torch.cat([t.expand(6, 2, 10).half(), a], 1), a, token)
    with torch_trn.profile() as prof:
        torch.cat([torch.ones(1, 1, 10, device="trn").expand(6, -1, -1), torch.ones(6, 8, 10, device="trn")], 1)
    (row,) = [row for row in prof.by_operator() if row.name == "cat"]
    assert (row.hbm_read_bytes, row.hbm_write_bytes) == (4 * (10 + 480), 4 * 540)


def test_windows_that_overlap_are_read_whole() -> None:
    x = torch.randn(6, 32)
    check(lambda x: x.unfold(1, 8, 4) * 2 + 1, x)
    check(lambda x: x.unfold(1, 8, 4) + x[:, :8].unsqueeze(1), x)
    check(lambda x: x.as_strided((2, 3, 16, 8), (0, 8, 1, 1)).abs(), x)
    check(lambda x: torch.cat([x[0].unfold(0, 8, 4), x[:, :8]]), x)
    with torch_trn.profile() as prof:
        x.to("trn").unfold(1, 8, 4).neg()
    (row,) = [row for row in prof.by_operator() if row.name == "neg"]
    assert row.hbm_read_bytes == 4 * 6 * 7 * 8


def test_gradients() -> None:
    def backward(x: Tensor, gradient: Tensor) -> Tensor:
        x.requires_grad_()
        torch.cat([x.t().contiguous(), x.t().clone()], 1).backward(gradient)
        assert x.grad is not None
        return x.grad

    x = torch.randn(9, 70)
    for device in ("cpu", "trn"):
        torch_trn.reference_operators(clear=True)
        result = backward(x.detach().clone().to(device), torch.ones(70, 18).to(device))
        assert torch.equal(result.cpu(), torch.full((9, 70), 2.0))
    assert torch_trn.reference_operators(clear=True) == {}


def test_what_has_no_program_is_listed() -> None:
    x = torch.randn(6, 5, dtype=torch.complex64, device="trn")
    torch_trn.reference_operators(clear=True)
    assert torch.equal(x.t().contiguous().cpu(), x.cpu().t())
    assert torch_trn.reference_operators(clear=True) == {"_copy_from": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes(dtype: torch.dtype) -> None:
    """Flips, rolls, repetitions, shuffles and broadcasts along several axes, of strided sources too."""
    x = torch.randint(0, 100, (6, 20, 9, 8)).to(dtype)
    for view in (lambda x: x, lambda x: x.transpose(1, 2), lambda x: x[:, ::2]):
        for dims in ([0], [3], [1, 2], [0, 1, 2, 3]):
            check(lambda x: view(x).flip(dims), x)  # noqa: B023
        for shifts, dims in ((3, 0), (-5, 3), ([2, 3], [1, 2]), ([1, -2, 3], [0, 1, 3]), (0, 1), (11, 1)):
            check(lambda x: view(x).roll(shifts, dims), x)  # noqa: B023
        check(lambda x: view(x).repeat(2, 1, 3, 1), x)  # noqa: B023
        check(lambda x: view(x)[0, 0].repeat(3, 2, 2), x)  # noqa: B023
        check(lambda x: torch.narrow_copy(view(x), 2, 1, 3), x)  # noqa: B023
    check(lambda x: x.roll(100), x)
    check(lambda x: x[:, :1, :, :1].expand(6, 5, 9, 4).contiguous(), x)
    check(lambda x: x[0, 0, 0].expand(3, 8).unsqueeze(1).expand(3, 4, 8).transpose(0, 2).contiguous(), x)
    check(lambda x: torch.pixel_shuffle(x, 2), x)
    check(lambda x: torch.pixel_unshuffle(x[:, :, :8], 4), x)
    if dtype.is_floating_point:
        check(lambda x: torch.nn.functional.channel_shuffle(x, 5), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_launches_on_several_threads(dtype: torch.dtype) -> None:
    """Loops within a loop that is too small to be shared among threads are not shared either."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(20):
            x = torch.randint(0, 100, (2, 3, 17, 23)).to(dtype)
            got = x.to("trn").to(memory_format=torch.channels_last)
            assert torch.equal(got.cpu(), x)
    finally:
        torch.set_num_threads(before)
