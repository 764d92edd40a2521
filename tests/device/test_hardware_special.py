"""Special functions by their programs, over the reach of fp32, against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import special
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")


def logarithmic(low: float, high: float) -> Tensor:
    return torch.logspace(low, high, 400, dtype=torch.float64).float()


SIZES = logarithmic(-4, 2)
SIGNED = torch.cat([SIZES, -SIZES, torch.zeros(1)])
NEAR = torch.cat([torch.linspace(-9.97, 9.98, 401), torch.zeros(1)])
# The error in parts of 2^-24 of each value, or of 1 where values are smaller.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, float]] = {
    "lgamma": (torch.lgamma, torch.cat([NEAR, logarithmic(-6, 10)]), 64),
    "digamma": (torch.digamma, torch.cat([NEAR, logarithmic(-3, 8)]), 512),
    "trigamma": (lambda x: torch.polygamma(1, x), torch.cat([NEAR[1:-1], logarithmic(-3, 8)]), 2048),
    "mvlgamma": (lambda x: torch.mvlgamma(x, 3), logarithmic(0.1, 6), 64),
    "i0": (torch.i0, SIGNED.clamp(-88, 88), 256),
    "i0e": (special.i0e, SIGNED, 8),
    "i1": (special.i1, SIGNED.clamp(-88, 88), 256),
    "i1e": (special.i1e, SIGNED, 8),
    "k0": (special.modified_bessel_k0, SIZES, 64),
    "k1": (special.modified_bessel_k1, SIZES, 64),
    "scaled_k0": (special.scaled_modified_bessel_k0, SIZES, 64),
    "scaled_k1": (special.scaled_modified_bessel_k1, SIZES, 64),
    "j0": (special.bessel_j0, SIGNED, 64),
    "j1": (special.bessel_j1, SIGNED, 64),
    "y0": (special.bessel_y0, SIZES, 64),
    "y1": (special.bessel_y1, SIZES, 64),
    "spherical_j0": (special.spherical_bessel_j0, SIGNED, 16),
    "erfcx": (special.erfcx, torch.cat([SIZES, -SIZES.clamp(0, 9)]), 1024),
    "log_ndtr": (special.log_ndtr, SIGNED, 64),
    "ndtri": (special.ndtri, torch.cat([logarithmic(-18, -0.4), 1 - logarithmic(-4, -0.4), torch.zeros(1)]), 64),
    "copysign": (lambda x: torch.copysign(x, x.roll(1)), torch.cat([SIGNED, -torch.zeros(2), torch.zeros(2)]), 0),
    "ldexp": (lambda x: torch.ldexp(x, x.mul(7).round().clamp(-80, 80)), SIGNED, 64),
}
KINDS = ["t", "u", "v", "w"]


def worst(got: Tensor, exact: Tensor) -> float:
    finite = exact.isfinite()
    assert torch.equal(got.isnan(), exact.isnan()) and torch.equal(
        got[~finite & ~exact.isnan()], exact[~finite & ~exact.isnan()]
    )
    return ((got - exact).abs() / exact.abs().clamp_min(1))[finite].max().item() * 2**24


@pytest.mark.parametrize("name", CASES)
def test_special_functions(name: str) -> None:
    function, x, bound = CASES[name]
    exact = function(x.double())
    exact = torch.where(exact.abs() > torch.finfo(torch.float32).max, exact * torch.inf, exact)
    torch_trn.reference_operators(clear=True)
    for dtype in (torch.float32, torch.bfloat16) if name == "i0e" else (torch.float32,):
        got = function(x.to("trn", dtype)).cpu().double()
        assert worst(got, exact) <= (bound if dtype == torch.float32 else 2.0**16), worst(got, exact)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chebyshev_polynomials(kind: str, shifted: bool) -> None:
    """Errors grow with the degree, which multiplies the angle's."""
    function = getattr(special, f"{'shifted_' if shifted else ''}chebyshev_polynomial_{kind}")
    x, n = torch.meshgrid(torch.linspace(-1.5, 1.5, 61), torch.arange(-1.0, 12), indexing="ij")
    exact = function(x.double(), n.double())
    torch_trn.reference_operators(clear=True)
    got = function(x.to("trn"), n.to("trn")).cpu().double()
    assert worst(got, exact) < 4096, worst(got, exact)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16, torch.uint8])
