"""Runs every benchmark in a process of its own; prints one table: measure, bar, measured.

python benchmarks/run_all.py
"""

import json
import subprocess
import sys
from pathlib import Path

from rows import Row, arguments, emit

BENCHMARKS = (
    ("import_time.py",),
    ("launch_overhead.py",),
    ("small_ops.py",),
    ("profile_memory.py",),
    ("gpt2_step.py",),
    ("gpt2_step.py", "--memory"),
    ("emu_engines.py",),
    ("hardware_numerics.py",),
    ("hardware_training.py",),
    ("calibration.py",),
    ("collectives.py",),
    ("capacity.py",),
    ("simulated_ranks.py",),
)


def main() -> None:
    options = arguments(__doc__)
    rows: list[Row] = []
    for script, *rest in BENCHMARKS:
        command = [sys.executable, str(Path(__file__).parent / script), "--json", "--device", options.device, *rest]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            rows.append(Row(" ".join([script, *rest]), "", f"failed: {run.stderr.strip().splitlines()[-1]}", False))
            continue
        rows += [Row(**row) for row in json.loads(run.stdout.splitlines()[-1])]
    emit(rows, options.json)
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
