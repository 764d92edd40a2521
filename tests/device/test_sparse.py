"""Sparse COO and compressed tensors against the CPU: values, gradients, where the members lie, what is charged."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import torch_trn
from torch_trn import _C

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

DENSE = torch.tensor([[0, 1.5, 0, 0], [2, 0, 3, 0], [0, 0, 0, 0], [0, 0, -4, 5]])
COMPRESSED = [torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc]
LAYOUTS = [torch.sparse_coo, *COMPRESSED]


def members(tensor: torch.Tensor) -> list[torch.Tensor]:
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def on_device(tensor: torch.Tensor) -> None:
    assert tensor.device.type == "trn"
    for member in members(tensor):
        assert member.device.type == "trn" and _C.storage_in_hbm(member)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Layout, sizes and every member are equal, and the actual ones lie in HBM."""
    on_device(actual)
    assert actual.layout == expected.layout and actual.shape == expected.shape and actual.dtype == expected.dtype
    for a, e in zip(members(actual), members(expected), strict=True):
        torch.testing.assert_close(a.cpu(), e, equal_nan=True)
    if actual.layout == torch.sparse_coo:
        assert actual.is_coalesced() == expected.is_coalesced()


def make(layout: torch.layout, device: str = "cpu", dense: torch.Tensor = DENSE) -> torch.Tensor:
    blocks = {"blocksize": (2, 2)} if layout in (torch.sparse_bsr, torch.sparse_bsc) else {}
    return dense.to(device).to_sparse(layout=layout, **blocks)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
class TestEveryLayout:
    def test_conversion(self, layout):
        same(make(layout, "trn"), make(layout))
        same(make(layout, "trn").to_dense(), DENSE)

    def test_transfer(self, layout):
        expected = make(layout)
        moved = expected.to("trn")
        same(moved, expected)
        back = moved.cpu()
        assert back.device.type == "cpu" and back.layout == layout
        torch.testing.assert_close(back.to_dense(), DENSE)
        same(moved.clone(), expected)
        same(copy.deepcopy(moved), expected)
        same(moved.detach(), expected)
        same(moved.to(torch.float64), expected.to(torch.float64))

    def test_second_device(self, layout):
        moved = make(layout, "trn:0").to("trn:1")
        assert moved.device == torch.device("trn:1") and {m.device.index for m in members(moved)} == {1}
        same(moved.to("trn:0"), make(layout))
        assert torch.empty_like(moved, device="trn:0").device.index == 0
        with pytest.raises(RuntimeError, match="at least two devices"):
            moved @ torch.ones(4, 4, device="trn:0")

    def test_repr(self, layout):
        text = repr(make(layout, "trn"))
        assert "trn:0" in text and "layout=" + str(layout) in text

    def test_scaled(self, layout):
        same(make(layout, "trn") * 3, make(layout) * 3)

    def test_empty(self, layout):
        zeros = torch.zeros(4, 4)
        same(make(layout, "trn", zeros), make(layout, "cpu", zeros))
        same(make(layout, "trn", zeros).to_dense(), zeros)
        repr(make(layout, "trn", zeros))

    def test_memory_is_returned(self, layout, memory_baseline):
        tensor = make(layout, "trn")
        tensor = tensor.to_dense()
        del tensor
        gc.collect()

    def test_to_dense_gradient(self, layout):
        grads = []
        for device in ("cpu", "trn"):
            x = DENSE.clone().to(device).requires_grad_()
            blocks = {"blocksize": (2, 2)} if layout in (torch.sparse_bsr, torch.sparse_bsc) else {}
            x.to_sparse(layout=layout, **blocks).to_dense().square().sum().backward()
            grads.append(x.grad.cpu())
        torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr], ids=str)
def test_matmul(seeded, layout):
    other = torch.randn(4, 3)
    same(make(layout, "trn") @ other.to("trn"), make(layout) @ other)
    same(torch.mm(make(layout, "trn"), other.to("trn")), torch.mm(make(layout), other))


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc], ids=str)
def test_sparse_times_sparse(layout):
    if not torch.backends.mkl.is_available():
        pytest.skip("the CPU needs MKL for this product")
    same((make(layout, "trn") @ make(layout, "trn")).to_dense(), (make(layout) @ make(layout)).to_dense())


UNARY = ["sin", "relu", "abs", "neg", "sqrt", "sign", "log1p", "tanh", "isnan", "ceil"]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(layout, name):
    call = getattr(torch, name)
    same(call(make(layout, "trn")), call(make(layout)))


