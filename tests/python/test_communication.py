"""Collectives of a recording by hand: exposed time, time lost to sharing HBM, and both on another target."""

from typing import Any

import pytest
from synthetic_ledger import MATMUL, cost, entry, ledger, record, status

from torch_trn.native import Target
from torch_trn.recording import Recording


class FixedModel:
    """Every call takes the same time and moves 300 bytes of HBM."""

    instance = "small"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def cost(self, op: str, ranks: Any, position: int, root: int, bytes: int) -> Any:
        return {
            "algorithm": "mesh",
            "steps": 1,
            "seconds": self.seconds,
            "sent_bytes": 8.0,
            "hbm_bytes": 300.0,
            "bus_bytes": 6.0,
        }

    def sent(self, op: str, ranks: Any, position: int, root: int, bytes: int) -> Any:
        return {ranks[1 - position]: float(bytes)}


SECONDS = {"round": 3.0, "slow links": 9.0}


def call(count: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "op": "all_reduce", "dtype": "float32", "group": "0", "ranks": [0, 1], "position": 0, "root": -1,
        "size_bytes": 8, "input_bytes": 8, "output_bytes": 8, "bytes": 8, "moved_bytes": 8, "phase": "forward",
        "module": "", "line": "train.py:12", "device": 0, "stream": 1, "count": count,
        "exposed_seconds": 0.0, "wait_seconds": 0.0, **fields,
    }  # fmt: skip


def made(*calls: dict[str, Any], exposed: float = 0.0, **device: float) -> Recording:
    data = ledger(entry(MATMUL, 2), collectives=list(calls), exposed_collective_seconds=exposed)
    target = Target(record(**device))
    return Recording(data, target, "eager", cost, status, lambda on, _: FixedModel(SECONDS[on.name]))


def test_exposed_collectives_add_to_the_time_of_compute() -> None:
    both = made(call(2, exposed_seconds=4.0), exposed=4.0)
    assert both.compute_seconds == 2 * 4.5
    assert (both.collective_seconds, both.exposed_collective_seconds) == (6.0, 4.0)
    assert both.device_seconds == 13.0
    assert made(call(1)).device_seconds == 9.0


def test_time_is_never_less_than_the_collectives_of_a_stream() -> None:
    assert made(call(7)).device_seconds == 21.0


def test_collectives_side_by_side_add_what_was_exposed_of_either() -> None:
    pair = made(call(1, exposed_seconds=3.0), call(1, exposed_seconds=3.0, stream=2), exposed=3.5)
    assert pair.exposed_collective_seconds == 3.5
    assert [row["exposed_seconds"] for row in pair.collectives] == [3.0, 3.0]


def test_rows_and_sums_by_kind() -> None:
    two = made(call(2, exposed_seconds=1.0, wait_seconds=0.25), exposed=1.0)
    (row,) = two.collectives
    assert (row["algorithm"], row["steps"], row["seconds"]) == ("mesh", 1, 3.0)
    assert (row["algorithm_bandwidth"], row["bus_bandwidth"]) == (8 / 3.0, 2.0)
    assert two.collectives_by_kind == {
        "all_reduce": {"count": 2, "bytes": 16, "moved_bytes": 16, "seconds": 6.0, "exposed_seconds": 1.0}
    }
    assert two.collective_wait_seconds == 0.25
    assert two.sent_bytes == {1: 16.0}


def test_what_both_ask_of_hbm_beyond_its_rate_takes_longer() -> None:
    # Two products of 900 bytes in 4.5 s ask for 200 B/s, a collective of 300 bytes in 3 s for 100.
    assert made(call(2)).collective_contention_seconds == 0
    shared = made(call(2, exposed_seconds=2.0), exposed=2.0, hbm_bytes_per_second=250.0)
    assert shared.collective_contention_seconds == pytest.approx((6.0 - 2.0) * (300 / 250 - 1))
    assert shared.device_seconds == pytest.approx(9.0 + 2.0 + 0.8)


def test_on_another_target_what_hid_collectives_hides_as_much() -> None:
    here = made(call(2, exposed_seconds=2.0), exposed=2.0)
    slower = here.on(Target({**record(), "name": "slow links"}))
    assert slower.collective_seconds == 18.0
    assert slower.exposed_collective_seconds == 18.0 - 4.0  # compute is as long, and hid 4 of 6


def test_faster_compute_hides_less() -> None:
    data = ledger(entry(MATMUL, 2), collectives=[call(1)], exposed_collective_seconds=0.0)

    def faster(spec: Any, target: Target) -> Any:
        price = dict(cost(spec))
        return {**price, "seconds": price["seconds"] / (3 if target.name == "fast" else 1)}

    here = Recording(data, Target(record()), "eager", faster, status, lambda *_: FixedModel(3.0))
    there = here.on(Target({**record(), "name": "fast"}))
    assert there.compute_seconds == 3.0
    assert there.exposed_collective_seconds == pytest.approx(3.0 - 3.0 / 3)


def test_a_ledger_of_before_has_no_exposed_time() -> None:
    old = {key: value for key, value in call(2).items() if key not in ("exposed_seconds", "wait_seconds", "position")}
    assert made(old).exposed_collective_seconds == 0
    assert made(old).collectives[0]["wait_seconds"] == 0


def test_merged_recordings_add_up() -> None:
    one = made(call(2, exposed_seconds=2.0), call(1, op="broadcast"), exposed=2.0).ledger
    two = made(call(3, exposed_seconds=1.0), exposed=1.0).ledger
    both = one.merge(two)
    assert [(row["op"], row["count"], row["exposed_seconds"]) for row in both.data["collectives"]] == [
        ("all_reduce", 5, 3.0),
        ("broadcast", 1, 0.0),
    ]
    assert both.exposed_collective_seconds == 3.0


def test_the_report_has_a_section() -> None:
    text = str(made(call(2, exposed_seconds=4.0, wait_seconds=0.5), exposed=4.0))
    assert "communication  6.00 s, 4.00 s exposed (31 % of the time); 500 ms of waiting for later ranks" in text
    assert "all_reduce     2 of 16 B in 6.00 s" in text
    assert "Collectives, one call" in text and "train.py:12" in text
