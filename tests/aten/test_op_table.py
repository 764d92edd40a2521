"""The operator table is complete, sorted and in known families, and carries TorchNeuron's status of each overload."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import torch_trn

FAMILIES = {
    "matmul", "conv", "attention", "pointwise", "reduction", "softmax", "norm", "copy", "box", "index",
    "nll_loss", "window", "taps", "band", "rank", "scan", "sort", "transfer", "generic", "host",
}  # fmt: skip
ENGINES = {"TensorE", "VectorE", "ScalarE", "GpSimdE", "DMA", "host"}

# Views, metadata, allocations without a value, and what other operators compute: nothing of its own runs.
NO_LAUNCH = {
    "_efficientzerotensor", "_embedding_bag_backward", "_empty_affine_quantized",
    "_empty_per_channel_affine_quantized", "_fused_sdp_choice",
    "_make_dep_token", "_nested_compute_contiguous_strides_offsets", "_nested_view_from_buffer", "_reshape_alias",
    "as_strided", "empty", "empty_strided", "from_file", "is_set_to", "resize", "set", "unfold", "view",
    "view_as_complex", "view_as_real",
}  # fmt: skip

# Costed by the generic rule on purpose: tests of PyTorch's own, sparse constructors and checks, quantized layers.
GENERIC = {"_foobar", "_spdiags", "_validate_compressed_sparse_indices", "quantized_gru", "quantized_lstm", "sspaddmm"}


@functools.cache
def table() -> list[dict[str, Any]]:
    return list(torch_trn._C.op_table())


def names(family: str | None = None) -> set[str]:
    return {row["name"] for row in table() if family in (None, row["family"])}


def base_name(qualified: str) -> str:
    name = qualified.removeprefix("aten::").split(".")[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def ops_with_cpu_kernel() -> set[str]:
    return {
        base_name(op)
        for op in torch._C._dispatch_get_all_op_names()
        if op.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(op, "CPU")
    }


def all_base_names() -> set[str]:
    return {base_name(op) for op in torch._C._dispatch_get_all_op_names() if op.startswith("aten::")}


def status(name: str, overload: str) -> str:
    row = next(row for row in table() if row["name"] == name)
    return str(next(entry["torchneuron"] for entry in row["overloads"] if entry["overload"] == overload))


def test_sorted_without_duplicates() -> None:
    listed = [row["name"] for row in table()]
    assert listed == sorted(set(listed))


def test_families_and_engines_are_known() -> None:
    for row in table():
        assert row["family"] in FAMILIES, row
        assert row["engines"] and set(row["engines"].split("+")) <= ENGINES, row
        assert (row["family"] == "host") == (row["engines"] == "host"), row


def test_every_row_is_an_operator_of_this_torch() -> None:
    assert names() - all_base_names() == set()


def test_every_operator_with_a_cpu_kernel_has_a_row() -> None:
    assert ops_with_cpu_kernel() - names() - NO_LAUNCH == set()


def test_what_launches_nothing_has_no_row() -> None:
    assert NO_LAUNCH & names() == set()
    assert all_base_names() >= NO_LAUNCH


def test_generic_is_on_purpose() -> None:
    assert names("generic") == GENERIC


def test_foreach_and_fused_optimizers_have_rows() -> None:
    wanted = {name for name in all_base_names() if name.startswith(("_foreach_", "_fused_ad", "_fused_sgd"))}
    assert wanted - names() == set()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("mm", "matmul"),
        ("convolution_backward", "conv"),
        ("_scaled_dot_product_fused_attention_overrideable", "attention"),
        ("add", "pointwise"),
        ("_fused_adamw", "pointwise"),
        ("sum", "reduction"),
        ("_softmax", "softmax"),
        ("native_layer_norm", "norm"),
        ("copy", "copy"),
        ("flip", "box"),
        ("embedding_dense_backward", "index"),
        ("nll_loss_forward", "nll_loss"),
        ("max_pool2d_with_indices", "window"),
        ("cumsum", "scan"),
        ("topk", "sort"),
        ("_local_scalar_dense", "transfer"),
        ("_linalg_svd", "host"),
    ],
)
def test_family_of(name: str, family: str) -> None:
    assert name in names(family)


@pytest.mark.parametrize(
    ("name", "overload", "expected"),
    [
        ("add", "add.out", "native"),
        ("add", "add_.Tensor", "native"),
        ("abs", "abs_", "native"),  # through abs.out
        ("div", "div.Tensor", "native"),  # through div.out
        ("_copy_from", "_copy_from", "native"),  # copy_
        ("_linalg_svd", "_linalg_svd", "host"),
        ("cumprod", "cumprod", "absent"),
    ],
)
def test_torchneuron_status_is_per_overload(name: str, overload: str, expected: str) -> None:
    assert status(name, overload) == expected


def test_every_overload_has_a_status() -> None:
    for row in table():
        assert row["overloads"], row["name"]
        assert {entry["torchneuron"] for entry in row["overloads"]} <= {"native", "host", "absent"}


def test_what_has_no_program_says_why() -> None:
    reasons = {row["name"]: row["no_program"] for row in table()}
    assert all(reasons[row["name"]] for row in table() if row["family"] in ("host", "transfer", "generic"))
    assert not any(reasons[name] for name in ("add", "mm", "convolution", "_softmax", "native_layer_norm", "sort"))
    x = torch.randn(3, 4, device="trn")
    torch_trn.reference_operators(clear=True)
    with torch_trn.set_numerics("hardware"):
        for run in (torch.special.airy_ai, torch.Tensor.nonzero, torch.Tensor.uniform_):
            run(x)
    ran = torch_trn.reference_operators(clear=True)
    assert {base_name(name) for name in ran} == {"special_airy_ai", "nonzero", "uniform"}
    assert all(reasons[base_name(name)] for name in ran)
