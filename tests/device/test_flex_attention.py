"""FlexAttention on the device: masks and score functions, forward and backward."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def causal(batch, head, query, key):
    return query >= key


def biased(score, batch, head, query, key):
    return score + 0.1 * (key - query)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch advises to compile it
def test_as_attention_with_a_mask(compiled):
    attend = torch.compile(flex_attention, backend="aot_eager") if compiled else flex_attention
    base = [torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    own, expected = ([each.to(place).requires_grad_() for each in base] for place in ("trn", "cpu"))
    places = torch.arange(16.0)
    bias = 0.1 * (places[None] - places[:, None])
    bias.masked_fill_(places[None] > places[:, None], -torch.inf)
    mask = create_block_mask(causal, None, None, 16, 16, device="trn")

    y = attend(*own, score_mod=biased, block_mask=mask)
    y.square().sum().backward()
    z = F.scaled_dot_product_attention(*expected, attn_mask=bias)
    z.square().sum().backward()
    assert y.device.type == "trn"
    torch.testing.assert_close(y.cpu(), z)
    for ours, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
