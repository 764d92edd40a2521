"""Specs as plain dicts: every family round trips, and a bad dict gets an error that names the field."""

from typing import Any

import pytest
from random_parts import step

from torch_trn import _C

Part = dict[str, Any]


def access(dtype: str, elements: int, contiguous: int | None = None, span: int = 0) -> dict[str, Any]:
    run = contiguous or elements
    return {"dtype": dtype, "elements": elements, "contiguous_elements": run, "span_elements": span}


STEPS = [
    step("tensor_tensor", "multiply", scalar=0.5),
    step("activation", function="exp", scalar=-1.0) | {"dst": 96, "a": 1, "scalar1": 2.0},
]
SCAN: Part = {"family": "scan", "rows": 2, "cols": 3, "alu": "add", "inputs": [access("float32", 6)], "outputs": []}
EXAMPLES: list[Part] = [
    {
        "family": "matmul",
        "batch": 2,
        "m": 3,
        "n": 4,
        "k": 5,
        "a_dtype": "bfloat16",
        "b_dtype": "float8_e5m2",
        "out_dtype": "float32",
        "a_k_major": True,
        "b_k_major": False,
        "a_batch": 2,
        "b_batch": 1,
        "bias": [1, 1, 4],
        "alpha": 0.5,
        "beta": 2.0,
    },
    {
        "family": "conv",
        "direction": "weight_gradient",
        "batch": 2,
        "in_channels": 4,
        "out_channels": 6,
        "groups": 2,
        "in": [9, 8],
        "out": [7, 6],
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "dtype": "float16",
        "bias": True,
    },
    {
        "family": "attention",
        "batch": 1,
        "heads": 4,
        "kv_heads": 2,
        "q_len": 16,
        "kv_len": 32,
        "head_dim": 8,
        "value_dim": 8,
        "dtype": "bfloat16",
        "causal": True,
        "backward": True,
        "dropout": 0.5,
        "scale": 0.25,
        "mask": [1, 4, 1, 32],
        "mask_dtype": "float32",
    },
    {
        "family": "pointwise",
        "elements": 12,
        "inputs": [access("float32", 12), access("int64", 1)],
        "outputs": [access("bool", 12)],
        "steps": STEPS,
        "segments": 3,
        "axes": [3, 4],
        "repeats": [0, 3],
    },
    {
        "family": "reduction",
        "rows": 3,
        "cols": 4,
        "across_partitions": True,
        "alu": "maximum",
        "prologue": STEPS,
        "epilogue": STEPS,
        "places": True,
        "variance": True,
        "correction": 1.0,
        "inputs": [access("float64", 12)],
        "outputs": [access("float64", 3)],
    },
    {
        "family": "softmax",
        "rows": 3,
        "cols": 4,
        "in_dtype": "bfloat16",
        "out_dtype": "float32",
        "log": True,
        "backward": True,
        "across_partitions": False,
    },
    {
        "family": "norm",
        "kind": "group",
        "rows": 3,
        "cols": 4,
        "channels": 2,
        "spatial": 2,
        "dtype": "float32",
        "parameter_dtype": "float32",
        "weight": True,
        "bias": False,
        "backward": True,
        "input_gradient": False,
        "weight_gradient": True,
        "bias_gradient": False,
        "training": True,
        "running_statistics": False,
        "eps": 0.125,
        "momentum": 0.5,
    },
    {
        "family": "copy",
        "elements": 12,
        "src": access("float32", 12, 3),
        "dst": access("bfloat16", 12),
        "transpose": True,
        "rows": 3,
        "cols": 2,
        "repeated_elements": 0,
    },
    {
        "family": "box",
        "src_dtype": "float32",
        "dst_dtype": "bfloat16",
        "src_elements": 12,
        "dst_elements": 24,
        "src_offset": 1,
        "dst_offset": 2,
        "axes": [{"size": 2, "from": 0, "to": 5, "reversed": False}, {"size": 5, "from": 1, "to": 1, "reversed": True}],
    },
    {
        "family": "index",
        "kind": "scatter_add",
        "num_rows": 3,
        "row_elements": 4,
        "dtype": "float16",
        "index_dtype": "int32",
        "num_indices": 3,
        "base_elements": 20,
        "table_rows": 5,
        "num_tables": 2,
        "columns": 3,
        "wraps": True,
        "axes": [1, 5],
        "scales": True,
    },
    {
        "family": "nll_loss",
        "batch": 4,
        "classes": 5,
        "positions": 6,
        "dtype": "bfloat16",
        "index_dtype": "int64",
        "weight": True,
        "backward": True,
        "reduction": "sum",
        "ignored": -100.0,
    },
    {
        "family": "window",
        "kind": "average_pool",
        "in_elements": 64,
        "out_elements": 16,
        "taps": 4,
        "dtype": "bfloat16",
        "indices": False,
        "backward": True,
        "planes": 1,
        "in": [8, 8],
        "out": [4, 4],
        "kernel": [2, 2],
        "stride": [2, 2],
        "padding": [0, 0],
        "dilation": [1, 1],
        "counts_padding": False,
        "divisor": 3,
    },
    {
        "family": "taps",
        "outer": 2,
        "in": 3,
        "out": 4,
        "inner": 5,
        "src_dtype": "bfloat16",
        "dst_dtype": "float32",
        "runs": [{"to": 1, "to_step": 2, "from": 0, "from_step": 1, "count": 2, "weight": 0.25}],
    },
    {
        "family": "band",
        "matrices": 2,
        "rows": 3,
        "cols": 4,
        "least": 1,
        "most": 2,
        "dtype": "float16",
        "has_input": False,
    },
    {
        "family": "rank",
        "tables": 2,
        "length": 3,
        "queries": 4,
        "key_dtype": "float32",
        "query_dtype": "bfloat16",
        "out_dtype": "int32",
        "alu": "less_equal",
        "any": True,
    },
    SCAN,
    {
        "family": "sort",
        "rows": 2,
        "cols": 9,
        "k": 3,
        "ascending": True,
        "inputs": [access("uint8", 18)],
        "outputs": [access("uint8", 6), access("int64", 6)],
    },
    {"family": "transfer", "bytes": 5, "to_device": False, "from_device": True},
    {"family": "generic", "inputs": [access("complex64", 3)], "outputs": []},
]


