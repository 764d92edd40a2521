"""Fused attention on the emulated engines: values against numpy in float64, traffic against closed forms."""

import random
from typing import Any

import numpy as np
import pytest
from programs import BYTES, EPSILON, Array, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

U = 2**-24  # of fp32
BLOCK = 512  # keys of a score tile
DTYPES = ["float32", "bfloat16", "float16", "float64"]
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


@pytest.fixture(scope="module")
def trn2() -> Any:
    return load_target("trn2")


def target_of_spans(part: dict[str, Any]) -> Any:
    """The largest SBUF in which the keys do not fit: they pass in spans of some blocks."""
    fields = load_target("trn2").to_dict()
    for kib in range(96, 16, -2):
        fields["core"]["sbuf_bytes_per_partition"] = kib * 1024
        target = _C.Target(fields)
        if "partial" in _C.program_text([part], target):
            return target
    raise AssertionError(part)


def attention_part(q_len: int, kv_len: int, head_dim: int, **fields: Any) -> dict[str, Any]:
    part: dict[str, Any] = {
        "family": "attention",
        "batch": 1,
        "heads": 1,
        "q_len": q_len,
        "kv_len": kv_len,
        "head_dim": head_dim,
        "value_dim": head_dim,
        "dtype": "float32",
        "causal": False,
        "backward": False,
        "dropout": 0.0,
        "scale": float(np.float32(head_dim**-0.5)),
        "mask": [],
        "mask_dtype": fields.get("dtype", "float32"),
    }
    part.update(fields)
    part.setdefault("kv_heads", part["heads"])
    return part


def statistics_dtype(part: dict[str, Any]) -> str:
    return "float64" if part["dtype"] == "float64" else "float32"


def stored(values: Array, dtype: str) -> tuple[Array, Array]:
    """Bytes in HBM, and the values that SBUF has of them."""
    raw = to_device(values, dtype)
    exact = from_device(raw, dtype).reshape(values.shape)
    return raw, exact.astype(np.float32).astype(np.float64)


