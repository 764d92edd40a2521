"""The page of operators is what the table says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_operators", DOCS / "generate_operators.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "operators.md").read_text(encoding="utf-8") == module.page(), "run python docs/generate_operators.py"
