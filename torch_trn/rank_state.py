"""What a process has once and each simulated rank of its own: saved when its turn ends, put back when it begins."""

from __future__ import annotations

import copy
import ctypes
import importlib
import os
import random
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torch_trn import _C

_CONTEXT_PARALLEL = "torch.distributed.tensor.experimental._context_parallel._attention"


def _as_it_is(module: Any, now: Any) -> Any:
    return now


def _a_copy(module: Any, now: Any) -> Any:
    return copy.copy(now)  # code changes it in place


_ACCELERATE = ("PartialState", "AcceleratorState", "GradientState")  # one object each to a process


def _none(module: Any, now: Any) -> Any:
    return None


def _nothing_yet(module: Any, now: Any) -> Any:
    return {}


_LOSS_PARALLEL = "torch.distributed.tensor.parallel.loss"


def _without_contexts(_: Any, now: Any) -> Any:
    """Handlers of distributed operators, without those of contexts that another rank is in."""
    return {op: handler for op, handler in now.items() if handler.__module__ not in (_CONTEXT_PARALLEL, _LOSS_PARALLEL)}


# Attributes of modules that hold one process's state, and what a rank begins with.
_ATTRIBUTES: tuple[tuple[str, str, Callable[[Any, Any], Any]], ...] = (
    ("sys", "argv", _a_copy),
    ("sys", "path", _a_copy),
    ("sys", "stdin", _as_it_is),
    ("sys", "stdout", _as_it_is),
    ("sys", "stderr", _as_it_is),
    ("sys", "excepthook", _as_it_is),
    ("warnings", "filters", _a_copy),
    ("warnings", "showwarning", _as_it_is),
    ("warnings", "_showwarnmsg_impl", _as_it_is),
    *(
        ("torch.nn.modules.module", name, _a_copy)
        for name in (
            "_global_backward_pre_hooks",
            "_global_backward_hooks",
            "_global_forward_pre_hooks",
            "_global_forward_hooks",
            "_global_forward_hooks_always_called",
            "_global_forward_hooks_with_kwargs",
        )
    ),
    # It remembers which device "the current one" was.
    ("torch._subclasses.fake_tensor", "FakeTensorMode.cache", _nothing_yet),
    ("torch.nn.functional", "scaled_dot_product_attention", _as_it_is),  # context_parallel replaces it
    ("torch.distributed.distributed_c10d", "_backend", _none),
    ("torch.distributed.distributed_c10d", "_default_pg_init_method", _none),
    ("torch.distributed.tensor._random", "_rng_tracker", _none),
    # FSDP's timings: who is in which part.
    ("torch.distributed.fsdp._debug_utils", "SimpleProfiler.profiling", lambda *_: set()),
    ("torch.distributed.fsdp._debug_utils", "SimpleProfiler.results", lambda *_: defaultdict(float)),
    *(("accelerate.state", f"{name}._shared_state", _nothing_yet) for name in _ACCELERATE),
    (_CONTEXT_PARALLEL, "_dispatch_mode", lambda module, _: module._DispatchMode.MONKEY_PATCH),
    (_CONTEXT_PARALLEL, "_cp_options", lambda module, _: module._ContextParallelOptions()),
    (_CONTEXT_PARALLEL, "_replaced_functions", _nothing_yet),
    (_CONTEXT_PARALLEL, "existing_custom_ops", _without_contexts),
    ("torch.distributed.tensor._api", "DTensor._op_dispatcher._custom_op_handlers", _without_contexts),
)
_MISSING = object()


def _owner(module: str, path: str) -> tuple[Any, str]:
    owner: Any = sys.modules.get(module)
    *parents, name = path.split(".")
    for parent in parents if owner is not None else ():
        owner = getattr(owner, parent)
    return owner, name


def _attributes() -> list[Any]:
    return [getattr(*_owner(module, path), _MISSING) for module, path, _ in _ATTRIBUTES]


def _set_attributes(values: list[Any]) -> None:
    for position, (module, path, begin) in enumerate(_ATTRIBUTES):
        owner, name = _owner(module, path)
        if owner is None:
            continue
        now = getattr(owner, name, None)
        if values[position] is _MISSING:  # imported while others had their turns
            values[position] = begin(sys.modules[module], now)
        if now is not values[position]:
            setattr(owner, name, values[position])
            if name == "filters":
                warnings._filters_mutated()  # type: ignore[attr-defined]


def _environment() -> dict[bytes, bytes]:
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _set_environment(wanted: dict[bytes, bytes]) -> None:
    # Also the C library's: processes that a rank starts inherit it.
    now: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    if now == wanted:
        return
    for name in now.keys() - wanted.keys():
        os.unsetenv(name)
    for name, value in wanted.items():
        if now.get(name) != value:
            os.putenv(name, value)
    now.clear()
    now.update(wanted)


