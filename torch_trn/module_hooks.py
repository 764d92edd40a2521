"""Tells `_C` the module path, phase, step and owner of memory while profiles run."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torch_trn import native
from torch_trn.graph_places import GraphPlaces
from torch_trn.libraries import LIBRARIES
from torch_trn.module_paths import ModulePaths
from torch_trn.this_rank import current_rank


class Hooks:
    """The hooks of all running profiles, installed by the first and removed by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_profiles = {"modules": 0, "steps": 0}
        self._calls: ModuleCalls | None = None
        self._step_handles: list[Any] = []
        self._listeners: list[Callable[[], None]] = []
        self._optimizers: dict[int, KnownOptimizer] = {}
        self._gradients = GradientOwners()
        self._of_thread = _OfThread()
        self._begin_step: Callable[..., bool]
        self._end_step: Callable[[], None]

    def install(self, modules: bool, on_step: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.append(on_step)
            self._num_profiles["steps"] += 1
            if self._num_profiles["steps"] == 1:
                c = native.extension()
                self._begin_step, self._end_step = c.profiler_begin_step, c.profiler_end_step
                self._step_handles = [
                    register_optimizer_step_pre_hook(self._before_step),
                    register_optimizer_step_post_hook(self._after_step),
                ]
            if modules:
                self._num_profiles["modules"] += 1
                if self._num_profiles["modules"] == 1:
                    self._calls = ModuleCalls(self)

    def remove(self, modules: bool, on_step: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.remove(on_step)
            for known in self._optimizers.values():
                known.tag_gradients()
            self._num_profiles["steps"] -= 1
            if modules:
                self._num_profiles["modules"] -= 1
                if self._num_profiles["modules"] == 0 and self._calls is not None:
                    self._calls.remove()
                    self._calls = None
            if self._num_profiles["steps"] == 0:
                for handle in self._step_handles:
                    handle.remove()
                self._step_handles.clear()
                self._gradients.clear()
                self._optimizers.clear()
                self._leave_step()

    @property
    def stepping(self) -> Optimizer | None:
        """The optimizer whose step runs on this thread."""
        return self._of_thread.stepping

    @stepping.setter
    def stepping(self, optimizer: Optimizer | None) -> None:
        self._of_thread.stepping = optimizer

    def watch(self, module: nn.Module) -> None:
        self._gradients.watch(module.parameters())
        for buffer in module.buffers():
            tag(buffer, "parameters")

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.stepping = optimizer
        begin_step = self._begin_step
        known = self._optimizers.get(id(optimizer))
        if known is None or not begin_step(optimizer.param_groups, known.num_parameters, known.plain):
            known = self._optimizers[id(optimizer)] = KnownOptimizer(optimizer, self._optimizers)
            self._gradients.leave_to_optimizer(known.parameters)
            begin_step(optimizer.param_groups, known.num_parameters, known.plain)
        if known.wrappers:
            known.tag_wrapped_gradients()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.stepping = None
        self._end_step()
        known = self._optimizers.get(id(optimizer))
        if known is not None and known.num_states != len(optimizer.state):
            known.tag_states()
        for listener in tuple(self._listeners):
            listener()

    def _leave_step(self) -> None:
        self.stepping = None
        native.extension().profiler_set_phase(None)

    def enter_model_in_step(self) -> None:
        """A model runs inside `step`: its closure calls it (a forward pass), or the step raised and never ended."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is self.stepping:
                native.extension().profiler_set_phase(None)
                return
            frame = frame.f_back
        self._leave_step()

    def leave_model_in_step(self) -> None:
        native.extension().profiler_set_phase("optimizer")


class _OfThread(threading.local):
    stepping: Optimizer | None = None


class ModuleCalls:
    """Stands in front of `nn.Module.__call__`: a module hook would send every call down torch's slow path."""

    def __init__(self, hooks: Hooks) -> None:
        c = native.extension()
        enter, leave = c.profiler_enter_module, c.profiler_leave_module
        is_compiling = torch.compiler.is_compiling
        original = self._original = nn.Module.__call__
        # What stands behind torch's own __call__, one Python frame further down; a patched one is called itself.
        is_torchs = original is nn.Module._wrapped_call_impl

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self._active:
                return original(module, *args, **kwargs)
            if not enter(module):
                return self._call_with_care(module, args, kwargs)
            try:
                if is_torchs and module._compiled_call_impl is None:
                    return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
                return original(module, *args, **kwargs)
            finally:
                leave()

        self._hooks = hooks
        known = KnownModules()
        self._known = known
        c.set_graph_source(GraphPlaces(known, LIBRARIES))
        # The first model of each simulated rank has bare paths.
        self._paths = defaultdict[int | None, ModulePaths](lambda: ModulePaths(c.profiler_intern_module, known))
        self._active = True
        self._call = call
        nn.Module.__call__ = call  # type: ignore[method-assign]

    def _call_with_care(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module not seen before, or a model called inside an optimizer's step."""
        c = native.extension()
        parents = c.profiler_running_modules()
        in_step = not parents and self._hooks.stepping is not None
        if in_step:
            self._hooks.enter_model_in_step()
        if id(module) not in self._known:
            self._paths[current_rank()].name(module, parents)
            self._hooks.watch(module)
        entered = c.profiler_enter_known_module(module)
        try:
            return self._original(module, *args, **kwargs)
        finally:
            if entered:
                c.profiler_leave_module()
            if in_step and self._hooks.stepping is not None:
                self._hooks.leave_model_in_step()

    def remove(self) -> None:
        self._active = False
        self._known.clear()
        native.extension().set_graph_source(None)
        # Who patched over it (torch.fx while it traces) will put back what it found: a call that passes through.
        if nn.Module.__call__ is self._call:
            nn.Module.__call__ = self._original  # type: ignore[method-assign]


class KnownModules(dict[int, int]):
    """Index of a path by id(module); `_C` has the same table."""

    def __setitem__(self, key: int, index: int) -> None:
        super().__setitem__(key, index)
        native.extension().profiler_know_module(key, index)

    def pop(self, key: int, *default: Any) -> Any:
        native.extension().profiler_forget_module(key)
        return super().pop(key, *default)

    def clear(self) -> None:
        super().clear()
        native.extension().profiler_forget_modules()


class KnownOptimizer:
    """An optimizer that has stepped: its parameters, whose gradients it owns, and how much state it has tagged."""

    def __init__(self, optimizer: Optimizer, known: dict[int, KnownOptimizer]) -> None:
        key = id(optimizer)
        self._optimizer = weakref.ref(optimizer, lambda _: known.pop(key, None))
        self.parameters: list[torch.Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.plain = [p for p in self.parameters if not hasattr(p, "_local_tensor")]
        self.num_parameters = len(self.parameters)
        self.wrappers = [p for p in self.parameters if hasattr(p, "_local_tensor")]
        self.num_states = 0
        for parameter in self.parameters:
            tag(parameter, "parameters")

    def tag_gradients(self) -> None:
        for parameter in self.parameters:
            tag_gradient(parameter)

    def tag_wrapped_gradients(self) -> None:
        for parameter in self.wrappers:
            tag_gradient(parameter)

    def tag_states(self) -> None:
        optimizer = self._optimizer()
        if optimizer is None:
            return
        self.num_states = len(optimizer.state)
        for state in optimizer.state.values():
            for value in state.values() if isinstance(state, dict) else ():
                if isinstance(value, torch.Tensor):
                    tag(value, "optimizer_state")


class GradientOwners:
    """Tags gradients as soon as backward has made them, until an optimizer steps, which does it for all at once."""

    def __init__(self) -> None:
        # By id: a weak reference would keep torch.utils.swap_tensors from moving the parameter.
        self._handles: dict[int, Any] = {}
        self._left: set[int] = set()

    def watch(self, parameters: Iterable[torch.Tensor]) -> None:
        for parameter in parameters:
            tag(parameter, "parameters")
            tag_gradient(parameter)
            if not (parameter.requires_grad and parameter.is_leaf) or id(parameter) in self._left:
                continue
            handle = self._handles.get(id(parameter))
            hooks = getattr(parameter, "_post_accumulate_grad_hooks", None)
            if handle is None or handle.id not in (hooks or ()):
                register: Any = parameter.register_post_accumulate_grad_hook
                # The common case stays out of Python: it runs once per parameter and backward.
                is_wrapper = hasattr(parameter, "_local_tensor")
                hook = tag_gradient if is_wrapper else native.extension().memory_tag_gradient
                self._handles[id(parameter)] = register(hook)

    def leave_to_optimizer(self, parameters: Iterable[torch.Tensor]) -> None:
        for parameter in parameters:
            self._left.add(id(parameter))
            handle = self._handles.pop(id(parameter), None)
            if handle is not None:
                handle.remove()

    def clear(self) -> None:
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._left.clear()


def tag(tensor: torch.Tensor, category: str) -> None:
    """Names the owner of a tensor's memory; a tensor elsewhere is left alone."""
    local = getattr(tensor, "_local_tensor", tensor)
    if local.device.type == torch._C._get_privateuse1_backend_name():
        native.extension().memory_tag(local, category)


def tag_gradient(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        tag(parameter.grad, "gradients")


HOOKS = Hooks()
