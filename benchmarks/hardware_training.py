"""A GPT on the standard library's source, bf16 autocast: the last losses in hardware beside reference numerics.

python benchmarks/hardware_training.py
"""

import sys
import time
from pathlib import Path

import torch
from rows import Row, arguments, emit
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from gpt_stdlib import BATCH, CONTEXT, GPT, corpus

BAR, LAST = 0.02, 20


def losses(mode: str, device: str, steps: int) -> tuple[list[float], float]:
    import torch_trn

    torch.manual_seed(0)
    text = corpus()
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([index[c] for c in text])
    model = GPT(len(index)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found, started = [], time.perf_counter()
    with torch_trn.set_numerics(mode):
        for _ in range(steps):
            starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,))
            window = torch.stack([data[s : s + CONTEXT + 1] for s in starts]).to(device)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1).float(), window[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found, (time.perf_counter() - started) / steps


def main() -> None:
    options = arguments(__doc__, lambda parser: parser.add_argument("--steps", type=int, default=200))
    (reference, slow), (hardware, slower) = (
        losses(m, options.device, options.steps) for m in ("reference", "hardware")
    )
    ends = [sum(each[-LAST:]) / len(each[-LAST:]) for each in (reference, hardware)]
    apart = abs(ends[1] / ends[0] - 1)
    emit(
        [
            Row(
                f"GPT, {options.steps} steps, bf16 autocast: mean of the last {LAST} losses, hardware over reference",
                f"within {BAR:.0%}",
                f"{ends[1]:.4f} / {ends[0]:.4f}: {apart:.2%}; {slower / slow:.1f} times the time",
                apart <= BAR,
            )
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
