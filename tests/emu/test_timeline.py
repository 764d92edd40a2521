"""The simulated clock of single instructions, against closed forms and a brute-force search for hazards."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torch_trn import target_files
from torch_trn.emu import NeuronCore
from torch_trn.timeline import Timeline


def core_numbers(target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    fields = target_files.load(target)
    return fields["core"], fields["device"]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3", "inf2"])
def test_load_compute_store_is_a_chain(target: str) -> None:
    core, device = core_numbers(target)
    machine = NeuronCore(target)
    x = np.zeros((128, 2048), np.float32)
    a, b = machine.sbuf("float32", 128, 2048), machine.sbuf("float32", 128, 2048)
    machine.load(a, x)
    machine.activation(b, "exp", a)
    machine.store(x, b)
    timeline = machine.timeline()
    rate = min(device["hbm_bytes_per_second"] * device["hbm_efficiency"], core["dma_bytes_per_second"])
    move = core["dma_fixed_seconds"] + x.nbytes / rate  # 8 KiB runs: past saturation
    compute = (2048 + core["scalar_result_cycles"]) / core["scalar_clock_hz"]
    assert timeline.seconds == pytest.approx(2 * move + compute)
    assert timeline.critical_path == [0, 1, 2]
    assert timeline.busy["scalar"] == pytest.approx(2048 / core["scalar_clock_hz"] / timeline.seconds)
    assert timeline.busy["tensor"] == 0
    assert sum(timeline.critical.values()) == pytest.approx(1)


@pytest.mark.parametrize(("target", "cycles"), [("trn1", 264), ("trn2", 266)])
def test_tiny_dependent_instructions_start_as_far_apart_as_documented(target: str, cycles: int) -> None:
    """264 cycles of ScalarE on NeuronCore-v2, 266 on v3 (the examples of the architecture and performance guides)."""
    core, _ = core_numbers(target)
    machine = NeuronCore(target)
    a, b, c = (machine.sbuf("float32", 128, 1) for _ in range(3))
    machine.activation(b, "exp", a)
    machine.activation(c, "exp", b)
    assert machine.timeline()[1].start_seconds * core["scalar_clock_hz"] == pytest.approx(cycles)


def test_a_chain_on_vector_engine_pays_a_static_overhead_each_time() -> None:
    core, _ = core_numbers("trn1")
    machine = NeuronCore("trn1")
    x = machine.sbuf("float32", 128, 512)
    for _ in range(4):
        machine.tensor_scalar(x, x, "add", 1.0)
    starts = [machine.timeline()[i].start_seconds * core["vector_clock_hz"] for i in range(4)]
    assert starts == pytest.approx([i * (512 + 100) for i in range(4)])


def test_engines_run_side_by_side_and_each_in_order() -> None:
    machine = NeuronCore("trn2")
    x = [machine.sbuf("float32", 128, 512) for _ in range(6)]
    machine.activation(x[0], "exp", x[1])
    machine.activation(x[2], "exp", x[1])
    machine.tensor_tensor(x[3], x[1], x[4], "add")
    machine.iota(machine.sbuf("int32", 128, 512), [(1, 512)], 0)
    timeline = machine.timeline()
    assert [timeline[i].start_seconds for i in (0, 2, 3)] == [0, 0, 0]
    assert timeline[1].start_seconds == timeline[0].end_seconds
    assert timeline[1].bound_by == 0 and timeline[0].bound_by is None


def test_accumulation_keeps_up_and_its_reader_waits() -> None:
    core, device = core_numbers("trn2")
    machine = NeuronCore("trn2")
    k, m = machine.sbuf("bfloat16", 128, 128), machine.sbuf("bfloat16", 128, 512)
    sums, out = machine.psum("float32", 128, 512), machine.sbuf("float32", 128, 512)
    for step in range(4):
        machine.nc_matmul(sums, k, m, accumulate=step > 0)
    machine.tensor_copy(out, sums)
    timeline = machine.timeline()
    clock = core["tensor_clock_hz"] * device["tensor_efficiency"]
    assert timeline[3].end_seconds == pytest.approx(4 * 512 / clock)
    assert timeline[4].start_seconds == pytest.approx((4 * 512 + core["access_overhead_cycles"]) / clock)


def test_dma_queues_share_the_rate_and_take_turns() -> None:
    machine = NeuronCore("trn2")
    x = np.zeros((128, 2048), np.float32)
    tiles = [machine.sbuf("float32", 128, 1024) for _ in range(2)]
    for column in (0, 1024):
        for tile in tiles:
            machine.dma_copy(tile, machine.hbm(x[:, column : column + 1024]), queue=tiles.index(tile))
    timeline = machine.timeline()
    ends = [timeline[i].end_seconds for i in range(4)]
    starts = [timeline[i].start_seconds for i in range(4)]
    assert starts[1:] == pytest.approx(ends[:3])


def random_stream(rng: random.Random, machine: Any, length: int) -> list[tuple[str, list[set[int]], list[set[int]]]]:
    """Issues random instructions; returns each one's engine and the elements that it reads and writes."""
    row = machine.sbuf("float32", 128, 64)
    row.write(np.ones((128, 64)))
    issued = []

    def part() -> tuple[Any, set[int]]:
        start, step = rng.randrange(32), rng.choice([1, 1, 2, 3])
        size = rng.randint(1, 8)
        tile = row.pattern(128, start, [(step, size)])
        return tile, {start + step * i for i in range(size)}

    for _ in range(length):
        (x, reads), (y, writes) = part(), part()
        if len(reads) != len(writes):
            continue
        kind = rng.choice(["activation", "tensor_scalar", "memset"])
        if kind == "activation":
            machine.activation(y, "copy", x)
            issued.append(("scalar", [reads], [writes]))
        elif kind == "tensor_scalar":
            machine.tensor_scalar(y, x, "add", 0.0)
            issued.append(("vector", [reads], [writes]))
        else:
            machine.memset(y, 1.0)
            issued.append(("vector", [], [writes]))
    return issued


