"""Quantized tensors against the CPU: schemes, copies, views, operators."""

import copy
import io
import pickle
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from torch_trn import _C

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

X = torch.tensor([[-1.0, 0.25, 0.5], [1.0, 2.0, 3.0]])
DTYPES = [torch.qint8, torch.quint8, torch.qint32]


def per_tensor(device: str, dtype: torch.dtype = torch.qint8) -> torch.Tensor:
    return torch.quantize_per_tensor(X.to(device), 0.05, 3, dtype)


def per_channel(device: str) -> torch.Tensor:
    scales, zero_points = torch.tensor([0.1, 0.2]).to(device), torch.tensor([1, 2]).to(device)
    return torch.quantize_per_channel(X.to(device), scales, zero_points, 0, torch.qint8)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.device.type == "trn" and _C.storage_in_hbm(actual)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    if not expected.is_quantized:
        torch.testing.assert_close(actual.cpu(), expected)
        return
    assert actual.is_quantized and actual.qscheme() == expected.qscheme()
    if expected.qscheme() == torch.per_tensor_affine:
        assert actual.q_scale() == expected.q_scale() and actual.q_zero_point() == expected.q_zero_point()
    else:
        torch.testing.assert_close(actual.q_per_channel_scales().cpu(), expected.q_per_channel_scales())
        torch.testing.assert_close(actual.q_per_channel_zero_points().cpu(), expected.q_per_channel_zero_points())
        assert actual.q_per_channel_axis() == expected.q_per_channel_axis()
    assert actual.int_repr().cpu().equal(expected.int_repr())
    assert actual.dequantize().cpu().equal(expected.dequantize())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_per_tensor(dtype):
    same(per_tensor("trn", dtype), per_tensor("cpu", dtype))


def test_per_channel():
    same(per_channel("trn"), per_channel("cpu"))
    actual = per_channel("trn")
    first, second = actual.q_per_channel_scales(), actual.q_per_channel_scales()
    assert first.device.type == "trn" and first.equal(second)
    first.zero_()
    assert actual.q_per_channel_scales().equal(second)


@pytest.mark.parametrize("make", [per_tensor, per_channel])
def test_transfer(make):
    expected, moved = make("cpu"), make("cpu").to("trn")
    same(moved, expected)
    back = moved.cpu()
    assert back.is_quantized and back.device.type == "cpu" and back.equal(expected)
    same(moved.clone(), expected)
    same(copy.deepcopy(moved), expected)
    assert repr(moved).startswith("tensor(") and "quantization_scheme" in repr(moved) and "trn:0" in repr(moved)


def test_second_device():
    moved = per_tensor("trn:0").to("trn:1")
    assert moved.device == torch.device("trn:1") and moved.int_repr().device.index == 1
    same(moved, per_tensor("cpu"))


def test_copy_into():
    target = torch.quantize_per_tensor(torch.zeros(2, 3, device="trn"), 1.0, 0, torch.qint8)
    same(target.copy_(per_tensor("trn")), per_tensor("cpu"))
    target = torch.quantize_per_tensor(torch.zeros(2, 3, device="trn"), 1.0, 0, torch.qint8)
    same(target.copy_(per_tensor("cpu")), per_tensor("cpu"))
    host = torch.quantize_per_tensor(torch.zeros(2, 3), 1.0, 0, torch.qint8)
    assert host.copy_(per_tensor("trn")).equal(per_tensor("cpu"))
    same(per_tensor("trn").copy_(X.to("trn") + 1), per_tensor("cpu").copy_(X + 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.view(6),
        lambda q: q[0],
        lambda q: q[:, 1:],
        lambda q: q.t(),
        lambda q: q.t().contiguous(),
        lambda q: q.reshape(3, 2),
        lambda q: q.unsqueeze(0),
        lambda q: q.expand(2, 2, 3),
        lambda q: q.relu(),
        lambda q: torch.clamp(q, -0.5, 0.5),
        lambda q: q.max(),
        lambda q: q.sort()[0],
        lambda q: torch.cat([q, q]),
        lambda q: q == q,
        lambda q: q.flip(0),
        lambda q: q.index_select(0, torch.tensor([1], device=q.device)),
        lambda q: torch.empty_like(q).copy_(q),
        lambda q: q.mean(),
        lambda q: torch.sigmoid(q),
        lambda q: torch.nn.functional.max_pool2d(q.view(1, 2, 3), 1),
        lambda q: torch.nn.functional.interpolate(q.view(1, 1, 2, 3), scale_factor=2),
        lambda q: torch.ops.quantized.add(q, q, 0.1, 0),
        lambda q: torch.ops.quantized.mul(q, q, 0.1, 0),
    ],
)
def test_operator(call):
    same(call(per_tensor("trn", torch.quint8)), call(per_tensor("cpu", torch.quint8)))


