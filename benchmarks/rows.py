"""A benchmark's result: what was measured, the bar it has to meet, and the number from this run."""

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass
class Row:
    measure: str
    bar: str
    measured: str
    met: bool | None = None  # None: no bar, for information


def emit(rows: list[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = [("measure", "bar", "measured", ""), *((r.measure, r.bar, r.measured, mark(r)) for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(4)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def mark(row: Row) -> str:
    return {True: "met", False: "MISSED", None: ""}[row.met]


def arguments(
    description: str | None, add: Callable[[argparse.ArgumentParser], object] | None = None
) -> argparse.Namespace:
    """`--device cpu` measures CPU against itself: the noise of the method."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--device", default="trn")
    if add:
        add(parser)
    options = parser.parse_args()
    if options.device != "cpu":
        importlib.import_module("torch_trn")
    return options
