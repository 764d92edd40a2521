"""Convolutions on the emulated engines: values against torch in float64, traffic against closed forms."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import BYTES, EPSILON, Array, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

DIRECTIONS = ["forward", "input_gradient", "weight_gradient"]
FLOATS = ["float32", "bfloat16", "float16", "float64"]


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


@pytest.fixture(scope="module")
def trn2() -> Any:
    return load_target("trn2")


@pytest.fixture(scope="module")
def small_target() -> Any:
    """SBUF of 16 KiB per partition: images of a few thousand positions need several blocks."""
    fields = load_target("trn2").to_dict()
    fields["core"]["sbuf_bytes_per_partition"] = 16 * 1024
    return _C.Target(fields)


def conv_part(
    channels: tuple[int, int],
    inputs: list[int],
    kernel: list[int],
    direction: str = "forward",
    **fields: Any,
) -> dict[str, Any]:
    axes = range(len(inputs))
    part: dict[str, Any] = {
        "family": "conv",
        "direction": direction,
        "batch": 1,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "groups": 1,
        "in": inputs,
        "kernel": kernel,
        "stride": [1 for _ in axes],
        "padding": [0 for _ in axes],
        "dilation": [1 for _ in axes],
        "dtype": "float32",
        "bias": False,
    } | fields
    part["out"] = [
        (i + 2 * p - (k - 1) * d - 1) // s + 1
        for i, p, k, d, s in zip(inputs, part["padding"], kernel, part["dilation"], part["stride"], strict=True)
    ]
    return part


def shapes(part: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        "in": (part["batch"], part["in_channels"], *part["in"]),
        "weight": (part["out_channels"], part["in_channels"] // part["groups"], *part["kernel"]),
        "out": (part["batch"], part["out_channels"], *part["out"]),
    }


def exact(part: dict[str, Any], first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The two operands' product by torch in float64, without a bias."""
    forward, axes = part["direction"] == "forward", len(part["in"])
    geometry = (part["stride"], part["padding"], part["dilation"])
    if forward:
        return torch.convolution(first, second, None, *geometry, False, [0] * axes, part["groups"])
    shape = shapes(part)
    is_input = part["direction"] == "input_gradient"
    grad, inputs, weight = (first, None, second) if is_input else (second, first, None)
    gradients = torch.ops.aten.convolution_backward(
        grad,
        torch.zeros(shape["in"], dtype=torch.float64) if inputs is None else inputs,
        torch.zeros(shape["weight"], dtype=torch.float64) if weight is None else weight,
        None,
        *geometry,
        False,
        [0] * axes,
        part["groups"],
        [is_input, not is_input, False],
    )
    return torch.as_tensor(gradients[0 if is_input else 1])


