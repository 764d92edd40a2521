"""One recording, three chips: a step is recorded once and costed on trn1, trn2 and trn3.

    python examples/three_targets.py

Prints a table: device time in eager and compiled mode, model FLOPs and HBM traffic. Nothing runs again for the second
and third chip.
"""

import torch
from torch import nn

import torch_trn

torch.manual_seed(0)
model = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True, dtype=torch.bfloat16).to("trn")
optimizer = torch.optim.AdamW(model.parameters())
x = torch.randn(16, 512, 512, device="trn", dtype=torch.bfloat16)

with torch_trn.profile() as recorded:
    model(x).square().mean().backward()
    optimizer.step()

print(f"{'target':8}{'eager':>12}{'compiled':>12}{'model FLOPs':>14}{'HBM':>12}")
for target in ("trn1", "trn2", "trn3"):
    prof = recorded.on(target)
    print(
        f"{target:8}{prof.device_seconds * 1e3:9.2f} ms{prof.compiled().device_seconds * 1e3:9.2f} ms"
        f"{prof.flops / 1e9:12.1f} G{(prof.hbm_read_bytes + prof.hbm_write_bytes) / 1e9:9.2f} GB"
    )
