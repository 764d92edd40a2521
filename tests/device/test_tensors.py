"""Views, copies, memory formats and printing of device tensors, against the CPU."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

trn = torch.trn
X = torch.randn(4, 6)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.device.type == "trn"
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


VIEWS = {
    "transpose": lambda x: x.t(),
    "slice": lambda x: x[1:3, ::2],
    "select": lambda x: x[2],
    "reshape": lambda x: x.view(2, 12),
    "expand": lambda x: x[:1].expand(5, 6),
    "unfold": lambda x: x.unfold(1, 3, 2),
    "diagonal": lambda x: x.diagonal(),
    "as_strided": lambda x: x.as_strided((3, 2), (2, 5), 1),
    "split": lambda x: x.split(2)[1],
    "view_dtype": lambda x: x.view(torch.int32),
    "movedim": lambda x: x[None].movedim(0, -1),
    "real": lambda x: torch.view_as_complex(x.view(4, 3, 2)).real,
    "imag": lambda x: torch.view_as_complex(x.view(4, 3, 2)).imag,
    "unsafe_chunk": lambda x: x.unsafe_chunk(2)[0],
    "alias": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view_shares_memory(name):
    x = X.to("trn")
    allocated = trn.memory_allocated()
    view = VIEWS[name](x)
    assert trn.memory_allocated() == allocated
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    same(view.clone(), VIEWS[name](X).clone())
    assert view.stride() == VIEWS[name](X).stride()


def test_writes_through_views():
    x, y = X.to("trn"), X.clone()
    for t in (x, y):
        t.t()[1:3].mul_(2)
        t[:, ::2] = 7
        t[0].copy_(torch.arange(6.0))
        t.diagonal().zero_()
        t[t > 6] = -1
        t.view(-1)[[1, 3]] += 5
    same(x, y)


def test_memory_formats():
    x = torch.randn(2, 3, 4, 5)
    y = x.to("trn").to(memory_format=torch.channels_last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    same(y.contiguous(), x)
    assert torch.empty_like(y).stride() == y.stride()
    assert F.conv2d(y, torch.randn(2, 3, 1, 1, device="trn")).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("target", [torch.float64, torch.float16, torch.int32, torch.uint8, torch.complex128])
def test_casts_and_copies(source, target):
    x = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(x.to("trn").to(target), x.to(target))
        same(x.to("trn", target), x.to(target))
        assert torch.equal(x.to("trn").to("cpu", target), x.to(target))
        same(torch.empty(2, 3, dtype=target, device="trn").copy_(x), x.to(target))
    same(x.to("trn").t().contiguous(), x.t().contiguous())


def test_printing():
    assert repr(torch.tensor([1.0, 2.5], device="trn")) == "tensor([1.0000, 2.5000], device='trn:0')"
    assert "device='trn:0'" in repr(torch.zeros(2000, device="trn"))
    assert "requires_grad=True" in repr(torch.ones(1, device="trn", requires_grad=True))
    assert repr(torch.empty(0, device="trn")) == "tensor([], device='trn:0')"
    assert "1.+2.j" in repr(torch.tensor([1 + 2j], device="trn"))
    assert "device='trn:0'" in repr(nn.Parameter(torch.ones(1, device="trn")))
    assert str(torch.tensor(True, device="trn")) == "tensor(True, device='trn:0')"


def test_inference_mode_and_no_grad():
    with torch.inference_mode():
        x = torch.ones(2, device="trn") * 2
        assert x.is_inference()
    with torch.no_grad():
        assert not (torch.ones(2, device="trn", requires_grad=True) * 2).requires_grad


def test_out_arguments_resize_and_keep_identity():
    out = torch.empty(0, device="trn")
    result = torch.add(X.to("trn"), 1, out=out)
    assert result is out
    same(out, X + 1)
    address = out.data_ptr()
    torch.mul(X.to("trn"), 2, out=out)
    assert out.data_ptr() == address


def test_operators_write_where_the_tensor_is():
    x = torch.ones(1000, device="trn")
    address = x.data_ptr()
    x.add_(1).mul_(3).clamp_(0, 5)
    torch.sin(x, out=x)
    assert x.data_ptr() == address


def test_weak_references_and_cycles():
    import gc
    import weakref

    gc.collect()  # what other tests have left
    base = trn.memory_allocated()
    x = torch.ones(1000, device="trn")
    x.self = x
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None and trn.memory_allocated() == base


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_histc_of_integers_as_cuda_has_it(dtype: torch.dtype) -> None:
    x = torch.randint(0, 8, (1000,), dtype=dtype)
    counts = torch.histc(x.to("trn"), bins=8, min=0, max=7)
    assert counts.dtype == dtype
    assert torch.equal(counts.cpu(), torch.bincount(x, minlength=8).to(dtype))
    out = torch.empty(0, dtype=dtype, device="trn")
    assert torch.equal(torch.histc(x.to("trn"), 8, 0, 7, out=out), counts)
    with pytest.raises(RuntimeError, match=r"\[histc\] the result has the input's type; got Float"):
        torch.histc(x.to("trn"), 8, 0, 7, out=torch.empty(0, device="trn"))


def test_operators_that_op_db_leaves_out():
    for arguments in ((5,), (6, False), (7, True, 9.0)):
        assert torch.equal(torch.kaiser_window(*arguments, device="trn").cpu(), torch.kaiser_window(*arguments))
    gradient = torch.randn(1, 6, 10)  # serves all rows
    expected = torch.ops.aten.unfold_backward(gradient, (3, 22), 1, 10, 2)
    assert torch.equal(torch.ops.aten.unfold_backward(gradient.to("trn"), (3, 22), 1, 10, 2).cpu(), expected)