def test_integers(dtype: torch.dtype) -> None:
    high = 120 if dtype == torch.uint8 else 30_000
    a, b = (torch.randint(0 if dtype == torch.uint8 else -high, high, (40, 30)).to(dtype) for _ in range(2))
    a[0], b[:, 0] = 0, 0
    torch_trn.reference_operators(clear=True)
    for function in (torch.gcd, torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor):
        assert torch.equal(function(a.to("trn"), b.to("trn")).cpu(), function(a, b)), function
    small = b.remainder(7)
    for shift in (
        torch.bitwise_left_shift,
        torch.bitwise_right_shift,
        torch.Tensor.__lshift__,
        torch.Tensor.__rshift__,
    ):
        assert torch.equal(shift(a.to("trn"), small.to("trn")).cpu(), shift(a, small)), shift
        assert torch.equal(shift(a.to("trn"), 3).cpu(), shift(a, 3)), shift
    assert torch.equal((~a.to("trn")).cpu(), ~a)
    few = a.remainder(100), b.remainder(60)
    if dtype != torch.uint8:
        assert torch.equal(torch.lcm(few[0].to("trn"), few[1].to("trn")).cpu(), torch.lcm(*few))
    assert torch_trn.reference_operators() == {}


def test_gradients_of_a_gamma_distribution() -> None:
    def run(device: str, dtype: torch.dtype) -> Tensor:
        shape = torch.linspace(0.1, 20, 60).to(device, dtype).requires_grad_()
        rate = torch.linspace(3, 0.5, 60).to(device, dtype)
        loss = torch.distributions.Gamma(shape, rate).log_prob(torch.full_like(rate, 0.7)).sum()
        return torch.autograd.grad(loss, shape)[0].cpu().double()

    torch.testing.assert_close(run("trn", torch.float32), run("cpu", torch.float64), rtol=1e-5, atol=1e-5)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", ["multi", "multi_squared", "multi_weighed", "multilabel"])
def test_margin_losses(loss: str, reduction: str) -> None:
    target = torch.randint(0, 9, (20,)) if loss != "multilabel" else torch.stack([torch.randperm(9) for _ in range(20)])
    if loss == "multilabel":
        target[torch.arange(20), torch.randint(0, 9, (20,))] = -1
    scores, weight = torch.randn(20, 9), torch.rand(9)

    def run(device: str, dtype: torch.dtype) -> list[Tensor]:
        x = scores.to(device, dtype).requires_grad_()
        if loss == "multilabel":
            out = F.multilabel_margin_loss(x, target.to(device), reduction=reduction)
        else:
            own = weight.to(device, dtype) if loss == "multi_weighed" else None
            power = 2 if loss == "multi_squared" else 1
            out = F.multi_margin_loss(x, target.to(device), p=power, margin=0.8, weight=own, reduction=reduction)
        return [t.detach().cpu().double() for t in (out, *torch.autograd.grad(out.square().sum(), x))]

    exact = run("cpu", torch.float64)
    for _ in range(2):
        torch_trn.reference_operators(clear=True)
        for got, oracle in zip(run("trn", torch.float32), exact, strict=True):
            torch.testing.assert_close(got, oracle, rtol=1e-5, atol=1e-6)
        assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, float("inf")])
def test_distances_of_rows(p: float) -> None:
    rows = torch.randn(13, 40)

    def run(device: str, dtype: torch.dtype) -> list[Tensor]:
        x = rows.to(device, dtype).requires_grad_()
        out = F.pdist(x, p)
        return [t.detach().cpu().double() for t in (out, *torch.autograd.grad(out.log().sum(), x))]

    exact = run("cpu", torch.float64)
    torch_trn.reference_operators(clear=True)
    for got, oracle in zip(run("trn", torch.float32), exact, strict=True):
        torch.testing.assert_close(got, oracle, rtol=1e-4, atol=1e-5 * oracle.abs().max().item())
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("sizes", [(5, 5), (3, 8), (9, 2)])
def test_indices_of_triangles(sizes: tuple[int, int]) -> None:
    for function in (torch.tril_indices, torch.triu_indices):
        for offset in (-3, -1, 0, 2, 20):
            expected = function(*sizes, offset)
            assert torch.equal(function(*sizes, offset, device="trn").cpu(), expected)
    assert torch_trn.reference_operators() == {}


def test_histograms() -> None:
    x = torch.randn(3000)
    for low, high in ((0, 0), (-1, 2), (-2.5, 2.5)):
        expected = torch.histc(x, 16, low, high)
        got = torch.histc(x.to("trn"), 16, low, high).cpu()
        # An element within a rounding of a bin's edge may fall to either side.
        assert (got - expected).abs().max() <= 1 and abs((got - expected).sum()) <= 1
    experts = torch.randint(0, 8, (500,))
    assert torch.equal(torch.histc(experts.to("trn"), 8, 0, 7).cpu(), torch.bincount(experts, minlength=8))
    assert torch_trn.reference_operators() == {}
