"""torch_trn.set_numerics: executed values against float64, counts that do not change, and what has no program."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from models import regression_losses
from torch import nn
from torch.nn import functional as F

import torch_trn

EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


pytestmark = pytest.mark.usefixtures("hardware")


@pytest.mark.filterwarnings("ignore:.*(quantized tensor creation functions|API of nested tensors):UserWarning")
def test_what_has_no_program_is_listed_of_any_layout() -> None:
    x = torch.eye(4, device="trn")
    stored = x.to_sparse()
    torch_trn.reference_operators(clear=True)
    stored @ x
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    quantized.dequantize()
    nested = torch.nested.nested_tensor([x, x[:2]], layout=torch.strided)
    nested + nested
    assert {"mm", "dequantize.self", "add.Tensor"} <= set(torch_trn.reference_operators())
    listed = torch_trn.reference_operators()
    assert stored.indices().shape == (2, 4)
    assert quantized.q_scale() == 0.1
    assert nested.size(0) == 2
    assert torch_trn.reference_operators() == listed


def executed() -> bool:
    return not torch_trn.reference_operators(clear=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_matmul_within_the_bound_of_its_accumulation(dtype: torch.dtype, layout: str) -> None:
    m, n, k = 200, 530, 300
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    x = a.to("trn") if layout[0] == "n" else a.t().contiguous().to("trn").t()
    y = b.to("trn") if layout[1] == "n" else b.t().contiguous().to("trn").t()
    torch_trn.reference_operators(clear=True)
    out = (x @ y).cpu().double()
    assert executed()
    exact = a.double() @ b.double()
    # FP32 sums of k products, then one rounding to the result's type.
    bound = k * 2.0**-24 * (a.double().abs() @ b.double().abs()) + EPSILON[dtype] * exact.abs() + 1e-6
    assert ((out - exact).abs() <= bound).all()


def test_products_with_an_addend_and_of_batches() -> None:
    bias, x, w = torch.randn(70), torch.randn(40, 90), torch.randn(90, 70)
    a, b = torch.randn(3, 40, 90), torch.randn(1, 90, 70).expand(3, 90, 70)
    torch.testing.assert_close(torch.addmm(bias.to("trn"), x.to("trn"), w.to("trn")).cpu(), torch.addmm(bias, x, w))
    torch.testing.assert_close(torch.bmm(a.to("trn"), b.to("trn")).cpu(), torch.bmm(a, b))
    addend = torch.randn(3, 40, 70)
    torch.testing.assert_close(
        torch.baddbmm(addend.to("trn"), a.to("trn"), b.to("trn")).cpu(), torch.baddbmm(addend, a, b)
    )
    assert executed()


def on_both(function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By programs, on the second launch too; and in float64 on the CPU."""
    function(*[a.to("trn") for a in arguments])
    got = function(*[a.to("trn") for a in arguments])
    assert executed()
    return got.cpu().double(), function(*[a.double() for a in arguments])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1), (1, -2), (3, 0.25), (2, 0)])
def test_scaled_products_and_vectors(dtype: torch.dtype, alpha: float, beta: float) -> None:
    a, b, c = (torch.randn(size).to(dtype) for size in ((3, 40, 90), (3, 90, 70), (3, 40, 70)))
    scales = {"alpha": alpha, "beta": beta}
    cases = [
        on_both(lambda a, b, c: torch.addmm(c, a, b, **scales), a[0], b[0], c[0]),
        on_both(lambda a, b, c: torch.addmm(c, a.t(), b, **scales), a[0].t(), b[0], c[0, 0]),
        on_both(lambda a, b, c: torch.addmm(c, a, b, **scales), a[0], b[0], c[0, :, :1]),
        on_both(lambda a, b, c: torch.baddbmm(c, a, b, **scales), a, b, c),
        on_both(lambda a, b, c: torch.addbmm(c, a, b, **scales), a, b, c[0]),
        on_both(lambda a, b, c: torch.addmv(c, a, b, **scales), a[0], b[0, :, 0], c[0, :, 0]),
        on_both(lambda a, b, c: torch.addr(c, a, b, **scales), a[0, :, 0], b[0, 0], c[0]),
    ]
    for got, exact in cases:
        torch.testing.assert_close(got, exact, rtol=2 * EPSILON[dtype], atol=2e-4 if dtype == torch.float32 else 4e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_vectors(dtype: torch.dtype) -> None:
    a, v = torch.randn(300, 200).to(dtype), torch.randn(200).to(dtype)
    cases = [
        on_both(lambda a, v: a @ v, a, v),
        on_both(lambda a, v: a.t() @ v, a.t().contiguous(), v),
        on_both(lambda a, v: v @ a, a.t(), v),
        on_both(lambda a, v: a[0].dot(v), a, v),
        on_both(lambda a, v: torch.vdot(a[1], v), a, v),
        on_both(lambda a, v: a[:, 0].dot(a[:, 1]), a, v),
        on_both(lambda a, v: torch.outer(a[:, 0], v), a, v),
    ]
    for got, exact in cases:
        torch.testing.assert_close(got, exact, rtol=EPSILON[dtype], atol=2e-5 if dtype == torch.float32 else 2e-2)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "relu": F.relu,
    "log": lambda x: torch.log(x.abs() + 0.1),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.1),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "where": lambda x: torch.where(x > 0, x, x * 0.1),
    "comparison": lambda x: (x <= 0).to(x.dtype),
    "power": lambda x: x.abs().pow(1.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function: str, dtype: torch.dtype) -> None:
    x = torch.randn(37, 501).to(dtype)
    torch.testing.assert_close(FUNCTIONS[function](x.to("trn")).cpu(), FUNCTIONS[function](x), rtol=1.6e-2, atol=1e-5)


