"""PyTorch's context_parallel on the device: attention over a sequence that ranks share, against plain attention."""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

import torch_trn

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, which processes only print

BATCH, HEADS, SEQUENCE, WIDTH = 2, 3, 32, 8


def whole(seed):
    return torch.randn(BATCH, HEADS, SEQUENCE, WIDTH, generator=torch.Generator().manual_seed(seed))


def plain(is_causal):
    query, key, value = (whole(seed).requires_grad_() for seed in range(3))
    out = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    out.backward(whole(3))
    return [out.detach(), query.grad, key.grad, value.grad]


def shared(is_causal, method):
    """The same, by ranks that hold a part of the sequence each; put together again."""
    from torch.distributed.tensor.experimental import context_parallel
    from torch.distributed.tensor.experimental._context_parallel import (
        _cp_options,
        context_parallel_unshard,
        set_rotate_method,
    )

    size = dist.get_world_size()
    mesh = dist.init_device_mesh("trn", (size,))
    _cp_options.enable_load_balance = is_causal
    set_rotate_method(method)
    tensors = [whole(seed).to("trn") for seed in range(4)]
    with context_parallel(mesh, buffers=tensors, buffer_seq_dims=[2] * 4, no_restore_buffers=set(tensors)):
        inputs = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
        out = F.scaled_dot_product_attention(*inputs, is_causal=is_causal)
        assert out.shape[2] == SEQUENCE // size
        out.backward(tensors[3])
        parts = [out.detach(), *(tensor.grad for tensor in inputs)]
        return [part.cpu() for part in context_parallel_unshard(mesh, parts, [2] * 4)]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("method", ["allgather", "alltoall"])
def test_as_plain_attention(is_causal, method, two_ranks, four_ranks):
    expected = plain(is_causal)
    for ranks in (two_ranks, four_ranks):
        for found in ranks(shared, is_causal, method):
            for a, b in zip(found, expected):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), (a - b).abs().max()


def simulated(is_causal, method):
    dist.init_process_group()
    return shared(is_causal, method)


def test_in_one_process():
    for found in torch_trn.simulate(simulated, 4, args=(True, "alltoall"), profile=False).results:
        for a, b in zip(found, plain(True)):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def refused():
    """What the operator says of a mask, and of heads in place of the sequence."""
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.experimental import _attention  # noqa: F401  (brings the handlers)
    from torch.distributed.tensor.experimental._context_parallel import (
        _disable_context_parallel_dispatcher,
        _enable_context_parallel_dispatcher,
    )

    attention = torch.ops.aten._scaled_dot_product_fused_attention_overrideable
    mesh = dist.init_device_mesh("trn", (dist.get_world_size(),))
    query = torch.zeros(BATCH, 2, SEQUENCE, WIDTH, device="trn")
    by_sequence, by_head = (distribute_tensor(query, mesh, [Shard(dim)]) for dim in (2, 1))
    messages = []
    _enable_context_parallel_dispatcher()
    try:
        for inputs in ((by_sequence, by_sequence, by_sequence, by_sequence), (by_head, by_head, by_head)):
            with pytest.raises(NotImplementedError) as caught:
                attention(*inputs)
            messages.append(str(caught.value))
    finally:
        _disable_context_parallel_dispatcher()
    return messages


def test_what_it_cannot_share_is_refused(two_ranks):
    for mask, heads in two_ranks(refused):
        assert mask.startswith("[context_parallel] attention takes no mask but is_causal; got attn_bias.")
        assert heads.startswith("[context_parallel] attention takes tensors sharded along the sequence")
