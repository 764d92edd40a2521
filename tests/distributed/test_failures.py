"""What goes wrong between ranks is an error on every rank, within the timeout, and leaves no process behind."""

import datetime
import os
import re
import signal
import time

import pytest
import torch
import torch.distributed as dist
from ranks import running

TIMEOUT = 4
SLACK = 6  # the roll call, of at most 3 s, and a busy machine


def ones(size, dtype=torch.float32):
    return torch.ones(size, dtype=dtype, device="trn")


def calls(kind, timeout):
    """One call per rank, in a group of its own; they do not fit together."""
    rank = dist.get_rank()
    group = dist.new_group([0, 1], backend="trn", timeout=datetime.timedelta(seconds=timeout))
    begin = time.monotonic()
    try:
        if kind == "shape":
            dist.all_reduce(ones(10 + rank), group=group)
        elif kind == "dtype":
            dist.all_reduce(ones(8, torch.float32 if rank else torch.int32), group=group)
        elif kind == "reduce op":
            dist.all_reduce(ones(8), dist.ReduceOp.MAX if rank else dist.ReduceOp.SUM, group=group)
        elif kind == "operation":
            dist.all_reduce(ones(8), group=group) if rank else dist.broadcast(ones(8), 0, group=group)
        elif kind == "root":
            dist.broadcast(ones(8), rank, group=group)
        elif kind == "split sizes":
            dist.all_to_all_single(ones(4), ones(4), [2, 2], [1, 3], group=group)
        elif kind == "output list":
            dist.all_gather([ones(4), ones(4 + rank)], ones(4), group=group)
        elif kind == "coalesced":
            with dist._coalescing_manager(group):
                for size in (2, 6) if rank else (4, 4):
                    dist.all_reduce(ones(size), group=group)
        elif kind == "asynchronous":
            works = [dist.all_reduce(ones(4 + rank * i), group=group, async_op=True) for i in range(2)]
            for work in works:
                work.wait()
        elif kind == "message":
            dist.send(ones(20), 1, group) if rank == 0 else dist.recv(ones(10), 0, group)
        elif kind == "message dtype":
            dist.send(ones(20), 1, group) if rank == 0 else dist.recv(ones(20, torch.int32), 0, group)
        elif rank == 1:
            time.sleep(timeout + 1)  # missing
        elif kind == "missing":
            dist.all_reduce(ones(10), group=group)
        elif kind == "missing, asynchronous":
            dist.all_reduce(ones(10), group=group, async_op=True).get_future().wait()
        elif kind == "missing receiver":
            dist.send(ones(10), 1, group)
        elif kind == "missing sender":
            dist.recv(ones(10), 1, group)
        elif kind == "missing anyone":
            dist.recv(ones(10), group=group)
        elif kind == "monitored":
            dist.monitored_barrier(group)
        return None, "", 0, ""
    except Exception as error:
        seconds = time.monotonic() - begin
        first = type(error).__name__, str(error)
    try:
        dist.all_reduce(ones(2), group=group)
    except Exception as error:
        return *first, seconds, str(error)
    return *first, seconds, "no second error"


MISMATCHES = {
    "shape": "rank 0: all_reduce(float32, sends 80 bytes, receives 80, SUM); rank 1: all_reduce(float32, sends 88",
    "dtype": "rank 0: all_reduce(int32, sends 64 bytes, receives 64, SUM); rank 1: all_reduce(float32",
    "reduce op": "receives 64, SUM); rank 1: all_reduce(float32, sends 64 bytes, receives 64, MAX)",
    "operation": "rank 0: broadcast(float32, sends 64 bytes, receives 32, root 0); rank 1: all_reduce(",
    "root": "root 0); rank 1: broadcast(float32, sends 64 bytes, receives 32, root 1)",
    "split sizes": "the ranks of a group must make calls that fit together",
    "output list": "rank 1: all_gather(float32, sends 32 bytes, receives 36)",
    "coalesced": "all_reduce_coalesced(",
    "asynchronous": "all_reduce(float32, sends 40 bytes",
}


