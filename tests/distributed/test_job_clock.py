"""Roles that wait for each other: closed forms of pipelines, and the same job with all its ranks on one clock."""

import json

import pytest
import torch
import torch.distributed as dist
import trainings
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

import torch_trn
from torch_trn import _C
from torch_trn.job_clock import JobClock
from torch_trn.one_rank import run_roles

pytestmark = pytest.mark.filterwarnings("ignore")

FORWARD, BACKWARD = 1.0, 2.0  # seconds of a stage, beside which messages take none


class Busy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = seconds
        _C.sleep(seconds * FORWARD)
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        _C.sleep(ctx.seconds * BACKWARD)
        return grad * 1, None


class Stage(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seconds = seconds

    def forward(self, x):
        return Busy.apply(x * self.weight, self.seconds)


def pipeline(schedule, microbatches, seconds, group=None, stage=None):
    """One step of a pipeline whose stage `i` is busy for `seconds[i]` per forward, twice that per backward."""
    rank = dist.get_rank(group) if stage is None else stage
    schedule_class = get_schedule_class(schedule)
    size, device = dist.get_world_size(group), torch.device("trn", torch.trn.current_device())
    mine = [rank] if issubclass(schedule_class, PipelineScheduleSingle) else [rank, rank + size]
    example = torch.ones(1, 4, requires_grad=True)
    stages = [
        PipelineStage(
            Stage(seconds[i]).to(device),
            i,
            len(seconds),
            device,
            input_args=example.to("meta"),
            output_args=example.to("meta"),
            group=group,
        )
        for i in mine
    ]
    runner = schedule_class(
        stages[0] if len(mine) == 1 else stages, microbatches, loss_fn=lambda y, target: (y - target).square().mean()
    )
    x = torch.ones(microbatches, 4, device=device)
    is_last = len(seconds) - 1 in mine
    runner.step(*([x] if 0 in mine else []), target=x if is_last else None, return_outputs=False)


def in_group(work, *args):
    dist.init_process_group()
    return work(*args)


def run(work, size, *args, roles=None, **options):
    roles = range(size) if roles is None else roles
    return run_roles(in_group, size, args=(work, *args), roles=list(roles), **options)


@pytest.mark.parametrize(
    ("schedule", "size", "microbatches"), [("GPipe", 2, 2), ("GPipe", 4, 8), ("1F1B", 4, 8), ("1F1B", 8, 8)]
)
def test_bubble_of_equal_stages(schedule, size, microbatches):
    found = run(pipeline, size, schedule, microbatches, [1.0] * size)
    share = (size - 1) / (microbatches + size - 1)
    for time in found.times.values():
        assert time.waiting_share == pytest.approx(share, abs=1e-3)
        assert time.alone_seconds == pytest.approx(microbatches * 3, rel=1e-3)
    assert found.device_seconds == pytest.approx((microbatches + size - 1) * 3, rel=1e-3)
    assert found.clock.unheard == {}


def test_bubble_of_interleaved_stages():
    size, microbatches, rounds = 4, 8, 2
    found = run(pipeline, size, "Interleaved1F1B", microbatches, [0.5] * size * rounds)
    # Megatron-LM (arXiv 2104.04473), section 2.2: with v stages to a rank the bubble is that of one, over v.
    bubble = (size - 1) * 3 / rounds
    assert found.device_seconds == pytest.approx(microbatches * 3 + bubble, rel=1e-3)


def test_the_slowest_stage_sets_the_pace():
    seconds = [1.0, 1.0, 2.0, 1.0]
    found = run(pipeline, 4, "GPipe", 6, seconds)
    # Fill and drain go through all stages once; the rest of the microbatches through the slowest.
    assert found.device_seconds == pytest.approx(3 * (sum(seconds) + 5 * 2.0), rel=1e-3)
    assert found.slowest.rank == 2
    assert found.times[2].waiting_seconds == pytest.approx(3 * 3, rel=1e-3)
    assert found.times[0].alone_seconds == pytest.approx(18, rel=1e-3)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["slowest_rank"] == 2 and data["roles"][2]["waiting_seconds"] == found.times[2].waiting_seconds
    text = str(found)
    assert "4 of its ranks ran" in text and "waiting" in text and "rank 2 works longest" in text


def clocked(name, *args):
    """How long this rank takes on the simulated clock, from where all ranks begin."""
    device = torch.trn.current_device()
    begin = _C.simulated_seconds(device)
    name(*args) if callable(name) else getattr(trainings, name)("trn")
    return _C.simulated_seconds(device) - begin


def test_as_all_ranks_on_one_clock():
    """Exactly: each rank's end in a simulation of all ranks with values, whose clock lets every call wait."""
    for size, schedule, microbatches in [(2, "GPipe", 8), (4, "1F1B", 8), (8, "1F1B", 8)]:
        seconds = [1e-5 * (1 + i % 3) for i in range(size)]  # transfers and dispatch count
        arguments = (pipeline, schedule, microbatches, seconds)
        together = torch_trn.simulate(in_group, size, args=(clocked, *arguments), target="trn2").results
        apart = run(clocked, size, *arguments, target="trn2")
        assert [apart.clock.times[rank].seconds for rank in range(size)] == pytest.approx(together, rel=1e-9)
        assert max(apart.values) < max(together)
        assert apart.clock.seconds == pytest.approx(max(together), rel=1e-9)


def test_the_trace_shows_the_bubble(tmp_path):
    found = run(relay, 4, 4, roles=range(4))
    found.to_perfetto(tmp_path / "job.json")
    events = json.loads((tmp_path / "job.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {
        f"rank {rank}" for rank in range(4)
    }
    receives = [event for event in events if event["name"] == "recv" and event["pid"] == 3]
    # The last stage gets the first message when three stages have had it for a second, then one a second.
    assert [event["ts"] / 1e6 for event in receives] == pytest.approx([3, 4, 5, 6], abs=0.01)
    assert {event["args"]["peer"] for event in receives} == {2}
    with pytest.raises(ValueError, match=r"\[trace\] roles side by side need several; got one"):
        run(dist.barrier, 2, roles=[0]).to_perfetto(tmp_path / "one.json")


def in_job(work, *args):
    dist.init_process_group("cpu:gloo,trn:trn")
    return work(*args)


@pytest.mark.parametrize("name", ["pipeline_gpipe", "pipeline_1f1b", "pipeline_interleaved", "pipeline_zero_bubble"])
def test_trainings_with_values(name):
    job = torch_trn.simulate(in_job, 2, args=(clocked, name), target="trn2")
    with torch_trn.dry_run(values=0.0):
        apart = run_roles(in_job, 2, args=(clocked, name), roles=[0, 1], target="trn2")
    assert [apart.clock.times[rank].seconds for rank in range(2)] == pytest.approx(job.results, rel=1e-9)
    # The report of all ranks has what they waited, too.
    assert job.report.device_seconds == pytest.approx(apart.device_seconds, rel=1e-9)
    # But what of a transfer compute hides depends on when it comes: their shares are near each other.
    assert job.report.waiting_share == pytest.approx(apart.waiting_share, abs=0.03)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "tensor_parallel"])