@dataclass
class _NumpyRandom:
    """numpy's global generator. Taking its whole state costs more than a rank's turn may: mostly its words will do."""

    words: bytes
    rest: Any  # all of it, where a second normal number lies ready, which the words do not show

    @staticmethod
    def address() -> int | None:
        numpy = sys.modules.get("numpy")
        generator: Any = getattr(numpy.random.mtrand._rand, "_bit_generator", None) if numpy is not None else None
        return generator.ctypes.state_address if type(generator).__name__ == "MT19937" else None


_MT19937_BYTES = 624 * 4 + 4  # words and place
_latest_numpy: dict[str, _NumpyRandom] = {}  # what was put last


def _numpy_random() -> _NumpyRandom | None:
    address = _NumpyRandom.address()
    if address is None:
        return None
    words = ctypes.string_at(address, _MT19937_BYTES)
    latest = _latest_numpy.get("put")
    if latest is not None and latest.words == words and latest.rest is None:
        return latest
    state = sys.modules["numpy"].random.get_state()
    return _NumpyRandom(words, state if state[3] else None)


def _set_numpy_random(state: _NumpyRandom | None) -> None:
    address = _NumpyRandom.address()
    if state is None or address is None:
        return
    now = _numpy_random()
    if state.rest is not None or now is None or now.rest is not None:
        name, words = "MT19937", _words(state.words)
        whole = state.rest or (name, words[:-1], int(words[-1]), 0, 0.0)
        sys.modules["numpy"].random.set_state(whole)
    elif now.words != state.words:
        ctypes.memmove(address, state.words, _MT19937_BYTES)
    _latest_numpy["put"] = state


def _words(words: bytes) -> Any:
    return sys.modules["numpy"].frombuffer(words, dtype="uint32")


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _set_folder(folder: str | None) -> None:
    if folder is not None and folder != _folder():
        os.chdir(folder)


_PARTS: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (_environment, _set_environment),
    (_attributes, _set_attributes),
    (_C.cpu_random, _C.set_cpu_random),
    (random.getstate, random.setstate),
    (_numpy_random, _set_numpy_random),
    (torch.get_default_dtype, torch.set_default_dtype),
    (_folder, _set_folder),
)


class RankState:
    """The process's state as it is now, or what a rank begins with: the same with `environment` on top."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._values: list[Any] = []
        self._modules: dict[str, tuple[Any, Any]] = {}
        self._user_modules: UserModules | None = None
        self.save()
        if environment is None:
            return
        for name, value in environment.items():
            self._values[0][os.fsencode(name)] = os.fsencode(value)
        self._values[1] = [
            _MISSING if value is _MISSING else begin(sys.modules[module], value)
            for (module, _, begin), value in zip(_ATTRIBUTES, self._values[1], strict=True)
        ]

    def set_attribute(self, module: str, path: str, value: Any) -> None:
        places = [(module, path) for module, path, _ in _ATTRIBUTES]
        self._values[1][places.index((module, path))] = value

    def own_modules(self, modules: UserModules) -> None:
        """From now on the user's modules are imported for this rank alone."""
        self._user_modules = modules

    def save(self) -> None:
        self._values = [get() for get, _ in _PARTS]
        if self._user_modules is not None:
            self._modules = self._user_modules.take()

    def restore(self) -> None:
        for (_, put), value in zip(_PARTS, self._values, strict=True):
            put(value)
        if self._user_modules is not None:
            self._user_modules.put(self._modules)


class UserModules:
    """Modules of the user's that are imported while ranks run: each rank has its own, as each process would."""

    def __init__(self) -> None:
        self._own = {"__main__"}
        self._heard_of: set[str] = set()
        self._locks: dict[str, Any] = importlib._bootstrap._module_locks  # type: ignore[attr-defined]

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """As the first of sys.meta_path: hears of every import and finds nothing."""
        self._heard_of.add(fullname)

    def take(self) -> dict[str, tuple[Any, Any]]:
        """Out of sys.modules, by name; with the lock of an import that is under way."""
        while self._heard_of:
            name = self._heard_of.pop()
            if name in sys.modules and not _is_library(sys.modules[name]):
                self._own.add(name)
        return {name: (sys.modules.pop(name), self._locks.pop(name, None)) for name in self._own if name in sys.modules}

    def put(self, taken: dict[str, tuple[Any, Any]]) -> None:
        for name, (module, lock) in taken.items():
            sys.modules[name] = module
            if lock is not None:
                self._locks[name] = lock


_LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(__file__),
        os.path.dirname(torch.__file__),
    )
)


def _is_library(module: Any) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return True
    file = os.path.realpath(file)
    return file.startswith(_LIBRARIES) or f"{os.sep}site-packages{os.sep}" in file