def coo(device: str, *, requires_grad: bool = False) -> torch.Tensor:
    """Uncoalesced, with a dense dimension."""
    indices = torch.tensor([[2, 0, 2, 1], [1, 3, 1, 0]])
    values = torch.arange(8.0).view(4, 2)
    return torch.sparse_coo_tensor(
        indices.to(device), values.to(device), (3, 4, 2), requires_grad=requires_grad, device=device
    )


class TestCoo:
    def test_construction(self):
        same(coo("trn"), coo("cpu"))
        same(torch.sparse_coo_tensor(size=(2, 3), device="trn"), torch.sparse_coo_tensor(size=(2, 3)))
        same(
            torch.sparse_coo_tensor([[0, 0], [1, 1]], [3.0, 4.0], (2, 2), device="trn"),
            torch.sparse_coo_tensor([[0, 0], [1, 1]], [3.0, 4.0], (2, 2)),
        )
        same(torch.zeros(2, 3, layout=torch.sparse_coo, device="trn"), torch.zeros(2, 3, layout=torch.sparse_coo))

    def test_members_are_the_arguments(self):
        values = torch.ones(2, device="trn")
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]], device="trn"), values, (3,))
        assert sparse._values().data_ptr() == values.data_ptr()
        sparse._values().mul_(5)
        assert values.tolist() == [5, 5] and sparse.to_dense().tolist() == [5, 5, 0]

    def test_coalesce(self):
        same(coo("trn").coalesce(), coo("cpu").coalesce())
        already = coo("trn").coalesce()
        assert already.coalesce().values().data_ptr() == already.values().data_ptr()
        same(already.indices(), coo("cpu").coalesce().indices())

    @pytest.mark.parametrize(
        "call",
        [
            lambda x: x + x,
            lambda x: x - x.coalesce(),
            lambda x: (x * x).coalesce(),
            lambda x: x.transpose(0, 1).coalesce(),
            lambda x: x.permute(1, 0, 2).coalesce(),
            lambda x: x.coalesce().unsqueeze(0),
            lambda x: torch.cat([x, x]).coalesce(),
            lambda x: torch.stack([x, x]).coalesce(),
            lambda x: x.index_select(0, torch.tensor([2, 0], device=x.device)).coalesce(),
            lambda x: x.select(0, 2),
            lambda x: x.coalesce()[2, 1],
            lambda x: x.sum(),
            lambda x: torch.sparse.sum(x, 0),
            lambda x: torch.sparse.sum(x, (0, 1)),
            lambda x: x.to_dense() + x,
            lambda x: torch.empty_like(x),
            lambda x: torch.zeros_like(x),
            lambda x: x.sparse_mask(x.coalesce()),
            lambda x: x.to_dense().sparse_mask(x.coalesce()),
            lambda x: x.coalesce().norm(),
            lambda x: x.clone().zero_(),
            lambda x: x.clone().mul_(2),
            lambda x: x.clone().add_(x.coalesce()).coalesce(),
            lambda x: x.half().coalesce(),
            lambda x: torch.sparse.softmax(x.coalesce(), 0),
            lambda x: torch.sparse.log_softmax(x.coalesce(), 1),
        ],
    )
    def test_operator(self, call):
        same(call(coo("trn")), call(coo("cpu")))

    @pytest.mark.parametrize(
        "call",
        [
            lambda s, d: torch.sparse.mm(s, d),
            lambda s, d: torch.sparse.mm(s, s).to_dense(),
            lambda s, d: torch.sparse.addmm(torch.ones(4, 3, device=d.device), s, d),
            lambda s, d: torch.addmm(d, s, d, beta=2, alpha=3),
            lambda s, d: torch.mv(s, d[:, 0].contiguous()),
            lambda s, d: torch.hspmm(s, d).to_dense(),
            lambda s, d: torch.add(d @ d.t(), s, alpha=2),
            lambda s, d: torch.bmm(torch.stack([s, s]), torch.stack([d, d])),
            lambda s, d: s.t() @ d,
        ],
    )
    def test_product(self, seeded, call):
        d = torch.randn(4, 3)
        same(call(make(torch.sparse_coo, "trn"), d.to("trn")), call(make(torch.sparse_coo), d))

    def test_in_place(self):
        dense = torch.ones(4, 4, device="trn")
        dense.add_(make(torch.sparse_coo, "trn"), alpha=2)
        same(dense, torch.ones(4, 4) + 2 * DENSE)
        sparse = make(torch.sparse_coo, "trn")
        sparse.sparse_resize_((6, 6), 2, 0)
        assert sparse.shape == (6, 6) and sparse.to_dense()[:4, :4].cpu().equal(DENSE)
        sparse.sparse_resize_and_clear_((2, 2), 2, 0)
        assert sparse._nnz() == 0 and sparse.device.type == "trn"
        sparse.copy_(torch.eye(2).to_sparse())
        same(sparse, torch.eye(2).to_sparse())
        out = torch.empty(0, device="trn")
        torch.mm(make(torch.sparse_coo, "trn"), torch.ones(4, 2, device="trn"), out=out)
        same(out, DENSE @ torch.ones(4, 2))

    def test_gradients(self, seeded):
        grads = []
        d = torch.randn(4, 3)
        for device in ("cpu", "trn"):
            s = make(torch.sparse_coo, device).requires_grad_()
            w = d.clone().to(device).requires_grad_()
            torch.sparse.mm(s, w).square().sum().backward()
            assert s.grad.layout == torch.sparse_coo and s.grad.device.type == device
            grads.append([s.grad.to_dense().cpu(), w.grad.cpu()])
        for actual, expected in zip(grads[1], grads[0], strict=True):
            torch.testing.assert_close(actual, expected)


