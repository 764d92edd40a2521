"""Where the calls in a compiled graph come from: the module and the line that torch.fx keeps with each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch

_STACKS = ("nn_module_stack", "fwd_nn_module_stack")  # the second of backward graphs
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')


class GraphPlaces:
    """Looks a frame of a graph's code up in the graph.

    Args:
        known: index of a module's path by id(module), as a profile names them.
        libraries: folders of files that are not the user's.
    """

    def __init__(self, known: Mapping[int, int], libraries: tuple[str, ...]) -> None:
        self._known = known
        self._libraries = libraries
        self._nodes: WeakKeyDictionary[torch.fx.GraphModule, list[torch.fx.Node]] = WeakKeyDictionary()

    def __call__(self, frame: FrameType) -> tuple[int | None, str | None, int] | None:
        """The module's index, file and line of the call that the frame is at; None where the graph does not tell."""
        graph_module = frame.f_locals.get("self")
        if not isinstance(graph_module, torch.fx.GraphModule):
            return None
        lines = getattr(graph_module, "_lineno_map", None) or {}
        number = lines.get(frame.f_lineno - getattr(graph_module, "_prologue_start", 0))
        nodes = self._nodes.get(graph_module)
        if nodes is None:
            nodes = self._nodes[graph_module] = list(graph_module.graph.nodes)
        if number is None or number >= len(nodes):
            return None
        meta = nodes[number].meta
        return (self._module(meta), *self._line(meta))

    def _module(self, meta: Mapping[str, Any]) -> int | None:
        for name in _STACKS:
            for key in reversed(meta.get(name) or {}):
                # Dynamo's key is the module's id, with @1, @2, ... for later calls of it in one graph.
                number = str(key).partition("@")[0]
                if number.isdigit() and int(number) in self._known:
                    return self._known[int(number)]
        return None

    def _line(self, meta: Mapping[str, Any]) -> tuple[str | None, int]:
        for file, line in reversed(_FRAME.findall(meta.get("stack_trace") or "")):
            if not file.startswith(self._libraries):
                return file, int(line)
        return None, 0
