"""What the backend adds to `import torch`: autoload on against off, in alternating fresh processes.

python benchmarks/import_time.py
"""

import argparse
import os
import statistics
import subprocess
import sys

from rows import Row, arguments, emit

BAR_SECONDS = 0.15
CODE = """
import sys, time
started = time.perf_counter()
import torch
print(time.perf_counter() - started, int("torch_trn" in sys.modules))
"""


def seconds(autoload: bool) -> float:
    environment = dict(os.environ, TORCH_DEVICE_BACKEND_AUTOLOAD="1" if autoload else "0")
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    taken, loaded = run.stdout.split()
    if bool(int(loaded)) != autoload:
        raise RuntimeError("[import_time] autoload needs the installed package; got none. Run pip install . first.")
    return float(taken)


def measure(rounds: int) -> list[Row]:
    seconds(True)
    times: dict[bool, list[float]] = {True: [], False: []}
    for i in range(rounds):
        for autoload in (True, False) if i % 2 == 0 else (False, True):
            times[autoload].append(seconds(autoload))
    added = min(times[True]) - min(times[False])
    median = statistics.median(a - b for a, b in zip(times[True], times[False], strict=True))
    return [
        Row(
            "import torch, backend autoloaded over not",
            f"<= +{BAR_SECONDS} s",
            f"+{added:.3f} s (min), +{median:.3f} s (median) over {min(times[False]):.2f} s",
            added <= BAR_SECONDS,
        )
    ]


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=16)

    options = arguments(__doc__, add)
    emit(measure(options.rounds), options.json)


if __name__ == "__main__":
    main()
