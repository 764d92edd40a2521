"""Time, utilisation, energy and money against sums done by hand on a target of round numbers."""

import pytest
import torch
from synthetic_ledger import ADD, MATMUL, cost, entry, ledger, record, recording, status, step

import torch_trn
from torch_trn import costing
from torch_trn.costing import Launch
from torch_trn.ledger import Ledger
from torch_trn.native import Target
from torch_trn.recording import Recording


def costed(made: Ledger, mode: str = "eager", **device: float) -> list[Launch]:
    return costing.cost_ledger(made, costing.spec_costs(made, cost), record(**device), mode)


def test_a_distinct_spec_is_costed_once() -> None:
    calls = []
    made = ledger(entry(MATMUL, 1000), entry(MATMUL, 5, module=1), entry(ADD, 2))
    costs = costing.spec_costs(made, lambda spec: calls.append(spec) or cost(spec))
    assert len(calls) == len(costs) == 2


def test_eager_takes_the_longer_of_dispatch_and_device_time() -> None:
    matmul, add = costed(ledger(entry(MATMUL, 2), entry(ADD, 3)))
    assert (matmul.row.seconds, matmul.bound_by) == (2 * 4.5, "TensorE")
    assert (add.row.seconds, add.bound_by) == (3 * 0.5, "dispatch")


def test_eager_without_a_dispatch_floor_is_bound_by_what_the_program_says() -> None:
    (add,) = costed(ledger(entry(ADD, 3)), eager_dispatch_seconds=0.0)
    assert (add.row.seconds, add.bound_by) == (pytest.approx(0.6), "HBM")


def test_compiled_pays_device_time_and_one_launch_per_graph() -> None:
    (add,) = costed(ledger(entry(ADD, 30, graphs=2)), "compiled")
    assert add.row.seconds == pytest.approx(30 * 0.2 + 2 * 2.0)
    assert add.bound_by == "HBM"
    (lonely,) = costed(ledger(entry(ADD, 1, graphs=1)), "compiled")
    assert lonely.bound_by == "dispatch"


def test_an_intermediate_past_four_gib_stays_on_the_chip_whole() -> None:
    size = 5 << 30
    with torch_trn.dry_run(), torch_trn.profile(mode="compiled") as prof:
        x = torch.empty(size, dtype=torch.int8, device="trn")
        y = (x + 1) + 1
    assert prof.hbm_write_bytes == y.numel() == size


def test_compiled_leaves_fused_bytes_out_of_hbm_traffic() -> None:
    # 120 bytes a launch; 90 of them fused leave a quarter of the DMA time, so VectorE becomes the slowest.
    (add,) = costed(ledger(entry(ADD, 10, fused_read_bytes=600, fused_write_bytes=300)), "compiled")
    assert (add.row.hbm_read_bytes, add.row.hbm_write_bytes) == (200, 100)
    assert add.seconds == pytest.approx(0.05 + max(0.05, 0.15 / 4))
    assert add.bound_by == "VectorE"
    assert add.row.busy_seconds["dma"] == pytest.approx(10 * 0.15 / 4)
    assert add.row.dma_transfers == round(30 / 4)


def test_what_was_there_before_is_read_from_hbm_in_compiled_mode() -> None:
    """Only what a fused group made itself stays on the chip: its first launch reads its operand, the next does not."""
    x = torch.ones(1000).to("trn")
    for _ in range(2):
        with torch_trn.profile(mode="compiled") as prof:
            y = x.neg()
            z = y.exp()
        assert (prof.hbm_read_bytes, prof.hbm_write_bytes) == (4000, 8000)
        with torch_trn.profile(mode="compiled") as prof:
            y.add_(z)
        assert (prof.hbm_read_bytes, prof.hbm_write_bytes) == (8000, 4000)


def test_compiled_and_eager_agree_on_flops() -> None:
    eager = step()
    compiled = eager.compiled()
    assert compiled.mode == "compiled"
    assert (compiled.flops, compiled.hardware_flops) == (eager.flops, eager.hardware_flops)


def test_recomputation_is_hardware_flops_only() -> None:
    made = recording(entry(MATMUL, 3), entry(MATMUL, 2, phase="recompute"))
    assert (made.flops, made.causal_flops, made.flops_by_dtype) == (300, 225, {"float32": 300})
    assert (made.hardware_flops, made.transpose_flops) == (5 * 120, 5 * 20)


def test_streams_and_devices_run_side_by_side() -> None:
    made = costed(ledger(entry(MATMUL, 2), entry(MATMUL, 1, stream=1), entry(MATMUL, 3, device=1)))
    assert costing.device_seconds(made) == 3 * 4.5
    assert costing.num_devices(made) == 2


def test_one_host_dispatches_to_all_streams() -> None:
    made = recording(*(entry(ADD, 10, stream=stream) for stream in range(4)))
    assert made.device_seconds == 40 * 0.5


def test_mfu_is_time_at_the_documented_peak_over_time_taken() -> None:
    made = recording(entry(MATMUL, 2))
    assert made.mfu == pytest.approx(200 / 25 / 9.0)
    assert made.hfu == pytest.approx(240 / 25 / 9.0)
    assert made.peak == ("FP32", 25.0)


def test_the_peak_of_a_mix_is_the_rate_at_which_the_mix_would_run() -> None:
    name, rate = costing.mixed_peak({"float32": 100, "bfloat16": 300, "float8_e5m2": 0}, record()["device"])
    assert (name, rate) == ("BF16 + FP32", pytest.approx(400 / (100 / 25 + 300 / 100)))


