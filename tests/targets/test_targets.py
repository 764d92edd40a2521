"""Target files: they add up, every figure has a source, and a bad file is told which field is wrong."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torch_trn import target_files as targets
from torch_trn.target_files import TargetError
from torch_trn.target_files.identities import identities
from torch_trn.target_files.schema import FIELDS

FOLDER = Path(targets.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "targets.md"
NAMES = ["inf2", "trn1", "trn2", "trn3"]
GIB = 2**30

# The target files' own sources, typed a second time on purpose.
PRINTED = {
    "trn1": ((2.8e9, 1.12e9, 1.4e9, 1.4e9), 192, 272e9, 1, 16, 410e9, 95e12, 23.75e12, 95e12, 2),
    "inf2": ((2.8e9, 1.12e9, 1.4e9, 1.4e9), 192, 272e9, 1, 16, 410e9, 95e12, 23.75e12, 95e12, 2),
    "trn2": ((2.4e9, 0.96e9, 1.2e9, 1.2e9), 224, 368e9, 2, 24, 725e9, 166.75e12, 45.25e12, 324.75e12, 4),
    "trn3": ((2.4e9, 1.2e9, 1.2e9, 1.2e9), 256, 528e9, 2, 36, 1225e9, 167.75e12, 45.75e12, 629.25e12, 4),
}
INSTANCES = {
    "trn1.2xlarge": ("trn1", 1, 32, 1.34375),
    "trn1.32xlarge": ("trn1", 16, 512, 21.5),
    "trn1n.32xlarge": ("trn1", 16, 512, 24.78),
    "inf2.xlarge": ("inf2", 1, 32, 0.7582),
    "inf2.8xlarge": ("inf2", 1, 32, 1.96786),
    "inf2.24xlarge": ("inf2", 6, 192, 6.49063),
    "inf2.48xlarge": ("inf2", 12, 384, 12.98127),
    "trn2.3xlarge": ("trn2", 1, 96, 2.235),
    "trn2.48xlarge": ("trn2", 16, 1536, 0),
    "trn2u.48xlarge": ("trn2", 16, 1536, 0),
    "trn2-ultraserver": ("trn2", 64, 6144, 0),
    "trn3-ultraserver-gen1": ("trn3", 64, 9216, 0),
    "trn3-ultraserver-gen2": ("trn3", 144, 20736, 0),
}


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def variant(folder: Path, body: str, base: str = "trn2") -> Path:
    """A file that lays `body` over a packaged target."""
    return write(folder, f'base = "{base}"\nname = "my-chip"\n{body}\n')


def error_of(path: Path) -> str:
    with pytest.raises(TargetError) as caught:
        targets.load(path)
    return str(caught.value)


def leaves(table: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a raw file; a figure with its source is one leaf."""
    if isinstance(table, dict) and "value" not in table:
        for key, value in table.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(table, list):
        for i, value in enumerate(table):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, table