def test_operands_in_any_layout() -> None:
    x, row, column = torch.randn(60, 90), torch.randn(90), torch.randn(60, 1)
    d, drow, dcolumn = x.to("trn"), row.to("trn"), column.to("trn")
    cases = [
        (d + drow, x + row),
        (d.t() * d.t(), x.t() * x.t()),
        (d[:, ::2] - 1, x[:, ::2] - 1),
        (d.view(3, 20, 90).permute(2, 0, 1) + 1, x.view(3, 20, 90).permute(2, 0, 1) + 1),
        (d * dcolumn, x * column),
    ]
    for actual, expected in cases:
        assert actual.stride() == expected.stride()
        assert torch.equal(actual.cpu(), expected)
    out = torch.empty(90, 60, device="trn").t()
    assert torch.equal(torch.add(d, d, out=out).cpu(), x + x) and out.stride() == (1, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_broadcasts_of_any_axes(dtype: torch.dtype) -> None:
    def of(*sizes: int) -> torch.Tensor:
        return torch.randint(-20, 20, sizes).to(dtype)

    x = of(6, 40, 50)
    others = [of(6, 1, 1), of(40, 1), of(6, 1, 50), of(1, 40, 1), of(6, 40, 1), of(50), of(1)]
    for other in others:
        for view in (lambda t: t, lambda t: t[..., ::2], lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)):
            left, right = view(x), other[..., ::2] if view(x).size(-1) != x.size(-1) and other.size(-1) > 1 else other
            for _ in range(2):
                got = left.to("trn") * right.to("trn")
                assert torch.equal(got.cpu(), left * right)
                assert got.stride() == (left * right).stride()
            in_place = left.to("trn")
            assert torch.equal(in_place.sub_(right.to("trn")).cpu(), left - right)
    a, b, c = of(6, 1, 50), of(40, 1), of(6, 40, 1)
    assert torch.equal(torch.where(a.to("trn") > 0, b.to("trn"), c.to("trn")).cpu(), torch.where(a > 0, b, c))
    assert torch.equal((a.to("trn") + b.to("trn")).cpu(), a + b)
    assert torch.equal(x.to("trn").masked_fill(b.to("trn") > 0, 3).cpu(), x.masked_fill(b > 0, 3))
    assert executed()


def test_bools_and_a_value_on_the_device() -> None:
    a, b = torch.rand(2, 30, 40) < 0.5
    x, value = torch.randn(30, 40), torch.tensor(2.5)
    for function in (torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor):
        assert torch.equal(function(a.to("trn"), b.to("trn")).cpu(), function(a, b))
    assert torch.equal((~a.to("trn")).cpu(), ~a)
    for _ in range(2):
        got = x.to("trn").masked_fill(a.to("trn"), value.to("trn"))
        assert torch.equal(got.cpu(), x.masked_fill(a, value))
    assert executed()


def test_results_without_elements() -> None:
    empty = torch.empty(3, 0, device="trn")
    assert (empty * 2 + empty).shape == empty.clone().t().t().shape == (3, 0)
    assert torch.cat([empty, empty]).shape == (6, 0)
    assert executed()
    assert empty.sum().item() == 0


