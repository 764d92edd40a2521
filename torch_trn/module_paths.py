"""Paths of modules as a user reads them, `blocks.3.attn`."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import nn

# Names that wrappers of torch put into a path; the user did not write them.
_WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPER_ROOTS = ("DistributedDataParallel", "DataParallel")


class ModulePaths:
    """Paths of modules as a user reads them, `blocks.3.attn`, interned in `_C`.

    A module has no link to its parent, so paths come from the module that is called from outside any other: its root.
    The first model gives bare paths, later ones put their class name in front. A root itself is its class name.
    """

    def __init__(self, intern: Callable[[str], int], ids: dict[int, int] | None = None) -> None:
        self._intern = intern
        self.ids = {} if ids is None else ids  # by id(module)
        self._paths: dict[int, str] = {}
        self._alive: dict[int, weakref.ref[nn.Module]] = {}
        self._prefixes: dict[int, str] = {}  # of roots
        self._labels: dict[str, int] = {}
        self._bare_taken = False

    def path(self, module: nn.Module) -> str:
        return self._paths[id(module)]

    def name(self, module: nn.Module, parents: list[nn.Module]) -> None:
        """Names a module not seen before, and all below it; `parents` are the running ones, outermost first."""
        if not parents:
            self._name_root(module)
            return
        # It may have been added since the root was walked.
        self._walk(parents[0], self._prefixes.get(id(parents[0]), self.path(parents[0]) + "."))
        if id(module) not in self.ids:
            path = f"{self.path(parents[-1])}.{type(module).__name__}"
            self._set(module, path)
            self._walk(module, path + ".")

    def _name_root(self, root: nn.Module) -> None:
        inner = [self._prefixes.pop(id(module)) for module in root.modules() if id(module) in self._prefixes]
        if inner:
            # A part was called on its own before: the whole names it anew.
            for module in root.modules():
                self.ids.pop(id(module), None)
        label = type(root).__name__
        count = self._labels[label] = self._labels.get(label, 0) + 1
        label = label if count == 1 else f"{label}#{count}"
        bare = "" in inner or (not self._bare_taken and next(root.children(), None) is not None)
        self._bare_taken |= bare
        self._set(root, label)
        self._prefixes[id(root)] = "" if bare else label + "."
        self._walk(root, self._prefixes[id(root)])

    def _walk(self, root: nn.Module, prefix: str) -> None:
        unwrap = type(root).__name__ in _WRAPPER_ROOTS
        for path, module in root.named_modules():
            # A shared module keeps its first name.
            if id(module) in self.ids:
                continue
            parts = [part for part in path.split(".") if part not in _WRAPPER_PARTS]
            if unwrap and parts[:1] == ["module"]:
                parts = parts[1:]
            self._set(module, prefix + ".".join(parts) if parts else type(module).__name__)

    def _set(self, module: nn.Module, path: str) -> None:
        key = id(module)

        def forget(_: weakref.ref[nn.Module]) -> None:
            for table in (self.ids, self._paths, self._alive, self._prefixes):
                table.pop(key, None)

        self._alive[key] = weakref.ref(module, forget)
        self._paths[key] = path
        self.ids[key] = self._intern(path)
