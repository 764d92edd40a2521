"""Hardware numerics over CPU eager, in turns in one process: a GPT-2 124M step, a product, element-wise functions.

python benchmarks/hardware_numerics.py
"""

from collections.abc import Callable
from functools import partial

import torch
from gpt2_step import stepper
from interleave import interleave, ratios
from rows import Row, arguments, emit

ELEMENTS, MATRIX = 1 << 24, 2048
STEP_BAR, PRODUCT_BAR, ELEMENTS_BAR = 2.0, 1.3, 2.5


def in_hardware_numerics(function: Callable[[], object]) -> object:
    import torch_trn

    with torch_trn.set_numerics("hardware"):
        return function()


def calls(device: str) -> dict[str, Callable[[], object]]:
    """Each writes to memory that is there, so that no page is new."""
    torch.manual_seed(0)
    rows = torch.randn(ELEMENTS // 1024, 1024).to(device)
    other, out = torch.randn_like(rows), torch.empty_like(rows)
    a, b = torch.randn(2, MATRIX, MATRIX).to(device).unbind()
    product = torch.empty(MATRIX, MATRIX, device=device)
    return {
        "2048^3 product": partial(torch.mm, a, b, out=product),
        "add, 16 Mi elements": partial(torch.add, rows, other, out=out),
        "exp, 16 Mi elements": partial(torch.exp, rows, out=out),
        "softmax, 16 Mi elements": partial(torch.softmax, rows, 1, out=out),
    }


def row(measure: str, bar: float, variants: dict[str, Callable[[], object]], rounds: int) -> Row:
    for variant in variants.values():  # the first calls build programs, and also run on the CPU
        variant()
        variant()
    minimum, median = ratios(interleave(variants, rounds), "device", "cpu")
    return Row(
        f"{measure}, hardware numerics over CPU",
        f"<= {bar}",
        f"{minimum:.2f} (min), {median:.2f} (median)",
        minimum <= bar,
    )


def main() -> None:
    options = arguments(__doc__, lambda parser: parser.add_argument("--rounds", type=int, default=4))
    rows = []
    on_cpu, on_device = calls("cpu"), calls(options.device)
    for name in on_cpu:
        bar = PRODUCT_BAR if name.endswith("product") else ELEMENTS_BAR
        variants = {"cpu": on_cpu[name], "device": partial(in_hardware_numerics, on_device[name])}
        rows.append(row(name, bar, variants, 4 * options.rounds))
    steps = {"cpu": stepper("cpu", False), "device": partial(in_hardware_numerics, stepper(options.device, False))}
    rows.append(row("GPT-2 124M step", STEP_BAR, steps, options.rounds))
    emit(rows, options.json)


if __name__ == "__main__":
    main()
