"""Max pools of any windows by their programs: values, places and gradients as the CPU has them."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")

VOLUME, PLANE = (2, 3, 9, 14, 11), (2, 3, 17, 23)
SAMPLES = {rank: torch.rand(2, 3, rank, generator=torch.Generator().manual_seed(rank)) for rank in (2, 3)}
POOLS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "volumes": (VOLUME, lambda x: F.max_pool3d(x, 3, 2, 1, return_indices=True)),
    "volumes_uneven": (VOLUME, lambda x: F.max_pool3d(x, (2, 3, 1), (1, 2, 3), (1, 1, 0), return_indices=True)),
    "volumes_dilated": (VOLUME, lambda x: F.max_pool3d(x, 2, 1, 1, dilation=(1, 3, 2), return_indices=True)),
    "volumes_rounded_up": (VOLUME, lambda x: F.max_pool3d(x, 4, 3, 1, ceil_mode=True, return_indices=True)),
    "volumes_large": ((1, 1, 3, 260, 250), lambda x: F.max_pool3d(x, 3, 2, 1, return_indices=True)),
    "adaptive_volumes": (VOLUME, lambda x: F.adaptive_max_pool3d(x, (4, 5, 3), return_indices=True)),
    "adaptive_whole": (VOLUME, lambda x: F.adaptive_max_pool3d(x, 1, return_indices=True)),
    "adaptive_planes": (PLANE, lambda x: F.adaptive_max_pool2d(x, (5, 6), return_indices=True)),
    "planes": (PLANE, lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)),
    "planes_large": ((1, 2, 260, 250), lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)),
    "planes_large_many_taps": ((1, 1, 260, 250), lambda x: F.max_pool2d(x, 40, 9, return_indices=True)),
    "random_planes": (
        PLANE,
        lambda x: F.fractional_max_pool2d(
            x, (3, 2), (5, 9), return_indices=True, _random_samples=SAMPLES[2].to(x.device)
        ),
    ),
    "random_without_a_batch": (  # samples for more than there are
        VOLUME[1:],
        lambda x: F.fractional_max_pool3d(
            x, (2, 3, 2), (4, 5, 6), return_indices=True, _random_samples=SAMPLES[3].to(x.device)
        ),
    ),
    "random_volumes": (
        VOLUME,
        lambda x: F.fractional_max_pool3d(
            x, (2, 3, 2), (4, 5, 6), return_indices=True, _random_samples=SAMPLES[3].to(x.device)
        ),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_maxima(name: str, dtype: torch.dtype) -> None:
    sizes, pool = POOLS[name]
    if name.startswith("random"):
        dtype = torch.float32  # the CPU takes samples of the input's type
    x = torch.randn(sizes).to(dtype)
    x.view(-1)[::3] = 0.5  # equal elements: the foremost is found
    exact = x.clone().requires_grad_()
    expected, places = pool(exact)
    upstream = torch.randn(expected.shape).to(dtype)
    (gradient,) = torch.autograd.grad(expected, exact, upstream)
    on_device = x.to("trn")
    for view in (lambda t: t, lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t):
        for _ in range(2):
            given = view(on_device).detach().requires_grad_()
            torch_trn.reference_operators(clear=True)
            with torch_trn.strict(uninitialized="raise"):
                got, found = pool(given)
                (mine,) = torch.autograd.grad(got, given, upstream.to("trn"))
            assert torch_trn.reference_operators() == {}
            assert torch.equal(got.detach().cpu(), expected.detach()) and torch.equal(found.cpu(), places)
            bound = (1e-6 if dtype == torch.float32 else 2**-6) * gradient.abs().max().item()
            torch.testing.assert_close(mine.cpu(), gradient, rtol=0, atol=bound)
