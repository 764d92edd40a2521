"""How long does a training step of a 70-billion-parameter model take on which instances, and does it fit?

    python examples/capacity_plan.py [--model 70b] [--tokens 4096] [--price trn2.48xlarge=41.6] [INSTANCE:COUNT ...]
    python examples/capacity_plan.py --stages 8 --tensor 8 --microbatches 32 trn2-ultraserver:2

No value is computed and no memory is committed: on each kind of instance one rank of FSDP2 runs one step and stands for
its peers. With --stages one rank of each pipeline stage runs, and the step has what the stages wait for each other.
Prices that no public table has are left open; --price sets one, in dollars per instance and hour.
"""

import argparse
from dataclasses import dataclass

import llama
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

import torch_trn
from torch_trn import target_files
from torch_trn.one_rank import OneRankRun

PLANS = ("trn1.32xlarge:16", "trn2.48xlarge:4", "trn2-ultraserver:1", "trn3-ultraserver-gen1:1")
CHOICES = ("trn1", "trn2", "trn3")
GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """So many instances of one kind, every device of which is a rank."""

    instance: str
    count: int
    target: str
    devices: int
    hbm_bytes: int
    power_watts: float
    usd_per_hour: float

    @classmethod
    def parse(cls, text: str, prices: dict[str, float]) -> "Plan":
        name, _, count = text.partition(":")
        for target in CHOICES:
            file = target_files.load(target)
            for instance in file["instances"]:
                if instance["name"] == name:
                    chips = instance["num_chips"] * int(count or 1)
                    price = prices.get(name, instance["usd_per_hour"]) * int(count or 1)
                    return cls(
                        name,
                        int(count or 1),
                        target,
                        chips * file["chip"]["num_devices"],
                        file["device"]["hbm_bytes"],
                        chips * file["chip"]["power_watts"],
                        price,
                    )
        raise SystemExit(f"no instance {name!r} in the targets {', '.join(CHOICES)}")


def step(model: str, tokens: int) -> None:
    dist.init_process_group()
    config = llama.CONFIGS[model]
    sharded = llama.sharded_on(torch.device("trn"), config)
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=1e-4, fused=True)
    llama.train_step(sharded, optimizer, 1, tokens, config.vocabulary)


def planned(plan: Plan, options: argparse.Namespace) -> OneRankRun:
    if options.stages * options.tensor == 1:
        return torch_trn.simulate(
            step, plan.devices, args=(options.model, options.tokens), target=plan.target, values=False
        )
    if plan.devices % (options.stages * options.tensor):
        raise SystemExit(f"{plan.devices} devices are no multiple of {options.stages} x {options.tensor}")
    layout = (options.stages, options.tensor, options.microbatches, options.tokens)
    return torch_trn.simulate(
        llama.pipeline_step,
        plan.devices,
        args=(llama.CONFIGS[options.model], *layout),
        roles=range(0, options.stages * options.tensor, options.tensor),
        target=plan.target,
        values=False,
    )


def row(plan: Plan, run: OneRankRun, tokens: int) -> list[str]:
    seconds = run.device_seconds
    energy = plan.power_watts * seconds
    cost = plan.usd_per_hour * seconds / 3600
    return [
        f"{plan.count} x {plan.instance}",
        str(plan.devices),
        f"{run.peak_memory_bytes / GIB:.1f} of {plan.hbm_bytes / GIB:.0f} GiB",
        f"{seconds:.2f} s",
        f"{run.waiting_share:.0%}",
        f"{tokens / seconds:,.0f}",
        f"{energy / 1e3:,.0f} kJ" if energy else "no figure",
        f"${cost:.3f}" if cost else "no price",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", default=list(PLANS), metavar="INSTANCE:COUNT")
    parser.add_argument("--model", choices=sorted(llama.CONFIGS), default="70b")
    parser.add_argument("--tokens", type=int, default=4096, help="a device's part of the batch, or a microbatch")
    parser.add_argument("--price", action="append", default=[], metavar="INSTANCE=USD", help="per instance and hour")
    parser.add_argument("--stages", type=int, default=1, help="of a pipeline, 1F1B")
    parser.add_argument("--tensor", type=int, default=1, help="ranks of tensor parallelism")
    parser.add_argument("--microbatches", type=int, default=16, help="of one sequence of --tokens, with --stages")
    options = parser.parse_args()
    prices = {name: float(usd) for name, _, usd in (text.partition("=") for text in options.price)}

    parts = options.stages * options.tensor
    if parts == 1:
        layout, each = f"FSDP2, one step of {options.tokens} tokens per device", options.tokens
    else:
        each = options.microbatches * options.tokens / parts
        layout = f"FSDP2 x {options.stages} stages x {options.tensor} ranks of tensor parallelism, one step of "
        layout += f"{options.microbatches} microbatches of {options.tokens} tokens per replica"
    table = Table(title=f"Llama 3 {options.model.upper()}, {layout}")
    for column in ("instances", "devices", "memory", "step", "waiting", "tokens/s", "energy", "cost"):
        table.add_column(column, justify="left" if column == "instances" else "right")
    for plan in (Plan.parse(text, prices) for text in options.plans):
        try:
            run = planned(plan, options)
        except torch.OutOfMemoryError:
            table.add_row(f"{plan.count} x {plan.instance}", str(plan.devices), "out of memory")
            continue
        table.add_row(*row(plan, run, round(plan.devices * each)))
    Console().print(table)


if __name__ == "__main__":
    main()
