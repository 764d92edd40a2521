"""torch_trn.compare: divergences per module and operator, the first past its tolerance, losses, what has no program."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_trn
from torch_trn.comparison import _errors, _ordered, _Recorder


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.GELU(), nn.Linear(40, 5))


def test_a_model_within_fp32_rounding() -> None:
    mine = model()
    before = copy.deepcopy(mine.state_dict())
    comparison = torch_trn.compare(mine, torch.randn(16, 20))
    assert comparison.first is None
    assert [entry.name for entry in comparison.modules if entry.phase == "forward"] == ["0", "1", "2", ""]
    assert {entry.phase for entry in comparison.operators} == {"forward", "backward"}
    assert any(entry.name == "gelu_backward" for entry in comparison.operators)
    assert all(entry.relative_error < 1e-5 for entry in comparison.operators)
    ((reference, hardware),) = comparison.losses
    assert hardware == pytest.approx(reference, rel=1e-6)
    for name, value in mine.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch_trn.numerics.numerics() == "reference"


def test_the_first_operator_past_its_tolerance() -> None:
    class Rectifies(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + 1).exp()

    x = torch.linspace(-1, 1, 1000)
    x[5] = torch.nan
    comparison = torch_trn.compare(Rectifies(), x, backward=False)
    # relu(NaN) is 0: one of the documented departures.
    assert comparison.first is not None and comparison.first.name == "relu" and comparison.first.nans == 1
    assert "first operator past its tolerance is relu" in str(comparison)
    assert torch_trn.compare(Rectifies(), x, backward=False, relu_nan_is_zero=False).first is None


def test_errors_in_units_in_the_last_place() -> None:
    class Scales(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) * 3

    comparison = torch_trn.compare(Scales(), torch.tensor([1.0, torch.nan, -2.0]), backward=False)
    entries = {entry.name: entry for entry in comparison.operators}
    assert entries["mul.Tensor"].ulps == 0
    switched = torch_trn.compare(Scales(), torch.tensor([1.0, torch.nan, -2.0]), backward=False, relu_nan_is_zero=False)
    assert all(entry.ulps == 0 and entry.nans == 0 for entry in switched.operators)


def test_training_steps_and_operators_without_a_program(tmp_path: Path) -> None:
    class Modal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.mode(self.linear(x), 0).values

    comparison = torch_trn.compare(
        Modal(), (torch.randn(4, 8),), steps=3, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2)
    )
    assert len(comparison.losses) == 3
    assert comparison.losses[0][0] > comparison.losses[-1][0]
    assert comparison.reference_operators == {"mode": 3}
    text = str(comparison)
    assert "Modules" in text and "no program" in text
    json.dumps(comparison.to_dict())
    pytest.importorskip("matplotlib")
    comparison.plot(str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"\[compare\] several steps need an optimizer"):
        torch_trn.compare(model(), torch.randn(2, 20), steps=2)
    with pytest.raises(ValueError, match=r"\[set_numerics\] no such switch"):
        torch_trn.compare(model(), torch.randn(2, 20), no_such_switch=True)


def test_inputs_on_the_device_are_copied_too() -> None:
    class Doubles(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2.0)

    x = torch.ones(4, device="trn")
    comparison = torch_trn.compare(Doubles(), x, backward=False)
    assert comparison.losses == [(4.0, 4.0)] and comparison.first is None
    assert torch.equal(x.cpu(), torch.ones(4))
    leaf = torch.ones(4, device="trn", requires_grad=True)
    comparison = torch_trn.compare(nn.Tanh(), leaf)
    assert any(entry.phase == "backward" for entry in comparison.operators)
    assert leaf.grad is None


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64]
)
def test_results_of_narrow_and_wide_dtypes(dtype: torch.dtype) -> None:
    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(dtype).float()

    comparison = torch_trn.compare(Casts(), torch.tensor([1.0, 2.0, 0.5, 4.0]), backward=False)
    assert comparison.first is None
    assert all(entry.ulps == 0 and entry.max_error == 0 for entry in comparison.operators)


def test_units_in_the_last_place_of_eight_bits() -> None:
    values = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu):
        of = (values.view(torch.uint8) if dtype == torch.float8_e8m0fnu else values).view(dtype)
        finite = of[of.float().isfinite()]
        order = _ordered(finite)[finite.float().argsort(stable=True)]
        assert (order.diff() >= 0).all() and int(order.unique().diff().max()) <= 1


@pytest.mark.parametrize("layout", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_what_an_optimizer_writes(layout: dict[str, bool]) -> None:
    torch.manual_seed(0)
    comparison = torch_trn.compare(
        nn.Linear(8, 8),
        torch.randn(4, 8) * 1e-15,
        loss=lambda output: (output * 1e-14).sum(),
        steps=2,
        outside_domains="nan",
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-30, **layout),
    )
    # A root of a square near 1e-58 is out of its domain; the parameters are NaN from then on.
    assert math.isnan(comparison.losses[1][1]) and not math.isnan(comparison.losses[1][0])
    assert comparison.first is not None and comparison.first.nans
    if layout.get("fused"):
        assert comparison.first.name == "_fused_adamw_"
    names = {entry.name for entry in comparison.operators}
    assert any(name.startswith(("_fused_adamw_", "_foreach_addcdiv_", "addcdiv_")) for name in names)


def test_losses_that_are_lost_after_the_first_step() -> None:
    comparison = torch_trn.compare(model(), torch.randn(4, 20))
    assert "within its tolerance" in str(comparison) and "not both finite" not in str(comparison)
    comparison.losses += [(1.0, 1.1), (1.0, math.nan)]
    assert "the losses of step 2 are not both finite" in " ".join(str(comparison).split())


def test_infinities_of_the_reference_alone() -> None:
    class Grows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 10

    x = torch.tensor([3e38, 1.0, -3e38])
    comparison = torch_trn.compare(Grows(), x, loss=lambda y: y[0], backward=False, saturate_infinity=True)
    assert comparison.losses == [(math.inf, torch.finfo(torch.float32).max)]
    assert comparison.first is not None and comparison.first.name == "mul.Tensor" and comparison.first.infs == 2
    assert torch_trn.compare(Grows(), x, backward=False).first is None
    assert _errors(torch.tensor([math.inf, math.inf]), torch.tensor([-math.inf, math.inf]))[4] == 1


def test_gradients_of_modules() -> None:
    class Rectifies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.relu = nn.Linear(4, 3), nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.linear(x))

    torch.manual_seed(0)
    mine, x = Rectifies(), torch.randn(5, 4)
    comparison = torch_trn.compare(mine, x, loss=lambda y: y.sum())
    assert [(entry.name, entry.phase) for entry in comparison.modules] == [
        *[(name, "forward") for name in ("linear", "relu", "")],
        *[(name, "backward") for name in ("relu", "", "linear")],
    ]
    assert all(entry.calls == 1 and entry.relative_error < 1e-6 for entry in comparison.modules)
    recorder = _Recorder()
    with recorder.watching(mine):
        mine(x).sum().backward()
    gradients = {value.name: value.tensors for value in recorder.modules if value.phase == "backward"}
    assert torch.equal(gradients["relu"][0], torch.ones(5, 3))
    assert torch.equal(gradients["linear"][0], (mine.linear(x) > 0).float())
    forward_only = torch_trn.compare(mine, x, backward=False)
    assert {entry.phase for entry in forward_only.modules} == {"forward"}


def test_rounding_noise_of_what_cancels() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(16, 64), nn.LayerNorm(64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x))

    torch.manual_seed(0)
    x = torch.randn(32, 16)
    # The mean square of what a layer norm returns is constant: its gradient cancels to rounding.
    comparison = torch_trn.compare(Normed(), x)
    (gradient,) = (entry for entry in comparison.operators if entry.name == "native_layer_norm_backward")
    assert gradient.relative_error > 1e-5
    assert comparison.first is None
    cast = torch_trn.compare(Normed(), x, auto_cast="matmult")
    assert cast.first is not None and cast.first.name == "addmm"

    class Masks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.where(x > 0, x, -(2.0**30)) + 0)

    masked = torch_trn.compare(Masks(), x, backward=False, auto_cast="all")
    assert masked.first is not None and masked.first.name == "relu"


def test_generators_and_switches_stay_as_they_are() -> None:
    torch.manual_seed(7)
    torch.rand(3, device="trn")
    states = torch.get_rng_state(), torch.trn.get_rng_state()
    drops = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    torch.set_rng_state(states[0])
    torch_trn.compare(drops, torch.randn(2, 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(torch.trn.get_rng_state(), states[1])

    x = torch.full((1000,), 1 + 2.0**-9)

    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16().float()

    with torch_trn.set_numerics("hardware", stochastic_rounding=True, seed=3):
        before = torch_trn.numerics.departures_in_force()
        rounded = torch_trn.compare(Casts(), x, backward=False)
        assert torch_trn.numerics.numerics() == "hardware" and torch_trn.numerics.departures_in_force() == before
        nearest = torch_trn.compare(Casts(), x, backward=False, stochastic_rounding=False)
    assert {entry.name: entry.ulps for entry in rounded.operators}["_to_copy"] > 0
    assert all(entry.ulps == 0 for entry in nearest.operators)


def test_a_model_without_gradients_is_compared_forward() -> None:
    frozen = torch.nn.Linear(4, 4).requires_grad_(False)
    for model in (torch.nn.ReLU(), frozen):
        result = torch_trn.compare(model, torch.randn(3, 4))
        assert {entry.phase for entry in result.operators} == {"forward"}
    with pytest.raises(ValueError, match=r"\[compare\] backward=True takes gradients of a loss that depends on"):
        torch_trn.compare(frozen, torch.randn(3, 4), backward=True)
