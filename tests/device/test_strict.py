"""Strict modes: what is slow, undefined or meaningless on the hardware raises."""

import os
import subprocess
import sys
from io import BytesIO

import pytest
import torch
import torch.distributed as dist

import torch_trn


def test_an_operator_that_the_hardware_would_run_on_the_host_raises():
    x = torch.ones(3, 3).to("trn")
    with torch_trn.strict(fallback=True):
        assert (x @ x).sum().item() == 27
        with pytest.raises(NotImplementedError, match=r"\[strict\].*aten::.*svd.*which TorchNeuron runs on the host"):
            torch.linalg.svd(x)
    torch.linalg.svd(x)


def test_fresh_memory_reads_as_nan():
    with torch_trn.strict(uninitialized=True):
        assert torch.empty(1000, device="trn").isnan().all()
        assert (torch.empty(10, device="trn", dtype=torch.int32) == -1).all()
        assert torch.zeros(10, device="trn").sum().item() == 0


def test_a_program_that_reads_fresh_memory_raises():
    x = torch.ones(3, 4, device="trn")
    with torch_trn.set_numerics("hardware"), torch_trn.strict(uninitialized="raise"):
        fresh = torch.empty(3, 4, device="trn")
        for read in (lambda: x + fresh, lambda: x @ fresh.t(), lambda: fresh.sum(), lambda: fresh.add_(1), fresh.clone):
            with pytest.raises(RuntimeError, match=r"\[aten::\w+.*written before they are read.*fresh memory in hbm"):
                read()
        fresh[:, ::2] = 1
        assert (fresh[:, ::2] + x[:, ::2]).tolist() == [[2, 2]] * 3
        with pytest.raises(RuntimeError, match="fresh memory"):
            fresh + x
        fresh[:, 1::2] = float("nan")
        assert (fresh + x).isnan().sum().item() == 6
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.GELU())
        model.to("trn")(x).mean().backward()
    with torch_trn.set_numerics("hardware"):
        x + torch.empty(3, 4, device="trn")
    with pytest.raises(ValueError, match=r"uninitialized is False, True or .raise.; got 'maybe'"):
        torch_trn.strict(uninitialized="maybe")


def test_a_device_pointer_does_not_reach_host_code():
    x = torch.ones(3, device="trn")
    with torch_trn.strict(pointers=True):
        storage = x.untyped_storage()
        for owner in (x, storage, torch.storage.TypedStorage(wrap_storage=storage, dtype=x.dtype, _internal=True)):
            with pytest.raises(RuntimeError, match=r"\[strict\] a device pointer.*trn:0.*\.cpu\(\)"):
                owner.data_ptr()
        assert torch.ones(3).data_ptr() != 0
        torch.save(x, BytesIO())
    assert x.data_ptr() != 0
    assert "data_ptr" not in torch.Tensor.__dict__ and "data_ptr" in torch.storage.TypedStorage.__dict__


def test_modes_nest_and_end():
    with torch_trn.strict(uninitialized=True):
        with torch_trn.strict(pointers=True), pytest.raises(RuntimeError, match="strict"):
            torch.ones(1, device="trn").data_ptr()
        assert torch.empty(1000, device="trn").isnan().all()
        torch.ones(1, device="trn").data_ptr()


@pytest.mark.parametrize(("value", "code"), [("uninitialized", 0), ("1", 0), ("uninitialized=raise", 0), ("speed", 1)])
def test_the_environment_sets_them(value, code):
    program = "import torch, torch_trn; assert torch.empty(100, device='trn').isnan().all()"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TORCH_TRN_STRICT": value},
        capture_output=True,
    )
    assert (run.returncode != 0) == bool(code), run.stderr.decode()
    if code:
        assert b"[strict] TORCH_TRN_STRICT takes" in run.stderr


def ranks_fresh_memory():
    dist.init_process_group()
    return bool(torch.empty(1000, device="trn").isnan().all())


def test_fresh_memory_of_devices_added_later_reads_as_nan():
    with torch_trn.strict(uninitialized=True):
        num_devices = torch.trn.device_count() + 2
        assert torch_trn.simulate(ranks_fresh_memory, num_devices, profile=False).results == [True] * num_devices


def test_compare_under_strict_pointers():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    with torch_trn.strict(pointers=True):
        assert torch_trn.compare(model, torch.randn(4, 8)).first is None
