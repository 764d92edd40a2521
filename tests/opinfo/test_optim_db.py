"""optim_db on the device: every configuration and implementation, parameters and state after five steps."""

from collections.abc import Mapping

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import judge


@pytest.mark.parametrize("cell", cells("optim"), ids=str)
def test_optimizer(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)