def csr(device: str) -> torch.Tensor:
    return torch.sparse_csr_tensor([0, 1, 3, 3], [1, 0, 2], [1.0, 2.0, 3.0], (3, 3), device=device)


class TestCompressed:
    def test_construction(self):
        same(csr("trn"), csr("cpu"))
        for layout in COMPRESSED:
            expected = make(layout)
            outer, inner, values = (m.to("trn") for m in members(expected))
            same(torch.sparse_compressed_tensor(outer, inner, values, expected.shape, layout=layout), expected)

    def test_invariants_are_checked(self):
        with pytest.raises(RuntimeError, match=r"crow_indices|compressed_indices|nnz"):
            torch.sparse_csr_tensor(
                torch.tensor([0, 5, 3], device="trn"),
                torch.tensor([0, 1, 0], device="trn"),
                torch.ones(3, device="trn"),
                (2, 2),
                check_invariants=True,
            )

    @pytest.mark.parametrize(
        "call",
        [
            lambda x: x + x,
            lambda x: x * 2.0,
            lambda x: x.transpose(0, 1),
            lambda x: x.to_sparse_csc(),
            lambda x: x.to_sparse_coo(),
            lambda x: x.select(0, 1),
            lambda x: x.sum(),
            lambda x: torch.empty_like(x).to_dense() * 0,
            lambda x: x.clone().mul_(2),
            lambda x: x.values(),
            lambda x: torch.addmm(torch.ones(3, 3, device=x.device), x, torch.ones(3, 3, device=x.device)),
            lambda x: torch.mv(x, torch.ones(3, device=x.device)),
        ],
    )
    def test_operator(self, call):
        same(call(csr("trn")), call(csr("cpu")))

    def test_sampled_product(self, seeded):
        a, b = torch.randn(3, 2), torch.randn(2, 3)
        call = torch.sparse.sampled_addmm
        same(call(csr("trn"), a.to("trn"), b.to("trn")), call(csr("cpu"), a, b))

    @pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
    def test_reducing_product(self, seeded, reduce):
        b = torch.randn(3, 4)
        results = []
        for device in ("cpu", "trn"):
            s, d = csr(device).requires_grad_(), b.clone().to(device).requires_grad_()
            out = torch.sparse.mm(s, d, reduce)
            out.sum().backward()
            results.append([out.detach().cpu(), d.grad.cpu(), s.grad.to_dense().cpu()])
        for actual, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(actual, expected)

    def test_linear_layer_with_a_sparse_weight(self, seeded):
        results = []
        x = torch.randn(2, 3)
        for device in ("cpu", "trn"):
            results.append(nn.functional.linear(x.to(device), csr(device)).cpu())
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("optimizer", ["SparseAdam", "SGD", "Adagrad"])
@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_embedding_trains(kind, optimizer):
    def train(device):
        torch.manual_seed(0)
        layer = getattr(nn, kind)(10, 4, sparse=True).to(device)
        step = getattr(torch.optim, optimizer)(layer.parameters(), lr=0.1)
        for _ in range(3):
            step.zero_grad()
            layer(torch.tensor([[1, 2], [2, 7]], device=device)).square().sum().backward()
            assert layer.weight.grad.is_sparse and layer.weight.grad.device.type == device
            step.step()
        return layer.weight.detach()

    torch.testing.assert_close(train("trn").cpu(), train("cpu"))


