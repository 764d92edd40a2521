"""One rank that stands for its peers: its recording is that rank's of the same job in real processes."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import trainings
from torch import nn

import torch_trn
from torch_trn.one_rank import PeersStore, run_roles

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

FOUR = ["fsdp2", "hsdp", "two_dimensional"]


def recorded(name):
    """What a rank's training launches and communicates."""
    with torch_trn.profile() as prof:
        getattr(trainings, name)("trn")
    calls = [
        (row["op"], row["dtype"], row["bytes"], row["moved_bytes"], row["count"], row["ranks"], row["module"])
        for row in prof.collectives
    ]
    launches = {row.name: row.launches for row in prof.by_operator()}
    return sorted(calls), launches, prof.compute_seconds, prof.collective_seconds


def in_group(function, *args):
    dist.init_process_group("cpu:gloo,trn:trn")
    assert dist.get_rank() == int(os.environ["RANK"])
    assert torch.trn.current_device() == int(os.environ["LOCAL_RANK"])
    return function(*args)


def assert_as_in_processes(ranks, name):
    expected = ranks(recorded, name)
    size = len(expected)
    with torch_trn.dry_run(values=0.0):
        run = torch_trn.simulate(in_group, size, args=(recorded, name), roles=range(size), values=False)
    for (calls, launches, *seconds), (their_calls, their_launches, *their_seconds) in zip(run.values, expected):
        assert calls == their_calls != []
        assert launches == their_launches
        assert seconds == pytest.approx(their_seconds, rel=1e-12)


@pytest.mark.parametrize("name", trainings.TWO_RANKS)
def test_two_ranks(name, two_ranks):
    assert_as_in_processes(two_ranks, name)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks(name, four_ranks):
    assert_as_in_processes(four_ranks, name)


def run(function, world_size, **options):
    return run_roles(in_group, world_size, args=(function,), **options)


