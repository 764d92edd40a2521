"""Allocator of the device: statistics, peaks, cache, limits, out of memory, snapshot, categories."""

import gc
import pickle
import time

import pytest
import torch
from torch.utils.checkpoint import checkpoint

trn = torch.trn
MIB = 2**20


@pytest.fixture(autouse=True)
def clean():
    gc.collect()
    trn.synchronize()
    trn.empty_cache()
    trn.reset_peak_memory_stats()
    trn.reset_accumulated_memory_stats()
    yield
    trn.set_per_process_memory_fraction(1.0)


def used() -> int:
    return trn.memory_allocated()


def test_neuron_keys():
    x = torch.ones(1000, device="trn")
    stats = trn.memory_stats()
    for stat in ("allocated_bytes", "reserved_bytes", "active_bytes"):
        for field in ("current", "peak", "allocated", "freed"):
            assert stats[f"{stat}.{field}"] == stats[f"{stat}.all.{field}"] >= 0
    for key in ("num_alloc_retries", "num_ooms", "num_tensor_frees", "allocation_requests"):
        assert isinstance(stats[key], int)
    assert stats["allocation_requests"] >= 1
    before = stats["num_tensor_frees"]
    del x
    assert trn.memory_stats()["num_tensor_frees"] == before + 1


def test_cuda_keys():
    torch.ones(1000, device="trn")
    stats = trn.memory_stats()
    for stat in ("allocation", "segment", "active", "allocated_bytes", "reserved_bytes", "requested_bytes"):
        for pool in ("all", "large_pool", "small_pool"):
            for field in ("current", "peak", "allocated", "freed"):
                assert f"{stat}.{pool}.{field}" in stats
        assert stats[f"{stat}.all.current"] == sum(stats[f"{stat}.{p}.current"] for p in ("large_pool", "small_pool"))
    nested = trn.memory_stats_as_nested_dict()
    assert nested["allocated_bytes"]["all"]["current"] == stats["allocated_bytes.all.current"]


def test_allocated_follows_tensors():
    base = used()
    x = torch.empty(8 * MIB, dtype=torch.uint8, device="trn")
    assert used() - base == 8 * MIB
    y = torch.empty(4 * MIB, dtype=torch.uint8, device="trn")
    assert used() - base == 12 * MIB
    del x
    assert used() - base == 4 * MIB
    assert trn.max_memory_allocated() - base == 12 * MIB
    trn.reset_peak_memory_stats()
    assert trn.max_memory_allocated() - base == 4 * MIB
    del y
    assert used() == base


def test_small_sizes_round_up_to_a_class():
    base = used()
    x = torch.empty(1, dtype=torch.uint8, device="trn")
    assert used() - base == 256
    stats = trn.memory_stats()
    assert stats["requested_bytes.all.current"] < stats["allocated_bytes.all.current"]
    del x


def test_pools_split_at_one_mebibyte():
    before = trn.memory_stats()
    small = torch.empty(MIB - 1, dtype=torch.uint8, device="trn")
    large = torch.empty(MIB, dtype=torch.uint8, device="trn")
    after = trn.memory_stats()
    for pool in ("small_pool", "large_pool"):
        key = f"allocation.{pool}.current"
        assert after[key] - before[key] == 1
    del small, large


def test_order_of_the_three_levels():
    kept = [torch.empty(n, device="trn") for n in (10, 1000, 100_000, 1_000_000)]
    stats = trn.memory_stats()
    assert stats["reserved_bytes.current"] >= stats["active_bytes.current"] >= stats["allocated_bytes.current"] > 0
    assert kept


def test_cache_is_kept_then_released():
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="trn")
    reserved = trn.memory_reserved()
    address = x.data_ptr()
    del x
    assert trn.memory_reserved() == reserved
    y = torch.empty(64 * MIB, dtype=torch.uint8, device="trn")
    assert y.data_ptr() == address
    del y
    trn.empty_cache()
    assert trn.memory_reserved() < reserved


def test_views_share_and_keep_memory():
    base = used()
    x = torch.arange(MIB, device="trn", dtype=torch.float32)
    held = used()
    view = x[10:20].reshape(2, 5).t()
    assert used() == held
    del x
    assert used() == held
    assert torch.equal(view.cpu(), torch.arange(10.0, 20.0).reshape(2, 5).t())
    del view
    assert used() == base


