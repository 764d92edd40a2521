"""op_db on the device: every entry and sample, six dtypes, forward, backward, out=, in-place, errors; foreach too."""

from collections.abc import Mapping

import pytest
from opinfo.cells import Cell, Outcome, cells
from opinfo.verdict import EXCEPTIONS, judge


@pytest.mark.parametrize("cell", cells("op"), ids=str)
def test_op(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)


@pytest.mark.parametrize("cell", cells("error"), ids=str)
def test_error_inputs(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)


@pytest.mark.parametrize("cell", cells("foreach"), ids=str)
def test_foreach(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    judge(cell, outcomes)


def test_the_grid_is_whole() -> None:
    assert len(cells("op")) == 3085
    assert len(cells("module")) == 228


def test_exceptions_are_few_and_have_reasons() -> None:
    assert len(EXCEPTIONS) <= 5
    assert all(len(exception["reason"]) > 20 for exception in EXCEPTIONS)
