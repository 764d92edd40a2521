"""Operators of several parts by their programs: values and gradients against float64, and nothing left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")

DTYPES = [torch.float32, torch.bfloat16]
BOUND = {torch.float32: 2e-5, torch.bfloat16: 2**-6}


def check(function: Callable[[Tensor], Tensor], x: Tensor, layouts: bool = True) -> None:
    """Twice, as the first launch runs on the CPU for the layout; the error is of the largest element."""
    views: list[Callable[[Tensor], Tensor]] = [lambda t: t, lambda t: t.transpose(-1, -2).contiguous().mT]
    for view in views if layouts and x.dim() > 1 else views[:1]:
        exact = view(x.double()).requires_grad_()
        expected = function(exact)
        upstream = torch.randn(expected.shape).to(x.dtype)
        (gradient,) = torch.autograd.grad(expected, exact, upstream.double())
        for _ in range(2):
            given = view(x.to("trn")).detach().requires_grad_()
            torch_trn.reference_operators(clear=True)
            with torch_trn.strict(uninitialized="raise"):
                out = function(given)
                (got,) = torch.autograd.grad(out, given, upstream.to("trn"))
            assert torch_trn.reference_operators() == {}
            for mine, oracle in ((out, expected.detach()), (got, gradient)):
                bound = BOUND[x.dtype] * max(oracle.abs().max().item(), 1e-3)
                torch.testing.assert_close(mine.detach().cpu().double(), oracle, rtol=0, atol=bound)


WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.interpolate(x[:, :, 0], size=37, mode="linear"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, size=(31, 20), mode="bilinear", align_corners=True),
    "bilinear_shrinks": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"),
    "bilinear_factor": lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(31, 20), mode="bicubic"),
    "antialiased": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", antialias=True),
    "antialiased_bicubic": lambda x: F.interpolate(x, size=(7, 40), mode="bicubic", antialias=True),
    "trilinear": lambda x: F.interpolate(x[:, :5].unsqueeze(1), size=(7, 20, 31), mode="trilinear"),
    "nearest_uneven": lambda x: F.interpolate(x, size=(37, 25)),
    "nearest_3d": lambda x: F.interpolate(x[:, :5].unsqueeze(1), scale_factor=2),
    "adaptive_uneven": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "adaptive_3d": lambda x: F.adaptive_avg_pool3d(x, (5, 7, 3)),
    "average_3d": lambda x: F.avg_pool3d(x, 3, 2, 1, ceil_mode=True),
    "average_3d_uncounted": lambda x: F.avg_pool3d(x, (3, 2, 2), 2, 1, count_include_pad=False),
    "average_3d_divisor": lambda x: F.avg_pool3d(x, 2, divisor_override=3),
    "average_large_planes": lambda x: F.avg_pool2d(F.interpolate(x[:1, :2], size=(250, 260)), 3, 2, 1),
    "unfold": lambda x: F.unfold(x, 3, padding=1, stride=2),
    "unfold_dilated": lambda x: F.unfold(x[0], (2, 3), dilation=2),
    "fold": lambda x: F.fold(x.reshape(3, -1, 192)[:, : 6 * 9], (24, 16), 3, padding=1, stride=(2, 1), dilation=1),
    "windows": lambda x: x.unfold(2, 3, 2),
    "reflect": lambda x: F.pad(x, (2, 3, 1, 0), mode="reflect"),
    "reflect_1d": lambda x: F.pad(x[0], (2, 3), mode="reflect"),
    "reflect_3d": lambda x: F.pad(x, (2, 3, 1, 0, 2, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 3, 1, 0), mode="replicate"),
    "replicate_cuts": lambda x: F.pad(x, (-2, 3, 4, -1), mode="replicate"),
    "replicate_3d": lambda x: F.pad(x, (2, 3, 1, 0, 2, 1), mode="replicate"),
}


# What the CPU has no bfloat16 kernel of; and what chooses among equals, or adds up many roundings, there.
FP32_ALONE = ("antialiased", "average_3d", "cdist", "grid", "kthvalue", "median", "logcumsumexp")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str, dtype: torch.dtype) -> None:
    if name.startswith(FP32_ALONE):
        dtype = torch.float32
    check(WINDOWS[name], torch.randn(3, 18, 16, 24).to(dtype))


INDEX = torch.randint(0, 30, (8, 30, 52), generator=torch.Generator().manual_seed(0))
GRID = torch.rand(2, 9, 7, 2, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
VOLUME = torch.rand(2, 3, 4, 5, 3, generator=torch.Generator().manual_seed(2)) * 2.4 - 1.2
PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "tril": lambda x: x.tril(2),
    "triu": lambda x: x.triu(-3),
    "triu_of_nothing": lambda x: x.triu(60),
    "small_matrices": lambda x: x.reshape(-1, 4, 4).tril(),
    "trace": lambda x: x[0].trace(),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 3:6], dim=1),
    "renorm": lambda x: x.renorm(2, 1, 3.0),
    "aminmax": lambda x: torch.stack(x.aminmax(dim=1)),
    "glu": lambda x: F.glu(x, 1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "median": lambda x: x.median(1).values,
    "kthvalue": lambda x: x.kthvalue(7, 0, keepdim=True).values,
    "grid": lambda x: F.grid_sample(
        x.reshape(2, 4, 30, 52), x.reshape(2, -1)[:, :160].reshape(2, 8, 10, 2).tanh() * 1.2, align_corners=False
    ),
    "grid_of_images": lambda x: F.grid_sample(x.reshape(2, 4, 30, 52), GRID.to(x.device, x.dtype), align_corners=True),
    "grid_to_the_border": lambda x: F.grid_sample(
        x.reshape(2, 4, 30, 52), GRID.to(x), padding_mode="border", align_corners=False
    ),
    "grid_nearest": lambda x: F.grid_sample(x.reshape(2, 4, 30, 52), GRID.to(x), "nearest", align_corners=False),
    "grid_of_volumes": lambda x: F.grid_sample(x.reshape(2, 4, 15, 2, 52), VOLUME.to(x), align_corners=False),
    "cdist": lambda x: torch.cdist(x[:, :9], x[:, 9:20].detach()),
    "cdist_of_order_3": lambda x: torch.cdist(x[:, :9], x[:, 9:20].detach(), p=3),
    "scatter_sum": lambda x: torch.zeros_like(x).scatter_reduce(1, INDEX.to(x.device), x, "sum"),
    "put": lambda x: torch.zeros_like(x).put(INDEX.to(x.device)[0, 0], x[0, 0], accumulate=True),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, x.detach().sign()),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLACES)
def test_places_and_statistics(name: str, dtype: torch.dtype) -> None:
    if name.startswith(FP32_ALONE):
        dtype = torch.float32
    check(
        PLACES[name], torch.randn(8, 30, 52).to(dtype) if name != "small_matrices" else torch.randn(4000, 4).to(dtype)
    )


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_norm(dim: int, dtype: torch.dtype) -> None:
    size = torch.rand(tuple(n if d == dim else 1 for d, n in enumerate((40, 3, 5)))).to(dtype) + 0.5
    sizes = {"cpu": size.double(), "trn": size.to("trn")}
    check(
        lambda v: torch._weight_norm_interface(v, sizes[v.device.type], dim)[0], torch.randn(40, 3, 5).to(dtype), False
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_type", [0, 1, 2])
def test_masked_softmax(mask_type: int, dtype: torch.dtype) -> None:
    """The CPU's kernel takes the mask to lie as a dense input, and its backward one of the input's size."""
    mask = torch.rand({0: (12, 12), 1: (3, 12), 2: (3, 4, 12, 12)}[mask_type]) < 0.3
    mask[..., 0] = False
    masks, x = {"cpu": mask, "trn": mask.to("trn")}, torch.randn(3, 4, 12, 12).to(dtype)
    if mask_type == 2:
        check(lambda x: torch._masked_softmax(x, masks[x.device.type], 3, 2), x, False)
    got = torch._masked_softmax(x.to("trn"), masks["trn"], 3, mask_type)
    exact = torch._masked_softmax(x.double(), mask, 3, mask_type)
    torch.testing.assert_close(got.cpu().double(), exact, rtol=0, atol=BOUND[dtype])
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_generator_decides(dtype: torch.dtype) -> None:
    """The elements that reference numerics keep, launch after launch; the arithmetic is the program's."""
    x = torch.randn(40, 30).to(dtype).to("trn")
    draws: dict[str, Callable[[], Tensor]] = {
        "dropout": lambda: F.dropout(x, 0.3),
        "turned": lambda: F.dropout(x.mT, 0.3),
        "all": lambda: F.dropout(x, 1.0),
        "coins": lambda: torch.empty_like(x).bernoulli_(0.2),
        "their own chances": lambda: torch.bernoulli(x.float().sigmoid()),
        "channels": lambda: F.dropout2d(x.view(1, 40, 5, 6), 0.5),
    }
    for name, draw in draws.items():
        torch.trn.manual_seed(5)
        with torch_trn.set_numerics("reference"):
            expected = [draw().cpu() for _ in range(3)]
        torch.trn.manual_seed(5)
        torch_trn.reference_operators(clear=True)
        for want in expected:
            got = draw().cpu()
            assert torch.equal(got == 0, want == 0), name
            torch.testing.assert_close(got, want)
        assert torch_trn.reference_operators() == {}, name
    torch.testing.assert_close(F.dropout(x, 0.3, training=False), x)
    layer = nn.Sequential(nn.Linear(30, 30), nn.Dropout(0.1)).to("trn", dtype)
    layer(x).square().sum().backward()
    assert torch_trn.reference_operators(clear=True) == {}


