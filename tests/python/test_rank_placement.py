"""Placement as a user sets it: by call, by environment, and what is refused."""

import os
import subprocess
import sys

import pytest

import torch_trn
from torch_trn import _C


@pytest.fixture(autouse=True)
def placed_as_before():
    before = _C.placement()
    yield
    _C.set_placement(None, before)


def test_set_placement() -> None:
    torch_trn.set_placement("round-robin", instance="trn2-ultraserver")
    assert torch_trn.placement() == "1 rank, round-robin, on trn2-ultraserver"
    torch_trn.set_placement([7])
    assert _C.placement() == {"world_size": 1, "order": "listed", "devices": [7], "instance": ""}
    assert torch_trn.placement() == "1 rank, listed, on trn2.48xlarge"
    torch_trn.set_placement()
    assert torch_trn.placement() == "1 rank, linear, on trn2.3xlarge"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zigzag",), r"\[placement\] order must be linear, round-robin or a list of devices, one for each rank"),
        (([],), r"\[placement\] devices must be whole numbers, one for each rank; got \[\]"),
        (([0.5],), r"\[placement\] devices must be whole numbers"),
        (([3, 3],), r"\[placement\] must give each rank a device of its own"),
        (("linear", "trn9"), r"\[placement\] instance must be one of trn2's; got trn9"),
    ],
)
def test_what_is_refused_changes_nothing(arguments: tuple[object, ...], words: str) -> None:
    before = torch_trn.placement()
    with pytest.raises(ValueError, match=words):
        torch_trn.set_placement(*arguments)
    assert torch_trn.placement() == before


def said(**environment: str) -> str:
    code = "import torch_trn; torch_trn.set_target('trn3'); print(torch_trn.placement())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_environment_is_checked_on_the_target_of_the_run() -> None:
    chosen = {"TORCH_TRN_INSTANCE": "trn3-ultraserver-gen2", "TORCH_TRN_PLACEMENT": "5, 9"}
    assert said(**chosen) == "1 rank, listed, on trn3-ultraserver-gen2"
    assert "order must be linear, round-robin" in said(TORCH_TRN_PLACEMENT="nearby")
