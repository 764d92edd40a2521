"""One optimizer in every configuration: five steps against CPU, parameters, state and a reload of both."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from opinfo import cells
from opinfo.cells import Cell, Outcome
from opinfo.run_both import Both

SHAPES = ((5, 4), (4,), (), (2, 3, 4))
STEPS = 5


def configurations(info: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every input as it is, then with each implementation that the optimizer has and CPU can run."""
    implementations = [x for x in info.supported_impls if x != "fused" or "cpu" in info.supports_fused_on]
    for entry in info.optim_inputs_func("cpu"):
        yield entry.desc, dict(entry.kwargs)
        off = dict.fromkeys(implementations, False)
        if implementations:
            yield f"{entry.desc} & for loop", {**entry.kwargs, **off}
        for flag in implementations:
            if not (flag == "foreach" and isinstance(entry.kwargs.get("lr"), torch.Tensor)):
                yield f"{entry.desc} & {flag}", {**entry.kwargs, **off, flag: True}
        if info.has_capturable_arg:
            yield f"{entry.desc} & capturable", {**entry.kwargs, "capturable": True}


def _parameters(info: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices_only = info.optim_cls is torch.optim.Muon
    shapes = ((5, 4), (4, 6)) if matrices_only else SHAPES
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


def _gradient(info: Any, parameter: torch.Tensor, step: int, index: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + index)
    dense = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    if info.only_supports_sparse_grads:
        return (dense * (dense.real > 0)).to_sparse()
    return dense


def _trained(info: Any, kwargs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    settings = copy.deepcopy(kwargs)
    if settings.get("capturable") and device.type == "cpu":
        settings.pop("capturable")
    source = [p for p in _parameters(info, dtype) if p.dim() or not info.only_supports_sparse_grads]
    parameters = [p.to(device, copy=True).requires_grad_() for p in source]
    if settings.get("differentiable"):
        parameters = [p.clone() for p in parameters]
    optimizer = info.optim_cls(parameters, **settings)
    for step in range(STEPS):
        if step == 3 and not settings.get("differentiable"):
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = info.optim_cls(parameters, **copy.deepcopy(settings))
            optimizer.load_state_dict(saved)
        if info.step_requires_closure:

            def closure() -> torch.Tensor:
                optimizer.zero_grad()  # noqa: B023
                loss = sum(((p - 1.0) ** 2).abs().sum() for p in parameters)
                assert isinstance(loss, torch.Tensor)
                loss.backward()
                return loss

            optimizer.step(closure)
            continue
        for index, parameter in enumerate(parameters):
            gradient = _gradient(info, source[index], step, index).to(device)
            parameter.grad = gradient.requires_grad_() if settings.get("differentiable") else gradient
        optimizer.step()
    state = optimizer.state_dict()["state"]
    tensors = {k: {n: (t if isinstance(t, torch.Tensor) else None) for n, t in v.items()} for k, v in state.items()}
    off_device = [
        f"{name} of parameter {k}"
        for k, entry in tensors.items()
        for name, t in entry.items()
        if t is not None and t.dim() and t.device.type != device.type
    ]
    values = {k: {n: t.cpu() for n, t in v.items() if t is not None} for k, v in tensors.items()}
    return [p.detach() for p in parameters], values, off_device


def check_optimizer(cell: Cell, device: torch.device) -> Outcome:
    outcome = Outcome()
    info = cells.optimizers()[cell.name]
    dtypes = (torch.float32, torch.complex64) if info.supports_complex else (torch.float32,)
    for description, kwargs in configurations(info):
        for dtype in dtypes:
            if dtype.is_complex and info.optim_cls is torch.optim.LBFGS:
                continue
            both = Both(outcome, device)

            def train(d: torch.device) -> Any:
                parameters, _, off_device = _trained(info, kwargs, d, dtype)  # noqa: B023
                return parameters, off_device

            def state(d: torch.device) -> Any:
                return _trained(info, kwargs, d, dtype)[1]  # noqa: B023

            both.check(f"{description} {cells.name_of(dtype)}", train)
            both.check(f"state of {description} {cells.name_of(dtype)}", state, where=False)
    outcome.notes["configurations"] = sum(1 for _ in configurations(info))
    return outcome
