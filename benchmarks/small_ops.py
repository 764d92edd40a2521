"""A step too small to hide overhead: MLP 64-64-10, batch 8, SGD; trn over CPU eager, interleaved in one process.

python benchmarks/small_ops.py
"""

import argparse
import contextlib
from collections.abc import Callable

import torch
from interleave import interleave, ratios
from models import small_mlp
from rows import Row, arguments, emit
from torch.nn import functional as F

BAR = 1.3
STEPS_PER_ROUND = 300


def stepper(device: str, profile: dict[str, bool] | None) -> Callable[[], None]:
    torch.manual_seed(0)
    model = small_mlp().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(8, 64).to(device), torch.randint(10, (8,)).to(device)

    def run() -> None:
        with contextlib.ExitStack() as stack:
            if profile is not None:
                import torch_trn

                stack.enter_context(torch_trn.profile(**profile))
            for _ in range(STEPS_PER_ROUND):
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return run


def measure(device: str, rounds: int) -> list[Row]:
    variants = {"cpu": stepper("cpu", None), "plain": stepper(device, None)}
    if device != "cpu":
        variants["counters on"] = stepper(device, {"modules": False, "lines": False})
        variants["with modules and lines"] = stepper(device, {"modules": True, "lines": True})
    for run in variants.values():
        run()
    seconds = interleave(variants, rounds)
    rows = []
    for name in list(variants)[1:]:
        minimum, median = ratios(seconds, name, "cpu")
        rows.append(
            Row(
                f"MLP 64-64-10 step, trn over CPU, {name}, {torch.get_num_threads()} threads",
                f"<= {BAR}" if name == "counters on" else "",
                f"{minimum:.3f} (min), {median:.3f} (median); CPU {min(seconds['cpu']) / STEPS_PER_ROUND * 1e6:.0f} us",
                minimum <= BAR if name == "counters on" else None,
            )
        )
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=15)
        parser.add_argument("--threads", type=int, help="intra-op threads; torch's choice where left out")

    options = arguments(__doc__, add)
    if options.threads:
        torch.set_num_threads(options.threads)
    emit(measure(options.device, options.rounds), options.json)


if __name__ == "__main__":
    main()