def conflict(a: tuple[str, list[set[int]], list[set[int]]], b: tuple[str, list[set[int]], list[set[int]]]) -> bool:
    reads_a, writes_a, reads_b, writes_b = (set().union(*sets) for sets in (a[1], a[2], b[1], b[2]))
    return bool(writes_a & (reads_b | writes_b) or reads_a & writes_b)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_shares_an_element_waits(seed: int) -> None:
    rng = random.Random(seed)
    machine = NeuronCore("trn2")
    issued = random_stream(rng, machine, 60)
    timeline = machine.timeline()
    assert len(timeline) == len(issued)
    for j in range(len(issued)):
        waited = 0.0
        for i in range(j):
            if conflict(issued[i], issued[j]) or issued[i][0] == issued[j][0]:
                assert timeline[j].start_seconds >= timeline[i].end_seconds
                waited = max(waited, timeline[i].end_seconds)
        # No false sharing: nothing else held it back by more than the latency of a result.
        assert timeline[j].start_seconds <= waited + 202 / 1.2e9 + 1e-12


def test_a_race_raises_and_a_semaphore_orders() -> None:
    machine = NeuronCore("trn2", synchronization="semaphores")
    x = np.ones((128, 8), np.float32)
    a, b = machine.sbuf("float32", 128, 8, "a"), machine.sbuf("float32", 128, 8, "b")
    machine.load(a, x)
    words = (
        r"\[activation\] a semaphore orders .* share a tile; got scalar reading a, which dma_copy on dma queue 0 may"
    )
    with pytest.raises(RuntimeError, match=words):
        machine.activation(b, "exp", a)
    machine.semaphore_increment(3, engine="dma")
    machine.semaphore_wait(3, 1, engine="vector")
    with pytest.raises(RuntimeError, match="got scalar reading a"):  # vector waited, scalar did not
        machine.activation(b, "exp", a)
    machine.semaphore_wait(3, 1, engine="scalar")
    machine.activation(b, "exp", a)
    with pytest.raises(RuntimeError, match="got vector writing a, which activation on scalar may still be reading"):
        machine.memset(a, 0.0)
    assert np.allclose(b.read(), np.e)
    assert len(machine.timeline()) == 5  # what raised was never issued


