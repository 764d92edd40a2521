"""Data parallelism: each process trains on its own part of the data, and gradients are averaged as backward makes them.

    torchrun --nproc-per-node 2 examples/ddp.py
    trn run --world-size 8 examples/ddp.py

Every rank drives one device. Rank 0 prints the losses, whether all ranks hold the same parameters, and what one step
sends to the other ranks, beside what the sizes of the gradients say.
"""

import os

import torch
import torch.distributed as dist
from torch import nn

import torch_trn


def main() -> None:
    torch.trn.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()  # the device's own backend
    rank, world_size = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 1)).to("trn")
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-3)

    generator = torch.Generator().manual_seed(rank)
    for step in range(30):
        x = torch.randn(64, 64, generator=generator).to("trn")
        with torch_trn.profile() as prof:  # of the last step, which is like all but the first
            loss = (parallel(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % 10 == 9:
            dist.all_reduce(loss.detach_(), dist.ReduceOp.AVG)
            if rank == 0:
                print(f"step {step + 1:3}  loss {loss.item():.3f}")

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everyones = [torch.empty_like(flat) for _ in range(world_size)]
    dist.all_gather(everyones, flat)
    if rank == 0:
        print("all ranks hold the same parameters:", all(torch.equal(flat, other) for other in everyones))
        sent = sum(call["count"] * call["moved_bytes"] for call in prof.collectives)
        gradients = flat.numel() * flat.itemsize
        formula = 2 * gradients * (world_size - 1) // world_size
        print(f"backend {dist.get_backend()}: a rank sends {sent} bytes in a step;")
        print(f"the all_reduce of {gradients} bytes of gradients sends {formula}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