def test_places_of_the_devices_own_warn_nobody() -> None:
    torch_trn.narrowed_operators(clear=True)
    F.grid_sample(torch.randn(1, 2, 5, 5, device="trn"), GRID[:1].to("trn"), align_corners=False)
    assert torch_trn.narrowed_operators(clear=True) == {}


def test_search() -> None:
    torch_trn.reference_operators(clear=True)
    keys, x = torch.randn(40).sort().values, torch.randn(30, 20)
    x[0, 0] = keys[3]
    many, rows = torch.randn(30, 50).sort().values, torch.randn(30, 7)
    for right in (False, True):
        got = torch.bucketize(x.to("trn"), keys.to("trn"), right=right)
        assert torch.equal(got.cpu(), torch.bucketize(x, keys, right=right))
        got = torch.searchsorted(many.to("trn"), rows.to("trn"), right=right, out_int32=True)
        assert torch.equal(got.cpu(), torch.searchsorted(many, rows, right=right, out_int32=True))
    found = torch.randint(0, 20, (9, 9))
    for invert in (False, True):
        got = torch.isin(found.to("trn"), torch.arange(7).to("trn"), invert=invert)
        assert torch.equal(got.cpu(), torch.isin(found, torch.arange(7), invert=invert))
    assert torch_trn.reference_operators(clear=True) == {}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int32, torch.bool])