MESSAGES = {
    "message": "send(float32, 80 bytes) here and recv(float32, 40 bytes) on rank 1",
    "message dtype": "send(float32, 80 bytes) here and recv(int32, 80 bytes) on rank 1",
}
MISSING = {
    "missing": "[all_reduce] every rank must take part within the timeout; got nothing from rank 1, limit 2 s. "
    "Missing is call 0 of group",
    "missing, asynchronous": "[all_reduce] every rank must take part within the timeout; got nothing from rank 1",
    "missing receiver": "[send] both ends must take part within the timeout; got no recv from rank 1, limit 2 s",
    "missing sender": "[recv] both ends must take part within the timeout; got no send from rank 1, limit 2 s",
    "missing anyone": "[recv] the message must arrive within the timeout; got none, limit 2 s",
    "monitored": "[monitored_barrier] every rank must take part within the timeout; got nothing from rank 1",
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_calls_that_do_not_fit(kind, two_ranks):
    for name, message, seconds, again in two_ranks(calls, kind, 30):
        assert name == "DistBackendError", (name, message)
        assert MISMATCHES[kind] in message, message
        assert "Make the same calls in the same order on every rank." in message
        assert seconds < 10
        assert "a group that failed cannot be used again" in again


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_that_do_not_fit(kind, two_ranks):
    sender, receiver = two_ranks(calls, kind, 30)
    assert MESSAGES[kind] in sender[1]
    assert "both ends must name the same type and size" in receiver[1]
    for name, _, seconds, again in (sender, receiver):
        assert name == "DistBackendError"
        assert seconds < 10
        assert "a group that failed cannot be used again" in again


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_rank_is_named(kind, two_ranks):
    (name, message, seconds, again), _ = two_ranks(calls, kind, 2)
    assert name == "DistBackendError", (name, message)
    assert MISSING[kind] in message, message
    assert 1.5 < seconds < 2 + SLACK
    assert "a group that failed cannot be used again" in again


def wrong_arguments():
    """Errors of one rank's own arguments, before anything is said to the others."""
    rank, size = dist.get_rank(), dist.get_world_size()
    attempts = {
        "AVG takes": lambda: dist.all_reduce(ones(4, torch.int32), dist.ReduceOp.AVG),
        "BAND takes": lambda: dist.all_reduce(ones(4), dist.ReduceOp.BAND),
        "one part for each of": lambda: dist.all_gather_into_tensor(ones(3 * size + 1), ones(3)),
        "split sizes add up": lambda: dist.all_to_all_single(ones(4), ones(4), [1] * size, [1] * size),
        "divides by the number of ranks": lambda: dist.all_to_all_single(ones(3), ones(3)),
        "dense tensors": lambda: dist.group.WORLD._get_backend(torch.device("trn")).broadcast(torch.ones(2), 0),
        "tensors of one device": lambda: dist.all_to_all(
            [ones(1).to("trn:1") for _ in range(size)], [ones(1).to("trn:0") for _ in range(size)]
        ),
    }
    found = {}
    for text, attempt in attempts.items():
        try:
            attempt()
            found[text] = "no error"
        except Exception as error:
            found[text] = "" if text in str(error) else f"{type(error)} {error}"
    x = torch.full((2,), float(rank), device="trn")
    dist.all_reduce(x)
    found["still usable"] = "" if x.tolist() == [sum(range(size))] * 2 else str(x)
    return found


def test_wrong_arguments_fail_at_once(two_ranks):
    for found in two_ranks(wrong_arguments):
        assert not any(found.values()), found


def until_it_fails():
    begin = time.monotonic()
    try:
        for _ in range(100_000):
            dist.all_reduce(ones(1 << 16))
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - begin
    return None, "", 0


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_rank(stop):
    with running(3, timeout=TIMEOUT, backend=None) as ranks:
        ranks.start(until_it_fails)
        time.sleep(1)
        begin = time.monotonic()
        os.kill(ranks.processes[1].pid, stop)
        answers = ranks.answers(20, only=[0, 2])
        seconds = time.monotonic() - begin
        if stop == signal.SIGSTOP:
            os.kill(ranks.processes[1].pid, signal.SIGKILL)
    for kind, (name, message, _) in answers:
        assert kind == "value"
        assert name == "DistBackendError", message
        # On a busy machine a rank that is there may answer the roll call too late, and is named beside it.
        assert re.search(r"ranks? ([02], )*1\b", message), message
    assert seconds < TIMEOUT + SLACK
    assert not any(process.is_alive() for process in ranks.processes)
