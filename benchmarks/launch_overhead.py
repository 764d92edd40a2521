"""One launch in its steady state over CPU eager's call: plain, under a profile, under one with module and source line.

python benchmarks/launch_overhead.py
"""

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from interleave import interleave
from rows import Row, arguments, emit
from torch import nn
from torch.nn import functional as F

CALLS = 50  # a round is shorter than a slice of the scheduler's: on a busy machine some round runs undisturbed
BARS = {"plain": 0.5, "profile": 1.0, "profile, module, line": 2.0}


def operators(device: str) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    a, b = torch.randn(4, 4).to(device), torch.randn(4, 4).to(device)
    bias, weight, out = torch.randn(4).to(device), torch.ones(4).to(device), torch.empty(4, 4, device=device)
    index, mask = torch.tensor([0, 1, 2, 3]).to(device), (torch.randn(4, 4) > 0).to(device)
    places = torch.zeros(4, 4, dtype=torch.long).to(device)
    image, kernel = torch.randn(1, 2, 6, 6).to(device), torch.randn(2, 2, 3, 3).to(device)
    heads = torch.randn(1, 2, 4, 8).to(device)
    logs = torch.log_softmax(a, 1)
    sums = [torch.zeros(4).to(device) for _ in range(10)]
    return {
        "add": lambda: torch.add(a, b),
        "add out=": lambda: torch.add(a, b, out=out),
        "add_": lambda: out.add_(b, alpha=0),
        "mul": lambda: torch.mul(a, b),
        "mul scalar": lambda: a * 2.0,
        "relu": lambda: torch.relu(a),
        "gelu": lambda: F.gelu(a),
        "where": lambda: torch.where(mask, a, b),
        "addcmul_": lambda: out.addcmul_(a, b, value=0),
        "mm": lambda: torch.mm(a, b),
        "addmm": lambda: torch.addmm(bias, a, b),
        "softmax": lambda: torch.softmax(a, 1),
        "layer_norm": lambda: F.layer_norm(a, (4,), weight, bias),
        "sum": lambda: a.sum(),
        "nll_loss": lambda: F.nll_loss(logs, index),
        "embedding": lambda: F.embedding(index, a),
        "cat": lambda: torch.cat((a, b)),
        "copy_": lambda: out.copy_(a),
        "clone": lambda: a.clone(),
        "view": lambda: a.view(16),
        "transpose": lambda: a.t(),
        "slice": lambda: a[1:],
        "dropout": lambda: torch.native_dropout(a, 0.5, True),
        "normal_": lambda: out.normal_(),
        "bernoulli_": lambda: out.bernoulli_(0.5),
        "argmax": lambda: a.argmax(1),
        "cumsum": lambda: a.cumsum(0),
        "gather": lambda: a.gather(1, places),
        "index": lambda: a[index],
        "sort": lambda: a.sort(),
        "topk": lambda: a.topk(2),
        "clamp": lambda: a.clamp(0, 1),
        "var": lambda: a.var(),
        "conv2d": lambda: F.conv2d(image, kernel),
        "attention": lambda: F.scaled_dot_product_attention(heads, heads, heads),
        "_foreach_add_ of 10": lambda: torch._foreach_add_(sums, 0.0),
    }


class Loop(nn.Module):
    """Calls the operator again and again from inside a module's forward."""

    def forward(self, function: Callable[[], object]) -> None:
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


def measure(device: str, rounds: int, passes: int) -> list[Row]:
    loop = Loop()
    cpu, other = operators("cpu"), operators(device)
    rows = []
    with torch.no_grad():
        for mode, bar in BARS.items():
            least: dict[str, dict[str, float]] = {name: {} for name in cpu}
            for name in [*cpu] * passes:
                with recording(mode, device):
                    loop(other[name])
                    variants: dict[str, Callable[[], Any]] = {
                        "cpu": lambda: loop(cpu[name]),  # noqa: B023
                        "device": lambda: loop(other[name]),  # noqa: B023
                    }
                    for variant, seconds in interleave(variants, max(rounds // passes, 1)).items():
                        least[name][variant] = min(*seconds, least[name].get(variant, math.inf))
            base = {name: variants["cpu"] / CALLS * 1e6 for name, variants in least.items()}
            extra = {name: variants["device"] / CALLS * 1e6 - base[name] for name, variants in least.items()}
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
        parser.add_argument("--rounds", type=int, default=500)
        # Over all operators, so that none is measured in one stretch of a machine that others slow down.
        parser.add_argument("--passes", type=int, default=5)

    options = arguments(__doc__, add)
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = measure(options.device, options.rounds, options.passes)
    emit(rows, options.json)
    if not options.json:
        print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
