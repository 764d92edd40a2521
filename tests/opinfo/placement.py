"""A sample input of PyTorch's databases rebuilt on a device: same values, strides, offsets, aliasing and gradients."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

# Arguments that are host data by contract: tensor_split's indices, lengths of packed sequences.
HOST_ARGUMENTS = {"tensor_split": (1,)}


def _strided(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    storage = tensor.untyped_storage()
    whole = torch.empty(0, dtype=tensor.dtype)
    whole.set_(storage, 0, (storage.nbytes() // tensor.element_size(),), (1,))
    copy = whole.clone() if device.type == "cpu" else whole.to(device)
    copy = copy.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    if tensor.is_conj():
        copy = torch.conj(copy)
    if tensor.is_neg():
        copy = torch._neg_view(copy)
    return copy


def place_tensor(tensor: torch.Tensor, device: torch.device, requires_grad: bool | None = None) -> torch.Tensor:
    """A leaf on `device` with the values and layout of `tensor`; never the same memory."""
    with torch.no_grad():
        source = tensor.detach()
        if source.layout == torch.strided and not source.is_quantized and not source.is_nested:
            copy = _strided(source, device)
        else:
            copy = source.clone() if device.type == "cpu" else source.to(device)
    wants = tensor.requires_grad if requires_grad is None else requires_grad
    result = copy.detach()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(result, requires_grad=wants)
    return result.requires_grad_(wants)


def place(tree: Any, device: torch.device, requires_grad: bool | None = None, keep_host: tuple[int, ...] = ()) -> Any:
    """`tree` with every tensor, device and generator moved; a tensor that occurs twice stays one tensor."""
    seen: dict[int, torch.Tensor] = {}

    def move(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            if id(leaf) not in seen:
                seen[id(leaf)] = place_tensor(leaf, device, requires_grad)
            return seen[id(leaf)]
        if isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf == "cpu"):
            return device
        return leaf

    if keep_host and isinstance(tree, tuple):
        return tuple(leaf if i in keep_host else place(leaf, device, requires_grad) for i, leaf in enumerate(tree))
    return tree_map(move, tree)


class Sample:
    """One call: positional and keyword arguments, detached from the OpInfo machinery."""

    def __init__(self, name: str, sample: Any):
        self.name = name
        self.args: tuple[Any, ...] = (sample.input, *sample.args)
        self.kwargs: dict[str, Any] = dict(sample.kwargs)
        self.process = getattr(sample, "output_process_fn_grad", lambda out: out)
        self.broadcasts = getattr(sample, "broadcasts_input", False)

    def leaves(self) -> list[Any]:
        return tree_leaves((self.args, self.kwargs))

    def names_device(self) -> bool:
        """Whether anything in the call says where it runs; if not, a factory needs device=."""
        return any(
            isinstance(leaf, torch.Tensor | torch.device) or (isinstance(leaf, str) and leaf == "cpu")
            for leaf in self.leaves()
        )

    def on(self, device: torch.device, requires_grad: bool | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        keep = HOST_ARGUMENTS.get(self.name, ())
        both = place((list(self.args), self.kwargs), device, requires_grad)
        args = [
            original if i in keep else moved for i, (original, moved) in enumerate(zip(self.args, both[0], strict=True))
        ]
        return tuple(args), both[1]
