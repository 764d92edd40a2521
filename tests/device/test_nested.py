"""Nested tensors against the CPU: the jagged layout, and the strided one."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from torch_trn import _C

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

PARTS = [torch.arange(6.0).view(2, 3) - 2, torch.arange(12.0).view(4, 3) / 7]
LAYOUTS = [torch.jagged, torch.strided]


def nested(device: str, layout: torch.layout, *, requires_grad: bool = False) -> torch.Tensor:
    return torch.nested.nested_tensor(
        [p.clone() for p in PARTS], layout=layout, device=device, requires_grad=requires_grad
    )


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.device.type == "trn" and actual.is_nested == expected.is_nested
    if not actual.is_nested:
        torch.testing.assert_close(actual.detach().cpu(), expected.detach())
        return
    for a, e in zip(actual.unbind(), expected.unbind(), strict=True):
        assert a.device.type == "trn" and _C.storage_in_hbm(a)
        torch.testing.assert_close(a.detach().cpu(), e.detach())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
class TestBothLayouts:
    def test_construction(self, layout):
        same(nested("trn", layout), nested("cpu", layout))
        same(
            torch.nested.as_nested_tensor([p.to("trn") for p in PARTS], layout=layout),
            torch.nested.as_nested_tensor(PARTS, layout=layout),
        )

    def test_transfer(self, layout):
        moved = nested("cpu", layout).to("trn")
        same(moved, nested("cpu", layout))
        for actual, expected in zip(moved.cpu().unbind(), PARTS, strict=True):
            assert actual.device.type == "cpu" and actual.equal(expected)
        same(moved.clone(), nested("cpu", layout))

    def test_second_device(self, layout):
        moved = nested("trn:0", layout).to("trn:1")
        assert moved.device == torch.device("trn:1") and all(part.device.index == 1 for part in moved.unbind())

    def test_repr(self, layout):
        assert "nested" in repr(nested("trn", layout)).lower()

    @pytest.mark.parametrize(
        "call",
        [
            lambda x: x * 2,
            lambda x: x + x,
            lambda x: x.relu(),
            lambda x: x.sin() if x.layout == torch.jagged else x.tanh(),
            lambda x: torch.nested.to_padded_tensor(x, 0.5),
            lambda x: nn.functional.softmax(x, -1),
            lambda x: nn.functional.layer_norm(
                x, (3,), torch.ones(3, device=x.device), torch.zeros(3, device=x.device)
            ),
            lambda x: nn.functional.linear(x, torch.ones(5, 3, device=x.device), torch.ones(5, device=x.device)),
            lambda x: x.transpose(1, 2),
            lambda x: torch.nn.functional.gelu(x),
        ],
    )
    def test_operator(self, layout, call):
        same(call(nested("trn", layout)), call(nested("cpu", layout)))

    def test_backward(self, layout):
        grads = []
        for device in ("cpu", "trn"):
            x = nested(device, layout, requires_grad=True)
            weight = torch.ones(2, 3, device=device, requires_grad=True)
            out = torch.nested.to_padded_tensor(nn.functional.linear(x, weight).relu(), 0.0)
            out.square().sum().backward()
            grads.append((x.grad, weight.grad))
        same(grads[1][0], grads[0][0])
        same(grads[1][1], grads[0][1])

    def test_launches_are_charged(self, layout):
        x = nested("trn", layout)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]) as prof:
            x.relu()
        assert any("relu" in kernel.name for event in prof.events() for kernel in event.kernels)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_attention(seeded, layout):
    q = [torch.randn(n, 2, 4) for n in (3, 5)]
    results = []
    for device in ("cpu", "trn"):
        x = torch.nested.nested_tensor(q, layout=layout, device=device).transpose(1, 2)
        x = x.contiguous() if layout == torch.strided else x
        results.append(nn.functional.scaled_dot_product_attention(x, x, x).transpose(1, 2))
    same(results[1], results[0])


def test_attention_backward(seeded):
    """PyTorch's way through the strided layout: its sizes stay on the host, as on CUDA."""
    values = torch.randn(8, 2, 4)
    grads = []
    for device in ("cpu", "trn"):
        leaf = values.to(device).clone().requires_grad_()
        x = torch.nested.nested_tensor_from_jagged(leaf, torch.tensor([0, 3, 8], device=device)).transpose(1, 2)
        out = nn.functional.scaled_dot_product_attention(x, x, x).transpose(1, 2)
        out.values().square().sum().backward()
        grads.append(leaf.grad.cpu())
    torch.testing.assert_close(grads[1], grads[0])
    strided = torch.nested.as_nested_tensor([torch.ones(2, 3, device="trn", requires_grad=True)])
    assert strided._nested_tensor_size().tolist() == [[2, 3]]
    for metadata in ("size", "strides", "storage_offsets"):
        assert getattr(strided, f"_nested_tensor_{metadata}")().device.type == "cpu"


def test_what_is_missing_raises():
    x = nested("trn", torch.strided)
    with pytest.raises((NotImplementedError, RuntimeError)):
        x.cumsum(1)
    with pytest.raises(RuntimeError):
        x + nested("cpu", torch.strided)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: nn.functional.linear(x, torch.ones(4, 3, device=x.device)),
        lambda x: x.chunk(3, -1),
        lambda x: x.reshape(40, -1),
    ],
)
@pytest.mark.parametrize("turns", [0, 2])
def test_views_of_strided_ones_are_as_nested_as_they(call, turns):
    """A view that no kernel takes is refused in the CPU's words: it went to PyTorch's kernels for plain tensors."""
    outcomes = []
    for device in ("cpu", "trn"):
        x = nested(device, torch.strided).transpose(-1, -2)
        for _ in range(turns):
            x = x.transpose(-1, -2)
        with pytest.raises(RuntimeError) as error:
            call(x)
        outcomes.append(str(error.value).split("\n")[0])
    assert outcomes[0] == outcomes[1]


def test_products_of_views():
    a, b = (nested("trn", torch.strided) for _ in range(2))
    expected = [p.mT @ p for p in PARTS]
    for actual, oracle in zip(torch.matmul(a.transpose(-1, -2), b).unbind(), expected, strict=True):
        torch.testing.assert_close(actual.cpu(), oracle)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_views_in_inference_mode(requires_grad):
    x = nested("trn", torch.strided, requires_grad=requires_grad)
    with torch.inference_mode():
        view = x.transpose(-1, -2)
        assert not view.is_inference() and view.data_ptr() == x.data_ptr()
        assert nested("trn", torch.strided).transpose(-1, -2).is_inference()
