"""The package as a fresh interpreter finds it: light to import, portable, switched by the environment."""

import os
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import torch_trn
from torch_trn import _C, target_files

PATH_TAGS = {15: "RPATH", 29: "RUNPATH"}
STRING_TABLE = 5
DYNAMIC = 2
LOAD = 1


def python(code: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter; None removes a variable."""
    changed = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in changed.items() if value is not None},
    )


def said(code: str, **environment: str | None) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def installed() -> bool:
    return "torch_trn" in {point.name for point in metadata.entry_points(group="torch.backends")}


needs_install = pytest.mark.skipif(not installed(), reason="torch_trn is imported from its source tree, not installed")


def library_paths(library: Path) -> list[str]:
    """RPATH and RUNPATH entries of a 64-bit little-endian ELF file."""
    data = library.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    segments = [struct.unpack_from("<IIQQQQQQ", data, table + i * size) for i in range(count)]

    def offset_of(address: int) -> int:
        for kind, _, offset, start, _, length, _, _ in segments:
            if kind == LOAD and start <= address < start + length:
                return int(offset + address - start)
        raise AssertionError(f"no segment holds {address:#x}")

    (dynamic,) = [(offset, length) for kind, _, offset, _, _, length, _, _ in segments if kind == DYNAMIC]
    entries = [struct.unpack_from("<QQ", data, at) for at in range(dynamic[0], sum(dynamic), 16)]
    strings = offset_of(next(value for tag, value in entries if tag == STRING_TABLE))
    found = []
    for tag, value in entries:
        if tag in PATH_TAGS:
            end = data.index(b"\0", strings + value)
            found.append(f"{PATH_TAGS[tag]} {data[strings + value : end].decode()}")
    return found


def test_extension_has_no_path_into_a_build_environment() -> None:
    assert library_paths(Path(_C.__file__)) == []


def test_the_elf_reader_finds_a_path() -> None:
    """libtorch_python.so has one; without this, a reader that finds nothing would pass."""
    import torch

    paths = library_paths(Path(torch.__file__).parent / "lib" / "libtorch_python.so")
    assert any("$ORIGIN" in path for path in paths)


def test_target_files_come_along() -> None:
    assert {path.stem for path in Path(target_files.__file__).parent.glob("*.toml")} == set(torch_trn.targets())


@needs_install
def test_requirements_are_few_and_torch_is_pinned() -> None:
    needed = [line for line in metadata.requires("torch_trn") or [] if "extra ==" not in line]
    assert "torch==2.13.0" in needed
    assert {line.split("=")[0].rstrip(">") for line in needed} == {"torch", "numpy", "rich", "typer"}


@needs_install
@pytest.mark.parametrize("imports", ["import torch", "import torch_trn, torch", "import torch_trn.cli, torch"])
def test_autoload_in_any_order_of_imports(imports: str) -> None:
    code = f"{imports}; print(torch.ones(2, device='trn').sum().item())"
    environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": None, "TORCH_TRN_DEVICE_NAME": None}
    assert said(code, **environment) == "2.0"


def test_autoload_can_be_switched_off() -> None:
    code = "import sys, torch; print('torch_trn' in sys.modules, torch._C._get_privateuse1_backend_name())"
    assert said(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "False privateuseone"


@needs_install
def test_commands_are_installed() -> None:
    (point,) = [point for point in metadata.entry_points(group="console_scripts") if point.name == "trn"]
    assert point.value == "torch_trn.cli:main"


@pytest.mark.parametrize("name", ["neuron", "npu"])
def test_the_device_can_be_renamed(name: str) -> None:
    code = (
        "import torch, torch_trn\n"
        f"x = torch.ones(2, device='{name}') + 1\n"
        f"print(x.device, x.is_{name}, torch.{name}.device_count() > 0, torch_trn.device_name(), x.sum().item())"
    )
    assert said(code, TORCH_TRN_DEVICE_NAME=name) == f"{name}:0 True True {name} 4.0"


def test_a_renamed_device_leaves_no_trn_behind() -> None:
    done = python("import torch, torch_trn; torch.ones(2, device='trn')", TORCH_TRN_DEVICE_NAME="neuron")
    assert done.returncode == 1
    assert "device string: trn" in done.stderr


@pytest.mark.parametrize("name", ["foo bar", "trn2", "cpu", "privateuseone", "leaf"])
def test_a_bad_device_name_is_explained(name: str) -> None:
    done = python("import torch, torch_trn", TORCH_TRN_DEVICE_NAME=name)
    assert done.returncode == 1
    assert "[devices] TORCH_TRN_DEVICE_NAME must be lower-case letters and _" in done.stderr
    assert f"got {name!r}" in done.stderr


@pytest.mark.parametrize("autoload", ["0", "1"])
def test_an_unknown_target_stops_the_import(autoload: str) -> None:
    environment = {"TORCH_TRN_TARGET": "trn9", "TORCH_DEVICE_BACKEND_AUTOLOAD": autoload}
    done = python("import torch, torch_trn", **environment)
    assert done.returncode == 1
    assert "TargetError" in done.stderr and "trn9" in done.stderr


def test_a_bad_target_file_names_the_field(tmp_path: Path) -> None:
    text = (Path(target_files.__file__).parent / "trn2.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("tensor_clock_hz", "tensor_clock_herz", 1))
    done = python("import torch, torch_trn", TORCH_TRN_TARGET=str(path))
    assert done.returncode == 1
    assert "tensor_clock_herz" in done.stderr and "Did you mean tensor_clock_hz?" in done.stderr


@pytest.mark.parametrize("variable", ["TORCH_TRN_NUM_DEVICES", "NEURON_RT_NUM_CORES"])
def test_the_number_of_devices_is_checked(variable: str) -> None:
    environment = {"TORCH_TRN_NUM_DEVICES": None, "NEURON_RT_NUM_CORES": None}
    code = "import torch, torch_trn; print(torch.get_device_module(torch_trn.device_name()).device_count())"
    assert said(code, **{**environment, variable: "3"}) == "3"
    done = python(code, **{**environment, variable: "none"})
    assert done.returncode == 1
    assert f"[devices] {variable} must be a number of devices; got 'none', limit 1 to 128." in done.stderr


def test_the_import_is_light() -> None:
    heavy = ["rich", "typer", "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sklearn", "pytest"]
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport torch_trn\n"
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    assert said(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "[]"


def test_the_source_tree_does_not_hide_the_extension() -> None:
    """Started in the root of the source tree, Python finds that folder's torch_trn first."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import torch, torch_trn; print(torch_trn._C.__name__)"],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch_trn._C"
