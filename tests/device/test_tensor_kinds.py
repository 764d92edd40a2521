"""Sparse, nested, quantized, complex, subclassed, fake tensors; deterministic mode."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

X = torch.randn(4, 6)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.device.type == "trn"
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_coo():
    dense = torch.tensor([[0, 1.0, 0], [2, 0, 3]])
    sparse = dense.to("trn").to_sparse()
    assert sparse.is_sparse and sparse.device.type == "trn"
    same(sparse.to_dense(), dense)
    same((sparse + sparse).to_dense(), dense * 2)
    same(torch.sparse.mm(sparse, torch.ones(3, 2, device="trn")), dense @ torch.ones(3, 2))
    same(sparse.coalesce().values(), torch.tensor([1.0, 2, 3]))
    built = torch.sparse_coo_tensor([[0, 0], [1, 1]], [3.0, 4.0], (2, 2), device="trn")
    assert built.coalesce().to_dense().tolist() == [[0, 7], [0, 0]]
    assert sparse.cpu().device.type == "cpu" and "sparse" in repr(sparse)
    moved = dense.to_sparse().to("trn")
    same(moved.to_dense(), dense)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_csr():
    dense = torch.tensor([[0, 1.0, 0], [2, 0, 3]])
    sparse = dense.to("trn").to_sparse_csr()
    same(sparse.crow_indices(), torch.tensor([0, 1, 3]))
    same(sparse.to_dense(), dense)
    same(sparse @ torch.ones(3, 2, device="trn"), dense @ torch.ones(3, 2))


def test_sparse_embedding_training():
    def train(device):
        torch.manual_seed(0)
        layer = nn.Embedding(10, 4, sparse=True).to(device)
        optimizer = torch.optim.SparseAdam(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([1, 2, 2, 7], device=device)).square().sum().backward()
            assert layer.weight.grad.is_sparse
            optimizer.step()
        return layer.weight.detach()

    same(train("trn"), train("cpu"))


def test_nested_jagged():
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    nested = torch.nested.nested_tensor([p.to("trn") for p in parts], layout=torch.jagged)
    assert nested.device.type == "trn"
    for actual, part in zip((nested.sin() * 2).unbind(), parts, strict=True):
        same(actual, part.sin() * 2)
    padded = torch.nested.to_padded_tensor(nested, 0.0)
    assert padded.shape == (2, 4, 3)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized():
    x = torch.tensor([[-1.0, 0.25, 0.5], [1.0, 2.0, 3.0]])
    expected = torch.quantize_per_tensor(x, 0.05, 3, torch.qint8)
    actual = torch.quantize_per_tensor(x.to("trn"), 0.05, 3, torch.qint8)
    assert actual.is_quantized and actual.q_scale() == expected.q_scale() and actual.q_zero_point() == 3
    same(actual.dequantize(), expected.dequantize())
    same(actual.int_repr(), expected.int_repr())


def test_fake_quantize():
    x = torch.randn(10)
    same(
        torch.fake_quantize_per_tensor_affine(x.to("trn"), 0.1, 0, -128, 127),
        torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    )


def test_complex():
    z = torch.randn(3, 4, dtype=torch.complex64)
    w = z.to("trn")
    same(w.conj().resolve_conj(), z.conj().resolve_conj())
    same(w.conj() @ w.t(), z.conj() @ z.t())
    same(w.abs(), z.abs())
    same(w.conj().imag.clone(), z.conj().imag.clone())
    same(torch.fft.fft(w), torch.fft.fft(z))
    same(w.mH.contiguous(), z.mH.contiguous())
    x = torch.randn(3, 4, device="trn", requires_grad=True)
    torch.fft.rfft(x).abs().sum().backward()
    assert x.grad.isfinite().all().item()


def test_subclasses():
    class Named(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return super().__torch_function__(function, types, args, kwargs or {})

    x = X.to("trn").as_subclass(Named)
    y = (x + 1).relu()
    assert isinstance(y, Named) and y.device.type == "trn"
    same(y.as_subclass(torch.Tensor), (X + 1).relu())


def test_dispatch_mode_sees_device_operators():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = X.to("trn")
    with Log():
        (x @ x.t()).relu()
    assert seen == ["aten.t.default", "aten.mm.default", "aten.relu.default"]


def test_fake_and_meta():
    with FakeTensorMode() as mode:
        x = torch.empty(2, 3, device="trn")
        y = x @ x.t()
        assert y.device == torch.device("trn:0") and y.shape == (2, 2)
        z = mode.from_tensor(torch.ones(2, device="trn"))
        assert z.device.type == "trn"
    assert X.to("trn").to("meta").device.type == "meta"
    model = nn.Linear(3, 3, device="meta").to_empty(device="trn")
    model.reset_parameters()
    assert model.weight.isfinite().all().item()


def test_deterministic_mode():
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(5, device="trn").isnan().all().item()
        assert (torch.empty(3, dtype=torch.int32, device="trn") == torch.iinfo(torch.int32).max).all().item()
        assert torch.empty_strided((2, 2), (1, 2), device="trn").isnan().all().item()
        x = torch.zeros(3, device="trn").index_add_(0, torch.tensor([0, 0], device="trn"), torch.ones(2, device="trn"))
        assert x.tolist() == [2, 0, 0]
    finally:
        torch.use_deterministic_algorithms(False)


def test_zero_tensors_and_undefined():
    x = torch.randn(3, dtype=torch.complex64, device="trn", requires_grad=True)
    torch.sgn(x).abs().sum().backward()
    assert x.grad is not None
    efficient = torch._efficientzerotensor((2,), device="trn")
    assert (efficient + 1).tolist() == [1, 1]


def test_layout_requests_that_make_no_sense_raise():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(2, 2, layout=torch._mkldnn, device="trn")


def test_a_layout_of_a_cpu_library_is_refused():
    with pytest.raises(NotImplementedError, match=r"\[layout\].*Mkldnn"):
        torch.ones(8, 8, device="trn").to_mkldnn()
