"""Every collective against gloo on the CPU, in the same processes: by type, by reduction, by shape."""

import pytest
import torch
import torch.distributed as dist

SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR = (dist.ReduceOp.RedOpType(i) for i in range(8))
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGERS = [torch.uint8, torch.int8, torch.int32, torch.int64]
GLOO_MOVES = [*FLOATS, *INTEGERS, torch.bool, torch.complex64]
WIDE = torch.complex128
SMALL_FLOATS = [torch.float8_e4m3fn, torch.float8_e5m2]


def values(shape, dtype, seed, device):
    """Small integers, exact in every type."""
    generator = torch.Generator().manual_seed(seed)
    low = 0 if dtype in (torch.uint8, torch.bool) else -3
    whole = torch.randint(low, 4, shape, generator=generator)
    return whole.to(torch.float32).to(dtype).to(device) if dtype in SMALL_FLOATS else whole.to(dtype).to(device)


def rank_and_size():
    return dist.get_rank(), dist.get_world_size()


# Each case takes (device, dtype, op) and returns the tensors it wrote.
def all_reduce(device, dtype, op):
    x = values((5, 3), dtype, dist.get_rank(), device)
    dist.all_reduce(x, op)
    return [x]


def reduce(device, dtype, op):
    rank, size = rank_and_size()
    x = values((7,), dtype, rank, device)
    dist.reduce(x, size - 1, op)
    return [x] if rank == size - 1 else []


def reduce_scatter(device, dtype, op):
    rank, size = rank_and_size()
    out = values((4,), dtype, 99, device)
    dist.reduce_scatter(out, [values((4,), dtype, 10 * rank + i, device) for i in range(size)], op)
    return [out]


def reduce_scatter_tensor(device, dtype, op):
    rank, size = rank_and_size()
    out = values((4, 2), dtype, 99, device)
    dist.reduce_scatter_tensor(out, values((4 * size, 2), dtype, rank, device), op)
    return [out]


def broadcast(device, dtype, op):
    rank, size = rank_and_size()
    x = values((6,), dtype, rank, device)
    dist.broadcast(x, size - 1)
    return [x]


def all_gather(device, dtype, op):
    rank, size = rank_and_size()
    outs = [values((3, 2), dtype, 99, device) for _ in range(size)]
    dist.all_gather(outs, values((3, 2), dtype, rank, device))
    return outs


def all_gather_into_tensor(device, dtype, op):
    rank, size = rank_and_size()
    out = values((3 * size, 2), dtype, 99, device)
    dist.all_gather_into_tensor(out, values((3, 2), dtype, rank, device))
    return [out]


def gather(device, dtype, op):
    rank, size = rank_and_size()
    outs = [values((4,), dtype, 99, device) for _ in range(size)] if rank == 1 else None
    dist.gather(values((4,), dtype, rank, device), outs, dst=1)
    return outs or []


def scatter(device, dtype, op):
    rank, size = rank_and_size()
    out = values((4,), dtype, 99, device)
    dist.scatter(out, [values((4,), dtype, i, device) for i in range(size)] if rank == 1 else None, src=1)
    return [out]


def all_to_all_single(device, dtype, op):
    rank, size = rank_and_size()
    out = values((2 * size, 3), dtype, 99, device)
    dist.all_to_all_single(out, values((2 * size, 3), dtype, rank, device))
    return [out]


def all_to_all_single_uneven(device, dtype, op):
    rank, size = rank_and_size()
    sends = [(rank + peer) % 3 for peer in range(size)]  # some are 0
    receives = [(peer + rank) % 3 for peer in range(size)]
    out = values((sum(receives), 2), dtype, 99, device)
    dist.all_to_all_single(out, values((sum(sends), 2), dtype, rank, device), receives, sends)
    return [out]


def send_recv(device, dtype, op):
    rank, size = rank_and_size()
    x, out = values((4,), dtype, rank, device), values((4,), dtype, 99, device)
    if rank % 2 == 0:
        dist.send(x, (rank + 1) % size)
        dist.recv(out, (rank - 1) % size)
    else:
        dist.recv(out, (rank - 1) % size)
        dist.send(x, (rank + 1) % size)
    return [out]


REDUCING = [all_reduce, reduce, reduce_scatter, reduce_scatter_tensor]
MOVING = [
    broadcast,
    all_gather,
    all_gather_into_tensor,
    gather,
    scatter,
    all_to_all_single,
    all_to_all_single_uneven,
    send_recv,
]


