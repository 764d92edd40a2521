"""torch._dynamo learns the device when it is first imported."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch

from torch_trn import device
from torch_trn.device import index, memory, properties, random, streams
from torch_trn.on_import import on_import

# Never change while a compiled function lives: folded into its graph.
_CONSTANT: tuple[Any, ...] = (
    index.device_type,
    index.device_count,
    index.is_available,
    index._checked_index,
    properties.get_device_properties,
    properties.get_device_name,
    properties.get_device_capability,
    properties.get_amp_supported_dtype,
)
# Read or change the runtime: a graph ends before them.
_OUTSIDE_GRAPHS: tuple[Any, ...] = (
    index.init,
    index.is_initialized,
    index._is_in_bad_fork,
    index._lazy_init,
    index.current_device,
    index.set_device,
    index.exchange_device,
    index.synchronize,
)


def _mark_functions() -> None:
    # What torch.compiler.assume_constant_result and .disable set; calling those would import torch._dynamo.
    for function in _CONSTANT:
        function._dynamo_marked_constant = True
    for function in _OUTSIDE_GRAPHS:
        function._torchdynamo_disable = True
        function._torchdynamo_disable_msg = "it acts on the device's runtime"


def _skip_files(trace_rules: ModuleType) -> None:
    # Calls into these end a graph; their own code runs untraced.
    for name in (memory.__name__, random.__name__, streams.__name__, "torch_trn.dry_run"):
        trace_rules.add(name)


def _register_interface(device_interface: ModuleType) -> None:
    from torch_trn.device_interface import TrnInterface

    name = torch._C._get_privateuse1_backend_name()
    device_interface.register_interface_for_device(name, TrnInterface)
    for i in range(device.device_count()):
        device_interface.register_interface_for_device(f"{name}:{i}", TrnInterface)


def _register_device_context(ctx_manager: ModuleType) -> None:
    members = {
        "_exchange_fn": staticmethod(index.exchange_device),
        "_maybe_exchange_fn": staticmethod(index.maybe_exchange_device),
        "_get_device_index_fn": staticmethod(index._get_device_index),
        "module_name": lambda self: f"torch.{index.device_type()}",
        "python_type": lambda self: device.device,
    }
    variable = type("TrnDeviceVariable", (ctx_manager.GenericDeviceVariable,), members)
    ctx_manager.register_device_context_manager(device.device, variable)


def _leave_inductor(compile_fx: ModuleType) -> None:
    """torch.compile's default backend has no code generator for the device: such a graph runs operator by operator."""
    original = compile_fx.compile_fx

    @functools.wraps(original)
    def compile_or_run(graph: Any, example_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        name = torch._C._get_privateuse1_backend_name()
        tensors = [*example_inputs, *getattr(graph, "parameters", list)(), *getattr(graph, "buffers", list)()]
        if not any(isinstance(t, torch.Tensor) and t.device.type == name for t in tensors):
            return original(graph, example_inputs, *args, **kwargs)
        from torch._dynamo.backends.debugging import aot_eager

        warnings.warn(
            f"[torch.compile] inductor generates no code for {name}; its graphs run operator by operator, as with "
            'backend="aot_eager". `trn run --mode compiled` estimates what fusing them would save.',
            stacklevel=2,
        )
        return aot_eager(graph, example_inputs)

    compile_fx.compile_fx = compile_or_run  # type: ignore[attr-defined]


def _share_shape_rules(fake_impls: ModuleType) -> None:
    """Graphs are made for the layouts that attention's kernels give: its result lies by tokens, not as its query."""

    def on_the_device(fake_mode: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        if args[0].device.type != torch._C._get_privateuse1_backend_name():
            return NotImplemented
        with fake_mode:
            return getattr(torch.ops.trn, func.overloadpacket.__name__)(*args, **kwargs)

    attention = torch.ops.aten._scaled_dot_product_fused_attention_overrideable
    backward = torch.ops.aten._scaled_dot_product_fused_attention_overrideable_backward
    fake_impls.register_op_impl([attention.default, backward.default])(on_the_device)


def install() -> None:
    """Marks the device module's functions; registers the rest when torch._dynamo is imported."""
    _mark_functions()
    on_import("torch._subclasses.fake_impls", _share_shape_rules)
    on_import("torch._dynamo.trace_rules", _skip_files)
    on_import("torch._dynamo.device_interface", _register_interface)
    on_import("torch._dynamo.variables.ctx_manager", _register_device_context)
    on_import("torch._inductor.compile_fx", _leave_inductor)
