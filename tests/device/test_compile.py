"""torch.compile with the eager backends, export, tracing and custom operators over device tensors."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import torch_trn

trn = torch.trn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 16)

    def forward(self, x):
        return x + self.outer(torch.nn.functional.gelu(self.inner(self.norm(x))))


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_training_equals_eager(backend):
    torch.manual_seed(0)
    model = Block().to("trn")
    x = torch.randn(4, 16, device="trn")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    expected = model(x)
    expected.sum().backward()
    gradients = [p.grad.cpu().clone() for p in model.parameters()]
    model.zero_grad()
    actual = compiled(x)
    assert actual.device == x.device and torch.equal(actual.detach().cpu(), expected.detach().cpu())
    actual.sum().backward()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad.cpu(), gradient)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, as inductor is imported
def test_the_default_backend_runs_operator_by_operator_and_says_so():
    torch.manual_seed(0)
    model = Block().to("trn")
    x = torch.randn(4, 16, device="trn")
    expected = model(x)
    with pytest.warns(UserWarning, match=r"\[torch.compile\] inductor generates no code for trn"):
        actual = torch.compile(model)(x)
    assert torch.equal(actual, expected)
    actual.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dynamic_shapes(backend):
    compiled = torch.compile(lambda x: (x * 2).relu().sum(0), backend=backend, dynamic=True)
    for n in (3, 5, 8):
        x = torch.randn(n, 4)
        assert torch.equal(compiled(x.to("trn")).cpu(), (x * 2).relu().sum(0))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_attention_and_autocast(backend):
    q = torch.randn(1, 2, 8, 16, device="trn", requires_grad=True)

    def attend(q):
        with torch.autocast("trn", dtype=torch.bfloat16):
            return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    expected = attend(q)
    actual = torch.compile(attend, backend=backend)(q)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.cpu(), expected.cpu())
    actual.float().sum().backward()
    assert q.grad.isfinite().all().item()


def test_factory_and_device_calls_in_the_graph():
    @torch.compile(backend="eager", fullgraph=True)
    def f(x):
        with trn.device(trn.device_count() - 1):
            y = torch.arange(x.shape[0], device=x.device)
        if x.device.type == "trn" and x.is_trn:
            y = y + 1
        return x + y

    x = torch.zeros(4, device="trn")
    assert f(x).tolist() == [1, 2, 3, 4]


def test_streams_under_compile():
    side = trn.Stream()

    @torch.compile(backend="eager")
    def f(x):
        with trn.stream(side):
            y = x + 1
        return y * 2

    assert f(torch.ones(2, device="trn")).tolist() == [4, 4]


def test_interface_is_registered():
    from torch._dynamo.device_interface import get_interface_for_device

    interface = get_interface_for_device("trn")
    assert get_interface_for_device("trn:0") is interface
    assert interface.is_available() and interface.current_device() == 0
    assert interface.Worker.get_device_properties().name == trn.get_device_name()
    assert interface.get_raw_stream(0) == trn.current_stream(0).stream_id
    assert interface.get_compute_capability() == trn.get_device_properties().generation
    assert interface.is_dtype_supported(torch.bfloat16)
    with pytest.raises(RuntimeError, match="Triton"):
        interface.raise_if_triton_unavailable()


def test_dynamo_metrics():
    trn.reset_dynamo_metrics()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2, device="trn"))
    assert trn.get_dynamo_metrics()["frames"]["ok"] >= 1
    trn.reset_dynamo_metrics()
    assert trn.get_dynamo_metrics() == {}


def test_export():
    model = Block().to("trn")
    x = torch.randn(4, 16, device="trn")
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x).detach().cpu(), model(x).detach().cpu())


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_the_backward_pass_of_compiled_attention(layout):
    torch.manual_seed(0)
    model = torch.nn.MultiheadAttention(16, 2, batch_first=layout == "contiguous").to("trn")
    x = torch.randn(2, 5, 16, device="trn", requires_grad=True)

    def loss(model):
        return model(x, x, x, need_weights=False)[0].square().sum()

    (expected,) = torch.autograd.grad(loss(model), x)
    (actual,) = torch.autograd.grad(loss(torch.compile(model, backend="aot_eager")), x)
    torch.testing.assert_close(actual, expected)


ATTENTION_LAYOUTS = {
    "heads": lambda t: t,
    "tokens": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "turned": lambda t: t.mT.contiguous().mT,
}


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("layout", ATTENTION_LAYOUTS)
def test_results_of_attention_lie_as_the_cpus_and_gradients_as_their_operands(layout, compiles):
    attention = torch.nn.functional.scaled_dot_product_attention
    of_the_cpu = [ATTENTION_LAYOUTS[layout](torch.randn(2, 4, 5, 8)) for _ in range(3)]
    tensors = [ATTENTION_LAYOUTS[layout](t.to("trn")).requires_grad_() for t in of_the_cpu]
    out = (torch.compile(attention, backend="aot_eager") if compiles else attention)(*tensors)
    assert out.stride() == attention(*of_the_cpu).stride()
    if layout != "turned":  # which is not for the fused path
        for operand, gradient in zip(tensors, torch.autograd.grad(out.sum(), tensors), strict=True):
            assert gradient.stride() == operand.stride()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layout", ATTENTION_LAYOUTS)
def test_what_a_graph_does_with_attention_fits_its_layout(layout, dynamic):
    """Behind attention a graph views its result, and its backward pass the gradients, as a model joins its heads."""

    def joined(q, k, v):
        q, k, v = (ATTENTION_LAYOUTS[layout](t.unflatten(-1, (4, 8)).transpose(1, 2)) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).flatten(2)

    compiled = torch.compile(joined, backend="aot_eager", dynamic=dynamic)
    for tokens in (5, 7):
        tensors = [torch.randn(2, tokens, 32, device="trn", requires_grad=True) for _ in range(3)]
        expected, actual = joined(*tensors), compiled(*tensors)
        assert torch.equal(actual, expected)
        weights = torch.randn_like(expected)
        for got, grad in zip(
            torch.autograd.grad((actual * weights).sum(), tensors),
            torch.autograd.grad((expected * weights).sum(), tensors),
            strict=True,
        ):
            assert torch.equal(got, grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")
@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"])
def test_a_traced_convolution_takes_its_argument(kind):
    axes = int(kind[-2])
    model = torch.nn.Sequential(getattr(torch.nn, kind)(3, 4, 3), torch.nn.ReLU()).to("trn").eval()
    first, second = (torch.randn(2, 3, *[8] * axes, device="trn") for _ in range(2))
    traced = torch.jit.trace(model, first)
    assert torch.equal(traced(second), model(second))
    assert "aten::_convolution" in str(traced.inlined_graph)


def test_convolution_by_its_inner_name():
    x, weight = torch.randn(1, 3, 6, 6, device="trn", requires_grad=True), torch.randn(4, 3, 3, 3, device="trn")
    settings = [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, True
    out = torch._convolution(x, weight, None, *settings)
    assert torch.equal(out, torch.nn.functional.conv2d(x, weight))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.conv2d(x, weight).sum(), x)
    assert torch.equal(gradient, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")
def test_indexing_in_torchscript():
    @torch.jit.script
    def pick(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[rows], x[:, columns]

    x, rows, columns = torch.randn(4, 3), torch.tensor([True, False, True, True]), torch.tensor([2, 0])
    for actual, expected in zip(
        pick(x.to("trn"), rows.to("trn"), columns.to("trn")), pick(x, rows, columns), strict=True
    ):
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")
def test_make_fx_and_jit_trace():
    x = torch.randn(3, 3, device="trn")

    def f(x):
        return (x @ x).relu() + 1

    assert torch.equal(make_fx(f)(x)(x).cpu(), f(x).cpu())
    assert torch.equal(torch.jit.trace(f, (x,))(x).cpu(), f(x).cpu())


def test_custom_operator():
    @torch.library.custom_op("trn_tests::scale", mutates_args=())
    def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    scale.register_fake(lambda x, factor: torch.empty_like(x))
    scale.register_autograd(
        lambda ctx, g: (g * ctx.factor, None),
        setup_context=lambda ctx, inputs, output: setattr(ctx, "factor", inputs[1]),
    )
    x = torch.ones(3, device="trn", requires_grad=True)
    scale(x, 3.0).sum().backward()
    assert x.grad.tolist() == [3, 3, 3]
    torch.library.opcheck(scale, (torch.ones(3, device="trn"), 2.0))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_graph_of_library_modules_alone_is_at_its_callers_line(backend):
    """nn.Sequential has no line of the user's; forward and backward are where the module is called."""
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).to("trn")
    x = torch.randn(3, 4, device="trn")

    def lines(call):
        call(x).sum().backward()
        with torch_trn.profile() as prof:
            y = call(x)
            y.sum().backward()
        return {row.name.rsplit(":")[-1]: row.launches for row in prof.by_line()}

    compiled, eager = lines(torch.compile(model, backend=backend)), lines(model)
    assert "" not in compiled and compiled.keys() == eager.keys()