def run_cases(cases):
    """The bytes that every case wrote, on the device and on the CPU."""
    out = []
    for case, dtype, op in cases:
        pair = []
        for device in ("trn", "cpu"):
            written = case(torch.device(device), dtype, op)
            assert all(tensor.device.type == device for tensor in written)
            # gloo's sum of bools counts them
            host = [
                (tensor.cpu().view(torch.uint8) != 0) if dtype is torch.bool else tensor.cpu() for tensor in written
            ]
            pair.append([tensor.contiguous().view(torch.uint8) for tensor in host])
        out.append(pair)
    return out


def assert_as_gloo(ranks, cases):
    for rank, results in enumerate(ranks(run_cases, cases)):
        for (case, dtype, op), (ours, gloos) in zip(cases, results):
            assert len(ours) == len(gloos)
            for mine, theirs in zip(ours, gloos):
                assert torch.equal(mine, theirs), (rank, case.__name__, dtype, op)


def ops_of(case, dtype):
    """What gloo on the CPU reduces."""
    if dtype in FLOATS:
        # gloo averages in all_reduce only
        return [SUM, PRODUCT, MIN, MAX] + ([AVG] if case is all_reduce else [])
    if dtype is torch.complex64:
        return [SUM, AVG] if case is all_reduce else [SUM]
    return [SUM, PRODUCT, MIN, MAX, BAND, BOR, BXOR]


@pytest.mark.parametrize("case", REDUCING)
@pytest.mark.parametrize("size", ["two_ranks", "four_ranks"])
def test_reductions_are_gloos(case, size, request):
    assert_as_gloo(
        request.getfixturevalue(size), [(case, dtype, op) for dtype in GLOO_MOVES for op in ops_of(case, dtype)]
    )


def run_moves():
    """Moves that differ from gloo's, which carries the same small integers in a type of its own."""
    wrong = []
    for dtype in (*GLOO_MOVES, torch.int16, *SMALL_FLOATS):
        like = torch.uint8 if dtype in (torch.uint8, torch.bool) else torch.float32
        for case in MOVING:
            ours, gloos = case(torch.device("trn"), dtype, None), case(torch.device("cpu"), like, None)
            same = [torch.equal(a.cpu().to(WIDE), b.to(dtype).to(WIDE)) for a, b in zip(ours, gloos)]
            wrong += [] if all(same) and len(ours) == len(gloos) else [(case.__name__, dtype)]
    return wrong


def test_moves_are_gloos(two_ranks, four_ranks):
    assert two_ranks(run_moves) == [[], []]
    assert four_ranks(run_moves) == [[]] * 4


def rounding(device, dtype, op):
    """Values whose sum depends on its order."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(1000, generator=generator).to(dtype).to(device)
    out = torch.empty(1000 // dist.get_world_size(), dtype=dtype, device=device)
    dist.reduce_scatter_tensor(out, x.clone())
    parts = [x[:300].clone(), x[300:].clone()]
    with dist._coalescing_manager():
        for part in parts:
            dist.all_reduce(part)
    dist.all_reduce(x)
    return [x, out, *parts]


def test_sums_round_as_gloos(four_ranks):
    assert_as_gloo(four_ranks, [(rounding, dtype, None) for dtype in FLOATS])


def other_reductions():
    """Reductions in types that gloo has not, against what every rank computes from everyone's values."""
    rank, size = rank_and_size()
    wrong = []
    for dtype in (torch.int16, *SMALL_FLOATS):
        for op, plain in ((SUM, torch.sum), (MIN, torch.amin), (MAX, torch.amax)):
            everyone = [values((5, 3), dtype, peer, "cpu").to(torch.float32) for peer in range(size)]
            expected = plain(torch.stack(everyone), 0).to(dtype)
            [got] = all_reduce(torch.device("trn"), dtype, op)
            if not torch.equal(got.cpu().to(torch.float32), expected.to(torch.float32)):
                wrong.append(("all_reduce", dtype, op))
            out = values((4,), dtype, 99, "trn")
            parts = [[values((4,), dtype, 10 * peer + i, "cpu") for i in range(size)] for peer in range(size)]
            dist.reduce_scatter(out, [part.to("trn") for part in parts[rank]], op)
            expected = plain(torch.stack([part[rank].to(torch.float32) for part in parts]), 0).to(dtype)
            if not torch.equal(out.cpu().to(torch.float32), expected.to(torch.float32)):
                wrong.append(("reduce_scatter", dtype, op))
            x = values((7,), dtype, rank, "trn")
            dist.reduce(x, 0, op)
            everyone = [values((7,), dtype, peer, "cpu").to(torch.float32) for peer in range(size)]
            expected = plain(torch.stack(everyone), 0).to(dtype) if rank == 0 else values((7,), dtype, rank, "cpu")
            if not torch.equal(x.cpu().to(torch.float32), expected.to(torch.float32)):
                wrong.append(("reduce", dtype, op))
    return wrong


def test_reductions_in_other_types(two_ranks, four_ranks):
    assert two_ranks(other_reductions) == [[], []]
    assert four_ranks(other_reductions) == [[]] * 4


