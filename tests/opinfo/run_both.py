"""One call run on CPU and on the device, with everything observable about it: value, error, warnings, generator."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from opinfo.cells import Outcome
from opinfo.compare import neutral, same
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")


@dataclass
class Ran:
    value: Any = None
    error: Exception | None = None
    warned: set[str] = field(default_factory=set)
    drew: bool = False  # the CPU generator moved


def run(function: Callable[[], Any]) -> Ran:
    before = torch.get_rng_state()
    result = Ran()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result.value = function()
        except Exception as error:
            result.error = error.with_traceback(None)  # its frames hold `result`: a cycle that keeps tensors alive
    result.warned = {neutral(str(w.message)) for w in caught}
    result.drew = not torch.equal(before, torch.get_rng_state())
    return result


def gradients(outputs: Any, inputs: Any, process: Callable[[Any], Any] = lambda out: out) -> list[torch.Tensor | None]:
    """Gradients of every differentiable input under one fixed cotangent; [] where nothing is differentiable."""
    results = [t for t in tree_leaves(process(outputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = [t for t in tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = list({id(t): t for t in leaves}.values())
    if not results or not leaves:
        return []
    generator = torch.Generator().manual_seed(1)
    cotangents = []
    for result in results:
        if result.layout != torch.strided or result.is_nested:
            cotangents.append(torch.ones_like(result))
            continue
        cotangents.append(torch.randn(result.shape, dtype=result.dtype, generator=generator).to(result.device))
    return list(torch.autograd.grad(results, leaves, cotangents, allow_unused=True))


def detached(tree: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, tree)


class Both:
    """Runs a closure per device and files the differences under one heading of an Outcome."""

    def __init__(self, outcome: Outcome, device: torch.device, widen: float = 1.0, values: bool = True):
        self.outcome, self.device, self.widen, self.values = outcome, device, widen, values

    def check(
        self,
        heading: str,
        function: Callable[[torch.device], Any],
        where: bool = True,
        message: str | None = None,
        must_raise: bool = False,
    ) -> tuple[Ran, Ran]:
        """`where`: results must live on the device. `message`: a pattern that the device's error may match instead."""
        import re

        want = run(lambda: function(CPU))
        got = run(lambda: function(self.device))
        out = self.outcome
        out.checks += 1
        if want.error is not None:
            words = neutral(str(want.error))
            if got.error is None:
                out.fail(f"{heading}: CPU raises {type(want.error).__name__} ({words:.120}), the device does not")
            elif type(got.error) is not type(want.error):
                out.fail(
                    f"{heading}: {type(got.error).__name__} ({neutral(str(got.error)):.160}), "
                    f"CPU raises {type(want.error).__name__} ({words:.120})"
                )
            elif neutral(str(got.error)) != words and not (message and re.search(message, str(got.error))):
                out.fail(f"{heading}: message '{neutral(str(got.error)):.160}', CPU has '{words:.160}'")
            return want, got
        if must_raise:
            out.notes["cpu_accepts"] = out.notes.get("cpu_accepts", 0) + 1
        if got.error is not None:
            words = str(got.error).split("\nException raised from")[0]
            out.fail(f"{heading}: {type(got.error).__name__}: {' '.join(words.split()):.200}")
            return want, got
        if self.device.type != "cpu" and got.drew:
            out.fail(f"{heading}: the device's operator drew from the CPU generator")
        if got.warned - want.warned:
            out.fail(f"{heading}: warns '{sorted(got.warned - want.warned)[0]:.160}', CPU does not")
        missing = sorted(text for text in want.warned - got.warned if "oneDNN" not in text)  # a library of CPU's own
        if missing:
            out.fail(f"{heading}: does not warn '{missing[0]:.160}'")
        values = self.values and not want.drew
        with contextlib.suppress(StopIteration):
            verdict = same(got.value, want.value, self.device if where else None, values, self.widen)
            if verdict.problem:
                out.fail(f"{heading}: {verdict.problem}")
            elif values:
                out.value_checks += 1
                out.bit_equal += verdict.bit_equal
            out.stride_differences += not verdict.strides_equal
        return want, got
