"""Hooks on every nn.Module and Optimizer that tell `_C` the module path, phase, step and owner of memory."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torch_trn import native

# Names that wrappers of torch put into a path; the user did not write them.
_WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPER_ROOTS = ("DistributedDataParallel", "DataParallel")


class ModulePaths:
    """Paths of modules as a user reads them, `blocks.3.attn`, interned in `_C`.

    A module has no link to its parent, so paths come from the module that is called from outside any other: its root.
    The first model gives bare paths, later ones put their class name in front. A root itself is its class name.
    """

    def __init__(self, intern: Callable[[str], int]) -> None:
        self._intern = intern
        self.ids: dict[int, int] = {}  # by id(module)
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


class Hooks:
    """The hooks of all running profiles, installed by the first and removed by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = {"modules": 0, "steps": 0}
        self._module_handles: list[Any] = []
        self._step_handles: list[Any] = []
        self._gradient_handles: dict[int, Any] = {}
        self._listeners: list[Callable[[], None]] = []
        self._state_sizes: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._stepping: Optimizer | None = None
        self._paths: ModulePaths | None = None

    def install(self, modules: bool, on_step: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.append(on_step)
            self._users["steps"] += 1
            if self._users["steps"] == 1:
                self._install_steps()
            if modules:
                self._users["modules"] += 1
                if self._users["modules"] == 1:
                    self._install_modules()

    def remove(self, modules: bool, on_step: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.remove(on_step)
            self._users["steps"] -= 1
            if modules:
                self._users["modules"] -= 1
                if self._users["modules"] == 0:
                    _remove(self._module_handles)
                    self._paths = None
            if self._users["steps"] == 0:
                _remove(self._step_handles)
                _remove(self._gradient_handles.values())
                self._gradient_handles.clear()
                self._state_sizes.clear()
                self._leave_step()

    def _install_modules(self) -> None:
        c = native.extension()
        push, pop = c.profiler_push_module, c.profiler_pop_module
        paths = self._paths = ModulePaths(c.profiler_intern_module)
        known = paths.ids
        thread = threading.local()
        is_compiling = torch.compiler.is_compiling

        def enter(module: nn.Module, args: Any) -> None:
            if is_compiling():
                return
            try:
                stack = thread.stack
            except AttributeError:
                stack = thread.stack = []
            if not stack and self._stepping is not None:
                self._check_stepping()
            if id(module) not in known:
                paths.name(module, stack)
                self._watch(module.parameters())
                for buffer in module.buffers():
                    tag(buffer, "parameters")
            stack.append(module)
            push(known[id(module)])

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            if is_compiling():
                return
            stack = getattr(thread, "stack", None)
            if not stack:
                return
            if stack[-1] is not module and not any(running is module for running in stack):
                return  # the profile was entered inside this module
            # An interrupt leaves modules behind that never reached this hook.
            while True:
                left = stack.pop()
                pop()
                if left is module:
                    break
            if not stack and self._stepping is not None:
                c.profiler_set_phase("optimizer")

        self._module_handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]

    def _install_steps(self) -> None:
        c = native.extension()

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._stepping = optimizer
            if optimizer not in self._state_sizes:
                self._state_sizes[optimizer] = 0
                for parameters in optimizer.param_groups:
                    self._watch(parameters["params"])
            c.profiler_set_phase("optimizer")

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._leave_step()
            if self._state_sizes.get(optimizer) != len(optimizer.state):
                self._state_sizes[optimizer] = len(optimizer.state)
                for state in optimizer.state.values():
                    for value in state.values() if isinstance(state, dict) else ():
                        if isinstance(value, torch.Tensor):
                            tag(value, "optimizer_state")
            c.profiler_step()
            for listener in tuple(self._listeners):
                listener()

        self._step_handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]

    def _leave_step(self) -> None:
        self._stepping = None
        native.extension().profiler_set_phase(None)

    def _check_stepping(self) -> None:
        """A model runs inside `step`: its closure calls it (a forward pass), or the step raised and never ended."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is self._stepping:
                native.extension().profiler_set_phase(None)
                return
            frame = frame.f_back
        self._leave_step()

    def _watch(self, parameters: Iterable[torch.Tensor]) -> None:
        """Tags parameters, and their gradients as soon as backward has made them."""
        for parameter in parameters:
            tag(parameter, "parameters")
            if not (parameter.requires_grad and parameter.is_leaf):
                continue
            # Held by id: a weak reference would keep torch.utils.swap_tensors from moving the parameter.
            handle = self._gradient_handles.get(id(parameter))
            hooks = getattr(parameter, "_post_accumulate_grad_hooks", None)
            if handle is None or handle.id not in (hooks or ()):
                register: Any = parameter.register_post_accumulate_grad_hook
                # The common case stays out of Python: it runs once per parameter and backward.
                is_wrapper = hasattr(parameter, "_local_tensor")
                hook = _tag_gradient if is_wrapper else native.extension().memory_tag_gradient
                self._gradient_handles[id(parameter)] = register(hook)
            if parameter.grad is not None:
                tag(parameter.grad, "gradients")


def tag(tensor: torch.Tensor, category: str) -> None:
    """Names the owner of a tensor's memory; a tensor elsewhere is left alone."""
    local = getattr(tensor, "_local_tensor", tensor)
    if local.device.type == torch._C._get_privateuse1_backend_name():
        native.extension().memory_tag(local, category)


def _tag_gradient(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        tag(parameter.grad, "gradients")


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()


HOOKS = Hooks()
