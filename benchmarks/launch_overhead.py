"""One launch in its steady state over CPU eager's call: plain, under a profile, under one with module and source line.

python benchmarks/launch_overhead.py
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from interleave import interleave
from rows import Row, arguments, emit
from torch import nn
from torch.nn import functional as F

CALLS = 2000
BARS = {"plain": 0.5, "profile": 1.0, "profile, module, line": 2.0}


def operators(device: str) -> dict[str, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    a, b = torch.randn(4, 4).to(device), torch.randn(4, 4).to(device)
    bias, weight, out = torch.randn(4).to(device), torch.ones(4).to(device), torch.empty(4, 4, device=device)
    return {
        "add": lambda: torch.add(a, b),
        "add out=": lambda: torch.add(a, b, out=out),
        "mul": lambda: torch.mul(a, b),
        "relu": lambda: torch.relu(a),
        "mm": lambda: torch.mm(a, b),
        "addmm": lambda: torch.addmm(bias, a, b),
        "softmax": lambda: torch.softmax(a, 1),
        "layer_norm": lambda: F.layer_norm(a, (4,), weight, bias),
    }


class Loop(nn.Module):
    """Calls the operator again and again from inside a module's forward."""

    def forward(self, function: Callable[[], torch.Tensor]) -> None:
        for _ in range(CALLS):
            function()


@contextlib.contextmanager
def recording(mode: str, device: str) -> Iterator[None]:
    if mode == "plain" or device == "cpu":
        yield
        return
    import torch_trn

    detailed = mode != "profile"
    with torch_trn.profile(modules=detailed, lines=detailed):
        yield


def measure(device: str, rounds: int) -> list[Row]:
    loop = Loop()
    cpu, other = operators("cpu"), operators(device)
    rows = []
    with torch.no_grad():
        for mode, bar in BARS.items():
            extra: dict[str, float] = {}
            base: dict[str, float] = {}
            for name in cpu:
                with recording(mode, device):
                    loop(other[name])
                    variants: dict[str, Callable[[], Any]] = {
                        "cpu": lambda: loop(cpu[name]),  # noqa: B023
                        "device": lambda: loop(other[name]),  # noqa: B023
                    }
                    seconds = interleave(variants, rounds)
                base[name] = min(seconds["cpu"]) / CALLS * 1e6
                extra[name] = min(seconds["device"]) / CALLS * 1e6 - base[name]
            worst = max(extra, key=lambda name: extra[name])
            rows.append(
                Row(
                    f"one launch over CPU's call, {mode}",
                    f"<= +{bar} us",
                    f"+{statistics.median(extra.values()):.2f} us (median), +{extra[worst]:.2f} us ({worst})",
                    max(extra.values()) <= bar,
                )
            )
            for name, value in extra.items():
                rows.append(Row(f"  {name}", "", f"{value:+.2f} us over {base[name]:.2f} us"))
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=40)

    options = arguments(__doc__, add)
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = measure(options.device, options.rounds)
    emit(rows, options.json)
    if not options.json:
        print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
