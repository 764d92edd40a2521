"""op_db in a dry run: every sample's results have the shape, dtype, strides and memory that a real run gives them."""

import re

import pytest
import torch
from opinfo import cells, op_cells
from torch.utils._pytree import tree_leaves

import torch_trn
from torch_trn import _C, NoValueError

SAMPLES = 4
OTHER_STRIDES = {"nonzero_static"}  # of no elements
# What is written by a mask that is not known is charged as a whole, without the search for its positions.
OTHER_LAUNCHES = {"index_put"}
# The residuals' size follows from the rank.
OTHER_SIZES = {"linalg.lstsq", "linalg.lstsq.grad_oriented"}
NEED_VALUES = {
    "__getitem__",
    "allclose",
    "argwhere",
    "cov",
    "equal",
    "index_put",
    "item",
    "linalg.cholesky",
    "linalg.inv",
    "linalg.ldl_factor",
    "linalg.lu_factor",
    "linalg.matrix_power",
    "linalg.solve",
    "linalg.tensorinv",
    "linalg.tensorsolve",
    "linspace.tensor_overload",
    "logspace.tensor_overload",
    "masked_select",
    "narrow",
    "nn.functional.ctc_loss",
    "nn.functional.gaussian_nll_loss",
    "nonzero",
    "repeat_interleave",
    "unique",
    "unique_consecutive",
}
SPARSE = {"sparse.mm.reduce", "to_sparse"}


def described(results):
    return [
        (tuple(t.shape), t.dtype, t.stride(), t.storage_offset(), t.device, t.untyped_storage().nbytes())
        for t in tree_leaves(results)
        if isinstance(t, torch.Tensor)
    ]


def launches(recording):
    """Without the constants of instructions: a spec has those of the first launch of its kind in this process."""
    specs = [re.sub(r"'scalar1?': [-+.\w]+", "", str(spec)) for spec in recording.ledger.specs]
    return sorted((entry["op"], entry["launches"], specs[entry["spec"]]) for entry in recording.ledger.entries())


def problem_of(name, op, sample, device):
    args, kwargs = sample.on(device, requires_grad=False)
    try:
        with torch_trn.profile(modules=False, lines=False) as real:
            expected = described(op_cells.call(op, sample, args, kwargs, device))
    except Exception:
        return None  # the sample is none of this device's
    args, kwargs = sample.on(device, requires_grad=False)
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, torch.Tensor) and tensor.device.type == device.type:
            _C.lose_values(tensor)
    with torch_trn.dry_run(), torch_trn.profile(modules=False, lines=False) as dry:
        got = described(op_cells.call(op, sample, args, kwargs, device))
    if name in OTHER_STRIDES:
        expected, got = [e[:2] for e in expected], [g[:2] for g in got]
    if got != expected and name not in OTHER_SIZES:
        return f"{expected}, dry run {got}"
    if launches(dry) != launches(real) and name not in OTHER_LAUNCHES | OTHER_STRIDES:
        return f"launches {launches(real)}, dry run {launches(dry)}"
    return ""


@pytest.mark.filterwarnings("ignore")
def test_results_lie_as_in_a_real_run(device):
    op_cells.remove_seeding()
    problems, checked = {}, 0
    for name, op in cells.ops().items():
        if cells.JITERATOR in name or torch.float32 not in op.supported_dtypes("cpu"):
            continue
        for number, sample in enumerate(op_cells.samples_of(op, torch.float32, False, SAMPLES)):
            try:
                problem = problem_of(name, op, sample, device)
            except NoValueError as error:
                problem = "" if name in NEED_VALUES else str(error)
            except RuntimeError as error:
                problem = "" if name in SPARSE and "a dry run left without" in str(error) else str(error)
            checked += problem == ""
            if problem:
                problems[f"{name}[{number}]"] = problem
    assert problems == {}
    assert checked > 1800