def test_temporaries_return():
    base = used()
    x = torch.randn(256, 256, device="trn", requires_grad=True)
    ((x @ x).relu().softmax(-1).sum()).backward()
    assert used() > base
    del x
    gc.collect()
    assert used() == base


def test_untouched_memory_costs_nothing():
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
    x = torch.empty(4 * 2**30, dtype=torch.uint8, device="trn")
    with open("/proc/self/statm") as statm:
        after = int(statm.read().split()[1])
    assert used() >= x.numel()
    assert (after - before) * 4096 < 256 * MIB


def test_out_of_memory_tells_who_holds_what_and_goes_on():
    free, total = trn.mem_get_info()
    base = used()
    ooms = trn.memory_stats()["num_ooms"]
    model = torch.nn.Linear(512, 512, device="trn")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2 * total, dtype=torch.uint8, device="trn")
    words = str(caught.value).replace("_", " ")
    for category in ("parameters", "gradients", "optimizer state", "activations", "temporaries"):
        assert category in words
    assert "trn:0" in words
    assert " out of memory." in words and len(caught.value.args) == 1  # what accelerate and others look for
    del caught
    assert trn.memory_stats()["num_ooms"] == ooms + 1
    assert torch.equal(model(torch.ones(1, 512, device="trn")).isfinite().all().cpu(), torch.tensor(True))
    del model
    gc.collect()
    assert used() == base
    assert free <= total


