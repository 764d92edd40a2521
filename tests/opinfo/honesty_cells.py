"""One operator as the device's owner sees it: charged, in HBM, in place, on one device, and gone when released."""

import gc
from collections.abc import Iterator
from typing import Any

import torch
from opinfo import cells
from opinfo.cells import Cell, Outcome
from opinfo.op_cells import call, samples_of
from opinfo.placement import Sample, place_tensor
from opinfo.run_both import CPU, gradients, run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NUM_SAMPLES = 3

# ATen operators that touch no element: allocation, metadata, and the one that reads a scalar back.
NO_LAUNCH = {
    "_efficientzerotensor",
    "_local_scalar_dense",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "is_coalesced",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
    "set_",
    "sym_size",
    "unsafe_split",
    "unsafe_split_with_sizes",
}

# Operators that take a tensor from another device on purpose, as on CUDA. Value: the leaves (in call order) that may
# differ, or None for all.
TAKES_ANOTHER_DEVICE: dict[str, tuple[str, set[int] | None]] = {
    "__getitem__": ("index tensors may be on CPU", {1, 2, 3, 4}),
    "_unsafe_masked_index": ("index tensors may be on CPU", {2, 3}),
    "_unsafe_masked_index_put_accumulate": ("index tensors may be on CPU", {2, 3}),
    "atleast_1d": ("each tensor is viewed alone", None),
    "atleast_2d": ("each tensor is viewed alone", None),
    "atleast_3d": ("each tensor is viewed alone", None),
    "block_diag": ("copies each block, as copy_ does", None),
    "broadcast_tensors": ("each tensor is viewed alone", None),
    "expand_as": ("reads the size of the other", None),
    "index_put": ("index tensors may be on CPU", {1, 2}),
    "resize_as_": ("reads the size of the other", None),
    "nn.functional.ctc_loss": ("moves targets and lengths to where it needs them", None),
    "reshape_as": ("reads the size of the other", None),
    "select_scatter": ("copies the source, as copy_ does", None),
    "slice_scatter": ("copies the source, as copy_ does", None),
    "diagonal_scatter": ("copies the source, as copy_ does", None),
    "as_strided_scatter": ("copies the source, as copy_ does", None),
    "to": ("moves to the device of the other", None),
    "type_as": ("moves to the device of the other", None),
    "view_as": ("reads the size of the other", None),
    "tensor_split": ("split points are host data", {1}),
    "item": ("reads a value back", None),
    "narrow": ("the start may be a tensor of one element, read back", None),
}


# PyTorch's own check, above every backend, raises in its own words.
OWN_WORDS = {"_chunk_cat", "cartesian_prod"}


