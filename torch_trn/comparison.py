"""Reference and hardware numerics side by side: where a model's values part, per module and per operator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_trn.numerics import departures_in_force, reference_operators, set_numerics

if TYPE_CHECKING:
    from rich.console import RenderableType

Loss = Callable[[Any], Tensor]
_SMALLEST_FILL = 1e4  # larger magnitudes are masks rather than values, and say nothing of what cancels


@dataclass(frozen=True)
class Divergence:
    """How far the values of one module or operator lie apart.

    Attributes:
        name: the module's path, or the operator's name with its overload.
        phase: "forward" or "backward".
        calls: calls of this name, all of which are in the figures below.
        max_error: largest absolute difference of finite elements.
        relative_error: the same over the largest magnitude of the reference's result.
        ulps: largest difference in units in the last place of the result's dtype.
        nans: elements that are NaN in one of the two only.
        infs: elements that are infinite in one of the two only, or infinities of other signs.
        position: place of the first call among all operators, from 0.
    """

    name: str
    phase: str
    calls: int
    max_error: float
    relative_error: float
    ulps: int
    nans: int
    infs: int
    position: int


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        modules: one entry per module and phase, in the order of the calls: forward what the module returns, backward
            the gradients that arrive at it.
        operators: one entry per operator and phase, largest relative error first.
        first: the first operator past its tolerance, or None: an element that is NaN or infinite in one run only, or a
            difference of more than 1e-5 (at least two units in the last place of the dtype) of the result's largest
            magnitude plus two units in the last place of its operands' largest, which sums that cancel may leave,
            there and in the operators that take them. Operands from 1e4 on count as masks and allow nothing.
        reference_operators: operators without a program, which ran in reference numerics in both runs, and how often.
        losses: (reference, hardware) of each training step; one entry without an optimizer.
    """

    modules: list[Divergence]
    operators: list[Divergence]
    first: Divergence | None
    reference_operators: dict[str, int]
    losses: list[tuple[float, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def plot(self, path: str) -> None:
        """Writes a picture: loss curves, and the relative error of modules in order. Needs matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(
                "[compare] plots are made with matplotlib, which is not installed; run pip install torch_trn[plot]."
            ) from None
        figure = Figure(figsize=(9, 4), layout="constrained")
        curves, errors = figure.subplots(1, 2)
        for index, name in enumerate(("reference", "hardware")):
            curves.plot([pair[index] for pair in self.losses], label=name, linestyle=("-", "--")[index], marker=".")
        curves.set(xlabel="step", ylabel="loss")
        curves.legend()
        forward = [entry for entry in self.modules if entry.phase == "forward"]
        errors.semilogy([max(entry.relative_error, 1e-12) for entry in forward], marker=".")
        errors.set(xlabel="module, in order of results", ylabel="relative error")
        figure.savefig(path)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from torch_trn import report

        columns = ("", "phase", "calls", "relative", "absolute", "ULPs", "NaN", "Inf")
        tables = [
            report.rich_table(
                report.Table(
                    title,
                    columns,
                    [
                        [
                            entry.name or "(model)",
                            entry.phase,
                            str(entry.calls),
                            f"{entry.relative_error:.1e}",
                            f"{entry.max_error:.1e}",
                            f"{entry.ulps:,}",
                            str(entry.nans),
                            str(entry.infs),
                        ]
                        for entry in entries
                    ],
                    left=2,
                )
            )
            for title, entries in (("Modules", self.modules), ("Operators", self.operators[:20]))
        ]
        return Group(Text(self._heading(), style="bold"), Text(), tables[0], Text(), tables[1], Text(self._notes()))

    def _heading(self) -> str:
        if self.first is None:
            lost = [step for step, (mine, theirs) in enumerate(self.losses) if _parts(mine, theirs)]
            heading = "hardware against reference numerics: every operator of the first step within its tolerance"
            return f"{heading}, but the losses of step {lost[0]} are not both finite" if lost else heading
        return (
            f"hardware against reference numerics: the first operator past its tolerance is {self.first.name} "
            f"({self.first.phase}, operator {self.first.position}), relative error {self.first.relative_error:.1e}"
        )

    def _notes(self) -> str:
        steps = [f"step {i}: {mine:.6g} / {theirs:.6g}" for i, (mine, theirs) in enumerate(self.losses)]
        lines = [f"* losses, reference / hardware: {'; '.join(steps)}"] if steps else []
        if self.reference_operators:
            names = ", ".join(f"{name} x{count}" for name, count in sorted(self.reference_operators.items()))
            lines.append(f"* no program, so reference numerics in both runs: {names}")
        return "\n".join(lines)

    def __str__(self) -> str:
        from torch_trn import report

        return report.plain(self)


def _is_compared(tensor: Tensor) -> bool:
    is_packed = tensor.dtype == torch.float4_e2m1fn_x2  # two elements a byte, of which PyTorch converts none
    return tensor.is_floating_point() and tensor.layout == torch.strided and not is_packed


@dataclass
class _Value:
    name: str
    phase: str
    tensors: list[Tensor]
    position: int
    noise: float = 0.0  # what rounding of the operands alone may change, absolute
    sources: list[int] = field(default_factory=list)  # places of the operators whose results the operands are


def _parts(mine: float, theirs: float) -> bool:
    """Whether one is NaN or infinite and the other is not the same."""
    if math.isfinite(mine) and math.isfinite(theirs):
        return False
    return mine != theirs and not (math.isnan(mine) and math.isnan(theirs))


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operator writes, which some operators do not return: optimizers over lists, for one."""
    return [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.is_write
    ]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what operators and modules return or write, in floating point, on the host, in the order of the calls."""

    def __init__(self, weighs_operands: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weighs_operands = weighs_operands
        self._writers: dict[int, int] = {}  # by storage, the place of the operator that wrote it last
        self.operators: list[_Value] = []
        self.modules: list[_Value] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.is_view:
            return func(*args, **(kwargs or {}))
        noise, sources = self._operands((args, kwargs)) if self._weighs_operands else (0.0, [])
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        phase = "backward" if torch._C._current_graph_task_id() != -1 else "forward"
        self._add(self.operators, name, phase, (result, _written(func, args, kwargs or {})), noise, sources)
        return result

    def _operands(self, operands: Any) -> tuple[float, list[int]]:
        with torch.utils._python_dispatch._disable_current_modes():
            leaves = [leaf for leaf in tree_leaves(operands) if isinstance(leaf, Tensor) and _is_compared(leaf)]
            sources = {self._writers[_storage(leaf)] for leaf in leaves if _storage(leaf) in self._writers}
            return max(map(_rounding, leaves), default=0.0), list(sources)

    def _add(
        self,
        into: list[_Value],
        name: str,
        phase: str,
        result: Any,
        noise: float = 0.0,
        sources: Sequence[int] = (),
    ) -> None:
        # A copy of its own: later operators may write in place, and copying must not be recorded itself.
        with torch.utils._python_dispatch._disable_current_modes():
            # An operator that writes in place may also return what it wrote: once is enough.
            leaves = {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and _is_compared(leaf)}
            tensors = [leaf.detach().to("cpu", copy=True) for leaf in leaves.values()]
            if into is self.operators and self._weighs_operands:
                self._writers.update((_storage(leaf), len(self.operators)) for leaf in leaves.values())
        if tensors:
            into.append(_Value(name, phase, tensors, len(self.operators), noise, list(sources)))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for path, module in model.named_modules():

            def hook(module: nn.Module, inputs: Any, output: Any, path: str = path) -> None:
                self._add(self.modules, path, "forward", output)

                def receives(gradient: Tensor) -> None:
                    self._add(self.modules, path, "backward", gradient)

                # Not a module's backward hook, whose identity functions would refuse what writes into the output.
                for leaf in tree_leaves(output):
                    if isinstance(leaf, Tensor) and leaf.requires_grad:
                        handles.append(leaf.register_hook(receives))  # type: ignore[no-untyped-call]

            handles.append(module.register_forward_hook(hook))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()


def _tolerance(dtype: torch.dtype) -> float:
    return max(1e-5, 2 * torch.finfo(dtype).eps)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # not the address, which strict mode keeps from who reads it


def _rounding(operand: Tensor) -> float:
    """Two units in the last place of the operand's largest magnitude, in its dtype or in the engines' FP32."""
    sizes = operand.detach().cpu().double().abs().flatten()
    sizes = sizes[sizes < _SMALLEST_FILL]
    eps = max(torch.finfo(operand.dtype).eps, torch.finfo(torch.float32).eps)
    return 2 * eps * sizes.max().item() if sizes.numel() else 0.0


def _ordered(values: Tensor) -> Tensor:
    """Integers in the order of the floating-point values, neighbours one apart."""
    if values.dtype == torch.float8_e8m0fnu:  # powers of two, without a sign
        return values.view(torch.uint8).to(torch.int64)
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    bits = values.contiguous().view(integer).to(torch.int64)
    lowest = -(1 << (8 * values.element_size() - 1))
    return torch.where(bits < 0, lowest - bits, bits)


def _errors(reference: Tensor, hardware: Tensor) -> tuple[float, float, int, int, int]:
    apart = (_ordered(reference) - _ordered(hardware)).abs()
    mine, theirs = reference.double(), hardware.double()
    nans = int((theirs.isnan() ^ mine.isnan()).sum())
    infs = int(((theirs.isinf() | mine.isinf()) & (theirs != mine)).sum())
    both = mine.isfinite() & theirs.isfinite()
    if not both.any():
        return 0.0, 0.0, 0, nans, infs
    error = (mine - theirs)[both].abs().max().item()
    largest = mine[both].abs().max().item()
    ulps = int(apart[both].max())
    return error, error / largest if largest else (math.inf if error else 0.0), ulps, nans, infs


def _divergences(
    reference: list[_Value], hardware: list[_Value], what: str
) -> tuple[list[Divergence], Divergence | None]:
    if [value.name for value in reference] != [value.name for value in hardware]:
        raise RuntimeError(
            f"[compare] both runs must call the same {what}; the model's control flow depends on its values. "
            "Compare a part of it that does not."
        )
    found: dict[tuple[str, str], Divergence] = {}
    first: Divergence | None = None
    cancelled: dict[int, float] = {}  # what results that are rounding noise allow those that they are operands of
    for mine, theirs in zip(reference, hardware, strict=True):
        rows = [_errors(a, b) for a, b in zip(mine.tensors, theirs.tensors, strict=True)]
        columns = list(zip(*rows, strict=True))
        error, relative, ulps = (max(column) for column in columns[:3])
        nans, infs = (sum(column) for column in columns[3:])
        here = Divergence(
            mine.name, mine.phase, 1, error, relative, int(ulps), int(nans), int(infs), position=mine.position
        )
        own = [
            (apart, _tolerance(tensor.dtype) * (apart / ratio if ratio else 0))
            for (apart, ratio, *_), tensor in zip(rows, mine.tensors, strict=True)
        ]
        noise = max([mine.noise, *(cancelled.get(source, 0.0) for source in mine.sources)])
        is_past = any(apart > allowed + noise for apart, allowed in own)
        if any(apart > allowed for apart, allowed in own):
            cancelled[mine.position] = noise
        if first is None and (is_past or nans or infs):
            first = here
        before = found.get((mine.name, mine.phase))
        if before is not None:
            here = Divergence(
                mine.name,
                mine.phase,
                before.calls + 1,
                max(before.max_error, error),
                max(before.relative_error, relative),
                max(before.ulps, int(ulps)),
                before.nans + int(nans),
                before.infs + int(infs),
                before.position,
            )
        found[mine.name, mine.phase] = here
    return list(found.values()), first


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.detach().to(device, copy=True).requires_grad_(tensor.requires_grad)


def _default_loss(output: Any) -> Tensor:
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    floats = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not floats:
        raise ValueError("[compare] the model returns no floating-point tensor. Pass a loss of its output.")
    return floats[0] if floats[0].numel() == 1 else floats[0].float().square().mean()


def compare(
    model: nn.Module,
    inputs: Any,
    *,
    loss: Loss | None = None,
    optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer] | None = None,
    steps: int = 1,
    backward: bool | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    **departures: Any,
) -> Comparison:
    """Runs a model in reference and in hardware numerics, from the same state, and tells where the values part.

    Both runs are of copies: the model, the inputs and the generators of random numbers stay as they are. The first
    step's operators and modules are compared; further steps give the loss curves. The results of all operators of one
    step are kept on the host, twice.

    Args:
        model: any module; its copies are moved to the device.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments, on any device.
        loss: scalar of the model's output. Without it: the output's `loss`, a scalar output, or the mean square of the
            first floating-point result.
        optimizer: makes one of parameters, e.g. `lambda p: torch.optim.AdamW(p, lr=3e-4)`. Needed for more than
            one step.
        steps: training steps.
        backward: whether gradients are computed; by default, if the loss depends on anything that requires them.
        seed: of random operators; the same in both runs.
        device: where to run; the current device by default.
        departures: switches of hardware numerics, as in `set_numerics`; the others are those in force.

    Returns:
        A `Comparison`: a table when printed, `to_dict()`, `plot(path)`.

    Raises:
        ValueError: several steps without an optimizer, gradients of a loss that has none, or a model with no
            floating-point result.
        RuntimeError: the runs call different operators, as control flow depends on values.
    """
    if steps < 1 or (steps > 1 and (optimizer is None or backward is False)):
        raise ValueError(f"[compare] several steps need an optimizer and gradients; got {steps} steps.")
    from torch_trn import device_name

    where = torch.device(device if device is not None else device_name())
    loss_of = loss or _default_loss

    def run(mode: str) -> tuple[_Recorder, list[float]]:
        mine = copy.deepcopy(model).to(where)
        moved = tree_map(lambda leaf: _copied(leaf, where) if isinstance(leaf, Tensor) else leaf, inputs)
        args, kwargs = ((), moved) if isinstance(moved, dict) else (moved if isinstance(moved, tuple) else (moved,), {})
        stepper = optimizer(iter(mine.parameters())) if optimizer is not None else None
        torch.manual_seed(seed)
        recorder = _Recorder(weighs_operands=mode == "reference")
        losses = []

        def step() -> None:
            with torch.set_grad_enabled(backward is not False):
                value = loss_of(mine(*args, **kwargs))
                if backward and not value.requires_grad:
                    raise ValueError(
                        "[compare] backward=True takes gradients of a loss that depends on parameters; got one that "
                        "requires none. Leave backward out, or let a parameter or an input require gradients."
                    )
                if value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
                if stepper is not None:
                    stepper.step()
                    stepper.zero_grad()
            losses.append(value.item())

        with set_numerics(mode, **switches):
            with recorder.watching(mine):
                step()
            for _ in range(steps - 1):
                step()
        return recorder, losses

    switches = {**departures_in_force(), **departures}
    with torch.random.fork_rng(range(torch.get_device_module(device_name()).device_count()), device_type=device_name()):
        reference, reference_losses = run("reference")
        before = reference_operators()
        hardware, hardware_losses = run("hardware")
    launches = {name: count - before.get(name, 0) for name, count in reference_operators().items()}
    operators, first = _divergences(reference.operators, hardware.operators, "operators")
    modules, _ = _divergences(reference.modules, hardware.modules, "modules")
    return Comparison(
        modules=modules,
        operators=sorted(operators, key=lambda entry: entry.relative_error, reverse=True),
        first=first,
        reference_operators={name: count for name, count in launches.items() if count},
        losses=list(zip(reference_losses, hardware_losses, strict=True)),
    )