def test_one_dma_queue_orders_nothing_by_itself() -> None:
    machine = NeuronCore("trn2", synchronization="semaphores")
    x, y = np.ones((128, 8), np.float32), np.zeros((128, 8), np.float32)
    a = machine.sbuf("float32", 128, 8, "a")
    machine.load(a, x)
    with pytest.raises(RuntimeError, match="dma queue 0 reading a, which dma_copy on dma queue 0"):
        machine.store(y, a)
    machine.semaphore_increment(0, engine="dma")
    machine.semaphore_wait(0, 1, engine="dma")
    machine.store(y, a)
    assert (y == 1).all()


def test_a_value_that_others_can_reach_orders_nobody() -> None:
    """Two increments of two queues: a wait for 1 knows neither, a wait for 2 knows both."""
    machine = NeuronCore("trn2", synchronization="semaphores")
    a, b, c = (machine.sbuf("float32", 128, 8, name) for name in "abc")
    machine.memset(a, 1.0)
    machine.semaphore_increment(0, engine="vector")
    machine.activation(b, "copy", machine.sbuf("float32", 128, 8))
    machine.semaphore_increment(0, engine="scalar")
    machine.semaphore_wait(0, 1, engine="gpsimd")
    with pytest.raises(RuntimeError, match="got gpsimd"):
        machine.affine_select(c, [(1, 8)], 0, a, 0.0)
    machine.semaphore_wait(0, 2, engine="gpsimd")
    machine.affine_select(c, [(1, 8)], 0, a, 0.0)
    machine.affine_select(c, [(1, 8)], 0, b, 0.0)


@pytest.mark.parametrize("seed", range(30))
def test_races_against_a_search_of_the_order(seed: int) -> None:
    """Random instructions, increments and waits: a race is refused exactly where no path of edges orders two."""
    rng = random.Random(seed)
    machine = NeuronCore("trn2", synchronization="semaphores")
    row = machine.sbuf("float32", 128, 16, "row")
    engines = ["scalar", "vector"]
    nodes: list[tuple[str, set[int], set[int]]] = []  # engine, reads, writes
    edges: dict[int, set[int]] = {}
    last: dict[str, int] = {}
    increments: dict[int, list[int]] = {}

    def add(engine: str, reads: set[int], writes: set[int], after: set[int]) -> None:
        number = len(nodes)
        edges[number] = set(after) | ({last[engine]} if engine in last else set())
        nodes.append((engine, reads, writes))
        last[engine] = number

    def before(number: int) -> set[int]:
        seen: set[int] = set()
        stack = list(edges[number])
        while stack:
            at = stack.pop()
            if at not in seen:
                seen.add(at)
                stack += edges[at]
        return seen

    refused = 0
    for _ in range(60):
        engine, kind = rng.choice(engines), rng.random()
        semaphore = engines.index(engine)  # one producer each
        if kind < 0.25:
            machine.semaphore_increment(semaphore, engine=engine)
            add(engine, set(), set(), set())
            increments.setdefault(semaphore, []).append(len(nodes) - 1)
        elif kind < 0.5:
            other = 1 - semaphore
            total = len(increments.get(other, []))
            if total:
                value = rng.randint(1, total)
                machine.semaphore_wait(other, value, engine=engine)
                add(engine, set(), set(), set(increments[other][:value]))
        else:
            source, target = rng.randrange(15), rng.randrange(15)
            x, y = row.pattern(128, source, [(1, 1)]), row.pattern(128, target, [(1, 1)])
            saved = dict(last)
            add(engine, {source}, {target}, set())
            number = len(nodes) - 1
            ordered = before(number)
            races = any(
                (w & {source, target}) or ({target} & r) for i, (_, r, w) in enumerate(nodes[:-1]) if i not in ordered
            )
            run = machine.activation if engine == "scalar" else machine.tensor_scalar
            arguments = ("copy", x) if engine == "scalar" else (x, "add", 0.0)
            if races:
                refused += 1
                with pytest.raises(RuntimeError, match="a semaphore orders"):
                    run(y, *arguments)
                nodes.pop()
                del edges[number]
                last.clear()
                last.update(saved)
            else:
                run(y, *arguments)
    assert 0 < refused < 40


