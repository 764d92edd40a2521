"""Pooling on the emulated engines: values against torch in float64, traffic against closed forms."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import BYTES, EPSILON, Array, empty, from_device, load_target, run, to_device
from torch.nn import functional as F

from torch_trn import _C

FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def random_window(rng: random.Random, kind: str, backward: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A part, and torch's arguments for it."""
    kernel = [rng.choice([1, 2, 3, 5]) for _ in range(2)]
    padding = [rng.randint(0, k // 2) for k in kernel]
    stride = [rng.choice([1, 2, 3]) for _ in range(2)]
    dilation = [rng.choice([1, 1, 2]) if kind == "max_pool" else 1 for _ in range(2)]
    size = [rng.randint((k - 1) * d + 1, 30) for k, d in zip(kernel, dilation, strict=True)]
    arguments: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": rng.random() < 0.4,
    }
    if kind == "max_pool":
        arguments["dilation"] = dilation
        out = F.max_pool2d(torch.zeros(1, 1, *size), **arguments)
    else:
        arguments["count_include_pad"] = rng.random() < 0.5
        arguments["divisor_override"] = rng.choice([None, None, 7])
        out = F.avg_pool2d(torch.zeros(1, 1, *size), **arguments)
    planes = rng.choice([1, 3, 127, 128, 129, 300])
    dtype = rng.choice(FLOATS)
    part = {
        "family": "window",
        "kind": kind,
        "in_elements": planes * size[0] * size[1],
        "out_elements": planes * out.numel(),
        "taps": kernel[0] * kernel[1],
        "dtype": dtype,
        "indices": kind == "max_pool",
        "backward": backward,
        "planes": planes,
        "in": size,
        "out": list(out.shape[2:]),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "counts_padding": arguments.get("count_include_pad", True),
        "divisor": arguments.get("divisor_override") or 0,
    }
    return part, arguments


def stored_values(part: dict[str, Any], side: str, seed: int) -> tuple[Array, torch.Tensor]:
    """Some bytes and their exact values, as planes."""
    values = np.random.default_rng(seed).integers(-40, 40, part["planes"] * int(np.prod(part[side]))) / 8
    stored = to_device(values, part["dtype"])
    return stored, torch.from_numpy(from_device(stored, part["dtype"])).view(1, part["planes"], *part[side])


def assert_close(out: Array, expected: torch.Tensor, part: dict[str, Any], magnitude: torch.Tensor) -> None:
    """A sum over the taps and a division in fp32, and the rounding of a store."""
    got = from_device(out, part["dtype"])
    exact, scale = expected.flatten().numpy(), magnitude.flatten().numpy()
    bound = (part["taps"] + 3) * 2.0**-24 * scale + EPSILON[part["dtype"]] * (np.abs(exact) + 2.0**-22 * scale)
    assert np.all(np.abs(got - exact) <= bound * 1.01 + 2.0**-24 * (part["dtype"] == "float16")), part


def assert_traffic(counts: dict[str, Any], part: dict[str, Any]) -> None:
    size = BYTES[part["dtype"]]
    large, small = part["in_elements"] * size, part["out_elements"] * (size + 8 * part["indices"])
    expected = (small, large) if part["backward"] else (large, small)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == expected, part


@pytest.mark.parametrize("seed", range(60))
def test_max_pool(target: Any, seed: int) -> None:
    """Values and places are exact, those of equals too; gradients go where the maximum was."""
    part, arguments = random_window(random.Random(seed), "max_pool", False)
    stored, x = stored_values(part, "in", seed)
    out, places = empty(part["out_elements"], part["dtype"]), empty(part["out_elements"], "int64")
    assert_traffic(run(part, target, [stored], [out, places]), part)
    expected, index = F.max_pool2d(x.requires_grad_(), return_indices=True, **arguments)
    assert np.array_equal(from_device(out, part["dtype"]), expected.detach().flatten().numpy()), part
    assert np.array_equal(places.view(np.int64), index.flatten().numpy()), part
    back = part | {"backward": True}
    stored, gradient = stored_values(part, "out", seed + 1)
    out = empty(part["in_elements"], part["dtype"])
    assert_traffic(run(back, target, [stored, places], [out]), back)
    (exact,) = torch.autograd.grad(expected, x, gradient, retain_graph=True)
    (magnitude,) = torch.autograd.grad(expected, x, gradient.abs())
    assert_close(out, exact, back, magnitude)


@pytest.mark.parametrize("seed", range(60))
def test_average_pool(target: Any, seed: int) -> None:
    part, arguments = random_window(random.Random(seed), "average_pool", False)
    stored, x = stored_values(part, "in", seed)
    out = empty(part["out_elements"], part["dtype"])
    assert_traffic(run(part, target, [stored], [out]), part)
    expected = F.avg_pool2d(x.requires_grad_(), **arguments)
    assert_close(out, expected.detach(), part, F.avg_pool2d(x.detach().abs(), **arguments))
    back = part | {"backward": True}
    stored, gradient = stored_values(part, "out", seed + 1)
    out = empty(part["in_elements"], part["dtype"])
    assert_traffic(run(back, target, [stored], [out]), back)
    (exact,) = torch.autograd.grad(expected, x, gradient, retain_graph=True)
    (magnitude,) = torch.autograd.grad(expected, x, gradient.abs())
    assert_close(out, exact, part, magnitude)


@pytest.mark.parametrize("kind", ["max_pool", "average_pool"])
@pytest.mark.parametrize("backward", [False, True])
def test_threads_agree(target: Any, kind: str, backward: bool) -> None:
    part, _ = random_window(random.Random(3), kind, backward)
    planes = 2000
    part |= {"planes": planes, "dtype": "float32"}
    part |= {f"{side}_elements": planes * int(np.prod(part[side])) for side in ("in", "out")}
    near, far = ("out", "in") if backward else ("in", "out")
    inputs = [stored_values(part, near, 0)[0]]
    results = []
    for num_threads in (1, 3):
        outputs = [empty(part[f"{far}_elements"], "float32")]
        if kind == "max_pool":
            (inputs if backward and num_threads == 1 else outputs).append(
                to_device(np.zeros(part["out_elements"]), "int64")
            )
        outputs = outputs[:1] if backward else outputs
        _C.execute(part, target, inputs, outputs, num_threads=num_threads)
        results.append([out.tobytes() for out in outputs])
    assert results[0] == results[1]


def test_errors(target: Any) -> None:
    one, _ = random_window(random.Random(0), "average_pool", False)
    large = {"in": [300, 300], "out": [300, 300], "kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "planes": 1}
    for fields, reason in (
        (
            {"planes": 0},
            r"windows of unknown geometry, and of whole numbers, are counted, not executed; got 0 planes\.",
        ),
        ({"dtype": "int64"}, r"windows of unknown geometry, and of whole numbers, are counted"),
        ({"in": [8]}, r"windows of unknown geometry"),
        (large | {"in_elements": 90_000, "out_elements": 90_000}, r"planes that do not fit SBUF are .*got 300 x 300\."),
    ):
        with pytest.raises(NotImplementedError, match=r"\[window\] " + reason):
            _C.execute(one | fields, target, [], [])