def test_eye_and_triangles_of_any_type(dtype: torch.dtype) -> None:
    torch_trn.reference_operators(clear=True)
    for sizes in ((5, 5), (200, 130), (3, 300)):
        assert torch.equal(torch.eye(*sizes, dtype=dtype, device="trn").cpu(), torch.eye(*sizes, dtype=dtype))
    ones = torch.ones(2, 140, 150).to(dtype)
    assert torch.equal(ones.to("trn").tril_(-1).cpu(), ones.tril(-1))
    assert torch_trn.reference_operators(clear=True) == {}


def test_gradient_scaling() -> None:
    """GradScaler: gradients of several sizes and types, a scale that grows, an infinity that shrinks it."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).to("trn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("trn", init_scale=8.0, growth_interval=2)
    torch_trn.reference_operators(clear=True)
    scales, x = [], torch.randn(4, 8).to("trn")
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        before = [p.grad.clone() for p in model.parameters()]
        if step == 3:
            model[0].weight.grad[2, 3] = float("inf")
        old, now = [p.detach().clone() for p in model.parameters()], scaler.get_scale()
        scaler.unscale_(optimizer)
        for gradient, p in zip(before, model.parameters(), strict=True):
            if step < 3:
                torch.testing.assert_close(p.grad.cpu(), gradient.cpu() / now)
        scaler.step(optimizer)
        assert all(torch.equal(a.cpu(), b.detach().cpu()) for a, b in zip(old, model.parameters())) == (step == 3)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [8, 16, 16, 8]
    assert not {"_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_"} & set(
        torch_trn.reference_operators()
    )


def test_embedding_with_a_largest_norm() -> None:
    table, index = torch.randn(50, 12), torch.randint(0, 50, (7, 4))
    on_device = table.to("trn")
    torch_trn.reference_operators(clear=True)
    got = F.embedding(index.to("trn"), on_device, max_norm=1.5)
    expected = F.embedding(index, table, max_norm=1.5)
    torch.testing.assert_close(got.cpu(), expected)
    torch.testing.assert_close(on_device.cpu(), table)
    assert torch_trn.reference_operators(clear=True) == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_of_batch_norm(dtype: torch.dtype) -> None:
    """SyncBatchNorm's, of several processes' statistics, against the CPU's kernels in float64."""
    x = (torch.randn(6, 5, 4, 7) * 2 + 1).to(dtype)
    gradient, weight, bias = torch.randn(x.shape).to(dtype), torch.randn(5), torch.randn(5)
    counts, running = torch.tensor([100.0, 68.0]), (torch.zeros(5), torch.ones(5))

    def pieces(device: str, wide: bool) -> list[Tensor]:
        def on(t: Tensor) -> Tensor:
            return (t.double() if wide else t).clone().to(device)

        given, upstream, w, b, c = (on(t) for t in (x, gradient, weight, bias, counts))
        kernels: Any = torch if device == "trn" else torch.ops.trn
        mean, inverse = kernels.batch_norm_stats(given, 1e-5)
        kept = [on(t) for t in running]
        both = torch.stack([mean, mean * 0.5]), torch.stack([inverse, inverse * 2])
        union = kernels.batch_norm_gather_stats_with_counts(given, *both, *kept, 0.1, 1e-5, c)
        out = kernels.batch_norm_elemt(given, w, b, *union, 1e-5)
        sums = kernels.batch_norm_backward_reduce(upstream, given, *union, w, True, True, True)
        back = kernels.batch_norm_backward_elemt(upstream, given, *union, w, *sums[:2], c)
        own = torch.batch_norm_update_stats(given, *kept, 0.1)
        return [mean, inverse, *union, out, *sums, back, *own, *kept]

    torch_trn.reference_operators(clear=True)
    for _ in range(2):
        for got, exact in zip(pieces("trn", False), pieces("cpu", True), strict=True):
            bound = BOUND[dtype] * max(exact.abs().max().item(), 1e-3)
            torch.testing.assert_close(got.cpu().double(), exact, rtol=0, atol=bound)
    assert {name for name in torch_trn.reference_operators(clear=True) if "batch_norm" in name} == set()
