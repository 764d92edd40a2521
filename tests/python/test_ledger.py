"""The ledger file: what is saved comes back, merged runs add up, a damaged file says what is wrong with it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_ledger import ADD, MATMUL, entry, ledger, step

from torch_trn.ledger import Ledger


@pytest.mark.parametrize("name", ["ledger.json", "ledger.json.gz"])
def test_load_gives_back_what_save_wrote(tmp_path: Path, name: str) -> None:
    saved = step().ledger
    saved.save(tmp_path / name)
    assert Ledger.load(tmp_path / name) == saved


def test_gz_is_compressed_and_the_same_on_every_run(tmp_path: Path) -> None:
    saved = step().ledger
    saved.save(tmp_path / "a.gz")
    saved.save(tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.gz").read_bytes())) == saved.data


def test_entries_have_names_in_place_of_indices() -> None:
    first = next(step().ledger.entries())
    assert (first["op"], first["module"], first["line"]) == ("aten::mm", "blocks.0.attn", "train.py:12")


def test_merge_adds_equal_entries_and_keeps_the_others() -> None:
    a = ledger(entry(MATMUL, 2, fused_read_bytes=5, graphs=1), steps=1)
    b = ledger(entry(MATMUL, 3, fused_read_bytes=7), entry(ADD, 1, module=3), steps=2)
    both = a.merge(b)
    assert [(e["op"], e["module"], e["launches"]) for e in both.entries()] == [
        ("aten::mm", "", 5),
        ("aten::add.Tensor", "head", 1),
    ]
    assert next(both.entries())["fused_read_bytes"] == 12
    assert (both.steps, both.launches, both.timeline) == (3, 6, None)
    assert a.launches == 2 and b.launches == 4


def test_merge_remaps_tables_of_another_order() -> None:
    a = ledger(entry(MATMUL, 1))
    data: dict[str, Any] = json.loads(json.dumps(ledger(entry(ADD, 1, line=2)).data))
    data["ops"].reverse()
    data["specs"].reverse()
    data["lines"] = ["", "train.py:30"]
    data["entries"] = [entry(0, 1, line=1), entry(1, 4, line=0)]
    both = a.merge(Ledger(data))
    found = {(e["op"], both.specs[e["spec"]][0]["family"], e["line"]): e["launches"] for e in both.entries()}
    assert found == {("aten::mm", "matmul", ""): 5, ("aten::add.Tensor", "pointwise", "train.py:30"): 1}


def test_merge_adds_host_syncs_and_takes_the_larger_peak() -> None:
    sync = {"op": 1, "line": 2, "module": 0, "direction": "to_host", "count": 1, "bytes": 4}
    other = {**sync, "direction": "to_device"}
    small = {"bytes": 1, "by_category": {}}
    both = ledger(host_syncs=[sync]).merge(ledger(host_syncs=[sync, other], peak_memory=small))
    assert [(s["direction"], s["count"], s["bytes"]) for s in both.host_syncs()] == [
        ("to_host", 2, 8),
        ("to_device", 1, 4),
    ]
    assert both.data["peak_memory"]["bytes"] == 3072


def test_merge_puts_the_second_timeline_after_the_first() -> None:
    one = ledger(entry(MATMUL, 1), timeline=[[0, 0.0, 2.0, 10]])
    both = one.merge(ledger(entry(ADD, 1), timeline=[[0, 0.5, 1.0, 20]]))
    assert both.timeline == [[0, 0.0, 2.0, 10], [1, 2.0, 2.5, 20]]


def test_merge_refuses_two_targets() -> None:
    with pytest.raises(ValueError, match="share one target; got round and other"):
        ledger().merge(ledger(target="other"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"schema": 2}, "schema must be one this version reads; got 2, limit 1"),
        ({"entries": None}, "entries must be a list; got NoneType"),
        ({"entries": [entry(7, 1)]}, r"entries\[0\].op must index ops; got 7, limit 2"),
    ],
)
def test_a_damaged_ledger_names_the_field(damage: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ledger({**ledger().data, **damage})


def test_a_missing_field_is_named() -> None:
    data = dict(ledger().data)
    del data["steps"]
    with pytest.raises(ValueError, match="missing steps"):
        Ledger(data)


@pytest.mark.parametrize(("text", "message"), [("{", "must be JSON"), ("[]", "JSON object with a schema number")])
def test_a_file_that_is_no_ledger(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Ledger.load(tmp_path / "x.json")
