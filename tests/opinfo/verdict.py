"""What a test says about a cell: passed, or failed with every difference listed; the known exceptions are few."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from opinfo.cells import Cell, Outcome

EXCEPTIONS = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text()).get("exception", [])


def reason_for(cell: Cell) -> str | None:
    return next((e["reason"] for e in EXCEPTIONS if re.fullmatch(e["cells"], str(cell))), None)


def judge(cell: Cell, outcomes: Mapping[Cell, Outcome]) -> None:
    outcome, reason = outcomes[cell], reason_for(cell)
    if reason is not None:
        assert outcome.failures, f"{cell} is listed as an exception and passes; take it out of exceptions.toml"
        pytest.xfail(reason)
    assert not outcome.failures, f"{len(outcome.failures)} differences:\n" + "\n".join(outcome.failures[:20])
