"""`torch_trn.profile()` on real modules: paths, phases, steps, nesting, owners of memory, and nothing left behind."""

import contextlib
import copy
import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

import torch_trn
from torch_trn.ledger import Ledger
from torch_trn.module_paths import ModulePaths
from torch_trn.profiler import parse_steps
from torch_trn.recording import Recording


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(8, 8)
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(torch.relu(self.attn(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


module_call = nn.Module.__call__

BATCH = 16
FORWARD_FLOPS = 2 * BATCH * (4 * 8 * 8 + 8 * 4)
# Each weight has a gradient; each input has one but for the first layer's.
BACKWARD_FLOPS = 2 * FORWARD_FLOPS - 2 * BATCH * 8 * 8


class Training:
    def __init__(self, device: torch.device) -> None:
        self.model = Net().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.x = torch.randn(BATCH, 8).to(device)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimizer.step()


def hooks_installed() -> int:
    return (
        len(torch_module._global_forward_pre_hooks)
        + len(torch_module._global_forward_hooks)
        + len(torch_optimizer._global_optimizer_pre_hooks)
        + len(torch_optimizer._global_optimizer_post_hooks)
    )


def test_flops_of_a_step_are_the_closed_form(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile() as prof:
        training.step()
    assert prof.flops == FORWARD_FLOPS + BACKWARD_FLOPS
    phases = {row.name: row.flops for row in prof.by_phase()}
    assert phases == {"forward": FORWARD_FLOPS, "backward": BACKWARD_FLOPS, "optimizer": 0}
    assert prof.steps == prof.steps_seen == 1
    assert prof.device_seconds > 0
    assert "blocks.*.attn" in str(prof)


def test_repeated_runs_give_the_same_numbers(device: torch.device) -> None:
    training = Training(device)
    training.step()
    found = []
    for _ in range(2):
        with torch_trn.profile() as prof:
            training.step()
        found.append(prof.to_dict())
    for out in found:
        del out["memory_by_category"], out["peak_memory_bytes"]
    assert found[0] == found[1]


def test_launches_know_their_module_also_in_backward(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile() as prof:
        training.step()
    flops = {row.name: row.flops for row in prof.by_module() if row.flops}
    layer = 2 * BATCH * 8 * 8
    assert flops == {
        "blocks.0.attn": 2 * layer,
        "blocks.0.mlp": 3 * layer,
        "blocks.1.attn": 3 * layer,
        "blocks.1.mlp": 3 * layer,
        "head": 3 * 2 * BATCH * 8 * 4,
    }


def test_launches_know_their_source_line(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile() as prof:
        training.step()
    assert any(Path(row.name.rsplit(":")[0]).name == Path(__file__).name for row in prof.by_line())


def test_backward_of_views_knows_its_forward(device: torch.device) -> None:
    """Views launch nothing, but what their backward launches has the module and line that made them."""

    class Heads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k = x.unflatten(-1, (2, 2, 2)).unbind(-3)
            return q.transpose(0, 1) @ k.transpose(0, 1).mT

    model = nn.Sequential(nn.Linear(8, 8), Heads()).to(device)
    x = torch.randn(BATCH, 8).to(device)
    model(x).sum().backward()
    with torch_trn.profile() as prof:
        model(x).sum().backward()
    ledger = prof.ledger.data
    backward = [e for e in ledger["entries"] if e["phase"] == "backward"]
    assert len(backward) >= 5
    assert all(ledger["lines"][e["line"]] for e in ledger["entries"])
    heads = ledger["modules"].index("1")
    names = {ledger["ops"][e["op"]] for e in backward if e["module"] == heads}
    assert {"bmm", "stack"} <= names or {"bmm", "cat"} <= names, names


def test_modules_and_lines_can_be_left_out(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile(modules=False, lines=False) as prof:
        training.step()
    assert [row.name for row in prof.by_module()] == [""]
    assert [row.name for row in prof.by_line()] == [""]


def test_profiles_nest_with_their_own_numbers(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile() as outer:
        training.step()
        with torch_trn.profile() as inner:
            training.step()
        training.step()
    assert (outer.steps, inner.steps) == (3, 1)
    assert outer.flops == 3 * inner.flops
    assert outer.launches > inner.launches


def test_entered_again_the_runs_add_up(device: torch.device) -> None:
    training = Training(device)
    prof = torch_trn.profile()
    with prof:
        training.step()
    once = prof.flops
    with prof:
        training.step()
    assert (prof.flops, prof.steps) == (2 * once, 2)


def test_as_a_decorator(device: torch.device) -> None:
    training = Training(device)

    @torch_trn.profile()
    def run(times: int) -> int:
        for _ in range(times):
            training.step()
        return times

    assert run(2) == 2
    assert run.profile.steps == 2
    run(1)
    assert run.profile.steps == 3
    assert run.__name__ == "run"


def test_a_recursive_decorated_function_is_one_recording(device: torch.device) -> None:
    x = torch.ones(4, device=device)

    @torch_trn.profile()
    def recurse(depth: int) -> None:
        x.add_(1)
        if depth:
            recurse(depth - 1)

    recurse(3)
    assert run_launches(recurse.profile, "add_") == 4


def run_launches(prof: Recording, name: str) -> int:
    return sum(row.launches for row in prof.by_operator() if row.name.split(".")[0] == name)


def test_decorator_without_parentheses_says_so() -> None:
    with pytest.raises(TypeError, match=r"Write @profile\(\)"):
        torch_trn.profile(lambda: None)


def test_only_the_steps_asked_for_are_recorded(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile(steps="2:4") as prof:
        for _ in range(6):
            training.step()
    assert (prof.steps, prof.steps_seen) == (2, 6)
    assert prof.flops == 2 * (FORWARD_FLOPS + BACKWARD_FLOPS)


def test_steps_that_never_came_record_nothing(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile(steps=(5, None)) as prof:
        training.step()
    assert (prof.launches, prof.steps_seen, prof.device_seconds) == (0, 1, 0)


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (None, (0, None)),
        ("2:5", (2, 5)),
        (":5", (0, 5)),
        ("3:", (3, None)),
        (range(1, 4), (1, 4)),
        ((2, None), (2, None)),
    ],
)
def test_parse_steps(given: object, parsed: tuple[int, int | None]) -> None:
    assert parse_steps(given) == parsed  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["3", "5:2", "a:b", "-1:2", range(0, 9, 2), (1,), 7])
def test_bad_steps_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="steps are first:end"):
        parse_steps(given)  # type: ignore[arg-type]


def test_numbers_are_there_only_when_the_block_has_ended() -> None:
    prof = torch_trn.profile()
    with pytest.raises(RuntimeError, match="has recorded nothing yet"):
        _ = prof.flops
    with prof, pytest.raises(RuntimeError, match="is still running"):
        _ = prof.flops
    assert prof.flops == 0


def test_an_exception_passes_and_what_ran_is_recorded(device: torch.device) -> None:
    training = Training(device)
    with pytest.raises(ZeroDivisionError), torch_trn.profile() as prof:
        training.step()
        _ = 1 / 0
    assert prof.steps == 1
    assert hooks_installed() == 0


def test_nothing_is_left_behind(device: torch.device) -> None:
    training = Training(device)
    with torch_trn.profile(), torch_trn.profile():
        training.step()
        assert hooks_installed() == 2
        assert nn.Module.__call__ is not module_call
    assert hooks_installed() == 0
    assert nn.Module.__call__ is module_call
    assert not any(p._post_accumulate_grad_hooks for p in training.model.parameters())
    copy.deepcopy(training.model)
    gone = weakref.ref(training.model)
    del training
    gc.collect()
    assert gone() is None


def test_who_patches_over_the_call_puts_back_one_that_passes_through(device: torch.device) -> None:
    net, x = Net().to(device), torch.ones(2, 8, device=device)
    profile = torch_trn.profile()
    with profile:
        ours = nn.Module.__call__
        nn.Module.__call__ = lambda module, *args: ours(module, *args)  # type: ignore[method-assign]
    nn.Module.__call__ = ours  # type: ignore[method-assign]
    try:
        with torch_trn.profile(modules=False):
            assert torch.equal(net(x), net.forward(x))
    finally:
        nn.Module.__call__ = module_call  # type: ignore[method-assign]
    assert profile.launches == 0


def test_models_are_traced_and_compiled_under_a_profile(device: torch.device) -> None:
    net, x = Net().to(device), torch.ones(2, 8, device=device)
    expected = net(x)
    with torch_trn.profile() as prof:
        traced = torch.fx.symbolic_trace(net)
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        for model in (traced, compiled, net):
            assert torch.equal(model(x), expected)
    assert nn.Module.__call__ is module_call
    assert prof.flops == 3 * 2 * 2 * (4 * 8 * 8 + 8 * 4)


class Fails(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.error: type[BaseException] | None = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_module_that_raises_does_not_name_what_follows(device: torch.device, error: type[BaseException]) -> None:
    x = torch.ones(2, 8, device=device)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad = Fails(error)
            self.good = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(BaseException):
                x = self.bad(x)
            return self.good(x)

    model = Outer().to(device)
    with torch_trn.profile() as prof:
        model(x)
        x.mul_(2)
    names = {row.name: row.launches for row in prof.by_module()}
    assert run_launches(prof, "mul_") == 1
    assert names[""] == 1


def test_an_optimizer_that_raises_ends_its_phase(device: torch.device) -> None:
    model = nn.Linear(4, 4).to(device)

    class Broken(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            raise RuntimeError("no")

    optimizer = Broken(model.parameters(), lr=0.1)
    x = torch.ones(2, 4, device=device)
    with torch_trn.profile() as prof:
        with pytest.raises(RuntimeError, match="no"):
            optimizer.step()
        model(x)
    assert prof.steps == 0
    assert [row.name for row in prof.by_phase()] == ["forward"]


def test_a_closure_runs_in_its_own_phases(device: torch.device) -> None:
    model = nn.Linear(4, 4).to(device)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)
    x = torch.ones(2, 4, device=device)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    with torch_trn.profile() as prof:
        optimizer.step(closure)
    flops = {row.name: row.flops for row in prof.by_phase()}
    assert flops["forward"] >= 2 * 2 * 4 * 4
    assert flops["backward"] >= 2 * 2 * 4 * 4
    assert prof.steps == 1


def test_memory_has_owners(device: torch.device) -> None:
    gc.collect()
    with torch_trn.profile() as before:  # what other tests have left
        torch.ones(1, device=device)
    training = Training(device)
    size = sum(p.numel() * p.element_size() for p in training.model.parameters())
    with torch_trn.profile():
        training.step()
    with torch_trn.profile() as prof:
        training.step()
    held = prof.memory_by_category
    for category in ("parameters", "optimizer_state"):  # each tensor is rounded up to its size class
        assert size <= held[category] - before.memory_by_category[category] < size + 512 * 10, category
    assert prof.peak_memory_bytes == sum(held.values())


def test_timeline_is_kept_when_asked_for(device: torch.device, tmp_path: Path) -> None:
    training = Training(device)
    with torch_trn.profile(timeline=True) as prof:
        training.step()
    assert len(prof.ledger.timeline or []) == prof.launches
    prof.to_perfetto(tmp_path / "trace.json")
    with torch_trn.profile() as prof:
        training.step()
    assert prof.ledger.timeline is None


def test_a_saved_recording_gives_the_same_report(device: torch.device, tmp_path: Path) -> None:
    training = Training(device)
    with torch_trn.profile() as prof:
        training.step()
    prof.ledger.save(tmp_path / "ledger.json.gz")
    loaded = Recording(Ledger.load(tmp_path / "ledger.json.gz"))
    assert loaded.to_dict() == prof.to_dict()
    other = prof.on("trn3")
    assert (other.target.name, other.flops) == ("trn3", prof.flops)
    assert prof.compiled().device_seconds < prof.device_seconds


def named(*calls: tuple[nn.Module, list[nn.Module]]) -> list[str]:
    """Paths of modules called in this order, each from inside its parents."""
    interned: list[str] = []

    def intern(path: str) -> int:
        interned.append(path)
        return len(interned) - 1

    paths = ModulePaths(intern)
    found = []
    for module, parents in calls:
        if id(module) not in paths.ids:
            paths.name(module, parents)
        assert interned[paths.ids[id(module)]] == paths.path(module)
        found.append(paths.path(module))
    return found


def test_paths_come_from_the_first_model() -> None:
    net = Net()
    block = net.blocks[1]
    assert named((net, []), (block, [net]), (block.attn, [net, block])) == ["Net", "blocks.1", "blocks.1.attn"]


def test_a_second_model_and_a_loss_have_their_class_in_front() -> None:
    loss, net, other, third = nn.MSELoss(), Net(), Net(), nn.Sequential(nn.Linear(1, 1))
    assert named(
        (loss, []), (net, []), (net.head, [net]), (other, []), (other.head, [other]), (third, []), (third[0], [third])
    ) == ["MSELoss", "Net", "head", "Net#2", "Net#2.head", "Sequential", "Sequential.0"]


def test_a_shared_module_keeps_its_first_name() -> None:
    net = nn.ModuleDict({"a": nn.Linear(1, 1)})
    net["b"] = net["a"]
    assert named((net, []), (net["b"], [net])) == ["ModuleDict", "a"]


def test_a_module_added_later_is_found() -> None:
    net = Net()
    found: list[str] = []
    paths = ModulePaths(lambda path: found.append(path) or len(found))  # type: ignore[func-returns-value]
    paths.name(net, [])
    net.extra = nn.Linear(1, 1)
    paths.name(net.extra, [net])
    assert paths.path(net.extra) == "extra"


def test_an_unregistered_module_is_named_by_its_class_below_its_parent() -> None:
    net, hidden = Net(), nn.Linear(1, 1)
    assert named((net, []), (hidden, [net, net.blocks[0]])) == ["Net", "blocks.0.Linear"]


def test_a_part_called_alone_is_renamed_by_the_whole() -> None:
    net = Net()
    assert named((net.blocks[0], []), (net, []), (net.blocks[0].attn, [net])) == ["Block", "Net", "blocks.0.attn"]


def test_wrappers_do_not_show() -> None:
    class DataParallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    class Checkpointed(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._checkpoint_wrapped_module = module

    net = Net()
    net.head = Checkpointed(net.head)  # type: ignore[assignment]
    root = DataParallel(net)
    assert named((root, []), (net, [root]), (net.head, [root, net])) == ["DataParallel", "Net", "head"]


def test_a_freed_module_frees_its_id() -> None:
    paths = ModulePaths(lambda path: 0)
    net = Net()
    paths.name(net, [])
    del net
    gc.collect()
    assert not paths.ids
