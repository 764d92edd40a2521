"""Capacity planning without values: one training step of Llama 3 70B and 405B, each in a process of its own.

70B: FSDP2 over the 64 chips of a trn2 UltraServer, 256 devices of two NeuronCores (LNC2), 4096 tokens to a device,
every block recomputed. 405B: 16,384 chips, 65,536 devices: 512 shards x 16 pipeline stages x 8 ranks of tensor
parallelism, 16 microbatches of 4096 tokens, 1F1B; one rank of each stage runs.

python benchmarks/capacity.py
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from rows import Row, arguments, emit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

TOKENS = 4096
CASES = {"70b": (60, 2 << 30), "405b": (180, 4 << 30)}


def fsdp_step() -> None:
    import llama
    import torch
    import torch.distributed as dist

    dist.init_process_group()
    config = llama.CONFIGS["70b"]
    model = llama.sharded_on(torch.device("trn"), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    llama.train_step(model, optimizer, 1, TOKENS, config.vocabulary)


STAGES, TENSOR, MICROBATCHES = 16, 8, 16


def pipeline_step() -> None:
    import llama

    llama.pipeline_step(llama.CONFIGS["405b"], STAGES, TENSOR, MICROBATCHES, TOKENS)


def measure(case: str) -> dict[str, float]:
    began = time.monotonic()
    import torch_trn

    if case == "70b":
        run = torch_trn.simulate(fsdp_step, 256, target="trn2", values=False)
    else:
        roles = [stage * TENSOR for stage in range(STAGES)]
        run = torch_trn.simulate(pipeline_step, 65536, roles=roles, target="trn2", values=False)
    return {
        "seconds": time.monotonic() - began,
        "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "launches": sum(role.recording.launches for role in run.roles),
        "device_seconds": run.device_seconds,
        "waiting_share": run.waiting_share,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--case", choices=sorted(CASES))

    options = arguments(__doc__, add)
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    rows: list[Row] = []
    for case, (seconds, resident) in CASES.items():
        run = subprocess.run([sys.executable, __file__, "--case", case], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        title = f"Llama 3 {case.upper()}, one step, no values"
        what = (
            f"{found['launches']:,} launches; simulated {found['device_seconds']:.2f} s, of which ranks wait for each "
            f"other {found['waiting_share']:.0%}; peak {found['peak_memory_bytes'] / (1 << 30):.1f} GiB"
        )
        rows += [
            Row(f"{title}: time", f"<= {seconds} s", f"{found['seconds']:.1f} s", found["seconds"] <= seconds),
            Row(
                f"{title}: resident memory",
                f"<= {resident >> 30} GiB",
                f"{found['resident_bytes'] / (1 << 30):.2f} GiB",
                found["resident_bytes"] <= resident,
            ),
            Row(f"{title}: found", "", what),
        ]
    emit(rows, options.json)


if __name__ == "__main__":
    main()