def test_fills_the_whole_device():
    free, _ = trn.mem_get_info()
    chunk = 2**30
    held = [torch.empty(chunk, dtype=torch.uint8, device="trn") for _ in range(free // chunk)]
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(chunk, dtype=torch.uint8, device="trn")
    held.pop()
    held.append(torch.empty(chunk, dtype=torch.uint8, device="trn"))


def test_cached_segments_are_given_up_before_out_of_memory():
    free, _ = trn.mem_get_info()
    size = free * 3 // 4
    x = torch.empty(size, dtype=torch.uint8, device="trn")
    del x
    y = torch.empty(size - 64 * MIB, dtype=torch.uint8, device="trn")
    assert y.numel()


def test_mem_get_info():
    free, total = trn.mem_get_info()
    assert total == trn.get_device_properties().total_memory
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="trn")
    assert free - trn.mem_get_info("trn")[0] >= 64 * MIB
    del x


def test_memory_fraction():
    _, total = trn.mem_get_info()
    trn.set_per_process_memory_fraction(0.25)
    assert trn.get_per_process_memory_fraction() == pytest.approx(0.25)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total // 2, dtype=torch.uint8, device="trn")
    trn.set_per_process_memory_fraction(1.0)
    assert torch.empty(total // 2, dtype=torch.uint8, device="trn").numel()
    with pytest.raises(ValueError, match="0~1"):
        trn.set_per_process_memory_fraction(1.5)
    with pytest.raises(TypeError):
        trn.set_per_process_memory_fraction("half")


def test_snapshot_adds_up(tmp_path):
    kept = [torch.empty(n, dtype=torch.uint8, device="trn") for n in (100, 5000, 3 * MIB)]
    segments = trn.memory_snapshot(0)
    stats = trn.memory_stats()
    assert sum(s["total_size"] for s in segments) == stats["reserved_bytes.current"]
    assert sum(s["allocated_size"] for s in segments) == stats["allocated_bytes.current"]
    addresses = {}
    for segment in segments:
        assert segment["segment_type"] in ("small", "large")
        assert sum(b["size"] for b in segment["blocks"]) <= segment["total_size"]
        addresses.update({b["address"]: b for b in segment["blocks"] if b["state"] == "active_allocated"})
    for tensor in kept:
        assert addresses[tensor.data_ptr()]["requested_size"] == tensor.numel()
    path = tmp_path / "snapshot.pickle"
    trn.memory._dump_snapshot(str(path))
    assert pickle.loads(path.read_bytes())["segments"]


@pytest.fixture
def history():
    yield trn.memory._record_memory_history
    trn.memory._record_memory_history(None)


def test_history_tells_what_allocated_and_freed(history):
    history(stacks="python", clear_history=True)
    kept = torch.empty(5000, device="trn")
    address = torch.zeros(7000, device="trn").data_ptr()
    snapshot = trn.memory._snapshot()
    events = snapshot["device_traces"][0]
    of_kept = [e for e in events if e["addr"] == kept.data_ptr()]
    assert [e["action"] for e in of_kept] == ["alloc"] and of_kept[0]["size"] >= 20000 and of_kept[0]["stream"] == 0
    assert [e["action"] for e in events if e["addr"] == address] == ["alloc", "free_requested", "free_completed"]
    times = [e["time_us"] for e in events]
    assert times == sorted(times) and abs(times[0] / 1e6 - time.time()) < 600
    here = test_history_tells_what_allocated_and_freed.__name__
    for event in events:
        (frame,) = [f for f in event["frames"] if f["name"] == here]
        assert frame["filename"] == __file__ and frame["line"] > 0
    blocks = {b["address"]: b for s in snapshot["segments"] for b in s["blocks"]}
    assert any(f["name"] == here for f in blocks[kept.data_ptr()]["frames"])
    # The sum of the history is what the statistics say.
    base = trn.memory_allocated()
    history(clear_history=True)
    x = torch.randn(100, 100, device="trn")
    y = (x @ x).relu().sum(0)
    sizes = {"alloc": 1, "free_completed": -1, "free_requested": 0}
    total = sum(sizes[e["action"]] * e["size"] for e in trn.memory._snapshot()["device_traces"][0])
    assert total == trn.memory_allocated() - base > 0 and y.numel() == 100


def test_history_keeps_what_was_asked_for(history):
    history("all", context="alloc", max_entries=4, clear_history=True, skip_actions=["free_requested"])
    for _ in range(10):
        torch.empty(5000, device="trn")
    events = trn.memory._snapshot()["device_traces"][0]
    assert [e["action"] for e in events] == ["alloc", "free_completed"] * 2
    assert [bool(e["frames"]) for e in events] == [True, False] * 2
    history("state", clear_history=True)
    kept = torch.empty(5000, device="trn")
    snapshot = trn.memory._snapshot()
    assert snapshot["device_traces"][0] == []
    assert any(b["frames"] for s in snapshot["segments"] for b in s["blocks"] if b["address"] == kept.data_ptr())
    history(None)
    torch.empty(5000, device="trn")
    assert trn.memory._snapshot()["device_traces"][0] == []
    history(context=None, clear_history=True)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2**50, dtype=torch.uint8, device="trn")
    (event,) = trn.memory._snapshot()["device_traces"][0]
    assert event["action"] == "oom" and event["size"] == 2**50 and event["frames"] == []
    assert event["device_free"] <= torch.trn.get_device_properties(0).total_memory


@pytest.mark.parametrize(
    "wrong", [{"enabled": "some"}, {"context": "frees"}, {"stacks": "c"}, {"skip_actions": ["malloc"]}]
)
def test_history_refuses_what_it_does_not_know(history, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be one of"):
        history(**wrong)


def test_summary():
    x = torch.ones(MIB, device="trn")
    text = trn.memory_summary()
    for words in ("Allocated memory", "Peak Usage", "from large pool", "optimizer state", "OOMs"):
        assert words in text
    assert "from large pool" not in trn.memory_summary(abbreviated=True)
    assert len({len(line) for line in text.splitlines()}) == 1
    del x


def test_categories():
    model = torch.nn.Linear(256, 256).to("trn")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 256, device="trn")).sum().backward()
    optimizer.step()
    held = trn.memory_by_category()
    size = 4 * (256 * 256 + 256)
    assert held["parameters"] >= size and held["gradients"] >= size and held["optimizer_state"] >= 2 * size
    assert set(held) == {"parameters", "gradients", "optimizer_state", "activations", "temporaries"}
    assert sum(held.values()) == used()


def test_accelerator_memory_agrees():
    x = torch.ones(MIB, device="trn")
    accelerator = torch.accelerator
    assert accelerator.memory_allocated() == used() > 0
    assert accelerator.max_memory_allocated() == trn.max_memory_allocated()
    assert accelerator.memory_reserved() == trn.memory_reserved()
    assert accelerator.max_memory_reserved() == trn.max_memory_reserved()
    assert accelerator.memory_stats()["allocated_bytes.all.current"] == used()
    accelerator.reset_peak_memory_stats()
    accelerator.reset_accumulated_memory_stats()
    assert trn.memory_stats()["allocated_bytes.allocated"] == 0
    accelerator.empty_cache()
    accelerator.empty_host_cache()
    del x


