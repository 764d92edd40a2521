"""Generators of the device: state, repeatability, isolation from the CPU's generator."""

import struct
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

trn = torch.trn

DRAWS = {
    "rand": lambda: torch.rand(1000, device="trn"),
    "randn": lambda: torch.randn(1001, device="trn"),
    "randn_small": lambda: torch.randn(5, device="trn"),
    "randint": lambda: torch.randint(100, (1000,), device="trn"),
    "randperm": lambda: torch.randperm(1000, device="trn"),
    "bernoulli": lambda: torch.full((1000,), 0.3, device="trn").bernoulli(),
    "bernoulli_": lambda: torch.empty(1000, device="trn").bernoulli_(0.3),
    "uniform_": lambda: torch.empty(1000, device="trn").uniform_(-1, 3),
    "normal_": lambda: torch.empty(1000, device="trn").normal_(1, 2),
    "normal": lambda: torch.normal(torch.zeros(1000, device="trn"), torch.ones(1000, device="trn")),
    "exponential_": lambda: torch.empty(1000, device="trn").exponential_(),
    "cauchy_": lambda: torch.empty(1000, device="trn").cauchy_(),
    "log_normal_": lambda: torch.empty(1000, device="trn").log_normal_(),
    "geometric_": lambda: torch.empty(1000, device="trn").geometric_(0.3),
    "random_": lambda: torch.empty(1000, device="trn").random_(0, 50),
    "multinomial": lambda: torch.ones(50, device="trn").multinomial(20),
    "poisson": lambda: torch.poisson(torch.full((1000,), 3.0, device="trn")),
    "binomial": lambda: torch.binomial(torch.full((1000,), 9.0, device="trn"), torch.full((1000,), 0.5, device="trn")),
    "standard_gamma": lambda: torch._standard_gamma(torch.full((1000,), 2.0, device="trn")),
    "dirichlet": lambda: torch._sample_dirichlet(torch.full((100, 5), 2.0, device="trn")),
    "dropout": lambda: F.dropout(torch.ones(1000, device="trn"), 0.5),
    "native_dropout": lambda: torch.native_dropout(torch.ones(1000, device="trn"), 0.5, True)[0],
    "dropout2d": lambda: F.dropout2d(torch.ones(8, 64, 4, 4, device="trn"), 0.5),
    "alpha_dropout": lambda: F.alpha_dropout(torch.ones(1000, device="trn"), 0.5, training=True),
    "rrelu": lambda: F.rrelu(torch.full((1000,), -1.0, device="trn"), training=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(torch.zeros(100, 10, device="trn")),
    "rand_like": lambda: torch.rand_like(torch.empty(1000, device="trn")),
    "fractional_max_pool2d": lambda: F.fractional_max_pool2d(
        torch.arange(4096.0, device="trn").reshape(1, 1, 64, 64), 3, output_ratio=(0.5, 0.5)
    ),
    "sdpa_dropout": lambda: F.scaled_dot_product_attention(
        *(torch.ones(1, 2, 16, 8, device="trn") for _ in range(3)), dropout_p=0.5
    ),
    "init": lambda: nn.init.trunc_normal_(torch.empty(1000, device="trn")),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draw_repeats_and_leaves_the_cpu_alone(name):
    draw = DRAWS[name]
    cpu = torch.get_rng_state()
    trn.manual_seed(7)
    first, second = draw().cpu(), draw().cpu()
    offset = trn.default_generators[0].get_offset()
    trn.manual_seed(7)
    again = draw().cpu()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert offset >= 8 and offset % 4 == 0
    trn.manual_seed(8)
    assert not torch.equal(first, draw().cpu())
    assert torch.equal(cpu, torch.get_rng_state())


@pytest.mark.parametrize("name", DRAWS)
def test_cpu_generator_has_no_influence(name):
    trn.manual_seed(7)
    torch.default_generator.manual_seed(1)
    first = DRAWS[name]().cpu()
    trn.manual_seed(7)
    torch.default_generator.manual_seed(2)
    torch.randn(3)
    assert torch.equal(first, DRAWS[name]().cpu())


def test_threads_do_not_change_numbers():
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1])); torch.manual_seed(3); "
        "x = torch.randn(100000, device='trn'); y = torch.nn.functional.dropout(x, 0.1); "
        "z = torch.bernoulli(torch.full((300000,), 0.5, device='trn')); "
        "print(x.double().sum().item(), (y == 0).sum().item(), z.sum().item()); "
        "print(torch.randperm(9, device='trn').tolist())"
    )
    outputs = {subprocess.check_output([sys.executable, "-c", code, n], text=True) for n in ("1", "2", "1")}
    assert len(outputs) == 1


