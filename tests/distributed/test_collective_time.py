"""Collectives on the simulated clock: ranks agree, compute hides them, late ranks are waited for; the job's report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

START, HOP, DISPATCH = 56.5e-6, 1.5e-6, 60e-6  # trn2.toml


def all_reduce_seconds(size):
    """Two ranks of one chip, over 1 MB: two hops, and all of it at the device's rate."""
    return START + 2 * HOP + size / 37.8e9


def on_one_clock():
    """Both ranks' streams go on from the same moment, ahead of their hosts."""
    dist.barrier()


def profiled(work, **options):
    import torch_trn

    small = torch.ones(8, device="trn")
    large = torch.ones(16_000_000, device="trn")
    small + small
    on_one_clock()
    with torch_trn.profile(**options) as prof:
        work(small, large)
    return prof


def row_of(prof, op="all_reduce"):
    (row,) = [row for row in prof.collectives if row["op"] == op]
    return row


def overlapped(adds, late_adds=0):
    """An all_reduce of 64 MB beside `adds` small operators; rank 1 comes late by as many others."""

    def work(small, large):
        if dist.get_rank() == 1:
            for _ in range(late_adds):
                small + small
        handle = dist.all_reduce(large, async_op=True)
        for _ in range(adds):
            small + small
        handle.wait()
        small + small

    prof = profiled(work, timeline=True)
    row = row_of(prof)
    return row, prof.ledger.data["collective_timeline"], prof.exposed_collective_seconds, prof.device_seconds


def test_ranks_agree_and_compute_hides(two_ranks):
    seconds = all_reduce_seconds(64_000_000)
    answers = two_ranks(overlapped, 10)
    for row, timeline, exposed, device_seconds in answers:
        assert (row["algorithm"], row["steps"]) == ("kangaring", 2)
        assert row["seconds"] == pytest.approx(seconds, rel=1e-9)
        assert row["algorithm_bandwidth"] == row["bus_bandwidth"] == pytest.approx(64_000_000 / seconds)
        assert row["exposed_seconds"] == exposed == pytest.approx(seconds - 10 * DISPATCH, abs=1e-9)
        assert device_seconds == pytest.approx(seconds + DISPATCH, abs=1e-9)
        ((_, arrival, begin, end),) = timeline
        assert end - begin == pytest.approx(seconds, abs=1e-11) and arrival <= begin
    assert answers[0][1][0][2:] == answers[1][1][0][2:]  # begin and end, on every rank


def test_what_compute_hides_is_not_exposed(two_ranks):
    for row, _, exposed, device_seconds in two_ranks(overlapped, 40):
        assert row["exposed_seconds"] == exposed == 0
        assert device_seconds == pytest.approx(41 * DISPATCH)


def test_the_last_rank_is_waited_for(two_ranks):
    early, late = two_ranks(overlapped, 0, 100)
    assert early[0]["wait_seconds"] == pytest.approx(100 * DISPATCH, abs=1e-9)
    assert late[0]["wait_seconds"] == 0
    assert early[1][0][2:] == late[1][0][2:]


def side_by_side():
    """Two groups' all_reduces at once: each is exposed, their sum counts the time once."""
    other = dist.new_group([0, 1])
    dist.all_reduce(torch.ones(1, device="trn"), group=other)

    def work(small, large):
        handles = [dist.all_reduce(large, async_op=True), dist.all_reduce(large, group=other, async_op=True)]
        for handle in handles:
            handle.wait()
        small + small

    prof = profiled(work)
    return [row["exposed_seconds"] for row in prof.collectives], prof.exposed_collective_seconds


def test_collectives_side_by_side_are_exposed_once(two_ranks):
    seconds = all_reduce_seconds(64_000_000)
    for each, together in two_ranks(side_by_side):
        assert each == pytest.approx([seconds, seconds], rel=1e-6)
        assert together == pytest.approx(seconds, rel=1e-6)


def messages():
    rank = dist.get_rank()

    def work(small, large):
        if rank == 0:
            small + small  # the sender comes one operator later
            dist.send(large, 1)
        else:
            dist.recv(large, 0)
        small + small

    prof = profiled(work, timeline=True)
    row = row_of(prof, "recv" if rank else "send")
    return row["seconds"], row["wait_seconds"], prof.ledger.data["collective_timeline"][0][2:], prof.sent_bytes


def test_both_ends_of_a_message(two_ranks):
    sender, receiver = two_ranks(messages)
    assert sender[0] == receiver[0] == pytest.approx(START + HOP + 64_000_000 / 64.5e9)
    assert (sender[1], receiver[1]) == (0, pytest.approx(DISPATCH))
    assert sender[2] == receiver[2]
    assert (sender[3], receiver[3]) == ({1: 64_000_000}, {})


def uneven():
    """Rank 0 sends most: its bytes are what the call takes, on every rank."""
    rank = dist.get_rank()
    splits = [[1_000_000, 3_000_000], [500_000, 500_000]][rank]
    into = [[1_000_000, 500_000], [3_000_000, 500_000]][rank]

    def work(small, large):
        dist.all_to_all_single(
            torch.empty(sum(into), device="trn"), torch.ones(sum(splits), device="trn"), into, splits
        )

    return row_of(profiled(work), "all_to_all_single")["seconds"]


def test_an_uneven_exchange_takes_the_busiest_ranks_time(two_ranks):
    assert two_ranks(uneven) == [pytest.approx(START + HOP + 12_000_000 / 64.5e9)] * 2


