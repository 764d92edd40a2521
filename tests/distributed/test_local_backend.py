"""Collectives of host tensors between simulated ranks against gloo, which here runs between threads too: every bit."""

import datetime
import threading

import pytest
import torch
import torch.distributed as dist

import torch_trn

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR = (dist.ReduceOp.RedOpType(i) for i in range(8))
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = [1, 7, 100, 4097, 300_001]


def over_gloo(world_size, fn):
    """fn(group, rank) on a thread for each rank, over sockets."""
    store, out = dist.HashStore(), [None] * world_size

    def body(rank):
        group = dist.ProcessGroupGloo(store, rank, world_size, timeout=datetime.timedelta(seconds=60))
        out[rank] = fn(group, rank)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def in_memory(world_size, fn):
    def rank():
        dist.init_process_group("gloo")
        return fn(dist.group.WORLD._get_backend(torch.device("cpu")), dist.get_rank())

    return torch_trn.simulate(rank, world_size, profile=False).results


def values(size, dtype, rank):
    generator = torch.Generator().manual_seed(1000 * rank + size)
    if dtype.is_floating_point or dtype.is_complex:
        x = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        x[rank % size] = float("nan") if size > 50 else 1
        return x
    return torch.randint(0 if dtype is torch.uint8 else -3, 4, (size,), generator=generator).to(dtype)


def bits(tensor):
    return tensor.detach().clone().contiguous().view(torch.uint8)


def reductions(group, rank):
    out = []

    def keep(*tensors):
        out.extend(bits(tensor) for tensor in tensors)

    def options(kind, op, root=0):
        made = kind()
        made.reduceOp = op
        if hasattr(made, "rootRank"):
            made.rootRank = root
        return made

    for dtype, ops in (
        *((dtype, [SUM, AVG, PRODUCT, MIN, MAX]) for dtype in FLOATS),
        *((dtype, [SUM, MIN, MAX, BAND, BOR, BXOR]) for dtype in (torch.uint8, torch.int32, torch.int64)),
        (torch.complex64, [SUM]),
    ):
        for op in ops:
            for size in SIZES if op is SUM and dtype in FLOATS else SIZES[:3]:
                x = values(size, dtype, rank)
                group.allreduce([x], options(dist.AllreduceOptions, op)).wait()
                keep(x)
                if op is AVG:
                    continue
                y = values(size, dtype, rank)
                group.reduce([y], options(dist.ReduceOptions, op, 1)).wait()
                if rank == 1:
                    keep(y)
    parts = [values(size, torch.float32, rank) for size in (3, 50, 4000)]
    group.allreduce_coalesced(parts, options(dist.AllreduceCoalescedOptions, SUM)).wait()
    keep(*parts)
    size = group.size()
    scattered, whole = torch.empty(101), values(101 * size, torch.float32, rank)
    group.reduce_scatter([scattered], [list(whole.chunk(size))], options(dist.ReduceScatterOptions, SUM)).wait()
    keep(scattered)
    return out


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_reductions_are_gloos(world_size):
    expected, got = over_gloo(world_size, reductions), in_memory(world_size, reductions)
    for theirs, ours in zip(expected, got, strict=True):
        assert len(theirs) == len(ours) > 60
        for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            assert torch.equal(a, b), number


def moves():
    """Through torch.distributed, with tensors that are not contiguous: what arrives."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()

    def mine(peer=rank):
        return torch.arange(6.0).reshape(2, 3).t() + 100 * peer

    everyone = torch.stack([mine(peer) for peer in range(size)])
    found = {}
    x = mine()
    dist.broadcast(x, 1)
    found["broadcast"] = torch.equal(x, mine(1))
    gathered = [torch.empty(2, 3).t() for _ in range(size)]
    dist.all_gather(gathered, mine())
    found["all_gather"] = torch.equal(torch.stack(gathered), everyone)
    whole = torch.empty(size * 3, 2)
    dist.all_gather_into_tensor(whole, mine().contiguous())
    found["all_gather_into_tensor"] = torch.equal(whole.view_as(everyone), everyone)
    gathered = [torch.empty(3, 2) for _ in range(size)] if rank == 2 else None
    dist.gather(mine(), gathered, 2)
    found["gather"] = gathered is None or torch.equal(torch.stack(gathered), everyone)
    x = torch.empty(3, 2)
    dist.scatter(x, list(everyone) if rank == 0 else None, 0)
    found["scatter"] = torch.equal(x, mine())
    outs = [torch.empty(2) for _ in range(size)]
    dist.all_to_all(outs, [torch.tensor([float(rank), peer]) for peer in range(size)])
    found["all_to_all"] = torch.equal(torch.stack(outs), torch.tensor([[float(peer), rank] for peer in range(size)]))
    receives = [peer % 2 + 1 for peer in range(size)]
    out = torch.empty(sum(receives))
    dist.all_to_all_single(out, torch.full((size * (rank % 2 + 1),), float(rank)), receives, [rank % 2 + 1] * size)
    found["all_to_all_single"] = out.tolist() == [float(peer) for peer in range(size) for _ in range(peer % 2 + 1)]
    sends = [dist.isend(torch.tensor([float(rank), tag]), (rank + 1) % size, tag=tag) for tag in (1, 2)]
    into = torch.empty(2, 2)
    for tag in (2, 1):  # the other way round
        dist.recv(into[tag - 1], (rank - 1) % size, tag=tag)
    for send in sends:
        send.wait()
    before = float((rank - 1) % size)
    found["send and recv"] = into.tolist() == [[before, 1.0], [before, 2.0]]
    if rank == 0:
        seen = set()
        for _ in range(size - 1):
            source = dist.recv(x)
            seen.add((source, x[0, 0].item()))
        found["from anyone"] = seen == {(peer, 100.0 * peer) for peer in range(1, size)}
    else:
        dist.send(mine().contiguous(), 0)
    future = dist.all_reduce(torch.ones(2), async_op=True).get_future().then(lambda done: done.value()[0] * 2)
    found["future"] = future.wait().tolist() == [2.0 * size] * 2
    objects = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    found["objects"] = objects == [{"rank": peer} for peer in range(size)]
    dist.monitored_barrier()
    return found


def test_moves():
    for found in torch_trn.simulate(moves, 4, profile=False).results:
        assert all(found.values()), found


def stores():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.set("key", "value")
    found = [store.get("key"), store.add("sum", 1) > 0]
    dist.barrier()
    found += [int(store.get("sum")), store.check(["key", "none"]), store.compare_set("key", "value", "other")]
    with pytest.raises(dist.DistStoreError, match="within the timeout"):
        store.wait(["none"], datetime.timedelta(milliseconds=20))
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group("gloo")  # meets anew
    dist.barrier()
    return found


def test_the_store():
    for found in torch_trn.simulate(stores, 3, profile=False).results:
        assert found == [b"value", True, 3, False, b"other"]
