"""PyTorch's context parallelism for the device's fused attention: keys and values go round the ranks of a mesh."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from torch_trn.on_import import on_import

_ATTENTION = "torch.distributed.tensor.experimental._context_parallel._attention"
_SEQUENCE = 2  # of [batch, heads, sequence, width], and of the logsumexp [batch, heads, sequence]


def install() -> None:
    """Once PyTorch's own is imported."""
    on_import(_ATTENTION, _add_handlers)


def _add_handlers(attention: ModuleType) -> None:
    from torch.distributed.tensor import DTensor, Shard

    aten = torch.ops.aten
    forward_op = aten._scaled_dot_product_fused_attention_overrideable.default
    backward_op = aten._scaled_dot_product_fused_attention_overrideable_backward.default

    def mesh_of(tensors: tuple[Any, ...]) -> Any:
        for tensor in tensors:
            if not isinstance(tensor, DTensor) or tensor.placements != (Shard(_SEQUENCE),):
                got = tensor.placements if isinstance(tensor, DTensor) else "a plain tensor"
                raise NotImplementedError(
                    f"[context_parallel] attention takes tensors sharded along the sequence on a one-dimensional mesh; "
                    f"got {got}. Shard query, key and value with Shard({_SEQUENCE})."
                )
        return tensors[0].device_mesh

    def sharded(tensor: torch.Tensor, mesh: Any) -> Any:
        return DTensor.from_local(tensor, mesh, [Shard(_SEQUENCE)], run_check=False)

    def forward(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        names = ("query", "key", "value", "attn_bias", "dropout_p", "is_causal", "return_debug_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("attn_bias") is not None:
            raise NotImplementedError(
                "[context_parallel] attention takes no mask but is_causal; got attn_bias. Leave the mask out."
            )
        qkv = given["query"], given["key"], given["value"]
        mesh = mesh_of(qkv)
        output, logsumexp, *rest = attention._templated_ring_attention(
            mesh.get_group(),
            _SEQUENCE,
            forward_op,
            *(tensor.to_local() for tensor in qkv),
            is_causal=given.get("is_causal", False),
            dropout_p=given.get("dropout_p", 0.0),
            scale=given.get("scale"),
        )
        return sharded(output, mesh), sharded(logsumexp, mesh), *rest

    def backward(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        grad, query, key, value, bias, mask, out, logsumexp, *rest = args
        lengths, (dropout, is_causal, seed, offset) = rest[:4], rest[4:8]
        mesh = mesh_of((query, key, value, out, logsumexp))
        if isinstance(grad, DTensor) and grad.placements != query.placements:
            grad = grad.redistribute(mesh, query.placements)
        locals_ = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in args]

        def one_block(**call: Any) -> Any:
            return backward_op(
                call["grad_out"],
                call["query"],
                call["key"],
                call["value"],
                bias,
                mask,
                call["out"],
                call["logsumexp"],
                *lengths,
                dropout,
                call["is_causal"],
                seed,
                offset,
                scale=kwargs.get("scale"),
            )

        grads = attention._templated_ring_attention_backward(
            mesh.get_group(),
            _SEQUENCE,
            one_block,
            grad_out=grad.to_local() if isinstance(grad, DTensor) else grad,
            grad_out_name="grad_out",
            query=locals_[1],
            key=locals_[2],
            value=locals_[3],
            out=locals_[6],
            logsumexp=locals_[7],
            is_causal=is_causal,
        )
        return *(sharded(each, mesh) for each in grads[:3]), None

    attention.custom_ops.update({forward_op: forward, backward_op: backward})
