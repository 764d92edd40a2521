"""Pipeline parallelism: each rank holds one stage of the model and passes its activations on.

    torchrun --nproc-per-node 2 examples/pipeline.py
    trn run --world-size 8 examples/pipeline.py
    trn run --world-size 32 --dry-run --values 0 --role 0:32 examples/pipeline.py    # the bubble, no values

The batch goes through in microbatches, one forward and one backward in turn (1F1B), so that all stages work at once.
The last rank prints the losses, and the first what it sends and receives in one step.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

import torch_trn

WIDTH, BATCH = 64, 64


def main() -> None:
    torch.trn.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("trn", torch.trn.current_device())

    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(world_size)]
    model = stages[rank].to(device)
    schedule = Schedule1F1B(
        PipelineStage(model, rank, world_size, device),
        n_microbatches=2 * world_size,
        loss_fn=lambda y, target: (y - target).square().mean(),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    for step in range(20):
        x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(step)).to(device)
        losses: list[torch.Tensor] = []
        optimizer.zero_grad()
        with torch_trn.profile() as prof:
            if rank == 0:
                schedule.step(x)
            elif rank == world_size - 1:
                schedule.step(target=x.tanh(), losses=losses)
            else:
                schedule.step()
        optimizer.step()
        if losses and step % 10 == 9:
            print(f"step {step + 1:3}  loss {torch.stack(losses).mean().item():.3f}")

    dist.barrier()
    if rank == 0:
        messages = {op: sum(c["count"] for c in prof.collectives if c["op"] == op) for op in ("send", "recv")}
        print(f"a step sends {messages['send']} activations on and gets {messages['recv']} gradients back,")
        print(f"one for each of {2 * world_size} microbatches")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
