"""Mixed precision: the same step in float32, in bfloat16 autocast, and in float16 with a GradScaler.

    python examples/mixed_precision.py

Prints for each: the loss, the FLOPs by dtype and the simulated device time of a step.
"""

import contextlib

import torch
from torch import nn

import torch_trn


def step(dtype: torch.dtype | None) -> tuple[float, torch_trn.profile]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)).to("trn")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("trn", enabled=dtype is torch.float16)
    x = torch.randn(512, 512, device="trn")
    with torch_trn.profile() as prof:
        with torch.autocast("trn", dtype) if dtype else contextlib.nullcontext():
            loss = model(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss.item(), prof


for dtype in (None, torch.bfloat16, torch.float16):
    loss, prof = step(dtype)
    flops = ", ".join(f"{name} {count / 1e9:.2f} G" for name, count in prof.flops_by_dtype.items())
    eager, compiled = (recording.device_seconds * 1e3 for recording in (prof, prof.compiled()))
    print(f"{dtype or 'no autocast'!s:16}  loss {loss:.5f}  {flops:16}  {eager:.2f} ms, {compiled:.2f} ms compiled")
