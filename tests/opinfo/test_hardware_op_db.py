"""op_db in hardware numerics, forward and backward: the entries that have programs agree with float64."""

from collections.abc import Mapping

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import judge, reason_for

CELLS = cells("hardware")


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_hardware(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)


def test_most_entries_execute_and_agree(outcomes: Mapping[Cell, Outcome]) -> None:
    executed = [cell for cell in CELLS if cell in outcomes and outcomes[cell].notes.get("executed")]
    exceptions = [cell for cell in executed if reason_for(cell) is not None]
    assert len(exceptions) <= 0.02 * len(executed)
    if all(cell in outcomes for cell in CELLS):
        assert len(executed) > 0.4 * len(CELLS), "fewer entries than before have programs"
