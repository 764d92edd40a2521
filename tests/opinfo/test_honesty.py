"""op_db as the device's owner sees it: charged, in HBM, on one device, and no memory left behind."""

from collections.abc import Mapping

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import judge


@pytest.mark.parametrize("cell", cells("honesty"), ids=str)
def test_honesty(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)
