"""Writes docs/operators.md from the operator table: `python docs/generate_operators.py`."""

from collections import Counter
from pathlib import Path

from torch_trn import _C

PAGE = Path(__file__).with_name("operators.md")
HEAD = """# Operators

Generated from the operator table by `docs/generate_operators.py`. Overloads are those of ATen's that the row serves.
"program": whether hardware numerics execute it ([numerics.md](numerics.md)), for most arguments at least; "no" has the
number of a reason at the end of the page. All are counted and timed. The last three columns say where AWS's TorchNeuron
runs them: on its device, on the host on purpose, or on the host because it registers nothing. Operators of other
libraries (`quantized::`, `mkldnn::`, your own of `torch.library`) are of the family generic, counted by their bytes.
"""


def page() -> str:
    rows = _C.op_table()
    reasons = sorted({row["no_program"] for row in rows} - {""})
    parts = [HEAD]
    for family in sorted({row["family"] for row in rows}):
        members = [row for row in rows if row["family"] == family]
        parts.append(
            f"\n## {family}\n\n| operator | engines | program | overloads | native | host | absent |\n"
            "|---|---|---|---|---|---|---|"
        )
        for row in members:
            status = Counter(overload["torchneuron"] for overload in row["overloads"])
            counts = " | ".join(str(status[name]) for name in ("native", "host", "absent"))
            program = f"no ({reasons.index(row['no_program']) + 1})" if row["no_program"] else "yes"
            parts.append(f"| `{row['name']}` | {row['engines']} | {program} | {len(row['overloads'])} | {counts} |")
    parts.append("\n## Why there is no program\n")
    parts += [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
