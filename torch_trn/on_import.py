"""Work that waits for a module of torch's to be imported, so that importing torch stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

Callback = Callable[[ModuleType], None]


class _Finder:
    """First on sys.meta_path: leaves the search to the others and runs the callback after the module's own code."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callback]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.callbacks:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._run_after(spec, self.callbacks.pop(fullname))
                return spec
        return None

    @staticmethod
    def _run_after(spec: ModuleSpec, callbacks: list[Callback]) -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for callback in callbacks:
                callback(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]  # this spec's own loader


_finder = _Finder()


def on_import(name: str, callback: Callback) -> None:
    """Calls `callback(module)` once the module `name` is imported: at once if it is already."""
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
        return
    _finder.callbacks.setdefault(name, []).append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