def beyond_gloo():
    """AVG everywhere, a scaled sum, uneven lists, lists to all, strided tensors: closed forms."""
    rank, size = rank_and_size()
    ranks = range(size)
    found = {}
    mean = sum(ranks) / size
    x = torch.full((4,), float(rank), device="trn")
    dist.reduce(x, 0, dist.ReduceOp.AVG)
    found["reduce avg"] = x.tolist() == [mean if rank == 0 else rank] * 4
    out = torch.empty(2, device="trn")
    dist.reduce_scatter_tensor(out, torch.full((2 * size,), float(rank), device="trn"), dist.ReduceOp.AVG)
    found["reduce_scatter avg"] = out.tolist() == [mean] * 2
    scaled = dist._make_nccl_premul_sum(0.5)
    x = torch.full((3,), float(rank), device="trn")
    dist.all_reduce(x, scaled)
    found["premul"] = x.tolist() == [sum(ranks) / 2] * 3
    outs = [torch.empty(peer + 1, 2, device="trn") for peer in ranks]
    dist.all_gather(outs, torch.full((rank + 1, 2), float(rank), device="trn"))
    found["uneven all_gather"] = all((o == peer).all().item() for peer, o in enumerate(outs))
    outs = [torch.empty(rank + peer, device="trn") for peer in ranks]
    dist.all_to_all(outs, [torch.full((rank + peer,), 10.0 * rank + peer, device="trn") for peer in ranks])
    found["uneven all_to_all"] = all((o == 10 * peer + rank).all().item() for peer, o in enumerate(outs))
    out = torch.empty(rank + 1, device="trn")
    dist.reduce_scatter(out, [torch.full((peer + 1,), float(peer), device="trn") for peer in ranks])
    found["uneven reduce_scatter"] = out.tolist() == [float(rank * size)] * (rank + 1)
    strided = torch.arange(24.0, device="trn").reshape(4, 6)
    before = strided.clone()
    dist.all_reduce(strided[:, 1:4])
    expected = before.clone()
    expected[:, 1:4] *= size
    found["strided"] = torch.equal(strided, expected)
    transposed = torch.full((3, 2), float(rank), device="trn").t()
    dist.broadcast(transposed, 1)
    found["transposed"] = (transposed == 1).all().item()
    empty = torch.empty(0, device="trn")
    dist.all_reduce(empty)
    dist.broadcast(empty, 0)
    dist.all_gather_into_tensor(torch.empty(0, device="trn"), empty)
    found["empty"] = True
    kept = torch.full((2,), float(rank), device="trn")
    dist.reduce(kept, 0)
    found["reduce keeps the others' data"] = kept.tolist() == [sum(ranks) if rank == 0 else rank] * 2
    return found


def test_what_gloo_lacks(two_ranks, four_ranks):
    for ranks in (two_ranks, four_ranks):
        for found in ranks(beyond_gloo):
            assert all(found.values()), found


