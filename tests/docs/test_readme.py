"""The README's first script prints the report that is shown below it."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_first_report_is_what_the_first_script_prints(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    script, report = re.findall(r"```(?:python)?\n(.*?)\n```", text, re.DOTALL)[:2]
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch_trn.cli", "run", "train.py"],
        cwd=tmp_path,
        env=dict(os.environ, COLUMNS="100"),
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout + done.stderr
    shown = [line.removesuffix(", ...") for line in report.splitlines() if line.strip() and line != "..."]
    assert len(shown) > 12 and shown[0].startswith("loss")
    # The loss is the CPU's, and may differ in a bit. Long lines are wrapped.
    missing = [line for line in shown[1:] if " ".join(line.split()) not in " ".join(printed.split())]
    assert not missing, printed
