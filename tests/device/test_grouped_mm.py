"""Products of groups of rows (mixtures of experts) are one launch, with the CPU's values, gradients and layouts."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import torch_trn

OFFSETS = torch.tensor([3, 3, 10, 16], dtype=torch.int32)
# Which axis the groups cut: the rows, the columns, the sum, or none.
KINDS: dict[str, Any] = {
    "rows": ((16, 32), (4, 32, 48), OFFSETS),
    "columns": ((4, 24, 32), (32, 16), OFFSETS),
    "sum": ((24, 16), (16, 48), OFFSETS),
    "batch": ((4, 16, 32), (4, 32, 48), None),
}


def operands(kind: str, dtype: torch.dtype, transposed: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    torch.manual_seed(0)
    left, right, offsets = KINDS[kind]
    a, b = torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype)
    return [a, b.mT.contiguous().mT if transposed else b], offsets


def run(device: str, tensors: list[torch.Tensor], offsets: torch.Tensor | None) -> list[torch.Tensor]:
    leaves = [tensor.detach().to(device).requires_grad_() for tensor in tensors]
    offs = None if offsets is None else offsets.to(device)
    out = F.grouped_mm(leaves[0], leaves[1], offs=offs)
    grad = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(device))]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_cpus(kind: str, dtype: torch.dtype, transposed: bool) -> None:
    tensors, offsets = operands(kind, dtype, transposed)
    for expected, got in zip(run("cpu", tensors, offsets), run("trn", tensors, offsets), strict=True):
        assert expected.stride() == got.stride()
        assert torch.equal(expected, got.cpu())


@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_hardware_numerics_multiply_the_groups_that_the_offsets_say(
    kind: str, dtype: torch.dtype, transposed: bool
) -> None:
    tensors, offsets = operands(kind, dtype, transposed)
    oracle = run("cpu", [tensor.float() for tensor in tensors], offsets)
    got = run("trn", tensors, offsets)
    assert torch_trn.reference_operators() == {}
    bound = 1e-5 if dtype == torch.float32 else 2**-7
    for expected, tensor in zip(oracle, got, strict=True):
        assert (tensor.cpu().float() - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.usefixtures("hardware")
def test_rows_behind_the_last_group_stay_out_and_other_offsets_are_read_each_time() -> None:
    tensors, _ = operands("rows", torch.float32, False)
    a, b = (tensor.to("trn") for tensor in tensors)
    for ends in ([4, 8, 12, 16], [0, 0, 0, 16], [16, 16, 16, 16], [1, 2, 3, 4], [2, 40, 50, 60]):
        offsets = torch.tensor(ends, dtype=torch.int32)
        got = F.grouped_mm(a, b, offs=offsets.to("trn")).cpu()
        last = min(ends[-1], 16)
        expected = F.grouped_mm(*tensors, offs=offsets.clamp(max=16))
        torch.testing.assert_close(got[:last], expected[:last], rtol=1e-5, atol=1e-5)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_one_launch_without_waiting_the_same_in_a_dry_run(kind: str) -> None:
    tensors, offsets = operands(kind, torch.float32, True)
    (left, right), on_device = tensors, None if offsets is None else offsets.to("trn")
    a, b = left.to("trn"), right.mT.contiguous().to("trn").mT
    with torch_trn.profile() as prof:
        out = F.grouped_mm(a, b, offs=on_device)
    assert {row.name: row.launches for row in prof.by_operator()} == {"_grouped_mm": 1}
    assert prof.host_syncs == []
    batch = 4 if offsets is None else 1
    assert prof.flops == 2 * batch * left.size(-2) * left.size(-1) * right.size(-1)
    read = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert read <= prof.hbm_read_bytes <= 2 * read  # more where K is cut: each row is read of its own
    with torch_trn.dry_run(), torch_trn.profile() as dry:
        again = F.grouped_mm(a, b, offs=on_device)
    assert again.stride() == out.stride()
    assert (dry.launches, dry.flops, dry.hardware_flops) == (prof.launches, prof.flops, prof.hardware_flops)


def test_bad_arguments_raise_what_the_cpu_raises() -> None:
    tensors, offsets = operands("rows", torch.float32, False)
    a, b = tensors
    assert offsets is not None
    cases: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = [
        (a, b, None),
        (a, b, offsets.long()),
        (a, b, offsets[:2]),
        (a[:, :31], b, offsets),
        (a.double(), b.double(), offsets),
    ]
    for left, right, offs in cases:
        with pytest.raises(RuntimeError) as expected:
            F.grouped_mm(left, right, offs=offs)
        on_device = None if offs is None else offs.to("trn")
        x, w = left.to("trn"), right.to("trn")
        for context in (nullcontext(), torch_trn.dry_run()):
            with context, pytest.raises(RuntimeError) as got:
                F.grouped_mm(x, w, offs=on_device)
            assert str(got.value) == str(expected.value)
