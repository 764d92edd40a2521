"""torch.trn: names, current device, contexts, properties, torch.accelerator, fork."""

import os
import subprocess
import sys

import pytest
import torch

trn = torch.trn
SEVERAL = pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")

# torch_neuronx/neuron.py
NEURON_NAMES = """is_initialized is_available init device_count current_device set_device get_device_name
get_device_properties device get_amp_supported_dtype is_bf16_supported manual_seed manual_seed_all seed seed_all
initial_seed get_rng_state set_rng_state Stream stream current_stream default_stream set_stream synchronize Event
memory_stats memory_allocated max_memory_allocated memory_reserved max_memory_reserved reset_peak_memory_stats
reset_accumulated_memory_stats memory_summary empty_cache _sleep get_dynamo_metrics reset_dynamo_metrics"""

# torch.cuda's names that mean something without CUDA's libraries.
CUDA_NAMES = """is_available is_initialized init _lazy_init device_count current_device set_device device device_of
_exchange_device _maybe_exchange_device synchronize get_device_name get_device_properties get_device_capability
mem_get_info memory_stats memory_stats_as_nested_dict memory_summary memory_snapshot memory_allocated
max_memory_allocated memory_reserved max_memory_reserved memory_cached max_memory_cached reset_peak_memory_stats
reset_accumulated_memory_stats reset_max_memory_allocated reset_max_memory_cached empty_cache ipc_collect
set_per_process_memory_fraction get_per_process_memory_fraction Stream Event StreamContext stream current_stream
default_stream set_stream manual_seed manual_seed_all seed seed_all initial_seed get_rng_state set_rng_state
get_rng_state_all set_rng_state_all default_generators is_bf16_supported _is_in_bad_fork _is_compiled
can_device_access_peer get_arch_list clock_rate is_current_stream_capturing OutOfMemoryError amp memory random streams
FloatTensor LongTensor HalfTensor BFloat16Tensor comm"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", sorted({*NEURON_NAMES.split(), *CUDA_NAMES.split()}))
def test_name_exists(name):
    assert hasattr(trn, name)


def test_public_names_resolve():
    for name in trn.__all__:
        assert getattr(trn, name) is not None


def test_registered_as_torch_module():
    import torch.trn as module

    assert module is trn is torch.get_device_module("trn")
    from torch.trn import amp

    assert amp is trn.amp


def test_autoloads_without_import():
    done = run_python("import torch; print(torch.randn(2, device='trn').sum().item() is not None)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


def test_import_stays_light():
    code = (
        "import torch, sys; assert torch.trn.is_available(); "
        "heavy = ('torch._dynamo', 'torch._inductor', 'torch.utils.flop_counter', 'rich'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_import_does_not_initialise():
    done = run_python("import torch; print(torch.trn.is_initialized(), torch.trn.memory_allocated())")
    assert done.stdout.split() == ["False", "0"], done.stdout + done.stderr


def test_renamed_backend():
    code = (
        "import torch; x = torch.ones(2, device='neuron:0'); print(x.device, torch.neuron.device_count() > 0, "
        "x.is_neuron, torch.neuron.Stream().device.type, torch.from_dlpack(x).device, type(x.neuron()).__name__)"
    )
    done = run_python(code, TORCH_TRN_DEVICE_NAME="neuron")
    assert done.stdout.split() == ["neuron:0", "True", "True", "neuron", "neuron:0", "Tensor"], done.stderr


def test_available_and_initialised():
    torch.empty(1, device="trn")
    assert trn.is_available() and trn.is_initialized() and trn.device_count() >= 1
    trn.init()


def test_current_device_follows_set_device():
    assert trn.current_device() == 0
    try:
        trn.set_device(trn.device_count() - 1)
        assert trn.current_device() == trn.device_count() - 1
        assert torch.empty(1, device="trn").device.index == trn.device_count() - 1
        trn.set_device(-1)
        assert trn.current_device() == trn.device_count() - 1
        trn.set_device("trn:0")
        assert trn.current_device() == 0
    finally:
        trn.set_device(0)


@SEVERAL
@pytest.mark.parametrize("place", [1, "trn:1", torch.device("trn", 1)])
def test_device_context(place):
    with trn.device(place):
        assert trn.current_device() == 1
        assert torch.empty(1, device="trn").device == torch.device("trn:1")
    assert trn.current_device() == 0


@pytest.mark.parametrize("place", [None, -1, "trn"])
def test_device_context_without_effect(place):
    with trn.device(place):
        assert trn.current_device() == 0


@SEVERAL
def test_device_of():
    with trn.device_of(torch.empty(1, device="trn:1")):
        assert trn.current_device() == 1
    with trn.device_of(torch.empty(1)):
        assert trn.current_device() == 0
    assert trn.current_device() == 0


@SEVERAL
def test_exchange_device():
    assert trn._exchange_device(1) == 0
    assert trn._exchange_device(-1) == -1
    assert trn.maybe_exchange_device(0) == 1
    assert trn.current_device() == 0


def test_current_device_is_per_thread():
    import threading

    seen = []
    trn.set_device(trn.device_count() - 1)
    try:
        thread = threading.Thread(target=lambda: seen.append(trn.current_device()))
        thread.start()
        thread.join()
    finally:
        trn.set_device(0)
    assert seen == [0]


@pytest.mark.parametrize("make", [lambda: trn.set_device(99), lambda: torch.empty(1, device="trn:99")])
def test_unknown_device_raises(make):
    with pytest.raises(RuntimeError, match="99"):
        make()
    assert trn.current_device() == 0


def test_wrong_device_type_raises():
    with pytest.raises(ValueError, match="Expected a trn device"):
        trn.get_device_properties("cpu")
    with pytest.raises(ValueError, match="specified index"):
        trn.set_device("trn")


def test_properties():
    properties = trn.get_device_properties()
    assert properties.name == trn.get_device_name(0)
    assert properties.total_memory == trn.mem_get_info()[1]
    assert properties.multi_processor_count >= 1
    assert trn.get_device_capability("trn:0") == (properties.major, properties.minor)
    assert trn.clock_rate() == round(properties.clock_hz / 1e6)
    assert not trn.can_device_access_peer(0, 0)


def test_accelerator_agrees():
    accelerator = torch.accelerator
    assert accelerator.current_accelerator() == torch.device("trn")
    assert accelerator.is_available()
    assert accelerator.device_count() == trn.device_count()
    assert accelerator.current_device_index() == trn.current_device()
    assert accelerator.get_memory_info() == trn.mem_get_info()
    assert torch.bfloat16 in accelerator.get_device_capability()["supported_dtypes"]
    accelerator.synchronize()
    with accelerator.device_index(trn.device_count() - 1):
        assert trn.current_device() == trn.device_count() - 1
    assert trn.current_device() == 0


def test_default_device_and_device_context():
    with torch.device("trn"):
        assert torch.ones(2).device.type == "trn"
    torch.set_default_device("trn")
    try:
        assert torch.nn.Linear(2, 2).weight.device.type == "trn"
    finally:
        torch.set_default_device(None)


@SEVERAL
def test_copy_between_devices():
    x = torch.arange(6.0, device="trn:0").reshape(2, 3)
    y = x.to("trn:1")
    assert y.device.index == 1 and y.data_ptr() != x.data_ptr()
    y.add_(1)
    assert torch.equal(x.cpu() + 1, y.cpu())


@SEVERAL
def test_lists_of_several_devices():
    """Each member for itself, as on other accelerators."""
    lists = [[torch.randn(3), torch.randn(2)] for _ in range(2)]
    spread = [[t.to(f"trn:{i}") for i, t in enumerate(tensors)] for tensors in lists]
    for result, expected in zip(torch._foreach_add(*spread), torch._foreach_add(*lists), strict=True):
        assert torch.equal(result.cpu(), expected)
    torch._foreach_mul_(spread[0], 2.0)
    assert [t.device.index for t in spread[0]] == [0, 1]
    assert torch.equal(spread[0][1].cpu(), lists[0][1] * 2)
    for norm, tensor in zip(torch._foreach_norm(spread[1]), lists[1], strict=True):
        torch.testing.assert_close(norm.cpu(), tensor.norm())


def test_forked_child_refuses_the_device():
    code = """
