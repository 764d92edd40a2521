"""Tensor parallelism: the ranks share the work inside of each layer; two all_reduces per block join it.

    torchrun --nproc-per-node 2 examples/tensor_parallel.py
    trn run --world-size 8 examples/tensor_parallel.py

The first linear layer of a block is cut by columns and the second by rows, so that nothing moves between them. Rank 0
prints the losses, that they are those of the whole model on one device, and the all_reduces of one step.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import torch_trn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(64), Block(64)).to("trn")


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(number)).to("trn")  # the same on all ranks
    loss = (model(x) - x.roll(1, 1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    torch.trn.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    mesh = dist.init_device_mesh("trn", (world_size,))

    whole, model = build(), build()
    for block in model:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    # Plain and distributed parameters together: foreach takes no such mix.
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-3, foreach=False) for each in (whole, model)]

    same = True
    for number in range(20):
        expected = step(whole, optimizers[0], number)
        with torch_trn.profile() as prof:
            loss = step(model, optimizers[1], number)
        same = same and abs(loss - expected) < 1e-4 * abs(expected)
        if rank == 0 and number % 10 == 9:
            print(f"step {number + 1:3}  loss {loss:.3f}")
    if rank == 0:
        print("as on one device:", same)
        calls = [call for call in prof.collectives if call["op"] == "all_reduce"]
        print(f"all_reduce: {sum(call['count'] for call in calls)} calls in a step, of {calls[0]['bytes']} bytes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
