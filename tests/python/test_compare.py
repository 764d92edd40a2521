"""torch_trn.compare: divergences per module and operator, the first past its tolerance, losses, what has no program."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_trn


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.GELU(), nn.Linear(40, 5))


def test_a_model_within_fp32_rounding() -> None:
    mine = model()
    before = copy.deepcopy(mine.state_dict())
    comparison = torch_trn.compare(mine, torch.randn(16, 20))
    assert comparison.first is None
    assert [entry.name for entry in comparison.modules] == ["0", "1", "2", ""]
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
