"""Every benchmark runs and prints rows; the long ones up to their first line of work. No time is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = {"interleave.py", "models.py", "rows.py", "run_all.py"}
LEAST = {
    "calibration.py": [],
    "collectives.py": [],
    "emu_engines.py": ["--least", "0.001", "--rows", "256"],
    "import_time.py": ["--rounds", "1"],
    "launch_overhead.py": ["--rounds", "1", "--passes", "1"],
    "profile_memory.py": ["--launches", "2000"],
    "small_ops.py": ["--rounds", "1"],
}
# A GPT-2, 200 training steps, Llama 3 405B: minutes each.
LONG = {"capacity.py", "gpt2_step.py", "hardware_numerics.py", "hardware_training.py", "simulated_ranks.py"}


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_no_benchmark_is_left_out():
    scripts = {path.name for path in BENCHMARKS.glob("*.py")}
    assert scripts == PARTS | LEAST.keys() | LONG
    listed = (BENCHMARKS / "run_all.py").read_text(encoding="utf-8")
    assert [script for script in sorted(scripts - PARTS) if f'("{script}"' not in listed] == []


@pytest.mark.parametrize("script", sorted(LEAST))
def test_prints_rows(script):
    rows = json.loads(run(script, *LEAST[script], "--json").splitlines()[-1])
    assert rows
    assert all(row["measure"] and row["measured"] for row in rows)
    assert all(bool(row["bar"]) or row["met"] is None for row in rows)


@pytest.mark.parametrize("script", sorted(LONG))
def test_loads(script):
    assert "--json" in run(script, "--help")