def test_closed_forms_at_any_width():
    def steps():
        model = nn.parallel.DistributedDataParallel(trainings.mlp().to("trn"))
        model(torch.ones(4, trainings.WIDTH, device="trn")).sum().backward()
        return sum(parameter.numel() for parameter in model.parameters())

    for size in (8, 1000, 100_000):
        role = run(steps, size).roles[0]
        moved = [row["moved_bytes"] for row in role.recording.collectives if row["op"] == "all_reduce"]
        assert moved == [2 * 4 * role.value * (size - 1) // size]


def test_known_values_go_through_collectives():
    def work():
        size, rank = dist.get_world_size(), dist.get_rank()
        one = torch.tensor([3], device="trn")
        dist.all_reduce(one)
        parts = [torch.zeros(2, device="trn") for _ in range(size)]
        dist.all_gather(parts, torch.tensor([1.0, 2.0], device="trn"))
        out = torch.zeros(1, device="trn")
        dist.reduce_scatter_tensor(out, torch.arange(float(size), device="trn"), op=dist.ReduceOp.MAX)
        objects = [None] * size
        dist.all_gather_object(objects, {"rank": rank})
        host = torch.tensor([1.5])
        dist.all_reduce(host)
        shared = [rank, "here"]
        dist.broadcast_object_list(shared, src=0)
        dist.barrier()
        unknown = torch.randn(500, device="trn")
        dist.all_reduce(unknown)
        with pytest.raises(torch_trn.NoValueError):
            unknown.sum().item()
        return one.item(), [part.tolist() for part in parts], out.item(), objects, host.item(), shared

    first, second = run(work, 4, roles=[0, 2]).values
    assert first == (12, [[1.0, 2.0]] * 4, 0.0, [{"rank": 0}] * 4, 6.0, [0, "here"])
    assert second == (12, [[1.0, 2.0]] * 4, 2.0, [{"rank": 2}] * 4, 6.0, [0, "here"])


def test_messages_of_ranks_that_ran_earlier_arrive():
    def work():
        rank, box = dist.get_rank(), torch.zeros(3, device="trn")
        if rank == 0:
            dist.send(torch.tensor([1.0, 2.0, 3.0], device="trn"), 1)
            return None
        dist.recv(box, 0)
        return box.tolist()

    assert run(work, 2, roles=[0, 1]).values == [None, [1.0, 2.0, 3.0]]
    with pytest.raises(torch_trn.NoValueError, match="copy to host"):
        run(work, 2, roles=[1])


def test_a_message_from_anyone_is_the_next_that_was_sent():
    def work():
        rank, group = dist.get_rank(), dist.new_group([1, 2, 3])
        if rank == 0:
            return None
        if rank != 2:
            for _ in range(rank):
                dist.send(torch.full((2,), float(rank), device="trn"), 2, group=group, tag=7)
            return None
        boxes = [torch.zeros(2, device="trn") for _ in range(4)]
        return [(dist.recv(box, group=group, tag=7), *box.tolist()) for box in boxes]

    job = run(work, 4, roles=[1, 3, 2])
    assert job.values[2] == [(1, 1.0, 1.0), (3, 3.0, 3.0), (3, 3.0, 3.0), (3, 3.0, 3.0)]
    rows = [row for row in job.roles[2].recording.collectives if row["op"] == "recv"]
    assert sorted((row["ranks"][row["root"]], row["count"]) for row in rows) == [(1, 1), (3, 3)]


def test_a_message_from_anyone_alone_comes_from_the_others_in_turn():
    def work():
        box = torch.zeros(1000, device="trn")
        sources = [dist.recv(box) for _ in range(4)]
        pending = dist.irecv(box)
        pending.wait()
        dist.send(box, sources[0])
        return [*sources, pending._source_rank()]

    role = run(work, 4, roles=[1]).roles[0]
    assert role.value == [2, 3, 0, 2, 3]
    (row,) = [row for row in role.recording.collectives if row["op"] == "recv" and "irecv" not in row["line"]][:1]
    assert row["root"] == -1 and row["bytes"] == 4000 and row["seconds"] > 0
    with pytest.raises(torch_trn.NoValueError):
        run(lambda: (box := torch.zeros(3, device="trn"), dist.recv(box), box.tolist()), 4)


def test_no_group_gives_the_default_one():
    def work():
        dist.init_process_group()
        dist.all_reduce(torch.ones(3, device="trn"))
        return dist.get_backend(), dist.get_world_size()

    assert run_roles(work, 16).values == [("trn", 16)]


def test_everything_is_put_back():
    before = dict(os.environ), torch.trn.current_device(), sys.excepthook, torch_trn.current_target()
    c10d = dist.distributed_c10d
    kept = c10d.rendezvous, c10d.ProcessGroupGloo, dict(dist.Backend._plugins)

    def fails():
        dist.init_process_group()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as error:
        run_roles(fails, 4, roles=[3], target="trn1")
    assert error.value.__notes__ == ["[simulate] on rank 3 of 4"]
    assert not dist.is_initialized()
    assert not torch_trn.is_dry_run()
    assert (dict(os.environ), torch.trn.current_device(), sys.excepthook, torch_trn.current_target()) == before
    assert (c10d.rendezvous, c10d.ProcessGroupGloo, dict(dist.Backend._plugins)) == kept


def test_wrong_calls_are_refused():
    def mismatch():
        dist.all_gather_into_tensor(torch.ones(7, device="trn"), torch.ones(3, device="trn"))

    with pytest.raises(ValueError, match="larger tensor must hold one part for each of 4 ranks"):
        run(mismatch, 4)
    with pytest.raises(ValueError, match=r"\[simulate\] roles are ranks"):
        run(mismatch, 4, roles=[4])

    def other_size():
        dist.init_process_group(rank=0, world_size=3)

    with pytest.raises(ValueError, match="simulated world_size; got 3, limit 4"):
        run_roles(other_size, 4)


def test_the_store():
    store = PeersStore(8)
    assert store.add("arrived", 1) == 8
    store.set("mine", "value")
    assert store.get("mine") == b"value"
    with pytest.raises(RuntimeError, match="its peers do not; got a wait for 'theirs'"):
        store.get("theirs")


def compares_and_sets(store):
    """(key, expected, desired): what each call returns, and whether the key is there after it."""
    calls = [("k", "a", "b"), ("k", "", "c"), ("k", "x", "d"), ("k", b"c", b"e"), ("k", "", "f")]
    return [(store.compare_set(*call), store.check(["k"])) for call in calls]


def ranks_store():
    dist.init_process_group()
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 0:
        return [(bytes(value), there) for value, there in compares_and_sets(store)]


def test_stores_compare_and_set_as_c10ds():
    expected = compares_and_sets(dist.HashStore())
    assert compares_and_sets(PeersStore(8)) == expected
    assert torch_trn.simulate(ranks_store, 2, profile=False).results[0] == [
        (value.decode() if isinstance(value, str) else value, there) for value, there in expected
    ]


def test_out_of_memory_is_that_ranks():
    def work():
        return torch.empty(30 << 30, dtype=torch.int8, device="trn")

    with pytest.raises(torch.OutOfMemoryError) as error:
        run(work, 64)
    assert "on rank 0 of 64" in error.value.__notes__[0]


SCRIPT = """
import os, torch, torch.distributed as dist
torch.trn.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3000, 400).to("trn"))
loss = model(torch.randn(16, 3000, device="trn")).square().mean()
loss.backward()
print(dist.get_rank(), dist.get_world_size(), loss.item())
dist.destroy_process_group()
"""


def test_a_torchrun_script(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def trn(*options):
        command = [sys.executable, "-m", "torch_trn.cli", "run", "-q", "--world-size", "5000", *options, str(script)]
        return subprocess.run(command, capture_output=True, text=True)

    run = trn("--dry-run", "--values", "0.5", "--role", "7")
    assert run.stdout == "7 5000 0.5\n", run.stderr
    assert "no rank of 5000" in trn("--no-values", "--role", "5000").stderr