def recosted():
    import torch_trn

    prof = profiled(lambda small, large: dist.all_reduce(large))
    loaded = torch_trn.Recording(torch_trn.Ledger(json.loads(json.dumps(prof.ledger.data))))
    spread = prof.placed([0, 4])
    return (
        prof.collectives == loaded.collectives,
        prof.placement_text,
        row_of(prof)["seconds"],
        prof.on("trn3").placement_text,
        row_of(prof.on("trn1"))["seconds"],
        spread.placement_text,
        row_of(spread)["seconds"],
        row_of(prof.placed(instance="trn2-ultraserver"))["seconds"],
    )


def test_a_recording_is_costed_elsewhere(two_ranks):
    for same, text, seconds, trn3_text, trn1, spread_text, spread, ultra in two_ranks(recosted):
        assert same
        assert (text, trn3_text) == ("2 ranks, linear, on trn2.3xlarge", "2 ranks, linear, on trn3-ultraserver-gen1")
        assert seconds == ultra == pytest.approx(all_reduce_seconds(64_000_000))
        assert trn1 == pytest.approx(START + 2 * HOP + 64_000_000 / 56.8e9)
        # A hop of NeuronLink is as long, and wide enough.
        assert (spread_text, spread) == ("2 ranks, listed, on trn2.48xlarge", pytest.approx(seconds))


def ledgers(folder):
    rank = dist.get_rank()

    def work(small, large):
        for _ in range(1 + 3 * rank):
            large + large
        dist.all_reduce(large)
        if rank == 0:
            dist.send(small, 1)
        else:
            dist.recv(small, 0)

    prof = profiled(work)
    prof.ledger.save(Path(folder) / f"ledger.{rank}.json")
    prof.to_json(Path(folder) / f"report.{rank}.json")
    return prof.compute_seconds, prof.device_seconds


def test_one_report_of_the_job(two_ranks, tmp_path):
    import torch_trn
    from torch_trn.cli import app

    (compute0, _), (compute1, total1) = two_ranks(ledgers, str(tmp_path))
    files = [tmp_path / f"ledger.{rank}.json" for rank in (1, 0)]
    job = torch_trn.merge(files)
    assert (job.world_size, job.missing_ranks, job.slowest_rank) == (2, [], 1)
    assert job.device_seconds == pytest.approx(total1)
    assert job.imbalance == pytest.approx(compute1 / ((compute0 + compute1) / 2) - 1)
    assert job.matrix == {0: {1: 64_000_000 + 32}, 1: {0: 64_000_000}}
    assert job.energy_joules == pytest.approx(2 * 125 * total1)
    assert job.cost_usd == pytest.approx(2 / 4 * 2.235 / 3600 * total1)
    reports = torch_trn.merge([tmp_path / f"report.{rank}.json" for rank in (0, 1)])
    assert reports.to_dict()["sent_bytes"] == job.to_dict()["sent_bytes"]
    text = str(job)
    assert "2 ranks, linear, on trn2.3xlarge" in text and "of rank 1, the slowest" in text
    assert torch_trn.merge(files, target="trn3").target == "trn3"

    picture, out = tmp_path / "matrix.png", tmp_path / "job.json"
    done = CliRunner().invoke(app, ["merge", *map(str, files), "--plot", str(picture), "--report", str(out)])
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(out.read_text())["slowest_rank"] == 1

    with pytest.raises(ValueError, match=r"\[merge\] takes each rank once; got rank 1 twice"):
        torch_trn.merge([files[0], files[0]])
    with pytest.raises(ValueError, match=r"\[merge\] only ledgers can be costed on another target"):
        torch_trn.merge([tmp_path / "report.0.json"], target="trn1")
    assert torch_trn.merge(files[:1]).missing_ranks == [0]


SCRIPT = """
import os, torch, torch.distributed as dist
dist.init_process_group(device_id=torch.device("trn", int(os.environ["LOCAL_RANK"])))
x = torch.ones(1000, device=f"trn:{os.environ['LOCAL_RANK']}")
dist.all_reduce(x)
dist.destroy_process_group()
"""


def test_trn_run_under_torchrun_writes_a_report_per_rank(tmp_path):
    import torch_trn

    (tmp_path / "job.py").write_text(SCRIPT)
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    python = sys.executable
    launcher = ["--standalone", "--nproc-per-node", "2", "--no-python"]
    files = ["--report", "out.{rank}.json", "--ledger", "ledger.json", "--trace", "trace.json"]
    run = subprocess.run(
        [python, "-m", "torch.distributed.run", *launcher, python, "-m", "torch_trn.cli", "run", *files, "job.py"],
        env=clean | {"OMP_NUM_THREADS": "1", "TORCH_TRN_PLACEMENT": "0,4"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("torch_trn profile on trn2") == 1
    assert "2 ranks, listed, on trn2.48xlarge" in run.stdout
    job = torch_trn.merge([tmp_path / f"out.{rank}.json" for rank in (0, 1)])
    assert job.matrix == {0: {1: 4000}, 1: {0: 4000}}
    assert {path.name for path in tmp_path.glob("*.json")} >= {"ledger.0.json", "ledger.1.json"}
    trace = json.loads((tmp_path / "trace.1.json").read_text())["traceEvents"]
    assert any(event["name"] == "all_reduce" and event["args"]["algorithm"] == "single-step mesh" for event in trace)