def asynchronous():
    rank, size = rank_and_size()
    found = {}
    tensors = [torch.full((100,), float(i + rank), device="trn") for i in range(8)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()
    sums = [float(sum(i + r for r in range(size))) for i in range(8)]
    found["order"] = [t[0].item() for t in tensors] == sums and all(w.is_completed() for w in works)
    x = torch.ones(4, device="trn")
    future = dist.all_reduce(x, async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    found["future"] = future.wait().tolist() == [2.0 * size] * 4
    future = dist.reduce_scatter_tensor(
        torch.empty(2, device="trn"), torch.ones(2 * size, device="trn"), async_op=True
    ).get_future()
    found["reduce_scatter future"] = future.wait()[0].tolist() == [float(size)] * 2
    work = dist.barrier(async_op=True)
    work.wait()
    found["barrier"] = work.is_completed()
    peer, source = (rank + 1) % size, (rank - 1) % size
    out = torch.empty(3, device="trn")
    ops = [
        dist.P2POp(dist.isend, torch.full((3,), float(rank), device="trn"), peer),
        dist.P2POp(dist.irecv, out, source),
    ]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    found["batched p2p"] = out.tolist() == [float(source)] * 3
    received = torch.empty(3, device="trn")
    receive = dist.irecv(received, source, tag=7)
    send = dist.isend(torch.full((3,), float(rank), device="trn"), peer, tag=7)
    futures = [receive.get_future(), send.get_future()]
    found["p2p future"] = futures[0].wait()[0].tolist() == [float(source)] * 3
    futures[1].wait()
    if rank == 0:
        sources = []
        for _ in range(size - 1):
            anything = torch.empty(1, device="trn")
            sources.append(dist.recv(anything))
            found.setdefault("any source", True)
            found["any source"] &= anything.item() == sources[-1]
        found["every source"] = sorted(sources) == list(range(1, size))
    else:
        dist.send(torch.full((1,), float(rank), device="trn"), 0)
    with dist._coalescing_manager(device=torch.device("trn"), async_ops=True) as manager:
        x, y = torch.ones(2, device="trn"), torch.full((2,), float(rank), device="trn")
        dist.all_reduce(x)
        dist.broadcast(y, 0)
    manager.wait()
    found["coalescing"] = x.tolist() == [float(size)] * 2 and y.tolist() == [0.0] * 2
    outs = [torch.empty(size * 2, device="trn"), torch.empty(size * 3, device="trn")]
    ins = [torch.full((2,), float(rank), device="trn"), torch.full((3,), float(rank), device="trn")]
    with dist._coalescing_manager(async_ops=True) as manager:
        for o, i in zip(outs, ins):
            dist.all_gather_into_tensor(o, i)
    manager.wait()
    found["coalesced gather"] = all(o.view(size, -1)[:, 0].tolist() == list(range(size)) for o in outs)
    with dist._coalescing_manager(async_ops=True) as manager:
        for o, i in zip(outs, ins):
            dist.reduce_scatter_tensor(i, o)
    manager.wait()
    found["coalesced scatter"] = all(i[0].item() == rank * size for i in ins)
    return found


def test_asynchronous_calls(two_ranks, four_ranks):
    for ranks in (two_ranks, four_ranks):
        for found in ranks(asynchronous):
            assert all(found.values()), found


def groups():
    rank, size = rank_and_size()
    found = {}
    pairs = [dist.new_group([0, 1], backend="trn"), dist.new_group([2, 3], backend="trn")]
    mine = pairs[rank // 2]
    x = torch.full((2,), float(rank), device="trn")
    dist.all_reduce(x, group=mine)
    found["subgroup"] = x.tolist() == [float(4 * (rank // 2) + 1)] * 2
    dist.broadcast(x, group_src=1, group=mine)
    mesh = dist.init_device_mesh("trn", (2, 2), mesh_dim_names=("replicate", "shard"))
    y = torch.full((2,), float(rank), device="trn")
    dist.all_reduce(y, group=mesh.get_group("shard"))
    found["mesh shard"] = y.tolist() == [float(4 * (rank // 2) + 1)] * 2
    dist.all_reduce(y, group=mesh.get_group("replicate"))
    found["mesh"] = y.tolist() == [6.0] * 2
    objects = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    found["objects"] = objects == [{"rank": r} for r in range(size)]
    box = [f"from {rank}"]
    dist.broadcast_object_list(box, 2)
    found["object list"] = box == ["from 2"]
    dist.monitored_barrier()
    found["monitored"] = True
    for group in pairs:
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(group)
    return found


def test_groups_and_meshes(four_ranks):
    for found in four_ranks(groups):
        assert all(found.values()), found


def functional():
    import torch.distributed._functional_collectives as ft

    rank, size = rank_and_size()
    group = dist.group.WORLD
    x = torch.full((size, 2), float(rank), device="trn")
    found = {}
    found["all_reduce"] = torch.equal(
        ft.all_reduce(x, "sum", group).cpu(), torch.full((size, 2), sum(range(size)) * 1.0)
    )
    gathered = ft.all_gather_tensor(x, 0, group)
    found["all_gather"] = gathered.view(size, -1)[:, 0].tolist() == [float(r) for r in range(size)]
    scattered = ft.reduce_scatter_tensor(x, "avg", 0, group)
    found["reduce_scatter"] = scattered.view(-1).tolist() == [sum(range(size)) / size] * 2
    moved = ft.all_to_all_single(x, None, None, group)
    found["all_to_all"] = moved[:, 0].tolist() == [float(r) for r in range(size)]
    found["broadcast"] = ft.broadcast(x, 1, group)[0, 0].item() == 1.0
    return found


def test_functional_collectives(two_ranks, four_ranks):
    for ranks in (two_ranks, four_ranks):
        for found in ranks(functional):
            assert all(found.values()), found


def times():
    """A collective lies on the group's own stream; its result is there for the stream that waited."""
    compute = torch.trn.current_stream()
    x = torch.randn(512, 512, device="trn")
    before = torch.trn.Event(enable_timing=True)
    before.record()
    y = x @ x
    after = torch.trn.Event(enable_timing=True)
    after.record()
    dist.all_reduce(y, async_op=True).wait()
    done = torch.trn.Event(enable_timing=True)
    done.record(compute)
    torch.trn.synchronize()
    return before.elapsed_time(after), after.elapsed_time(done)


def test_results_come_after_what_made_them(two_ranks):
    for matmul, collective in two_ranks(times):
        assert matmul > 0
        assert collective >= 0
