"""What an operator that raises leaves behind: nothing that a later one could read."""

from typing import Any

import pytest
import torch

import torch_trn

N = 64


def resized_then_raises() -> dict[str, Any]:
    ints = torch.ones(50, dtype=torch.int32, device="trn")
    x = torch.ones(50, device="trn")
    places = torch.full((50,), 99, device="trn")
    return {
        "remainder": lambda: torch.remainder(ints, ints * 0, out=torch.zeros(3, dtype=torch.int32, device="trn")),
        "floor_divide": lambda: torch.floor_divide(ints, ints * 0, out=torch.zeros(3, dtype=torch.int32, device="trn")),
        "index_select": lambda: torch.index_select(x, 0, places, out=torch.zeros(3, device="trn")),
        "gather": lambda: torch.gather(x, 0, places, out=torch.zeros(3, device="trn")),
        "take": lambda: torch.take(x, places, out=torch.zeros(3, device="trn")),
        "frac": lambda: torch.frac(ints, out=torch.zeros(3, dtype=torch.int32, device="trn")),
    }


@pytest.mark.parametrize("name", ["remainder", "floor_divide", "index_select", "gather", "take", "frac"])
def test_a_result_resized_by_a_kernel_that_raises(name: str) -> None:
    call = resized_then_raises()[name]
    for _ in range(3):
        with pytest.raises((RuntimeError, IndexError)):
            call()
    values = torch.arange(float(N), device="trn")
    sums = [values.sum() for _ in range(100)]
    assert values.tolist() == list(range(N))
    assert {s.item() for s in sums} == {N * (N - 1) / 2}


def test_the_result_has_the_size_that_it_has_on_the_cpu() -> None:
    sizes = []
    for device in ("cpu", "trn"):
        x, out = torch.ones(50, dtype=torch.int32, device=device), torch.zeros(3, dtype=torch.int32, device=device)
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            torch.remainder(x, x * 0, out=out)
        sizes.append(out.shape)
    assert sizes[0] == sizes[1]


def test_a_copy_to_nothing_is_checked() -> None:
    for source in (torch.ones(2, 4), torch.ones(2, 4, device="trn")):
        with pytest.raises(RuntimeError, match=r"expanded size of the tensor \(0\) must match the existing size \(4\)"):
            torch.empty(2, 0, device="trn").copy_(source)
    torch.empty(2, 0, device="trn").copy_(torch.ones(2, 1))


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_in_place_results_keep_their_shape_in_a_dry_run() -> None:
    with torch_trn.dry_run():
        x = torch.zeros(N, device="trn")
        with pytest.raises(RuntimeError, match=r"output with shape \[64\] doesn't match the broadcast shape \[4, 64\]"):
            x.clamp_max_(torch.ones(4, 1, device="trn"))
        assert x.shape == (N,)
        torch.clamp_max(x, torch.ones(4, 1, device="trn"), out=torch.zeros(4, N, device="trn"))  # not in place


def test_integer_factors_are_whole_in_both_numerics() -> None:
    def products(device: str) -> list[list[int]]:
        def full(*shape: int) -> torch.Tensor:
            return torch.full(shape, 7, dtype=torch.int32, device=device)

        return [
            torch.addmv(full(5), full(5, 10), full(10), beta=0.2, alpha=0.6).tolist(),
            torch.addmm(full(5, 2), full(5, 3), full(3, 2), beta=1.9, alpha=2.5).flatten().tolist(),
            torch.baddbmm(full(1, 5, 2), full(1, 5, 3), full(1, 3, 2), beta=-0.5, alpha=-1.5).flatten().tolist(),
        ]

    expected = products("cpu")
    assert products("trn") == expected
    with torch_trn.set_numerics("hardware"):
        assert products("trn") == expected


def test_constants_past_the_engines_integers_run_in_reference_numerics() -> None:
    with torch_trn.set_numerics("hardware"):
        got = torch.bitwise_right_shift(2**40, torch.ones(3, dtype=torch.int64, device="trn"))
    assert got.tolist() == [2**39] * 3


def test_a_power_of_minus_a_half_of_zero() -> None:
    x = torch.tensor([0.0, 4.0, 0.25])
    with torch_trn.set_numerics("hardware"):
        torch.testing.assert_close(x.to("trn").pow(-0.5).cpu(), x.pow(-0.5))


def test_streams_and_ranges_are_left_after_they_were_entered() -> None:
    stream = torch.trn.Stream()
    with pytest.raises(RuntimeError, match="left after it was entered"):
        stream.__exit__(None, None, None)
    with stream:
        assert torch.trn.current_stream() == stream
    with pytest.raises(RuntimeError, match="left after it was entered"):
        stream.__exit__(None, None, None)
    with pytest.raises(TypeError, match="got Stream"):
        torch.trn.nvtx.range_end(stream)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got float"):
        torch.trn.memory_allocated(1.5)  # type: ignore[arg-type]


def test_a_dry_run_that_is_left_twice() -> None:
    block = torch_trn.dry_run()
    with block:
        pass
    block.__exit__(None, None, None)
    assert torch.ones(2, device="trn").sum().item() == 2
