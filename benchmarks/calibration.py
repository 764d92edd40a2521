"""The time model beside what was measured on real devices (docs/contract.md's tables).

python benchmarks/calibration.py
"""

from collections.abc import Callable

import torch
from rows import Row, arguments, emit
from torch.nn import functional as F

import torch_trn
from torch_trn import _C, target_files

Run = Callable[[], object]


def seconds(run: Run) -> float:
    """Simulated seconds of the launches, without dispatch."""
    with torch_trn.profile(lines=False, modules=False) as profile:
        run()
    target, specs = _C.current_target(), profile.ledger.specs
    return float(sum(e["launches"] * _C.cost(specs[e["spec"]], target)["seconds"] for e in profile.ledger.entries()))


def bandwidth(name: str, measured: str, function: Callable[[torch.Tensor], Run], num_tensors: int) -> Row:
    """GB/s of `num_tensors` tensors of 8192 x 4096, in fp32 and bf16."""
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(8192, 4096, dtype=dtype, device="trn")
        run = function(x)
        run()
        rates.append(num_tensors * x.numel() * x.element_size() / seconds(run) / 1e9)
    return Row(f"trn2, {name}, GB/s", measured, " / ".join(f"{rate:.0f}" for rate in rates))


def two_operands(x: torch.Tensor) -> Run:
    y = x.clone()
    return lambda: x + y


def gemm() -> Row:
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(4096, 4096, dtype=dtype, device="trn")
        rates.append(2 * 4096**3 / seconds(lambda a=a: a @ a) / 1e12)
    return Row("trn2, GEMM 4096^3, TF", "37.7 / 149.4", " / ".join(f"{rate:.1f}" for rate in rates))


def trn1() -> list[Row]:
    """Kernels measured on one NeuronCore-v2, fp32."""

    def swiglu() -> torch.Tensor:
        return (F.silu(x @ gate) * (x @ up)) @ down

    torch_trn.set_target("trn1")
    a, b = torch.ones(4096, 12288, device="trn"), torch.ones(12288, 5120, device="trn")
    x, gate, up = (torch.ones(*shape, device="trn") for shape in ((4096, 1024), (1024, 3072), (1024, 3072)))
    down = torch.ones(3072, 1024, device="trn")
    parameter = torch.nn.Parameter(torch.ones(10944, 2048, device="trn"))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.step()
    rows = [
        Row("trn1, matmul 4096 x 12288 x 5120, ms", "35.2", f"{seconds(lambda: a @ b) * 1e3:.1f}"),
        Row("trn1, swiglu 4096 x 1024 x 3072, ms", "4.22 (one kernel)", f"{seconds(swiglu) * 1e3:.2f}"),
        Row("trn1, adamw 10944 x 2048, ms", "1.888", f"{seconds(optimizer.step) * 1e3:.2f}"),
    ]
    torch_trn.set_target("trn2")
    return rows


def collectives() -> list[Row]:
    """Two ranks of one chip; nccom-test does not name its instance."""

    def seconds_of(target: str, op: str, size: int) -> float:
        placement = {"world_size": 2, "order": "linear", "devices": [], "instance": ""}
        model = _C.CollectiveModel(_C.Target(target_files.load(target)), placement)
        return float(model.cost(op, [0, 1], 0, -1, size)["seconds"])

    rows = [
        Row(f"trn2, {op}, 2 ranks, bus GB/s", measured, f"{passes * 2**30 / seconds_of('trn2', name, 2**30) / 1e9:.1f}")
        for op, name, measured, passes in (
            ("all_gather", "all_gather_into_tensor", "64.5", 0.5),
            ("all_reduce", "all_reduce", "37.8", 1.0),
            ("reduce_scatter", "reduce_scatter_tensor", "91.8", 0.5),
        )
    ]
    points = [("trn2, all_reduce of 2 MB", "trn2", "all_reduce", 2_000_000, 105)]
    points += [("trn2, all_gather of 2 MB from each", "trn2", "all_gather_into_tensor", 4_000_000, 91)]
    nccom = {1: 58, 64: 58, 256: 60, 1024: 68, 4096: 107, 16384: 332, 65536: 1214, 262144: 4750, 1048576: 18930}
    points += [(f"trn1, all_reduce of {kib:,} KiB", "trn1", "all_reduce", kib << 10, us) for kib, us in nccom.items()]
    for name, target, op, size, measured in points:
        model = seconds_of(target, op, size) * 1e6
        rows.append(Row(f"{name}, us", f"{measured}", f"{model:.0f} ({100 * (model / measured - 1):+.0f} %)"))
    return rows


def main() -> None:
    options = arguments(__doc__)
    torch_trn.set_target("trn2")
    rows = [
        gemm(),
        bandwidth("add", "601 / 600", two_operands, 3),
        bandwidth("sqrt", "558 / 534", lambda x: x.sqrt, 2),
        bandwidth("sin", "119 / 31", lambda x: x.sin, 2),
        bandwidth("gelu", "84 / 42", lambda x: lambda: F.gelu(x), 2),
        bandwidth("sum of rows", "639 / 315", lambda x: lambda: x.sum(1), 1),
        bandwidth("max of rows", "177 / 97", lambda x: lambda: x.amax(1), 1),
        *trn1(),
        *collectives(),
    ]
    emit(rows, options.json)


if __name__ == "__main__":
    main()
