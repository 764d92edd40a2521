"""module_db on the device: forward, gradients and buffers, train and eval, two dtypes."""

from collections.abc import Mapping

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import judge


@pytest.mark.parametrize("cell", cells("module"), ids=str)
def test_module(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)
