"""Fully sharded data parallelism: each rank holds a part of every parameter and gathers a layer when it needs it.

    torchrun --nproc-per-node 2 examples/fsdp2.py
    trn run --world-size 8 examples/fsdp2.py

Rank 0 prints the losses, the share of the parameters that a rank holds, and what one step sends to the other ranks,
beside what the sizes of the parameters say: they are gathered for forward and again for backward, and their gradients
are scattered. The last layers stay gathered in between.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import torch_trn


def main() -> None:
    torch.trn.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(4)]
    model = nn.Sequential(nn.Linear(64, 256), *layers, nn.Linear(256, 8)).to("trn")
    for layer in layers:
        fully_shard(layer)  # gathered and freed on its own
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    generator = torch.Generator().manual_seed(rank)
    for step in range(20):
        x = torch.randn(64, 64, generator=generator).to("trn")
        with torch_trn.profile() as prof:
            loss = (model(x) - x[:, :8]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % 10 == 9:
            dist.all_reduce(loss.detach_(), dist.ReduceOp.AVG)
            if rank == 0:
                print(f"step {step + 1:3}  loss {loss.item():.3f}")

    if rank == 0:
        whole = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
        held = sum(parameter.to_local().numel() * parameter.itemsize for parameter in model.parameters())
        print(f"a rank holds {held} of {whole} bytes of parameters")
        for kind in ("all_gather_into_tensor", "reduce_scatter_tensor"):
            calls = [call for call in prof.collectives if call["op"].startswith(kind)]
            sent = sum(call["count"] * call["moved_bytes"] for call in calls)
            print(f"{kind}: {sum(call['count'] for call in calls)} calls in a step, {sent} bytes sent by a rank")
        print(f"parameters that the other ranks lack: {whole * (world_size - 1) // world_size} bytes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
