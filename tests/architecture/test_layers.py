"""Includes in csrc follow the arrows that csrc/CMakeLists.txt draws; files say what they are for and stay short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".inc"))
OUTSIDE = re.compile(r"(torch|ATen|c10|caffe2|pybind11|libkineto)[/.]|Python\.h|structmember\.h|frameobject\.h")
MAY_USE_TORCH = {"aten", "distributed", "bindings"}
MAX_LINES = 500


def layers() -> dict[str, list[str]]:
    """Folder -> what its trn_layer() line depends on, in the file's order."""
    lines = re.findall(r"^trn_layer\((\w+)(?: DEPENDS ([^)]*))?\)", (CSRC / "CMakeLists.txt").read_text(), re.MULTILINE)
    return {folder: depends.split() for folder, depends in lines}


def below(folder: str) -> set[str]:
    """Folders that the arrows lead to from `folder`."""
    direct = {name.removeprefix("trn_") for name in layers()[folder] if name.startswith("trn_")}
    return direct.union(*(below(name) for name in direct)) if direct else direct


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', path.read_text(), re.MULTILINE)


def test_every_folder_is_a_layer() -> None:
    folders = {path.name for path in CSRC.iterdir() if path.is_dir() and any(path.rglob("*.cpp"))}
    assert folders <= set(layers())
    assert {path.relative_to(CSRC).parts[0] for path in SOURCES} <= set(layers())


def test_the_arrows_point_one_way() -> None:
    seen: set[str] = set()
    for folder, depends in layers().items():
        assert {name.removeprefix("trn_") for name in depends if name.startswith("trn_")} <= seen, folder
        seen.add(folder)


def test_only_the_seams_see_torch() -> None:
    assert {folder for folder, depends in layers().items() if "torch" in depends} == MAY_USE_TORCH


@pytest.mark.parametrize("folder", layers())
def test_includes_follow_the_arrows(folder: str) -> None:
    allowed = below(folder) | {folder}
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in SOURCES
        if path.relative_to(CSRC).parts[0] == folder
        for name in includes(path)
        if (OUTSIDE.match(name) and folder not in MAY_USE_TORCH)
        or ((CSRC / name).is_file() and name.split("/")[0] not in allowed)
    ]
    assert not wrong


def test_own_headers_are_named_from_csrc() -> None:
    """No `../`, nothing relative to the including file."""
    wrong = []
    for path in SOURCES:
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE):
            if not (CSRC / name).is_file() and not OUTSIDE.match(name):
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not wrong


def test_first_line_is_the_purpose() -> None:
    """A .cpp beside a header of its name leaves it to the header."""
    paths = [path for path in SOURCES if path.suffix != ".cpp" or not path.with_suffix(".h").exists()]
    first = {str(path.relative_to(ROOT)): path.read_text().partition("\n")[0] for path in paths}
    assert {path: line for path, line in first.items() if not re.fullmatch(r"// \S.*\S", line)} == {}


def test_files_stay_short() -> None:
    """Tables (.inc) aside."""
    python = [
        path for folder in ("torch_trn", "tests", "benchmarks", "examples") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    paths = [path for path in SOURCES if path.suffix != ".inc"] + python
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {path: number for path, number in lines.items() if number > MAX_LINES} == {}
