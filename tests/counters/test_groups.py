"""Every counter per operator, module path, phase and source line: host transfers, fallbacks, narrowing, peak memory."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torch_trn
from torch_trn.costing import Row

WIDTH = 64


class Scaled(nn.Module):
    """Reads a value of the device in its forward pass and takes an index in 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        largest = x.detach().abs().max().item()
        return x[torch.arange(len(x), device=x.device)] / (1 + largest)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Scaled(), Scaled())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x).square().mean()


def recorded(**options: Any) -> torch_trn.Recording:
    model = Model().to("trn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch_trn.profile(**options) as prof:
        for _ in range(2):
            x = torch.ones(8, WIDTH).to("trn")
            loss = model(x)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
    return prof


@pytest.fixture(scope="module")
def prof() -> torch_trn.Recording:
    return recorded(timeline=True)


def rows(groups: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in groups}


def test_host_transfers_are_in_the_rows_of_those_who_asked(prof: torch_trn.Recording) -> None:
    modules = rows(prof.by_module())
    assert (modules["blocks.0"].host_syncs, modules["blocks.1"].host_syncs, modules[""].host_syncs) == (2, 2, 2)
    assert modules["blocks.0"].to_host_bytes == 8 and modules["blocks.0"].to_device_bytes == 0
    assert modules[""].to_device_bytes == 2 * 8 * WIDTH * 4
    phases = rows(prof.by_phase())
    assert phases["forward"].host_syncs == 6 and phases["backward"].host_syncs == phases["optimizer"].host_syncs == 0
    first = inspect.getsourcelines(Scaled.forward)[1]
    (item,) = (row for row in prof.by_line() if row.name.endswith(f"test_groups.py:{first + 2}") and row.host_syncs)
    assert item.host_syncs == 4
    read = rows(prof.by_operator())["_local_scalar_dense"]
    assert (read.launches, read.seconds, read.host_syncs) == (0, 0.0, 6)


def test_narrowing_is_in_the_rows_of_those_who_caused_it(prof: torch_trn.Recording) -> None:
    operators = rows(prof.by_operator())
    assert operators["arange.start_out"].narrowed_launches == 4
    assert operators["addmm"].narrowed_launches == 0
    assert rows(prof.by_module())["blocks.0"].narrowed_launches > 0
    assert rows(prof.by_phase())["optimizer"].narrowed_launches == 0


def test_fallbacks_are_in_the_rows_of_those_who_caused_them() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Identity()).to("trn")
    model[1].forward = lambda x: torch.cdist(x, x)  # type: ignore[method-assign]
    with torch_trn.profile() as prof:
        model(torch.ones(4, WIDTH, device="trn"))
    assert [item["op"] for item in prof.fallbacks] == ["_cdist_forward"]
    modules = rows(prof.by_module())
    assert (modules["0"].fallback_launches, modules["1"].fallback_launches) == (0, 1)
    assert prof.total.fallback_launches == 1


@pytest.mark.parametrize("by", ["operator", "module", "phase", "line"])
def test_rows_add_up_to_the_whole(prof: torch_trn.Recording, by: str) -> None:
    groups = getattr(prof, f"by_{by}")()
    for counter in ("host_syncs", "to_host_bytes", "to_device_bytes", "fallback_launches", "narrowed_launches"):
        assert sum(getattr(row, counter) for row in groups) == getattr(prof.total, counter), counter
    assert prof.total.host_syncs == sum(sync["count"] for sync in prof.host_syncs)
    assert prof.total.narrowed_launches == sum(item["launches"] for item in prof.narrowing)
    assert max(row.peak_memory_bytes for row in groups) == prof.peak_memory_bytes


def memory_by(prof: torch_trn.Recording, key: Callable[[dict[str, Any]], str]) -> dict[str, int]:
    """The most memory in use at a launch of each group, as the timeline has it."""
    entries, found = list(prof.ledger.entries()), dict[str, int]()
    for entry, _, _, in_use in prof.ledger.timeline or ():
        name = key(entries[entry])
        found[name] = max(found.get(name, 0), in_use)
    return found


