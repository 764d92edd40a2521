"""The smallest program: two tensors on the device, one product, and what it cost.

    python examples/hello.py

Prints the product's device and value, then the report of one launch.
"""

import torch

import torch_trn

a = torch.ones(512, 512, device="trn", dtype=torch.bfloat16)
with torch_trn.profile() as prof:
    b = a @ a
print(b.device, b[0, 0].item())
print(prof)