def test_every_family_has_an_example() -> None:
    assert [part["family"] for part in EXAMPLES] == _C.families()


@pytest.mark.parametrize("part", EXAMPLES, ids=lambda part: part["family"])
def test_dict_round_trip(part: Part) -> None:
    assert _C.normalize_spec([part, part]) == [part, part]


@pytest.mark.parametrize("part", EXAMPLES, ids=lambda part: part["family"])
def test_every_field_is_required_and_no_other_is_taken(part: Part) -> None:
    family = part["family"]
    for field in part.keys() - {"family"}:
        rest = {key: value for key, value in part.items() if key != field}
        with pytest.raises(ValueError, match=rf"\[{family}\] field '{field}' is required; got none\."):
            _C.normalize_spec([rest])
    with pytest.raises(ValueError, match=rf"\[{family}\] fields must be known; got 'colour'\. Fields are "):
        _C.normalize_spec([{**part, "colour": 1}])


COPY = EXAMPLES[7]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([{**SCAN, "rows": -1}], r"\[scan\.rows\] must be a non-negative 64-bit int; got -1\."),
        ([{**SCAN, "rows": 2**63}], r"\[scan\.rows\] must be a non-negative 64-bit int; got 9223372036854775808\."),
        ([{**SCAN, "rows": True}], r"\[scan\.rows\] must be an int; got True\."),
        ([{**SCAN, "rows": 1.5}], r"\[scan\.rows\] must be an int; got 1\.5\."),
        (
            [{**SCAN, "alu": "plus"}],
            r"\[scan\.alu\] must be the name of a known value; got 'plus'\. Pass one of none, ",
        ),
        ([{**SCAN, "alu": 3}], r"\[scan\.alu\] must be the name of a known value; got 3\."),
        ([{**SCAN, "inputs": 3}], r"\[scan\.inputs\] must be a list; got 3\."),
        ([{**SCAN, "inputs": [4]}], r"\[scan\.inputs\[0\]\] must be a dict of fields; got 4\."),
        ([{**SCAN, "inputs": [{}]}], r"\[scan\.inputs\[0\]\] field 'dtype' is required; got none\."),
        (
            [{**SCAN, "inputs": [access("float32", 1), access("float33", 1)]}],
            r"\[scan\.inputs\[1\]\.dtype\] must be the name of a known value; got 'float33'\. Pass one of float32, ",
        ),
        ([{**COPY, "transpose": 1}], r"\[copy\.transpose\] must be a bool; got 1\. Pass True or False\."),
        (
            [{**EXAMPLES[3], "steps": [{**STEPS[0], "scalar": "x"}]}],
            r"\[pointwise\.steps\[0\]\.scalar\] must be a number; got 'x'\.",
        ),
        ([{"rows": 3}], r"\[spec\] a part must name its family; got none\."),
        ([{"family": "fft"}], r"\[spec\] family must be known; got 'fft'\. Pass one of matmul, conv, "),
        ([3], r"\[spec\] must be a list of dicts, one per part; got 3\."),
    ],
)
def test_a_bad_value_is_named(spec: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _C.normalize_spec(spec)
