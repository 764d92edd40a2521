"""A PyTorch device for an AWS Trainium that is not there: `model.to("trn")`, counted and timed.

Importing this package registers the device; with the package installed, `import torch` does so by itself.
"""

from __future__ import annotations

import os
from pkgutil import extend_path
from typing import Any

import torch
from torch.utils.backend_registration import generate_methods_for_privateuse1_backend, rename_privateuse1_backend

# In the root of the source tree this folder hides the installed one, which has the extension.
__path__ = extend_path(__path__, __name__)

from torch_trn import (
    _C,
    context_parallel,
    distributed,
    dynamo,
    emu,
    failed_backward,
    flex_attention,
    flop_formulas,
    interop,
    numerics,
    rank_placement,
    recomputation,
    replication,
    target_files,
)
from torch_trn import device as _device_module
from torch_trn import strict as _strict
from torch_trn.dry_run import NoValueError, Read, dry_run, is_dry_run
from torch_trn.dry_run import apply_environment as _apply_dry_run_environment
from torch_trn.libraries import LIBRARIES
from torch_trn.numerics import NarrowingWarning, narrowed_operators, reference_operators, set_numerics
from torch_trn.rank_placement import placement, set_placement
from torch_trn.strict import strict
from torch_trn.target import current_target, set_target, targets

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "DeadlockError",
    "Ledger",
    "NarrowingWarning",
    "NoValueError",
    "RankError",
    "Read",
    "Recording",
    "Simulation",
    "compare",
    "current_target",
    "device_name",
    "dry_run",
    "emu",
    "is_dry_run",
    "merge",
    "narrowed_operators",
    "placement",
    "profile",
    "reference_operators",
    "scale",
    "set_numerics",
    "set_placement",
    "set_target",
    "simulate",
    "strict",
    "targets",
]


def device_name() -> str:
    """Name of the device type: "trn", or what TORCH_TRN_DEVICE_NAME said when torch was imported."""
    return str(torch._C._get_privateuse1_backend_name())


def _num_devices(target: target_files.TargetFile) -> int:
    """TORCH_TRN_NUM_DEVICES, else NEURON_RT_NUM_CORES, else one chip's devices."""
    for variable in ("TORCH_TRN_NUM_DEVICES", "NEURON_RT_NUM_CORES"):
        text = os.environ.get(variable, "").strip()
        if text:
            try:
                number = int(text)
            except ValueError:
                number = 0
            if not 1 <= number <= 128:
                raise ValueError(f"[devices] {variable} must be a number of devices; got {text!r}, limit 1 to 128.")
            return number
    return int(target["chip"]["num_devices"])


def _asked_device_name() -> str:
    """TORCH_TRN_DEVICE_NAME, else "trn": letters and _, as torch reads a device's type, that torch has not taken."""
    name = os.environ.get("TORCH_TRN_DEVICE_NAME", "").strip() or "trn"
    is_word = name.isascii() and name.replace("_", "").isalpha() and name.islower()
    is_here = name == device_name() != "privateuseone"
    if not is_word or not (is_here or _is_free(name)):
        raise ValueError(
            "[devices] TORCH_TRN_DEVICE_NAME must be lower-case letters and _, and no name that torch has; "
            f"got {name!r}. Leave it out for trn."
        )
    return name


def _is_free(name: str) -> bool:
    if hasattr(torch, name) or hasattr(torch.Tensor, name) or hasattr(torch.Tensor, f"is_{name}"):
        return False
    try:
        torch.device(name)
    except RuntimeError:
        return True
    return False


def _register() -> None:
    name = _asked_device_name()
    target = target_files.resolve()
    rename_privateuse1_backend(name)
    _C.configure(_C.Target(target), _num_devices(target))
    torch._register_device_module(name, _device_module)  # type: ignore[no-untyped-call]
    generate_methods_for_privateuse1_backend(for_storage=True)
    _device_module.register_submodules(name)
    if name == "neuron":
        from torch_trn import as_torch_neuronx

        as_torch_neuronx.install()
    interop.install()
    replication.install()
    failed_backward.install()
    recomputation.install()
    distributed.install()
    context_parallel.install()
    dynamo.install()
    flex_attention.install()
    flop_formulas.install()
    _C.set_library_folders(list(LIBRARIES))
    _C.set_owner_tagger(_device_module.memory._tag_owners)
    _strict.apply_environment()
    _apply_dry_run_environment()
    numerics.apply_environment()
    rank_placement.apply_environment()


def __getattr__(name: str) -> Any:
    # The profile brings the report's machinery; importing torch must not pay for it.
    if name == "profile":
        from torch_trn.profiler import profile

        return profile
    if name in ("Comparison", "compare"):
        from torch_trn import comparison

        return getattr(comparison, name)
    if name == "merge":
        from torch_trn.job import merge

        return merge
    if name == "Ledger":
        from torch_trn.ledger import Ledger

        return Ledger
    if name in ("DeadlockError", "RankError", "Simulation", "simulate"):
        from torch_trn import simulation

        return getattr(simulation, name)
    if name == "scale":
        from torch_trn.scaling import scale

        return scale
    if name == "Recording":
        from torch_trn.recording import Recording

        return Recording
    raise AttributeError(f"module 'torch_trn' has no attribute {name!r}")


_register()
