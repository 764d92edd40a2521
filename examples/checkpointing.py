"""Gradient checkpointing: less memory for activations, paid for with a second forward pass.

    python examples/checkpointing.py

Prints peak memory, model FLOPs and hardware FLOPs of one step, with and without checkpointing. The recomputation counts
as hardware FLOPs only: the model's own work is the same.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torch_trn


class Blocks(nn.Module):
    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)) for _ in range(6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.recompute else block(x))
        return x


for recompute in (False, True):
    torch.manual_seed(0)
    model = Blocks(recompute).to("trn")
    x = torch.randn(1024, 512, device="trn")
    with torch_trn.profile() as prof:
        model(x).square().mean().backward()
    print(
        f"checkpointing {recompute!s:5}  peak {prof.peak_memory_bytes / 2**20:6.1f} MiB  "
        f"model {prof.flops / 1e9:.1f} GFLOP  hardware {prof.hardware_flops / 1e9:.1f} GFLOP"
    )