def test_bad_semaphores_and_queues() -> None:
    machine = NeuronCore("trn2")
    with pytest.raises(RuntimeError, match=r"semaphores are numbered from 0; got -1, limit 0"):
        machine.semaphore_increment(-1)
    with pytest.raises(RuntimeError, match="an increment is at least 1; got 0"):
        machine.semaphore_increment(0, 0)
    with pytest.raises(ValueError, match=r"\[dma_copy\] a core has DMA queues; got 16, limit 15"):
        a = machine.sbuf("float32", 1, 1)
        machine.dma_copy(a, machine.hbm(np.zeros((1, 1), np.float32)), queue=16)
    with pytest.raises(ValueError, match="automatic or semaphores; got none"):
        NeuronCore("trn2", synchronization="none")


def test_forms_of_a_timeline(tmp_path: Path) -> None:
    machine = NeuronCore("trn2")
    a, b = machine.sbuf("float32", 128, 512), machine.sbuf("float32", 128, 512)
    machine.load(a, np.zeros((128, 512), np.float32))
    machine.activation(b, "exp", a)
    timeline: Timeline = machine.timeline()
    assert "2 instructions in" in str(timeline) and "scalar" in str(timeline)
    data = timeline.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["instruction"] == ["dma_copy", "activation"] and data["engine"] == ["dma", "scalar"]
    timeline.to_perfetto(tmp_path / "trace.json")
    rows = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [row["name"] for row in rows if row["ph"] == "X"] == ["dma_copy", "activation"]
    assert timeline[-1].instruction == "activation"
    with pytest.raises(IndexError):
        timeline[2]
    assert NeuronCore("trn2").timeline().seconds == 0


def test_counts_of_what_ran() -> None:
    machine = NeuronCore("trn2")
    x = np.zeros((128, 512), np.float32)
    a = machine.sbuf("float32", 128, 512)
    machine.load(a, x)
    machine.activation(a, "exp", a)
    machine.store(x, a)
    counts = machine.counts()
    assert counts["hbm_read_bytes"] == counts["hbm_write_bytes"] == x.nbytes
    assert counts["instructions"]["scalar"] == 1 and counts["busy_cycles"]["scalar"] == 512


def test_views_of_one_array_race() -> None:
    """Whatever their dtypes: an array's bytes are one place."""
    core = NeuronCore("trn2", synchronization="semaphores")
    array = np.zeros((4, 8), np.int32)
    halves, tile = core.hbm(array.view(np.int16), "int16"), core.sbuf("int32", 4, 8)
    other = core.sbuf("int16", 4, 16)
    core.dma_copy(tile, core.hbm(array, "int32"), queue=0)
    core.dma_copy(other, halves, queue=1)  # two reads

    def write(queue: int) -> None:
        core.dma_copy(halves, core.hbm(np.ones((4, 16), np.int16), "int16"), queue=queue)

    with pytest.raises(RuntimeError, match=r"dma queue 2 writing .*may still be reading"):
        write(2)
    for queue in range(2):
        core.semaphore_increment(queue, engine="dma", queue=queue)
        core.semaphore_wait(queue, 1, engine="dma", queue=2)
    write(2)
