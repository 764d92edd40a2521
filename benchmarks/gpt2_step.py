"""GPT-2 124M training step (B=4, T=256, AdamW): trn over CPU eager, counters on; `--memory` compares resident memory.

python benchmarks/gpt2_step.py
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from interleave import interleave, ratios
from models import GPT2, gpt2_batch
from rows import Row, arguments, emit
from torch.nn import functional as F

BATCH, TOKENS, SEED = 4, 256, 0
TIME_BAR, MEMORY_BAR = 1.05, 1.05


def counters(device: str) -> Any:
    if device == "cpu":
        return contextlib.nullcontext()
    import torch_trn

    return torch_trn.profile()


def stepper(device: str, profiled: bool, fused: bool | None = None) -> Callable[[], float]:
    torch.manual_seed(SEED)
    model = GPT2().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=fused)
    ids, targets = (t.to(device) for t in gpt2_batch(BATCH, TOKENS, model.shape.vocabulary))

    def step() -> float:
        with counters(device) if profiled else contextlib.nullcontext():
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

    return step


def measure_time(device: str, rounds: int, fused: bool | None) -> list[Row]:
    steps = {"cpu": stepper("cpu", False, fused), "device": stepper(device, True, fused)}
    losses = {name: [step(), step()] for name, step in steps.items()}
    equal = losses["cpu"] == losses["device"]
    seconds = interleave(steps, rounds)
    minimum, median = ratios(seconds, "device", "cpu")
    return [
        Row(
            f"GPT-2 124M step, trn over CPU, counters on{', fused AdamW' if fused else ''}",
            f"<= {TIME_BAR}",
            f"{minimum:.3f} (min), {median:.3f} (median); CPU {min(seconds['cpu']):.2f} s",
            minimum <= TIME_BAR,
        ),
        Row("GPT-2 losses equal to CPU's to the last bit", "yes", "yes" if equal else str(losses), equal),
    ]


def resident(device: str, fused: bool | None) -> int:
    """Peak resident bytes of a process that takes three steps on `device`."""
    command = [sys.executable, __file__, "--rss-of", device, *(["--fused"] if fused else [])]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def measure_memory(device: str, fused: bool | None) -> list[Row]:
    cpu, other = resident("cpu", fused), resident(device, fused)
    return [
        Row(
            f"GPT-2 124M step, peak RSS, trn over CPU{', fused AdamW' if fused else ''}",
            f"<= {MEMORY_BAR}",
            f"{other / cpu:.3f}; CPU {cpu / 2**30:.2f} GiB",
            other / cpu <= MEMORY_BAR,
        )
    ]


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=6)
        parser.add_argument("--fused", action="store_true", default=None, help="AdamW(fused=True) on both")
        parser.add_argument("--memory", action="store_true", help="resident memory in separate processes")
        parser.add_argument("--rss-of", help=argparse.SUPPRESS)

    options = arguments(__doc__, add)
    if options.rss_of:
        step = stepper(options.rss_of, True, options.fused)
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    if options.memory:
        rows = measure_memory(options.device, options.fused)
    else:
        rows = measure_time(options.device, options.rounds, options.fused)
    emit(rows, options.json)


if __name__ == "__main__":
    main()
