"""What follows a change of the target, and what a refused one leaves as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import torch_trn
from torch_trn import _C, target_files


@pytest.fixture(autouse=True)
def trn2_again() -> Iterator[None]:
    yield
    torch_trn.set_target("trn2")


def not_a_numbers(target: str) -> int:
    """NaNs of a product after one in its first operand: the tensor engine of trn1 sends it to more rows."""
    torch_trn.set_target(target)
    x = torch.ones(256, 256)
    x[0, 0] = float("nan")
    return int((x.to("trn") @ torch.ones(256, 256, device="trn")).isnan().sum())


def test_programs_are_the_current_targets_however_often_it_changes():
    with torch_trn.set_numerics("hardware"):
        first = [not_a_numbers(target) for target in ("trn1", "trn2", "trn3")]
        for _ in range(3):  # a later target may lie where an earlier one lay
            assert [not_a_numbers(target) for target in ("trn1", "trn2", "trn3")] == first
    assert len(set(first)) > 1


def slow(folder: Path, seconds: float) -> Path:
    path = folder / "slow.toml"
    path.write_text(f"""
base = "trn1"
name = "slow"
[device]
eager_dispatch_seconds = {{ value = {seconds}, source = "a test" }}
""")
    return path


def test_a_refused_target_changes_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\[clock\] a simulated time must lie in 0 to 4e6 seconds; got 10000000"):
        torch_trn.set_target(slow(tmp_path, 1e7))
    assert torch_trn.current_target() == "trn2"
    assert torch.trn.mem_get_info()[1] == 24 << 30
    torch.ones(3, device="trn").add_(1)
    torch_trn.set_target(slow(tmp_path, 1e-5))
    assert torch.trn.mem_get_info()[1] == 16 << 30


def test_a_memory_fraction_is_of_the_target_that_follows():
    try:
        torch.trn.set_per_process_memory_fraction(0.5)
        assert torch.trn.mem_get_info()[1] == 12 << 30
        torch_trn.set_target("trn1")
        assert torch.trn.mem_get_info()[1] == 8 << 30
        assert torch.trn.get_per_process_memory_fraction() == 0.5
    finally:
        torch.trn.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("field", ["num_partitions", "stationary_free_max_elements"])
def test_engines_have_128_lanes_at_most(tmp_path: Path, field: str):
    path = tmp_path / "wide.toml"
    path.write_text(f'base = "trn2"\nname = "wide"\n[core]\n{field} = {{ value = 256, source = "a test" }}\n')
    with pytest.raises(
        target_files.TargetError, match=rf"core\.{field}: must be a whole number from 1 to 128.*got 256"
    ):
        torch_trn.set_target(path)
    target = target_files.load("trn2").to_dict()
    target["core"][field] = 256  # past the checks of a file
    with pytest.raises(NotImplementedError, match=rf"core\.{field} must lie in 1 to 128; got 256"):
        _C.NeuronCore(_C.LogicalCore(_C.Target(target), 1, "automatic"))


@pytest.mark.parametrize("kib", [32, 64])
def test_what_does_not_fit_a_small_chip_runs_in_reference_numerics(tmp_path: Path, kib: int):
    """Of a chip that somebody plans: values stay, and what has no program on it is listed."""
    path = tmp_path / "small.toml"
    path.write_text(f"""
base = "trn2"
name = "small"
[core]
sbuf_bytes_per_partition = {{ value = {kib << 10}, source = "a test" }}
[documented]
sbuf_bytes = {{ value = {kib << 17}, source = "a test" }}
""")
    torch_trn.set_target(path)
    x = torch.randn(2, 3, 120, 120)
    functions = {
        "max_pool2d": lambda x: F.max_pool2d(x, 2),
        "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, 1),
        "interpolate": lambda x: F.interpolate(x.flatten(2), scale_factor=2, mode="linear"),
        "softmax": lambda x: x.flatten(1).softmax(1),
        "matmul": lambda x: x @ x.mT,
        "copy": lambda x: x.permute(3, 1, 0, 2).contiguous(),
        "layer_norm": lambda x: F.layer_norm(x, (120, 120)),
        "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    }
    with torch_trn.set_numerics("hardware"):
        torch_trn.reference_operators(clear=True)
        for name, function in functions.items():
            torch.testing.assert_close(function(x.to("trn")).cpu(), function(x), rtol=1e-4, atol=1e-4, msg=name)
        listed = torch_trn.reference_operators(clear=True)
    assert set(listed) == {"upsample_linear1d"} | ({"_copy_from"} if kib == 32 else set())
