"""Where ranks are: the smallest system that holds a job, orders of ranks, and what cannot be placed."""

import re
from typing import Any

import pytest
from test_collective_cost import cost, model

from torch_trn import _C
from torch_trn import target_files as targets

SYSTEMS = [
    ("trn2", 1, "trn2.3xlarge", 1),
    ("trn2", 4, "trn2.3xlarge", 1),
    ("trn2", 5, "trn2.48xlarge", 1),
    ("trn2", 64, "trn2.48xlarge", 1),
    ("trn2", 65, "trn2-ultraserver", 1),
    ("trn2", 256, "trn2-ultraserver", 1),
    ("trn2", 257, "trn2-ultraserver", 2),
    ("trn2", 4_000_000, "trn2-ultraserver", 15625),
    ("trn1", 2, "trn1.2xlarge", 1),
    ("trn1", 3, "trn1.32xlarge", 1),
    ("trn1", 33, "trn1.32xlarge", 2),
    ("trn3", 1, "trn3-ultraserver-gen1", 1),
    ("trn3", 257, "trn3-ultraserver-gen2", 1),
    ("trn3", 577, "trn3-ultraserver-gen2", 2),
    ("inf2", 24, "inf2.48xlarge", 1),
]


@pytest.mark.parametrize(("target", "world_size", "instance", "count"), SYSTEMS)
def test_the_smallest_system_that_holds_the_job(target: str, world_size: int, instance: str, count: int) -> None:
    found = model(target, world_size)
    assert (found.instance, found.num_instances) == (instance, count)


def test_an_instance_can_be_chosen() -> None:
    found = model("trn2", 4, "trn2-ultraserver")
    assert str(found) == "4 ranks, linear, on trn2-ultraserver"
    assert str(model("trn2", 128, "trn2.48xlarge")) == "128 ranks, linear, on 2 x trn2.48xlarge"


def test_orders() -> None:
    linear, spread = model("trn2", 8), model("trn2", 8, order="round-robin")
    assert [linear.locate(rank) for rank in (0, 3, 4, 7)] == [(0, 0, 0), (0, 0, 3), (0, 1, 0), (0, 1, 3)]
    assert [spread.locate(rank) for rank in (0, 1, 2, 7)] == [(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 3)]
    listed = model("trn2", 2, order="listed", devices=[5, 300])
    assert [listed.locate(rank) for rank in (0, 1)] == [(0, 1, 1), (1, 11, 0)]


def test_the_order_decides_what_a_group_shares() -> None:
    """Neighbours on one chip need no link; spread over chips, four such groups share it."""
    pairs = {
        order: cost("trn2", "all_gather_into_tensor", [0, 1], 1 << 30, 64, order=order)["seconds"]
        for order in ("linear", "round-robin")
    }
    assert pairs["round-robin"] > pairs["linear"]


REFUSED: list[tuple[Any, str]] = [
    (("inf2", 25), "[placement] the target must have a system for all devices of the job; got 25 devices on inf2"),
    (("trn2", 5, "trn2.3xlarge"), "[placement] a job of several instances needs a network between them; got 5 ranks"),
    (("trn2", 4, "trn1.2xlarge"), "[placement] instance must be one of trn2's; got trn1.2xlarge, limit trn2.3xlarge"),
    (("trn2", 3, "", "listed", [0, 1]), "[placement] must name a device for every rank; got 2 devices, limit 3 ranks"),
    (("trn2", 2, "", "listed", [1, 1]), "[placement] must give each rank a device of its own"),
    (("trn2", 2, "", "listed", [-1, 1]), "[placement] must give each rank a device of its own"),
    (("trn2", 2, "", "zigzag"), "[placement] order must be linear, round-robin or a list of devices; got 'zigzag'."),
    (("trn2", 0), "[placement] a job has at least one rank; got 0."),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[words[:60] for _, words in REFUSED])
def test_what_cannot_be_placed(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        model(*arguments)


def test_ranks_and_operations_are_checked() -> None:
    made = model("trn2", 4)
    with pytest.raises(ValueError, match=re.escape("[placement] ranks must be of the job; got rank 4, limit 3.")):
        made.cost("all_reduce", [3, 4], 0, -1, 8)
    with pytest.raises(ValueError, match=re.escape("[collective] the operation must be one of c10d's; got gossip.")):
        made.cost("gossip", [0, 1], 0, -1, 8)
    with pytest.raises(ValueError, match=r"\[collective\] position and root must lie in the group"):
        made.cost("all_reduce", [0, 1], 2, -1, 8)


def test_links_that_do_not_join_an_instance() -> None:
    record = targets.load("trn2").to_dict()
    record["instances"] = [{"name": "box", "num_chips": 2, "hbm_bytes": 1, "usd_per_hour": 0.0, "links": []}]
    placement = {"world_size": 8, "order": "linear", "devices": [], "instance": "box"}
    with pytest.raises(ValueError, match=r"\[topology\] the links of an instance must join its chips; got 1 of box"):
        _C.CollectiveModel(_C.Target(record), placement)


def test_a_file_of_the_users_own(tmp_path: Any) -> None:
    """Two chips more, on a faster ring: every number from the file."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "trn2"\nname = "mine"\n[[instance]]\nname = "box"\nnum_chips = { value = 3, source = "mine" }\n'
        'hbm_bytes = { value = 309237645312, source = "mine" }\nusd_per_hour = { value = 9, source = "mine" }\n'
        '[[instance.link]]\nname = "cable"\ntopology = "ring"\nnum_chips = { value = 3, source = "mine" }\n'
        'bytes_per_second = { value = 20e9, source = "mine" }\nlatency_seconds = { value = 1e-3, source = "mine" }\n'
    )
    record = targets.load(path)
    found = model(record, 12, "box").cost("send", list(range(12)), 0, 4, 10_000_000)
    assert found["seconds"] == pytest.approx(56.5e-6 + 1e-3 + 10_000_000 / 10e9 * 4)
