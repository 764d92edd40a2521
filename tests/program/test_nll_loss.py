"""Negative log likelihood on the emulated engines, forward and backward: values against float64, traffic exactly."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import BYTES, EPSILON, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def nll_part(batch: int, classes: int, positions: int, **fields: Any) -> dict[str, Any]:
    part = {
        "family": "nll_loss",
        "batch": batch,
        "classes": classes,
        "positions": positions,
        "dtype": "float32",
        "index_dtype": "int64",
        "weight": False,
        "backward": False,
        "reduction": "mean",
        "ignored": -100.0,
    }
    return part | fields


def random_case(seed: int) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor, torch.Tensor]:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    positions = rng.choice([1, 1, 1, 2, 50, 300, 5000])
    batch, classes = some_size(rng, max(1, 3000 // positions)), some_size(rng, 400)
    part = nll_part(
        batch,
        classes,
        positions,
        dtype=rng.choice(FLOATS),
        index_dtype=rng.choice(["int32", "int64"]),
        weight=rng.random() < 0.5,
        reduction=rng.choice(["none", "mean", "sum"]),
        ignored=float(rng.choice([-100, 0, classes - 1])),
    )
    exact = torch.randn(batch, classes, positions, generator=generator, dtype=torch.float64)
    weight = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.5
    stored = (
        torch.from_numpy(from_device(to_device(t.numpy(), part["dtype"]), part["dtype"])) for t in (exact, weight)
    )
    x, w = (s.reshape(t.shape).float().double() for s, t in zip(stored, (exact, weight)))
    targets = torch.randint(0, classes, (batch, positions), generator=generator)
    targets[torch.rand(batch, positions, generator=generator) < 0.2] = int(part["ignored"])
    return part, x, w, targets


def oracle(part: dict[str, Any], x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    weight = w if part["weight"] else None
    return torch.nn.functional.nll_loss(
        x, targets, weight, ignore_index=int(part["ignored"]), reduction=part["reduction"]
    )


def picked_bytes(part: dict[str, Any]) -> tuple[int, int, int]:
    """Of the targets, of an element for each, and of a weight for each."""
    n, size = part["batch"] * part["positions"], BYTES[part["dtype"]]
    return n * BYTES[part["index_dtype"]], n * size, n * size if part["weight"] else 0


@pytest.mark.parametrize("seed", range(60))
def test_forward(target: Any, seed: int) -> None:
    part, x, w, targets = random_case(seed)
    dtype, size = part["dtype"], BYTES[part["dtype"]]
    inputs = [to_device(x.numpy(), dtype), to_device(targets.numpy(), part["index_dtype"])]
    inputs += [to_device(w.numpy(), dtype)] if part["weight"] else []
    num_results = targets.numel() if part["reduction"] == "none" else 1
    out, total = empty(num_results, dtype), empty(1, dtype)
    counts = run(part, target, inputs, [out, total])
    exact = oracle(part, x, w, targets).flatten()
    counted = (targets != part["ignored"]).double()
    weights = (w[targets.clamp_min(0)] if part["weight"] else torch.ones(targets.shape, dtype=torch.float64)) * counted
    # fp32 sums of at most as many terms as there are targets, a product and a quotient, one store.
    magnitude = oracle(part, -x.abs(), w, targets).flatten()
    bound = magnitude * (targets.numel() + 4) * 2**-24 + exact.abs() * EPSILON[dtype] + 2**-24
    got = torch.from_numpy(from_device(out, dtype))
    assert torch.equal(got.isnan(), exact.isnan()), part
    assert ((got - exact).abs() <= bound)[~exact.isnan()].all(), part
    expected_total = 0 if part["reduction"] == "none" else weights.sum().item()
    assert from_device(total, dtype)[0] == pytest.approx(expected_total, rel=EPSILON[dtype] + 1e-5)
    read, picks, weighed = picked_bytes(part)
    assert counts["hbm_read_bytes"] == read + picks + weighed
    assert counts["hbm_write_bytes"] == (num_results + 1) * size


@pytest.mark.parametrize("seed", range(60))
def test_backward(target: Any, seed: int) -> None:
    part, x, w, targets = random_case(seed)
    part["backward"] = True
    dtype, size = part["dtype"], BYTES[part["dtype"]]
    x.requires_grad_()
    loss = oracle(part, x, w, targets)
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    upstream = torch.from_numpy(from_device(to_device(upstream.numpy(), dtype), dtype)).reshape(loss.shape)
    loss.backward(upstream)
    counted = (targets != part["ignored"]).double()
    weights = (w[targets.clamp_min(0)] if part["weight"] else torch.ones(targets.shape, dtype=torch.float64)) * counted
    inputs = [to_device(upstream.numpy(), dtype), to_device(targets.numpy(), part["index_dtype"])]
    inputs += [to_device(w.numpy(), dtype)] if part["weight"] else []
    inputs += [to_device(weights.sum().reshape(1).numpy(), dtype)]
    out = empty(x.numel(), dtype)
    counts = run(part, target, inputs, [out])
    assert x.grad is not None
    exact, got = x.grad.flatten(), torch.from_numpy(from_device(out, dtype))
    rounded_total = EPSILON[dtype] if part["reduction"] == "mean" else 0
    bound = exact.abs() * (EPSILON[dtype] + 2 * rounded_total + 2**-21) + 2**-24
    assert ((got - exact).abs() <= bound).all(), part
    read, picks, weighed = picked_bytes(part)
    gradients = {"none": picks, "sum": size, "mean": 2 * size}[part["reduction"]]
    assert counts["hbm_read_bytes"] == read + weighed + gradients
    assert counts["hbm_write_bytes"] == x.numel() * size + picks


def test_all_classes_of_a_vocabulary(target: Any) -> None:
    """51 million logits: places are counted from where a tile's rows begin, as fp32 would not hold them."""
    classes, n = 50_257, 700
    part = nll_part(n, classes, 1)
    x = np.random.default_rng(0).standard_normal((n, classes)).astype(np.float32)
    targets = np.random.default_rng(1).integers(0, classes, n)
    out, total = empty(1, "float32"), empty(1, "float32")
    run(part, target, [x.ravel().view(np.uint8), to_device(targets, "int64")], [out, total])
    exact = -x[np.arange(n), targets].astype(np.float64).mean()
    assert from_device(out, "float32")[0] == pytest.approx(exact, rel=1e-5)