def test_distributions_look_right():
    trn.manual_seed(0)
    uniform = torch.rand(200_000, device="trn").cpu()
    normal = torch.randn(200_000, device="trn").cpu()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005 and abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    many_launches = torch.stack([torch.rand((), device="trn") for _ in range(4000)]).cpu()
    assert abs(many_launches.mean() - 0.5) < 0.03
    assert many_launches.unique().numel() > 3990
    assert abs(torch.corrcoef(torch.stack([many_launches[:-1], many_launches[1:]]))[0, 1]) < 0.06


def test_words_of_small_launches_are_random():
    """Bits of every place, within a launch and from one launch to the next; and past the engine's 624 first words."""
    trn.manual_seed(1)
    launches = torch.stack([torch.empty(700, dtype=torch.int64, device="trn").random_(0, 2**31) for _ in range(200)])
    bits = (launches.cpu().unsqueeze(-1) >> torch.arange(31)) & 1
    expected_error = 0.5 / len(launches) ** 0.5
    assert (bits.double().mean(0) - 0.5).abs().max() < 5.5 * expected_error  # 21700 means of 200 bits
    values = launches.cpu().double() / 2**31
    for a, b in ((values[:-1], values[1:]), (values[:, :-1], values[:, 1:]), (values[:, :-624], values[:, 624:])):
        pair = torch.stack([a.flatten(), b.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 5 / pair.shape[1] ** 0.5
    assert launches.unique().numel() > launches.numel() - 30


@pytest.mark.parametrize("name", DRAWS)
def test_repeated_launches_move_the_offset_alike(name):
    generator = trn.default_generators[0]
    trn.manual_seed(0)
    DRAWS[name]()
    first = generator.get_offset()
    DRAWS[name]()
    assert generator.get_offset() == 2 * first


def test_dropout_leaves_the_cpu_alone_from_other_threads():
    torch.manual_seed(5)
    expected = [torch.rand(3) for _ in range(3000)]
    torch.manual_seed(5)
    drawn: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: drawn.extend(torch.rand(3) for _ in range(3000)))
    thread.start()
    x = torch.ones(50, device="trn")
    while thread.is_alive():
        F.dropout(x, 0.5)
    thread.join()
    assert torch.equal(torch.stack(drawn), torch.stack(expected))


def test_state_is_seed_and_offset():
    trn.manual_seed(2**40 + 5)
    state = trn.get_rng_state()
    assert state.dtype == torch.uint8 and state.device.type == "cpu" and state.numel() == 16
    assert struct.unpack("<QQ", bytes(state.tolist())) == (2**40 + 5, 0)
    torch.rand(10, device="trn")
    assert struct.unpack("<QQ", bytes(trn.get_rng_state().tolist())) == (2**40 + 5, 12)
    trn.set_rng_state(torch.tensor(list(struct.pack("<QQ", 9, 400)), dtype=torch.uint8))
    assert trn.initial_seed() == 9 and trn.default_generators[0].get_offset() == 400


def test_set_state_resumes():
    torch.rand(10, device="trn")
    for place in (0, "trn", "trn:0", torch.device("trn"), torch.device("trn", 0)):
        state = trn.get_rng_state(place)
        first = torch.rand(10, device="trn")
        trn.set_rng_state(state, place)
        assert torch.equal(first.cpu(), torch.rand(10, device="trn").cpu())
    states = trn.get_rng_state_all()
    assert len(states) == trn.device_count()
    first = torch.rand(10, device="trn")
    trn.set_rng_state_all(states)
    assert torch.equal(first.cpu(), torch.rand(10, device="trn").cpu())


def test_bad_state_raises():
    with pytest.raises(RuntimeError, match="wrong size"):
        trn.set_rng_state(torch.zeros(5, dtype=torch.uint8))
    with pytest.raises((RuntimeError, TypeError), match="ByteTensor"):
        trn.set_rng_state(torch.zeros(16))


def test_manual_seed_covers_every_device():
    torch.manual_seed(11)
    assert [g.initial_seed() for g in trn.default_generators] == [11] * trn.device_count()
    cpu_first = torch.rand(3)
    torch.manual_seed(11)
    torch.rand(3, device="trn")
    assert torch.equal(cpu_first, torch.rand(3))
    trn.seed()
    trn.seed_all()
    assert len({g.initial_seed() for g in trn.default_generators}) == 1


@pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")
def test_devices_draw_apart():
    torch.manual_seed(11)
    torch.rand(8, device="trn:0")
    assert trn.default_generators[0].get_offset() == 8 and trn.default_generators[1].get_offset() == 0


def test_default_generators_is_a_sequence():
    assert len(trn.default_generators) == trn.device_count()
    assert trn.default_generators[0] is trn.default_generators[0]
    assert trn.default_generators[-1].device.index == trn.device_count() - 1
    with pytest.raises(IndexError):
        _ = trn.default_generators[trn.device_count()]


def test_own_generator():
    generator = torch.Generator("trn")
    assert generator.device.type == "trn"
    generator.manual_seed(5)
    before = trn.get_rng_state()
    first = torch.rand(10, device="trn", generator=generator)
    assert torch.equal(before, trn.get_rng_state())
    clone = generator.clone_state()
    shared = generator.graphsafe_get_state()
    second = torch.rand(10, device="trn", generator=generator)
    assert torch.equal(second.cpu(), torch.rand(10, device="trn", generator=clone).cpu())
    assert shared.get_offset() == generator.get_offset()
    generator.manual_seed(5)
    assert torch.equal(first.cpu(), torch.rand(10, device="trn", generator=generator).cpu())
    trn.manual_seed(5)
    assert torch.equal(first.cpu(), torch.rand(10, device="trn").cpu())


def test_offset():
    generator = torch.Generator("trn")
    generator.manual_seed(5)
    torch.rand(10, device="trn", generator=generator)
    offset = generator.get_offset()
    first = torch.rand(10, device="trn", generator=generator)
    generator.set_offset(offset)
    assert torch.equal(first.cpu(), torch.rand(10, device="trn", generator=generator).cpu())
    with pytest.raises(RuntimeError, match="multiple of 4"):
        generator.set_offset(3)


def test_generators_of_the_wrong_device_raise():
    with pytest.raises(RuntimeError, match="'trn' device type for generator but found 'cpu'"):
        torch.rand(3, device="trn", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="'cpu' device type for generator but found 'trn'"):
        torch.rand(3, generator=torch.Generator("trn"))
    with pytest.raises(RuntimeError, match="99"):
        torch.Generator("trn:99")


def test_fork_rng():
    torch.manual_seed(0)
    before = trn.get_rng_state()
    cpu = torch.get_rng_state()
    with torch.random.fork_rng(devices=range(trn.device_count()), device_type="trn"):
        torch.manual_seed(99)
        torch.rand(3, device="trn")
    assert torch.equal(before, trn.get_rng_state()) and torch.equal(cpu, torch.get_rng_state())


def test_dropout_backward_uses_the_mask():
    x = torch.ones(1000, device="trn", requires_grad=True)
    y = F.dropout(x, 0.25)
    y.sum().backward()
    assert torch.equal(x.grad.cpu(), y.detach().cpu())


def test_lstm_dropout_repeats():
    lstm = nn.LSTM(4, 8, num_layers=2, dropout=0.5).to("trn")
    x = torch.randn(3, 2, 4, device="trn")
    cpu = torch.get_rng_state()
    trn.manual_seed(1)
    first = lstm(x)[0].detach().cpu()
    trn.manual_seed(1)
    assert torch.equal(first, lstm(x)[0].detach().cpu())
    assert torch.equal(cpu, torch.get_rng_state())


def test_threads_share_a_generator_safely():

    trn.manual_seed(1)
    drawn = []
    threads = [
        threading.Thread(target=lambda: drawn.extend(torch.rand((), device="trn").item() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) >= 798
    assert trn.default_generators[0].get_offset() == 4 * 800