def test_ranks_that_do_the_same_do_not_wait(name):
    with torch_trn.dry_run(values=0.0):
        alone = run_roles(in_job, 2, args=(clocked, name), target="trn2")
        both = run_roles(in_job, 2, args=(clocked, name), roles=[0, 1], target="trn2")
    assert both.clock.is_coupled
    for role in both.roles:
        time = both.clock.times[role.rank]
        assert time.seconds == time.alone_seconds == pytest.approx(role.value, rel=1e-9)
        assert time.waiting_seconds == 0
        assert role.recording.device_seconds == alone.device_seconds
    assert both.device_seconds == pytest.approx(alone.device_seconds, rel=0.05)


def test_a_collective_begins_with_the_last_role():
    def work():
        _C.sleep(dist.get_rank() / 8)
        dist.all_reduce(torch.ones(1 << 10, device="trn"))

    found = run(work, 4)
    each = found.roles[0].recording.collectives[0]["seconds"]
    for rank in range(4):
        assert found.times[rank].seconds == pytest.approx(3 / 8 + each, rel=1e-3)
        assert found.times[rank].waiting_seconds == pytest.approx((3 - rank) / 8, abs=1e-3)


def test_compute_that_waits_for_no_message_goes_on():
    def work():
        box = torch.ones(1 << 20, device="trn")
        if dist.get_rank() == 0:
            _C.sleep(1.0)
            dist.send(box, 1)
            return
        receives = dist.irecv(box, 0)
        _C.sleep(0.75)
        receives.wait()
        _C.sleep(0.5)

    found = run(work, 2)
    assert found.times[1].seconds == pytest.approx(1.5, rel=1e-3)
    assert found.times[1].alone_seconds == pytest.approx(1.25, rel=1e-3)


