"""One nn.Module in one dtype: forward, gradients and buffers on the device against CPU, train and eval."""

import copy
from typing import Any

import torch
from opinfo import cells
from opinfo.cells import Cell, Outcome
from opinfo.placement import place
from opinfo.run_both import Both, gradients
from torch.utils._pytree import tree_leaves

WIDER = {
    "nn.MultiheadAttention",
    "nn.Transformer",
    "nn.TransformerEncoder",
    "nn.TransformerEncoderLayer",
    "nn.TransformerDecoderLayer",
}


def _built(info: Any, module_input: Any, dtype: torch.dtype, training: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = module_input.constructor_input
    module = info.module_cls(*arguments.args, **arguments.kwargs)
    return module.to(dtype).train(training)


def _on(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    moved = copy.deepcopy(module)
    before = {name: id(parameter) for name, parameter in moved.named_parameters(remove_duplicate=False)}
    moved = moved.to(device)
    after = {name: id(parameter) for name, parameter in moved.named_parameters(remove_duplicate=False)}
    assert before == after, "Module.to replaced a Parameter object"
    return moved


def check_module(cell: Cell, device: torch.device) -> Outcome:
    outcome = Outcome()
    info, dtype = cells.modules()[cell.name], getattr(torch, cell.dtype)
    both = Both(outcome, device, widen=10.0 if cell.name in WIDER else 1.0)
    for training in (True, False) if info.train_and_eval_differ else (True,):
        torch.manual_seed(0)
        inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
        for i, module_input in enumerate(inputs):
            if module_input.forward_input is None:
                continue
            heading = f"[{i}] {'train' if training else 'eval'}"
            module = _built(info, module_input, dtype, training)
            call = (list(module_input.forward_input.args), module_input.forward_input.kwargs)

            def forward(d: torch.device) -> Any:
                moved = _on(module, d)  # noqa: B023
                args, kwargs = place(call, d, False)  # noqa: B023
                with torch.no_grad():
                    result = moved(*args, **kwargs)
                return result, dict(moved.state_dict())

            def backward(d: torch.device) -> Any:
                moved = _on(module, d)  # noqa: B023
                args, kwargs = place(call, d)  # noqa: B023
                result = moved(*args, **kwargs)
                return gradients(result, (args, kwargs, list(moved.parameters())))

            want, got = both.check(f"forward{heading}", forward)
            lazy = info.is_lazy and any(torch.nn.parameter.is_lazy(p) for p in tree_leaves(list(module.parameters())))
            if want.error is None and got.error is None and not lazy:
                both.check(f"backward{heading}", backward)
    return outcome