def num_products(part: dict[str, Any]) -> int:
    """Products that one element of the result sums, at most."""
    if part["direction"] == "weight_gradient":
        return int(part["batch"] * math.prod(part["out"]))
    channels = part["in_channels" if part["direction"] == "forward" else "out_channels"]
    return int(channels // part["groups"] * math.prod(part["kernel"]))


ROLES = {
    "forward": ("in", "weight", "out"),
    "input_gradient": ("out", "weight", "in"),
    "weight_gradient": ("in", "out", "weight"),
}


def stored_operands(part: dict[str, Any], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [to_device(rng.standard_normal(shapes(part)[role]), part["dtype"]) for role in ROLES[part["direction"]][:2]]


def check_values(part: dict[str, Any], target: Any, seed: int = 0) -> dict[str, Any]:
    """Executes on random values; the error stays within fp32 accumulation and the result's rounding."""
    first, second, produced = ROLES[part["direction"]]
    shape, dtype, is_weight = shapes(part), part["dtype"], part["direction"] == "weight_gradient"
    stored = stored_operands(part, seed)
    out = empty(math.prod(shape[produced]), dtype)
    bias = np.random.default_rng(seed + 1).standard_normal(shape[produced][1])
    arrays = list(stored)
    outputs = [out]
    if part["bias"] and is_weight:
        outputs.append(empty(part["out_channels"], dtype))
    elif part["bias"]:
        arrays.append(to_device(bias, dtype))
    counts = run(part, target, arrays, outputs)

    x, y = (
        torch.from_numpy(from_device(s, dtype)).reshape(shape[role])
        for s, role in zip(stored, (first, second), strict=True)
    )
    expected, scale = exact(part, x, y), exact(part, x.abs(), y.abs())
    if part["bias"] and is_weight:
        axes = [0, *range(2, y.dim())]
        check_bound(part, outputs[1], y.sum(axes), y.abs().sum(axes))
    elif part["bias"]:
        added = torch.from_numpy(from_device(arrays[2], dtype)).reshape(-1, *[1] * len(part["in"]))
        expected, scale = expected + added, scale + added.abs()
    check_bound(part, out, expected, scale)
    return counts


def check_bound(part: dict[str, Any], stored: Array, expected: torch.Tensor, scale: torch.Tensor) -> None:
    got = torch.from_numpy(from_device(stored, part["dtype"])).reshape(expected.shape)
    # A float64 operand is rounded to fp32 first; one fp32 rounding per product summed; one store.
    bound = (num_products(part) + 4) * 2**-24 * scale + EPSILON[part["dtype"]] * expected.abs() + 2**-24
    assert bool(((got - expected).abs() <= bound).all()), part


def windows(part: dict[str, Any], axis: int, block: int, shift: int) -> int:
    """Positions of one axis that all blocks of `block` produced positions read, from `shift` behind the first on."""
    s, p, d, k = (part[name][axis] for name in ("stride", "padding", "dilation", "kernel"))
    reverse = part["direction"] == "input_gradient"
    here, there = (part["in"][axis], part["out"][axis]) if reverse else (part["out"][axis], part["in"][axis])
    if axis > 0 and block >= here and ((p - (k - 1) * d) // s if reverse else -p) <= 0:
        return int(max(there - max(shift - p, 0), 0))  # whole rows
    total = 0
    for first in range(0, here, block):
        last = min(first + block, here) - 1
        if reverse:
            low, high = (first + p - (k - 1) * d) // s, (last + p) // s + 1
        else:
            low, high = first * s - p + shift, last * s - p + (k - 1) * d + 1
        total += max(min(high, there) - min(max(low, 0), there), 0)
    return total


def folds(part: dict[str, Any]) -> int:
    each = max(part["in_channels"], part["out_channels"]) // part["groups"]
    pack = min(part["groups"], 128 // each) if each <= 64 else 1
    channels = pack * part["in_channels"] // part["groups"]
    fits = part["direction"] != "input_gradient" and channels <= 64
    return int(min(part["kernel"][-1], 128 // channels)) if fits else 1


def closed_forms(part: dict[str, Any]) -> set[tuple[int, int]]:
    """With as many taps folded as fit, or as have whole rows where there is padding: the faster is taken."""
    most, whole = folds(part), part["padding"][-1] // part["dilation"][-1] + 1
    return {closed_form(part, most), closed_form(part, min(most, whole) if any(part["padding"]) else most)}


def closed_form(part: dict[str, Any], fold: int) -> tuple[int, int]:
    """HBM bytes read and written of a convolution that is one block and one pass."""
    axes = range(len(part["in"]))
    here = part["in"] if part["direction"] == "input_gradient" else part["out"]
    positions = math.prod(windows(part, axis, here[axis], 0) for axis in axes[:-1])
    if fold > 1 and len(axes) > 1 and not any(part["padding"][1:]):  # each copy is one run
        missing = part["dilation"][-1] * fold * (fold - 1) // 2
        positions = fold * positions * windows(part, axes[-1], here[-1], 0) - missing
    else:
        positions *= sum(windows(part, axes[-1], here[-1], f * part["dilation"][-1]) for f in range(fold))
    elements = {role: math.prod(shape) for role, shape in shapes(part).items()}
    item = BYTES[part["dtype"]]
    if part["direction"] == "weight_gradient":
        bias = part["bias"] * part["out_channels"]
        read = part["batch"] * part["in_channels"] * positions + elements["out"]
        return read * item, (elements["weight"] + bias) * item
    contracted, produced = ("in", "out") if part["direction"] == "forward" else ("out", "in")
    read = part["batch"] * part[f"{contracted}_channels"] * positions + elements["weight"]
    return (read + part["bias"] * part[f"{produced}_channels"]) * item, elements[produced] * item


def random_part(rng: random.Random, direction: str, channels: int, positions: int) -> dict[str, Any]:
    axes = rng.choice([1, 2, 2, 3])
    groups = rng.choice([1, 1, 1, 2, 3, 8, 40])
    each = [min(some_size(rng, channels), max(channels // groups, 1)) for _ in range(2)]
    if groups > 3 and rng.random() < 0.5:
        each = [1, rng.choice([1, 1, 2])]
    largest = max(int(positions ** (1 / axes)), 2)
    kernel = [rng.choice([1, 2, 3, 5] if axes < 3 else [1, 2, 3]) for _ in range(axes)]
    dilation = [rng.choice([1, 1, 2]) for _ in range(axes)]
    padding = [rng.choice([0, 1, k // 2, (k - 1) * d]) for k, d in zip(kernel, dilation, strict=True)]
    low = [max((k - 1) * d + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    return conv_part(
        (each[0] * groups, each[1] * groups),
        [rng.randint(n, max(n, largest)) for n in low],
        kernel,
        direction,
        batch=rng.choice([1, 1, 2, 3]),
        groups=groups,
        stride=[rng.choice([1, 1, 2, 3]) for _ in range(axes)],
        padding=padding,
        dilation=dilation,
        dtype=rng.choice(FLOATS),
        bias=rng.random() < 0.4,
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(80))
def test_values_and_traffic(target: Any, seed: int, direction: str) -> None:
    rng = random.Random(seed)
    part = random_part(rng, direction, 300 if seed % 8 == 0 else 60, 400)
    counts = check_values(part, target, seed)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) in closed_forms(part), part


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(30))
def test_blocks_and_passes(small_target: Any, seed: int, direction: str) -> None:
    part = random_part(random.Random(seed), direction, 40 if seed % 2 else 270, 5000)
    part["dtype"] = "float32"
    check_values(part, small_target, seed)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(20))
def test_threads_give_the_same_bytes(trn2: Any, small_target: Any, seed: int, direction: str) -> None:
    target = small_target if seed % 2 else trn2
    part = random_part(random.Random(1000 + seed), direction, 100, 4000)
    arrays = stored_operands(part, seed)
    sizes = {role: math.prod(shape) for role, shape in shapes(part).items()}
    produced = ROLES[direction][2]
    channels = shapes(part)[produced][1] if direction != "weight_gradient" else part["out_channels"]
    bias = [to_device(np.ones(channels), part["dtype"])] if part["bias"] else []
    is_weight = direction == "weight_gradient"
    results = []
    for num_threads in (1, 3):
        outputs = [empty(sizes[produced], part["dtype"]), *([bias[0].copy()] if bias and is_weight else [])]
        _C.execute(part, target, arrays + ([] if is_weight else bias), outputs, num_threads=num_threads)
        results.append(b"".join(o.tobytes() for o in outputs))
    assert results[0] == results[1], part


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_integers_go_through_fp32(trn2: Any, direction: str) -> None:
    part = conv_part((6, 4), [9, 8], [3, 2], direction, batch=2, groups=2, stride=[2, 1], padding=[1, 1], dtype="int64")
    shape, (first, second, produced) = shapes(part), ROLES[direction]
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, shape[role]) for role in (first, second))
    out = np.zeros(shape[produced], np.int64)
    run(part, trn2, [x, y], [out])
    assert np.array_equal(out, exact(part, torch.from_numpy(x).double(), torch.from_numpy(y).double()).numpy())


def test_copies_of_few_channels_are_one_run_each(trn2: Any) -> None:
    """Seven copies of an image with 3 channels, which begin a column later each. With padding they go row by row."""
    counts = check_values(conv_part((3, 64), [12, 20], [7, 7]), trn2)
    assert counts["hbm_read_bytes"] == 4 * (3 * (7 * 12 * 20 - sum(range(7))) + 3 * 64 * 49)
    assert counts["dma_descriptors"] < 100 + 3 * 7 + 64
    counts = check_values(conv_part((3, 64), [12, 20], [7, 7], padding=[0, 1]), trn2)
    assert counts["hbm_read_bytes"] == 4 * (3 * 12 * (20 + sum(range(15, 21))) + 3 * 64 * 49)


@pytest.mark.parametrize("direction", ["forward", "weight_gradient"])
def test_what_a_stride_leaves_over_is_read_too(trn2: Any, direction: str) -> None:
    """A run of HBM for each channel, though no tap touches the last column and row."""
    part = conv_part((64, 32), [28, 28], [1, 1], direction, stride=[2, 2])
    counts = check_values(part, trn2)
    other = 64 * 32 if direction == "forward" else 32 * 14 * 14
    assert counts["hbm_read_bytes"] == 4 * (64 * 27 * 28 + other)
    assert counts["dma_descriptors"] < 300


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("channels", "plane", "batch", "groups"),
    [((130, 70), [7, 7], 37, 1), ((40, 200), [14, 14], 21, 1), ((48, 48), [7, 5], 33, 48), ((5, 6), [40], 50, 1)],
)
def test_samples_of_a_small_plane_share_a_block(
    target: Any, channels: tuple[int, int], plane: list[int], batch: int, groups: int, dtype: str
) -> None:
    kernel, padding = [3 for _ in plane], [1 for _ in plane]
    fields: dict[str, Any] = {"groups": groups, "padding": padding, "dtype": dtype, "bias": True}
    part = conv_part(channels, plane, kernel, "weight_gradient", batch=batch, **fields)
    counts = check_values(part, target)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) in closed_forms(part)
    alone = _C.cost([conv_part(channels, plane, kernel, "weight_gradient", batch=1, **fields)], target)["counts"]
    assert counts["busy_cycles"]["vector"] < 0.8 * batch * alone["busy_cycles"]["vector"]


def test_a_window_beyond_the_input_is_zeros(trn2: Any) -> None:
    part = conv_part((3, 5), [2, 2], [1, 1], padding=[4, 4], stride=[3, 3], bias=True)
    check_values(part, trn2)
    for direction in DIRECTIONS:
        check_values(conv_part((3, 5), [1, 2], [1, 3], direction, padding=[2, 6], dilation=[1, 3]), trn2)


def test_nan_reaches_what_its_window_touches(trn2: Any) -> None:
    part = conv_part((70, 80), [12, 11], [3, 3], stride=[2, 1], padding=[1, 1])
    x, w = (np.random.default_rng(0).standard_normal(shapes(part)[role]) for role in ("in", "weight"))
    x[0, 3, 5, 6] = np.nan
    out = empty(math.prod(shapes(part)["out"]), "float32")
    run(part, trn2, [to_device(x, "float32"), to_device(w, "float32")], [out])
    expected = exact(part, torch.from_numpy(x), torch.from_numpy(w))
    assert np.array_equal(np.isnan(from_device(out, "float32")), np.isnan(expected.numpy().ravel()))


def test_zeros_between_groups_do_not_hide_a_weight(trn2: Any) -> None:
    """Masks select, so that an infinite weight stays in its group."""
    part = conv_part((4, 4), [8], [3], groups=4)
    w = np.ones((4, 1, 3))
    w[2, 0, 1] = np.inf
    out = empty(math.prod(shapes(part)["out"]), "float32")
    run(part, trn2, [to_device(np.ones((1, 4, 8)), "float32"), to_device(w, "float32")], [out])
    assert np.array_equal(from_device(out, "float32").reshape(4, 6), np.repeat([[3], [3], [np.inf], [3]], 6, axis=1))


def test_complex_is_refused(trn2: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=r"\[conv\] complex elements are counted, not executed; got complex64"
    ):
        _C.execute(conv_part((2, 2), [4], [1], dtype="complex64"), trn2, [], [])
