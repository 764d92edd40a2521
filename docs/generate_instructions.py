"""Writes docs/instructions.md from the table of instructions: `python docs/generate_instructions.py`."""

from pathlib import Path

from torch_trn import _C

PAGE = Path(__file__).with_name("instructions.md")
HEAD = """# Instructions

Generated from the table in `csrc/program/opcode.cpp` by `docs/generate_instructions.py`. Names and operands are those
of `nki.isa`; `torch_trn.emu.NeuronCore` has a method for each. Every instruction takes at most 128 partitions and tiles
of one shape. Tiles of more than 64 partitions start at partition 0, of more than 32 at 0 or 64, others at a multiple of
32. An illegal operand raises an error that says which rule, what it got and what to do. N is the number of elements per
partition. Cycles follow the NKI ISA's formulas (SDK 2.26); those marked * are not published and follow a like
instruction. On the clock a cycle of TensorE lasts 1 / `tensor_efficiency` of a documented one (docs/targets.md: 0.95 on
trn2 and trn3, 0.725 on trn1). A `tensor_tensor` of 16-bit operands in SBUF takes half of its column's cycles from
NeuronCore-v3 on, N / 2 to add and N to divide; a division of wider ones takes 8 N everywhere. An operand in SBUF or
PSUM whose elements lie over 16 bytes apart, along the innermost dimension that has several, is read or written at half
the rate: 2 N for N, but where the arithmetic takes longer (8 N, 13 N / 3, the four passes of fp32 products). The
performance modes look at what an instruction streams, not at operands of one element per partition, and at one-byte
floats from NeuronCore-v4 on. Of nki.isa's list these are not here: `scalar_load` and `scalar_store`, newer than
SDK 2.29. `core_barrier`, `sendrecv` and `sendrecv_compute` are of `torch_trn.emu.LogicalCore`'s cores. An engine may be
left out, or "unknown": then it is the one that the documents name first. `register_alloc` gives a register, whose value
is a number or a condition in Python, and costs what moves or loads it. `right_shift` is arithmetic for signed integers,
as NKI's own simulators compute it.
"""


def page() -> str:
    rows = _C.instructions()
    parts = [HEAD]
    for engine in ("tensor", "vector", "scalar", "gpsimd", "dma", "sync"):
        parts.append(f"\n## {engine}\n\n| instruction | operands | limits | cycles | from |\n|---|---|---|---|---|")
        for row in rows:
            if row["engine"] == engine:
                cycles = row["cycles"] + (" *" if row["is_derived"] and row["cycles"] != "-" else "")
                cells = [f"`{row['name']}`", row["operands"], row["limits"], cycles, f"v{row['first_generation']}"]
                parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