def relay(stages):
    """Four messages down each of the job's pipelines of so many stages; a stage is busy for a second with each."""
    mesh = dist.init_device_mesh("trn", (stages, dist.get_world_size() // stages), mesh_dim_names=("pipeline", "data"))
    stage, group, box = mesh.get_local_rank("pipeline"), mesh.get_group("pipeline"), torch.ones(4, device="trn")
    for _ in range(4):
        if stage > 0:
            dist.recv(box, group_src=stage - 1, group=group)
        _C.sleep(1.0)
        if stage < stages - 1:
            dist.send(box, group_dst=stage + 1, group=group)


def test_stages_of_different_replicas():
    one = run(relay, 16, 2, roles=[3, 11])
    two = run(relay, 16, 2, roles=[3, 12])
    assert one.clock.unheard == two.clock.unheard == {}
    assert one.device_seconds == two.device_seconds == pytest.approx(5, rel=1e-3)


def test_ranks_that_no_role_stands_for():
    found = run(relay, 4, 4, roles=[0, 1])
    assert found.clock.unheard == {1: [2]}
    assert "no role stands for them: rank 2." in str(found)
    assert found.device_seconds == pytest.approx(5, rel=1e-3)  # as a pipeline of two
    # PyTorch's schedules begin with a word from each neighbour, which nobody can supply.
    with pytest.raises(torch_trn.NoValueError) as error:
        run(pipeline, 4, "GPipe", 4, [1.0] * 4, roles=[0, 1])
    assert "rank 2 sends what this one reads, and is none of the roles [0, 1]" in error.value.__notes__[-1]


def test_calls_that_do_not_fit():
    def circle():
        box, other = torch.ones(1, device="trn"), 1 - dist.get_rank()
        dist.recv(box, other)
        dist.send(box, other)

    with pytest.raises(RuntimeError, match=r"in a circle; got role 0 in .* role 1 in "):
        assert run(circle, 2).times

    def one_more():
        for _ in range(2 - dist.get_rank()):
            box, other = torch.ones(1, device="trn"), 1 - dist.get_rank()
            dist.send(box, other) if dist.get_rank() == 0 else dist.recv(box, other)

    with pytest.raises(RuntimeError, match="every send meets a recv; got 2 of send on role 0 and 1 of its other end"):
        assert run(one_more, 2).times

    def unlike():
        box = torch.ones(1, device="trn")
        dist.all_reduce(box) if dist.get_rank() == 0 else dist.broadcast(box, 0)

    with pytest.raises(RuntimeError, match=r"same calls; got all_reduce at .* on role 0, broadcast at .* on role 1"):
        assert run(unlike, 2).device_seconds


def test_recordings_in_files(tmp_path):
    found = run(pipeline, 2, "GPipe", 4, [1.0, 1.0])
    saved = {}
    for role in found.roles:
        path = tmp_path / f"{role.rank}.json"
        role.recording.ledger.save(path)
        saved[role.rank] = torch_trn.Recording(torch_trn.Ledger.load(path))
    assert JobClock(saved).times == found.clock.times
    with pytest.raises(ValueError, match=r"rank 0 without. Record with profile\(clock=True\)"):
        JobClock({0: run(dist.barrier, 2, roles=[0]).roles[0].recording})


def test_on_another_target():
    def work():
        box, weight = (torch.ones(2048, 2048, device="trn") for _ in range(2))
        for _ in range(4):
            if dist.get_rank() == 0:
                dist.send(box @ weight, 1)
            else:
                dist.recv(box, 0)
                _ = box @ weight @ weight

    here, there = run(work, 2, target="trn2"), run(work, 2, target="trn1")
    assert here.on("trn1").times == there.times
    assert here.device_seconds < there.device_seconds
    assert there.times[0].waiting_seconds > 0
