"""What every test shares: this folder on the import path, and the device under test left as it was found."""

import gc
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from sections import Sections

DEVICE = os.environ.get("TORCH_TRN_TEST_DEVICE", os.environ.get("TORCH_TRN_DEVICE_NAME", "trn"))

if DEVICE != "cpu":
    importlib.import_module("torch_trn")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Sections())
    if getattr(config.option, "maxworkerrestart", "") is None:
        # A process that died is a failure: pytest-xdist would start another, and may wait for that one without end.
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share what they set up, and those of opinfo/ one run of PyTorch's databases: one process each."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return "opinfo" if "/opinfo/" in path else path

    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """The tests themselves, objects by the million, are not looked through by every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device() -> torch.device:
    """The device under test; TORCH_TRN_TEST_DEVICE=cpu runs a test against CPU itself."""
    return torch.device(DEVICE)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Fixed seeds on entry; CPU generator and number of threads restored on exit."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


@pytest.fixture
def memory_baseline(device: torch.device) -> Iterator[int]:
    """Bytes allocated on the device before the test; whatever the test allocates must be free again after it."""
    gc.collect()
    module = getattr(torch, device.type)
    before = module.memory_allocated()
    yield before
    gc.collect()
    assert module.memory_allocated() == before