@pytest.mark.parametrize(
    ("dtype", "peak"),
    [
        ("bfloat16", ("BF16", 100.0)),
        ("float16", ("BF16", 100.0)),
        ("float8_e4m3", ("FP8", 200.0)),
        ("float64", ("FP32", 25.0)),
        ("complex64", ("FP32", 25.0)),
    ],
)
def test_peak_of_a_dtype(dtype: str, peak: tuple[str, float]) -> None:
    assert costing.peak_flops(dtype, record()["device"]) == peak


def test_mbu_and_busy_fractions() -> None:
    made = recording(entry(MATMUL, 2))
    assert made.mbu == pytest.approx(1800 / 1000 / 9.0)
    assert made.busy_fraction["tensor"] == pytest.approx(8 / 9)
    assert made.busy_fraction["gpsimd"] == 0


def test_energy_is_the_devices_share_of_the_chips_power() -> None:
    made = recording(entry(MATMUL, 2), entry(MATMUL, 1, device=1))
    assert made.energy_joules == pytest.approx(2 * 25.0 * 9.0)
    assert costing.energy_joules(1.0, 1, {"chip": {"power_watts": 0, "num_devices": 4}}) is None


def test_cost_is_the_share_of_the_instance_cheapest_per_device() -> None:
    made = recording(entry(MATMUL, 2))
    assert made.cost_usd == pytest.approx(36 / 4 / 3600 * 9.0)
    assert made.money.note == "1 of 4 devices of a small at $36 per hour"


def test_no_price_gives_none_and_the_reason() -> None:
    unpriced = {**record(), "instances": record()["instances"][2:]}
    money = costing.money(1.0, 1, unpriced)
    assert money.usd is None
    assert "no public price for round" in money.note


def test_groups_add_up_to_the_total() -> None:
    made = step()
    for rows in (made.by_operator(), made.by_module(), made.by_module(collapse=True), made.by_phase(), made.by_line()):
        assert sum(row.launches for row in rows) == made.launches == 8
        assert sum(row.flops for row in rows) == made.flops == 600
        assert sum(row.hbm_read_bytes for row in rows) == made.hbm_read_bytes
        assert sum(row.seconds for row in rows) == pytest.approx(made.total.seconds)
        assert sum(sum(row.bound_seconds.values()) for row in rows) == pytest.approx(made.total.seconds)


def test_rows_are_sorted_by_time_and_phases_by_order() -> None:
    made = step()
    assert [row.name for row in made.by_operator()] == ["aten::mm", "aten::add.Tensor"]
    assert [row.name for row in made.by_phase()] == ["forward", "backward", "optimizer"]
    assert [(row.name, row.launches) for row in made.by_module()] == [
        ("blocks.0.attn", 5),
        ("blocks.1.attn", 1),
        ("", 2),
    ]
    assert [row.name for row in made.by_module(collapse=True)] == ["blocks.*.attn", ""]


def test_a_bound_is_what_most_of_the_time_waits_for() -> None:
    made = recording(entry(MATMUL, 1), entry(ADD, 100))
    assert made.total.bound_by == "dispatch"
    assert made.bound_seconds == {"TensorE": 4.5, "dispatch": 50.0}


def test_dma_averages() -> None:
    made = recording(entry(MATMUL, 1), entry(ADD, 1))
    assert (made.dma_transfers, made.dma_average_bytes) == (12, 1020 / 12)


def test_fallbacks_and_narrowing_name_operator_and_line() -> None:
    made = step()
    assert made.fallbacks == [{"op": "aten::add.Tensor", "launches": 2, "lines": ["train.py:30"], "status": "host"}]
    assert made.narrowing == [{"op": "aten::add.Tensor", "launches": 2, "lines": ["train.py:30"], "dtypes": ["int64"]}]


def test_narrowed_dtypes_are_found_at_any_depth() -> None:
    spec = [{"family": "x", "index_dtype": "int64", "outputs": [{"dtype": "float64"}], "in": [3, 4], "kind": "int64"}]
    assert costing.narrowed_dtypes(spec) == {"int64", "float64"}


def test_host_syncs_are_the_blocking_reads() -> None:
    sync = {"op": 1, "line": 2, "module": 0, "direction": "to_host", "count": 3, "bytes": 12, "blocking": True}
    syncs = [sync, {**sync, "blocking": False, "bytes": 100}, {**sync, "direction": "to_device", "bytes": 50}]
    made = recording(entry(ADD, 1), host_syncs=syncs)
    assert [(s["count"], s["line"]) for s in made.host_syncs] == [(3, "train.py:30")]
    assert (made.to_host_bytes, made.to_device_bytes) == (112, 50)
    assert made.host_sync_seconds == 3 * 0.25


def test_on_another_target_counts_stay_and_time_changes() -> None:
    made = step()
    slower = {**record(eager_dispatch_seconds=10.0), "name": "slower"}
    other = made.on(Target(slower))
    assert other.target.name == "slower"
    assert other.flops == made.flops
    assert other.device_seconds == 8 * 10.0


def test_an_empty_ledger_costs_nothing() -> None:
    made = recording()
    assert (made.device_seconds, made.flops, made.mfu, made.mbu, made.dma_average_bytes) == (0, 0, 0, 0, 0)
    assert made.to_dict()["by_operator"] == []


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of eager, compiled; got 'fast'"):
        Recording(ledger(), Target(record()), "fast", cost, status)
    with pytest.raises(ValueError, match="mode must be one of"):
        costing.cost_ledger(ledger(), [], record(), "fast")
