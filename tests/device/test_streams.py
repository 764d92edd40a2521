"""Streams and events on the simulated clock."""

import pytest
import torch

trn = torch.trn


def test_default_stream():
    assert trn.current_stream() == trn.default_stream()
    assert trn.current_stream().stream_id == 0
    assert isinstance(trn.current_stream(), torch.Stream)
    assert torch.accelerator.current_stream() == trn.current_stream()


def test_new_streams_differ():
    a, b = trn.Stream(), trn.Stream(device="trn:0", priority=-1)
    assert a != b and a != trn.default_stream()
    assert a.device == torch.device("trn:0")
    assert hash(a) != hash(b)
    assert "trn" in repr(a)
    assert trn.Stream.priority_range() == (0, 0) and a.priority == 0


def test_stream_context_and_set_stream():
    stream = trn.Stream()
    with trn.stream(stream):
        assert trn.current_stream() == stream
        with trn.stream(None):
            assert trn.current_stream() == stream
    assert trn.current_stream() == trn.default_stream()
    with stream:
        assert trn.current_stream() == stream
    trn.set_stream(stream)
    assert trn.current_stream() == stream
    trn.set_stream(None)
    assert trn.current_stream() == stream
    trn.set_stream(trn.default_stream())
    assert trn.current_stream() == trn.default_stream()


@pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")
def test_stream_context_moves_to_its_device_and_back():
    stream = trn.Stream("trn:1")
    with trn.stream(stream):
        assert trn.current_device() == 1
        assert trn.current_stream() == stream
    assert trn.current_device() == 0
    assert trn.current_stream(1) == trn.default_stream(1)


def test_set_stream_by_id():
    stream = trn.Stream()
    trn._set_stream_by_id(stream.stream_id, stream.device_index, stream.device_type)
    assert trn.current_stream() == stream
    trn.set_stream(trn.default_stream())


def elapsed(work) -> float:
    start, end = trn.Event(enable_timing=True), trn.Event(enable_timing=True)
    trn.synchronize()
    start.record()
    work()
    end.record()
    trn.synchronize()
    return start.elapsed_time(end)


def test_elapsed_time_is_simulated_and_repeats():
    a = torch.randn(2048, 2048, device="trn")
    times = [elapsed(lambda: a @ a) for _ in range(3)]
    assert times[0] == times[1] == times[2] > 0
    assert elapsed(lambda: [a @ a for _ in range(4)]) == pytest.approx(4 * times[0], rel=1e-6)
    assert elapsed(lambda: None) == 0


def test_elapsed_time_grows_with_work():
    small, large = (torch.randn(n, n, device="trn") for n in (1024, 4096))
    assert elapsed(lambda: large.to(torch.bfloat16)) > elapsed(lambda: small.to(torch.bfloat16))


def test_sleep():
    seconds = 0.25
    cycles = int(trn.get_device_properties().clock_hz * seconds)
    assert elapsed(lambda: trn._sleep(cycles)) == pytest.approx(1000 * seconds, rel=1e-3)


def test_streams_overlap_until_one_waits():
    cycles = int(trn.get_device_properties().clock_hz * 0.1)
    side = trn.Stream()

    def both(wait: bool) -> None:
        trn._sleep(cycles)
        if wait:
            side.wait_stream(trn.current_stream())
        with trn.stream(side):
            trn._sleep(cycles)
        trn.current_stream().wait_stream(side)

    assert elapsed(lambda: both(False)) == pytest.approx(100, rel=0.01)
    assert elapsed(lambda: both(True)) == pytest.approx(200, rel=0.01)


def test_query_and_synchronize():
    trn.synchronize()
    stream = trn.Stream()
    assert stream.query()
    with trn.stream(stream):
        trn._sleep(10**9)
        event = stream.record_event()
    assert not stream.query() and not event.query()
    event.synchronize()
    assert event.query() and stream.query()
    with trn.stream(stream):
        trn._sleep(10**9)
    assert not stream.query()
    stream.synchronize()
    assert stream.query()


def test_host_read_waits_for_the_stream():
    x = torch.ones(4, device="trn")
    trn._sleep(10**9)
    y = x + 1
    event = trn.current_stream().record_event()
    assert not event.query()
    assert y.sum().item() == 8
    assert event.query()


def test_event_rules():
    timed, plain = trn.Event(enable_timing=True), trn.Event()
    timed.record()
    plain.record()
    with pytest.raises((RuntimeError, ValueError), match=r"timing|elapsed"):
        timed.elapsed_time(plain)
    with pytest.raises((RuntimeError, ValueError), match="recorded"):
        trn.Event(enable_timing=True).elapsed_time(timed)
    with pytest.raises(RuntimeError, match="one process"):
        trn.Event(interprocess=True)
    assert trn.Event().query()
    assert isinstance(timed, trn.Event) and isinstance(timed, torch.Event) and not isinstance(1, trn.Event)


@pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")
def test_no_time_elapses_between_two_devices():
    events = [trn.Event(enable_timing=True) for _ in range(2)]
    for index, event in enumerate(events):
        event.record(trn.current_stream(index))
        event.synchronize()
    with pytest.raises(RuntimeError, match=r"\[elapsed_time\] both events must be of one device.*got trn:0 and trn:1"):
        events[0].elapsed_time(events[1])


def test_torch_stream_and_event():
    stream = torch.Stream("trn")
    event = torch.Event("trn", enable_timing=True)
    with stream:
        torch.ones(3, device="trn").add_(1)
        event.record()
    event.wait(trn.current_stream())
    later = stream.record_event(torch.Event("trn", enable_timing=True))
    stream.synchronize()
    assert event.elapsed_time(later) >= 0


def test_record_stream_keeps_memory_until_the_stream_is_done():
    trn.synchronize()
    base = trn.memory_allocated()
    side = trn.Stream()
    x = torch.empty(2**22, dtype=torch.uint8, device="trn")
    address = x.data_ptr()
    with trn.stream(side):
        trn._sleep(10**9)
    x.record_stream(side)
    del x
    y = torch.empty(2**22, dtype=torch.uint8, device="trn")
    assert y.data_ptr() != address
    side.synchronize()
    trn.synchronize()
    del y
    trn.empty_cache()
    assert trn.memory_allocated() == base


def test_sync_debug_mode():
    x = torch.ones(3, device="trn")
    assert trn.get_sync_debug_mode() == 0
    try:
        trn.set_sync_debug_mode("warn")
        for wait in (x.sum().item, x.cpu, x.nonzero, lambda: bool(x.all())):
            with pytest.warns(UserWarning, match="the host waits for the device"):
                wait()
        trn.set_sync_debug_mode(2)
        assert trn.get_sync_debug_mode() == 2
        with pytest.raises(RuntimeError, match=r"_local_scalar_dense\] the host waits"):
            x.sum().item()
        x.add_(1).relu_()
        with pytest.raises(RuntimeError, match=r"must be one of .*; got 'loud'"):
            trn.set_sync_debug_mode("loud")
    finally:
        trn.set_sync_debug_mode("default")
    assert x.tolist() == [2, 2, 2]


def test_not_capturing():
    assert not trn.is_current_stream_capturing()


def test_graphs_are_refused():
    with pytest.raises(RuntimeError, match="Graph is not supported on device type: trn"):
        torch.accelerator.Graph()