def test_storage_resize():
    x = torch.arange(1000.0, device="trn")
    base = used()
    x.untyped_storage().resize_(0)
    assert used() == base - 4096
    x.untyped_storage().resize_(4000)
    assert used() == base
    x.fill_(2)
    assert x.sum().item() == 2000


def test_zero_bytes():
    base = used()
    assert torch.empty(0, device="trn").data_ptr() == 0
    assert used() == base


@pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")
def test_devices_are_accounted_apart():
    base = trn.memory_allocated(1)
    x = torch.empty(MIB, device="trn:1")
    assert trn.memory_allocated("trn:1") - base == 4 * MIB
    before = used()
    y = torch.empty(MIB, device="trn:0")
    assert used() - before == 4 * MIB and trn.memory_allocated(1) - base == 4 * MIB
    del x, y


def test_pinned_memory():
    x = torch.arange(10.0).pin_memory()
    assert x.is_pinned() and not torch.arange(10.0).is_pinned()
    assert torch.equal(x.to("trn", non_blocking=True).cpu(), x)
    assert torch.empty(3, pin_memory=True).is_pinned()


def test_pinned_memory_has_statistics():
    trn.reset_peak_host_memory_stats()
    before = trn.host_memory_stats()
    x = torch.empty(3 * MIB, dtype=torch.uint8).pin_memory()
    during = trn.host_memory_stats()
    assert during["active_bytes.current"] - before["active_bytes.current"] == 3 * MIB
    assert during["active_requests.current"] - before["active_requests.current"] == 1
    assert during["allocated_bytes.current"] >= during["active_bytes.current"]
    del x
    after = trn.host_memory_stats()
    assert after["active_bytes.current"] == before["active_bytes.current"]
    assert after["active_bytes.peak"] == during["active_bytes.current"]
    assert trn.host_memory_stats_as_nested_dict()["active_bytes"]["peak"] == after["active_bytes.peak"]
    trn.reset_peak_host_memory_stats()
    trn.reset_accumulated_host_memory_stats()
    reset = trn.host_memory_stats()
    assert reset["active_bytes.peak"] == after["active_bytes.current"] and reset["active_bytes.allocated"] == 0
    assert trn.get_allocator_backend() == "native"


class FailsOnTheWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fails):
        ctx.fails = fails
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.fails:
            torch.empty(1 << 50, dtype=torch.uint8, device=gradient.device)
        return gradient, None


def backward_that_fails(device, nested=False):
    x = torch.ones(1 << 16, device=device, requires_grad=True)
    for i in range(8):
        x = x * 2 + FailsOnTheWayBack.apply(x.sin(), i == 3)
    if nested:  # from inside of another pass
        x = checkpoint(lambda y: y.cos(), x, use_reentrant=True)
    x.exp().sum().backward()


@pytest.mark.parametrize("nested", [False, True])
def test_a_backward_that_fails_holds_nothing(nested, device, memory_baseline):
    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError):
            backward_that_fails(device, nested)
        gc.collect()
        assert torch.trn.memory_allocated() == memory_baseline
    x = torch.ones(4, device=device, requires_grad=True)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 2, 2, 2]


def test_a_transform_that_fails_raises_its_own_error(device):
    def boom(_):
        raise RuntimeError("boom")

    def function(x):
        y = x.sin()
        y.register_hook(boom)
        return y.sum()

    x = torch.ones(4, device=device)
    for transform in (torch.func.grad, torch.func.jacrev, lambda f: lambda x: torch.autograd.functional.jacobian(f, x)):
        with pytest.raises(RuntimeError, match="boom"):
            transform(function)(x)


def test_a_smaller_target_releases_what_is_cached():
    import torch_trn

    try:
        block = torch.empty(20 << 30, dtype=torch.uint8, device="trn")
        del block
        torch_trn.set_target("trn1")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(18 << 30, dtype=torch.uint8, device="trn")
    finally:
        torch_trn.set_target("trn2")