def test_what_is_ignored_may_be_infinite(target: Any) -> None:
    x = np.array([[-np.inf, -1.0], [-2.0, -3.0]])
    out, total = empty(1, "float32"), empty(1, "float32")
    inputs = [to_device(x, "float32"), to_device(np.array([-100, 1]), "int64")]
    run(nll_part(2, 2, 1), target, inputs, [out, total])
    assert from_device(out, "float32")[0] == 3
    assert from_device(total, "float32")[0] == 1


@pytest.mark.parametrize("backward", [False, True])
def test_threads_agree(target: Any, backward: bool) -> None:
    n, classes = 4000, 30
    part = nll_part(n, classes, 1, reduction="none", backward=backward)
    rng = np.random.default_rng(0)
    first = to_device(rng.standard_normal(n if backward else n * classes), "float32")
    inputs = [first, to_device(rng.integers(0, classes, n), "int64")]
    results = []
    for num_threads in (1, 3):
        out, total = empty(n * classes if backward else n, "float32"), to_device(np.zeros(1), "float32")
        arrays = ([*inputs, total], [out]) if backward else (inputs, [out, total])
        _C.execute(part, target, *arrays, num_threads=num_threads)
        results.append(out.tobytes())
    assert results[0] == results[1]


def test_errors(target: Any) -> None:
    inputs = [to_device(np.zeros(6), "float32"), to_device(np.array([0, 3]), "int64")]
    with pytest.raises(RuntimeError, match=r"\[dma_gather\] an index names a row of the tensor; got 6, limit 5\."):
        _C.execute(nll_part(2, 3, 1), target, inputs, [empty(1, "float32"), empty(1, "float32")])
    for fields, reason in (
        ({"index_dtype": "uint8"}, r"targets of other types than int32 and int64 are counted.*got uint8\."),
        ({"classes": 2**25}, r"places that fp32 does not hold exactly are counted.*got 33554432\."),
        ({"ignored": 2.0**30}, r"an ignored target that fp32 does not hold exactly is counted"),
    ):
        with pytest.raises(NotImplementedError, match=r"\[nll_loss\] " + reason):
            _C.execute(nll_part(2, 3, 1) | fields, target, [], [])
