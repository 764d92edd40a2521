"""Convolutions under hardware numerics: every operator and layout against float64, forward and through autograd."""

import random
from collections.abc import Callable

import pytest
import torch
from models import sgd_losses
from torch import nn
from torch.nn import functional as F

import torch_trn

EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float64: 2.0**-24}
FUNCTIONS = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d), 3: (F.conv3d, F.conv_transpose3d)}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
Function = Callable[..., torch.Tensor]


pytestmark = pytest.mark.usefixtures("hardware")


def executed() -> bool:
    """No convolution since the last call ran on reference numerics."""
    return not any("conv" in name for name in torch_trn.reference_operators(clear=True))


def assert_within(got: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor, products: int) -> None:
    """One fp32 rounding for each product summed, of an operand that was float64, and one of the store."""
    bound = (products + 4) * 2.0**-24 * scale + EPSILON[got.dtype] * exact.abs() + 1e-7
    assert got.shape == exact.shape
    assert ((got.cpu().double() - exact).abs() <= bound).all()


def check(function: Function, tensors: list[torch.Tensor], products: int, **geometry: object) -> None:
    """Forward and all gradients of device tensors against those of their values in float64 on the CPU."""
    devices = [t.detach().requires_grad_() for t in tensors]
    out = function(*devices, **geometry)
    grad = torch.randn(out.shape).to(out.dtype)
    assert executed()
    out.backward(grad.to("trn"))
    assert executed()

    def exact(absolute: bool) -> list[torch.Tensor]:
        values = [t.detach().cpu().double() for t in [*devices, grad]]
        values = [v.abs() if absolute else v for v in values]
        leaves = [v.requires_grad_() for v in values[:-1]]
        result = function(*leaves, **geometry)
        result.backward(values[-1])
        return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    results = [out.detach(), *(d.grad for d in devices if d.grad is not None)]
    for got, value, scale in zip(results, exact(False), exact(True), strict=True):
        assert_within(got, value, scale, products)


@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("seed", range(40))
def test_any_convolution(seed: int, transposed: bool) -> None:
    rng = random.Random(seed)
    axes = rng.choice([1, 2, 2, 3])
    groups = rng.choice([1, 1, 2, 6])
    each = [rng.choice([1, 2, 5, 17]), rng.choice([1, 2, 5, 17])]
    kernel = [rng.choice([1, 2, 3]) for _ in range(axes)]
    stride = [rng.choice([1, 2, 3]) for _ in range(axes)]
    geometry: dict[str, object] = {
        "stride": stride,
        "padding": [rng.choice([0, 1, k - 1]) if k > 1 else 0 for k in kernel],
        "dilation": [rng.choice([1, 2]) for _ in range(axes)],
        "groups": groups,
    }
    if transposed:
        geometry["output_padding"] = [rng.randint(0, s - 1) if s > 1 else 0 for s in stride]
        geometry["dilation"] = stride
    dtype = rng.choice(list(EPSILON))
    x = torch.randn(rng.choice([1, 2, 3]), each[0] * groups, *(rng.randint(6, 9) for _ in range(axes)))
    outer, inner = (each[0] * groups, each[1]) if transposed else (each[1] * groups, each[0])
    tensors = [x, torch.randn(outer, inner, *kernel)]
    if rng.random() < 0.6:
        tensors.append(torch.randn(each[1] * groups))
    check(FUNCTIONS[axes][transposed], [t.to("trn", dtype) for t in tensors], 17 * 27 + 3 * 9**axes, **geometry)


def test_channel_counts_around_a_tile() -> None:
    for inputs, outputs in [(127, 129), (130, 64), (256, 3), (3, 257)]:
        x, w, b = torch.randn(2, inputs, 9, 7), torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)
        check(F.conv2d, [t.to("trn") for t in (x, w, b)], 9 * 257, padding=1)


def layouts(axes: int) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """The same values as another tensor lies in memory."""
    result: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda t: torch.stack([t, t + 1], -1)[..., 0],
        lambda t: torch.cat([t, t], 0)[: t.shape[0]],
        lambda t: t[:1].expand_as(t),
    ]
    if axes in CHANNELS_LAST:
        result.append(lambda t: t.contiguous(memory_format=CHANNELS_LAST[axes]))
    return result


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(axes: int, dtype: torch.dtype) -> None:
    for of_input in layouts(axes):
        for of_weight in layouts(axes):
            x = of_input(torch.randn(2, 5, *[6] * axes).to("trn", dtype))
            w = of_weight(torch.randn(7, 5, *[3] * axes).to("trn", dtype))
            check(FUNCTIONS[axes][0], [x, w, torch.randn(7).to("trn", dtype)], 500, padding=1)


def test_results_keep_their_memory_format() -> None:
    x = torch.randn(2, 5, 8, 8).to("trn").contiguous(memory_format=torch.channels_last)
    w = torch.randn(7, 5, 3, 3).to("trn")
    assert F.conv2d(x, w).is_contiguous(memory_format=torch.channels_last) == F.conv2d(x.cpu(), w.cpu()).is_contiguous(
        memory_format=torch.channels_last
    )


def test_expanded_gradient_and_frozen_weight() -> None:
    layer = nn.Conv2d(3, 8, 3).to("trn")
    x = torch.randn(2, 3, 10, 10).to("trn")
    for _ in range(2):  # the first launch computes for the layout, the second does not
        layer.zero_grad()
        layer(x).backward(torch.ones((), device="trn").expand(2, 8, 8, 8))
        assert layer.bias is not None and layer.bias.grad is not None
        assert torch.equal(layer.bias.grad.cpu(), torch.full((8,), 128.0))
    layer.weight.requires_grad_(False)
    inputs = x.clone().requires_grad_()
    torch_trn.reference_operators(clear=True)
    layer(inputs).backward(torch.ones(2, 8, 8, 8, device="trn"))
    assert executed()
    exact = F.conv_transpose2d(torch.ones(2, 8, 8, 8), layer.weight.detach().cpu())
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad.cpu(), exact)


def test_unbatched_and_time_first() -> None:
    check(F.conv2d, [torch.randn(4, 9, 9).to("trn"), torch.randn(6, 4, 3, 3).to("trn")], 500)
    x, w, b = torch.randn(11, 2, 5), torch.randn(3, 5, 7), torch.randn(7)
    out = torch.conv_tbc(x.to("trn"), w.to("trn"), b.to("trn"), 1)
    assert executed()
    torch.testing.assert_close(out.cpu(), torch.conv_tbc(x, w, b, 1), rtol=1e-5, atol=1e-5)


def test_nan_stays_where_its_window_is() -> None:
    x = torch.randn(2, 70, 12, 12)
    x[1, 3, 5, 6] = float("nan")
    w = torch.randn(80, 70, 3, 3)
    out = F.conv2d(x.to("trn"), w.to("trn"), padding=1).cpu()
    assert executed()
    assert torch.equal(out.isnan(), F.conv2d(x, w, padding=1).isnan())


def test_training_is_close_to_reference_numerics() -> None:
    def losses(mode: str) -> list[float]:
        torch.manual_seed(0)
        with torch_trn.set_numerics(mode):
            model = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, groups=16),
                nn.Conv2d(16, 4, 1),
            ).to("trn")
            x = torch.randn(4, 3, 16, 16).to("trn")
            y = F.avg_pool2d(x, 2).mean(1, keepdim=True).expand(4, 4, 8, 8)
            return sgd_losses(model, x, y, 0.5, 10)

    reference = losses("reference")
    assert reference[-1] < reference[0]
    torch.testing.assert_close(losses("hardware"), reference, rtol=1e-4, atol=0)
