"""The sums that a target file must satisfy, so that a mistyped figure cannot stay unnoticed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from .schema import Reader


class Identity(NamedTuple):
    """`formula`, computed as `got`, must lie within `slack` of the file's field `limit`, which is `want`."""

    field: str
    formula: str
    got: float
    limit: str
    want: float
    slack: float = 0.0

    def holds(self) -> bool:
        return abs(self.got - self.want) <= self.slack + 1e-9 * abs(self.want)


def identities(target: dict[str, Any], documented: dict[str, Any]) -> Iterator[Identity]:
    """Every identity of a target whose fields are already known to be well formed."""
    core, device, chip = target["core"], target["device"], target["chip"]
    partitions = core["num_partitions"]

    for memory in ("sbuf", "psum"):
        field = f"core.{memory}_bytes_per_partition"
        total = partitions * core[f"{memory}_bytes_per_partition"]
        yield _documented(documented, field, f"core.num_partitions x {field}", total, f"{memory}_bytes")
    yield Identity(
        "core.moving_free_max_elements",
        "4 bytes x core.moving_free_max_elements x core.psum_num_banks",  # a bank holds one fp32 result
        4 * core["moving_free_max_elements"] * core["psum_num_banks"],
        "core.psum_bytes_per_partition",
        core["psum_bytes_per_partition"],
    )
    yield _documented(
        documented,
        "core.dma_bytes_per_second",
        "core.dma_bytes_per_second / core.dma_num_engines",
        core["dma_bytes_per_second"] / core["dma_num_engines"],
        "dma_engine_bytes_per_second",
    )

    rate = 2 * partitions * core["stationary_free_max_elements"] * core["tensor_clock_hz"]
    for dtype in ("bf16", "fp32", "fp8", "mx"):
        passes = core[f"{dtype}_passes"]
        limit = f"core_peak_{dtype}_flops_per_second"
        if limit in documented and passes:
            formula = f"2 x partitions x columns x core.tensor_clock_hz / core.{dtype}_passes"
            slack = documented["core_peak_resolution_flops_per_second"]
            yield _documented(documented, "core.tensor_clock_hz", formula, rate / passes, limit, slack)
    num_devices = chip["num_devices"]
    for dtype in ("bf16", "fp32", "fp8"):
        field, limit = (f"device.peak_{dtype}_flops_per_second", f"chip_peak_{dtype}_flops_per_second")
        peak = device[f"peak_{dtype}_flops_per_second"]
        yield _documented(documented, field, f"chip.num_devices x {field}", num_devices * peak, limit)
        passes = core[f"{dtype}_passes"]
        if dtype == "fp8" and core["mx_passes"]:
            passes = min(passes, core["mx_passes"])
        clock_peak = device["num_cores"] * rate / passes
        slack = documented["chip_peak_tolerance"] * clock_peak
        yield Identity(field, field, peak, "device.num_cores x clock peak", clock_peak, slack)

    yield _documented(
        documented,
        "device.num_cores",
        "chip.num_devices x device.num_cores",
        num_devices * device["num_cores"],
        "chip_num_cores",
    )
    yield _documented(
        documented,
        "device.hbm_bytes_per_second",
        "chip.num_devices x device.hbm_bytes_per_second",
        num_devices * device["hbm_bytes_per_second"],
        "chip_hbm_bytes_per_second",
    )
    total = num_devices * device["hbm_bytes"]
    yield Identity(
        "device.hbm_bytes", "chip.num_devices x device.hbm_bytes", total, "chip.hbm_bytes", chip["hbm_bytes"]
    )
    for i, instance in enumerate(target["instances"]):
        field = f"instance[{i}].hbm_bytes"
        total = instance["num_chips"] * chip["hbm_bytes"]
        formula = f"instance[{i}].num_chips x chip.hbm_bytes"
        yield Identity(field, formula, total, f"{field} ({instance['name']})", instance["hbm_bytes"])
        joined = [link["num_chips"] for link in instance["links"] if link["topology"] != "network"]
        if joined:
            field = f"instance[{i}].num_chips"
            formula = "the product of num_chips over the links between them"
            yield Identity(field, formula, math.prod(joined), f"{field} ({instance['name']})", instance["num_chips"])


def check(reader: Reader, target: dict[str, Any], documented: dict[str, Any]) -> None:
    """Raises TargetError at the first identity that does not hold."""
    for identity in identities(target, documented):
        if not identity.holds():
            within = f" within {identity.slack:.6g}" if identity.slack else ""
            reader.fail(
                identity.field,
                f"{identity.formula} must equal {identity.limit}{within}",
                f"{_text(identity.got)}, limit {_text(identity.want)}",
                "Correct whichever is wrong.",
            )


def _documented(
    documented: dict[str, Any], field: str, formula: str, got: float, limit: str, slack: float = 0.0
) -> Identity:
    return Identity(field, formula, got, f"documented.{limit}", documented[limit], slack)


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
