"""Simulated ranks that fail, wait for each other for ever, or are ended: each has its error, nothing is left behind."""

import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist

import torch_trn
from torch_trn import rank_threads, rank_waits
from torch_trn.rank_threads import RanksTimeoutError

pytestmark = pytest.mark.filterwarnings("ignore:barrier:UserWarning")


def environment():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def nothing_is_left():
    gc.collect()
    before, threads = environment(), threading.active_count()
    yield
    assert environment() == before and not dist.is_initialized()
    assert threading.active_count() == threads
    gc.collect()
    assert torch.trn.memory_allocated(0) == 0


def run(fn, world_size=4, *args, **options):
    return torch_trn.simulate(fn, world_size, args=args, profile=False, **{"timeout": 60, **options})


def one_fails(asynchronous):
    dist.init_process_group()
    x = torch.ones(4, device="trn")
    dist.all_reduce(x)
    if dist.get_rank() == 2:
        raise ValueError("no such batch")
    if asynchronous:
        works = [dist.all_reduce(x, async_op=True), dist.isend(x, (dist.get_rank() + 1) % 4)]
        for work in works:
            work.wait()
    dist.all_reduce(x)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_ends_all_ranks_and_names_its_own(asynchronous):
    began = time.monotonic()
    with pytest.raises(torch_trn.RankError, match="ValueError on rank 2 of 4: no such batch") as caught:
        run(one_fails, 4, asynchronous)
    assert time.monotonic() - began < 10
    assert isinstance(caught.value.__cause__, ValueError) and caught.value.rank == 2
    assert 'raise ValueError("no such batch")' in str(caught.value)


def one_is_busy():
    dist.init_process_group()
    if dist.get_rank() == 0:
        raise RuntimeError("early")
    while True:
        time.sleep(0.001) if dist.get_rank() == 1 else None


def test_a_rank_that_runs_is_ended_too():
    with pytest.raises(torch_trn.RankError, match="RuntimeError on rank 0 of 3: early"):
        run(one_is_busy, 3)


seen = {}


def watching(fn):
    """What the other ranks are told."""

    def watched():
        try:
            fn()
        except RuntimeError as error:
            seen[int(os.environ["RANK"])] = str(error)
            raise

    return watched


def out_of_memory():
    dist.init_process_group()
    if dist.get_rank() == 1:
        torch.empty(1 << 40, device="trn")
    dist.barrier()


def test_out_of_memory_is_one_ranks():
    seen.clear()
    with pytest.raises(torch_trn.RankError, match="OutOfMemoryError on rank 1 of 3") as caught:
        run(watching(out_of_memory), 3)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert "rank 1 failed with OutOfMemoryError" in seen[0]


def one_is_missing():
    dist.init_process_group()
    if dist.get_rank() != 1:
        dist.all_reduce(torch.ones(3, device="trn"))


def crossed():
    dist.init_process_group()
    groups = [dist.new_group([0, 1]), dist.new_group([0, 1])]
    dist.all_reduce(torch.ones(1, device="trn"), group=groups[dist.get_rank()])


def both_receive():
    dist.init_process_group()
    dist.recv(torch.ones(2, device="trn"), 1 - dist.get_rank())


def never_waited_for():
    dist.init_process_group()
    work = dist.all_reduce(torch.ones(3, device="trn"), async_op=True) if dist.get_rank() else None
    if work:
        work.wait()


def on_the_cpu():
    dist.init_process_group("gloo")
    if dist.get_rank():
        dist.all_reduce(torch.ones(3))


def at_the_start():
    if os.environ["RANK"] != "0":
        dist.init_process_group()


DEADLOCKS = {
    one_is_missing: (
        3,
        ["rank 1 has ended", "rank 0 waits in call 0 of group 0: all_reduce(float32", "in one_is_missing"],
    ),
    crossed: (2, ["of group 1: all_reduce", "of group 2: all_reduce", "in crossed"]),
    both_receive: (2, ["rank 0 waits in recv(float32, 8 bytes) from rank 1 of group 0", "in both_receive"]),
    never_waited_for: (2, ["rank 0 has ended", "rank 1 waits in"]),
    on_the_cpu: (2, ["rank 1 waits in call 0 of group 0: all_reduce(float32, 3)"]),
    at_the_start: (3, ["rank 1 waits in store: ", "in at_the_start"]),
}


@pytest.mark.parametrize("fn", DEADLOCKS, ids=lambda fn: fn.__name__)
def test_a_deadlock_is_found_at_once(fn):
    world_size, words = DEADLOCKS[fn]
    began = time.monotonic()
    with pytest.raises(torch_trn.DeadlockError, match="some rank must be able to go on; got a deadlock") as caught:
        run(fn, world_size)
    assert time.monotonic() - began < 5
    for word in words:
        assert word in str(caught.value)


def slow_but_well():
    """Waits that end by themselves are none."""
    dist.init_process_group()
    rank = dist.get_rank()
    if rank == 0:
        time.sleep(0.4)
    if rank == 1:
        event = threading.Event()
        threading.Timer(0.4, event.set).start()
        event.wait()
    x = torch.ones(1, device="trn")
    dist.all_reduce(x)
    return x.item()


def test_a_slow_rank_is_no_deadlock():
    assert run(slow_but_well, 3).results == [3.0] * 3


def mismatched():
    dist.init_process_group()
    dist.all_reduce(torch.ones(3 + dist.get_rank(), device="trn"))


def test_a_mismatch_is_the_backends_error():
    with pytest.raises(torch_trn.RankError, match="calls that fit together"):
        run(mismatched, 2)


def endless():
    dist.init_process_group()
    while True:
        dist.barrier()


def test_the_timeout_ends_all():
    with pytest.raises(RanksTimeoutError, match=r"limit 0\.5 s"):
        run(endless, 2, timeout=0.5)


