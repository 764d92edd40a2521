"""torch.func, forward-mode AD, double backward, hooks: against the CPU."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

# Forward-mode AD compiles its decompositions with torch.jit on first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

X = torch.randn(4, 3, dtype=torch.float64)


def f(x):
    return (x.sin() @ x.t()).softmax(-1).square().sum()


CASES = {
    "grad": lambda x: grad(f)(x),
    "jacrev": lambda x: jacrev(lambda y: y.sin() @ y.t())(x),
    "jacfwd": lambda x: jacfwd(lambda y: y.sin() @ y.t())(x),
    "hessian": lambda x: hessian(f)(x),
    "vjp": lambda x: vjp(f, x)[1](torch.ones((), dtype=x.dtype, device=x.device))[0],
    "jvp": lambda x: jvp(f, (x,), (torch.ones_like(x),))[1],
    "vmap": lambda x: vmap(lambda row: (row.outer(row)).logsumexp(0))(x),
    "vmap_grad": lambda x: vmap(grad(lambda row: row.exp().sum().log()))(x),
    "vmap_nested": lambda x: vmap(vmap(torch.sin))(x),
    "vmap_chunks": lambda x: vmap(torch.linalg.norm, chunk_size=2)(x),
    "functional": lambda x: torch.autograd.functional.jacobian(lambda y: y.cumsum(0), x),
}


@pytest.mark.parametrize("name", CASES)
def test_transform(name):
    result = CASES[name](X.to("trn"))
    assert result.device.type == "trn"
    torch.testing.assert_close(result.cpu(), CASES[name](X))


def test_per_sample_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 1).double()

    def per_sample(model, x, y):
        parameters = dict(model.named_parameters())

        def loss(parameters, x, y):
            return (functional_call(model, parameters, (x[None],)) - y).square().sum()

        return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)

    expected = per_sample(model, x, y)
    actual = per_sample(model.to("trn"), x.to("trn"), y.to("trn"))
    for name in expected:
        torch.testing.assert_close(actual[name].cpu(), expected[name].cpu())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # the CPU's
def test_attention_sample_by_sample():
    q = torch.randn(3, 2, 4, 5, 8)
    weight = torch.randn(8, 8)

    def loss(weight, q):
        return torch.nn.functional.scaled_dot_product_attention(q @ weight, q, q).square().sum()

    for function in (vmap(loss, (None, 0)), vmap(grad(loss), (None, 0))):
        actual = function(weight.to("trn"), q.to("trn")).cpu()
        expected = torch.stack([function(weight, one[None])[0] for one in q])
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap_randomness(randomness):
    torch.trn.manual_seed(0)
    x = torch.zeros(4, 3, device="trn")
    drawn = vmap(lambda row: row + torch.rand_like(row), randomness=randomness)(x).cpu()
    assert (drawn.unique(dim=0).shape[0] == 1) == (randomness == "same")


def test_forward_mode():
    import torch.autograd.forward_ad as fwAD

    def tangent(x):
        with fwAD.dual_level():
            dual = fwAD.make_dual(x, torch.ones_like(x))
            return fwAD.unpack_dual((dual @ dual.t()).tanh()).tangent

    torch.testing.assert_close(tangent(X.to("trn")).cpu(), tangent(X))


def test_double_backward():
    def second(x):
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(f(x), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(X.to("trn")).cpu(), second(X))


def test_gradcheck():
    x = torch.randn(3, 3, dtype=torch.float64, device="trn", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: (x @ x).tanh(), (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: (x @ x).tanh(), (x,))


def test_custom_function_and_hooks():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    x = torch.tensor([3.0], device="trn", requires_grad=True)
    seen = []
    x.register_hook(lambda gradient: seen.append(gradient.device))
    Square.apply(x).backward()
    assert x.grad.item() == 6 and seen == [x.device]


def test_saved_tensors_on_cpu():
    x = torch.randn(5, 5, device="trn", requires_grad=True)
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        y = (x.sin() @ x.cos()).sum()
    y.backward()
    expected = x.detach().cpu().requires_grad_()
    (expected.sin() @ expected.cos()).sum().backward()
    torch.testing.assert_close(x.grad.cpu(), expected.grad)


def test_backward_in_another_thread():
    import threading

    x = torch.ones(3, device="trn", requires_grad=True)
    y = (x * 2).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert x.grad.tolist() == [2, 2, 2]
    with torch.autograd.set_multithreading_enabled(False):
        (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 5, 5]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode():
    x = torch.tensor([-1.0], device="trn", requires_grad=True)
    with (
        pytest.warns(UserWarning, match="Error detected"),
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.raises(RuntimeError, match="nan"),
    ):
        x.sqrt().backward()
