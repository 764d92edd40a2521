"""torch.profiler: the device timeline."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

trn = torch.trn
BOTH = [ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]


def elapsed_ms(work) -> float:
    start, end = trn.Event(enable_timing=True), trn.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    trn.synchronize()
    return start.elapsed_time(end)


def test_device_columns_and_kernels():
    x = torch.randn(512, 512, device="trn")
    with profile(activities=BOTH) as prof:
        (x @ x).relu()
    averages = {event.key: event for event in prof.key_averages()}
    assert averages["aten::mm"].device_time_total > 0
    kernels = [kernel for event in prof.events() for kernel in event.kernels]
    assert len(kernels) == 2
    assert not any(kernel.name.startswith("aten::") for kernel in kernels)
    table = prof.key_averages().table(sort_by="self_device_time_total")
    assert "Self TRN" in table and "TRN total" in table


def test_activity_has_the_device_name():
    assert ProfilerActivity.PrivateUse1 == ProfilerActivity.TRN


def test_durations_are_simulated():
    x = torch.randn(1024, 1024, device="trn")
    x @ x
    with profile(activities=BOTH) as prof:
        milliseconds = elapsed_ms(lambda: x @ x)
    (kernel,) = [k for event in prof.events() if event.name == "aten::mm" for k in event.kernels]
    assert kernel.duration == pytest.approx(1000 * milliseconds, rel=1e-3)


def test_backward_kernels_are_linked():
    x = torch.randn(64, 64, device="trn", requires_grad=True)
    with profile(activities=BOTH) as prof:
        (x @ x).sum().backward()
    linked = [event.name for event in prof.events() if event.kernels]
    assert linked.count("aten::mm") == 3


def test_chrome_trace(tmp_path):
    x = torch.randn(64, 64, device="trn")
    side = trn.Stream()
    with profile(activities=BOTH) as prof:
        x @ x
        with trn.stream(side):
            x + x
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    kernels = [e for e in events if e.get("cat") == "kernel"]
    assert {k["tid"] for k in kernels} == {0, side.stream_id}
    assert all(k["pid"] == 0 and k["args"]["device"] == 0 for k in kernels)
    flows = {phase: {e["id"] for e in events if e.get("cat") == "ac2g" and e["ph"] == phase} for phase in "sf"}
    assert flows["s"] == flows["f"] and len(flows["s"]) == 2
    names = [e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"]
    assert "trn:0" in names


def test_schedule_and_annotations():
    x = torch.randn(64, 64, device="trn")
    with profile(activities=BOTH, schedule=schedule(wait=1, warmup=1, active=2)) as prof:
        for _ in range(4):
            with record_function("work"):
                x @ x
            prof.step()
    averages = {event.key: event for event in prof.key_averages()}
    assert averages["aten::mm"].count == 2
    assert averages["work"].device_time_total > 0


def test_cpu_only_records_no_kernels():
    x = torch.randn(64, 64, device="trn")
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        x @ x
    assert not any(event.kernels for event in prof.events())


def test_memory_column():
    with profile(activities=BOTH, profile_memory=True) as prof:
        x = torch.empty(2**20, device="trn")
    averages = {event.key: event for event in prof.key_averages()}
    assert averages["aten::empty"].self_device_memory_usage == 4 * 2**20
    del x


def test_shapes_stacks_and_flops():
    x = torch.randn(8, 8, device="trn")
    with profile(activities=BOTH, record_shapes=True, with_flops=True, with_stack=True) as prof:
        x @ x
    (event,) = [e for e in prof.key_averages(group_by_input_shape=True) if e.key == "aten::mm"]
    assert event.input_shapes == [[8, 8], [8, 8]] and event.flops == 2 * 8**3


def test_nvtx_ranges_are_in_the_profile():
    nvtx = torch.trn.nvtx
    with torch.profiler.profile() as prof:
        assert [nvtx.range_push("outer"), nvtx.range_push("inner")] == [0, 1]
        assert [nvtx.range_pop(), nvtx.range_pop(), nvtx.range_pop()] == [1, 0, -1]
        with nvtx.range("step {}", 3):
            nvtx.mark("here")
        nvtx.range_end(nvtx.range_start("alone"))
    assert {"outer", "inner", "step 3", "here", "alone"} <= {event.name for event in prof.events()}
