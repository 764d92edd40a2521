"""The page of instructions is what the table says, and the core has a method for each row."""

import importlib.util
from pathlib import Path

from torch_trn import _C

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_instructions", DOCS / "generate_instructions.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "instructions.md").read_text(encoding="utf-8")
    assert page == module.page(), "run python docs/generate_instructions.py"


def test_every_instruction_is_a_method_with_the_table_operands():
    for row in _C.instructions():
        signature = getattr(_C.NeuronCore, row["name"]).__doc__.split("->")[0]
        for operand in row["operands"].replace("[", "").replace("]", "").split(", "):
            assert f"{operand}:" in signature, (row["name"], operand)
