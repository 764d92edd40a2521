"""DLPack, numpy, the array protocols, other processes, host pointers."""

import multiprocessing
import multiprocessing.connection
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as torch_multiprocessing
from torch import nn
from torch.utils.dlpack import DLDeviceType, from_dlpack, to_dlpack


def test_dlpack_round_trip_shares_memory():
    x = torch.arange(6.0, device="trn").reshape(2, 3)
    assert x.__dlpack_device__() == (DLDeviceType.kDLExtDev, 0)
    for y in (torch.from_dlpack(x), from_dlpack(to_dlpack(x)), torch.from_dlpack(x.__dlpack__())):
        assert y.device == x.device and y.data_ptr() == x.data_ptr()
        y[0, 0] = 9
        assert x[0, 0].item() == 9
        x[0, 0] = 0
    strided = torch.from_dlpack(x.t())
    assert strided.stride() == (1, 3)


def test_dlpack_keeps_memory_alive():
    base = torch.trn.memory_allocated()
    y = torch.from_dlpack(torch.ones(1000, device="trn"))
    assert y.sum().item() == 1000
    del y
    assert torch.trn.memory_allocated() == base


def test_dlpack_rules():
    with pytest.raises(BufferError, match="gradient"):
        torch.from_dlpack(torch.ones(2, device="trn", requires_grad=True))
    copied = torch.from_dlpack(torch.ones(2, device="trn"), device="cpu")
    assert copied.device.type == "cpu"
    with pytest.raises((BufferError, RuntimeError, TypeError, ValueError)):
        np.from_dlpack(torch.ones(2, device="trn"))
    assert torch.ones(2).__dlpack_device__()[0] == DLDeviceType.kDLCPU


@pytest.mark.skipif(torch.trn.device_count() < 2, reason="needs two devices")
def test_dlpack_device_index():
    x = torch.ones(2, device="trn:1")
    assert x.__dlpack_device__() == (DLDeviceType.kDLExtDev, 1)
    assert torch.from_dlpack(x).device == x.device


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_numpy_refuses():
    x = torch.ones(3, device="trn")
    for convert in (x.numpy, lambda: np.asarray(x), lambda: np.array(x, copy=True)):
        with pytest.raises(TypeError, match=r"can't convert trn:0 device type tensor to numpy.*cpu\(\)"):
            convert()
    assert np.array_equal(x.numpy(force=True), np.ones(3, dtype=np.float32))
    assert np.array_equal(x.cpu().numpy(), np.ones(3, dtype=np.float32))


def test_from_numpy_moves():
    array = np.arange(6.0).reshape(2, 3)[:, ::2]
    assert np.array_equal(torch.from_numpy(array).to("trn").cpu().numpy(), array)
    assert torch.tensor(array, device="trn").device.type == "trn"
    assert torch.as_tensor(array, device="trn").device.type == "trn"


def test_python_scalars():
    x = torch.tensor([1.5], device="trn")
    assert float(x) == 1.5 and int(x) == 1 and bool(x) and x.item() == 1.5 and x.tolist() == [1.5]
    assert f"{x[0]:.1f}" == "1.5"
    assert list(range(5))[torch.tensor(2, device="trn")] == 2
    assert 1.5 in x
    assert [v.item() for v in torch.arange(3, device="trn")] == [0, 1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3, device="trn"),
        lambda: nn.Parameter(torch.ones(3, device="trn")),
        lambda: torch.ones(3, device="trn").untyped_storage(),
        lambda: nn.Linear(2, 2).to("trn"),
    ],
)
def test_other_processes_are_refused(make):
    with pytest.raises(RuntimeError, match=r"never shared between processes.*cpu\(\)"):
        multiprocessing.reduction.ForkingPickler.dumps(make())


def answer(process, queue):
    """What the child put into its queue; fails with its exit code where it ends first, or says nothing for minutes."""
    ready = multiprocessing.connection.wait([queue._reader, process.sentinel], timeout=180)
    if queue._reader not in ready:
        if not ready:
            process.kill()
        process.join()
        pytest.fail(f"the child process gave no answer; exit code {process.exitcode}")
    return queue.get()


def _doubled(receive, send) -> None:
    send.put(receive.get() * 2)
    receive.get()


def test_cpu_tensors_still_cross_processes():
    context = torch_multiprocessing.get_context("spawn")
    there, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_doubled, args=(there, back))
    process.start()
    there.put(torch.arange(3))
    assert answer(process, back).tolist() == [0, 2, 4]
    there.put(None)
    process.join(timeout=180)
    assert process.exitcode == 0


def test_share_memory_is_a_no_op_as_on_cuda():
    x = torch.ones(3, device="trn")
    assert x.share_memory_().data_ptr() == x.data_ptr()


def _dies(queue) -> None:
    os._exit(3)


def test_a_dead_child_fails_the_wait():
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_dies, args=(queue,))
    process.start()
    with pytest.raises(pytest.fail.Exception, match="exit code 3"):
        answer(process, queue)


def _child(queue) -> None:
    queue.put(torch.ones(3, device="trn").sum().item())


def test_spawned_process_has_its_own_device():
    context = torch_multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue,))
    process.start()
    assert answer(process, queue) == 3
    process.join()
    assert process.exitcode == 0