def test_views_share_memory():
    q = per_tensor("trn")
    q.view(6)[0:3].copy_(q[1])
    assert q[0].int_repr().equal(q[1].int_repr())
    assert q.t().data_ptr() == q.data_ptr()
    with torch.inference_mode():
        assert q.t().data_ptr() == q.data_ptr() and not q.view(6).is_inference()


def test_from_parameters_on_the_device():
    scale, zero_point = torch.tensor(0.05), torch.tensor(3)
    same(
        torch.quantize_per_tensor(X.to("trn"), scale.to("trn"), zero_point.to("trn"), torch.qint8),
        torch.quantize_per_tensor(X, scale, zero_point, torch.qint8),
    )
    scales, zero_points = torch.tensor([0.05, 0.1]), torch.tensor([3, 4])
    many = torch.quantize_per_tensor([X.to("trn")] * 2, scales.to("trn"), zero_points.to("trn"), torch.qint8)
    for actual, expected in zip(many, torch.quantize_per_tensor([X, X], scales, zero_points, torch.qint8), strict=True):
        same(actual, expected)
    same(
        torch.quantize_per_tensor_dynamic(X.to("trn"), torch.qint8, False),
        torch.quantize_per_tensor_dynamic(X, torch.qint8, False),
    )
    same(
        torch._make_per_tensor_quantized_tensor(X.to("trn").char(), 0.5, 1),
        torch._make_per_tensor_quantized_tensor(X.char(), 0.5, 1),
    )
    made = torch._empty_affine_quantized([2, 3], scale=0.5, zero_point=1, dtype=torch.quint8, device="trn")
    assert made.device.type == "trn" and made.q_scale() == 0.5
    assert torch.equal(per_tensor("trn"), per_tensor("trn"))


def test_empty():
    q = torch.quantize_per_tensor(torch.zeros(0, 3, device="trn"), 0.1, 0, torch.qint8)
    assert q.shape == (0, 3) and q.dequantize().shape == (0, 3) and q.cpu().shape == (0, 3)


def test_launches_are_charged():
    x = X.to("trn")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]) as prof:
        q = torch.quantize_per_tensor(x, 0.05, 3, torch.qint8)
        q.dequantize()
        q.q_scale()
        q.view(6)
    names = [kernel.name for event in prof.events() for kernel in event.kernels]
    assert len(names) == 2 and "quantize_per_tensor" in names[0] and "dequantize" in names[1]


def test_what_is_missing_raises():
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.sin(per_tensor("trn"))
    with pytest.raises(RuntimeError):
        torch.ops.quantized.add(per_tensor("trn"), per_tensor("cpu"), 0.1, 0)


@pytest.mark.parametrize("make", [per_tensor, per_channel])
def test_a_cpu_tensor_is_saved_with_the_package_installed(make):
    """Pickle asks every imported module for the name of a quantization scheme."""
    expected = make("cpu")
    buffer = io.BytesIO()
    torch.save(expected, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), expected)
    assert pickle.loads(pickle.dumps(expected.qscheme())) is expected.qscheme()


def test_a_module_without_its_device_has_no_attributes():
    """As a tool finds it that imports every module, where the device is not called neuron."""
    from torch_trn import as_torch_neuronx

    try:
        assert not hasattr(as_torch_neuronx, "per_tensor_affine")
        assert pickle.loads(pickle.dumps(torch.per_tensor_affine)) is torch.per_tensor_affine
    finally:
        del sys.modules["torch_trn.as_torch_neuronx"]
