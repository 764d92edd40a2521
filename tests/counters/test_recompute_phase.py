"""What counts as recomputed: activation checkpointing's second forward pass, and no other work of a backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import torch_trn

ROWS, WIDTH = 8, 64
PRODUCT = 2 * ROWS * WIDTH * WIDTH

Function = Callable[[torch.Tensor], torch.Tensor]


class Product(torch.autograd.Function):
    """A matmul with a backward pass of the user's own."""

    @staticmethod
    def forward(ctx, a, w):
        ctx.save_for_backward(a, w)
        return a @ w

    @staticmethod
    def backward(ctx, gradient):
        a, w = ctx.saved_tensors
        with torch.enable_grad():
            return gradient @ w.t(), a.t() @ gradient


@pytest.fixture
def x(device: torch.device) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, device=device, requires_grad=True)


@pytest.fixture
def w(device: torch.device) -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, device=device, requires_grad=True)


def recorded(work: Callable[[], object]) -> tuple[int, set[str]]:
    """Model FLOPs, which FlopCounterMode counts the same of work that repeats nothing, and the phases."""
    with torch_trn.profile() as prof:
        work()
    return prof.flops, {row.name for row in prof.by_phase()}


def expected(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


DERIVATIVES = {
    "func.grad": lambda x, w: torch.func.grad(lambda w: (x @ w).square().sum())(w),
    "func.vjp": lambda x, w: torch.func.vjp(lambda w: x @ w, w)[1](torch.ones_like(x)),
    "vmap of grad": lambda x, w: torch.func.vmap(torch.func.grad(lambda a: (a @ w).square().sum()))(x[:, None]),
    "jvp of grad": lambda x, w: torch.func.jvp(
        torch.func.grad(lambda w: (x @ w).square().sum()), (w,), (torch.ones_like(w),)
    ),
    "create_graph": lambda x, w: torch.autograd.grad(
        (x.requires_grad_() @ w).tanh().sum(), x, create_graph=True, retain_graph=False
    ),
    "grad in grad mode": lambda x, w: Product.apply(x.requires_grad_(), w.requires_grad_()).tanh().sum().backward(),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at the first jvp
@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_derivative_repeats_nothing(name: str, x: torch.Tensor, w: torch.Tensor) -> None:
    def work() -> None:
        DERIVATIVES[name](x.detach(), w.detach())

    flops, phases = recorded(work)
    assert flops == expected(work) >= 2 * PRODUCT
    assert phases == {"forward", "backward"}


def no_grad_part(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scale = (a @ w).amax()
    return (a @ w).tanh() / scale


def with_a_gradient_inside(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    (slope,) = torch.autograd.grad((a @ w).tanh().sum(), a, create_graph=True)
    return slope.square()


BODIES = {
    "matmul": lambda a, w: (a @ w).tanh(),
    "custom function": lambda a, w: Product.apply(a, w).tanh(),
    "no_grad part": no_grad_part,
    "products behind each other": lambda a, w: ((a @ w).tanh() @ w).tanh(),
}


def plain(function: Function, x: torch.Tensor) -> torch.Tensor:
    return function(x)


def reentrant(function: Function, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(function, x, use_reentrant=True)


def stored(function: Function, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(function, x, use_reentrant=False)


KINDS = [reentrant, stored]


def assert_as_plain(make: Callable[..., torch.Tensor], kind: Callable[..., torch.Tensor], retain: bool = False) -> None:
    """The model FLOPs of a forward and backward pass without checkpoints, and a phase for what was repeated."""

    def work(call: Callable[..., torch.Tensor]) -> Callable[[], None]:
        return lambda: make(call).sum().backward(retain_graph=retain)

    without, phases = recorded(work(plain))
    assert without == expected(work(plain)) > 0
    assert phases == {"forward", "backward"}
    assert recorded(work(kind)) == (without, {"forward", "backward", "recompute"})


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BODIES)
def test_a_checkpoint_counts_as_without(name, kind, retain, x, w) -> None:
    assert_as_plain(lambda call: call(lambda a: BODIES[name](a, w), x), kind, retain)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the inner of two reentrant ones
@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("outer", KINDS)
def test_nested_checkpoints_count_as_without(outer, inner, x, w) -> None:
    def make(call):
        within = plain if call is plain else inner
        return call(lambda a: within(lambda b: (b @ w).tanh(), (a @ w).tanh()), x)

    assert_as_plain(make, outer)


def test_a_gradient_inside_of_a_checkpoint_is_repeated_with_it(x, w) -> None:
    assert_as_plain(lambda call: call(lambda a: with_a_gradient_inside(a, w), x), stored)


@pytest.mark.parametrize("kind", KINDS)
def test_two_losses_over_one_checkpoint(kind, x, w) -> None:
    def work(call) -> None:
        y = call(lambda a: (a @ w).tanh(), x)
        y.sum().backward(retain_graph=True)
        y.square().sum().backward()

    without, _ = recorded(lambda: work(plain))
    assert without == expected(lambda: work(plain)) == 5 * PRODUCT
    assert recorded(lambda: work(kind)) == (without, {"forward", "backward", "recompute"})


def test_a_second_derivative_through_a_checkpoint(x, w) -> None:
    def work(call) -> None:
        y = call(lambda a: (a @ w).tanh(), x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        slope.square().sum().backward()

    without, _ = recorded(lambda: work(plain))
    assert without == expected(lambda: work(plain))
    assert recorded(lambda: work(stored))[0] == without


def test_what_a_selective_checkpoint_stores_is_not_repeated(x, w) -> None:
    def contexts():
        return create_selective_checkpoint_contexts([torch.ops.aten.mm.default])

    def count(**options) -> torch_trn.Recording:
        with torch_trn.profile() as prof:
            y = checkpoint(lambda a: (a @ w).tanh(), x, use_reentrant=False, **options)
            y.sum().backward()
        return prof

    all_again, selective = count(), count(context_fn=contexts)
    assert selective.flops == all_again.flops == 3 * PRODUCT
    assert selective.hardware_flops < all_again.hardware_flops


def test_an_error_in_a_repetition_ends_it(x, w) -> None:
    calls = []

    def fails_the_second_time(a: torch.Tensor) -> torch.Tensor:
        calls.append(a)
        if len(calls) == 2:
            raise KeyError("again")
        return (a @ w).tanh()

    y = stored(fails_the_second_time, x)
    with pytest.raises(KeyError, match="again"):
        y.sum().backward()
    flops, phases = recorded(lambda: (x @ w).sum().backward())
    assert (flops, phases) == (3 * PRODUCT, {"forward", "backward"})


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_modules_keep_their_paths(kind, x, device) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).to(device)

    def flops(call) -> dict[str, int]:
        with torch_trn.profile() as prof:
            call(model, x).sum().backward()
        return {row.name: row.flops for row in prof.by_module() if row.flops}

    assert flops(kind) == flops(plain) == {"0": 3 * PRODUCT, "2": 3 * PRODUCT}
