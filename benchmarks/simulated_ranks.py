"""A training step on 8 ranks of one process, with values, over 8 times the step of one device: a small GPT under DDP.

python benchmarks/simulated_ranks.py
"""

import statistics
import time

import torch
import torch.distributed as dist
from models import GPT2, GPT2Shape
from rows import Row, arguments, emit
from torch import nn
from torch.nn import functional as F

import torch_trn

BAR = 1.3
RANKS = 8
SHAPE = GPT2Shape(vocabulary=1024, context=128, width=256, heads=8, layers=4)
BATCH, STEPS, ROUNDS = 4, 3, 5


def seconds_per_step(wrap: type[nn.Module] | None, device: str) -> float:
    torch.manual_seed(0)
    model: nn.Module = GPT2(SHAPE).to(device)
    if wrap is not None:
        dist.init_process_group()
        model = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(SHAPE.vocabulary, (BATCH, SHAPE.context + 1), device=device)

    def step() -> None:
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(2):  # DDP orders its buckets after the first
        step()
    if wrap is not None:
        dist.barrier()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    if wrap is not None:
        dist.barrier()
    return (time.perf_counter() - started) / STEPS


def measure(device: str) -> list[Row]:
    one, all_ranks = [], []
    ddp = nn.parallel.DistributedDataParallel
    for _ in range(ROUNDS):
        one.append(seconds_per_step(None, device))
        job = torch_trn.simulate(seconds_per_step, RANKS, args=(ddp, device), profile=False)
        all_ranks.append(max(job.results))
    ratio = min(all_ranks) / (RANKS * min(one))
    median: float = statistics.median(a / (RANKS * b) for a, b in zip(all_ranks, one, strict=True))
    return [
        Row(
            f"{RANKS} ranks in one process, small GPT, over {RANKS} times one rank",
            f"<= {BAR}",
            f"{ratio:.2f} (median {median:.2f}; one {1e3 * min(one):.0f} ms a step, all {1e3 * min(all_ranks):.0f})",
            ratio <= BAR,
        )
    ]


if __name__ == "__main__":
    options = arguments(__doc__)
    emit(measure(options.device), options.json)
