"""A profile of 1,000,000 launches of 200 distinct kinds: resident memory after the first thousand and at the end.

python benchmarks/profile_memory.py
"""

import argparse
import gc
import os
import time
from pathlib import Path

import torch
from rows import Row, arguments, emit

KINDS, FIRST = 200, 1000
ALLOWED_BYTES = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(device: str, launches: int) -> list[Row]:
    import torch_trn

    operands = [torch.ones(16 + 8 * kind, device=device) for kind in range(KINDS)]
    results = [torch.empty_like(operand) for operand in operands]
    pairs = list(zip(operands, results, strict=True))
    gc.collect()
    with torch.no_grad(), torch_trn.profile() as prof:
        for _ in range(FIRST // KINDS):
            for a, out in pairs:
                torch.add(a, a, out=out)
        gc.collect()
        first = resident_bytes()
        started = time.perf_counter()
        for _ in range((launches - FIRST) // KINDS):
            for a, out in pairs:
                torch.add(a, a, out=out)
        seconds = time.perf_counter() - started
        gc.collect()
        last = resident_bytes()
    microseconds = seconds / (launches - FIRST) * 1e6
    distinct = len(prof.ledger.specs)
    assert prof.launches == launches and distinct == KINDS, (prof.launches, distinct)
    return [
        Row(
            f"profile of {launches:,} launches, {KINDS} kinds: RSS growth after the first {FIRST}",
            f"<= {ALLOWED_BYTES // 1024} KiB",
            f"{(last - first) / 1024:.0f} KiB of {first / 2**20:.0f} MiB; {microseconds:.2f} us a launch",
            last - first <= ALLOWED_BYTES,
        )
    ]


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--launches", type=int, default=1_000_000)

    options = arguments(__doc__, add)
    emit(measure(options.device, options.launches), options.json)


if __name__ == "__main__":
    main()
