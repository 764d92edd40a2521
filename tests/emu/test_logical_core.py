"""The cores of a logical one: what they send each other, what a barrier orders, and what waits for what."""

import gc
import itertools
from typing import Any

import numpy as np
import pytest

from torch_trn.emu import LogicalCore, NeuronCore

SHAPE = (128, 64)


def uniform(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE).astype(np.float32)


def tile_of(core: Any, values: Any, dtype: str = "float32") -> Any:
    tile = core.sbuf(dtype, *values.shape)
    tile.write(values)
    return tile


def send(core: Any, src: Any, dst: Any, **how: Any) -> None:
    """To the other core, and from it."""
    other = 1 - core.rank
    core.sendrecv(src, dst, send_to_rank=other, recv_from_rank=other, **{"pipe_id": 0, **how})


def test_a_device_of_two_cores_or_one() -> None:
    assert [core.rank for core in LogicalCore("trn2").cores] == [0, 1]
    assert len(LogicalCore("trn3").cores) == 2
    assert len(LogicalCore("trn1").cores) == 1
    assert LogicalCore("trn2").run(lambda core, x: core.rank + x, 5) == [5, 6]


@pytest.mark.parametrize("dma_engine", ["dma", "gpsimd_dma"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_sendrecv_swaps(dtype: str, dma_engine: str) -> None:
    def kernel(core: Any) -> tuple[Any, Any]:
        mine = tile_of(core, np.round(uniform(core.rank) * 100 + 100), dtype)
        other = core.sbuf(dtype, *SHAPE)
        send(core, mine, other, dma_engine=dma_engine)
        return mine.read(), other.read()

    (sent_0, got_0), (sent_1, got_1) = LogicalCore("trn2").run(kernel)
    np.testing.assert_array_equal(got_0, sent_1)
    np.testing.assert_array_equal(got_1, sent_0)
    assert not np.array_equal(sent_0, sent_1)


def test_sendrecv_in_place_and_to_oneself() -> None:
    def kernel(core: Any, to_itself: bool) -> Any:
        tile = tile_of(core, uniform(core.rank))
        rank = core.rank if to_itself else 1 - core.rank
        core.sendrecv(tile, tile, send_to_rank=rank, recv_from_rank=rank, pipe_id=3)
        return tile.read()

    swapped, own = LogicalCore("trn2").run(kernel, False), LogicalCore("trn2").run(kernel, True)
    for rank in (0, 1):
        np.testing.assert_array_equal(swapped[rank], uniform(1 - rank))
        np.testing.assert_array_equal(own[rank], uniform(rank))


@pytest.mark.parametrize(("op", "oracle"), [("add", np.add), ("maximum", np.maximum), ("minimum", np.minimum)])
@pytest.mark.parametrize("memory", ["sbuf", "hbm"])
def test_sendrecv_compute(op: str, oracle: Any, memory: str) -> None:
    def kernel(core: Any) -> Any:
        if memory == "hbm":
            mine, result = core.hbm(uniform(core.rank)), core.hbm(SHAPE)
        else:
            mine, result = tile_of(core, uniform(core.rank)), core.sbuf("float32", *SHAPE)
        other = 1 - core.rank
        core.sendrecv_compute(mine, result, send_to_rank=other, recv_from_rank=other, reduce_op=op)
        return result.read()

    for got in LogicalCore("trn2").run(kernel):
        np.testing.assert_array_equal(got, oracle(uniform(0), uniform(1)))


def test_pipes_progress_apart() -> None:
    def kernel(core: Any) -> list[Any]:
        tiles = [tile_of(core, uniform(10 * core.rank + pipe)) for pipe in (0, 1)]
        got = [core.sbuf("float32", *SHAPE) for _ in (0, 1)]
        for pipe in (0, 1) if core.rank == 0 else (1, 0):
            send(core, tiles[pipe], got[pipe], pipe_id=pipe)
        return [tile.read() for tile in got]

    results = LogicalCore("trn2").run(kernel)
    for rank, got in enumerate(results):
        for pipe in (0, 1):
            np.testing.assert_array_equal(got[pipe], uniform(10 * (1 - rank) + pipe))


def halves(core: Any, shared: Any, with_barrier: bool) -> Any:
    """Each core writes a half of `shared` and sums both."""
    own = slice(core.rank * 128, core.rank * 128 + 128)
    core.dma_copy(core.hbm(shared[own]), tile_of(core, uniform(core.rank)))
    if with_barrier:
        core.core_barrier(core.hbm(shared), (0, 1))
    first, second, total = (core.sbuf("float32", *SHAPE) for _ in range(3))
    core.dma_copy(first, core.hbm(shared[:128]))
    core.dma_copy(second, core.hbm(shared[128:]))
    core.tensor_tensor(total, first, second, "add")
    return total.read()


def test_a_barrier_orders_what_two_cores_write() -> None:
    shared = np.zeros((256, 64), np.float32)
    logical = LogicalCore("trn2")
    for got in logical.run(halves, shared, True):
        np.testing.assert_array_equal(got, uniform(0) + uniform(1))
    timeline = logical.timeline()
    events = [timeline[number] for number in range(len(timeline))]
    (barrier,) = (event for event in events if event.instruction == "core_barrier")
    assert (barrier.engine, barrier.core, barrier.other_core) == ("gpsimd", 0, 1)
    before = [event for event in events if event.engine == "dma"][:2]
    after = [event for event in events if event.engine == "dma"][2:]
    assert max(event.end_seconds for event in before) <= barrier.start_seconds
    assert min(event.start_seconds for event in after) >= barrier.end_seconds
    assert {event.core for event in after} == {0, 1}


def test_without_a_barrier_it_is_a_race() -> None:
    with pytest.raises(
        RuntimeError, match=r"\[dma_copy\] a barrier orders .* got core 1 writing array, which .* core 0"
    ):
        LogicalCore("trn2").run(halves, np.zeros((256, 64), np.float32), False)


def test_two_cores_may_read_one_tensor() -> None:
    shared = uniform(3)

    def kernel(core: Any) -> Any:
        tile = core.sbuf("float32", *SHAPE)
        core.load(tile, shared)
        return tile.read()

    for got in LogicalCore("trn2").run(kernel):
        np.testing.assert_array_equal(got, shared)


def test_by_hand_what_is_in_flight_is_not_used() -> None:
    zero, one = LogicalCore("trn2").cores
    mine = [tile_of(core, uniform(core.rank)) for core in (zero, one)]
    got = [core.sbuf("float32", *SHAPE) for core in (zero, one)]
    send(zero, mine[0], got[0])
    zero.tensor_scalar(zero.sbuf("float32", *SHAPE), mine[0], "multiply", 2.0)  # reads what is sent: allowed
    with pytest.raises(ValueError, match=r"\[tile\] .* got sendrecv of core 0, which the other one has not called"):
        got[0].read()
    with pytest.raises(ValueError, match=r"\[memset\] .* sendrecv of core 0"):
        zero.memset(mine[0], 0)
    with pytest.raises(ValueError, match=r"\[timeline\] .* sendrecv of core 0"):
        zero.timeline()
    with pytest.raises(ValueError, match=r"\[counts\]"):
        zero.counts()
    send(one, mine[1], got[1])
    np.testing.assert_array_equal(got[0].read(), uniform(1))
    assert len(zero.timeline()) == len(one.timeline()) == 2


def test_a_barrier_holds_up_its_engine_only() -> None:
    zero, one = LogicalCore("trn2").cores
    data = np.zeros(SHAPE, np.float32)
    zero.core_barrier(zero.hbm(data), (0, 1))
    tile = zero.sbuf("float32", *SHAPE)
    zero.memset(tile, 1.0, engine="vector")
    with pytest.raises(ValueError, match=r"\[memset\] .* core_barrier of core 0"):
        zero.memset(tile, 1.0, engine="gpsimd")
    one.core_barrier(one.hbm(data), (0, 1), engine="vector")
    zero.memset(tile, 1.0, engine="gpsimd")


def never_meets(core: Any, data: Any) -> None:
    if core.rank == 0:
        core.core_barrier(core.hbm(data), (0, 1))
        core.load(core.sbuf("float32", *SHAPE), data)


def waits_for_another(core: Any, data: Any) -> None:
    tile = core.sbuf("float32", *SHAPE)
    if core.rank == 0:
        core.core_barrier(core.hbm(data), (0, 1))
        core.load(tile, data)
    else:
        send(core, tile_of(core, uniform(1)), tile)
        tile.read()


def test_a_deadlock_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"got core_barrier of core 0, and core 1 has returned"):
        LogicalCore("trn2").run(never_meets, np.zeros(SHAPE, np.float32))
    with pytest.raises(RuntimeError, match=r"got sendrecv of core 1, and core_barrier of core 0"):
        LogicalCore("trn2").run(waits_for_another, np.zeros(SHAPE, np.float32))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_kernel_that_raises_ends_both(rank: int) -> None:
    def kernel(core: Any) -> None:
        if core.rank == rank:
            raise KeyError("mine")
        tile = tile_of(core, uniform(0))
        send(core, tile, tile)
        tile.read()

    with pytest.raises(KeyError, match="mine"):
        LogicalCore("trn2").run(kernel)


def test_rules() -> None:
    lone = NeuronCore("trn2")
    tile = tile_of(lone, uniform(0))
    with pytest.raises(RuntimeError, match=r"\[sendrecv\] two cores of a logical one meet; got 1, limit 2"):
        lone.sendrecv(tile, tile, send_to_rank=0, recv_from_rank=0, pipe_id=0)
    old = LogicalCore("trn1").cores[0]
    with pytest.raises(RuntimeError, match="core_barrier"):
        old.core_barrier(old.hbm(uniform(0)), (0, 1))
    zero, one = LogicalCore("trn2").cores
    mine, other = tile_of(zero, uniform(0)), tile_of(one, uniform(1))
    for error, call in [
        (r"cores are \(0, 1\); got \(1, 0\)", lambda: zero.core_barrier(zero.hbm(uniform(0)), (1, 0))),
        ("the data lie in HBM", lambda: zero.core_barrier(mine, (0, 1))),
        ("a logical core has two cores", lambda: zero.sendrecv(mine, mine, 2, 0, 0)),
        ("one dtype and shape", lambda: send(zero, mine, zero.sbuf("bfloat16", *SHAPE))),
        ("one dtype and shape", lambda: send(zero, mine, zero.sbuf("float32", 128, 32))),
        ("operands lie in SBUF", lambda: send(zero, mine, zero.psum("float32", *SHAPE))),
        ("tiles are of the core", lambda: send(zero, mine, other)),
        ("at most 256 elements", lambda: send(zero, *[zero.sbuf("uint8", 128, 257)] * 2, dma_engine="gpsimd_dma")),
        ("add, maximum or minimum", lambda: zero.sendrecv_compute(mine, mine, 1, 1, "multiply")),
    ]:
        with pytest.raises((RuntimeError, ValueError), match=error):
            call()


def test_two_halves_that_differ() -> None:
    zero, one = LogicalCore("trn2").cores
    mine, other = tile_of(zero, uniform(0)), tile_of(one, uniform(1))
    send(zero, mine, mine)
    with pytest.raises(RuntimeError, match=r"core 0 sending to 1 .* core 1 sending to 1"):
        one.sendrecv(other, other, send_to_rank=1, recv_from_rank=1, pipe_id=0)
    half = other.part(128, 0, 32)
    with pytest.raises(RuntimeError, match=r"float32 \[128, 64\] and float32 \[128, 32\]"):
        send(one, half, half)
    with pytest.raises(RuntimeError, match="one dma_engine"):
        send(one, other, other, dma_engine="gpsimd_dma")
    send(one, other, other)
    np.testing.assert_array_equal(mine.read(), uniform(1))
    zero.core_barrier(zero.hbm(uniform(0)), (0, 1))
    with pytest.raises(RuntimeError, match="both cores name the same data"):
        one.core_barrier(one.hbm(uniform(0)), (0, 1))


def test_strict_sources_are_written() -> None:
    zero, _ = LogicalCore("trn2", strict=True).cores
    with pytest.raises(RuntimeError, match="written before they are read"):
        send(zero, zero.sbuf("float32", *SHAPE), zero.sbuf("float32", *SHAPE))


def test_the_clock_joins_the_cores() -> None:
    """The core that comes first waits; both go on together, and each has engines of its own."""
    logical = LogicalCore("trn2")

    def kernel(core: Any) -> None:
        mine, other = tile_of(core, uniform(core.rank)), core.sbuf("float32", *SHAPE)
        for _ in range(20 if core.rank == 1 else 1):
            core.activation(mine, "tanh", mine)
        send(core, mine, other)
        core.activation(other, "exp", other)

    logical.run(kernel)
    timeline = logical.timeline()
    events = [timeline[number] for number in range(len(timeline))]
    (meeting,) = (event for event in events if event.instruction == "sendrecv")
    tanhs = [[e for e in events if e.core == rank and e.instruction == "activation"][:-1] for rank in (0, 1)]
    exps = [[e for e in events if e.core == rank and e.instruction == "activation"][-1] for rank in (0, 1)]
    assert [len(calls) for calls in tanhs] == [1, 20]
    assert tanhs[0][0].start_seconds == tanhs[1][0].start_seconds == 0.0
    assert meeting.start_seconds >= tanhs[1][-1].end_seconds + 1.3e-6
    assert exps[0].start_seconds == exps[1].start_seconds >= meeting.end_seconds
    counts = [core.counts() for core in logical.cores]
    assert [count["instructions"]["scalar"] for count in counts] == [2, 21]
    assert [count["instructions"]["dma"] for count in counts] == [1, 1]


def test_gpsimd_dma_costs_its_own_rate() -> None:
    """nki.isa's low-latency swap: GpSimdE's start and 153 GB/s (trainium2_arch.rst), no DMA start."""
    seconds = {}
    for engine in ("dma", "gpsimd_dma"):
        logical = LogicalCore("trn2")

        def kernel(core: Any, engine: str = engine) -> None:
            tile = tile_of(core, uniform(core.rank))
            send(core, tile, tile, dma_engine=engine)

        logical.run(kernel)
        seconds[engine] = logical.timeline().seconds
    expected = (150 + np.ceil(128 * 64 * 4 / 153e9 * 1.2e9)) / 1.2e9
    assert seconds["gpsimd_dma"] == pytest.approx(expected, rel=1e-9)
    assert seconds["gpsimd_dma"] < seconds["dma"]


def test_semaphores_order_what_meets() -> None:
    """Where semaphores alone synchronise, a DMA exchange is waited for like any transfer."""
    logical = LogicalCore("trn2", synchronization="semaphores")
    zero, one = logical.cores
    mine = [tile_of(core, uniform(core.rank)) for core in (zero, one)]
    got = [core.sbuf("float32", *SHAPE) for core in (zero, one)]
    for core in (zero, one):
        send(core, mine[core.rank], got[core.rank], queue=0)
    out = zero.sbuf("float32", *SHAPE)
    with pytest.raises(RuntimeError, match="a semaphore orders"):
        zero.tensor_copy(out, got[0])
    for core in (zero, one):
        core.semaphore_increment(7, engine="dma", queue=0)
        core.semaphore_wait(7, 1, engine="vector")
        core.tensor_copy(core.sbuf("float32", *SHAPE), got[core.rank])
    assert logical.timeline().seconds > 0


def test_a_barrier_in_semaphore_mode_joins_engines() -> None:
    logical = LogicalCore("trn2", synchronization="semaphores")
    zero, one = logical.cores
    data = np.zeros(SHAPE, np.float32)
    tile = tile_of(zero, uniform(0))
    zero.dma_copy(zero.hbm(data), tile, queue=0)
    zero.core_barrier(zero.hbm(data), (0, 1))
    with pytest.raises(RuntimeError, match=r"\[core_barrier\] a semaphore orders"):  # the transfer may not have landed
        one.core_barrier(one.hbm(data), (0, 1))


def test_a_barrier_in_semaphore_mode_lets_the_other_core_read() -> None:
    logical = LogicalCore("trn2", synchronization="semaphores")
    zero, one = logical.cores
    data = np.zeros(SHAPE, np.float32)
    zero.dma_copy(zero.hbm(data), tile_of(zero, uniform(0)), queue=0)
    zero.semaphore_increment(1, engine="dma", queue=0)
    zero.semaphore_wait(1, 1, engine="gpsimd")
    for core in (zero, one):
        core.core_barrier(core.hbm(data), (0, 1))
    one.semaphore_increment(2, engine="gpsimd")
    got = one.sbuf("float32", *SHAPE)
    with pytest.raises(RuntimeError, match=r"\[dma_copy\] a semaphore orders"):
        one.dma_copy(got, one.hbm(data), queue=0)
    one.semaphore_wait(2, 1, engine="dma", queue=0)
    one.dma_copy(got, one.hbm(data), queue=0)
    np.testing.assert_array_equal(got.read(), uniform(0))


def test_an_exchange_in_hbm_is_over_for_its_own_core() -> None:
    def kernel(core: Any) -> Any:
        mine, result = core.hbm(uniform(core.rank)), core.hbm(SHAPE)
        other = 1 - core.rank
        core.sendrecv_compute(mine, result, send_to_rank=other, recv_from_rank=other, reduce_op="add")
        got = core.sbuf("float32", *SHAPE)
        core.dma_copy(got, result)
        return got.read()

    for got in LogicalCore("trn2").run(kernel):
        np.testing.assert_array_equal(got, uniform(0) + uniform(1))


def test_what_the_other_core_wrote_is_not_sent_without_a_barrier() -> None:
    zero, one = LogicalCore("trn2").cores
    source = uniform(0)
    one.dma_copy(one.hbm(source), tile_of(one, uniform(1)))
    how = {"reduce_op": "add"}
    one.sendrecv_compute(one.hbm(uniform(2)), one.hbm(SHAPE), send_to_rank=0, recv_from_rank=0, **how)
    with pytest.raises(RuntimeError, match=r"\[sendrecv_compute\] a barrier orders .* core 0 reading"):
        zero.sendrecv_compute(zero.hbm(source), zero.hbm(SHAPE), send_to_rank=1, recv_from_rank=1, **how)


def test_a_barrier_orders_its_own_part_only() -> None:
    zero, one = LogicalCore("trn2").cores
    shared = np.zeros((256, 64), np.float32)
    zero.dma_copy(zero.hbm(shared[128:]), tile_of(zero, uniform(0)))
    for core in (zero, one):
        core.core_barrier(core.hbm(shared[:128]), (0, 1))
    with pytest.raises(RuntimeError, match="a barrier orders"):
        one.dma_copy(one.sbuf("float32", *SHAPE), one.hbm(shared[128:]))


def test_a_run_that_failed_leaves_nothing_in_flight() -> None:
    logical = LogicalCore("trn2")

    def kernel(core: Any, fails: bool) -> Any:
        mine, other = tile_of(core, np.full(SHAPE, core.rank + 100 * fails, np.float32)), core.sbuf("float32", *SHAPE)
        if fails and core.rank == 1:
            raise KeyError("mine")
        send(core, mine, other)
        return other.read()[0, 0]

    with pytest.raises(KeyError, match="mine"):
        logical.run(kernel, True)
    assert logical.run(kernel, False) == [1.0, 0.0]
    with pytest.raises(RuntimeError, match=r"\[LogicalCore.run\] one kernel runs at a time"):
        logical.run(lambda core: logical.run(kernel, False))


def test_ranks_are_of_the_logical_core_and_once() -> None:
    for rank in (-1, 1, 20_000):
        with pytest.raises(RuntimeError, match=r"\[NeuronCore\] a logical core has few cores"):
            NeuronCore("trn2", rank=rank)
    with pytest.raises(ValueError, match="one core of each rank; got another one of 0"):
        NeuronCore(LogicalCore("trn2"))


def test_strict_sources_that_arrive_later_and_in_hbm() -> None:
    def kernel(core: Any) -> Any:
        tiles = [tile_of(core, uniform(core.rank)), *(core.sbuf("float32", *SHAPE) for _ in range(2))]
        for src, dst in itertools.pairwise(tiles):
            send(core, src, dst)
        return tiles[-1].read()

    got = LogicalCore("trn2", strict=True).run(kernel)
    np.testing.assert_array_equal(got[0], uniform(0))
    zero, _ = LogicalCore("trn2", strict=True).cores
    with pytest.raises(RuntimeError, match="written before they are read"):
        zero.sendrecv_compute(zero.hbm(SHAPE), zero.hbm(SHAPE), 1, 1, "add")


def test_each_core_has_its_own_dma_engines() -> None:
    seconds = []
    for both in (False, True):
        logical = LogicalCore("trn2")
        for core in logical.cores[: 1 + both]:
            core.load(core.sbuf("float32", 128, 8192), np.zeros((128, 8192), np.float32))
        seconds.append(logical.timeline().seconds)
    assert seconds[0] == pytest.approx(seconds[1])


def test_a_core_that_goes_away_takes_its_half_along() -> None:
    logical = LogicalCore("trn2")
    zero, one = logical.cores
    tile = tile_of(zero, uniform(0))
    send(zero, tile, tile)
    logical.cores = ()
    del zero, tile
    gc.collect()
    other = tile_of(one, uniform(1))
    send(one, other, other)  # waits for nobody
    with pytest.raises(ValueError, match="sendrecv of core 1"):
        one.timeline()


def test_a_kernel_that_nobody_met_is_an_error_and_the_cores_go_on() -> None:
    def lonely(core: Any) -> None:
        if core.rank == 0:
            tile = core.sbuf("float32", 4, 4)
            tile.write(np.ones((4, 4)))
            core.sendrecv(tile, core.sbuf("float32", 4, 4), send_to_rank=1, recv_from_rank=1, pipe_id=0)

    logical = LogicalCore("trn2")
    with pytest.raises(RuntimeError, match="both cores come to what they run together"):
        logical.run(lonely)
    assert logical.run(lambda core: core.rank) == [0, 1]
    logical.timeline()