def by_head(x: Array, heads: int) -> Array:
    """[batch, length, kv_heads, dim] as [batch, heads, length, dim]."""
    return np.repeat(x.transpose(0, 2, 1, 3), heads // x.shape[2], axis=1)


def to_kv_heads(x: Array, kv_heads: int) -> Array:
    """Sums over the query heads of each key head: [batch, length, kv_heads, dim]."""
    batch, heads, length, dim = x.shape
    sums: Array = x.reshape(batch, kv_heads, heads // kv_heads, length, dim).sum(2)
    return sums.transpose(0, 2, 1, 3)


class Case:
    """Random operands of a part and its exact scores [batch, heads, q_len, kv_len] with a bound of their error."""

    def __init__(self, part: dict[str, Any], seed: int, mask: Array | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.part = part
        batch, heads, kv_heads = part["batch"], part["heads"], part["kv_heads"]
        d, dv, dtype = part["head_dim"], part["value_dim"], part["dtype"]
        self.raw: list[Array] = []
        tensors: list[Array] = []
        for length, count, dim in (
            (part["q_len"], heads, d),
            (part["kv_len"], kv_heads, d),
            (part["kv_len"], kv_heads, dv),
        ):
            raw, exact = stored(rng.standard_normal((batch, length, count, dim)), dtype)
            self.raw.append(raw)
            tensors.append(exact)
        self.q, self.k, self.v = (by_head(x, heads) for x in tensors)
        scale = abs(part["scale"])
        self.scores = part["scale"] * (self.q @ self.k.swapaxes(2, 3))
        absolute = scale * (np.abs(self.q) @ np.abs(self.k).swapaxes(2, 3))
        self.raw_mask: list[Array] = []
        if part["mask"]:
            raw, added = stored(rng.standard_normal(part["mask"]) if mask is None else mask, part["mask_dtype"])
            self.raw_mask = [raw]
            self.scores = np.maximum(self.scores + added, np.where(np.isinf(added), -np.inf, LOWEST))
            absolute = absolute + np.where(np.isfinite(added) & (added > -1e30), np.abs(added), 0)
        if part["causal"]:
            visible = np.arange(part["kv_len"]) <= np.arange(part["q_len"])[:, None]
            self.scores = np.where(visible, self.scores, -np.inf)
        # d products and sums, scale and mask, the maximum's subtraction; exp itself to 2 ULP, of each block again.
        blocks = part["kv_len"] // BLOCK + 1
        largest = absolute.max(-1, keepdims=True)
        self.bound = (d + 4) * U * absolute + 4 * U * largest * (1 + blocks) + 8 * U * blocks

    def softmax(self) -> tuple[Array, Array]:
        """Probabilities, 0 in a row that sees nothing, and the log-sum-exp, 0 there too."""
        peak = self.scores.max(-1, keepdims=True)
        seen = np.isfinite(peak)
        peak = np.where(seen, peak, 0)
        p = np.exp(self.scores - peak)
        total = p.sum(-1, keepdims=True)
        lse = np.where(seen, np.log(np.where(seen, total, 1)) + peak, 0)
        return p / np.where(seen, total, 1), lse[..., 0]


def mix(x: Array) -> Array:
    """The finaliser of splitmix64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def kept(part: dict[str, Any]) -> Array:
    """What dropout multiplies each pair by: a function of the seed, 0 here, and of the pair's place alone."""
    if part["dropout"] == 0:
        return np.ones(1)
    shape = [part[name] for name in ("batch", "heads", "q_len", "kv_len")]
    place = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
    uniform = (mix(mix(np.zeros(1, np.uint64)) ^ place) >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (uniform >= np.float32(part["dropout"])) / (1 - part["dropout"])


def narrow(dtype: str) -> float:
    """Absolute error of a probability below the dtype's normal numbers."""
    return 2.0**-24 if dtype == "float16" else 1e-37


def check_forward(case: Case, target: Any) -> dict[str, Any]:
    """Errors of scores, the rounding of probabilities to the operands' dtype, fp32 sums, one rounding of the result."""
    part = case.part
    batch, heads, q_len, dv = part["batch"], part["heads"], part["q_len"], part["value_dim"]
    out = empty(batch * q_len * heads * dv, part["dtype"])
    lse = empty(batch * heads * q_len, statistics_dtype(part))
    counts = run(part, target, [*case.raw, *case.raw_mask], [out, lse])
    p, expected_lse = case.softmax()
    p = p * kept(part)
    expected = p @ case.v
    of_scores = np.expm1(case.bound.max(-1, keepdims=True))
    epsilon = EPSILON[part["dtype"]]
    relative = 2 * of_scores + epsilon + (part["kv_len"] + 12) * U
    tiny = narrow(part["dtype"]) / (1 - part["dropout"])
    bound = relative * (p @ np.abs(case.v)) + tiny * np.abs(case.v).sum(2, keepdims=True)
    bound += epsilon * np.abs(expected) + narrow(part["dtype"])
    got = by_head(from_device(out, part["dtype"]).reshape(batch, q_len, heads, dv), heads)
    assert np.all(np.abs(got - expected) <= bound), part
    got_lse = from_device(lse, statistics_dtype(part)).reshape(batch, heads, q_len)
    bound_lse = of_scores[..., 0] + (part["kv_len"] + 8) * U + 8 * U * np.abs(expected_lse)
    assert np.all(np.abs(got_lse - expected_lse) <= bound_lse), part
    return counts


class Gradients:
    """Operands of a backward pass beside those of its case, and where its results go."""

    def __init__(self, case: Case, seed: int) -> None:
        part, dtype = case.part, case.part["dtype"]
        batch, heads, q_len, d, dv = (part[name] for name in ("batch", "heads", "q_len", "head_dim", "value_dim"))
        p, lse = case.softmax()
        p = p * kept(part)
        rng = np.random.default_rng(seed + 1)
        raw_grad, grad = stored(rng.standard_normal((batch, q_len, heads, dv)), dtype)
        raw_out, out = stored((p @ case.v).transpose(0, 2, 1, 3), dtype)
        raw_lse, self.lse = stored(lse, statistics_dtype(part))
        self.grad, self.out = by_head(grad, heads), by_head(out, heads)
        self.inputs = [raw_grad, *case.raw, raw_out, raw_lse, *case.raw_mask]
        self.results = [empty(batch * q_len * heads * d, dtype)]
        self.results += [empty(batch * part["kv_len"] * part["kv_heads"] * dim, dtype) for dim in (d, dv)]


def check_backward(case: Case, target: Any, seed: int) -> dict[str, Any]:
    """As the forward pass; each of the two roundings of a 16-bit tile is on its way into a sum."""
    part = case.part
    heads, kv_heads, dtype = part["heads"], part["kv_heads"], part["dtype"]
    given = Gradients(case, seed)
    grad, out, results = given.grad, given.out, given.results
    counts = run(part, target, given.inputs, results)

    p = np.exp(case.scores - given.lse[..., None])
    epsilon, scale, keep = EPSILON[dtype], abs(part["scale"]), kept(part)
    most = 1 / (1 - part["dropout"])
    relative = np.expm1(case.bound) + 8 * U * np.abs(given.lse[..., None]) + epsilon
    dp, delta = keep * (grad @ case.v.swapaxes(2, 3)), (grad * out).sum(-1, keepdims=True)
    size = most * np.abs(grad) @ np.abs(case.v).swapaxes(2, 3) + np.abs(grad * out).sum(-1, keepdims=True)
    of_dp = (part["value_dim"] + 8) * U * size
    ds = p * (dp - delta)
    of_p = relative * p + narrow(dtype)
    of_ds = of_p * np.abs(dp - delta) + p * of_dp + (epsilon + 4 * U) * np.abs(ds) + most * narrow(dtype)

    def check(raw: Array, expected: Array, error: Array) -> None:
        got = from_device(raw, dtype).reshape(expected.shape)
        assert np.all(np.abs(got - expected) <= error + epsilon * np.abs(expected) + narrow(dtype)), part

    sums = (max(part["q_len"] * heads // kv_heads, part["kv_len"]) + 8) * U
    absolute = of_ds + sums * np.abs(ds)
    check(
        results[0],
        part["scale"] * (ds @ case.k).transpose(0, 2, 1, 3),
        scale * (absolute @ np.abs(case.k)).transpose(0, 2, 1, 3),
    )
    check(
        results[1],
        part["scale"] * to_kv_heads(ds.swapaxes(2, 3) @ case.q, kv_heads),
        scale * to_kv_heads(absolute.swapaxes(2, 3) @ np.abs(case.q), kv_heads),
    )
    check(
        results[2],
        to_kv_heads((keep * p).swapaxes(2, 3) @ grad, kv_heads),
        to_kv_heads((keep * (of_p + sums * p)).swapaxes(2, 3) @ np.abs(grad), kv_heads),
    )
    return counts


def check_values(part: dict[str, Any], target: Any, seed: int = 0, mask: Array | None = None) -> dict[str, Any]:
    case = Case(part, seed, mask)
    return check_backward(case, target, seed) if part["backward"] else check_forward(case, target)


def closed_form(part: dict[str, Any]) -> tuple[int, int]:
    """HBM bytes where all keys fit, without a mask."""
    batch, heads, kv_heads, q_len = part["batch"], part["heads"], part["kv_heads"], part["q_len"]
    d, dv, item = part["head_dim"], part["value_dim"], BYTES[part["dtype"]]
    seen = min(q_len, part["kv_len"]) if part["causal"] else part["kv_len"]
    keys, queries = batch * kv_heads * (d + dv) * item, batch * heads * q_len
    statistics = queries * BYTES[statistics_dtype(part)]
    if part["backward"]:
        return keys * seen + queries * (d + 2 * dv) * item + statistics, queries * d * item + keys * part["kv_len"]
    return keys * seen + queries * d * item, queries * dv * item + statistics


def random_part(rng: random.Random, longest: int) -> dict[str, Any]:
    kv_heads, head_dim = rng.choice([1, 1, 2]), rng.choice([1, 8, 16, 64, 80, 128, 129, 192])
    return attention_part(
        some_size(rng, longest),
        some_size(rng, longest),
        head_dim,
        batch=rng.choice([1, 1, 2]),
        kv_heads=kv_heads,
        heads=kv_heads * rng.choice([1, 1, 3]),
        value_dim=rng.choice([head_dim, head_dim, 64]),
        dtype=rng.choice(DTYPES),
        causal=rng.random() < 0.5,
        backward=rng.random() < 0.5,
        dropout=rng.choice([0.0, 0.0, 0.0, 0.25]),
        scale=rng.choice([float(np.float32(head_dim**-0.5))] * 3 + [0.25, -0.5, 1.0, 0.0]),
    )


@pytest.mark.parametrize("seed", range(75))
def test_values_and_counts(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    part = random_part(rng, 520 if seed % 5 == 0 else 200)
    counts = check_values(part, target, seed)
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part), part


@pytest.mark.parametrize("seed", range(30))
def test_masks(target: Any, seed: int) -> None:
    """Of every broadcast shape; -inf hides, and a row that sees nothing is 0 and has no gradient."""
    rng = random.Random(seed)
    part = random_part(rng, 200) | {"causal": False}
    extents = [part[name] for name in ("batch", "heads", "q_len", "kv_len")]
    part["mask"] = [rng.choice([1, extent]) for extent in extents]
    part["mask_dtype"] = rng.choice([part["dtype"], "float32"])
    values = np.random.default_rng(seed)
    mask = values.standard_normal(part["mask"])
    mask[values.random(part["mask"]) < rng.choice([0, 0.3, 0.9])] = -np.inf
    check_values(part, target, seed, mask)


def part_of_few_queries(rng: random.Random) -> dict[str, Any]:
    kv_heads, head_dim = rng.choice([1, 2, 8]), rng.choice([16, 64, 80, 128, 192])
    return attention_part(
        rng.choice([1, 1, 2, 5]),
        rng.choice([3, 128, 200, 512, 700, 1025, 1500]),
        head_dim,
        batch=rng.choice([1, 2, 3]),
        kv_heads=kv_heads,
        heads=kv_heads * rng.choice([1, 3, 4]),
        value_dim=rng.choice([head_dim, head_dim, 64]),
        dtype=rng.choice(DTYPES),
        scale=rng.choice([float(np.float32(head_dim**-0.5)), -0.5]),
    )


@pytest.mark.parametrize("seed", range(40))
def test_few_queries(target: Any, seed: int) -> None:
    """Keys on partitions: bytes are those of the other plan, a mask's rows each read once for the heads they serve."""
    rng = random.Random(seed)
    part = part_of_few_queries(rng)
    mask = None
    if seed % 2:
        extents = [part[name] for name in ("batch", "heads", "q_len", "kv_len")]
        part |= {"mask": [rng.choice([1, extent]) for extent in extents], "mask_dtype": part["dtype"]}
        values = np.random.default_rng(seed)
        mask = values.standard_normal(part["mask"])
        mask[values.random(part["mask"]) < rng.choice([0, 0.3, 0.9])] = -np.inf
    counts = check_values(part, target, seed, mask)
    if mask is None:
        assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == closed_form(part), part


@pytest.mark.parametrize("masked", [False, True])
def test_a_token_of_a_long_text(trn2: Any, masked: bool) -> None:
    """Of grouped heads, over every key: the plan for few queries, and queries that see nothing are 0 in it."""
    part = attention_part(1, 2500, 64, batch=2, heads=16, kv_heads=4, dtype="bfloat16")
    mask = None
    if masked:
        part["mask"] = [2, 1, 1, 2500]
        mask = np.where(np.arange(2500) < np.array([1900, 0]).reshape(2, 1, 1, 1), 0, -np.inf)
    assert "negated_max_of_columns" in _C.program_text([part], trn2)
    counts = check_values(part, trn2, 3, mask)
    read, written = closed_form(part)
    assert counts["hbm_read_bytes"] == read + (2 * 2500 * 2 if masked else 0)
    assert counts["hbm_write_bytes"] == written


@pytest.mark.parametrize("backward", [False, True])
def test_rows_that_see_nothing(target: Any, backward: bool) -> None:
    """Beside rows that do, over several blocks; the lowest float32 hides as well, but leaves an average."""
    mask = np.zeros((1, 1, 140, 700))
    mask[:, :, 3:7], mask[:, :, 130, 510:] = -np.inf, -np.inf
    mask[:, :, 20:30, :600] = -np.inf
    part = attention_part(140, 700, 32, heads=2, mask=list(mask.shape), backward=backward)
    check_values(part, target, 1, mask)
    if not backward:
        mask[:, :, 50] = LOWEST
        check_values(part, target, 1, mask)


@pytest.mark.parametrize("seed", range(12))
def test_keys_that_pass_in_spans(seed: int) -> None:
    """Partial results go to HBM and come back: fp32, so that the bounds are those of resident keys."""
    rng = random.Random(seed)
    part = random_part(rng, 200) | {"kv_len": rng.choice([1030, 1300]), "batch": 1}
    part["heads"] = rng.choice([1, 2]) * part["kv_heads"]
    part["head_dim"], part["value_dim"] = rng.choice([(64, 64), (128, 64), (129, 80)])
    part["dtype"] = rng.choice(["float32", "bfloat16"])
    part["scale"] = 0.125
    if part["causal"]:
        part["q_len"] = rng.choice([700, 1100])
    if seed % 3 == 0:
        part |= {"mask": [1, 1, part["q_len"], part["kv_len"]], "causal": False}
    check_values(part, target_of_spans(part), seed)


@pytest.mark.parametrize("seed", range(12))
def test_threads_give_the_same_bytes(trn2: Any, seed: int) -> None:
    rng = random.Random(seed)
    part = random_part(rng, 200) | {"batch": rng.choice([1, 3]), "heads": 4, "kv_heads": 2, "backward": seed % 2 == 1}
    if seed % 4 > 1:
        part |= {"q_len": 150, "kv_len": 1100, "head_dim": 64, "value_dim": 64, "dtype": "bfloat16", "causal": False}
    target = target_of_spans(part) if part["kv_len"] == 1100 else trn2
    case = Case(part, seed)
    results = []
    for num_threads in (1, 3):
        elements = part["batch"] * part["heads"] * part["q_len"]
        out = [empty(elements * part["value_dim"], part["dtype"]), empty(elements, statistics_dtype(part))]
        inputs = case.raw
        if part["backward"]:
            given = Gradients(case, seed)
            inputs, out = given.inputs, given.results
        _C.execute(part, target, inputs, out, num_threads=num_threads)
        results.append([x.tobytes() for x in out])
    assert results[0] == results[1]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dims", [(600, 64), (513, 1024), (1024, 1024)])
def test_wide_heads(trn2: Any, dims: tuple[int, int], backward: bool) -> None:
    """Results of more than a PSUM bank, in column tiles."""
    for dtype in ("float32", "bfloat16"):
        part = attention_part(150, 200, dims[0], value_dim=dims[1], backward=backward, dtype=dtype, causal=True)
        check_values(part, trn2)


def test_not_a_number_stays_in_its_row(trn2: Any) -> None:
    part = attention_part(130, 140, 16, heads=2)
    case = Case(part, 0)
    q = case.raw[0].view(np.float32).reshape(130, 2, 16)
    q[5, 1, 3] = np.nan
    out, lse = empty(130 * 2 * 16, "float32"), empty(2 * 130, "float32")
    run(part, trn2, case.raw, [out, lse])
    wild = np.isnan(out.view(np.float32).reshape(130, 2, 16))
    assert wild[5, 1].all() and wild.sum() == 16
    assert np.argwhere(np.isnan(lse.view(np.float32).reshape(2, 130))).tolist() == [[1, 5]]


def test_what_only_counts(trn2: Any) -> None:
    for fields, got in [
        ({"dropout": 1.0}, r"a dropout of everything is counted, not executed; got 1\.0+\."),
        ({"mask": [1, 1, 3, 5]}, r"a mask that does not broadcast .*; got 3 for 4\."),
        ({"value_dim": 2000}, r"a head wider than 1024 is counted, not executed; got 2000\."),
        ({"dtype": "complex64"}, r"attention of elements that are not floating is .*; got complex64\."),
        ({"heads": 3, "kv_heads": 2}, r"a fraction of a head .*; got 3 for 2\."),
    ]:
        with pytest.raises(NotImplementedError, match=r"\[attention\] " + got):
            _C.execute(attention_part(4, 5, 8, **fields), trn2, [], [])


@pytest.mark.parametrize("backward", [False, True])
def test_dropout_draws_the_same_however_keys_pass(trn2: Any, backward: bool) -> None:
    """Resident or in spans, in any tiles: the oracle's numbers are those of each pair's place."""
    part = attention_part(150, 1100, 64, heads=2, dtype="bfloat16", dropout=0.5, backward=backward)
    for target in (trn2, target_of_spans(part)):
        check_values(part, target)
