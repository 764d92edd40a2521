"""The fields of a target file: their tables, their kinds, and how one raw table becomes plain values."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, NoReturn


class TargetError(ValueError):
    """A target file that cannot be used; names the file and the field."""


class Source(NamedTuple):
    """Where a figure comes from: flags say how far it is from a printed one; `error` is a relative error bar."""

    text: str
    derived: bool = False
    estimate: bool = False
    calibrated: bool = False
    error: float | None = None


class Kind(NamedTuple):
    """What a field accepts."""

    rule: str
    type: type
    low: float = 0.0
    low_allowed: bool = False
    high: float = sys.float_info.max
    choices: tuple[str, ...] = ()


TEXT = Kind("must be a non-empty string", str)
COUNT = Kind("must be a positive whole number", int, high=2**63 - 1)
COUNT_TO_128 = Kind("must be a whole number from 1 to 128, as the emulated engines have", int, high=128)
COUNT_OR_ANY = Kind("must be a whole number, 0 for any", int, low_allowed=True, high=2**63 - 1)
POSITIVE = Kind("must be a positive number", float)
NON_NEGATIVE = Kind("must be zero or a positive number", float, low_allowed=True)
FRACTION = Kind("must be a number above 0 and at most 1", float, high=1.0)
TOPOLOGIES = ("torus_2d", "all_to_all", "ring", "network")
TOPOLOGY = Kind(f"must be one of {', '.join(TOPOLOGIES)}", str, choices=TOPOLOGIES)

# Keys as in csrc/target/fields.h, whose Target accepts exactly these.
FIELDS: dict[str, dict[str, Kind]] = {
    "core": {
        "generation": TEXT,
        "tensor_clock_hz": POSITIVE,
        "vector_clock_hz": POSITIVE,
        "scalar_clock_hz": POSITIVE,
        "gpsimd_clock_hz": POSITIVE,
        "num_partitions": COUNT_TO_128,
        "sbuf_bytes_per_partition": COUNT,
        "psum_bytes_per_partition": COUNT,
        "psum_num_banks": COUNT,
        "stationary_free_max_elements": COUNT_TO_128,
        "moving_free_max_elements": COUNT,
        "fp32_passes": POSITIVE,
        "bf16_passes": POSITIVE,
        "fp8_passes": POSITIVE,
        "mx_passes": NON_NEGATIVE,
        "min_instruction_cycles": COUNT,
        "gpsimd_fixed_cycles": COUNT,
        "access_overhead_cycles": COUNT,
        "vector_result_cycles": COUNT,
        "scalar_result_cycles": COUNT,
        "vector_copy_bf16_speedup": COUNT,
        "vector_tensor_tensor_bf16_speedup": COUNT,
        "scalar_bf16_speedup": COUNT,
        "dma_num_engines": COUNT,
        "dma_bytes_per_second": POSITIVE,
        "dma_fixed_seconds": POSITIVE,
        "dma_saturating_bytes": COUNT,
        "dma_transpose_efficiency": FRACTION,
        "dma_transpose_on_chip_efficiency": FRACTION,
        "gpsimd_dma_bytes_per_second": NON_NEGATIVE,
    },
    "device": {
        "num_cores": COUNT,
        "hbm_bytes": COUNT,
        "hbm_bytes_per_second": POSITIVE,
        "peak_bf16_flops_per_second": POSITIVE,
        "peak_fp32_flops_per_second": POSITIVE,
        "peak_fp8_flops_per_second": POSITIVE,
        "host_bytes_per_second": POSITIVE,
        "tensor_efficiency": FRACTION,
        "hbm_efficiency": FRACTION,
        "eager_dispatch_seconds": POSITIVE,
        "graph_launch_seconds": POSITIVE,
        "host_sync_seconds": POSITIVE,
        "gather_int64_seconds_per_index": NON_NEGATIVE,
    },
    "chip": {"name": TEXT, "num_devices": COUNT, "hbm_bytes": COUNT, "power_watts": NON_NEGATIVE},
    "instance": {"name": TEXT, "num_chips": COUNT, "hbm_bytes": COUNT, "usd_per_hour": NON_NEGATIVE},
    "link": {
        "name": TEXT,
        "topology": TOPOLOGY,
        "num_chips": COUNT_OR_ANY,
        "bytes_per_second": POSITIVE,
        "latency_seconds": POSITIVE,
    },
    "collectives": {
        "start_seconds": POSITIVE,
        "all_reduce_bytes_per_second": POSITIVE,
        "reduce_scatter_bytes_per_second": POSITIVE,
        "mesh_max_bytes": COUNT,
        "rdh_max_bytes": COUNT,
    },
    "documented": {
        "sbuf_bytes": COUNT,
        "psum_bytes": COUNT,
        "dma_engine_bytes_per_second": POSITIVE,
        "core_peak_bf16_flops_per_second": POSITIVE,
        "core_peak_fp32_flops_per_second": POSITIVE,
        "core_peak_fp8_flops_per_second": POSITIVE,
        "core_peak_mx_flops_per_second": POSITIVE,
        "core_peak_resolution_flops_per_second": POSITIVE,
        "chip_num_cores": COUNT,
        "chip_hbm_bytes_per_second": POSITIVE,
        "chip_peak_bf16_flops_per_second": POSITIVE,
        "chip_peak_fp32_flops_per_second": POSITIVE,
        "chip_peak_fp8_flops_per_second": POSITIVE,
        "chip_peak_tolerance": NON_NEGATIVE,
    },
}
# No page prints both for every generation; an identity is checked where its figure is given.
OPTIONAL = {"core_peak_fp8_flops_per_second", "core_peak_mx_flops_per_second"}
_FLAGS = ("derived", "estimate", "calibrated")


class Reader:
    """Reads raw tables of one file into plain values, and keeps each figure's source by its dotted path."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.sources: dict[str, Source] = {}

    def fail(self, field: str, rule: str, got: str, fix: str) -> NoReturn:
        """`[target] file: field: rule; got X. What to do.`"""
        raise TargetError(f"[target] {self.file}: {field}: {rule}; got {got}. {fix}")

    def known(self, path: str, raw: dict[str, Any], names: list[str]) -> None:
        """Rejects a key that the table at `path` does not have."""
        for key in raw:
            if key not in names:
                place = _heading(path) if path else "the file"
                self.fail(_join(path, key), f"must be a field of {place}", "an unknown field", suggest(key, names))

    def table(self, path: str, raw: Any, schema: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
        """The plain values of one table; `children` are keys that the caller reads itself."""
        if not isinstance(raw, dict):
            self.fail(
                path, "must be a table", "nothing" if raw is None else repr(raw), f"Write it as {_heading(path)}."
            )
        kinds = FIELDS[schema]
        self.known(path, raw, [*kinds, *children])
        values: dict[str, Any] = {}
        for key, kind in kinds.items():
            if key in raw:
                values[key] = self.value(_join(path, key), kind, raw[key])
            elif key not in OPTIONAL:
                text = '"..."' if kind.type is str else '{ value = ..., source = "..." }'
                self.fail(
                    _join(path, key), "must be given", "no such field", f"Add {key} = {text} to {_heading(path)}."
                )
        return values

    def tables(self, path: str, raw: Any) -> list[Any]:
        """The elements of an array of tables; each has a name of its own."""
        if not isinstance(raw, list):
            self.fail(path, "must be an array of tables", repr(raw), f"Write each as [[{path}]].")
        names: list[str] = []
        for i, element in enumerate(raw):
            name = element.get("name") if isinstance(element, dict) else None
            if isinstance(name, str) and name in names:
                self.fail(f"{path}[{i}].name", "must be unique", f"{name!r} a second time", "Rename or remove one.")
            names.append(name if isinstance(name, str) else "")
        return raw

    def value(self, path: str, kind: Kind, raw: Any) -> Any:
        """One field's plain value; notes its source."""
        key = path.rpartition(".")[2]
        if isinstance(raw, dict):
            self._note(path, raw)
            raw = raw["value"]
        elif kind.type is not str and isinstance(raw, (int, float)) and not isinstance(raw, bool):
            fix = f'Write {key} = {{ value = {raw!r}, source = "..." }}.'
            self.fail(path, "must state its source", f"the bare number {raw!r}", fix)
        if kind.type is str:
            good = isinstance(raw, str) and raw != "" and (not kind.choices or raw in kind.choices)
        else:
            number = isinstance(raw, int if kind.type is int else (int, float)) and not isinstance(raw, bool)
            good = number and (kind.low < raw <= kind.high or (kind.low_allowed and raw == kind.low))
        if not good:
            fix = suggest(raw, list(kind.choices)) if kind.choices else f"Correct {key}."
            self.fail(path, kind.rule, repr(raw), fix)
        return kind.type(raw)

    def _note(self, path: str, raw: dict[str, Any]) -> None:
        self.known(path, raw, ["value", "source", *_FLAGS, "error"])
        if "value" not in raw:
            self.fail(path, "must have a value", "no `value`", 'Write { value = ..., source = "..." }.')
        source = raw.get("source")
        if not isinstance(source, str) or not source.strip():
            got = "none" if source is None else repr(source)
            self.fail(path, "must state its source", got, 'Add source = "the document or measurement".')
        for flag in _FLAGS:
            if not isinstance(raw.get(flag, False), bool):
                self.fail(f"{path}.{flag}", "must be true or false", repr(raw[flag]), "Write true, or leave it out.")
        error = raw.get("error")
        if error is not None and (isinstance(error, bool) or not isinstance(error, (int, float)) or not error > 0):
            self.fail(f"{path}.error", "must be a positive fraction", repr(error), "Write 0.3 for +-30 %.")
        derived, estimate, calibrated = (raw.get(flag, False) for flag in _FLAGS)
        self.sources[path] = Source(source, derived, estimate, calibrated, error)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _heading(path: str) -> str:
    """How a file writes the table at `path`: instance[1].link[0] stands under [[instance.link]]."""
    words = [word.partition("[")[0] for word in path.split(".")]
    return f"[[{'.'.join(words)}]]" if path.endswith("]") else f"[{path}]"


def suggest(word: Any, words: list[str]) -> str:
    """The nearest of the words, or all of them."""
    import difflib  # only when something is wrong

    near = difflib.get_close_matches(str(word), words, 1)
    return f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(words)}."
