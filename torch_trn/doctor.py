"""Checks of an installation, for `trn doctor`: each says what it found and, where that is wrong, what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from torch_trn import native


class CheckError(Exception):
    """A check's finding, with the hint as second argument."""


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    detail: str
    hint: str = ""


def run_check(name: str, check: Callable[[], str]) -> Result:
    try:
        return Result(name, True, check())
    except CheckError as wrong:
        return Result(name, False, str(wrong.args[0]), str(wrong.args[1]))
    except Exception as error:
        return Result(name, False, f"{type(error).__name__}: {error}", "Install again: pip install --force-reinstall .")


def _wanted_torch() -> str | None:
    try:
        requirements = metadata.requires("torch_trn") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        found = re.match(r"torch\s*==\s*([\w.]+)", requirement)
        if found:
            return found.group(1)
    return None


def torch_version() -> str:
    import torch

    wanted, got = _wanted_torch(), torch.__version__.split("+")[0]
    if wanted is None:
        raise CheckError(
            f"torch {torch.__version__}, but torch_trn is not installed", "Run pip install . in its folder."
        )
    if got != wanted:
        raise CheckError(f"torch {got}, but torch_trn is built for {wanted}", f"Run pip install torch=={wanted}.")
    return torch.__version__


def extension() -> str:
    import torch

    settings = native.build_settings()
    built = str(settings["torch_version"]).split("+")[0]
    if built != torch.__version__.split("+")[0]:
        raise CheckError(
            f"torch_trn._C was compiled against torch {built}", "Run pip install --force-reinstall . again."
        )
    return str(native.extension().__file__)


def compile_flags() -> str:
    settings = native.build_settings()
    detail = ", ".join(str(settings[key]) for key in ("compiler", "build_type", "cxx_standard") if settings.get(key))
    if settings["build_type"] not in ("Release", "RelWithDebInfo"):
        raise CheckError(detail, "Without optimisation every operator is slow: build with -DCMAKE_BUILD_TYPE=Release.")
    return detail


def autoload() -> str:
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        raise CheckError("switched off", "Unset TORCH_DEVICE_BACKEND_AUTOLOAD, or write import torch_trn.")
    if "torch_trn" not in {point.name for point in metadata.entry_points(group="torch.backends")}:
        raise CheckError("the entry point torch.backends is missing", "Run pip install . in the folder of torch_trn.")
    device = _device_name()
    code = f"import torch; print(torch.ones(2, device={device!r}).sum().item())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # An editable install that rebuilds prints its build first.
    if child.returncode or child.stdout.split()[-1:] != ["2.0"]:
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        raise CheckError(last, "A fresh python should have the device after import torch; install torch_trn again.")
    return f'import torch is enough for device="{device}"'


def target_file() -> str:
    target = native.load_target()
    return f"{target.name} ({target.record['core']['generation']})"


def device_add() -> str:
    import torch

    x = torch.arange(-8.0, 8.0)
    got = (x.to(_device_name()) + 1).cpu()
    if not torch.equal(got, x + 1):
        raise CheckError(
            "x + 1 on the device is not what the CPU gives", "This is a bug of torch_trn: please report it."
        )
    return "x + 1 equals the CPU's"


def device_matmul() -> str:
    import torch

    a = torch.arange(48.0).reshape(6, 8) / 48
    b = torch.arange(40.0).reshape(8, 5) / 40
    got = (a.to(_device_name()) @ b.to(_device_name())).cpu()
    if not torch.allclose(got, a @ b, rtol=1e-5, atol=1e-6):
        raise CheckError(
            "a @ b on the device is not what the CPU gives", "This is a bug of torch_trn: please report it."
        )
    return "a @ b equals the CPU's"


def _device_name() -> str:
    import torch

    return torch._C._get_privateuse1_backend_name()


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("torch version", torch_version),
    ("extension", extension),
    ("compile flags", compile_flags),
    ("autoload", autoload),
    ("target file", target_file),
    ("device add", device_add),
    ("device matmul", device_matmul),
)
