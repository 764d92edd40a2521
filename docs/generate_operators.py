"""Writes docs/operators.md from the operator table: `python docs/generate_operators.py`."""

from collections import Counter
from pathlib import Path

from torch_trn import _C

PAGE = Path(__file__).with_name("operators.md")
HEAD = """# Operators

Generated from the operator table by `docs/generate_operators.py`. Overloads are those of ATen's that the row serves.
The last three columns say where AWS's TorchNeuron runs them: on its device, on the host on purpose, or on the host
because it registers nothing.
"""


def page() -> str:
    rows = _C.op_table()
    parts = [HEAD]
    for family in sorted({row["family"] for row in rows}):
        members = [row for row in rows if row["family"] == family]
        parts.append(
            f"\n## {family}\n\n| operator | engines | overloads | native | host | absent |\n|---|---|---|---|---|---|"
        )
        for row in members:
            status = Counter(overload["torchneuron"] for overload in row["overloads"])
            counts = " | ".join(str(status[name]) for name in ("native", "host", "absent"))
            parts.append(f"| `{row['name']}` | {row['engines']} | {len(row['overloads'])} | {counts} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