def test_launches_are_charged():
    x, y = make(torch.sparse_coo, "trn"), torch.ones(4, 3, device="trn")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]) as prof:
        torch.sparse.mm(x, y)
        DENSE.to("trn").to_sparse()
        x._values()
        x._nnz()
    names = [kernel.name for event in prof.events() for kernel in event.kernels]
    assert any("mm" in name for name in names) and any("to_sparse" in name for name in names)
    assert not any("_values" in name or "_nnz" in name for name in names)


def stored(tensor: torch.Tensor) -> int:
    return members(tensor)[-1].numel()


def batches(device: str) -> torch.Tensor:
    return torch.stack([DENSE, 2 * DENSE]).to(device).to_sparse()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda s, x: s @ x, lambda s: 2 * stored(s) * 6),
        (lambda s, x: s @ x[:, 0], lambda s: 2 * stored(s)),
        (lambda s, x: x.t() @ s, lambda s: 2 * stored(s) * 6),
        (lambda s, x: torch.addmm(torch.ones_like(x), s, x), lambda s: 2 * stored(s) * 6),
    ],
)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_model_flops_of_products(layout, call, expected):
    """A multiply-add for each stored element and each element of the dense factor that it meets."""
    s, x = make(layout, "trn"), torch.randn(4, 6, device="trn")
    with torch_trn.profile() as prof:
        call(s, x)
    assert prof.flops == expected(s) > 0


def test_model_flops_of_products_of_blocks():
    s, x = make(torch.sparse_bsr, "trn"), torch.randn(4, 6, device="trn")
    for call, columns in ((lambda: s @ x, 6), (lambda: s @ x[:, 0], 1), (lambda: torch.addmm(x, s, x), 6)):
        with torch_trn.profile() as prof:
            call()
        assert prof.flops == 2 * stored(s) * columns > 0
    for factor, of_blocks in ((x, s), (x.cpu(), make(torch.sparse_bsr))):
        with pytest.raises(RuntimeError, match="not implemented for Strided"):
            factor.t() @ of_blocks


def test_model_flops_of_other_products():
    s, x = make(torch.sparse_csr, "trn"), torch.randn(4, 5, device="trn")
    with torch_trn.profile() as prof:
        torch.sparse.sampled_addmm(s, x, x.t())
    assert prof.flops == 2 * stored(s) * 5
    with torch_trn.profile() as prof:
        torch.bmm(batches("trn"), torch.randn(2, 4, 3, device="trn"))
    assert prof.flops == 2 * stored(batches("cpu")) * 3
    weight = make(torch.sparse_coo, "trn").requires_grad_()
    dense = x.clone().requires_grad_()
    with torch_trn.profile() as prof:
        torch.sparse.mm(weight, dense).sum().backward()
    # The dense factor's gradient is a sparse product too; PyTorch takes the sparse one's from a dense product.
    assert prof.flops == 2 * 2 * stored(weight) * 5 + 2 * 4 * 4 * 5


def test_mixed_devices_raise():
    sparse = make(torch.sparse_coo, "trn")
    for call in (
        lambda: sparse @ torch.ones(4, 2),
        lambda: sparse + make(torch.sparse_coo),
        lambda: make(torch.sparse_csr, "trn") @ torch.ones(4, 2),
        lambda: make(torch.sparse_coo) @ torch.ones(4, 2, device="trn"),
    ):
        with pytest.raises(RuntimeError):
            call()


def test_what_the_cpu_cannot_either_raises():
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.cumsum(make(torch.sparse_coo, "trn"), 0)
    with pytest.raises((NotImplementedError, RuntimeError)):
        make(torch.sparse_bsr, "trn").view(-1)


def test_zero_sizes():
    for size in ((0,), (0, 3), (3, 0, 2)):
        sparse = torch.zeros(size, device="trn").to_sparse()
        assert sparse._nnz() == 0 and sparse.to_dense().shape == size and sparse.coalesce().device.type == "trn"
    scalar = torch.tensor(2.0, device="trn").to_sparse()
    assert scalar.to_dense().item() == 2


def test_a_sparse_tensor_that_is_read_and_written():
    sparse, dense = torch.eye(4).to_sparse(), torch.randn(4, 4)
    expected = torch.smm(sparse, dense).to_dense()
    assert torch.equal(torch.smm(sparse.to("trn"), dense.to("trn")).to_dense().cpu(), expected)
    result = sparse.to("trn")
    torch.add(result, result, out=result)
    assert torch.equal(result.to_dense().cpu(), 2 * torch.eye(4))
