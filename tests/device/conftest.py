"""What tests of hardware numerics share; a module asks with `pytestmark = pytest.mark.usefixtures("hardware")`."""

from collections.abc import Iterator

import pytest
import torch

import torch_trn


@pytest.fixture
def hardware() -> Iterator[None]:
    """Hardware numerics, a fixed seed, and counters of what ran otherwise that begin at zero."""
    torch.manual_seed(0)
    with torch_trn.set_numerics("hardware"):
        torch_trn.reference_operators(clear=True)
        torch_trn.narrowed_operators(clear=True)
        yield
