"""Real processes, one per rank, that run a test's functions; every wait is bounded."""

import contextlib
import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START_SECONDS = 120
CALL_SECONDS = 60


def _serve(rank: int, world_size: int, store: str, device: str, backend: str | None, timeout: float, pipe: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if device != "cpu":
        getattr(torch, device).set_device(rank)
    dist.init_process_group(
        backend,
        init_method=f"file://{store}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    pipe.send(("ready", None))
    while True:
        job = pipe.recv()
        if job is None:
            break
        function, args = job
        try:
            pipe.send(("value", function(*args)))
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            pipe.send(("error", (type(error).__name__, str(error), text)))
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


class RankError(AssertionError):
    """A rank raised: its type and message are kept."""

    def __init__(self, rank: int, kind: str, message: str, text: str) -> None:
        super().__init__(f"rank {rank}: {text}")
        self.kind, self.message = kind, message


class Ranks:
    """`ranks(function, *args)` runs a module's function on every rank and returns the values in rank order."""

    def __init__(
        self,
        world_size: int,
        device: str = "trn",
        backend: str | None = "cpu:gloo,trn:trn",
        timeout: float = 30,
        start: str = "spawn",
    ) -> None:
        self.world_size = world_size
        self._folder = tempfile.TemporaryDirectory()
        context: Any = multiprocessing.get_context(start)
        if start == "forkserver":
            context.set_forkserver_preload(["torch"])  # imported once for all ranks
        store = str(Path(self._folder.name) / "store")
        self._pipes, self.processes = [], []
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, store, device, backend, timeout, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)
        for rank in range(world_size):
            self._receive(rank, START_SECONDS)

    def _receive(self, rank: int, seconds: float) -> tuple[str, Any]:
        pipe = self._pipes[rank]
        try:
            if pipe.poll(seconds):
                answer: tuple[str, Any] = pipe.recv()
                return answer
        except (EOFError, ConnectionResetError):
            self.processes[rank].join(10)
            return "died", self.processes[rank].exitcode
        self.close()
        raise TimeoutError(f"rank {rank} gave no answer within {seconds} s")

    def start(self, function: Callable[..., Any], *args: Any, only: list[int] | None = None) -> None:
        for rank in range(self.world_size) if only is None else only:
            self._pipes[rank].send((function, args))

    def answers(self, seconds: float = CALL_SECONDS, only: list[int] | None = None) -> list[tuple[str, Any]]:
        """("value", v), ("error", (type, message, traceback)) or ("died", exit code) of each rank."""
        return [self._receive(rank, seconds) for rank in (range(self.world_size) if only is None else only)]

    def __call__(self, function: Callable[..., Any], *args: Any, seconds: float = CALL_SECONDS) -> list[Any]:
        self.start(function, *args)
        answers = self.answers(seconds)
        for rank, (kind, value) in enumerate(answers):
            if kind == "error":
                raise RankError(rank, *value)
            assert kind == "value", f"rank {rank} {kind}: {value}"
        return [value for _, value in answers]

    @property
    def usable(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join(10)
        self._folder.cleanup()


@contextlib.contextmanager
def running(world_size: int, **options: Any) -> Iterator[Ranks]:
    ranks = Ranks(world_size, **options)
    try:
        yield ranks
    finally:
        ranks.close()
