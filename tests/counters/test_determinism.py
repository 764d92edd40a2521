"""Repeated runs give the same integers; random operators give the same values for every number of threads."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import GPT, OPTIMIZERS, gpt_batch, loss_of
from torch import nn

import torch_trn


def _integers(prof: Any) -> dict[str, Any]:
    data = prof.to_dict()
    assert data["launches"] > 0
    return {key: value for key, value in data.items() if key not in ("energy_joules", "cost_usd", "cost_note")}


@pytest.mark.parametrize("optimizer", ["sgd momentum foreach", "adamw fused"])
def test_a_step_in_its_steady_state_repeats_exactly(optimizer: str, device: torch.device) -> None:
    model = GPT().to(device)
    opt = OPTIMIZERS[optimizer](model.parameters())

    def step() -> Any:
        with torch_trn.profile() as prof:
            loss = loss_of(model, *(t.to(device) for t in gpt_batch(0)))
            opt.zero_grad()
            loss.backward()
            opt.step()
        return prof

    step()
    first, second, third = (_integers(step()) for _ in range(3))
    assert first == second == third


SCRIPT = """
import json, sys, torch, torch_trn
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
device = sys.argv[2]
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 5))
model = model.to(device)
optimizer = torch.optim.AdamW(model.parameters())
with torch_trn.profile() as prof:
    for _ in range(3):
        x = torch.randn(16, 32, device=device)
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(json.dumps([loss.item(), prof.to_dict()]))
"""


def test_processes_and_threads_do_not_change_a_number(device: torch.device) -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, threads, str(device)], capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "1", "2")
    ]
    first, *others = (json.loads(run) for run in runs)
    assert all(other == first for other in others)


RANDOM: dict[str, Callable[[torch.device], torch.Tensor]] = {
    "rand": lambda d: torch.rand(100_003, device=d),
    "randn": lambda d: torch.randn(100_003, device=d),
    "randn small": lambda d: torch.randn(7, device=d),
    "randn bfloat16": lambda d: torch.randn(50_000, device=d, dtype=torch.bfloat16),
    "randint": lambda d: torch.randint(1000, (100_003,), device=d),
    "randperm": lambda d: torch.randperm(50_000, device=d),
    "bernoulli": lambda d: torch.full((100_003,), 0.3, device=d).bernoulli(),
    "bernoulli_": lambda d: torch.empty(100_003, device=d).bernoulli_(0.3),
    "exponential_": lambda d: torch.empty(100_003, device=d).exponential_(),
    "normal_": lambda d: torch.empty(100_003, device=d).normal_(2, 3),
    "uniform_": lambda d: torch.empty(100_003, device=d).uniform_(-1, 1),
    "cauchy_": lambda d: torch.empty(100_003, device=d).cauchy_(),
    "geometric_": lambda d: torch.empty(100_003, device=d).geometric_(0.3),
    "log_normal_": lambda d: torch.empty(100_003, device=d).log_normal_(),
    "random_": lambda d: torch.empty(100_003, device=d, dtype=torch.int64).random_(),
    "multinomial": lambda d: torch.ones(1000, device=d).multinomial(500),
    "poisson": lambda d: torch.poisson(torch.full((10_003,), 4.0, device=d)),
    "dropout": lambda d: nn.functional.dropout(torch.ones(100_003, device=d), 0.4),
    "alpha_dropout": lambda d: nn.functional.alpha_dropout(torch.ones(10_003, device=d), 0.4, training=True),
    "dropout2d": lambda d: nn.functional.dropout2d(torch.ones(50, 40, 3, 3, device=d), 0.4),
    "rrelu": lambda d: nn.functional.rrelu(-torch.ones(10_003, device=d), training=True),
    "gumbel_softmax": lambda d: nn.functional.gumbel_softmax(torch.ones(500, 20, device=d)),
    "sdpa dropout": lambda d: nn.functional.scaled_dot_product_attention(
        *(torch.ones(2, 3, 16, 8, device=d) for _ in range(3)), dropout_p=0.5
    ),
    "fractional_max_pool2d": lambda d: nn.functional.fractional_max_pool2d(
        torch.arange(3 * 20 * 20, device=d, dtype=torch.float32).view(1, 3, 20, 20), 3, output_size=7
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_values_depend_on_the_seed_alone(name: str, device: torch.device, seeded: None) -> None:
    draw = RANDOM[name]
    cpu_state = torch.get_rng_state()
    module = getattr(torch, device.type)
    results = []
    for threads in (1, 2, 4, 1):
        torch.set_num_threads(threads)
        module.manual_seed(1234)
        results.append([draw(device).cpu(), draw(device).cpu()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert not torch.equal(*results[0]), "two draws in a row are the same"
    module.manual_seed(1235)
    assert not torch.equal(draw(device).cpu(), results[0][0]), "another seed gives the same values"
    assert torch.equal(torch.get_rng_state(), cpu_state), "the CPU generator moved"


def test_the_state_is_a_seed_and_an_offset_and_resumes(device: torch.device) -> None:
    module = getattr(torch, device.type)
    module.manual_seed(7)
    torch.rand(1000, device=device)
    state = module.get_rng_state()
    assert state.dtype == torch.uint8 and state.numel() == 16
    after = torch.randn(1000, device=device)
    module.set_rng_state(state)
    assert torch.equal(torch.randn(1000, device=device), after)
    with torch.random.fork_rng(devices=[0], device_type=device.type):
        module.set_rng_state(state)
        assert torch.equal(torch.randn(1000, device=device), after)


def test_a_generator_of_its_own_leaves_the_default_alone(device: torch.device) -> None:
    module = getattr(torch, device.type)
    module.manual_seed(7)
    state = module.get_rng_state()
    generator = torch.Generator(device).manual_seed(3)
    first = torch.randn(100, device=device, generator=generator)
    assert torch.equal(module.get_rng_state(), state)
    assert torch.equal(torch.randn(100, device=device, generator=generator.manual_seed(3)), first)


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("rand", 0.5, 12**-0.5),
        ("randn", 0.0, 1.0),
        ("normal_", 2.0, 3.0),
        ("exponential_", 1.0, 1.0),
        ("bernoulli_", 0.3, 0.21**0.5),
    ],
)
def test_random_values_have_their_distribution(name: str, mean: float, deviation: float, device: torch.device) -> None:
    getattr(torch, device.type).manual_seed(11)
    values = RANDOM[name](device).cpu().double()
    error = 5 * deviation / len(values) ** 0.5
    assert abs(values.mean().item() - mean) < error
    assert abs(values.std().item() / deviation - 1) < 0.03
    correlation = ((values[1:] - mean) * (values[:-1] - mean)).mean().item() / deviation**2
    assert abs(correlation) < 5 / len(values) ** 0.5


def _of_mask(x: torch.Tensor, count: int, indices: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[:count] = True
    index = mask.to(x.device)
    with torch_trn.profile() as prof:
        x[indices(index)]
    assert [sync["op"] for sync in prof.host_syncs] == ["nonzero"]
    return prof.hbm_read_bytes, prof.hbm_write_bytes, prof.device_seconds


@pytest.mark.parametrize("counts", [(1, 500, 1000), (1000, 500, 1)])
def test_a_mask_is_charged_by_its_elements_whatever_came_before(counts: tuple[int, ...], device: torch.device) -> None:
    x = torch.randn(1000, 64 + counts[0] % 7, device=device)
    costs = [_of_mask(x, count, lambda mask: mask) for count in counts]
    assert costs == [_of_mask(x, count, lambda mask: mask.nonzero().squeeze(1)) for count in counts]
    assert len(set(costs)) == 3


def test_writing_by_a_mask_makes_the_host_wait(device: torch.device) -> None:
    x, mask = torch.randn(8, 4, device=device), torch.tensor([True, False] * 4, device=device)
    expected = x.cpu().index_put((mask.cpu(),), torch.arange(16.0).view(4, 4))
    with torch_trn.profile() as prof:
        x[mask] = torch.arange(16.0).view(4, 4).to(device)
    assert "nonzero" in [sync["op"] for sync in prof.host_syncs]
    assert torch.equal(x.cpu(), expected)
    with torch_trn.profile() as prof:
        x[mask] = 0.0
    assert not prof.host_syncs  # the device knows where to write