import os, torch
import torch_trn
x, dropped = torch.ones(2, device="trn"), torch.ones(3, device="trn")
cuttings = [dropped.cpu(), dropped[1:]]
recording, strict = torch_trn.profile().__enter__(), torch_trn.strict(pointers=True)
pid = os.fork()
if pid == 0:
    code = 3
    try:
        recording.__exit__(None, None, None)
        strict.__exit__(None, None, None)
        assert torch.trn._is_in_bad_fork()
        torch.manual_seed(0)
        torch.ones(2).sum()
        del dropped, cuttings  # the child's copy of a tensor, and not the device's memory
        torch.trn.set_device(0)
        torch.ones(2, device="trn")
    except RuntimeError as error:
        code = 0 if "spawn" in str(error) else 4
    os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), torch.trn._is_in_bad_fork(), x.sum().item())
"""
    done = run_python(code)
    assert done.stdout.split() == ["0", "False", "2.0"], done.stdout + done.stderr


def test_dynamo_metrics_before_compile():
    done = run_python("import torch; print(torch.trn.get_dynamo_metrics()); torch.trn.reset_dynamo_metrics()")
    assert done.stdout.strip() == "{}"


def test_legacy_tensor_types():
    x = torch.ones(3, device="trn")
    assert x.type() == "torch.trn.FloatTensor"
    assert isinstance(x, trn.FloatTensor) and not isinstance(x, trn.LongTensor)
    assert not isinstance(torch.ones(3), trn.FloatTensor)
    assert trn.LongTensor([1, 2]).device.type == "trn"
    assert trn.HalfTensor(2, 3).shape == (2, 3)
    assert x.type(trn.HalfTensor).dtype == torch.float16 and x.type("torch.trn.LongTensor").dtype == torch.int64
    assert repr(trn.HalfTensor) == "<class 'torch.trn.HalfTensor'>"
    with pytest.raises(AttributeError, match="NoSuchTensor"):
        _ = trn.NoSuchTensor


def test_generated_methods():
    x = torch.ones(3)
    assert x.trn().is_trn and not x.is_trn
    assert torch.nn.Linear(2, 2).trn().weight.is_trn
    assert x.untyped_storage().trn().is_trn
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    assert packed.trn().is_trn
