"""all_reduce on the device against gloo's on CPU tensors, in alternating rounds of the same two processes.

python benchmarks/collectives.py
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Row, arguments, emit

BAR = 1.1
SIZES = {"1 KiB": (256, 100), "64 MiB": (16 << 20, 3)}  # elements, calls in a round
ROUNDS = 7


def rank_of(rank: int, store: str, device: str, pipe: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    backend = "gloo" if device == "cpu" else f"cpu:gloo,{device}:{device}"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)

    def seconds(x: Any, calls: int) -> float:
        dist.barrier()
        started = time.perf_counter()
        for _ in range(calls):
            dist.all_reduce(x)
        return (time.perf_counter() - started) / calls

    times: dict[str, list[tuple[float, float]]] = {}
    for name, (elements, calls) in SIZES.items():
        host, ours = torch.zeros(elements), torch.zeros(elements, device=device)
        seconds(host, 1), seconds(ours, 1)
        times[name] = [(seconds(host, calls), seconds(ours, calls)) for _ in range(ROUNDS)]
    pipe.send(times)
    dist.destroy_process_group()


def measure(device: str) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=rank_of, args=(rank, str(Path(folder) / "store"), device, theirs))
            process.start()
            pipes.append(ours)
            processes.append(process)
        if not pipes[0].poll(300):
            raise TimeoutError("[collectives] two ranks must finish; got no result, limit 300 s.")
        times = pipes[0].recv()
        for process in processes:
            process.join(30)
    rows = []
    for name, pairs in times.items():
        ratio = statistics.median(ours for _, ours in pairs) / statistics.median(gloo for gloo, _ in pairs)
        has_bar = name == "64 MiB"
        rows.append(
            Row(
                f"all_reduce of {name}, two processes, over gloo on the CPU",
                f"<= {BAR}" if has_bar else "",
                f"{ratio:.2f} ({statistics.median(gloo for gloo, _ in pairs) * 1e6:.0f} us on the CPU)",
                ratio <= BAR if has_bar else None,
            )
        )
    return rows


def main() -> None:
    options = arguments(__doc__)
    emit(measure(options.device), options.json)


if __name__ == "__main__":
    main()