class Computes(TorchDispatchMode):
    """Whether an operator that writes at least one element ran under this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        touched = any(isinstance(t, torch.Tensor) and t.numel() for t in tree_leaves(result))
        if touched and not view and name not in NO_LAUNCH:
            self.names.append(name)
        return result


def tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _strided(tree: Any) -> list[torch.Tensor]:
    return [t for t in tensors(tree) if t.layout == torch.strided and not t._is_zerotensor() and t.numel()]


def _in_hbm(outcome: Outcome, heading: str, result: Any, device: torch.device) -> None:
    from torch_trn import _C

    for t in _strided(result):
        if t.device.type == device.type and not _C.storage_in_hbm(t):
            outcome.fail(f"{heading}: the result's memory is not in the device's HBM")
            return


def _charged(outcome: Outcome, op: Any, sample: Sample, device: torch.device) -> None:
    import torch_trn

    args, kwargs = sample.on(CPU, requires_grad=False)
    with torch.no_grad(), Computes() as computes:
        call(op, sample, args, kwargs, CPU)
    del args, kwargs
    args, kwargs = sample.on(device, requires_grad=False)
    pointers = [(t, t.data_ptr()) for t in _strided((args, kwargs))]
    with torch_trn.profile(modules=False, lines=False) as prof:
        ran = run(lambda: call(op, sample, args, kwargs, device))
    if ran.error is not None:
        outcome.fail(f"forward: {type(ran.error).__name__}: {str(ran.error).splitlines()[0]:.160}")
        return
    if ran.drew:
        outcome.fail("the device's operator drew from the CPU generator")
    if op.name not in ("resize_", "resize_as_") and any(t.data_ptr() != pointer for t, pointer in pointers):
        outcome.fail("an input was moved to another address")
    _in_hbm(outcome, "forward", ran.value, device)
    families = {part["family"] for spec in prof.ledger.specs for part in spec}
    outcome.notes["generic"] = sorted({c.entry["op"] for c in prof.costed if _generic(prof, c)})
    outcome.notes["families"] = sorted(families)
    if computes.names and not prof.launches:
        outcome.fail(f"no launch was recorded, CPU computes with {', '.join(sorted(set(computes.names))[:4])}")
    for costed in prof.costed:
        if costed.row.seconds <= 0:
            outcome.fail(f"{costed.entry['op']} was charged no time")
    if computes.names and prof.launches and not prof.hbm_read_bytes + prof.hbm_write_bytes and families != {"transfer"}:
        outcome.fail("no HBM traffic was charged")


def _generic(prof: Any, costed: Any) -> bool:
    return any(part["family"] == "generic" for part in prof.ledger.specs[costed.entry["spec"]])


def _inplace(outcome: Outcome, op: Any, sample: Sample, device: torch.device) -> None:
    args, kwargs = sample.on(device, requires_grad=False)
    pointer = args[0].untyped_storage().data_ptr()
    ran = run(lambda: op.inplace_variant(*args, **kwargs))
    if ran.error is None:
        if ran.value is not args[0] or args[0].untyped_storage().data_ptr() != pointer:
            outcome.fail("inplace: the result is not the operand's own memory")
        _in_hbm(outcome, "inplace", ran.value, device)


def _backward(outcome: Outcome, op: Any, sample: Sample, device: torch.device) -> None:
    import torch_trn

    args, kwargs = sample.on(CPU)
    with Computes() as computes:
        gradients(call(op, sample, args, kwargs, CPU), (args, kwargs), sample.process)
    args, kwargs = sample.on(device)
    with torch_trn.profile(modules=False, lines=False) as prof:
        ran = run(lambda: gradients(call(op, sample, args, kwargs, device), (args, kwargs), sample.process))
    if computes.names and ran.error is None and not prof.launches:
        outcome.fail("backward: no launch was recorded")
    for costed in prof.costed:
        if costed.row.seconds <= 0:
            outcome.fail(f"backward: {costed.entry['op']} was charged no time")
    if ran.error is None:
        if ran.drew:
            outcome.fail("backward: drew from the CPU generator")
        _in_hbm(outcome, "backward", ran.value, device)


def _with_one_elsewhere(sample: Sample, device: torch.device, other: torch.device) -> Iterator[tuple[int, Any, Any]]:
    """The call with one tensor (of one dimension or more) on `other` and the rest on `device`, for each such tensor."""
    from torch.utils._pytree import tree_flatten, tree_unflatten

    args, kwargs = sample.on(device, requires_grad=False)
    leaves, spec = tree_flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.device.type == device.type]
    if len(where) < 2:
        return
    originals = [leaf for leaf in tree_flatten((sample.args, sample.kwargs))[0]]
    for position, i in enumerate(where):
        leaf = leaves[i]
        if not leaf.dim() or not leaf.numel() or leaf.layout != torch.strided:
            continue
        if sum(leaf is x for x in leaves) > 1:
            continue
        moved = list(leaves)
        moved[i] = place_tensor(originals[i], other, False)
        yield position, *tree_unflatten(moved, spec)


def _mixed(outcome: Outcome, op: Any, sample: Sample, device: torch.device, other: torch.device) -> None:
    if not all(t.numel() for t in tensors(sample.leaves())):
        return  # a loop of no iterations looks at no tensor
    allowed = TAKES_ANOTHER_DEVICE.get(op.name, ("", set()))[1]
    for position, args, kwargs in _with_one_elsewhere(sample, device, other):
        if allowed is None or position in allowed:
            continue
        outcome.checks += 1
        outcome.notes["mixed"] = outcome.notes.get("mixed", 0) + 1
        ran = run(lambda: op.op(*args, **kwargs))  # noqa: B023
        heading = f"tensor {position} on {other}, the rest on {device}"
        if ran.error is None:
            outcome.fail(f"mixed: {heading}: accepted")
            continue
        words = str(ran.error).split("\nException raised from")[0]
        if not isinstance(ran.error, RuntimeError):
            outcome.fail(f"mixed: {heading}: {type(ran.error).__name__}: {' '.join(words.split()):.120}")
        elif op.name not in OWN_WORDS and not (_names(other, words) and _names(device, words)):
            outcome.fail(f"mixed: {heading}: message does not name both: {' '.join(words.split()):.160}")


def _names(device: torch.device, words: str) -> bool:
    return str(device) in words or f"{device.type} DeviceType" in words


def check_honesty(cell: Cell, device: torch.device) -> Outcome:
    outcome = Outcome()
    if device.type == "cpu":
        return outcome
    module = getattr(torch, device.type)
    device = torch.device(device.type, 0)
    op, dtype = cells.ops()[cell.name], getattr(torch, cell.dtype)
    differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    samples = samples_of(op, dtype, differentiable)
    usable = [s for s in samples if any(t.numel() for t in tensors(s.leaves()))] or samples
    if module.memory_allocated():
        gc.collect()
    before = module.memory_allocated()
    for i, sample in enumerate(usable[:NUM_SAMPLES]):
        outcome.checks += 1
        _charged(outcome, op, sample, device)
        if differentiable:
            _backward(outcome, op, sample, device)
        if op.inplace_variant and not sample.broadcasts and isinstance(sample.args[0], torch.Tensor):
            _inplace(outcome, op, sample, device)
        _mixed(outcome, op, sample, device, CPU)
        if module.device_count() > 1 and i == 0:
            _mixed(outcome, op, sample, device, torch.device(device.type, 1))
    held = module.memory_allocated() - before
    if held:
        gc.collect()
        held = module.memory_allocated() - before
    if held:
        outcome.fail(f"{held} bytes are still allocated after the operator's tensors died")
    return outcome
