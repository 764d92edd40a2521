"""Runs the cells that were selected, all suites together, once a session; each test waits for its own outcome."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from opinfo import pool
from opinfo.cells import Cell, Outcome
from sections import add_section

DEVICE = os.environ.get("TORCH_TRN_TEST_DEVICE", os.environ.get("TORCH_TRN_DEVICE_NAME", "trn"))


def _cell(item: pytest.Item) -> Cell | None:
    cell = getattr(item, "callspec", None) and item.callspec.params.get("cell")  # type: ignore[attr-defined]
    return cell if isinstance(cell, Cell) else None


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Mapping[Cell, Outcome]]:
    chosen = {cell: None for item in request.session.items if (cell := _cell(item))}
    running = pool.Pool(chosen, DEVICE)
    yield running
    results = running.close()
    add_section(request.config, f"PyTorch's databases on {DEVICE} against CPU", _summary(results))
    path = os.environ.get("TORCH_TRN_OPINFO_REPORT")
    if path:
        Path(path).write_text(json.dumps({str(c): o.to_dict() for c, o in results.items()}, indent=1))


def _summary(results: Mapping[Cell, Outcome]) -> list[str]:
    lines = [
        f"{suite:8} {row['passed']} of {row['cells']} cells pass, {row['checks']} checks, {row['bit_equal']} of "
        f"{row['value_checks']} value checks bit-equal ({row['bit_equal_cells']} cells), "
        f"{row['stride_differences']} results with other strides, {row['seconds']:.0f} s of work"
        for suite, row in pool.totals(results).items()
    ]
    honest = [outcome for cell, outcome in results.items() if cell.suite == "honesty"]
    if honest:
        generic = {name for outcome in honest for name in outcome.notes.get("generic", [])}
        mixed = sum(outcome.notes.get("mixed", 0) for outcome in honest)
        lines.append(f"{mixed} calls with one tensor elsewhere; {len(generic)} operators costed by the generic rule")
    return lines
