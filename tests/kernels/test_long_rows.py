"""A few long rows: no family leaves most partitions idle for the logits of a token, or for a whole tensor."""

from typing import Any

import pytest

from torch_trn import _C, target_files

ELEMENTS = 128 * 1024


def access(dtype: str, elements: int) -> dict[str, Any]:
    return {"dtype": dtype, "elements": elements, "contiguous_elements": elements, "span_elements": 0}


def reduction(rows: int, cols: int, **fields: Any) -> dict[str, Any]:
    return {
        "family": "reduction",
        "rows": rows,
        "cols": cols,
        "alu": "add",
        "across_partitions": False,
        "inputs": [access("float32", rows * cols)],
        "outputs": [access("float32", rows)],
        "prologue": [],
        "epilogue": [],
        "places": False,
        "variance": False,
        "correction": 0.0,
    } | fields


def softmax(rows: int, cols: int, **fields: Any) -> dict[str, Any]:
    part = {"family": "softmax", "rows": rows, "cols": cols, "in_dtype": "float32", "out_dtype": "float32"}
    return part | {"log": False, "backward": False, "across_partitions": False} | fields


def scan(rows: int, cols: int) -> dict[str, Any]:
    whole = access("float32", rows * cols)
    return {"family": "scan", "rows": rows, "cols": cols, "alu": "add", "inputs": [whole], "outputs": [whole]}


def topk(rows: int, cols: int, k: int) -> dict[str, Any]:
    outputs = [access("float32", rows * k), access("int64", rows * k)]
    part = {"family": "sort", "rows": rows, "cols": cols, "k": k, "ascending": False}
    return part | {"inputs": [access("float32", rows * cols)], "outputs": outputs}


PARTS = {
    "sum": reduction,
    "maximum": lambda rows, cols: reduction(rows, cols, alu="maximum"),
    "places": lambda rows, cols: reduction(
        rows, cols, alu="maximum", places=True, outputs=[access("float32", rows), access("int64", rows)]
    ),
    "variance": lambda rows, cols: reduction(rows, cols, variance=True),
    "softmax": softmax,
    "log_softmax": lambda rows, cols: softmax(rows, cols, log=True),
    "softmax_backward": lambda rows, cols: softmax(rows, cols, backward=True),
    "scan": scan,
    "topk": lambda rows, cols: topk(rows, cols, 8),
    "topk_50": lambda rows, cols: topk(rows, cols, 50),
}


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("name", ["sum", "maximum", "places", "variance", "product"])
@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3", "inf2"])
def test_few_columns_take_about_as_long_as_rows(target: str, name: str, rows: int) -> None:
    """[many, few] along its first axis: engines read columns at half their rate."""
    chip = _C.Target(target_files.load(target))

    def seconds(across: bool) -> float:
        part = (PARTS | {"product": lambda rows, cols: reduction(rows, cols, alu="multiply")})[name](rows, ELEMENTS)
        return float(_C.cost([part | {"across_partitions": across}], chip)["seconds"])

    assert seconds(True) < 3 * seconds(False) + 4 * chip.core.dma_fixed_seconds


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3", "inf2"])
def test_a_row_takes_about_as_long_as_its_elements_on_all_partitions(target: str, name: str, rows: int) -> None:
    """Beside some transfers' latencies, which pass what the partitions have found from one to all."""
    chip = _C.Target(target_files.load(target))
    latency = chip.core.dma_fixed_seconds

    def seconds(rows: int, cols: int) -> float:
        return float(_C.cost([PARTS[name](rows, cols)], chip)["seconds"])

    assert seconds(rows, ELEMENTS) < 2 * seconds(rows * 128, ELEMENTS // 128) + (2 + 2 * rows) * latency