def test_names() -> None:
    assert targets.names() == NAMES
    assert [targets.load(name)["name"] for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_printed_figures(name: str) -> None:
    target = targets.load(name)
    core, device, chip = target["core"], target["device"], target["chip"]
    clocks = tuple(core[f"{engine}_clock_hz"] for engine in ("tensor", "vector", "scalar", "gpsimd"))
    assert PRINTED[name] == (
        clocks,
        core["sbuf_bytes_per_partition"] // 1024,
        core["dma_bytes_per_second"],
        device["num_cores"],
        device["hbm_bytes"] // GIB,
        device["hbm_bytes_per_second"],
        device["peak_bf16_flops_per_second"],
        device["peak_fp32_flops_per_second"],
        device["peak_fp8_flops_per_second"],
        chip["num_devices"],
    )


def test_instances() -> None:
    found = {
        i["name"]: (name, i["num_chips"], i["hbm_bytes"] // GIB, i["usd_per_hour"])
        for name in NAMES
        for i in targets.load(name)["instances"]
    }
    assert found == INSTANCES


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    target = targets.load(name)
    figures = set()
    for path, leaf in leaves(raw):
        if isinstance(leaf, dict):
            assert len(leaf["source"]) >= 4, path
            figures.add(path)
        else:
            assert isinstance(leaf, str), f"{path} is a number without a source"
    assert figures == set(target.sources)


@pytest.mark.parametrize("name", NAMES)
def test_identities_hold(name: str) -> None:
    target = targets.load(name)
    checked = list(identities(target, target.documented))
    assert all(identity.holds() for identity in checked)
    assert len(checked) >= 16 + len(target["instances"]) - 1
    limits = {identity.limit.removeprefix("documented.") for identity in checked}
    unused = set(target.documented) - limits
    assert unused == {"core_peak_resolution_flops_per_second", "chip_peak_tolerance"}


def test_peak_follows_from_the_clock() -> None:
    target = targets.load("trn2")
    peak = 2 * 128 * 128 * target["core"]["tensor_clock_hz"]
    assert peak == pytest.approx(target.documented["core_peak_bf16_flops_per_second"], abs=0.5e12)
    # The calibrations on trn2 (docs/contract.md) give back what they were fitted on.
    device = target["device"]
    assert 2 * peak * device["tensor_efficiency"] == pytest.approx(149.42e12, rel=1e-3)
    assert 2 * peak / 4 * device["tensor_efficiency"] == pytest.approx(37.67e12, rel=0.01)
    assert device["hbm_bytes_per_second"] * device["hbm_efficiency"] == pytest.approx(601e9, rel=1e-3)
    assert device["num_cores"] * target["core"]["dma_bytes_per_second"] > 601e9


def test_trn1_calibration() -> None:
    """Three fp32 matmul kernels and adamw on one core of trn1 (arXiv 2511.15915)."""
    target = targets.load("trn1")
    rate = 2 * 128 * 128 * target["core"]["tensor_clock_hz"] / 4 * target["device"]["tensor_efficiency"]
    measured = {
        2 * 4096 * 12288 * 5120: 35.20e-3,
        3 * 2 * 4096 * 1024 * 3072: 4.22e-3,
        2 * 4096 * 1024 * 2048: 1.000e-3,
    }
    assert all(flops / rate == pytest.approx(seconds, rel=0.12) for flops, seconds in measured.items())
    adamw_bytes = 5 * 4 * 10944 * 2048
    streaming = target["device"]["hbm_bytes_per_second"] * target["device"]["hbm_efficiency"]
    assert adamw_bytes / streaming == pytest.approx(1.888e-3, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_estimates_say_so(name: str) -> None:
    target = targets.load(name)
    uncertain = target.uncertain()
    for key in ("tensor_efficiency", "hbm_efficiency", "eager_dispatch_seconds", "host_sync_seconds"):
        assert f"device.{key}" in uncertain
    assert "chip.power_watts" in uncertain or target["chip"]["power_watts"] == 0
    assert "core.tensor_clock_hz" not in uncertain


def test_error_bar_is_kept() -> None:
    source = targets.load("trn2").sources["chip.power_watts"]
    assert source.estimate and source.error == 0.3


FIGURES = [
    ("core.tensor_clock_hz", "-1", "must be a positive number; got -1. Correct tensor_clock_hz."),
    ("core.tensor_clock_hz", "0.0", "must be a positive number; got 0.0."),
    ("core.tensor_clock_hz", "nan", "must be a positive number; got nan."),
    ("core.tensor_clock_hz", "inf", "must be a positive number; got inf."),
    ("core.tensor_clock_hz", "true", "must be a positive number; got True."),
    ("core.tensor_clock_hz", '"fast"', "must be a positive number; got 'fast'."),
    ("core.sbuf_bytes_per_partition", "196608.0", "must be a positive whole number; got 196608.0."),
    ("core.sbuf_bytes_per_partition", "0", "must be a positive whole number; got 0."),
    ("core.sbuf_bytes_per_partition", str(2**63), "must be a positive whole number; got 9223372036854775808."),
    ("core.tensor_clock_hz", str(10**400), "must be a positive number; got 1000000000"),
    ("core.sbuf_bytes_per_partition", "true", "must be a positive whole number; got True."),
    ("core.num_partitions", "129", "must be a whole number from 1 to 128, as the emulated engines have; got 129."),
    ("core.num_partitions", "0", "must be a whole number from 1 to 128, as the emulated engines have; got 0."),
    ("core.mx_passes", "-0.25", "must be zero or a positive number; got -0.25."),
    ("core.generation", "3", "must be a non-empty string; got 3."),
    ("device.tensor_efficiency", "1.2", "must be a number above 0 and at most 1; got 1.2."),
    ("device.hbm_efficiency", "0", "must be a number above 0 and at most 1; got 0."),
    ("device.hbm_bytes", "[1]", "must be a positive whole number; got [1]."),
    ("chip.power_watts", "-5", "must be zero or a positive number; got -5."),
    ("documented.chip_peak_tolerance", "-0.1", "must be zero or a positive number; got -0.1."),
]


@pytest.mark.parametrize(("field", "value", "words"), FIGURES, ids=[f"{f}={v[:9]}" for f, v, _ in FIGURES])
def test_bad_value(tmp_path: Path, field: str, value: str, words: str) -> None:
    table, key = field.split(".")
    path = variant(tmp_path, f'[{table}]\n{key} = {{ value = {value}, source = "mine" }}')
    assert f"[target] {path}: {field}: {words}" in error_of(path)


# One figure changed alone, so that a sum no longer holds: the error names the sum and its two sides.
SUMS = [
    ("core.sbuf_bytes_per_partition", 1000, "got 128000, limit 29360128. Correct whichever is wrong."),
    ("core.psum_bytes_per_partition", 8192, "must equal documented.psum_bytes; got 1048576, limit 2097152."),
    ("core.psum_num_banks", 16, "must equal core.psum_bytes_per_partition; got 32768, limit 16384."),
    ("core.moving_free_max_elements", 256, "core.moving_free_max_elements: 4 bytes x"),
    ("core.tensor_clock_hz", 2.8e9, "must equal documented.core_peak_bf16_flops_per_second within 1e+12"),
    ("core.fp32_passes", 2, "must equal documented.core_peak_fp32_flops_per_second within 1e+12; got 3.93216e+13"),
    ("core.fp8_passes", 1, "must equal documented.core_peak_fp8_flops_per_second"),
    ("core.dma_num_engines", 8, "must equal documented.dma_engine_bytes_per_second; got 4.6e+10, limit 2.3e+10."),
    ("core.dma_bytes_per_second", 1e9, "must equal documented.dma_engine_bytes_per_second"),
    ("device.num_cores", 1, "device.peak_bf16_flops_per_second must equal device.num_cores x clock peak within"),
    ("device.hbm_bytes", 1, "chip.num_devices x device.hbm_bytes must equal chip.hbm_bytes; got 4, limit 103079215104"),
    ("device.hbm_bytes_per_second", 1e12, "must equal documented.chip_hbm_bytes_per_second; got 4e+12"),
    ("device.peak_bf16_flops_per_second", 1e12, "must equal documented.chip_peak_bf16_flops_per_second"),
    ("device.peak_fp32_flops_per_second", 1e12, "must equal documented.chip_peak_fp32_flops_per_second"),
    ("device.peak_fp8_flops_per_second", 1e12, "must equal documented.chip_peak_fp8_flops_per_second"),
    (
        "chip.num_devices",
        8,
        "chip.num_devices x device.peak_bf16_flops_per_second must equal documented.chip_peak_bf16",
    ),
    ("chip.hbm_bytes", 1, "must equal chip.hbm_bytes; got 103079215104, limit 1."),
    (
        "documented.chip_num_cores",
        16,
        "chip.num_devices x device.num_cores must equal documented.chip_num_cores; got 8",
    ),
    ("documented.chip_peak_tolerance", 0.01, "must equal device.num_cores x clock peak within"),
]


@pytest.mark.parametrize(("field", "value", "words"), SUMS, ids=[f for f, _, _ in SUMS])
def test_sum_does_not_hold(tmp_path: Path, field: str, value: float, words: str) -> None:
    table, key = field.split(".")
    message = error_of(variant(tmp_path, f'[{table}]\n{key} = {{ value = {value}, source = "mine" }}'))
    assert words in message
    assert message.endswith("Correct whichever is wrong.")


def test_instance_memory_does_not_add_up(tmp_path: Path) -> None:
    path = variant(tmp_path, '[[instance]]\nname = "trn2.48xlarge"\nnum_chips = { value = 12, source = "mine" }\n')
    words = "instance[1].hbm_bytes: instance[1].num_chips x chip.hbm_bytes must equal instance[1].hbm_bytes"
    assert f"{words} (trn2.48xlarge); got 1236950581248, limit 1649267441664" in error_of(path)


TEXTS = [
    ("[core]\ntensor_clock_hz = 2.4e9", "core.tensor_clock_hz: must state its source; got the bare number"),
    ("[core]\ntensor_clock_hz = 2.4e9", 'Write tensor_clock_hz = { value = 2400000000.0, source = "..." }.'),
    ("[core]\ntensor_clock_hz = { value = 2.4e9 }", "core.tensor_clock_hz: must state its source; got none."),
    ('[core]\ntensor_clock_hz = { value = 2.4e9, source = " " }', "must state its source; got ' '."),
    ("[core]\ntensor_clock_hz = { value = 2.4e9, source = 3 }", "must state its source; got 3."),
    ('[core]\ntensor_clock_hz = { source = "x" }', "core.tensor_clock_hz: must have a value; got no `value`."),
    (
        '[core]\ntensor_clock_hz = { value = 2.4e9, sauce = "x" }',
        "core.tensor_clock_hz.sauce: must be a field of [core.tensor_clock_hz]; got an unknown field. "
        "Did you mean source?",
    ),
    (
        '[core]\nfp8_passes = { value = 0.5, source = "x", derived = 1 }',
        "core.fp8_passes.derived: must be true or false; got 1.",
    ),
    (
        '[core]\nfp8_passes = { value = 0.5, source = "x", error = -0.1 }',
        "core.fp8_passes.error: must be a positive fraction; got -0.1.",
    ),
    (
        '[core]\ntensor_clok_hz = { value = 1, source = "x" }',
        "core.tensor_clok_hz: must be a field of [core]; got an unknown field. Did you mean tensor_clock_hz?",
    ),
    ('[core]\nzzz = "x"', "core.zzz: must be a field of [core]; got an unknown field. Known here: generation,"),
    ('[devise]\nx = "x"', "devise: must be a field of the file; got an unknown field. Did you mean device?"),
    ("device = 3", "device: must be a table; got 3. Write it as [device]."),
    ("chip = []", "chip: must be a table; got []. Write it as [chip]."),
    ("instance = 3", "instance: must be an array of tables; got 3. Write each as [[instance]]."),
    ("instance = [1]", "instance[4]: must be a table; got 1. Write it as [[instance]]."),
    ('[[instance]]\nname = "a"', "instance[4].num_chips: must be given; got no such field. Add num_chips = {"),
    ("[[instance]]\nnum_chips = 3", "instance[4].name: must be given; got no such field."),
    (
        '[[instance]]\nname = "trn2.3xlarge"\n[[instance]]\nname = "trn2.3xlarge"',
        "instance[4].name: must be unique; got 'trn2.3xlarge' a second time. Rename or remove one.",
    ),
    (
        '[[instance]]\nname = "trn2.48xlarge"\n[[instance.link]]\nname = "efa"\ntopology = "torus"',
        "link[1].topology: must be one of torus_2d, all_to_all, ring, network; got 'torus'. Did you mean torus_2d?",
    ),
    ('[[instance]]\nname = "trn2.48xlarge"\nlink = 4', "instance[1].link: must be an array of tables; got 4."),
    (
        '[[chip.link]]\nname = "on_chip"\nlatency_seconds = { value = 0, source = "x" }',
        "chip.link[0].latency_seconds: must be a positive number; got 0.",
    ),
    ('[[chip.link]]\nname = "on_chip"\nnum_chips = { value = 0, source = "x" }', "where the topology is not network"),
    ('[chip]\nlinks = "x"', "chip.links: must be a field of [chip]; got an unknown field. Did you mean link?"),
]


@pytest.mark.parametrize(("body", "words"), TEXTS, ids=range(len(TEXTS)))
def test_bad_text(tmp_path: Path, body: str, words: str) -> None:
    path = variant(tmp_path, body)
    message = error_of(path)
    assert message.startswith(f"[target] {path}: ")
    assert words in message


def without(text: str, table: str, key: str) -> str:
    """A target file's text without one field of one of its plain tables."""
    head, mark, rest = text.partition(f"\n[{table}]\n")
    changed, count = re.subn(rf"(?m)^{key} = .*\n", "", rest, count=1)
    assert count == 1
    return head + mark + changed


MISSING = [(t, k) for t in ("core", "device", "chip", "documented") for k in FIELDS[t] if "_mx_" not in k]


@pytest.mark.parametrize(("table", "key"), MISSING, ids=[f"{t}.{k}" for t, k in MISSING])
def test_missing_field(tmp_path: Path, table: str, key: str) -> None:
    path = write(tmp_path, without((FOLDER / "trn2.toml").read_text(), table, key))
    if key == "core_peak_fp8_flops_per_second":  # not printed for every generation
        targets.load(path)
    else:
        assert f"[target] {path}: {table}.{key}: must be given; got no such field. Add {key} = " in error_of(path)


@pytest.mark.parametrize("table", ["core", "device", "documented"])
def test_missing_table(tmp_path: Path, table: str) -> None:
    text = re.sub(rf"(?ms)^\[{table}\]\n.*?(?=^\[|\Z)", "", (FOLDER / "trn2.toml").read_text())
    words = f"{table}: must be a table; got nothing. Write it as [{table}]."
    assert words in error_of(write(tmp_path, text))


def test_missing_name(tmp_path: Path) -> None:
    """A file on another's base is another chip, so it needs a name of its own."""
    assert "name: must be given; got no such field." in error_of(write(tmp_path, 'base = "trn2"'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 3", "must be a readable TOML file; got: Invalid"),
        ("a = 1\na = 2", "must be a readable TOML file; got: Cannot overwrite a value"),
        ('name = "x"', "chip: must be a table; got nothing. Write it as [chip]."),
        ('base = 3\nname = "x"', "base: must be a packaged target or a path; got 3."),
        ('base = "trn9"\nname = "x"', "must be a packaged target (inf2, trn1, trn2, trn3) or the path of a .toml file"),
        ('base = "my.toml"\nname = "x"', "base: must not lead back to the file itself; got 'my.toml'."),
        ('base = "none.toml"\nname = "x"', "none.toml: must be an existing file; got none at "),
        ('base = "trn2"\nname = ""', "name: must be a non-empty string; got ''."),
        ('base = "trn2"\nname = 3', "name: must be a non-empty string; got 3."),
    ],
)
def test_bad_file(tmp_path: Path, text: str, words: str) -> None:
    assert words in error_of(write(tmp_path, text))


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xff\xfe")
    assert "must be a readable TOML file; got: 'utf-8' codec" in error_of(path)


@pytest.mark.parametrize("name", ["trn9", "Trn2", "", "trn"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(
        TargetError, match=r"must be a packaged target \(inf2, trn1, trn2, trn3\) or the path"
    ) as caught:
        targets.load(name)
    assert f"got {name!r}" in str(caught.value)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"got 'trn22'. Did you mean trn2\?"):
        targets.load("trn22")


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"must be an existing file; got none at .*no\.toml. Correct the path."):
        targets.load(tmp_path / "no.toml")


def test_own_file_round_trip(tmp_path: Path) -> None:
    own = targets.load(write(tmp_path, (FOLDER / "trn3.toml").read_text()))
    packaged = targets.load("trn3")
    assert own == packaged
    assert dict(own.sources) == dict(packaged.sources)
    assert own.path == str(tmp_path / "my.toml")


def test_base(tmp_path: Path) -> None:
    """What the file says replaces the base's figure and its source; the rest stays."""
    path = variant(
        tmp_path,
        '[device]\ntensor_efficiency = { value = 0.5, source = "what if" }\n'
        '[[instance]]\nname = "trn2.48xlarge"\nusd_per_hour = { value = 40, source = "my contract" }\n'
        '[[instance]]\nname = "rack"\nnum_chips = { value = 2, source = "mine" }\n'
        'hbm_bytes = { value = 206158430208, source = "mine" }\nusd_per_hour = { value = 1, source = "mine" }\n',
    )
    target, base = targets.load(path), targets.load("trn2")
    assert target["name"] == "my-chip"
    assert target["device"]["tensor_efficiency"] == 0.5
    assert target.sources["device.tensor_efficiency"] == targets.Source("what if")
    assert target["core"] == base["core"]
    assert [i["name"] for i in target["instances"]] == [i["name"] for i in base["instances"]] + ["rack"]
    assert target["instances"][1]["usd_per_hour"] == 40
    assert target["instances"][1]["links"] == base["instances"][1]["links"]
    assert target["instances"][4]["links"] == ()


def test_base_of_a_base_is_relative_to_its_file(tmp_path: Path) -> None:
    variant(tmp_path, '[chip]\npower_watts = { value = 450, source = "mine" }')
    (tmp_path / "deep").mkdir()
    path = write(tmp_path / "deep", 'base = "../my.toml"\nname = "deeper"\n')
    assert targets.load(path)["chip"]["power_watts"] == 450


def test_integers_are_accepted_where_a_float_is_meant(tmp_path: Path) -> None:
    path = variant(tmp_path, '[chip]\npower_watts = { value = 450, source = "mine" }')
    watts = targets.load(path)["chip"]["power_watts"]
    assert isinstance(watts, float) and watts == 450


def test_cache_follows_the_file(tmp_path: Path) -> None:
    path = variant(tmp_path, '[chip]\npower_watts = { value = 450, source = "mine" }')
    first = targets.load(path)
    assert targets.load(str(path)) is first
    variant(tmp_path, '[chip]\npower_watts = { value = 451, source = "mine" }')
    stamp = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(stamp, stamp))
    assert targets.load(path)["chip"]["power_watts"] == 451


def test_read_only() -> None:
    target = targets.load("trn2")
    for change in (
        lambda: target.update(name="x"),
        lambda: target["core"].__setitem__("num_partitions", 1),
        lambda: target["core"].pop("num_partitions"),
        lambda: target["instances"][0].clear(),
    ):
        with pytest.raises(TypeError, match="read-only"):
            change()
    plain = target.to_dict()
    plain["core"]["num_partitions"] = 1
    assert targets.load("trn2")["core"]["num_partitions"] == 128
    assert copy.deepcopy(target) == target.to_dict() == pickle.loads(pickle.dumps(target))
    assert json.loads(json.dumps(target)) == target.to_dict()


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets.resolve({})["name"] == targets.DEFAULT == "trn2"
    assert targets.resolve({"TORCH_TRN_TARGET": " "})["name"] == "trn2"
    assert targets.resolve({"TORCH_TRN_TARGET": "trn3"})["name"] == "trn3"
    path = variant(tmp_path, "")
    assert targets.resolve({"TORCH_TRN_TARGET": str(path)})["name"] == "my-chip"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_TRN_TARGET", "my.toml")
    assert targets.resolve()["name"] == "my-chip"
    with pytest.raises(TargetError, match=r"Did you mean trn2\? TORCH_TRN_TARGET=trn22 chose it\.$"):
        targets.resolve({"TORCH_TRN_TARGET": "trn22"})


def test_rows(tmp_path: Path) -> None:
    rows = targets.rows()
    assert [row[0] for row in rows] == NAMES
    assert all(len(row) == len(targets.HEADER) for row in rows)
    row = rows[NAMES.index("trn2")]
    assert row[:5] == ("trn2", "NeuronCore-v3", "4 x 2 cores", "24 GiB, 725 GB/s", "166.75 TF bf16")
    assert row[5].startswith("trn2.3xlarge (1 chip, $2.235/h), trn2.48xlarge (16 chips), ")
    assert targets.rows([targets.load(variant(tmp_path, ""))])[0][0] == "my-chip"


def test_import_is_light() -> None:
    """Neither torch nor the TOML parser before a target is loaded."""
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); import target_files; "
        "print(sorted({'torch', 'tomllib', 'difflib', 'dataclasses'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_docs_name_every_field() -> None:
    text = DOCS.read_text()
    missing = [f"{table}.{key}" for table, keys in FIELDS.items() for key in keys if f"| `{key}` |" not in text]
    assert missing == []


def test_docs_example_loads(tmp_path: Path) -> None:
    for i, example in enumerate(re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)):
        if example.startswith("#"):
            targets.load(write(tmp_path, example, f"example{i}.toml"))
