"""The report's text, page and trace: they say what the recording says, and open where they should."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_ledger import ADD, MATMUL, entry, record, recording, step

import torch_trn
from torch_trn import report
from torch_trn.native import Target
from torch_trn.recording import Recording


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (12345, "12.3 k"), (2e12, "2.00 T"), (0.5, "0.50"), (123456789, "123 M")],
)
def test_si(value: float, text: str) -> None:
    assert report.si(value) == text


def test_units() -> None:
    assert report.si(12345, "FLOP") == "12.3 kFLOP"
    assert report.memory(24 * 2**30) == "24.0 GiB"
    times = {0: "0 s", 2.5: "2.50 s", 0.0123: "12.3 ms", 45e-6: "45.0 us", 3e-9: "3.00 ns"}
    assert {value: report.seconds(value) for value in times} == times
    assert [report.percent(p) for p in (0, 0.42, 0.034, 0.0001)] == ["0 %", "42 %", "3.4 %", "<0.1 %"]


def test_text_says_what_ran_and_what_it_cost() -> None:
    text = str(step())
    for part in (
        "torch_trn profile on round, eager, 1 step, 8 launches (4 distinct)",
        "device time    28.0 s",
        "600 (float32 600, causal 450)",
        "MFU            86 % of 25 FLOP/s, the documented FP32 peak",
        "3.00 KiB of 4.00 KiB: parameters 2.00 KiB, activations 1.00 KiB",
        "TensorE 96 %, dispatch 3.6 %",
        "1 sync (about 250 ms, beside the device time); 4 B to the host",
        "blocks.*.attn",
        "train.py:30",
        "TorchNeuron sends to the host: add.Tensor (2x, train.py:30).",
        "int64 as int32",
        "Transposes are 17 % of the hardware FLOPs",
    ):
        assert part in text, f"{part!r} not in\n{text}"


def test_text_has_no_colour_codes_and_fits_its_width() -> None:
    text = report.plain(step(), width=100)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_rich_prints_the_same_content() -> None:
    from rich.console import Console

    console = Console(width=140, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(step())
    coloured = capture.get()
    assert "\x1b[" in coloured
    assert "28.0 s" in re.sub(r"\x1b\[[0-9;]*m", "", coloured)


def test_a_label_is_never_read_as_markup() -> None:
    made = recording(entry(ADD, 1, module=1), modules=["", "[red]net[/red]", "", ""])
    assert "[red]net[/red]" in str(made)


def test_a_memory_peak_above_capacity_is_said() -> None:
    made = recording(entry(ADD, 1), peak_memory={"bytes": 8192, "by_category": {"parameters": 8192}})
    assert "8.00 KiB of 4.00 KiB (does not fit)" in str(made)


def test_nothing_recorded_asks_for_the_device() -> None:
    assert "No operator ran on the device" in str(recording())


def test_more_rows_than_shown_are_counted() -> None:
    names = ["", *(f"layer_{letter}" for letter in "abcdefghijkl")]
    made = recording(*(entry(ADD, 1, module=i) for i in range(1, 13)), modules=names)
    assert "2 more" in str(made)


def test_comparison_puts_targets_side_by_side() -> None:
    made = step()
    other = made.on(Target({**record(eager_dispatch_seconds=10.0), "name": "slower", "instances": []}))
    table = report.comparison([made, other])
    assert [row[0] for row in table.rows] == ["round", "slower"]
    assert [row[2] for row in table.rows] == ["28.0 s", "80.0 s"]
    assert table.rows[1][-1] == "-"
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_dict_and_json_hold_plain_values(tmp_path: Path) -> None:
    made = step()
    text = made.to_json(tmp_path / "report.json")
    assert json.loads(text) == json.loads((tmp_path / "report.json").read_text())
    out = json.loads(text)
    assert out["mfu_estimated_percent"] == pytest.approx(100 * made.mfu)
    assert [row["name"] for row in out["by_phase"]] == ["forward", "backward", "optimizer"]
    assert out["by_operator"][0]["hardware_flops"] == 720


def test_html_is_one_escaped_page_that_fetches_nothing(tmp_path: Path) -> None:
    made = recording(entry(MATMUL, 1, module=1), modules=["", "<lambda>", "", ""])
    made.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "&lt;lambda&gt;" in page and "<lambda>" not in page
    assert not re.search(r"<script|<link|<img|https?://|url\(", page)
    assert page.count("<table") == page.count("</table>") > 2


def trace(made: Recording, path: Path) -> dict[str, Any]:
    made.to_perfetto(path)
    raw = path.read_bytes()
    out: dict[str, Any] = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    return out


def slices(events: list[dict[str, Any]], track: str) -> list[dict[str, Any]]:
    named = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    return [e for e in events if e["ph"] == "X" and e["tid"] == named[track]]


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_perfetto_has_streams_engines_dma_and_memory(tmp_path: Path, name: str) -> None:
    events = trace(step(), tmp_path / name)["traceEvents"]
    stream = slices(events, "stream 0")
    assert [e["name"] for e in stream] == ["mm"] * 6 + ["add.Tensor"] * 2
    assert stream[0]["args"]["module"] == "blocks.0.attn"
    assert sum(e["dur"] for e in slices(events, "TensorE")) == pytest.approx(6 * 4.0 * 1e6)
    assert sum(e["dur"] for e in slices(events, "DMA")) == pytest.approx((6 * 3.0 + 2 * 0.15) * 1e6)
    assert [e["args"]["bytes"] for e in events if e["ph"] == "C"] == [100, 200, 300, 300, 300, 300, 200, 200]
    assert [e["name"] for e in slices(events, "phase")] == ["forward", "backward", "optimizer"]
    modules = sorted(slices(events, "module"), key=lambda e: (e["ts"], -e["dur"]))
    assert [e["name"] for e in modules] == ["blocks", "0", "attn", "1", "attn", "0", "attn"]


def test_perfetto_slices_of_a_track_nest(tmp_path: Path) -> None:
    events = trace(step(), tmp_path / "trace.json")["traceEvents"]
    for track in {e["tid"] for e in events if e["ph"] == "X"}:
        ends: list[float] = []
        found = [e for e in events if e["ph"] == "X" and e["tid"] == track]
        for e in sorted(found, key=lambda e: (e["ts"], -e["dur"])):
            while ends and ends[-1] <= e["ts"]:
                ends.pop()
            assert not ends or e["ts"] + e["dur"] <= ends[-1]
            ends.append(e["ts"] + e["dur"])


@pytest.mark.parametrize(
    "other", [lambda made: made.compiled(), lambda made: made.on(Target({**record(), "name": "other"}))]
)
def test_perfetto_of_a_recosted_run_takes_its_time(tmp_path: Path, other: Callable[[Recording], Recording]) -> None:
    made = other(step())
    events = trace(made, tmp_path / "trace.json")["traceEvents"]
    ends = [e["ts"] + e["dur"] for e in slices(events, "stream 0")]
    assert max(ends) == pytest.approx(made.device_seconds * 1e6)


def test_perfetto_without_a_timeline_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"profile\(timeline=True\)"):
        recording(entry(ADD, 1)).to_perfetto(tmp_path / "trace.json")


def test_a_negative_divisor_of_an_average_leaves_a_report() -> None:
    """PyTorch takes it; no program knows it."""
    with torch_trn.profile() as prof:
        for size in ((1, 1, 4, 4), (1, 1, 4, 4, 4)):
            pool = torch.nn.functional.avg_pool2d if len(size) == 4 else torch.nn.functional.avg_pool3d
            pool(torch.ones(size, device="trn"), 2, divisor_override=-2)
    assert prof.device_seconds > 0 and "avg_pool2d" in str(prof)