def test_wrong_arguments():
    for world_size in (0, 129, "2"):
        with pytest.raises(ValueError, match="limit 1 to 128"):
            run(endless, world_size)


def asks_back_and_forth():
    """Rank 0 and a thread of its own wake each other 2000 times; nothing else would."""
    if os.environ["RANK"] != "0":
        return
    question, answer = threading.Semaphore(0), threading.Semaphore(0)

    def answering():
        for _ in range(2000):
            question.acquire()
            answer.release()

    thread = threading.Thread(target=answering)
    thread.start()
    for _ in range(2000):
        question.release()
        answer.acquire()
    thread.join()


def test_no_notification_is_lost(monkeypatch):
    monkeypatch.setattr(rank_waits, "_SLICE_SECONDS", 2e-5)  # so that many come between two slices of a wait
    run(asks_back_and_forth, 2)


def holds_a_lock_of_all(lock):
    dist.init_process_group()
    with lock:
        dist.barrier()


def test_a_lock_that_ranks_share_is_named(monkeypatch):
    monkeypatch.setattr(rank_threads, "_STUCK_SECONDS", 0.3)
    lock = threading.Lock()
    timer = threading.Timer(1.0, lock.release)  # what no rank would do
    timer.start()
    said = r"rank [01] asleep for(.|\n)*in holds_a_lock_of_all"
    with pytest.warns(RuntimeWarning, match=said), suppress(RuntimeError):
        run(holds_a_lock_of_all, 2, lock)
    timer.join()


INTERRUPTED = """
import os, signal, threading
import torch, torch.distributed as dist
import torch_trn

def forever():
    dist.init_process_group()
    while True:
        dist.barrier()

torch_trn.simulate(os.getpid, 3)  # what it imports, some of which swallows every exception
for i in range(20):
    timer = threading.Timer(i * 0.01, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        torch_trn.simulate(forever, 3)
    except KeyboardInterrupt:
        print("interrupted", sum(thread.name.startswith("rank") for thread in threading.enumerate()))
    timer.join()
print(torch_trn.simulate(os.getpid, 3).results == [os.getpid()] * 3)
"""


def test_ctrl_c():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind
    )
    assert done.stdout.splitlines() == ["interrupted 0"] * 20 + ["True"], done.stderr


def test_the_interpreter_is_left_as_it_was():
    """An exception that waits for a thread which is gone makes a traced thread hang at its next call (CPython 3.11)."""
    script = """
import sys, torch, torch_trn
def loop():
    if torch.distributed.get_rank() == 0: raise ValueError("stop")
    while True: pass
def body(fails):
    torch.distributed.init_process_group("trn")
    return loop() if fails else None
for fails in (False, True, False):
    try:
        torch_trn.simulate(body, 2, args=(fails,), profile=False)
    except RuntimeError as error:
        assert "stop" in str(error)
    sys.setprofile(lambda *event: None)
    (lambda: None)()
    sys.setprofile(None)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().endswith("done"), done.stderr


class Lazy:
    @functools.cached_property
    def group(self):
        """Made by the second rank first, which then waits for the first."""
        dist.init_process_group()
        dist.barrier()
        return dist.get_rank()


def asks_for_a_cached_group():
    if torch_trn.this_rank.current_rank() == 0:
        time.sleep(0.2)
    return Lazy().group


def test_a_cached_property_may_wait_for_the_other_ranks():
    assert run(asks_for_a_cached_group, 3).results == [0, 1, 2]


def profiles(own):
    dist.init_process_group()
    if own is not None and dist.get_rank() != own:
        dist.barrier()
        return 0
    with torch.profiler.profile() as prof:
        dist.barrier()
    return len(prof.events())


def test_pytorchs_profiler_records_one_rank():
    """Two recordings of one process at a time would end it in Kineto."""
    assert run(profiles, 2, 1).results[1] > 0
    with pytest.raises(
        RuntimeError, match=r"PyTorch's profiler records one rank of a process; got rank \d while that of"
    ):
        run(profiles, 2, None)
    assert run(profiles, 2, 0).results[0] > 0  # nothing is left of it


CHILDREN = """
import multiprocessing, os, time, torch, torch_trn
from concurrent.futures import ThreadPoolExecutor
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self): return 4
    def __getitem__(self, i):
        time.sleep(0.01)
        with ThreadPoolExecutor(1) as pool: return pool.submit(float, i).result()

def body():
    total = sum(batch.to("trn").sum().item() for batch in DataLoader(Slow(), batch_size=2, num_workers=1))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=queue.put, args=(total,))
    child.start()
    got = queue.get()
    child.join()
    return got, child.exitcode

print(torch_trn.simulate(body, 2, profile=False).results)
"""


def test_forked_children_of_ranks_wait_for_nobodys_turn():
    done = subprocess.run([sys.executable, "-c", CHILDREN], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[(6.0, 0), (6.0, 0)]", done.stderr


LATE_IMPORT = """
import sys, torch, torch.distributed as dist, torch_trn

def body():
    dist.init_process_group()
    import torch.distributed.nn.functional as functional  # its functions' default is dist.group.WORLD
    assert dist.group.WORLD is dist.distributed_c10d._get_default_group()
    return functional.all_reduce(torch.ones(2, device="trn") * (dist.get_rank() + 1)).tolist()

assert "torch.distributed.nn.functional" not in sys.modules
for size in (1, 2, 4):
    print(torch_trn.simulate(body, size, profile=False).results == [[size * (size + 1) / 2] * 2] * size)
"""


def test_a_module_imported_by_a_rank_keeps_no_ranks_group():
    done = subprocess.run([sys.executable, "-c", LATE_IMPORT], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"] * 3, done.stderr
