"""A small ledger, target and cost function with numbers that are easy to check by hand."""

from collections.abc import Mapping
from typing import Any

from torch_trn.costing import ENGINES
from torch_trn.ledger import Ledger
from torch_trn.native import Target
from torch_trn.recording import Recording

MATMUL, ADD = 0, 1


def record(**device: float) -> dict[str, Any]:
    """A target of round numbers: 4 devices of 100 W in all, 100 FLOP/s in bf16 and 25 in fp32, 1000 B/s."""
    return {
        "name": "round",
        "core": {"generation": "NeuronCore-v0"},
        "device": {
            "hbm_bytes": 4096,
            "hbm_bytes_per_second": 1000.0,
            "peak_bf16_flops_per_second": 100.0,
            "peak_fp32_flops_per_second": 25.0,
            "peak_fp8_flops_per_second": 200.0,
            "eager_dispatch_seconds": 0.5,
            "graph_launch_seconds": 2.0,
            "host_sync_seconds": 0.25,
            **device,
        },
        "chip": {"name": "Round", "num_devices": 4, "power_watts": 100.0},
        "instances": [
            {"name": "big", "num_chips": 16, "usd_per_hour": 640.0},
            {"name": "small", "num_chips": 1, "usd_per_hour": 36.0},
            {"name": "unpriced", "num_chips": 2, "usd_per_hour": 0.0},
        ],
    }


def cost(spec: list[dict[str, Any]], target: Target | None = None) -> Mapping[str, Any]:
    """A matmul takes 4 s on TensorE, of which 3 s of DMA beside it; a pointwise 0.2 s, bound by HBM."""
    matmul = spec[0]["family"] == "matmul"
    busy = {"tensor": 4.0, "dma": 3.0} if matmul else {"vector": 0.05, "dma": 0.15}
    return {
        "counts": {
            "instructions": {**dict.fromkeys(ENGINES, 0), "tensor" if matmul else "vector": 3},
            "busy_cycles": {**dict.fromkeys(ENGINES, 0), "tensor" if matmul else "vector": 400},
            "hardware_flops": {"float32": 120} if matmul else {},
            "transpose_flops": 20 if matmul else 0,
            "hbm_read_bytes": 600 if matmul else 80,
            "hbm_write_bytes": 300 if matmul else 40,
            "dma_transfers": 9 if matmul else 3,
            "dma_descriptors": 18 if matmul else 3,
            "sbuf_read_bytes": 0,
            "sbuf_write_bytes": 0,
            "psum_read_bytes": 0,
            "psum_write_bytes": 0,
        },
        "model_flops": 100 if matmul else 0,
        "causal_flops": 75 if matmul else 0,
        "flops_dtype": "float32",
        "seconds": 4.5 if matmul else 0.2,
        "busy_seconds": {**dict.fromkeys(ENGINES, 0.0), **busy},
        "bound_by": "TensorE" if matmul else "HBM",
    }


def entry(op: int, launches: int, **fields: Any) -> dict[str, Any]:
    return {
        "op": op,
        "spec": op,
        "phase": "forward",
        "module": 0,
        "line": 0,
        "device": 0,
        "stream": 0,
        "launches": launches,
        "fused_read_bytes": 0,
        "fused_write_bytes": 0,
        "graphs": 0,
        **fields,
    }


def ledger(*entries: dict[str, Any], timeline: list[list[Any]] | None = None, **fields: Any) -> Ledger:
    return Ledger(
        {
            "schema": 1,
            "target": "round",
            "ops": ["aten::mm", "aten::add.Tensor"],
            "modules": ["", "blocks.0.attn", "blocks.1.attn", "head"],
            "lines": ["", "train.py:12", "train.py:30"],
            "specs": [
                [{"family": "matmul", "m": 2, "n": 5, "k": 5, "a_dtype": "float32", "b_dtype": "float32"}],
                [{"family": "pointwise", "elements": 10, "inputs": [{"dtype": "int64", "elements": 10}]}],
            ],
            "entries": list(entries),
            "host_syncs": [],
            "peak_memory": {
                "bytes": 3072,
                "by_category": {
                    "parameters": 2048,
                    "gradients": 0,
                    "optimizer_state": 0,
                    "activations": 1024,
                    "temporaries": 0,
                },
            },
            "collectives": [],
            "steps": 0,
            "timeline": timeline,
            **fields,
        }
    )


def status(op: str) -> str:
    return "native" if op == "aten::mm" else "host"


def recording(*entries: dict[str, Any], mode: str = "eager", **fields: Any) -> Recording:
    return Recording(ledger(*entries, **fields), Target(record()), mode, cost, status)


def step() -> Recording:
    """One training step: two matmuls of blocks, their backward, an optimizer's add, one host sync."""
    entries = (
        entry(MATMUL, 1, module=1, line=1, graphs=1),
        entry(MATMUL, 1, module=2, line=1),
        entry(MATMUL, 4, module=1, line=1, phase="backward"),
        entry(ADD, 2, line=2, phase="optimizer"),
    )
    return recording(
        *entries,
        steps=1,
        host_syncs=[{"op": 1, "line": 2, "module": 0, "direction": "to_host", "count": 1, "bytes": 4}],
        timeline=[
            [0, 0.0, 4.5, 100],
            [1, 4.5, 9.0, 200],
            *([2, 9.0 + 4.5 * i, 13.5 + 4.5 * i, 300] for i in range(4)),
            [3, 27.0, 27.5, 200],
            [3, 27.5, 28.0, 200],
        ],
    )
