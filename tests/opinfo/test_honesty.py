"""op_db as the device's owner sees it: charged, in HBM, on one device, and no memory left behind."""

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import judge


@pytest.mark.parametrize("cell", cells("honesty"), ids=str)
def test_honesty(cell: Cell, outcomes: dict[Cell, Outcome]) -> None:
    judge(cell, outcomes)