def test_in_place_reads_what_it_overwrites() -> None:
    x = torch.randn(1000)
    y = x.to("trn")
    for _ in range(3):  # the first launch computes for the layout, the others do not
        y.mul_(2).add_(1)
        x.mul_(2).add_(1)
        assert torch.equal(y.cpu(), x)
    y[::2].sub_(3)
    x[::2].sub_(3)
    assert torch.equal(y.cpu(), x)


def test_integers_are_32_bits_wide_and_go_through_fp32() -> None:
    i = torch.arange(-3, 4, device="trn")
    assert (i * 2 + 1).tolist() == [-5, -3, -1, 1, 3, 5, 7]
    assert (torch.tensor([2**24 + 1], device="trn") + 0).item() == 2**24
    assert torch.tensor([2**40 + 5], device="trn").add(0).item() == 5


def test_fills() -> None:
    x = torch.full((6, 8), 2.5, device="trn")
    x[:, ::2].fill_(7)
    assert x[0].tolist() == [7, 2.5] * 4
    assert torch.zeros(5, dtype=torch.int64, device="trn").tolist() == x.zero_()[0, :5].tolist()
    assert executed()
    assert torch.full((2,), 2**40 + 1, device="trn").tolist() == [2**40 + 1] * 2
    assert torch_trn.reference_operators(clear=True) == {"fill_.Scalar": 1}


def test_what_has_no_program_is_listed() -> None:
    torch.linalg.inv(torch.eye(3, device="trn"))
    assert "linalg_inv_ex" in torch_trn.reference_operators()
    assert torch_trn.reference_operators(clear=True) and not torch_trn.reference_operators()


def test_counts_and_time_are_those_of_reference_numerics() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8)).to("trn")
    x = torch.randn(32, 64, device="trn")

    def recorded(mode: str) -> tuple[int, int, int, float]:
        model.zero_grad()
        with torch_trn.set_numerics(mode), torch_trn.profile() as prof:
            model(x).square().mean().backward()
        return prof.launches, prof.hardware_flops, prof.hbm_read_bytes, prof.device_seconds

    assert recorded("hardware") == recorded("reference") == recorded("hardware")


def test_training_is_close_to_reference_numerics() -> None:
    def losses(mode: str) -> list[float]:
        with torch_trn.set_numerics(mode):
            return regression_losses(30)

    reference = losses("reference")
    assert reference[-1] < reference[0] / 2
    torch.testing.assert_close(losses("hardware"), reference, rtol=1e-4, atol=0)


def test_stochastic_rounding_is_seeded_and_unbiased() -> None:
    x = torch.full((100_000,), 1 + 2**-9, device="trn", dtype=torch.float32)

    def rounded(**switches: object) -> torch.Tensor:
        with torch_trn.set_numerics("hardware", **switches):
            return torch.add(x, 0, out=torch.empty_like(x, dtype=torch.bfloat16)).cpu().float()

    assert set(rounded().tolist()) == {1.0}
    first, again = rounded(stochastic_rounding=True, seed=1), rounded(stochastic_rounding=True, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, rounded(stochastic_rounding=True, seed=2))
    assert set(first.tolist()) == {1.0, 1 + 2**-7}
    assert first.mean().item() == pytest.approx(1 + 2**-9, abs=2e-4)


def test_errors_and_environment() -> None:
    with pytest.raises(ValueError, match=r'\[set_numerics\] the mode is "reference" or "hardware"; got \'fast\''):
        torch_trn.set_numerics("fast")
    with pytest.raises(ValueError, match=r"\[set_numerics\] no such switch; got rounding"):
        torch_trn.set_numerics("hardware", rounding=True)
    script = "import torch, torch_trn; from torch_trn.numerics import numerics; print(numerics())"
    for variable, expected in (("hardware", "hardware"), ("", "reference")):
        environment = {**os.environ, "TORCH_TRN_NUMERICS": variable}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == expected


@pytest.mark.parametrize("mode", ["reference", "hardware"])
def test_lists_scaled_by_scalars_of_the_host(mode: str) -> None:
    """One list lies on the CPU. A launch that cannot be built leaves nothing behind for the next one."""
    with torch_trn.set_numerics(mode):
        for _ in range(2):
            tensors = [torch.ones(3, device="trn"), torch.ones(4, device="trn")]
            result = torch._foreach_mul(tensors, [torch.tensor(0.5), torch.tensor(2.0)])
            assert [tensor.cpu().tolist() for tensor in result] == [[0.5] * 3, [2.0] * 4]
