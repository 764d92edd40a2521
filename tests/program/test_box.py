"""Boxes of elements moved between layouts: every bit against numpy's strided views, traffic against closed forms."""

import math
import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, Array, from_device, load_target, run, to_device
from test_broadcast import random_axes

from torch_trn import _C


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def box_part(axes: list[dict[str, Any]], src: str, dst: str, offsets: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    reach = [sum((axis["size"] - 1) * axis[side] for axis in axes) for side in ("from", "to")]
    return {
        "family": "box",
        "src_dtype": src,
        "dst_dtype": dst,
        "src_elements": reach[0] + offsets[0] + 3,
        "dst_elements": reach[1] + offsets[1] + 2,
        "src_offset": offsets[0],
        "dst_offset": offsets[1],
        "axes": axes,
    }


def random_box(rng: random.Random) -> dict[str, Any]:
    """Axes of a dense result with gaps now and then, from a source in another order that repeats along some."""
    sizes = [size for size in random_axes(rng) if size > 1] or [2]
    order = rng.sample(range(len(sizes)), len(sizes))
    strides: dict[str, list[int]] = {}
    for side, walk in (("to", list(range(len(sizes)))[::-1]), ("from", order)):
        stride = rng.choice([1, 1, 2])
        strides[side] = [0] * len(sizes)
        for axis in walk:
            if side == "from" and rng.random() < 0.2:
                continue
            strides[side][axis] = stride
            stride = stride * sizes[axis] + rng.choice([0, 0, 0, 5])
    axes = [
        {"size": size, "from": strides["from"][a], "to": strides["to"][a], "reversed": rng.random() < 0.3}
        for a, size in enumerate(sizes)
    ]
    dtype = rng.choice(list(BYTES))
    return box_part(axes, dtype, dtype, (rng.randint(0, 9), rng.randint(0, 9)))


def moved(part: dict[str, Any], src: Array, dst: Array) -> Array:
    """numpy's own copy of the box, on arrays with an item for each element."""
    sizes = [axis["size"] for axis in part["axes"]]
    item = src.itemsize
    signs = [-axis["from"] if axis["reversed"] else axis["from"] for axis in part["axes"]]
    first = part["src_offset"] + sum((n - 1) * -s for n, s in zip(sizes, signs) if s < 0)
    view = np.lib.stride_tricks.as_strided(src[first:], sizes, [s * item for s in signs])
    into = np.lib.stride_tricks.as_strided(
        dst[part["dst_offset"] :], sizes, [axis["to"] * dst.itemsize for axis in part["axes"]]
    )
    into[...] = view
    return dst


@pytest.mark.parametrize("seed", range(120))
def test_every_bit_arrives_and_nothing_else_changes(target: Any, seed: int) -> None:
    part = random_box(random.Random(seed))
    size = BYTES[part["src_dtype"]]
    rng = np.random.default_rng(seed)
    high = 2 if part["src_dtype"] == "bool" else 256
    src, dst = (rng.integers(0, high, part[f"{side}_elements"] * size, np.uint8) for side in ("src", "dst"))
    kind = f"V{size}"
    expected = moved(part, src.view(kind), dst.copy().view(kind)).view(np.uint8)
    counts = run(part, target, [src], [dst])
    assert np.array_equal(dst, expected), part
    elements = math.prod(axis["size"] for axis in part["axes"])
    distinct = math.prod(axis["size"] for axis in part["axes"] if axis["from"])
    assert counts["hbm_write_bytes"] == elements * size
    assert distinct * size <= counts["hbm_read_bytes"] <= elements * size
    if distinct == elements:
        assert counts["hbm_read_bytes"] == elements * size


def test_casts(target: Any) -> None:
    axes = [
        {"size": 300, "from": 1, "to": 7, "reversed": True},
        {"size": 7, "from": 300, "to": 1, "reversed": False},
    ]
    part = box_part(axes, "float32", "bfloat16")
    values = np.random.default_rng(0).integers(-99, 99, part["src_elements"]).astype(np.float32)
    out = to_device(np.zeros(part["dst_elements"]), "bfloat16")
    run(part, target, [to_device(values, "float32")], [out])
    expected = moved(part, values, np.zeros(part["dst_elements"], np.float32))
    assert np.array_equal(from_device(out, "bfloat16"), expected)


def test_threads_agree(target: Any) -> None:
    axes = [
        {"size": n, "from": s, "to": t, "reversed": r} for n, s, t, r in ((700, 1, 300, True), (300, 700, 1, False))
    ]
    part = box_part(axes, "int32", "int32")
    src = np.arange(part["src_elements"], dtype=np.int32)
    out = np.zeros(part["dst_elements"], np.int32)
    _C.execute(part, target, [src.view(np.uint8)], [out.view(np.uint8)], num_threads=3)
    assert np.array_equal(out, moved(part, src, np.zeros_like(out)))


def test_errors(target: Any) -> None:
    part = box_part([{"size": 3, "from": 2, "to": 1, "reversed": False}], "float32", "float32")
    with pytest.raises(ValueError, match=r"\[box\] a box lies within its tensor, src; got 10, limit 7\."):
        _C.cost([part | {"src_offset": 5}], target)
    with pytest.raises(ValueError, match=r"\[box\] a box lies within its tensor, dst; got 6, limit 4\."):
        _C.cost([part | {"dst_offset": 3}], target)
    with pytest.raises(
        NotImplementedError, match=r"\[box\] casts of complex elements are counted.*complex64 to float32"
    ):
        _C.execute(part | {"src_dtype": "complex64"}, target, [], [])