@pytest.mark.parametrize(
    ("by", "field"), [("operator", "op"), ("module", "module"), ("phase", "phase"), ("line", "line")]
)
def test_peak_memory_of_a_row_is_that_of_its_launches(prof: torch_trn.Recording, by: str, field: str) -> None:
    groups = getattr(prof, f"by_{by}")()
    expected = memory_by(prof, lambda entry: entry[field])
    assert {row.name: row.peak_memory_bytes for row in groups if row.launches} == expected


def test_peak_memory_of_a_row_has_owners(prof: torch_trn.Recording) -> None:
    held = rows(prof.by_phase())
    model = Model().to("trn")
    sizes = [p.untyped_storage().nbytes() for p in model.parameters()]
    for row in held.values():
        assert row.memory_by_category["parameters"] == sum(sizes)
    assert held["optimizer"].memory_by_category["optimizer_state"] == sum(sizes)
    assert held["optimizer"].memory_by_category["gradients"] == sum(sizes)
    (peak,) = {
        tuple(row.memory_by_category.items())
        for row in held.values()
        if row.peak_memory_bytes == prof.peak_memory_bytes
    }
    assert dict(peak) == {**prof.memory_by_category}


def test_profiles_that_overlap_have_the_peaks_of_their_own_time() -> None:
    def add(size: int) -> None:
        x = torch.ones(size, 1024, device="trn")
        x + x

    outer, inner, late = (torch_trn.profile(timeline=True) for _ in range(3))
    with outer:
        add(8)
        with inner:
            add(4)
        add(2)
        late.__enter__()
        add(3)
    add(1)
    late.__exit__(None, None, None)
    for prof in (outer, inner, late):
        expected = memory_by(prof, lambda entry: entry["op"])
        assert {row.name: row.peak_memory_bytes for row in prof.by_operator()} == expected
    assert inner.total.peak_memory_bytes < outer.total.peak_memory_bytes
    assert late.total.peak_memory_bytes < inner.total.peak_memory_bytes


def test_rows_survive_saving_and_merging(prof: torch_trn.Recording, tmp_path: Any) -> None:
    prof.ledger.save(tmp_path / "ledger.json.gz")
    loaded = torch_trn.Ledger.load(tmp_path / "ledger.json.gz")
    once, twice = torch_trn.Recording(loaded), torch_trn.Recording(loaded.merge(loaded))
    assert [row.to_dict() for row in once.by_module()] == [row.to_dict() for row in prof.by_module()]
    for one, two in zip(once.by_phase(), twice.by_phase(), strict=True):
        assert two.host_syncs == 2 * one.host_syncs
        assert two.memory_by_category == one.memory_by_category


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.norm(x)


def counted(model: nn.Module, call: Callable[[torch.Tensor], torch.Tensor]) -> torch_trn.Recording:
    x = torch.randn(8, WIDTH, device="trn")
    call(x).sum().backward()  # compiled here
    with torch_trn.profile() as prof:
        call(x).sum().backward()
    return prof


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("way", ["compile", "module.compile", "function"])
def test_a_compiled_model_has_the_modules_and_lines_of_an_eager_one(backend: str, way: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Blocks().to("trn")
    eager = counted(model, model)
    if way == "module.compile":
        model.compile(backend=backend)
        compiled = counted(model, model)
    elif way == "compile":
        compiled = counted(model, torch.compile(model, backend=backend))
    else:
        compiled = counted(model, torch.compile(lambda x: model(x), backend=backend))
    torch._dynamo.reset()

    def flops(groups: list[Row]) -> dict[str, int]:
        return {row.name: row.flops for row in groups if row.flops}

    assert compiled.flops == eager.flops
    if way != "function":  # whose modules the profile never saw called
        assert flops(compiled.by_module()) == flops(eager.by_module())
        assert set(flops(compiled.by_module())) == {"blocks.0", "blocks.1"}
        assert {row.name for row in compiled.by_module()} >= {"blocks.0", "blocks.1", "norm"}
    assert flops(compiled.by_phase()) == flops(eager.by_phase())
    assert flops(compiled.by_line()) == flops(eager.by_line())
    assert not any("eval_with_key" in row.name for row in compiled.by_line())
