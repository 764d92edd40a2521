"""torch.distributed for ranks that are threads: each its own world, groups by name, meshes, store and transport."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlparse

import torch
import torch.distributed as dist

from torch_trn import _C
from torch_trn.this_rank import current_rank

_WORLD_MAPS = ("pg_map", "pg_names", "pg_group_ranks", "pg_backend_config", "tags_to_pg", "pg_to_tag")


class RankWorld(dist.distributed_c10d._World):
    """One rank's process groups: torch keeps some of them in globals of its module."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[str, dict[Any, Any]] = {name: {} for name in _WORLD_MAPS}
        self._group_count = 0

    @property
    def group_count(self) -> int:
        return self._group_count

    @group_count.setter
    def group_count(self, value: int) -> None:
        self._group_count = value

    def clear(self) -> None:
        self.default_pg = None
        for groups in (*self._maps.values(), self.pg_coalesce_state):
            groups.clear()
        self.comms.clear()


def _map(name: str) -> property:
    def get(self: RankWorld) -> dict[Any, Any]:
        return self._maps[name]

    return property(get)


for _name in _WORLD_MAPS:
    setattr(RankWorld, _name, _map(_name))


class _WorldOfThread:
    """Stands for `distributed_c10d._world`: the calling rank's, or the process's own."""

    def __init__(self, worlds: list[RankWorld], of_process: Any) -> None:
        self.__dict__.update(_worlds=worlds, _of_process=of_process)

    def _world(self) -> Any:
        rank = current_rank()
        return self._of_process if rank is None else self._worlds[rank]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._world(), name, value)


def _is_importing(frame: Any) -> bool:
    """Whether the frame runs the body of a module, or of a class in one, that is not the ranks' own script."""
    return not frame.f_code.co_flags & inspect.CO_OPTIMIZED and frame.f_globals.get("__name__") != "__main__"


def _world_group(c10d: Any) -> property:
    """Stands for `group.WORLD`.

    What a module keeps of it while it is imported, as a default argument, serves all ranks. There it is None, which
    every function takes for the caller's world, and which it is before any group is made.
    """

    def get(cls: Any) -> Any:
        if current_rank() is not None and _is_importing(sys._getframe(1)):
            return None
        return c10d._world.default_pg

    def put(cls: Any, group: Any) -> None:
        c10d._world.default_pg = group

    return property(get, put)


class _GlooOfThread(type):
    """Stands for ProcessGroupGloo: between simulated ranks it needs no network."""

    real: Any

    def __call__(cls, store: Any, rank: int, size: int, *args: Any, **options: Any) -> Any:
        if current_rank() is None or args:
            return cls.real(store, rank, size, *args, **options)
        return transport(store, rank, size, options.get("timeout", timedelta(minutes=30)))

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (cls.real, _C.ProcessGroupLocal))

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real, name)


def transport(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Gloo, or between simulated ranks what gives the same bits without a network."""
    if current_rank() is None:
        return dist.ProcessGroupGloo(store, rank, size, timeout=timeout)
    return _C.ProcessGroupLocal(store, rank, size, timeout)


class _RankOfMesh:
    """DeviceMesh._thread_id: meshes of two ranks are never equal, so that no cache gives one rank the other's."""

    def __set__(self, mesh: Any, value: Any) -> None:
        rank = current_rank()
        mesh.__dict__["_thread_id"] = value if rank is None else f"rank {rank}"

    def __get__(self, mesh: Any, owner: type | None = None) -> Any:
        return self if mesh is None else mesh.__dict__.get("_thread_id")


class Worlds:
    """The worlds of all ranks of a simulation, and the stores they meet at."""

    def __init__(self, turns: Any, world_size: int) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, int], Any] = {}
        self._num_meetings: dict[tuple[int | None, str], int] = defaultdict(int)
        self.worlds = [RankWorld() for _ in range(world_size)]

    def install(self, stack: ExitStack) -> None:
        """For as long as `stack` is open."""
        rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")  # not its function of that name
        from torch.distributed.device_mesh import DeviceMesh

        c10d = dist.distributed_c10d
        gloo = _GlooOfThread("ProcessGroupGloo", (), {})
        gloo.real = c10d.ProcessGroupGloo
        stack.enter_context(patch.object(c10d, "_world", _WorldOfThread(self.worlds, c10d._world)))
        stack.enter_context(patch.object(c10d._WorldMeta, "WORLD", _world_group(c10d)))
        stack.enter_context(patch.object(c10d, "ProcessGroupGloo", gloo))
        wrap = c10d._create_process_group_wrapper
        stack.enter_context(
            patch.object(
                c10d,
                "_create_process_group_wrapper",
                # TORCH_DISTRIBUTED_DEBUG=DETAIL: what it checks, these transports always check.
                lambda wrapped_pg, **rest: wrapped_pg if current_rank() is not None else wrap(wrapped_pg, **rest),
            )
        )
        handlers = {scheme: self._meeting(handler) for scheme, handler in rendezvous._rendezvous_handlers.items()}
        stack.enter_context(patch.dict(rendezvous._rendezvous_handlers, handlers))
        stack.enter_context(patch.object(DeviceMesh, "_thread_id", _RankOfMesh(), create=True))
        c: Any = torch._C._distributed_c10d
        isolate: Callable[[bool], None] = c._set_thread_isolation_mode
        isolate(True)
        stack.callback(isolate, False)

    def _meeting(self, original: Any) -> Any:
        def meet(url: str, **options: Any) -> Iterator[tuple[Any, int, int]]:
            rank = current_rank()
            if rank is None:
                yield from original(url, **options)
                return
            parts = urlparse(url)
            query = parse_qs(parts.query)
            own_rank = int(query["rank"][0]) if "rank" in query else int(os.environ["RANK"])
            world_size = int(query["world_size"][0]) if "world_size" in query else int(os.environ["WORLD_SIZE"])
            place = f"{parts.scheme}://{parts.netloc}{parts.path}"
            with self._lock:
                # Who meets at one place a second time meets anew, as with a server of rank 0's own.
                self._num_meetings[rank, place] += 1
                key = (place, self._num_meetings[rank, place])
                if key not in self._stores:
                    self._stores[key] = _C.LocalStore(self._turns)
                store = self._stores[key]
            yield store, own_rank, world_size

        return meet

    def clear(self) -> None:
        for world in self.worlds:
            world.clear()
        self._stores.clear()
