"""A launch's counts depend on nothing that its key leaves out: another value of an argument, another count."""

from collections.abc import Callable

import pytest
import torch

import torch_trn

SIZED = {
    "arange, float": lambda n: torch.arange(float(n), device="trn"),
    "arange, step": lambda n: torch.arange(0.5, n + 0.5, 1.0, device="trn"),
    "arange, int": lambda n: torch.arange(n, dtype=torch.float32, device="trn"),
    "arange, out=": lambda n: torch.arange(0.0, float(n), out=torch.empty(0, device="trn")),
    "linspace": lambda n: torch.linspace(0.0, 1.0, n, device="trn"),
    "logspace": lambda n: torch.logspace(0.0, 1.0, n, device="trn"),
    "full": lambda n: torch.full((n,), 1.5, device="trn"),
    "randn": lambda n: torch.randn(n, device="trn"),
    "constant pad": lambda n: torch.nn.functional.pad(torch.empty(0, device="trn"), (0, n), value=2.5),
}


@pytest.mark.parametrize("make", SIZED.values(), ids=SIZED)
def test_written_bytes_follow_the_size(make: Callable[[int], torch.Tensor]) -> None:
    for n in (5, 70000, 9, 5):
        with torch_trn.profile() as prof:
            result = make(n)
        assert prof.hbm_write_bytes == result.numel() * 4 == n * 4
